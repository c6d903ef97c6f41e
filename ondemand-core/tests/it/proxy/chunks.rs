//! Chunked bodies that two parsers may understand differently: refused, with nothing forwarded from where they go wrong.

use super::lab::refusal::{lab, named, refused, with_body};

#[tokio::test]
async fn a_chunk_size_that_is_none_is_refused() {
    let (lab, server) = lab().await;
    let sizes = [
        "",
        " ",
        "0x5",
        "0X5",
        "+5",
        "-5",
        "-0",
        "5h",
        "g",
        "5 ",
        " 5",
        "5\t",
        "\t5",
        "5 5",
        "5,5",
        "5.",
        "_5",
        "5_0",
        "٥",
        "00000000000000005",
        "10000000000000000",
        "fffffffffffffffff",
        "ffffffffffffffff",
        "8000000000000000",
        "fffffffffffffffb",
    ];
    let requests = sizes.iter().map(|size| with_body(&format!("{size}\r\nhello\r\n0\r\n\r\n")));
    refused(&lab, &server, &[400], named(requests)).await;
    // The same for a later chunk, and for the last.
    let later = sizes.iter().map(|size| with_body(&format!("3\r\nabc\r\n{size}\r\nhello\r\n0\r\n\r\n")));
    refused(&lab, &server, &[400], named(later)).await;
    let last = ["0x0", "+0", "-0", "0 ", " 0", "00000000000000000"];
    let last = last.iter().map(|size| with_body(&format!("5\r\nhello\r\n{size}\r\n\r\n")));
    refused(&lab, &server, &[400], named(last)).await;
}

#[tokio::test]
async fn a_chunk_that_does_not_end_where_it_should_is_refused() {
    let (lab, server) = lab().await;
    let bodies = [
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\r\r\n0\r\n\r\n",
        "5\r\nhello\n\r0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello \r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\n\r\nhello\r\n0\r\n\r\n",
        "0\n\n",
        "0\n\r\n",
        "0\r\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\r\n\r\n",
        "5\r\nhello\r\n0\rX\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
    ];
    refused(&lab, &server, &[400], named(bodies.iter().map(|body| with_body(body)))).await;
    // Where the last empty line is wrong, too.
    let ends = ["0\r\n\n", "0\r\n\r", "0\r\n\r\r\n", "0\r\n \r\n", "0\r\nGET / HTTP/1.1\r\n\r\n"];
    refused(&lab, &server, &[400], named(ends.iter().map(|body| with_body(body)))).await;
}

/// What is in an extension is skipped by most and read by some.
#[tokio::test]
async fn a_chunk_extension_that_may_hide_something_is_refused() {
    let (lab, server) = lab().await;
    let extensions = [
        ";\n",
        ";a\n",
        ";a\nb",
        ";a=\n",
        ";a=\"\n\"",
        ";a=\"x\ny\"",
        ";\r",
        ";a\rb",
        ";a=\"\r\"",
        ";a=\"",
        ";a\0",
        ";a=\"\0\"",
        ";\u{1}",
        ";a\u{7f}",
        ";a=\u{b}b",
    ];
    let requests = extensions.iter().map(|extension| with_body(&format!("5{extension}\r\nhello\r\n0\r\n\r\n")));
    refused(&lab, &server, &[400], named(requests)).await;
    let last = extensions.iter().map(|extension| with_body(&format!("5\r\nhello\r\n0{extension}\r\n\r\n")));
    refused(&lab, &server, &[400], named(last)).await;
    // Nobody needs long ones: each byte of them costs, and none of them is a byte of a body.
    let long = [
        with_body(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(100_000))),
        with_body(&format!("5;a=\"{}\"\r\nhello\r\n0\r\n\r\n", "a".repeat(100_000))),
        with_body(&format!("0;{}\r\n\r\n", "a".repeat(100_000))),
        with_body(&format!("{}\r\nhello\r\n0\r\n\r\n", "0".repeat(100_000))),
    ];
    refused(&lab, &server, &[400, 431], named(long)).await;
}

/// A well-formed extension is skipped.
#[tokio::test]
async fn a_chunk_extension_is_dropped() {
    let (lab, server) = lab().await;
    for line in ["5;a=\"b;c\"", "5 ;x=y", "5;a=\"\\\"\""] {
        let mut client = lab.client().await;
        client.send(with_body(&format!("{line}\r\nhello\r\n0;z=\"z\"\r\n\r\n"))).await;
        assert_eq!(client.answer().await.status(), 200, "{line}");
        server.settled().await;
        assert_eq!(server.requests().last().unwrap().body, b"hello", "{line}");
    }
    let passed_on = |text: &[u8]| server.bytes().iter().any(|bytes| bytes.windows(text.len()).any(|at| at == text));
    assert!(passed_on(b"hello") && !passed_on(b"b;c") && !passed_on(b"x=y") && !passed_on(b"z="));
}

/// Extensions that come a few bytes with each byte of the body use the proxy's time, not the upstream's.
#[tokio::test]
async fn a_body_of_mostly_extensions_is_refused_or_costs_nothing() {
    let (lab, server) = lab().await;
    let body = format!("1;{}\r\na\r\n", "e".repeat(50)).repeat(20_000);
    let mut client = lab.client().await;
    client.try_send(with_body(&body)).await;
    client.try_send("0\r\n\r\n").await;
    let answer = client.answer().await;
    assert!([200, 400].contains(&answer.status()), "{answer:?}");
    server.settled().await;
    assert!(
        server.bytes().iter().all(|bytes| bytes.len() < 400_000 && !bytes.windows(3).any(|window| window == b"eee"))
    );
}

#[tokio::test]
async fn a_trailer_that_would_change_the_request_is_refused_or_dropped() {
    let (lab, server) = lab().await;
    let trailers = [
        "X",
        "X : y",
        " X: y",
        "X: y\r\n z",
        "X: y\nZ: w",
        "X: y\n",
        "X: y\rZ: w",
        "X\0: y",
        "X: \0",
        ": y",
        "X(: y",
        "\n",
        "\r",
    ];
    let requests = trailers.iter().map(|trailer| with_body(&format!("5\r\nhello\r\n0\r\n{trailer}\r\n\r\n")));
    refused(&lab, &server, &[400], named(requests)).await;
    let many = with_body(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(1000)));
    let long = with_body(&format!("0\r\nX: {}\r\n\r\n", "y".repeat(100_000)));
    refused(&lab, &server, &[400, 431], named([many, long])).await;

    // These are well-formed, and go no further.
    let forbidden = [
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Host: other.example",
        "Connection: close",
        "X-Forwarded-For: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "X_Forwarded_For: 6.6.6.6",
        "Proxy-Authorization: x",
        "X-Hop: 1",
    ];
    for trailer in forbidden {
        let mut client = lab.client().await;
        let head = with_body("").replacen("\r\n", "\r\nConnection: X-Hop\r\nTrailer: X-Real-IP, X-Sum\r\n", 1);
        client.send(format!("{head}5\r\nhello\r\n0\r\n{trailer}\r\nX-Sum: 1\r\n\r\n")).await;
        assert_eq!(client.answer().await.status(), 200, "{trailer}");
        server.settled().await;
        let requests = server.requests();
        let request = requests.last().unwrap();
        assert_eq!(request.trailers, [("X-Sum".to_owned(), "1".to_owned())], "{trailer}");
        assert_eq!(request.one("trailer"), "X-Sum");
    }
}
