//! Which route a request meets, and how the upstream is asked.

use super::lab::{self, get, post};

/// Names of the same host lead to the same route, and the upstream learns the name that the client used.
#[tokio::test]
async fn a_host_is_known_by_all_its_spellings() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    let spellings = [
        "app.example",
        "app.example:80",
        "app.example:8000",
        "app.example:65535",
        "APP.example",
        "App.Example:8000",
        "app.example.",
        "APP.EXAMPLE.:443",
        "app.example:",
    ];
    for spelling in spellings {
        assert_eq!(lab.ask(get(spelling, "/x")).await.text(), "GET /x", "{spelling}");
        assert_eq!(server.requests().pop().unwrap().one("host"), spelling);
    }
    // Around the value, white space means nothing.
    let answer = lab.ask("GET /y HTTP/1.1\r\nhOsT:  \t app.example \t \r\n\r\n").await;
    assert_eq!(answer.text(), "GET /y");
}

/// A name with other letters than ASCII's is the same in both of its forms.
#[tokio::test]
async fn an_international_name_is_known_in_both_forms() {
    let lab = lab::start().await;
    let _server = lab.serving("xn--bcher-kva.example").await;
    for spelling in ["xn--bcher-kva.example", "XN--BCHER-KVA.example:80", "bücher.example", "BÜCHER.example.:8000"] {
        assert_eq!(lab.ask(get(spelling, "/x")).await.text(), "GET /x", "{spelling}");
    }
    // An ideographic full stop separates labels too.
    assert_eq!(lab.ask(get("bücher。example", "/x")).await.text(), "GET /x");
    // Bytes that are no UTF-8 are no name.
    let answer = lab.ask(b"GET / HTTP/1.1\r\nHost: b\xfccher.example\r\n\r\n").await;
    assert!([400, 404].contains(&answer.status()), "{answer:?}");
}

/// Hosts whose names are alike are not mixed up.
#[tokio::test]
async fn only_the_very_name_meets_the_route() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    for other in [
        "app",
        "example",
        "xapp.example",
        "a.app.example",
        "app.example.com",
        "app.examplf",
        "127.0.0.1",
        "[::1]",
        "[::1]:80",
    ] {
        assert_eq!(lab.ask(get(other, "/")).await.status(), 404, "{other}");
    }
    assert_eq!(server.requests(), []);
}

/// A host that cannot be one is the client's mistake.
#[tokio::test]
async fn a_host_that_is_none_is_refused() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    for bad in [
        "app.example app.example",
        "app.example,app.example",
        "app.example/",
        "app.example/x",
        "user@app.example",
        "app.example:port",
        "app.example:80:80",
        "app.example:-1",
        "app.example:+80",
        "app.example:99999999999",
        "http://app.example",
        "app.example?x",
        "app.example#x",
        "app.example\\",
        "[::1",
        "::1",
        "\"app.example\"",
        "app\t.example",
    ] {
        let answer = lab.ask(get(bad, "/")).await;
        assert_eq!(answer.status(), 400, "{bad:?}");
    }
    // These could be registered names, but are no hosts that a route could be for.
    for strange in ["", ".", "..", "app..example", ".app.example", "-app.example", "app_.example", "app%2eexample", "*"]
    {
        let answer = lab.ask(get(strange, "/")).await;
        assert!([400, 404].contains(&answer.status()), "{strange:?}: {answer:?}");
    }
    let long = format!("{}.example", "a".repeat(300));
    assert!([400, 404].contains(&lab.ask(get(&long, "/")).await.status()));
    assert_eq!(server.requests(), []);
}

#[tokio::test]
async fn a_request_has_exactly_one_host() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.example\r\nHost: app.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.example\r\nAccept: */*\r\nhost: other.example\r\n\r\n",
        "GET http://app.example/ HTTP/1.1\r\n\r\n",
        "GET http://app.example/ HTTP/1.1\r\nHost: app.example\r\nHost: app.example\r\n\r\n",
    ] {
        assert_eq!(lab.ask(bad).await.status(), 400, "{bad:?}");
    }
    assert_eq!(server.requests(), []);
}

/// The name within a target counts, whatever `Host` says; the upstream sees an ordinary request for that name.
#[tokio::test]
async fn a_target_in_absolute_form_names_the_host() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    let other = lab.serving("other.example").await;
    for (target, expected, host) in [
        ("http://app.example/x?y=http://z/", "/x?y=http://z/", "app.example"),
        ("http://app.example", "/", "app.example"),
        ("HTTP://APP.example:8000/x", "/x", "APP.example:8000"),
    ] {
        let answer = lab.ask(get("other.example", target)).await;
        assert_eq!(answer.text(), format!("GET {expected}"), "{target}");
        let request = server.requests().pop().unwrap();
        assert!(request.one("host").eq_ignore_ascii_case(host), "{request:?}");
    }
    assert_eq!(lab.ask(get("app.example", "http://unknown.example/")).await.status(), 404);
    for bad in [
        "http://",
        "http:///x",
        "http://user@app.example/",
        "http://user:word@app.example/",
        "http://app.example:x/",
        "ftp://app.example/",
        "app.example/x",
    ] {
        let answer = lab.ask(get("app.example", bad)).await;
        assert_eq!(answer.status(), 400, "{bad}");
    }
    // What has no path has no ordinary form either, unless one is made up.
    let answer = lab.ask(get("other.example", "http://app.example?q")).await;
    assert!(answer.status() == 400 || answer.text() == "GET /?q", "{answer:?}");
    assert_eq!(other.requests(), []);
}

#[tokio::test]
async fn the_server_as_a_whole_can_be_asked_for_options() {
    let lab = lab::start().await;
    let _server = lab.serving("app.example").await;
    assert_eq!(lab.ask("OPTIONS * HTTP/1.1\r\nHost: app.example\r\n\r\n").await.text(), "OPTIONS *");
    assert_eq!(lab.ask(get("app.example", "*")).await.status(), 400);
}

/// It is no proxy to anywhere.
#[tokio::test]
async fn no_tunnel_is_made_by_connect() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    for request in [
        "CONNECT app.example:80 HTTP/1.1\r\nHost: app.example\r\n\r\n",
        "CONNECT / HTTP/1.1\r\nHost: app.example\r\n\r\n",
        "CONNECT http://app.example/ HTTP/1.1\r\nHost: app.example\r\n\r\n",
    ] {
        let status = lab.ask(request).await.status();
        assert!([400, 405, 501].contains(&status), "{status}: {request:?}");
    }
    assert_eq!(server.requests(), []);
}

/// Targets come as they were sent: what looks strange in them may mean something to the upstream.
#[tokio::test]
async fn a_target_is_not_rewritten() {
    let lab = lab::start().await;
    let _server = lab.serving("app.example").await;
    for target in [
        "/",
        "//",
        "/..",
        "/../../etc/passwd",
        "/a//b/./c",
        "/%2e%2e/%00",
        "/?a=b&c=%0d%0a",
        "/a;b=c",
        "/'\"<>`{}|^[]",
        "//evil.example/",
        "/http://x/",
    ] {
        assert_eq!(lab.ask(get("app.example", target)).await.text(), format!("GET {target}"));
    }
}

/// Methods are the upstream's to understand.
#[tokio::test]
async fn any_method_is_passed_on() {
    let lab = lab::start().await;
    let _server = lab.serving("app.example").await;
    for method in ["GET", "DELETE", "PATCH", "PROPFIND", "QUERY", "get", "X-~!"] {
        let request = get("app.example", "/").replacen("GET", method, 1);
        assert_eq!(lab.ask(request).await.text(), format!("{method} /"));
    }
    assert_eq!(lab.ask(post("app.example", "/p", "abc")).await.text(), "POST /p");
}

/// Old clients that name a host are served, in a way that they understand.
#[tokio::test]
async fn a_client_of_http_1_0_is_served() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send("GET /old HTTP/1.0\r\nHost: app.example\r\n\r\n").await;
    let (mut connection, request) = upstream.request().await;
    assert_eq!(request.start, "GET /old HTTP/1.1");
    connection
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: y\r\n\r\n")
        .await;
    let head = client.answer_head().await;
    assert_eq!(head.all("transfer-encoding"), [""; 0], "an old client knows no chunks");
    assert_eq!(client.rest().await, b"abcde");

    drop(connection);

    // Without keep-alive, the connection ends after an answer of known length too.
    let mut client = lab.client().await;
    client.send("GET /old HTTP/1.0\r\nHost: app.example\r\n\r\n").await;
    let (mut connection, _) = upstream.request().await;
    connection.send(lab::reply("200 OK", "abc")).await;
    assert_eq!(client.answer().await.text(), "abc");
    client.closed_orderly().await;
}

#[tokio::test]
async fn a_client_of_http_1_0_may_ask_to_keep_its_connection() {
    let lab = lab::start().await;
    let _server = lab.serving("app.example").await;
    let mut client = lab.client().await;
    client.send("GET /1 HTTP/1.0\r\nHost: app.example\r\nConnection: keep-alive\r\n\r\n").await;
    let first = client.answer().await;
    assert_eq!(first.text(), "GET /1");
    // It has to be told, as for it keeping is not the rule.
    if first.tokens("connection").contains(&"keep-alive".to_owned()) {
        client.send("GET /2 HTTP/1.0\r\nHost: app.example\r\n\r\n").await;
        assert_eq!(client.answer().await.text(), "GET /2");
    }
    client.closed_orderly().await;
}

#[tokio::test]
async fn a_client_of_http_1_0_that_names_no_host_learns_that_it_must() {
    let lab = lab::start().await;
    let answer = lab.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert!([400, 404].contains(&answer.status()), "{answer:?}");
}
