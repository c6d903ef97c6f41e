//! The end of a proxy.

use std::time::Duration;

use super::lab::{self, Peer, chunk, get, reply, within};

#[tokio::test]
async fn shutdown_lets_what_is_in_flight_finish() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let address = lab.proxy.address();
    // Idle ones: never used, and used before.
    let mut fresh = lab.client().await;
    let mut idle = lab.client().await;
    idle.send(get("unknown.example", "/")).await;
    idle.answer().await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let (mut connection, _) = upstream.request().await;
    let mut streaming = lab.client().await;
    streaming.send("POST /stream HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut stream = upstream.accept().await;
    stream.head(lab::wire::Kind::Request).await;
    stream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    streaming.answer_head().await;

    lab.every_chance().await;

    let begin = tokio::time::Instant::now();
    let proxy = lab.proxy.clone();
    let ending = tokio::spawn(async move { proxy.shutdown().await });
    // Idle connections end at once, and so it is known to have begun.
    idle.closed().await;
    fresh.closed().await;
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    // Whoever comes now is not answered.
    if let Ok(stream) = tokio::net::TcpStream::connect(address).await {
        let mut late = Peer::new(stream);
        late.try_send(get("app.example", "/late")).await;
        late.closed().await;
    }
    assert!(!ending.is_finished());
    connection.send(reply("200 OK", "the last")).await;
    let answer = client.answer().await;
    assert_eq!(answer.text(), "the last");
    client.closed().await;
    for i in 0..3 {
        streaming.send(chunk(&format!("question {i}"))).await;
        stream.until(&format!("question {i}")).await;
        stream.send(chunk(&format!("answer {i}"))).await;
        streaming.until(&format!("answer {i}")).await;
    }
    assert!(!ending.is_finished());
    streaming.send("0\r\n\r\n").await;
    stream.send("0\r\n\r\n").await;
    streaming.until("0\r\n\r\n").await;
    streaming.closed().await;
    within("the end of the proxy", ending).await.unwrap();
    // Its port is free again.
    tokio::net::TcpListener::bind(address).await.unwrap();
    within("ending once more", lab.proxy.shutdown()).await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let lab = lab::start_with(|config| config.drain_timeout = lab::seconds(1)).await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let (mut connection, _) = upstream.request().await;
    let mut upgraded = lab.client().await;
    upgraded.send(lab::upgrade("app.example", "echo/1")).await;
    let (mut tunnel, _) = upstream.request().await;
    tunnel.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n").await;
    upgraded.answer().await;
    let mut half = lab.client().await;
    half.send("GET / HTTP/1.1\r\nHo").await;
    lab.pending("pending.example").await;
    let mut held = lab.client().await;
    held.send(get("pending.example", "/")).await;
    lab.active("pending.example", 1, 0).await;
    let begin = tokio::time::Instant::now();
    within("the end of the proxy", lab.proxy.shutdown()).await;
    assert!(begin.elapsed() >= Duration::from_millis(900), "it did not wait at all");
    for peer in [&mut connection, &mut tunnel, &mut upgraded] {
        peer.closed().await;
    }
    for client in [&mut client, &mut half, &mut held] {
        // It may say why.
        let rest = client.rest().await;
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 50") || rest.starts_with(b"HTTP/1.1 40"), "{rest:?}");
    }
}

/// A proxy with nothing to do ends at once.
#[tokio::test]
async fn an_idle_proxy_ends_at_once() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    lab.ask(get("app.example", "/")).await;
    let _idle = lab.client().await;
    lab.every_chance().await;
    let begin = tokio::time::Instant::now();
    within("the end of the proxy", lab.proxy.shutdown()).await;
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    server.open(0).await;
}

/// Dropped, it ends with all that it has open, and its threads.
#[tokio::test]
async fn a_proxy_that_is_dropped_is_gone() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let address = lab.proxy.address();
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let (mut connection, _) = upstream.request().await;
    let clone = lab.proxy.clone();
    drop(lab);
    // A clone keeps it.
    connection.send(reply("200 OK", "kept")).await;
    assert_eq!(client.answer().await.text(), "kept");
    drop(clone);
    client.closed().await;
    connection.closed().await;
    lab::eventually("its port to be free", || match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(e) => Err(e.to_string()),
    })
    .await;
}

/// Two proxies cannot have one address; the second says so.
#[tokio::test]
async fn an_address_in_use_is_a_conflict() {
    let lab = lab::start().await;
    let config = ondemand_core::config::ProxyConfig { listen: lab.proxy.address(), ..Default::default() };
    let error = ondemand_core::router::Proxy::start(&config).await.unwrap_err();
    assert_eq!(error.code(), ondemand_core::Code::Conflict, "{error:?}");
    lab.assert_alive().await;
}
