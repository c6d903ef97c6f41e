//! Who speaks first and who stops first: `Expect`, answers to requests that are not over, and connections closed in one direction.

use super::lab::{self, chunk, get, post, reply};

const EXPECTING: &str = "PUT /big HTTP/1.1\r\nHost: app.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

/// It is for the upstream to say whether it wants the body; nothing of it is made up on the way.
#[tokio::test]
async fn to_continue_is_the_upstreams_to_say() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(EXPECTING).await;
    let mut connection = upstream.accept().await;
    assert_eq!(connection.head(lab::wire::Kind::Request).await.one("expect"), "100-continue");
    lab.every_chance().await;
    assert_eq!(client.so_far(), b"", "the proxy must not promise what it does not know");
    connection.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.answer().await.status(), 100);
    client.send("hello").await;
    assert_eq!(connection.exactly(5).await, b"hello");
    connection.send(reply("201 Created", "done")).await;
    assert_eq!(client.answer().await.status(), 201);
    client.send(get("app.example", "/next")).await;
    assert_eq!(connection.request().await.target(), "/next");
}

/// A client that is told no before it sent the body may send something else; its bytes are never taken for what they aren't.
#[tokio::test]
async fn an_upstream_may_refuse_a_body_before_it_comes() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let server = lab.serving("other.example").await;
    for refusal in ["417 Expectation Failed", "401 Unauthorized", "413 Content Too Large"] {
        let mut client = lab.client().await;
        client.send(EXPECTING).await;
        let mut connection = upstream.accept().await;
        connection.head(lab::wire::Kind::Request).await;
        connection.send(reply(refusal, "no")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status(), answer.text().as_str()), (refusal[..3].parse().unwrap(), "no"));
        // The upstream still waits for the body, so no other request may come over this connection.
        for _ in 0..4 {
            lab.ask(get("other.example", "/")).await;
        }
        // Whether the client now sends the body or gives up is open: both ends must be closed, or the body be passed on.
        let sent = client.try_send("hello").await;
        if sent && !answer.tokens("connection").contains(&"close".to_owned()) {
            assert_eq!(connection.exactly(5).await, b"hello");
            client.send(get("other.example", "/after")).await;
            assert_eq!(client.answer().await.text(), "GET /after");
        } else {
            client.closed().await;
            let rest = connection.rest().await;
            assert!(b"hello".starts_with(&rest), "{rest:?}");
        }
    }
    assert!(server.requests().iter().all(|request| request.method() == "GET"));
}

/// A client that does not wait, as it may.
#[tokio::test]
async fn a_body_may_come_before_it_is_asked_for() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(format!("{EXPECTING}hello{}", get("app.example", "/next"))).await;
    let (mut connection, request) = upstream.request().await;
    assert_eq!(request.body, b"hello");
    // An upstream need not say it then.
    connection.send(reply("200 OK", "thanks")).await;
    assert_eq!(client.answer().await.text(), "thanks");
    assert_eq!(connection.request().await.target(), "/next");
}

/// An old upstream never says to continue; then its answer is to the whole request.
#[tokio::test]
async fn a_body_is_passed_on_though_nobody_said_to_continue() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(EXPECTING).await;
    let mut connection = upstream.accept().await;
    connection.head(lab::wire::Kind::Request).await;
    client.send("hello").await;
    assert_eq!(connection.exactly(5).await, b"hello");
    connection.send(reply("200 OK", "thanks")).await;
    assert_eq!(client.answer().await.text(), "thanks");
}

#[tokio::test]
async fn other_expectations_are_passed_on_or_refused() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    let mut client = lab.client().await;
    client.send("POST / HTTP/1.1\r\nHost: app.example\r\nExpect: miracles\r\nContent-Length: 0\r\n\r\n").await;
    match client.answer().await.status() {
        200 => assert_eq!(server.request().one("expect"), "miracles"),
        status => assert_eq!(status, 417),
    }
}

/// An upstream that has heard enough answers; the client gets that answer, though it has not sent everything.
#[tokio::test]
async fn an_answer_to_a_request_that_is_not_over_reaches_the_client() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send("POST /big HTTP/1.1\r\nHost: app.example\r\nContent-Length: 1000000000\r\n\r\nthe beginning").await;
    let mut connection = upstream.accept().await;
    connection.head(lab::wire::Kind::Request).await;
    connection.until("the beginning").await;
    connection.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 8\r\n\r\ntoo much").await;
    connection.shut_down_writing().await;
    let answer = client.answer().await;
    assert_eq!((answer.status(), answer.text().as_str()), (413, "too much"));
    drop(client);
    connection.rest().await;
    lab.active("app.example", 0, 0).await;
}

/// The same where the upstream resets its connection while the client still sends: what it answered before is what the client gets.
#[tokio::test]
async fn an_answer_is_not_lost_when_the_upstream_stops_reading() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    for _ in 0..10 {
        let mut client = lab.client().await;
        client.send("POST /big HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        client.send(chunk("the beginning")).await;
        let mut connection = upstream.accept().await;
        connection.head(lab::wire::Kind::Request).await;
        connection.until("the beginning").await;
        connection.send("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno").await;
        drop(connection);
        let answer = client.answer().await;
        assert_eq!((answer.status(), answer.text().as_str()), (403, "no"));
        // What the client goes on sending goes nowhere, and breaks nothing.
        for _ in 0..10 {
            if !client.try_send(chunk(&"x".repeat(10_000))).await {
                break;
            }
        }
    }
    lab.active("app.example", 0, 0).await;
    lab.assert_alive().await;
}

/// The rest of a body that was answered early is never read as a request.
#[tokio::test]
async fn what_is_left_of_a_body_is_no_request() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let server = lab.serving("other.example").await;
    let smuggled = get("other.example", "/smuggled");
    let mut client = lab.client().await;
    client
        .send(format!("POST /x HTTP/1.1\r\nHost: app.example\r\nContent-Length: {}\r\n\r\nabc", 3 + smuggled.len()))
        .await;
    let mut connection = upstream.accept().await;
    connection.head(lab::wire::Kind::Request).await;
    assert_eq!(connection.exactly(3).await, b"abc");
    connection.send(reply("400 Bad Request", "no")).await;
    assert_eq!(client.answer().await.text(), "no");
    client.try_send(smuggled).await;
    if client.try_send(get("other.example", "/real")).await {
        let rest = client.rest_or_answer().await;
        assert!(rest.is_none_or(|answer| answer.text() == "GET /real"));
    }
    lab.every_chance().await;
    assert!(server.requests().iter().all(|request| request.target() == "/real"), "{:?}", server.requests());
}

/// A client that has said all it has to say still gets its answer.
#[tokio::test]
async fn a_client_that_stops_sending_gets_its_answer() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    for request in [
        get("app.example", "/"),
        post("app.example", "/", "abc"),
        "POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".into(),
    ] {
        let mut client = lab.client().await;
        client.send(request).await;
        client.shut_down_writing().await;
        let (mut connection, _) = upstream.request().await;
        lab.every_chance().await;
        connection.send("HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        assert_eq!(client.answer_head().await.status(), 200);
        for i in 0..3 {
            connection.send(chunk(&format!("part {i}"))).await;
            client.until(&format!("part {i}")).await;
        }
        connection.send("0\r\n\r\n").await;
        client.until("0\r\n\r\n").await;
        client.closed_orderly().await;
    }
}

/// Several requests, then silence: all are answered.
#[tokio::test]
async fn a_client_that_stops_sending_gets_all_its_answers() {
    let lab = lab::start().await;
    let _server = lab.serving("app.example").await;
    let mut client = lab.client().await;
    client.send([get("app.example", "/1"), post("app.example", "/2", "abc"), get("app.example", "/3")].concat()).await;
    client.shut_down_writing().await;
    for expected in ["GET /1", "POST /2", "GET /3"] {
        assert_eq!(client.answer().await.text(), expected);
    }
    client.closed_orderly().await;
}

/// A request that is cut off is not taken for a whole one.
#[tokio::test]
async fn a_request_that_is_cut_off_never_looks_whole() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    for request in [
        "POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 10\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 10\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n",
        "GET / HTTP/1.1\r\nHost: app.example\r\n",
        "GET / HTTP/1.1\r\nHost: app.exa",
        "GET /",
    ] {
        for reset in [false, true] {
            let mut client = lab.client().await;
            client.send(request).await;
            if reset {
                lab.every_chance().await;
                client.abort();
            } else {
                client.shut_down_writing().await;
                let rest = client.rest().await;
                let text = String::from_utf8_lossy(&rest);
                assert!(
                    rest.is_empty() || text.starts_with("HTTP/1.1 400 ") || text.starts_with("HTTP/1.1 408 "),
                    "{text}"
                );
            }
        }
    }
    lab.active("app.example", 0, 0).await;
    server.settled().await;
    assert_eq!(server.requests(), []);
}

/// A client that goes away while the upstream thinks takes its request with it.
#[tokio::test]
async fn a_client_that_goes_away_ends_its_request() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let (mut connection, _) = upstream.request().await;
    lab.active("app.example", 1, 0).await;
    client.abort();
    lab.active("app.example", 0, 0).await;
    connection.closed().await;
}
