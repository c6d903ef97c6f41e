//! Connections that carry more than one request.

use super::lab::{self, get, post, reply};

#[tokio::test]
async fn a_connection_carries_many_requests() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let (app, other) = (lab.serving("app.example").await, lab.serving("other.example").await);
    let mut client = lab.client().await;
    for i in 0..20 {
        // Each for whichever host it likes.
        let host = if i % 3 == 0 { "other.example" } else { "app.example" };
        client.send(post(host, &format!("/{i}"), "some body")).await;
        assert_eq!(client.answer().await.text(), format!("POST /{i}"));
    }
    assert_eq!((app.requests().len(), other.requests().len()), (13, 7));
    // Upstreams keep theirs too.
    assert_eq!((app.connections(), other.connections()), (1, 1));
    // And so do other clients' requests.
    lab.ask(get("app.example", "/")).await;
    assert_eq!(app.connections(), 1);
}

/// Requests that are sent without waiting are answered in their order, whoever answers faster.
#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let lab = lab::start().await;
    let _app = lab.serving("app.example").await;
    let slow = lab.scripted("slow.example").await;
    let mut client = lab.client().await;
    let all = [
        get("slow.example", "/1"),
        get("app.example", "/2"),
        post("app.example", "/3", "GET /smuggled HTTP/1.1\r\nHost: app.example\r\n\r\n"),
        get("unknown.example", "/4"),
        "POST /5 HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".into(),
        get("app.example", "/6"),
    ];
    client.send(all.concat()).await;
    let (mut connection, request) = slow.request().await;
    assert_eq!(request.target(), "/1");
    assert_eq!(client.so_far(), b"", "the second answer must not come before the first");
    connection.send(reply("200 OK", "slow")).await;
    assert_eq!(client.answer().await.text(), "slow");
    assert_eq!(client.answer().await.text(), "GET /2");
    assert_eq!(client.answer().await.text(), "POST /3");
    assert_eq!(client.answer().await.status(), 404);
    assert_eq!(client.answer().await.text(), "POST /5");
    assert_eq!(client.answer().await.text(), "GET /6");
    client.shut_down_writing().await;
    client.closed().await;
}

/// Many at once, more than any buffer holds.
#[tokio::test]
async fn ten_thousand_pipelined_requests_are_all_answered() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    let client = lab.client().await;
    let (mut reader, mut writer) = client.into_stream().into_split();
    let sending = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        for block in 0..100 {
            let requests: Vec<_> = (0..100).map(|i| get("app.example", &format!("/{}", block * 100 + i))).collect();
            writer.write_all(requests.concat().as_bytes()).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let mut answers = Vec::new();
    lab::within("all answers", tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut answers)).await.unwrap();
    sending.await.unwrap();
    let (mut bytes, mut count) = (&answers[..], 0);
    while let Some((answer, length)) = lab::wire::message(bytes, lab::wire::Kind::Answer { to_head: false }).unwrap() {
        assert_eq!(answer.text(), format!("GET /{count}"));
        (bytes, count) = (&bytes[length..], count + 1);
    }
    assert_eq!((count, bytes.len()), (10_000, 0));
    assert_eq!(server.requests().len(), 10_000);
}

/// However a request is cut into segments, it is the same request.
#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    let mut client = lab.client().await;
    let request = "POST /slow HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n0\r\nX-T: v\r\n\r\n";
    let both = format!("{request}{}", post("app.example", "/length", "abc"));
    for byte in both.bytes() {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.answer().await.text(), "POST /slow");
    assert_eq!(client.answer().await.text(), "POST /length");
    let requests = server.requests();
    assert_eq!((&*requests[0].body, &*requests[1].body), (&b"hello"[..], &b"abc"[..]));
}

/// An answer that comes byte by byte is the same answer.
#[tokio::test]
async fn an_answer_may_come_byte_by_byte() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let (mut connection, _) = upstream.request().await;
    for byte in
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\nX-T: v\r\n\r\n".bytes()
    {
        connection.send([byte]).await;
        tokio::task::yield_now().await;
    }
    let answer = client.answer().await;
    assert_eq!((answer.text().as_str(), &*answer.trailers), ("hello!", &[("X-T".to_owned(), "v".to_owned())][..]));
}

/// Old clients send an empty line after a body; that is no request.
#[tokio::test]
async fn an_empty_line_before_a_request_is_passed_over() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    let mut client = lab.client().await;
    client.send(format!("\r\n{}\r\n{}", post("app.example", "/1", "abc"), get("app.example", "/2"))).await;
    assert_eq!(client.answer().await.text(), "POST /1");
    assert_eq!(client.answer().await.text(), "GET /2");
    assert_eq!(server.requests().len(), 2);
}

/// What follows the last request that a client says it sends is not read as a request.
#[tokio::test]
async fn a_client_that_asks_to_close_is_closed() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    for token in ["close", "Close", "x, close"] {
        let mut client = lab.client().await;
        client
            .send(format!(
                "GET /last HTTP/1.1\r\nHost: app.example\r\nConnection: {token}\r\n\r\n{}",
                get("app.example", "/more")
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.text(), "GET /last");
        assert!(answer.tokens("connection").contains(&"close".to_owned()), "{answer:?}");
        client.closed().await;
    }
    assert!(server.requests().iter().all(|request| request.target() == "/last"));
}

/// Whether an upstream keeps its connections is nothing that a client notices.
#[tokio::test]
async fn an_upstream_that_closes_after_each_answer_does_not_close_the_clients() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    for (i, head) in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        client.send(get("app.example", &format!("/{i}"))).await;
        let (mut connection, request) = upstream.request().await;
        assert_eq!(request.target(), format!("/{i}"));
        connection.send(format!("{head}ok")).await;
        let answer = client.answer().await;
        assert_eq!((answer.text().as_str(), answer.tokens("connection")), ("ok", vec![]));
        // It said so itself, so nothing more is sent to it.
        connection.shut_down_writing().await;
        connection.closed().await;
    }
}

/// Bytes after the head of a GET without a length are the next request, not its body.
#[tokio::test]
async fn a_request_without_a_length_has_no_body() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    let mut client = lab.client().await;
    client.send(format!("POST /1 HTTP/1.1\r\nHost: app.example\r\n\r\n{}", get("app.example", "/2"))).await;
    assert_eq!(client.answer().await.text(), "POST /1");
    assert_eq!(client.answer().await.text(), "GET /2");
    assert!(server.requests()[0].body.is_empty());
}

/// A GET may have a body.
#[tokio::test]
async fn a_body_belongs_to_any_method() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    let mut client = lab.client().await;
    for method in ["GET", "DELETE", "OPTIONS", "QUERY"] {
        client.send(post("app.example", "/", "a body").replacen("POST", method, 1)).await;
        assert_eq!(client.answer().await.text(), format!("{method} /"));
        assert_eq!(server.requests().pop().unwrap().text(), "a body");
    }
    client.send(post("app.example", "/", "a body").replacen("POST", "HEAD", 1)).await;
    assert_eq!(client.answer_to_head().await.status(), 200);
    assert_eq!(server.requests().pop().unwrap().text(), "a body");
}

/// A client that goes away after one of several requests takes no one else's with it.
#[tokio::test]
async fn an_idle_client_that_goes_is_forgotten() {
    let lab = lab::start().await;
    let _server = lab.serving("app.example").await;
    for _ in 0..20 {
        let mut client = lab.client().await;
        client.send(get("app.example", "/")).await;
        client.answer().await;
        client.abort();
    }
    lab.active("app.example", 0, 0).await;
    lab.assert_alive().await;
}
