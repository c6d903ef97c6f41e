//! Routes with several upstreams.

use std::collections::BTreeMap;

use super::lab::{self, Server, get, post};

#[tokio::test]
async fn upstreams_take_turns() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let servers = [Server::saying("a").await, Server::saying("b").await, Server::saying("c").await];
    lab.route("app.example", &servers.each_ref().map(|server| server.address)).await;
    let mut client = lab.client().await;
    let mut said = BTreeMap::<String, u32>::new();
    for _ in 0..30 {
        client.send(get("app.example", "/")).await;
        *said.entry(client.answer().await.text()).or_default() += 1;
    }
    assert_eq!(said, BTreeMap::from([("a".into(), 10), ("b".into(), 10), ("c".into(), 10)]));
}

/// However many threads work, each upstream gets about its share.
#[tokio::test]
async fn upstreams_take_turns_for_many_clients() {
    let lab = lab::start().await;
    let servers = [Server::saying("a").await, Server::saying("b").await];
    lab.route("app.example", &servers.each_ref().map(|server| server.address)).await;
    for _ in 0..100 {
        lab.ask(get("app.example", "/")).await;
    }
    let share = servers[0].requests().len();
    assert!((30..=70).contains(&share), "{share} of 100");
}

#[tokio::test]
async fn an_upstream_that_is_dead_fails_no_get() {
    let lab = lab::start().await;
    let (dead, _kept) = lab::refusing();
    let server = Server::saying("alive").await;
    lab.route("app.example", &[dead, server.address]).await;
    let mut client = lab.client().await;
    for i in 0..50 {
        // What was never sent can be sent elsewhere, whatever it is.
        client.send(if i % 2 == 0 { get("app.example", "/") } else { post("app.example", "/", "abc") }).await;
        assert_eq!(client.answer().await.text(), "alive", "{i}");
    }
    assert!(
        server.requests().iter().filter(|request| request.method() == "POST").all(|request| request.body == b"abc")
    );
}

/// One that dies while it is used, and comes back to life.
#[tokio::test]
async fn an_upstream_that_lives_again_is_used_again() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let (one, two) = (Server::saying("one").await, Server::saying("two").await);
    let address = two.address;
    lab.route("app.example", &[one.address, address]).await;
    let mut client = lab.client().await;
    let mut ask = async || {
        client.send(get("app.example", "/")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.text()
    };
    let mut said = Vec::new();
    for _ in 0..10 {
        said.push(ask().await);
    }
    assert!(said.contains(&"one".to_owned()) && said.contains(&"two".to_owned()), "{said:?}");
    two.stop().await;
    for _ in 0..30 {
        assert_eq!(ask().await, "one");
    }
    let _two = lab::upstream::Upstream::at(address).await.serve(|_| lab::reply("200 OK", "two"));
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while ask().await != "two" {
        assert!(tokio::time::Instant::now() < deadline, "it is never used again");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// With all of them dead, each request fails at once, and the first that lives is found.
#[tokio::test]
async fn with_all_upstreams_dead_the_next_that_lives_is_found() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let ((first, kept), (second, _kept)) = (lab::refusing(), lab::refusing());
    lab.route("app.example", &[first, second]).await;
    for _ in 0..10 {
        assert_eq!(lab.ask(get("app.example", "/")).await.status(), 502);
    }
    drop(kept);
    let _server = lab::upstream::Upstream::at(first).await.serve(|_| lab::reply("200 OK", "alive"));
    // That one was found dead is no reason not to try it when there is no other.
    assert_eq!(lab.ask(get("app.example", "/")).await.text(), "alive");
}

/// An upstream that takes the connection and closes it is as dead; but what was sent to it may have been done.
#[tokio::test]
async fn an_upstream_that_closes_at_once_fails_a_post_and_is_left_out() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let closing = lab::upstream::Upstream::new().await;
    let address = closing.address;
    let task = tokio::spawn(async move {
        loop {
            let mut connection = closing.accept().await;
            connection.try_next_request().await.ok();
        }
    });
    let server = Server::saying("alive").await;
    lab.route("app.example", &[address, server.address]).await;
    let mut failed = 0;
    for _ in 0..20 {
        match lab.ask(post("app.example", "/", "abc")).await.status() {
            200 => {}
            status => {
                assert_eq!(status, 502);
                failed += 1;
            }
        }
    }
    // It is passed over for half a second at first, and longer each time; its turns would have been ten.
    assert!((1..=5).contains(&failed), "{failed} of 20 failed");
    assert_eq!(server.requests().len(), 20 - failed, "a request was sent twice");
    // What may be done twice is asked of the other one.
    for _ in 0..20 {
        assert_eq!(lab.ask(get("app.example", "/")).await.text(), "alive");
    }
    task.abort();
}
