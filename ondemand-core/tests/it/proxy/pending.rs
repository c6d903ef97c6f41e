//! Routes to what is not ready yet: requests are held instead of failing.

use super::lab::{self, get, post, upgrade};

#[tokio::test]
async fn a_request_is_held_until_its_route_is_ready() {
    let lab = lab::start().await;
    lab.pending("app.example").await;
    let mut clients = Vec::new();
    for i in 0..10 {
        let mut client = lab.client().await;
        client
            .send(if i % 2 == 0 {
                get("app.example", &format!("/{i}"))
            } else {
                post("app.example", &format!("/{i}"), "abc")
            })
            .await;
        clients.push(client);
    }
    lab.active("app.example", 10, 0).await;
    lab.every_chance().await;
    for client in &mut clients {
        assert_eq!(client.so_far(), b"");
    }
    let server = lab.serving("app.example").await;
    for (i, client) in clients.iter_mut().enumerate() {
        let answer = client.answer().await;
        assert_eq!(answer.status(), 200);
        assert!(answer.text().ends_with(&format!(" /{i}")));
    }
    assert_eq!(server.requests().len(), 10);
    assert!(
        server.requests().iter().all(|request| request.body.len() == if request.method() == "POST" { 3 } else { 0 })
    );
    lab.active("app.example", 0, 0).await;
}

/// A route that is there may be told to wait; what it does already goes on.
#[tokio::test]
async fn a_route_may_become_pending_again() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut before = lab.client().await;
    before.send(get("app.example", "/before")).await;
    let (mut connection, _) = upstream.request().await;
    let paused = ondemand_core::router::Route {
        pending: true,
        ..ondemand_core::Router::get(&lab.proxy, &lab::host("app.example")).await.unwrap()
    };
    lab.set(paused).await;
    let mut after = lab.client().await;
    after.send(get("app.example", "/after")).await;
    lab.active("app.example", 2, 0).await;
    connection.send(lab::reply("200 OK", "went on")).await;
    assert_eq!(before.answer().await.text(), "went on");
    lab.every_chance().await;
    assert_eq!(after.so_far(), b"");
    let _server = lab.serving("app.example").await;
    assert_eq!(after.answer().await.text(), "GET /after");
}

/// Setting it pending once more releases nobody.
#[tokio::test]
async fn a_route_that_stays_pending_holds_on() {
    let lab = lab::start().await;
    lab.pending("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    lab.active("app.example", 1, 0).await;
    lab.pending("app.example").await;
    lab.every_chance().await;
    assert_eq!(client.so_far(), b"");
    let _server = lab.serving("app.example").await;
    assert_eq!(client.answer().await.status(), 200);
}

#[tokio::test]
async fn a_websocket_is_held_as_well() {
    let lab = lab::start().await;
    lab.pending("app.example").await;
    let mut client = lab.client().await;
    client.send(upgrade("app.example", "echo/1")).await;
    lab.active("app.example", 1, 0).await;
    let upstream = lab.scripted("app.example").await;
    let (mut connection, _) = upstream.request().await;
    connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n").await;
    assert_eq!(client.answer().await.status(), 101);
}

#[tokio::test]
async fn a_request_is_not_held_for_ever() {
    let lab = lab::start_with(|config| config.pending_timeout = lab::seconds(1)).await;
    lab.pending("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let answer = client.answer().await;
    assert_eq!(answer.status(), 503);
    assert!(answer.one("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
    assert_eq!(answer.one("content-type"), "application/problem+json");
    lab.active("app.example", 0, 0).await;
    // The client may try again at once.
    let _server = lab.serving("app.example").await;
    client.send(get("app.example", "/again")).await;
    assert_eq!(client.answer().await.text(), "GET /again");
}

/// A route that goes away instead of becoming ready.
#[tokio::test]
async fn a_request_that_is_held_ends_with_its_route() {
    let lab = lab::start().await;
    lab.pending("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    lab.active("app.example", 1, 0).await;
    lab.remove("app.example").await;
    let answer = client.answer().await;
    assert!([404, 503].contains(&answer.status()), "{answer:?}");
}

/// How many are held is bounded; one that leaves, or is answered, makes room.
#[tokio::test]
async fn only_so_many_requests_are_held() {
    let lab = lab::start_with(|config| config.max_pending = 5).await;
    lab.pending("app.example").await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut client = lab.client().await;
        client.send(get("app.example", "/held")).await;
        held.push(client);
    }
    lab.active("app.example", 5, 0).await;
    for _ in 0..3 {
        let answer = lab.ask(get("app.example", "/too-many")).await;
        assert_eq!(answer.status(), 503);
        assert!(answer.one("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
    }
    // The bound is each route's: another one has room.
    lab.pending("other.example").await;
    let mut other = lab.client().await;
    other.send(get("other.example", "/")).await;
    lab.active("other.example", 1, 0).await;
    // Two leave.
    held.pop().unwrap().abort();
    held.pop().unwrap().abort();
    lab.active("app.example", 3, 0).await;
    for _ in 0..2 {
        let mut client = lab.client().await;
        client.send(get("app.example", "/later")).await;
        held.push(client);
    }
    lab.active("app.example", 5, 0).await;
    assert_eq!(lab.ask(get("app.example", "/too-many")).await.status(), 503);
    let server = lab.serving("app.example").await;
    for client in &mut held {
        assert_eq!(client.answer().await.status(), 200);
    }
    assert_eq!(server.requests().len(), 5);
    // And with all of them served, there is room again.
    lab.pending("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/again")).await;
    lab.active("app.example", 1, 0).await;
}

/// A client that waits may wait with its body unsent; it comes whole.
#[tokio::test]
async fn the_body_of_a_held_request_comes_whole() {
    let lab = lab::start().await;
    lab.pending("app.example").await;
    let mut client = lab.client().await;
    let body = "x".repeat(1 << 20);
    client.send(format!("POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    lab.active("app.example", 1, 0).await;
    let sending = tokio::spawn(async move {
        client.send(&body).await;
        client
    });
    lab.every_chance().await;
    let server = lab.serving("app.example").await;
    assert_eq!(sending.await.unwrap().answer().await.status(), 200);
    assert_eq!(server.request().body.len(), 1 << 20);
}

/// Removed and set again before anyone looks, a route is a new one, and what it held belongs to it: counted there, and not cut off with
/// the old one.
#[tokio::test]
async fn what_was_held_belongs_to_the_route_that_took_it() {
    let lab = lab::start_with(|config| config.drain_timeout = lab::seconds(1)).await;
    let upstream = lab::upstream::Upstream::new().await;
    let route = ondemand_core::router::Route::new(lab::host("app.example"), [upstream.address.into()]);
    let mut tries = 0;
    let (mut client, mut connection) = loop {
        tries += 1;
        assert!(tries <= 100, "the worker always looks in between");
        lab.pending("app.example").await;
        let mut client = lab.client().await;
        client.send(upgrade("app.example", "echo/1")).await;
        lab.active("app.example", 1, 0).await;
        lab.remove("app.example").await;
        lab.set(route.clone()).await;
        // Where the worker looked before the route was set again, the host was unknown.
        tokio::select! {
            (connection, _) = upstream.request() => break (client, connection),
            answer = client.answer() => assert_eq!(answer.status(), 404),
        }
        lab.remove("app.example").await;
    };
    connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n").await;
    assert_eq!(client.answer().await.status(), 101);
    lab.active("app.example", 0, 1).await;
    // The old route's time to finish passes, which another one's shows.
    let other = lab.scripted("other.example").await;
    let mut cut = lab.client().await;
    cut.send(get("other.example", "/")).await;
    let _kept = other.request().await;
    lab.remove("other.example").await;
    cut.closed().await;
    client.send("ping").await;
    assert_eq!(connection.exactly(4).await, b"ping");
}
