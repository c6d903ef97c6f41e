use axum::http::StatusCode;
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::connections::GRACE;
use super::*;
use crate::drain;

/// Serves `app` at a port of loopback, and connects to it.
async fn connect(app: Router) -> (Connections, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (client, served) = tokio::join!(TcpStream::connect(address), listener.accept());
    let connections = Connections::new(Limits { all: 10, per_client: 10 }, None);
    let (stream, peer) = served.expect("a connection");
    connections.spawn(stream, peer, app);
    (connections, client.expect("a connection"))
}

/// Reads until `end` was read.
async fn read_until(client: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut buffer = [0; 4096];
        let read = client.read(&mut buffer).await.expect("an answer");
        assert_ne!(read, 0, "the connection ended after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
    }
    text
}

/// Strangers connect and say nothing, more of them than there are places.
#[tokio::test]
async fn who_says_nothing_keeps_nobody_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let connections = Connections::new(Limits { all: 4, per_client: 4 }, None);
    let (go_on, wait) = oneshot::channel::<()>();
    let once = std::sync::Arc::new(std::sync::Mutex::new(Some(wait)));
    let streamed = move || {
        let wait = once.lock().expect("a lock").take().expect("one request");
        let rest = futures_util::stream::once(async move {
            wait.await.expect("a word");
            Ok::<_, std::convert::Infallible>("the end")
        });
        let begin = futures_util::stream::iter([Ok("the beginning ")]);
        async { axum::body::Body::from_stream(futures_util::StreamExt::chain(begin, rest)) }
    };
    let app = Router::new().route("/", get(|| async { "done" })).route("/streamed", get(streamed));
    let work = async {
        // One that is at work all the time, its answer half sent.
        let mut busy = TcpStream::connect(address).await.expect("a connection");
        busy.write_all(b"GET /streamed HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("a request");
        read_until(&mut busy, "the beginning \r\n").await;
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(TcpStream::connect(address).await.expect("a connection"));
        }
        let mut client = TcpStream::connect(address).await.expect("a connection");
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("a request");
        let answer = read_until(&mut client, "done").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(silent[0].read(&mut [0]).await.expect("the end"), 0, "the first had to go");
        go_on.send(()).expect("it is still served");
        read_until(&mut busy, "the end\r\n0\r\n\r\n").await;
    };
    tokio::select! {
        never = accept(listener, app, &connections) => match never {},
        () = work => {}
    }
}

#[tokio::test]
async fn where_all_are_at_work_a_new_one_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let connections = Connections::new(Limits { all: 1, per_client: 1 }, None);
    let (arrived, began) = oneshot::channel();
    let once = std::sync::Arc::new(std::sync::Mutex::new(Some(arrived)));
    let handler = move || {
        once.lock().expect("a lock").take().expect("one request").send(()).expect("the test waits");
        std::future::pending::<&str>()
    };
    let app = Router::new().route("/", get(handler));
    let work = async {
        let mut busy = TcpStream::connect(address).await.expect("a connection");
        busy.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("a request");
        began.await.expect("the request arrives");
        let mut client = TcpStream::connect(address).await.expect("a connection");
        let mut told = String::new();
        client.read_to_string(&mut told).await.expect("an answer");
        assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
    };
    tokio::select! {
        never = accept(listener, app, &connections) => match never {},
        () = work => {}
    }
}

/// The answer to a request that is refused before it was read must not be lost in a reset connection.
#[tokio::test]
async fn an_early_answer_arrives_while_the_client_still_sends() {
    let app = Router::new()
        .route("/", post(|| async { (StatusCode::UNAUTHORIZED, "no").into_response() }))
        .layer(middleware::map_request(drain::arm));
    let (_connections, mut client) = connect(app).await;
    let length = 64 << 20;
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    client.write_all(head.as_bytes()).await.expect("the head is taken");
    // More than any buffer between here and there holds: this ends only if the server reads it.
    client.write_all(&vec![b'x'; length]).await.expect("the body is taken");
    let answer = read_until(&mut client, "no").await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    // And the connection is still good for another request.
    client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await.expect("a second request");
    read_until(&mut client, "no").await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_not_asked_to_send() {
    let app = Router::new()
        .route("/", post(|| async { (StatusCode::UNAUTHORIZED, "no").into_response() }))
        .layer(middleware::map_request(drain::arm));
    let (_connections, mut client) = connect(app).await;
    let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n";
    client.write_all(head.as_bytes()).await.expect("the head is taken");
    let answer = read_until(&mut client, "no").await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn ending_lets_a_request_end_first() {
    let (go_on, wait) = oneshot::channel::<()>();
    let (arrived, began) = oneshot::channel();
    let once = std::sync::Mutex::new(Some((wait, arrived)));
    let once = std::sync::Arc::new(once);
    let handler = move || {
        let (wait, arrived) = once.lock().expect("a lock").take().expect("one request");
        async move {
            arrived.send(()).expect("the test waits");
            wait.await.expect("a word");
            "done"
        }
    };
    let (connections, mut client) = connect(Router::new().route("/", get(handler))).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("a request");
    began.await.expect("the request arrives");
    let end = tokio::spawn(connections.end());
    go_on.send(()).expect("the handler waits");
    let answer = read_until(&mut client, "done").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    end.await.expect("it ends");
    assert_eq!(client.read(&mut [0]).await.expect("the end"), 0);
}

#[tokio::test]
async fn ending_does_not_wait_for_idle_connections() {
    let (connections, mut client) = connect(Router::new().route("/", get(|| async { "done" }))).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("a request");
    read_until(&mut client, "done").await;
    tokio::time::timeout(GRACE / 2, connections.end()).await.expect("it does not wait");
    assert_eq!(client.read(&mut [0]).await.expect("the end"), 0);
}

#[tokio::test]
async fn an_address_in_use_is_a_conflict() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let error = listen(taken.local_addr().expect("an address")).expect_err("taken");
    assert_eq!(error.code(), ondemand_core::Code::Conflict);
    assert!(error.hint().is_some_and(|hint| hint.contains("--listen")));
}

/// The kernel makes clients try again, after a second, that find the queue full.
#[tokio::test]
async fn as_many_may_wait_as_the_system_lets() {
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("a number");
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = listen(address.parse().expect("an address")).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shown = std::process::Command::new("ss").args(["-Hltn", &format!("sport = :{port}")]).output();
        let shown = String::from_utf8(shown.expect("ss, of iproute2").stdout).expect("text");
        // Its state, how many wait, and how many may.
        assert_eq!(shown.split_ascii_whitespace().nth(2), Some(most.trim()), "{address}: {shown}");
    }
}

#[tokio::test]
async fn an_exposed_server_does_not_start() {
    let mut config = Config::default();
    config.http.listen = "0.0.0.0:0".parse().expect("an address");
    let error = serve(&config, std::future::pending(), |_| ()).await.expect_err("refused");
    assert_eq!(error.code(), ondemand_core::Code::Forbidden);
}

/// Tells when it is dropped.
struct Tell(Option<oneshot::Sender<()>>);

impl Drop for Tell {
    fn drop(&mut self) {
        // The test may have ended by itself.
        let _ = self.0.take().map(|sender| sender.send(()));
    }
}

/// Makes a service that never answers, and tells when a request arrives and when it is given up.
fn stuck() -> (Router, oneshot::Receiver<()>, oneshot::Receiver<()>) {
    let (arrived, began) = oneshot::channel();
    let (dropped, given_up) = oneshot::channel();
    let once = std::sync::Arc::new(std::sync::Mutex::new(Some((arrived, Tell(Some(dropped))))));
    let handler = move |body: axum::body::Body| {
        let (arrived, tell) = once.lock().expect("a lock").take().expect("one request");
        async move {
            arrived.send(()).expect("the test waits");
            let _tell = tell;
            // As an import does: it fails where its input breaks, and works on when it has all of it.
            if axum::body::to_bytes(body, usize::MAX).await.is_ok() {
                std::future::pending::<()>().await;
            }
        }
    };
    (Router::new().route("/", post(handler)).layer(middleware::map_request(drain::arm)), began, given_up)
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_request() {
    for (length, body) in [(1000, "some"), (4, "all!")] {
        let (app, began, given_up) = stuck();
        let (_connections, mut client) = connect(app).await;
        let request = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
        client.write_all(request.as_bytes()).await.expect("a request");
        began.await.expect("the request arrives");
        drop(client);
        let given_up = tokio::time::timeout(Duration::from_secs(30), given_up).await;
        given_up.expect("it is dropped in time").expect("the request is dropped");
    }
}

#[tokio::test]
async fn ending_closes_what_does_not_end() {
    let (app, began, given_up) = stuck();
    let (connections, mut client) = connect(app).await;
    client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await.expect("a request");
    began.await.expect("the request arrives");
    // The clock jumps to the end of the grace.
    tokio::time::pause();
    connections.end().await;
    given_up.await.expect("the request is dropped");
    assert_eq!(client.read(&mut [0]).await.expect("the end"), 0);
}
