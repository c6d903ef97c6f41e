//! Bodies: passed on as they come, in both directions, and whole or visibly not.

use super::lab::{self, chunk, get, reply};

/// Nothing waits for the end of a body, in either direction: each chunk is there before the next one is made.
#[tokio::test]
async fn chunks_are_passed_on_as_they_come_in_both_directions() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send("POST /stream HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut connection = upstream.accept().await;
    let request = connection.head(lab::wire::Kind::Request).await;
    assert_eq!((request.target(), request.one("transfer-encoding")), ("/stream", "chunked"));
    for i in 0..20 {
        client.send(chunk(&format!("question {i}."))).await;
        connection.until(&format!("question {i}.")).await;
        if i == 0 {
            // The answer begins while the request is still being sent.
            connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            assert_eq!(client.answer_head().await.one("transfer-encoding"), "chunked");
        }
        connection.send(chunk(&format!("answer {i}."))).await;
        client.until(&format!("answer {i}.")).await;
    }
    client.send("0\r\n\r\n").await;
    connection.until("0\r\n\r\n").await;
    connection.send(chunk("afterthought")).await;
    client.until("afterthought").await;
    connection.send("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
    lab.active("app.example", 0, 0).await;
}

/// The same for bodies whose length was said before.
#[tokio::test]
async fn parts_of_a_body_of_known_length_are_passed_on_as_they_come() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send("PUT /stream HTTP/1.1\r\nHost: app.example\r\nContent-Length: 100\r\n\r\n").await;
    let mut connection = upstream.accept().await;
    assert_eq!(connection.head(lab::wire::Kind::Request).await.one("content-length"), "100");
    for i in 0..10 {
        client.send(format!("part {i:04};")).await;
        assert_eq!(connection.exactly(10).await, format!("part {i:04};").as_bytes());
    }
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").await;
    assert_eq!(client.answer_head().await.one("content-length"), "100");
    for i in 0..10 {
        connection.send(format!("part {i:04};")).await;
        assert_eq!(client.exactly(10).await, format!("part {i:04};").as_bytes());
    }
    // The connection is good for more.
    client.send(get("app.example", "/next")).await;
    assert_eq!(connection.request().await.target(), "/next");
}

/// What users of other proxies complain of: events that arrive in lumps.
#[tokio::test]
async fn each_server_sent_event_arrives_before_the_next_is_made() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    // In chunks, or until the connection ends.
    for (head, framed) in [("Transfer-Encoding: chunked\r\n", true), ("Connection: close\r\n", false)] {
        let mut client = lab.client().await;
        client.send("GET /events HTTP/1.1\r\nHost: app.example\r\nAccept: text/event-stream\r\n\r\n").await;
        let (mut connection, request) = upstream.request().await;
        assert_eq!(request.one("accept"), "text/event-stream");
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{head}\r\n")).await;
        assert_eq!(client.answer_head().await.one("content-type"), "text/event-stream");
        for i in 0..50 {
            let event = format!("id: {i}\ndata: tick\n\n");
            connection.send(if framed { chunk(&event) } else { event.clone() }).await;
            client.until(&event).await;
        }
        assert_eq!(lab.in_flight("app.example"), 1);
        // When the client crashes, the upstream learns it, though nobody sends anything. One that closes may be waiting still for more,
        // as far as the proxy can tell; the next event shows.
        if framed {
            client.abort();
        } else {
            drop(client);
            while connection.try_send("data: more\n\n").await {
                tokio::task::yield_now().await;
            }
        }
        connection.closed().await;
        lab.active("app.example", 0, 0).await;
    }
}

/// A head is passed on at once, though no body follows it yet.
#[tokio::test]
async fn the_head_of_an_answer_does_not_wait_for_its_body() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    for framing in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", ""] {
        let mut client = lab.client().await;
        client.send(get("app.example", "/")).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n")).await;
        assert_eq!(client.answer_head().await.status(), 200);
    }
}

#[tokio::test]
async fn trailers_are_passed_on_in_both_directions() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client
        .send(
            "POST /t HTTP/1.1\r\nHost: app.example\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\nX-Sum: 1\r\nx-other: a:b\r\n\r\n",
        )
        .await;
    let (mut connection, request) = upstream.request().await;
    let lower = |trailers: &[(String, String)]| -> Vec<(String, String)> {
        trailers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
    };
    let sum = ("x-sum".to_owned(), "1".to_owned());
    assert_eq!(lower(&request.trailers), [sum.clone(), ("x-other".to_owned(), "a:b".to_owned())]);
    assert_eq!(request.one("trailer"), "X-Sum");
    connection.send("HTTP/1.1 200 OK\r\nTrailer: Grpc-Status\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nGrpc-Status: 0\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(lower(&answer.trailers), [("grpc-status".to_owned(), "0".to_owned())]);
    assert_eq!(answer.one("trailer"), "Grpc-Status");
    // Nothing of a trailer is left for the next.
    client.send(get("app.example", "/next")).await;
    assert_eq!(connection.request().await.target(), "/next");
    connection.send(reply("200 OK", "next")).await;
    assert_eq!(client.answer().await.text(), "next");
}

/// The meaning of chunks is in their data only; where one ends is the sender's affair, and extensions are between neighbours.
#[tokio::test]
async fn the_data_of_chunks_is_what_counts() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    let mut client = lab.client().await;
    for (body, expected) in [
        ("0\r\n\r\n", ""),
        ("1\r\na\r\n0\r\n\r\n", "a"),
        ("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789"),
        ("00000005\r\nhello\r\n000\r\n\r\n", "hello"),
        ("5;ext\r\nhello\r\n0;last\r\n\r\n", "hello"),
        ("5;ext=value;b=c\r\nhello\r\n0\r\n\r\n", "hello"),
        ("6\r\na\r\n0\r\n\r\n0\r\n\r\n", "a\r\n0\r\n"),
    ] {
        client.send(format!("POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: Chunked\r\n\r\n{body}")).await;
        assert_eq!(client.answer().await.status(), 200, "{body:?}");
        assert_eq!(server.requests().pop().unwrap().text(), expected, "{body:?}");
    }
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_whatever_its_fields_say() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send("HEAD /1 HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
    let (mut connection, request) = upstream.request().await;
    assert_eq!(request.method(), "HEAD");
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n").await;
    assert_eq!(client.answer_to_head().await.one("content-length"), "12345");

    client.send("HEAD /2 HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
    assert_eq!(connection.request().await.target(), "/2");
    connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(client.answer_to_head().await.all("content-length"), [""; 0]);

    client.send("HEAD /3 HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
    assert_eq!(connection.request().await.target(), "/3");
    connection.send("HTTP/1.1 200 OK\r\nX: y\r\n\r\n").await;
    let answer = client.answer_to_head().await;
    assert_eq!((answer.one("x"), answer.all("content-length").len()), ("y", 0), "no length must be invented");

    client.send(get("app.example", "/4")).await;
    assert_eq!(connection.request().await.target(), "/4");
    connection.send(reply("200 OK", "four")).await;
    assert_eq!(client.answer().await.text(), "four");
}

#[tokio::test]
async fn answers_that_never_have_a_body_have_none() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let (mut client, mut connection) = lab.kept(&upstream).await;
    for head in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        client.send(get("app.example", "/empty")).await;
        assert_eq!(connection.request().await.target(), "/empty");
        connection.send(head).await;
        let answer = client.answer().await;
        assert_eq!((answer.body.len(), answer.all("transfer-encoding").len()), (0, 0), "{head:?}");
        if answer.status() == 204 {
            assert_eq!(answer.all("content-length"), [""; 0]);
        }
    }
    client.send(get("app.example", "/last")).await;
    assert_eq!(connection.request().await.target(), "/last");
    connection.send(reply("200 OK", "last")).await;
    assert_eq!(client.answer().await.text(), "last");
}

/// An answer that ends with the upstream's connection ends for the client too, who may go on with its own.
#[tokio::test]
async fn an_answer_that_ends_with_the_connection_is_whole() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    for version in ["1.1", "1.0"] {
        let mut client = lab.client().await;
        client.send(get("app.example", "/")).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(format!("HTTP/{version} 200 OK\r\nX: y\r\n\r\nto the ")).await;
        connection.send("very end").await;
        connection.shut_down_writing().await;
        let answer = client.answer().await;
        assert_eq!(answer.text(), "to the very end");
        connection.closed().await;
        if answer.all("transfer-encoding") == ["chunked"] {
            client.send(get("app.example", "/next")).await;
            let (mut connection, request) = upstream.request().await;
            assert_eq!(request.target(), "/next");
            connection.send(reply("200 OK", "next")).await;
            assert_eq!(client.answer().await.text(), "next");
        }
    }
}

/// Bytes of every kind come through unchanged, whatever they look like.
#[tokio::test]
async fn a_body_may_hold_anything() {
    let lab = lab::start().await;
    let server = lab::upstream::Upstream::new().await.serve(|request| reply("200 OK", &request.body));
    lab.route("app.example", &[server.address]).await;
    let mut body: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    body.extend_from_slice(b"\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: app.example\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
    let mut client = lab.client().await;
    for _ in 0..3 {
        client.send(format!("POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        client.send(&body).await;
        assert!(client.answer().await.body == body, "the body was changed");
        client.send("POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for part in body.chunks(7777) {
            client.send(format!("{:X}\r\n", part.len())).await;
            client.send(part).await;
            client.send("\r\n").await;
        }
        client.send("0\r\n\r\n").await;
        assert!(client.answer().await.body == body, "the body was changed");
    }
    assert_eq!(server.requests().len(), 6);
}

/// Informational answers come before the final one, however many there are within reason.
#[tokio::test]
async fn early_hints_are_no_answer() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let (mut connection, _) = upstream.request().await;
    connection
        .send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
        .await;
    connection.send(reply("200 OK", "final")).await;
    let mut answer = client.answer().await;
    while answer.status() < 200 {
        assert!([102, 103].contains(&answer.status()));
        answer = client.answer().await;
    }
    assert_eq!(answer.text(), "final");
    // An old client would take them for the answer.
    let mut client = lab.client().await;
    drop(connection);
    client.send("GET / HTTP/1.0\r\nHost: app.example\r\n\r\n").await;
    let (mut connection, _) = upstream.request().await;
    connection.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n").await;
    connection.send(reply("200 OK", "final")).await;
    let answer = client.answer().await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "final"));
}
