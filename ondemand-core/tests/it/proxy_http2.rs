//! The proxy between clients and upstreams that speak HTTP/2.
#![cfg(feature = "proxy")]
#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ondemand_core::config::{CertificateFiles, ProxyConfig};
use ondemand_core::router::{Protocol, Proxy, Route};
use ondemand_core::{Hostname, Router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(30);

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn full(data: impl Into<Bytes>) -> Body {
    Full::new(data.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that is sent frame by frame.
fn channel() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|frame| (Ok(frame), receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

fn host(name: &str) -> Hostname {
    Hostname::new(name).expect("a host")
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

/// An upstream that speaks both versions, and says by which it was asked: `/echo` sends the body and its trailers back, `/hang` never
/// answers, `/endless` answers without end, and anything else gets the fields of the request.
struct Upstream {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    events: mpsc::UnboundedReceiver<&'static str>,
    task: JoinHandle<()>,
}

struct Hanging(mpsc::UnboundedSender<&'static str>);

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = self.0.send("given up");
    }
}

async fn answer(
    request: Request<Incoming>,
    events: mpsc::UnboundedSender<&'static str>,
) -> Result<Response<Body>, Infallible> {
    let version = HeaderValue::from_static(if request.version() == Version::HTTP_2 { "2" } else { "1.1" });
    let mut answer = match request.uri().path() {
        "/echo" => Response::new(request.into_body().map_err(Into::into).boxed_unsync()),
        "/endless" => {
            let sender = events;
            let frames = futures_util::stream::repeat_with(move || {
                sender.send("sent").expect("told");
                Ok(Frame::data(Bytes::from_static(&[7; 16 << 10])))
            });
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        "/hang" => {
            events.send("began").expect("told");
            let _hanging = Hanging(events);
            std::future::pending().await
        }
        _ => {
            let line = |(name, value): (&http::HeaderName, &HeaderValue)| {
                format!("{name}: {}\n", value.to_str().expect("text"))
            };
            let fields: String = request.headers().iter().map(line).collect();
            Response::new(full(format!("{} {}\n{fields}", request.method(), request.uri())))
        }
    };
    answer.headers_mut().insert("x-asked-by", version);
    Ok(answer)
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let accepted = Arc::new(AtomicUsize::new(0));
        let (sender, events) = mpsc::unbounded_channel();
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut all = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                socket.set_nodelay(true).expect("set");
                count.fetch_add(1, Ordering::SeqCst);
                let sender = sender.clone();
                all.spawn(async move {
                    let service = service_fn(move |request| answer(request, sender.clone()));
                    let mut preface = [0; 3];
                    let two = matches!(socket.peek(&mut preface).await, Ok(3)) && &preface == b"PRI";
                    let io = TokioIo::new(socket);
                    // Whatever ends it is the test's doing.
                    if two {
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = builder.serve_connection(io, service).await;
                    } else {
                        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                    }
                });
            }
        });
        Self { address, accepted, events, task }
    }

    fn route(&self, name: &str, protocol: Protocol) -> Route {
        Route::new(host(name), [self.address.to_string().parse().expect("an upstream")]).with_protocol(protocol)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn config() -> ProxyConfig {
    ProxyConfig { listen: ([127, 0, 0, 1], 0).into(), workers: Some(1), ..ProxyConfig::default() }
}

/// Starts a proxy with a route to an upstream for each version: `one.example` and `two.example`.
async fn start(config: &ProxyConfig) -> (Proxy, Upstream) {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(config).await.expect("started");
    proxy.set(&upstream.route("one.example", Protocol::Http1)).await.expect("set");
    proxy.set(&upstream.route("two.example", Protocol::Http2)).await.expect("set");
    (proxy, upstream)
}

async fn connect(proxy: &Proxy) -> (SendRequest<Body>, JoinHandle<hyper::Result<()>>) {
    let socket = TcpStream::connect(proxy.address()).await.expect("a connection");
    socket.set_nodelay(true).expect("set");
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.handshake(TokioIo::new(socket)).await.expect("a handshake");
    (sender, tokio::spawn(connection))
}

fn get(url: &str) -> Request<Body> {
    Request::get(url).body(empty()).expect("a request")
}

async fn text(body: Incoming) -> String {
    let bytes = soon(body.collect()).await.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// Runs curl, and returns what it printed.
async fn curl(arguments: &[&str]) -> Vec<u8> {
    let mut command = tokio::process::Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "30", "--noproxy", "*"]).args(arguments);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("curl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn certificate(dir: &Path) -> CertificateFiles {
    let made =
        rcgen::generate_simple_self_signed(["one.example", "two.example"].map(String::from)).expect("a certificate");
    let files = CertificateFiles { certificate: dir.join("tls.crt"), key: dir.join("tls.key") };
    std::fs::write(&files.certificate, made.cert.pem()).expect("written");
    std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
    files
}

#[tokio::test]
async fn curl_reaches_upstreams_of_either_version_by_either_version() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = certificate(dir.path());
    let authority = files.certificate.display().to_string();
    let config = ProxyConfig { tls_listen: Some(([127, 0, 0, 1], 0).into()), certificates: vec![files], ..config() };
    let (proxy, _upstream) = start(&config).await;
    let upload = dir.path().join("upload");
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i >> 3).to_le_bytes()[0]).collect();
    std::fs::write(&upload, &data).expect("written");
    let upload = format!("@{}", upload.display());
    let (plain, secure) = (proxy.address().port(), proxy.tls_address().expect("TLS").port());
    for (name, asked_by) in [("one.example", "1.1"), ("two.example", "2")] {
        for (scheme, port, version, options) in [
            ("http", plain, "1.1", &["--http1.1"][..]),
            ("http", plain, "2", &["--http2-prior-knowledge"]),
            ("https", secure, "1.1", &["--http1.1", "--cacert", &authority]),
            ("https", secure, "2", &["--http2", "--cacert", &authority]),
        ] {
            let what = format!("{name} by {scheme} {version}");
            let resolve = format!("{name}:{port}:127.0.0.1");
            let url = format!("{scheme}://{name}:{port}");
            let (fields, echo) = (format!("{url}/x?y=1"), format!("{url}/echo"));
            let options = [&["--resolve", &resolve][..], options].concat();
            let seen = [&options[..], &[&fields, "--write-out", "%{http_version} %header{x-asked-by}"]].concat();
            let seen = String::from_utf8(curl(&seen).await).expect("text").to_lowercase();
            assert!(seen.ends_with(&format!("\n{version} {asked_by}")), "{what}: {seen}");
            assert!(seen.starts_with("get ") && seen.contains("/x?y=1\n"), "{what}: {seen}");
            for field in [
                "x-forwarded-for: 127.0.0.1\n".to_owned(),
                format!("x-forwarded-proto: {scheme}\n"),
                format!("x-forwarded-host: {name}:{port}\n"),
                format!("forwarded: for=127.0.0.1;proto={scheme};host=\"{name}:{port}\"\n"),
            ] {
                assert!(seen.contains(&field), "{what}: {seen}");
            }
            let echoed =
                curl(&[&options[..], &[&echo, "--data-binary", &upload, "--header", "Expect:"]].concat()).await;
            assert!(echoed == data, "{what}: {} bytes", echoed.len());
        }
    }
    proxy.shutdown().await;
}

#[tokio::test]
async fn the_proxy_answers_by_itself_as_it_does_in_http1() {
    let (proxy, _upstream) = start(&config()).await;
    let (mut client, _connection) = connect(&proxy).await;
    let unknown = || Request::get("http://unknown.example/");
    let answer = soon(client.send_request(unknown().body(empty()).expect("a request"))).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert!(text(answer.into_body()).await.contains("\"code\":\"not_found\""));
    let request = unknown().header("accept", "text/html").body(full("a body that nobody reads")).expect("a request");
    let answer = soon(client.send_request(request)).await.expect("an answer");
    assert_eq!(
        (answer.status(), &answer.headers()["content-type"]),
        (StatusCode::NOT_FOUND, &"text/html; charset=utf-8".parse().expect("a value"))
    );
    assert!(text(answer.into_body()).await.contains("unknown.example"));
    // Fields that are too large are refused, and the connection goes on.
    let request = get("http://one.example/");
    let (mut parts, body) = request.into_parts();
    for _ in 0..40 {
        parts.headers.append("x-large", HeaderValue::from_str(&"x".repeat(1000)).expect("a value"));
    }
    let answer = soon(client.send_request(Request::from_parts(parts, body))).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let answer = soon(client.send_request(get("http://one.example/"))).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let metrics = proxy.metrics();
    assert!(metrics.contains("one.example"), "{metrics}");
    assert_eq!(proxy.activity(&host("one.example")).expect("a route").requests, 1);
    proxy.shutdown().await;
}

#[tokio::test]
async fn cookies_are_joined_and_trailers_go_through() {
    let (proxy, upstream) = start(&config()).await;
    let (mut client, _connection) = connect(&proxy).await;
    for (name, asked_by) in [("one.example", "1.1"), ("two.example", "2")] {
        let crumbs = Request::get(format!("http://{name}/")).header("cookie", "a=1").header("cookie", "b=2");
        let answer = soon(client.send_request(crumbs.body(empty()).expect("a request"))).await.expect("an answer");
        assert_eq!(answer.headers()["x-asked-by"], asked_by);
        let seen = text(answer.into_body()).await;
        assert!(seen.contains("cookie: a=1; b=2\n"), "{seen}");

        // As gRPC does it: the answer begins before the request ends, and trailers end both.
        let (sender, body) = channel();
        let request = Request::post(format!("http://{name}/echo")).header("te", "trailers").header("trailer", "x-sum");
        let answer = soon(client.send_request(request.body(body).expect("a request"))).await.expect("an answer");
        let mut body = answer.into_body();
        for piece in ["one", "two"] {
            soon(sender.send(Frame::data(piece.into()))).await.expect("sent");
            let frame = soon(body.frame()).await.expect("a frame").expect("data");
            assert_eq!(frame.into_data().expect("data"), piece);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        soon(sender.send(Frame::trailers(trailers.clone()))).await.expect("sent");
        drop(sender);
        let rest = soon(body.collect()).await.expect("the rest");
        // hyper's server of HTTP/1.1 sends only those trailers back that it announced.
        if name == "two.example" {
            assert_eq!(rest.trailers(), Some(&trailers));
        }
        assert_eq!(rest.to_bytes(), "");
    }
    drop(upstream);
    proxy.shutdown().await;
}

#[tokio::test]
async fn large_bodies_go_both_ways_at_once_on_many_streams() {
    let (proxy, _upstream) = start(&config()).await;
    let (client, _connection) = connect(&proxy).await;
    let mut all = JoinSet::new();
    for number in 0..8_u8 {
        let mut client = client.clone();
        let name = if number % 2 == 0 { "one.example" } else { "two.example" };
        all.spawn(async move {
            let (sender, body) = channel();
            let request = Request::post(format!("http://{name}/echo")).body(body).expect("a request");
            let answer = client.send_request(request).await.expect("an answer");
            let sending = async {
                for _ in 0..50 {
                    sender.send(Frame::data(vec![number; 100_000].into())).await.expect("sent");
                }
                drop(sender);
            };
            let ((), received) = tokio::join!(sending, answer.into_body().collect());
            let received = received.expect("a body").to_bytes();
            assert!(received.len() == 5_000_000 && received.iter().all(|byte| *byte == number), "{number}");
        });
    }
    soon(async {
        while let Some(result) = all.join_next().await {
            result.expect("whole");
        }
    })
    .await;
    proxy.shutdown().await;
}

#[tokio::test]
async fn a_request_that_is_given_up_is_given_up_at_the_upstream() {
    let (proxy, mut upstream) = start(&config()).await;
    for name in ["one.example", "two.example"] {
        let (mut client, _connection) = connect(&proxy).await;
        let hanging = tokio::spawn(client.send_request(get(&format!("http://{name}/hang"))));
        assert_eq!(soon(upstream.events.recv()).await, Some("began"));
        assert_eq!(proxy.activity(&host(name)).expect("a route").in_flight, 1);
        hanging.abort();
        assert_eq!(soon(upstream.events.recv()).await, Some("given up"), "{name}");
        let answer = soon(client.send_request(get(&format!("http://{name}/")))).await.expect("the connection goes on");
        assert_eq!(answer.status(), StatusCode::OK);
        drop(text(answer.into_body()).await);
        soon(async {
            while proxy.activity(&host(name)).expect("a route").in_flight > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    proxy.shutdown().await;
}

#[tokio::test]
async fn a_pending_route_holds_streams_and_no_others() {
    let (proxy, upstream) = start(&config()).await;
    proxy.set(&Route::pending(host("late.example"))).await.expect("set");
    let (mut client, _connection) = connect(&proxy).await;
    let request = Request::post("http://late.example/echo").body(full("held")).expect("a request");
    let mut held = tokio::spawn(client.send_request(request));
    soon(async {
        while proxy.activity(&host("late.example")).expect("a route").in_flight == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let answer = soon(client.send_request(get("http://one.example/"))).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(!held.is_finished());
    proxy.set(&upstream.route("late.example", Protocol::Http2)).await.expect("set");
    let answer = soon(&mut held).await.expect("joined").expect("an answer");
    assert_eq!(text(answer.into_body()).await, "held");
    proxy.shutdown().await;
}

#[tokio::test]
async fn a_route_that_is_removed_ends_its_own_streams_only() {
    let config = ProxyConfig { drain_timeout: "1s".parse().expect("a time"), ..config() };
    let (proxy, mut upstream) = start(&config).await;
    let (mut client, connection) = connect(&proxy).await;
    let hanging = tokio::spawn(client.send_request(get("http://one.example/hang")));
    assert_eq!(soon(upstream.events.recv()).await, Some("began"));
    let (sender, body) = channel();
    let request = Request::post("http://two.example/echo").body(body).expect("a request");
    let other = soon(client.send_request(request)).await.expect("an answer");
    proxy.remove(&host("one.example")).await.expect("removed");
    // It may go on for as long as things may drain, and is reset then.
    assert_eq!(soon(upstream.events.recv()).await, Some("given up"));
    assert!(soon(hanging).await.expect("joined").is_err());
    soon(sender.send(Frame::data("still here".into()))).await.expect("sent");
    drop(sender);
    assert_eq!(text(other.into_body()).await, "still here");
    assert!(!connection.is_finished());
    proxy.shutdown().await;
}

#[tokio::test]
async fn what_is_in_flight_finishes_when_the_proxy_ends() {
    let (proxy, _upstream) = start(&config()).await;
    let (mut client, connection) = connect(&proxy).await;
    let (sender, body) = channel();
    let request = Request::post("http://two.example/echo").body(body).expect("a request");
    let answer = soon(client.send_request(request)).await.expect("an answer");
    let ending = tokio::spawn({
        let proxy = proxy.clone();
        async move { proxy.shutdown().await }
    });
    // It says so, and takes no more.
    soon(async { while client.send_request(get("http://one.example/")).await.is_ok() {} }).await;
    assert!(!ending.is_finished());
    soon(sender.send(Frame::data("to the end".into()))).await.expect("sent");
    drop(sender);
    assert_eq!(text(answer.into_body()).await, "to the end");
    soon(connection).await.expect("joined").expect("a clean end");
    soon(ending).await.expect("ended");
}

#[tokio::test]
async fn an_upstream_of_http2_that_refuses_is_not_asked_for_ever() {
    let (proxy, _upstream) = start(&config()).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (requests, mut seen) = watch::channel(0_usize);
    // It resets every stream, and keeps the connection.
    let refusing = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            socket.read_exact(&mut [0; 24]).await.expect("a preface");
            socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("SETTINGS");
            let mut head = [0; 9];
            while socket.read_exact(&mut head).await.is_ok() {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                socket.read_exact(&mut vec![0; length]).await.expect("a frame");
                if head[3] == 1 {
                    requests.send_modify(|count| *count += 1);
                    let stream = [head[5], head[6], head[7], head[8]];
                    socket.write_all(&[0, 0, 4, 3, 0]).await.expect("RST_STREAM");
                    socket.write_all(&[stream, [0, 0, 0, 2]].concat()).await.expect("its reason");
                }
            }
        }
    });
    let route = Route::new(host("refusing.example"), [address.parse().expect("an upstream")]);
    proxy.set(&route.with_protocol(Protocol::Http2)).await.expect("set");
    let (mut client, _connection) = connect(&proxy).await;
    for _ in 0..3 {
        let answer = soon(client.send_request(get("http://refusing.example/"))).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    }
    // The first came on a new connection; the others may have been lost with an old one, and are asked once more.
    assert_eq!(*seen.borrow_and_update(), 1 + 2 + 2);
    refusing.abort();
    proxy.shutdown().await;
}

#[tokio::test]
async fn an_upstream_of_http2_that_was_restarted_is_found_again() {
    let (proxy, upstream) = start(&config()).await;
    let (mut client, _connection) = connect(&proxy).await;
    let ask = || Request::post("http://two.example/echo").body(full("x")).expect("a request");
    for _ in 0..3 {
        let answer = soon(client.send_request(ask())).await.expect("an answer");
        assert_eq!(text(answer.into_body()).await, "x");
    }
    assert_eq!(upstream.accepted.load(Ordering::SeqCst), 1, "one connection for all");
    let address = upstream.address;
    upstream.task.abort();
    drop(upstream);
    let listener = soon(async {
        loop {
            if let Ok(listener) = TcpListener::bind(address).await {
                return listener;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let again = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.expect("a connection");
        let service =
            service_fn(|request: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(request.into_body())) });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(socket), service).await;
    });
    let answer = soon(client.send_request(ask())).await.expect("an answer");
    assert_eq!((answer.status(), text(answer.into_body()).await.as_str()), (StatusCode::OK, "x"));
    again.abort();
    proxy.shutdown().await;
}

/// Those that do not read what they asked for, and those that wait for long, hold up nobody else who asks the same upstream.
#[tokio::test]
async fn an_upstream_of_http2_serves_others_while_some_wait() {
    let (proxy, mut upstream) = start(&config()).await;
    let ask = async |path: &str| {
        let mut client = TcpStream::connect(proxy.address()).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nHost: two.example\r\n\r\n");
        client.write_all(request.as_bytes()).await.expect("sent");
        client
    };
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(ask("/endless").await);
    }
    // Nothing tells that all buffers are full but that nothing more is sent.
    while tokio::time::timeout(Duration::from_secs(1), upstream.events.recv()).await.is_ok() {}
    for _ in 0..250 {
        clients.push(ask("/hang").await);
        assert_eq!(soon(upstream.events.recv()).await, Some("began"));
    }
    let (mut client, _connection) = connect(&proxy).await;
    let answer = soon(client.send_request(get("http://two.example/"))).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    drop(text(answer.into_body()).await);
    assert_eq!(upstream.accepted.load(Ordering::SeqCst), 3, "a hundred share a connection");
    drop(clients);
}

/// Streams have connections with upstreams of their own, and so count as connections do.
#[tokio::test]
async fn streams_count_as_connections() {
    let config = ProxyConfig { max_connections_per_client: 3, ..config() };
    let (proxy, mut upstream) = start(&config).await;
    let (mut client, _connection) = connect(&proxy).await;
    let mut hanging = Vec::new();
    for _ in 0..2 {
        hanging.push(tokio::spawn(client.send_request(get("http://one.example/hang"))));
        assert_eq!(soon(upstream.events.recv()).await, Some("began"));
    }
    let answer = soon(client.send_request(get("http://one.example/"))).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    hanging.swap_remove(0).abort();
    assert_eq!(soon(upstream.events.recv()).await, Some("given up"));
    soon(async {
        while soon(client.send_request(get("http://one.example/"))).await.expect("an answer").status() != StatusCode::OK
        {
        }
    })
    .await;
}
