//! Requests that two parsers may understand differently. None of them is forwarded, or no further than to where it goes wrong.

use super::lab::refusal::{lab, named, refused, with_fields};
use super::lab::{self, get};

#[tokio::test]
async fn a_length_that_is_not_one_number_is_refused() {
    let (lab, server) = lab().await;
    let lengths = [
        "",
        " ",
        "+5",
        "-1",
        "-0",
        "0x5",
        "5h",
        "h",
        "5 5",
        "5,5",
        "5, 5",
        "5,6",
        "5,",
        ",5",
        "5;",
        "5.0",
        "5e0",
        "1_0",
        "\"5\"",
        "٥",
        "18446744073709551616",
        "99999999999999999999999999999999999999",
        "9223372036854775808000",
    ];
    let single = lengths.iter().map(|length| with_fields(&format!("Content-Length: {length}"), "hello"));
    refused(&lab, &server, &[400], named(single)).await;
    let several = [
        with_fields("Content-Length: 5\r\nContent-Length: 5", "hello"),
        with_fields("Content-Length: 5\r\nAccept: */*\r\ncontent-length: 5", "hello"),
        with_fields("Content-Length: 5\r\nContent-Length: 6", "hello"),
        with_fields("Content-Length: 0\r\nContent-Length: 5", "hello"),
        with_fields("Content-Length: 5\r\nContent-Length:", "hello"),
        with_fields("Content-Length: \r\nContent-Length: 5", "hello"),
        with_fields("Content-Length: 5\r\nCONTENT-LENGTH: x", "hello"),
    ];
    refused(&lab, &server, &[400], named(several)).await;
}

/// A length that no body will ever have is not believed; one that may be is.
#[tokio::test]
async fn a_length_may_be_large_but_not_absurd() {
    let (lab, server) = lab().await;
    let mut client = lab.client().await;
    client.send(with_fields("Content-Length: 1099511627776", "hello")).await;
    lab.active("app.example", 1, 0).await;
    drop(client);
    lab.active("app.example", 0, 0).await;
    server.settled().await;
    assert_eq!(server.requests(), []);
    let mut client = lab.client().await;
    client.send(with_fields("Content-Length: 000005", "hello")).await;
    assert!([200, 400].contains(&client.answer().await.status()));
}

#[tokio::test]
async fn a_length_beside_a_transfer_coding_is_refused() {
    let (lab, server) = lab().await;
    let requests = [
        with_fields("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        with_fields("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"),
        with_fields("Transfer-Encoding: chunked\r\nContent-Length: 0", "5\r\nhello\r\n0\r\n\r\n"),
        with_fields("transfer-encoding: CHUNKED\r\nX: y\r\ncontent-length: 3", "0\r\n\r\n"),
        with_fields("Transfer-Encoding: identity\r\nContent-Length: 5", "hello"),
        with_fields("Transfer-Encoding: xchunked\r\nContent-Length: 5", "hello"),
        with_fields("Transfer-Encoding:\r\nContent-Length: 5", "hello"),
        with_fields("Connection: Content-Length\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        with_fields("Connection: Transfer-Encoding\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
    ];
    refused(&lab, &server, &[400, 501], named(requests)).await;
}

#[tokio::test]
async fn a_transfer_coding_other_than_chunked_is_refused() {
    let (lab, server) = lab().await;
    let codings = [
        "chunked, chunked",
        "chunked,chunked",
        "chunked, identity",
        "identity",
        "identity, chunked",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "xchunked",
        "chunkedx",
        "x-chunked",
        "chunked;a",
        "chunked;a=b",
        "chunked; q=0",
        "\"chunked\"",
        "'chunked'",
        "chun ked",
        "chunked chunked",
        "chunked,",
        ",chunked",
        ", chunked",
        "",
        ",",
        "\u{b}chunked",
        "chunked\u{b}",
        "chunk\u{e9}d",
        "cow",
        "compress",
        "trailers",
        "\u{212a}",
        "chun\u{212a}ed",
    ];
    let single = codings.iter().map(|coding| with_fields(&format!("Transfer-Encoding: {coding}"), "0\r\n\r\n"));
    refused(&lab, &server, &[400, 501], named(single)).await;
    let several = [
        with_fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        with_fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"),
        with_fields("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        with_fields("Transfer-Encoding: gzip\r\ntransfer-encoding: chunked", "0\r\n\r\n"),
        with_fields("Transfer-Encoding:\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        with_fields("Transfer-Encoding: chunked\r\nTransfer-Encoding:", "0\r\n\r\n"),
    ];
    refused(&lab, &server, &[400, 501], named(several)).await;
}

/// HTTP/1.0 has no transfer codings: whoever hears it as one would find another end of the body.
#[tokio::test]
async fn a_transfer_coding_in_http_1_0_is_refused() {
    let (lab, server) = lab().await;
    let requests = [
        "POST /x HTTP/1.0\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.0\r\nHost: app.example\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.0\r\nHost: app.example\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    refused(&lab, &server, &[400], named(requests)).await;
}

/// A byte that one parser skips and another one does not.
#[tokio::test]
async fn a_field_that_is_written_oddly_is_refused() {
    let (lab, server) = lab().await;
    let fields = [
        "Content-Length : 5",
        "Transfer-Encoding : chunked",
        "Content-Length\t: 5",
        "X Y: z",
        "X\u{b}: y",
        ": no name",
        ":",
        "no colon",
        "no-colon-at-all",
        "X(y): z",
        "X\"y\": z",
        "X/y: z",
        "X[y]: z",
        "X{y}: z",
        "X@y: z",
        "X\\y: z",
        "X,y: z",
        "X;y: z",
        "X=y: z",
        "X<y>: z",
        "X?y: z",
        "X\u{e9}: y",
        "\u{feff}X: y",
        "X: y\r\n folded",
        "X: y\r\n\tfolded",
        "X:\r\n y",
        "X: y\r\n \r\nZ: w",
        "Content-Length:\r\n 5",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chunked\r\n , gzip",
        "Content-Length: 5\r\n\t6",
    ];
    let requests = fields.iter().map(|field| with_fields(field, "hello"));
    refused(&lab, &server, &[400], named(requests)).await;
    // White space before the first field.
    let first = [
        "GET /x HTTP/1.1\r\n Host: app.example\r\n\r\n",
        "GET /x HTTP/1.1\r\n\tX: y\r\nHost: app.example\r\n\r\n",
        "GET /x HTTP/1.1\r\n \r\nHost: app.example\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost : app.example\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: app.example\r\n other.example\r\n\r\n",
    ];
    refused(&lab, &server, &[400], named(first)).await;
}

/// A line ends with CR and LF; one without the other, anywhere, is for some parsers an end and for others none.
#[tokio::test]
async fn a_bare_cr_or_lf_is_refused_wherever_it_stands() {
    let (lab, server) = lab().await;
    let whole = "POST /x?y HTTP/1.1\r\nHost: app.example\r\nX-Y: some value\r\nContent-Length: 5\r\n\r\nhello";
    let head = whole.find("hello").unwrap();
    let mut requests = Vec::new();
    // Each end of a line, broken in either way; and each byte of the head with one more before it.
    for at in (0..head).filter(|at| whole[*at..].starts_with('\r')) {
        requests.push(format!("{}{}", &whole[..at], &whole[at + 1..]));
        requests.push(format!("{}{}", &whole[..=at], &whole[at + 2..]));
        requests.push(format!("{}\r{}", &whole[..at], &whole[at..]));
        requests.push(format!("{}\n\r{}", &whole[..at], &whole[at + 2..]));
    }
    for at in 1..head {
        requests.push(format!("{}\r{}", &whole[..at], &whole[at..]));
        // Before the very last LF, it would be a body that begins with LF.
        if at + 1 < head {
            requests.push(format!("{}\n{}", &whole[..at], &whole[at..]));
        }
    }
    // Without its LF, a line goes on; where the head never ends, it is refused when the client stops.
    refused(&lab, &server, &[400, 505], named(requests)).await;
}

#[tokio::test]
async fn control_characters_are_refused_wherever_they_stand() {
    let (lab, server) = lab().await;
    let mut requests: Vec<Vec<u8>> = Vec::new();
    for byte in (0..0x20).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
        let all: [[&[u8]; 2]; 8] = [
            [b"G", b"ET /x HTTP/1.1\r\nHost: app.example\r\n\r\n"],
            [b"GET ", b"/x HTTP/1.1\r\nHost: app.example\r\n\r\n"],
            [b"GET /x", b" HTTP/1.1\r\nHost: app.example\r\n\r\n"],
            [b"GET /x HTTP/1.1", b"\r\nHost: app.example\r\n\r\n"],
            [b"GET /x HTTP/1.1\r\nHo", b"st: app.example\r\n\r\n"],
            [b"GET /x HTTP/1.1\r\nHost: app.", b"example\r\n\r\n"],
            [b"GET /x HTTP/1.1\r\nHost: app.example\r\nX: ", b"\r\n\r\n"],
            [b"GET /x HTTP/1.1\r\nHost: app.example\r\nX: y", b"z\r\n\r\n"],
        ];
        requests.extend(all.iter().map(|[before, after]| [*before, &[byte], *after].concat()));
    }
    requests.push(b"GET\t/x HTTP/1.1\r\nHost: app.example\r\n\r\n".to_vec());
    requests.push(b"GET /x\tHTTP/1.1\r\nHost: app.example\r\n\r\n".to_vec());
    refused(&lab, &server, &[400, 505], named(requests)).await;
}

#[tokio::test]
async fn a_request_line_that_is_none_is_refused() {
    let (lab, server) = lab().await;
    let lines = [
        "GET",
        "GET ",
        "GET /x",
        "GET /x ",
        "GET  /x HTTP/1.1",
        "GET /x  HTTP/1.1",
        "GET /x HTTP/1.1 ",
        " GET /x HTTP/1.1",
        "GET /x y HTTP/1.1",
        "GET  HTTP/1.1",
        "/x HTTP/1.1",
        "GET /x http/1.1",
        "GET /x HTTP/1",
        "GET /x HTTP/11",
        "GET /x HTTP/1.1.1",
        "GET /x HTTP/1.",
        "GET /x HTTP/.1",
        "GET /x HTTP/01.1",
        "GET /x HTTP/1.01",
        "GET /x HTTP /1.1",
        "GET /x HTTPS/1.1",
        "GET /x XTTP/1.1",
        "GET /x ICY/1.1",
        "G(T /x HTTP/1.1",
        "G@T /x HTTP/1.1",
        "G\u{e9}T /x HTTP/1.1",
        "\"GET\" /x HTTP/1.1",
        "GET: /x HTTP/1.1",
        "GET x HTTP/1.1",
        "GET ?x HTTP/1.1",
        "GET x/y HTTP/1.1",
        "GET app.example:80 HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /# HTTP/1.1",
        "GET http://app.example#b HTTP/1.1",
        "GET http://app.example/a?b#c HTTP/1.1",
        "GET ** HTTP/1.1",
    ];
    let requests = lines.iter().map(|line| format!("{line}\r\nHost: app.example\r\n\r\n"));
    refused(&lab, &server, &[400, 505], named(requests)).await;
}

#[tokio::test]
async fn other_versions_are_refused() {
    let (lab, server) = lab().await;
    let versions = ["HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/2", "HTTP/9.9", "HTTP/0.0"];
    let requests = versions.iter().map(|version| format!("GET /x {version}\r\nHost: app.example\r\n\r\n"));
    refused(&lab, &server, &[400, 505], named(requests)).await;
    // A request without a version, and with nothing else, is one of HTTP/0.9.
    refused(&lab, &server, &[400], named(["GET /x\r\n", "GET /x\r\n\r\n", "GET /\n"])).await;
}

#[tokio::test]
async fn what_is_not_http_at_all_is_refused_or_closed() {
    let (lab, server) = lab().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"EHLO app.example\r\n",
        b"\0\0\0\0\0\0\0\0\0\0",
        b"\x80\x2e\x01\x00\x02",
        b"\xff\xff\xff\xff",
        b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"PROXY TCP4 6.6.6.6 127.0.0.1 1 2\r\nGET /x HTTP/1.1\r\nHost: app.example\r\n\r\n",
        b"{\"json\": true}\r\n\r\n",
    ] {
        let mut client = lab.client().await;
        client.try_send(bytes).await;
        client.shut_down_writing().await;
        let rest = client.rest().await;
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1.1 400 ") || rest.starts_with(b"HTTP/1.1 505 "),
            "{:?}: {:?}",
            bytes.escape_ascii().to_string(),
            String::from_utf8_lossy(&rest)
        );
    }
    assert_eq!(server.requests(), []);
    lab.assert_alive().await;
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let lab = lab::start_with(|config| {
        config.max_header_size = ondemand_core::Size(8 << 10);
        config.max_headers = 20;
    })
    .await;
    let server = lab.serving("app.example").await;
    let requests = [
        with_fields(&format!("X: {}", "y".repeat(9_000)), ""),
        with_fields(&format!("{}: y", "X".repeat(9_000)), ""),
        with_fields(&"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(300), ""),
        with_fields(&"X: y\r\n".repeat(20), ""),
        with_fields(&format!("X: {}", "y".repeat(1_000_000)), ""),
        // One that never ends.
        format!("GET /x HTTP/1.1\r\nHost: app.example\r\nX: {}", "y".repeat(9_000)),
    ];
    refused(&lab, &server, &[431], named(requests)).await;
    let targets = [
        format!("GET /{} HTTP/1.1\r\nHost: app.example\r\n\r\n", "x".repeat(9_000)),
        format!("GET /{} HTTP/1.1\r\nHost: app.example\r\n\r\n", "x".repeat(1_000_000)),
        format!("GET /{}", "x".repeat(9_000)),
    ];
    refused(&lab, &server, &[414, 431], named(targets)).await;
    refused(
        &lab,
        &server,
        &[400, 414, 431],
        named([format!("{} /x HTTP/1.1\r\nHost: app.example\r\n\r\n", "G".repeat(9_000))]),
    )
    .await;
    refused(
        &lab,
        &server,
        &[400, 431],
        named([format!("{}GET /x HTTP/1.1\r\nHost: app.example\r\n\r\n", "\r\n".repeat(9_000))]),
    )
    .await;

    // Within the limits all is well: 19 fields beside the host, and nearly 8 KiB.
    let fields: Vec<String> = (0..19).map(|i| format!("X-{i}: {}", "y".repeat(350))).collect();
    assert_eq!(
        lab.ask(format!("GET /ok HTTP/1.1\r\nHost: app.example\r\n{}\r\n\r\n", fields.join("\r\n"))).await.text(),
        "GET /ok"
    );
    // The limits are on a head, not on a connection.
    let mut client = lab.client().await;
    for _ in 0..5 {
        client.send(format!("GET /ok HTTP/1.1\r\nHost: app.example\r\n{}\r\n\r\n", fields.join("\r\n"))).await;
        assert_eq!(client.answer().await.text(), "GET /ok");
    }
}

/// An error is answered in its turn: what came before it on the connection is not lost.
#[tokio::test]
async fn good_requests_before_a_bad_one_are_answered() {
    let (lab, server) = lab().await;
    let mut client = lab.client().await;
    client
        .send(format!(
            "{}{}{}",
            get("app.example", "/1"),
            get("app.example", "/2"),
            with_fields("X : y", "") + &get("app.example", "/3")
        ))
        .await;
    assert_eq!(client.answer().await.text(), "GET /1");
    assert_eq!(client.answer().await.text(), "GET /2");
    assert_eq!(client.answer().await.status(), 400);
    client.closed().await;
    assert_eq!(server.requests().len(), 2);
}
