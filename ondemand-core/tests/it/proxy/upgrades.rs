//! Connections that become something else: WebSockets, and whatever client and upstream agree on.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite;

use super::lab::{self, Lab, Peer, get, post, reply, upgrade};

/// More than all buffers on the way hold.
const LENGTH: usize = 64 << 20;

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n";

/// Upgrades a connection by hand, and returns both ends of the tunnel.
async fn tunnel(lab: &Lab, upstream: &lab::upstream::Upstream) -> (Peer, Peer) {
    let mut client = lab.client().await;
    client.send(upgrade("app.example", "echo/1")).await;
    let (mut connection, request) = upstream.request().await;
    assert_eq!(request.one("upgrade"), "echo/1");
    assert!(request.tokens("connection").contains(&"upgrade".to_owned()), "{request:?}");
    connection.send(SWITCHING).await;
    let answer = client.answer().await;
    assert_eq!((answer.status(), answer.one("upgrade")), (101, "echo/1"));
    assert!(answer.tokens("connection").contains(&"upgrade".to_owned()), "{answer:?}");
    (client, connection)
}

#[tokio::test]
async fn a_websocket_works_both_ways() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let serving = tokio::spawn(async move {
        let stream = upstream.accept().await.into_stream();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        socket.send(tungstenite::Message::text("hello from the server")).await.unwrap();
        while let Some(message) = socket.next().await {
            match message.unwrap() {
                message @ (tungstenite::Message::Text(_) | tungstenite::Message::Binary(_)) => {
                    socket.send(message).await.unwrap();
                }
                tungstenite::Message::Close(_) => break,
                _ => {}
            }
        }
    });
    let stream = lab.client().await.into_stream();
    let (mut socket, answer) =
        lab::within("the handshake", tokio_tungstenite::client_async("ws://app.example/ws?x=y", stream)).await.unwrap();
    assert_eq!(answer.status(), 101);
    let mut next = async |what: &str, send: Option<tungstenite::Message>| {
        if let Some(message) = send {
            lab::within(what, socket.send(message)).await.unwrap();
        }
        lab::within(what, socket.next()).await.unwrap().unwrap()
    };
    assert_eq!(next("a greeting", None).await, tungstenite::Message::text("hello from the server"));
    for length in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
        let message = tungstenite::Message::binary(vec![7; length]);
        assert_eq!(next("an echo", Some(message.clone())).await, message);
    }
    for i in 0..1000 {
        let message = tungstenite::Message::text(format!("message {i}"));
        assert_eq!(next("an echo", Some(message.clone())).await, message);
    }
    let pong = next("a pong", Some(tungstenite::Message::Ping(b"p".to_vec().into()))).await;
    assert_eq!(pong, tungstenite::Message::Pong(b"p".to_vec().into()));
    lab.active("app.example", 0, 1).await;
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = lab::within("the end", socket.next()).await {}
    drop(socket);
    serving.await.unwrap();
    lab.active("app.example", 0, 0).await;
}

/// Any token will do, and the bytes after it are nobody's business.
#[tokio::test]
async fn any_protocol_can_be_spoken_after_an_upgrade() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let (mut client, mut connection) = tunnel(&lab, &upstream).await;
    lab.active("app.example", 0, 1).await;
    // What looks like HTTP, or like nothing.
    for words in
        ["GET / HTTP/1.1\r\nHost: other.example\r\n\r\n", "\0\u{1}\r\n\n", "HTTP/1.1 200 OK\r\n\r\n", "0\r\n\r\n"]
    {
        client.send(words).await;
        assert_eq!(connection.exactly(words.len()).await, words.as_bytes());
        connection.send(words).await;
        assert_eq!(client.exactly(words.len()).await, words.as_bytes());
    }
    drop(client);
    connection.closed().await;
    drop(connection);
    lab.active("app.example", 0, 0).await;
}

/// What a client sends ahead of the answer is for the new protocol; until there is one, nobody but the proxy sees it.
#[tokio::test]
async fn bytes_sent_early_reach_the_upstream_only_after_its_101() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(format!("{}early ", upgrade("app.example", "echo/1"))).await;
    let (mut connection, _) = upstream.request().await;
    client.send("bytes").await;
    lab.every_chance().await;
    assert_eq!(connection.so_far(), b"");
    // What the upstream sends right after its head is part of the new protocol too.
    connection.send(format!("{SWITCHING}early answer")).await;
    assert_eq!(connection.exactly(11).await, b"early bytes");
    assert_eq!(client.answer().await.status(), 101);
    assert_eq!(client.exactly(12).await, b"early answer");
}

/// An upstream that does not switch goes on in HTTP, and so does the client: a request in the early bytes is a request to the proxy.
#[tokio::test]
async fn an_upgrade_that_is_refused_leaves_the_connection_in_http() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let other = lab.serving("other.example").await;
    for refusal in ["403 Forbidden", "200 OK", "426 Upgrade Required", "503 Service Unavailable"] {
        let mut client = lab.client().await;
        // To an upstream that takes bytes for its own, this request would look like one from the proxy.
        client.send(format!("{}{}", upgrade("app.example", "websocket"), get("other.example", "/next"))).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(reply(refusal, "no")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status(), answer.text().as_str()), (refusal[..3].parse().unwrap(), "no"));
        if !answer.tokens("connection").contains(&"close".to_owned()) {
            assert_eq!(client.answer().await.text(), "GET /next");
            client.send(get("other.example", "/again")).await;
            assert_eq!(client.answer().await.text(), "GET /again");
        }
        assert_eq!(connection.so_far(), b"");
        assert_eq!(lab.upgrades("app.example"), 0);
    }
    assert!(other.requests().iter().all(|request| request.one("host") == "other.example"));
}

/// An upstream that refuses with an answer that never ends by itself.
#[tokio::test]
async fn an_upgrade_may_be_answered_with_a_stream() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(upgrade("app.example", "websocket")).await;
    let (mut connection, _) = upstream.request().await;
    connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(client.answer_head().await.status(), 200);
    connection.send(lab::chunk("event")).await;
    client.until("event").await;
    lab.active("app.example", 1, 0).await;
}

/// One side may stop speaking and still listen.
#[tokio::test]
async fn a_tunnel_may_be_closed_in_one_direction() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    for client_first in [true, false] {
        let (client, connection) = tunnel(&lab, &upstream).await;
        let (mut first, mut second) = if client_first { (client, connection) } else { (connection, client) };
        first.send("last words").await;
        first.shut_down_writing().await;
        assert_eq!(second.rest().await, b"last words");
        lab.every_chance().await;
        for i in 0..3 {
            second.send(format!("answer {i};")).await;
            first.until(&format!("answer {i};")).await;
        }
        assert_eq!(lab.upgrades("app.example"), 1);
        second.shut_down_writing().await;
        first.closed_orderly().await;
        lab.active("app.example", 0, 0).await;
    }
}

/// When one end crashes, the other learns it.
#[tokio::test]
async fn a_tunnel_ends_when_either_end_crashes() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    for client_first in [true, false] {
        let (client, connection) = tunnel(&lab, &upstream).await;
        let (first, mut second) = if client_first { (client, connection) } else { (connection, client) };
        lab.active("app.example", 0, 1).await;
        first.abort();
        second.closed().await;
        lab.active("app.example", 0, 0).await;
    }
    lab.assert_alive().await;
}

/// Without `Connection: Upgrade`, the field is between the client and someone before the proxy.
#[tokio::test]
async fn an_upgrade_that_is_not_asked_for_properly_is_none() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    for request in [
        "GET / HTTP/1.1\r\nHost: app.example\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.example\r\nConnection: Upgrade\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: app.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\nUpgrade: websocket\r\n\r\n",
    ] {
        assert_eq!(lab.ask(request).await.status(), 200, "{request:?}");
        let request = server.requests().pop().unwrap();
        assert_eq!(request.all("upgrade"), [""; 0], "{request:?}");
        assert!(!request.tokens("connection").contains(&"upgrade".to_owned()), "{request:?}");
    }
}

/// `Connection` is a list in any case and order.
#[tokio::test]
async fn an_upgrade_may_be_asked_for_among_other_things() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    for connection_field in ["keep-alive, Upgrade", "UPGRADE", "upgrade,X-Hop", "keep-alive\r\nConnection: upgrade"] {
        let mut client = lab.client().await;
        client
            .send(upgrade("app.example", "WebSocket").replacen(
                "Connection: Upgrade",
                &format!("X-Hop: 1\r\nConnection: {connection_field}"),
                1,
            ))
            .await;
        let (mut connection, request) = upstream.request().await;
        assert!(request.one("upgrade").eq_ignore_ascii_case("websocket"));
        assert!(request.tokens("connection").contains(&"upgrade".to_owned()), "{request:?}");
        assert_eq!(request.one("sec-websocket-key"), "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(request.all("x-hop").is_empty(), connection_field.contains("X-Hop"));
        connection.send(SWITCHING).await;
        assert_eq!(client.answer().await.status(), 101);
    }
}

/// The body of a request is part of the request, also where an upgrade is asked for.
#[tokio::test]
async fn a_request_for_an_upgrade_may_have_a_body() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    let request =
        post("app.example", "/up", "hello").replacen("Content", "Connection: Upgrade\r\nUpgrade: echo/1\r\nContent", 1);
    client.send(format!("{request}early")).await;
    let (mut connection, request) = upstream.request().await;
    assert_eq!(request.body, b"hello");
    if request.all("upgrade").is_empty() {
        // To pass it on as an ordinary request is allowed.
        return;
    }
    connection.send(SWITCHING).await;
    assert_eq!(client.answer().await.status(), 101);
    assert_eq!(connection.exactly(5).await, b"early");
}

/// A connection that was upgraded is never used for anyone else.
#[tokio::test]
async fn what_was_upgraded_is_not_used_again() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let upstream = lab.scripted("app.example").await;
    let (client, mut connection) = tunnel(&lab, &upstream).await;
    drop(client);
    connection.closed().await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let (mut second, request) = upstream.request().await;
    assert_eq!(request.target(), "/");
    second.send(reply("200 OK", "new")).await;
    assert_eq!(client.answer().await.text(), "new");
}

/// Back-pressure is passed on: who does not read stops who writes, and loses nothing.
#[tokio::test]
async fn a_tunnel_loses_nothing_when_one_end_is_slow() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let (client, connection) = tunnel(&lab, &upstream).await;
    let watch = lab::memory::Watch::start();
    let (mut client, mut connection) = (client.into_stream(), connection.into_stream());
    let writing = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let block = vec![7; 1 << 16];
        for _ in 0..LENGTH / block.len() {
            client.write_all(&block).await.unwrap();
        }
        client.shutdown().await.unwrap();
        client
    });
    lab.every_chance().await;
    assert!(!writing.is_finished(), "64 MiB went to where nobody reads");
    let mut read = 0;
    let mut block = vec![0; 1 << 16];
    loop {
        use tokio::io::AsyncReadExt;
        match lab::within("what was sent", connection.read(&mut block)).await.unwrap() {
            0 => break,
            length => read += length,
        }
    }
    assert_eq!(read, LENGTH);
    assert!(watch.rise() < 16 << 20, "{} bytes", watch.rise());
    drop(writing.await.unwrap());
}

/// For ever is the rule; a limit can be set.
#[tokio::test]
async fn a_silent_tunnel_ends_where_that_is_configured() {
    // Slow: the limit is two seconds, and is waited for in real time.
    let lab = lab::start_with(|config| config.upgrade_idle_timeout = Some(lab::seconds(2))).await;
    let upstream = lab.scripted("app.example").await;
    let (mut client, mut connection) = tunnel(&lab, &upstream).await;
    // Speaking keeps it open, in either direction.
    let begin = tokio::time::Instant::now();
    let mut beat = tokio::time::interval(std::time::Duration::from_millis(250));
    while begin.elapsed() < std::time::Duration::from_millis(3200) {
        beat.tick().await;
        connection.send("x").await;
        client.exactly(1).await;
    }
    client.closed().await;
    connection.closed().await;
    lab.active("app.example", 0, 0).await;
}

/// Other limits on time are not for tunnels.
#[tokio::test]
async fn a_silent_tunnel_is_kept_otherwise() {
    let lab = lab::start_with(|config| {
        config.idle_timeout = lab::seconds(1);
        config.keep_alive_timeout = lab::seconds(1);
        config.header_timeout = lab::seconds(1);
        config.response_timeout = lab::seconds(1);
    })
    .await;
    let upstream = lab.scripted("app.example").await;
    let (mut client, mut connection) = tunnel(&lab, &upstream).await;
    // When these limits are reached for an ordinary connection, that is longer than a tunnel needs to be wrongly ended.
    let mut idle = [lab.client().await, lab.client().await, lab.client().await];
    idle[0].send(get("chance.example", "/")).await;
    idle[0].answer().await;
    idle[1].send("GET / HT").await;
    for client in &mut idle[..2] {
        client.rest().await;
    }
    lab.every_chance().await;
    client.send("still").await;
    assert_eq!(connection.exactly(5).await, b"still");
    connection.send("here").await;
    assert_eq!(client.exactly(4).await, b"here");
}
