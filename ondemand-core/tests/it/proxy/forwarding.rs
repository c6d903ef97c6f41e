//! What the upstream is told about the client, and what of a request or an answer is for the next hop only.

use std::collections::BTreeMap;

use super::lab::{self, Message, get};

/// Returns the parameters of each element of `Forwarded`. What is quoted keeps its quotes.
fn forwarded(request: &Message) -> Vec<BTreeMap<String, String>> {
    let all = request.all("forwarded").join(", ");
    let parameter = |text: &str| {
        let (name, value) = text.trim().split_once('=').unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    };
    all.split(',').map(|element| element.split(';').map(parameter).collect()).collect()
}

#[tokio::test]
async fn the_upstream_learns_who_asked_and_how() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    lab.ask(get("App.example:8000", "/")).await;
    let request = server.request();
    assert_eq!(request.one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(request.one("x-forwarded-proto"), "http");
    assert_eq!(request.one("x-forwarded-host"), "App.example:8000");
    let forwarded = forwarded(&request);
    assert_eq!(forwarded.len(), 1, "{forwarded:?}");
    assert_eq!(forwarded[0]["for"], "127.0.0.1");
    assert_eq!(forwarded[0]["proto"], "http");
    // A colon is only allowed within quotes.
    assert_eq!(forwarded[0]["host"], "\"App.example:8000\"");
}

/// A stranger must not be able to say who it is.
#[tokio::test]
async fn what_a_client_says_about_itself_is_replaced() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    lab.ask(
        "GET / HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\nHost: app.example\r\nX-FORWARDED-PROTO: https\r\n\
         X-Forwarded-Host: evil.example\r\nForwarded: for=6.6.6.6;host=evil.example;proto=https\r\nforwarded: for=7.7.7.7\r\n\r\n",
    )
    .await;
    let request = server.request();
    assert_eq!(request.one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(request.one("x-forwarded-proto"), "http");
    assert_eq!(request.one("x-forwarded-host"), "app.example");
    let forwarded = forwarded(&request);
    assert_eq!((forwarded.len(), &*forwarded[0]["for"]), (1, "127.0.0.1"), "{request:?}");
    assert!(!format!("{request:?}").contains("evil"), "{request:?}");
}

/// To programs that get fields as variables of their environment, `_` and `-` are the same.
#[tokio::test]
async fn a_client_cannot_say_who_it_is_with_other_strokes_either() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    lab.ask(
        "POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 1\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded_Proto: https\r\n\
         x_forwarded-host: evil.example\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\n\r\nx",
    )
    .await;
    for (name, value) in server.request().fields {
        assert!(!name.contains('_'), "{name}: {value}");
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_added_to() {
    let lab = lab::start_with(|config| config.trust_forwarded = true).await;
    let server = lab.serving("app.example").await;
    lab.ask(
        "GET / HTTP/1.1\r\nHost: app.example\r\nX-Forwarded-For: 6.6.6.6\r\nAccept: */*\r\nX-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: shown.example\r\nForwarded: for=6.6.6.6;proto=https\r\nForwarded: for=7.7.7.7\r\n\r\n",
    )
    .await;
    let request = server.request();
    assert_eq!(request.tokens("x-forwarded-for"), ["6.6.6.6", "7.7.7.7", "127.0.0.1"]);
    assert_eq!(request.one("x-forwarded-proto"), "https");
    assert_eq!(request.one("x-forwarded-host"), "shown.example");
    let forwarded = forwarded(&request);
    let clients: Vec<&str> = forwarded.iter().map(|element| &*element["for"]).collect();
    assert_eq!(clients, ["6.6.6.6", "7.7.7.7", "127.0.0.1"]);
}

#[tokio::test]
async fn where_a_trusted_proxy_says_nothing_it_is_told_as_usual() {
    let lab = lab::start_with(|config| config.trust_forwarded = true).await;
    let server = lab.serving("app.example").await;
    lab.ask(get("app.example", "/")).await;
    let request = server.request();
    assert_eq!(request.one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(request.one("x-forwarded-proto"), "http");
    assert_eq!(request.one("x-forwarded-host"), "app.example");
    assert_eq!(forwarded(&request)[0]["for"], "127.0.0.1");
}

/// An address of IPv6 is quoted and in brackets where the grammar asks for that, and bare where custom does.
#[tokio::test]
async fn a_client_with_an_ipv6_address_is_named_properly() {
    let lab = lab::start_with(|config| config.listen = "[::1]:0".parse().unwrap()).await;
    let server = lab.serving("app.example").await;
    lab.ask(get("app.example", "/")).await;
    let request = server.request();
    assert_eq!(request.one("x-forwarded-for"), "::1");
    assert_eq!(forwarded(&request)[0]["for"], "\"[::1]\"");
}

/// An address of IPv4 that came through a socket of IPv6 is an address of IPv4.
#[tokio::test]
async fn a_mapped_address_is_named_as_what_it_is() {
    let lab = lab::start_with(|config| config.listen = "[::]:0".parse().unwrap()).await;
    let server = lab.serving("app.example").await;
    let port = lab.proxy.address().port();
    let mut client = lab::Peer::connect(([127, 0, 0, 1], port).into()).await;
    client.send(get("app.example", "/")).await;
    client.answer().await;
    let request = server.request();
    assert_eq!(request.one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(forwarded(&request)[0]["for"], "127.0.0.1");
}

#[tokio::test]
async fn what_is_meant_for_the_proxy_stays_there() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    lab.ask(
        "GET / HTTP/1.1\r\nHost: app.example\r\nConnection: X-One, keep-alive ,, \t,x-TWO\r\nX-One: 1\r\nX-Two: 2\r\nx-one: 3\r\nX-Three: 4\r\n\
         connection: X-Four\r\nX-Four: 5\r\nKeep-Alive: timeout=9\r\nProxy-Connection: keep-alive\r\nUpgrade: websocket\r\nX-Five: 6\r\n\r\n",
    )
    .await;
    let request = server.request();
    for name in ["x-one", "x-two", "x-four", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(request.all(name), [""; 0], "{name}");
    }
    assert_eq!((request.one("x-three"), request.one("x-five")), ("4", "6"));
    assert!(
        !request.tokens("connection").iter().any(|token| token.starts_with("x-") || token == "upgrade"),
        "{request:?}"
    );
}

/// What a request's meaning hangs on cannot be taken from it by naming it in `Connection`.
#[tokio::test]
async fn a_client_cannot_have_what_matters_removed() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    for name in [
        "Host",
        "Content-Length",
        "Content-Type",
        "X-Forwarded-For",
        "x-forwarded-proto",
        "X-Forwarded-Host",
        "Forwarded",
    ] {
        let mut client = lab.client().await;
        client
            .send(format!(
                "POST /one HTTP/1.1\r\nHost: app.example\r\nConnection: {name}\r\nContent-Length: 5\r\n\r\nhello{}",
                get("app.example", "/two")
            ))
            .await;
        let answer = client.answer().await;
        if answer.status() == 400 {
            continue;
        }
        assert_eq!(answer.text(), "POST /one", "{name}");
        assert_eq!(client.answer().await.text(), "GET /two", "{name}");
        let requests = server.requests();
        let request = requests.iter().rfind(|request| request.method() == "POST").unwrap();
        assert_eq!((&*request.body, request.one("host")), (&b"hello"[..], "app.example"), "{name}");
        assert_eq!(request.one("x-forwarded-for"), "127.0.0.1", "{name}");
        assert_eq!(
            (request.one("x-forwarded-proto"), request.one("x-forwarded-host")),
            ("http", "app.example"),
            "{name}"
        );
        assert_eq!(request.all("forwarded").len(), 1, "{name}");
    }
    // The same for a body in chunks.
    let mut client = lab.client().await;
    client.send("POST /c HTTP/1.1\r\nHost: app.example\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    if client.answer().await.status() != 400 {
        assert_eq!(server.requests().pop().unwrap().body, b"hello");
    }
}

/// Whoever speaks gRPC needs to say that it takes trailers; other codings are between neighbours.
#[tokio::test]
async fn te_is_passed_on_for_trailers_only() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    for (te, expected) in [
        ("trailers", true),
        ("Trailers", true),
        ("gzip, trailers", true),
        ("gzip;q=0.5,deflate", false),
        ("xtrailers", false),
    ] {
        lab.ask(format!("GET / HTTP/1.1\r\nHost: app.example\r\nConnection: TE\r\nTE: {te}\r\n\r\n")).await;
        let request = server.requests().pop().unwrap();
        let tokens = request.tokens("te");
        assert_eq!(tokens, if expected { vec!["trailers"] } else { vec![] }, "{te}");
    }
}

/// End-to-end fields come through as they are, both ways: values, order, repetitions, and bytes above ASCII.
#[tokio::test]
async fn all_else_comes_through_as_it_was() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client
        .send(
            b"GET / HTTP/1.1\r\nCookie: a=1\r\nHost: app.example\r\ncookie: b=2\r\nX-Empty:\r\nX-Latin: caf\xe9\r\n\
              X-Inner: a  b\tc\r\nAuthorization: Bearer t\r\nOrigin: null\r\nUser-Agent: x\r\nDate: yesterday\r\n!#$%&'*+-.^_`|~09az: t\r\n\r\n",
        )
        .await;
    let (mut connection, request) = upstream.request().await;
    assert_eq!(request.all("cookie"), ["a=1", "b=2"]);
    assert_eq!(request.one("x-empty"), "");
    assert_eq!(request.one("x-latin"), "caf\u{e9}");
    assert_eq!(request.one("x-inner"), "a  b\tc");
    assert_eq!(
        (request.one("authorization"), request.one("origin"), request.one("user-agent")),
        ("Bearer t", "null", "x")
    );
    assert_eq!(request.one("!#$%&'*+-.^_`|~09az"), "t");
    for absent in ["accept", "accept-encoding", "content-length", "transfer-encoding", "te", "expect"] {
        assert_eq!(request.all(absent), [""; 0], "{absent}");
    }
    connection
        .send(
            b"HTTP/1.1 299 Quite \xe9 good\r\nSet-Cookie: a=1\r\nX-Empty:\r\nSet-Cookie: b=2\r\nServer: theirs\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\
              Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nX-Latin: caf\xe9\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status(), answer.text().as_str()), (299, "ok"));
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!((answer.one("x-empty"), answer.one("x-latin")), ("", "caf\u{e9}"));
    assert_eq!((answer.one("server"), answer.one("date")), ("theirs", "Mon, 01 Jan 2024 00:00:00 GMT"));
    for absent in ["x-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.all(absent), [""; 0], "{absent}");
    }
}

/// A route that leads back to the proxy ends, and says why.
#[tokio::test]
async fn a_route_to_the_proxy_itself_does_not_go_round_for_ever() {
    let lab = lab::start().await;
    lab.route("loop.example", &[lab.proxy.address()]).await;
    let answer = lab.ask(get("loop.example", "/")).await;
    assert_eq!(answer.status(), 508);
    lab.active("loop.example", 0, 0).await;
    // Another proxy on the way is none of our business.
    let _server = lab.serving("app.example").await;
    let answer = lab.ask("GET / HTTP/1.1\r\nHost: app.example\r\nVia: 1.1 other, 1.0 fred (Apache/1.1)\r\n\r\n").await;
    assert_eq!(answer.status(), 200);
}

/// Two proxies that lead to each other are a loop as well.
#[tokio::test]
async fn two_proxies_do_not_send_a_request_to_and_fro() {
    let (one, two) = (lab::start().await, lab::start().await);
    one.route("loop.example", &[two.proxy.address()]).await;
    two.route("loop.example", &[one.proxy.address()]).await;
    assert_eq!(one.ask(get("loop.example", "/")).await.status(), 508);
    // One behind the other is not.
    let server = lab::Server::saying("behind two").await;
    one.route("app.example", &[two.proxy.address()]).await;
    two.route("app.example", &[server.address]).await;
    assert_eq!(one.ask(get("app.example", "/")).await.text(), "behind two");
}

/// An answer's own list of hop-by-hop fields cannot take its length away.
#[tokio::test]
async fn an_upstream_cannot_have_what_matters_removed() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/1")).await;
    let (mut connection, _) = upstream.request().await;
    connection.send("HTTP/1.1 200 OK\r\nConnection: Content-Length, Set-Cookie\r\nContent-Length: 3\r\nContent-Type: x/y\r\n\r\nabc").await;
    let answer = client.answer().await;
    if answer.status() == 502 {
        return;
    }
    assert_eq!((answer.status(), answer.text().as_str()), (200, "abc"));
    let server = lab.serving("app.example").await;
    client.send(get("app.example", "/2")).await;
    assert_eq!(client.answer().await.text(), "GET /2");
    drop(server);
}

/// Many clients send what is typed; it goes through as it came, bytes that are no UTF-8 are refused.
#[tokio::test]
async fn a_path_that_is_not_ascii_goes_through_as_it_came() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    assert_eq!(lab.ask(get("app.example", "/f\u{fc}r")).await.status(), 200);
    // Read byte for byte.
    assert_eq!(server.request().target(), "/f\u{c3}\u{bc}r");
    let answer = lab.ask(&b"GET /f\xfcr HTTP/1.1\r\nHost: app.example\r\n\r\n"[..]).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(server.requests().len(), 1);
}

/// None of the fields by which a proxy says for whom it asks is the client's to set.
#[tokio::test]
async fn no_field_that_proxies_set_comes_from_a_client() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    let names =
        ["X-Forwarded-Port", "X-Forwarded-Prefix", "x-forwarded-server", "X-FORWARDED-SSL", "X-Real-IP", "X_Real_IP"];
    let fields = names.map(|name| format!("{name}: 1\r\n")).concat();
    lab.ask(format!("GET / HTTP/1.1\r\nHost: app.example\r\n{fields}X-Forwarding: mine\r\n\r\n")).await;
    let request = server.request();
    for name in names {
        assert!(request.all(&name.to_ascii_lowercase()).is_empty(), "{name}: {request:?}");
    }
    assert_eq!(request.one("x-forwarding"), "mine");
}
