//! Never one client's bytes on another's connection, whatever upstreams do with the connections that clients share.

use super::lab::{self, get, post, reply};

/// Bytes that no request asked for. The next request over that connection would get them for its answer.
#[tokio::test]
async fn bytes_after_an_answer_reach_nobody() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let extra = reply("200 OK", "of another");
    let extras: [&[u8]; 5] = [&extra, b"x", b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"garbage \0\r\n\r\n"];
    for (i, extra) in extras.into_iter().enumerate() {
        for (how, first) in [
            ("length", reply("200 OK", "first")),
            ("chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n".to_vec()),
            ("none", b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        ] {
            let name = format!("app-{i}-{how}.example");
            let upstream = lab.scripted(&name).await;
            let mut one = lab.client().await;
            one.send(get(&name, "/1")).await;
            let (mut connection, _) = upstream.request().await;
            // Both in one write.
            connection.send([&first[..], extra].concat()).await;
            one.answer().await;
            // Not for the client itself, nor for another one.
            let mut other = lab.client().await;
            for client in [&mut one, &mut other] {
                client.send(get(&name, "/2")).await;
                let (mut connection, request) = upstream.request().await;
                assert_eq!(request.target(), "/2");
                connection.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmine").await;
                assert_eq!(client.answer().await.text(), "mine", "{name}");
            }
            assert_eq!(one.so_far(), b"");
        }
    }
}

/// The same when they come later, while the connection is idle.
#[tokio::test]
async fn bytes_on_an_idle_connection_reach_nobody() {
    // Slow: the proxy looks through connections that wait every five seconds.
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    for noticed in [true, false] {
        let name = format!("app-{noticed}.example");
        let upstream = lab.scripted(&name).await;
        let mut one = lab.client().await;
        one.send(get(&name, "/1")).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(reply("200 OK", "first")).await;
        assert_eq!(one.answer().await.text(), "first");
        connection.send(reply("200 OK", "of another")).await;
        if noticed {
            connection.closed().await;
        }
        for client in [&mut one, &mut lab.client().await] {
            client.send(post(&name, "/2", "abc")).await;
            let (mut connection, request) = upstream.request().await;
            assert_eq!(request.target(), "/2");
            connection.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmine").await;
            assert_eq!(client.answer().await.text(), "mine");
        }
    }
}

/// A body that HEAD must not have is not the next answer.
#[tokio::test]
async fn a_body_after_an_answer_to_head_reaches_nobody() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    for (i, body) in ["0123456789", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"].into_iter().enumerate() {
        let name = format!("app-{i}.example");
        let upstream = lab.scripted(&name).await;
        let mut client = lab.client().await;
        client.send(get(&name, "/1").replacen("GET", "HEAD", 1)).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(reply("200 OK", body)).await;
        assert_eq!(client.answer_to_head().await.status(), 200);
        client.send(get(&name, "/2")).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(reply("200 OK", "mine")).await;
        assert_eq!(client.answer().await.text(), "mine");
    }
}

/// The answer to a request whose client has gone is nobody else's.
#[tokio::test]
async fn an_answer_to_a_client_that_left_reaches_nobody() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let upstream = lab.scripted("app.example").await;
    let mut connections = Vec::new();
    for i in 0..10 {
        let mut gone = lab.client().await;
        gone.send(if i % 2 == 0 { get("app.example", "/gone") } else { post("app.example", "/gone", "abc") }).await;
        let (connection, _) = upstream.request().await;
        connections.push(connection);
        gone.abort();
    }
    lab.active("app.example", 0, 0).await;
    for connection in &mut connections {
        connection.try_send(reply("200 OK", "secret")).await;
    }
    for _ in 0..5 {
        let mut client = lab.client().await;
        client.send(get("app.example", "/mine")).await;
        let (mut connection, request) = upstream.request().await;
        assert_eq!(request.target(), "/mine");
        connection.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmine").await;
        assert_eq!(client.answer().await.text(), "mine");
    }
}

/// An answer that the client did not take to its end leaves the rest of it on the connection.
#[tokio::test]
async fn the_rest_of_an_answer_reaches_nobody() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let upstream = lab.scripted("app.example").await;
    let mut gone = lab.client().await;
    gone.send(get("app.example", "/gone")).await;
    let (mut connection, _) = upstream.request().await;
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nthe beginning").await;
    gone.answer_head().await;
    gone.abort();
    lab.active("app.example", 0, 0).await;
    connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/mine")).await;
    let (mut connection, _) = upstream.request().await;
    connection.send(reply("200 OK", "mine")).await;
    assert_eq!(client.answer().await.text(), "mine");
}

/// An upstream that answers before it has heard the request to its end still waits for the rest of it: nothing else may be sent there.
#[tokio::test]
async fn a_request_that_was_not_sent_to_its_end_is_followed_by_none() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send("POST /big HTTP/1.1\r\nHost: app.example\r\nContent-Length: 100\r\n\r\nabc").await;
    let mut connection = upstream.accept().await;
    connection.head(lab::wire::Kind::Request).await;
    assert_eq!(connection.exactly(3).await, b"abc");
    connection.send(reply("200 OK", "early")).await;
    assert_eq!(client.answer().await.text(), "early");
    let mut other = lab.client().await;
    other.send(get("app.example", "/other")).await;
    let (mut second, request) = upstream.request().await;
    assert_eq!(request.target(), "/other");
    second.send(reply("200 OK", "other")).await;
    assert_eq!(other.answer().await.text(), "other");
    client.abort();
    connection.closed().await;
}

/// Many clients at once over few connections, each with answers of its own, some of them cut off: nobody gets another's.
#[tokio::test]
async fn nobody_gets_anothers_answer_in_a_crowd() {
    let lab = lab::start().await;
    let server = lab::upstream::Upstream::new().await.serve(|request| {
        let target = request.target().to_owned();
        if target.contains("extra") {
            [reply("200 OK", &target), reply("200 OK", "of another")].concat()
        } else if target.contains("chunked") {
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{target}\r\n0\r\n\r\n", target.len())
                .into_bytes()
        } else if target.contains("cut") {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nnonsense\r\n".into()
        } else {
            reply("200 OK", &target)
        }
    });
    lab.route("app.example", &[server.address]).await;
    let address = lab.proxy.address();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..24 {
        clients.spawn(async move {
            let mut client = lab::Peer::connect(address).await;
            for i in 0..60 {
                let kind = ["plain", "extra", "chunked", "plain", "cut", "gone"][(i + number) % 6];
                let target = format!("/{kind}/{number}/{i}");
                let asked = client.try_send(get("app.example", &target)).await;
                if kind == "gone" {
                    client.abort();
                    client = lab::Peer::connect(address).await;
                    continue;
                }
                match client.try_answer().await {
                    Ok(answer) if answer.status() == 200 => assert_eq!(answer.text(), target),
                    other => {
                        assert_eq!((kind, asked), ("cut", true), "{target}: {other:?}");
                        if !other.is_ok_and(|answer| answer.status() == 502 && answer.tokens("connection").is_empty()) {
                            client = lab::Peer::connect(address).await;
                        }
                    }
                }
            }
        });
    }
    while let Some(result) = clients.join_next().await {
        result.unwrap();
    }
    lab.active("app.example", 0, 0).await;
}
