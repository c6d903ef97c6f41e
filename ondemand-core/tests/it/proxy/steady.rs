//! Changes of routes, while they are used: what goes through one is touched by no change of another, nor cut by one of its own.

use futures_util::{SinkExt, StreamExt};
use ondemand_core::Router;
use ondemand_core::router::{Route, Upstream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::lab::{self, Lab, Peer, chunk, get, reply};

/// Changes other routes a thousand times: sets, replacements and removals.
async fn change_other_routes(lab: &Lab, address: std::net::SocketAddr) {
    for i in 0..1000 {
        let name = lab::host(&format!("other-{}.example", i % 37));
        if i % 5 == 4 {
            lab.proxy.remove(&name).await.unwrap();
        } else {
            lab.proxy.set(&Route::new(name, [Upstream::from(address)])).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_websockets_and_streams_survive_a_thousand_changes_of_other_routes() {
    let lab = lab::start().await;
    let sockets = lab.scripted("sockets.example").await;
    let events = lab.scripted("events.example").await;
    let serving = tokio::spawn(async move {
        let mut echoes = JoinSet::new();
        loop {
            let stream = sockets.accept().await.into_stream();
            echoes.spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if !message.is_close() {
                        socket.send(message).await.unwrap();
                    }
                }
            });
        }
    });
    let (mut clients, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let stream = lab.client().await.into_stream();
        clients.push(tokio_tungstenite::client_async("ws://sockets.example/", stream).await.unwrap().0);
        let mut client = lab.client().await;
        client.send(get("events.example", "/")).await;
        let (mut connection, _) = events.request().await;
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        client.answer_head().await;
        streams.push((client, connection));
    }
    lab.active("sockets.example", 0, 100).await;
    lab.active("events.example", 100, 0).await;
    let server = lab::Server::start().await;
    for round in 0..2 {
        change_other_routes(&lab, server.address).await;
        for (i, socket) in clients.iter_mut().enumerate() {
            let message = Message::text(format!("{round}: {i}"));
            socket.send(message.clone()).await.unwrap();
            assert_eq!(lab::within("an echo", socket.next()).await.unwrap().unwrap(), message);
        }
        for (i, (client, connection)) in streams.iter_mut().enumerate() {
            let event = format!("data: {round}: {i}\n\n");
            connection.send(chunk(&event)).await;
            client.until(&event).await;
        }
    }
    assert_eq!((lab.upgrades("sockets.example"), lab.in_flight("events.example")), (100, 100));
    for (client, connection) in &mut streams {
        connection.send("0\r\n\r\n").await;
        client.until("0\r\n\r\n").await;
    }
    for socket in &mut clients {
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    }
    drop(clients);
    lab.active("sockets.example", 0, 0).await;
    lab.active("events.example", 0, 0).await;
    serving.abort();
}

/// Not one request fails while its own route is changed all the time, and each is answered by what the route was when it came or later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_its_route_changes() {
    let lab = lab::start().await;
    let (one, two) = (lab::Server::saying("one").await, lab::Server::saying("two").await);
    lab.route("app.example", &[one.address]).await;
    let (address, done) = (lab.proxy.address(), tokio::sync::watch::Sender::new(false));
    let mut clients = JoinSet::new();
    for i in 0..8 {
        let done = done.subscribe();
        clients.spawn(async move {
            let (mut client, mut count) = (Peer::connect(address).await, 0);
            while !*done.borrow() || count < 100 {
                client
                    .send(if i % 2 == 0 { get("app.example", "/") } else { lab::post("app.example", "/", "abc") })
                    .await;
                let answer = client.answer().await;
                assert_eq!(answer.status(), 200);
                assert!(["one", "two"].contains(&&*answer.text()));
                count += 1;
            }
        });
    }
    for i in 0..1000 {
        lab.route("app.example", &[[one.address, two.address][i % 2]]).await;
        if i % 100 == 99 {
            tokio::task::yield_now().await;
        }
    }
    done.send_replace(true);
    while let Some(result) = clients.join_next().await {
        result.unwrap();
    }
}

/// From the moment that `set` has returned, requests meet the new route; also over connections that were open before, on every thread.
#[tokio::test]
async fn a_change_has_taken_effect_when_it_returns() {
    let lab = lab::start().await;
    let (one, two) = (lab::Server::saying("one").await, lab::Server::saying("two").await);
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(lab.client().await);
    }
    for i in 0..50 {
        let (server, expected) = if i % 2 == 0 { (&one, "one") } else { (&two, "two") };
        lab.route("app.example", &[server.address]).await;
        for client in &mut clients {
            client.send(get("app.example", "/")).await;
            assert_eq!(client.answer().await.text(), expected, "{i}");
        }
        if i % 10 == 9 {
            lab.remove("app.example").await;
            for client in &mut clients {
                client.send(get("app.example", "/")).await;
                assert_eq!(client.answer().await.status(), 404);
            }
        }
    }
}

/// Has three exchanges under way, each as the client's connection and the upstream's: a request without an answer, an answer that
/// streams, and an upgraded connection.
async fn under_way(lab: &Lab, upstream: &lab::upstream::Upstream) -> [(Peer, Peer); 3] {
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let (connection, _) = upstream.request().await;
    let mut streaming = lab.client().await;
    streaming.send(get("app.example", "/stream")).await;
    let (mut stream, _) = upstream.request().await;
    stream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    streaming.answer_head().await;
    let mut upgraded = lab.client().await;
    upgraded.send(lab::upgrade("app.example", "echo/1")).await;
    let (mut tunnel, _) = upstream.request().await;
    tunnel.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n").await;
    upgraded.answer().await;
    [(client, connection), (streaming, stream), (upgraded, tunnel)]
}

/// What a request was sent to answers it, though the route leads elsewhere by then.
#[tokio::test]
async fn a_route_that_changes_leaves_its_requests_be() {
    let lab = lab::start_with(|config| config.drain_timeout = lab::seconds(1)).await;
    let upstream = lab.scripted("app.example").await;
    let [(mut client, mut connection), (mut streaming, mut stream), (mut upgraded, mut tunnel)] =
        under_way(&lab, &upstream).await;

    let server = lab.serving("app.example").await;
    assert_eq!(lab.ask(get("app.example", "/new")).await.text(), "GET /new");
    // Half of the old ones' time to finish is over for good when this one's is; a change sets them no limit at all.
    let other = lab.scripted("other.example").await;
    let mut cut = lab.client().await;
    cut.send(get("other.example", "/")).await;
    let _held = other.request().await;
    lab.remove("other.example").await;
    cut.rest().await;

    connection.send(reply("200 OK", "as if nothing had happened")).await;
    assert_eq!(client.answer().await.text(), "as if nothing had happened");
    stream.send(chunk("more")).await;
    streaming.until("more").await;
    tunnel.send("more").await;
    assert_eq!(upgraded.exactly(4).await, b"more");
    assert_eq!(server.requests().len(), 1);
    // The next request over an old connection meets the new route.
    client.send(get("app.example", "/again")).await;
    assert_eq!(client.answer().await.text(), "GET /again");
}

/// Removing lets what goes through finish, for a time.
#[tokio::test]
async fn a_route_that_is_removed_lets_its_requests_finish() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let (mut connection, _) = upstream.request().await;
    let mut streaming = lab.client().await;
    streaming.send(get("app.example", "/stream")).await;
    let (mut stream, _) = upstream.request().await;
    stream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    streaming.answer_head().await;
    lab.remove("app.example").await;
    assert_eq!(lab.ask(get("app.example", "/new")).await.status(), 404);
    connection.send(reply("200 OK", "the last")).await;
    assert_eq!(client.answer().await.text(), "the last");
    stream.send(chunk("more")).await;
    streaming.until("more").await;
    stream.send("0\r\n\r\n").await;
    streaming.until("0\r\n\r\n").await;
    // The clients' connections are theirs, and lead elsewhere too.
    let _server = lab.serving("other.example").await;
    for client in [&mut client, &mut streaming] {
        client.send(get("other.example", "/")).await;
        assert_eq!(client.answer().await.text(), "GET /");
    }
}

#[tokio::test]
async fn a_route_that_is_removed_does_not_wait_for_ever() {
    let lab = lab::start_with(|config| config.drain_timeout = lab::seconds(1)).await;
    let upstream = lab.scripted("app.example").await;
    let [(mut client, mut connection), (mut streaming, mut stream), (mut upgraded, mut tunnel)] =
        under_way(&lab, &upstream).await;
    lab.remove("app.example").await;
    // A route of the same name is another one, and no reason to keep what belonged to the old.
    let _server = lab.serving("app.example").await;
    if let Ok(answer) = client.try_answer().await {
        assert!([502, 503, 504].contains(&answer.status()), "{answer:?}");
    }
    let rest = streaming.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it looks whole");
    upgraded.closed().await;
    for connection in [&mut connection, &mut stream, &mut tunnel] {
        connection.closed().await;
    }
    lab.active("app.example", 0, 0).await;
    lab.assert_alive().await;
}
