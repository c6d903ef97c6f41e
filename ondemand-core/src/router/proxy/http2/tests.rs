//! Clients of HTTP/2 over sockets, before an engine that each test makes up.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::server::{Limits, is_preface, serve};
use crate::config::CertificateFiles;
use crate::router::proxy::tls::Certificates;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);

type Engine = Arc<dyn Fn(DuplexStream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;
type ClientBody = UnsyncBoxBody<Bytes, std::io::Error>;

fn engine<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(DuplexStream) -> F + Send + Sync + 'static,
) -> Engine {
    Arc::new(move |pipe| Box::pin(serve(pipe)))
}

/// Sends back what it gets, in HTTP/1.1.
fn echo() -> Engine {
    engine(|pipe| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            let (parts, body) = request.into_parts();
            let mut answer = Response::new(body);
            for name in ["host", "x-sent", "cookie"] {
                if let Some(value) = parts.headers.get(name) {
                    answer.headers_mut().insert(http::HeaderName::from_static(name), value.clone());
                }
            }
            Ok::<_, hyper::Error>(answer)
        });
        // A client that goes away is an error here.
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(pipe), service).await;
    })
}

/// Reads the head of a request, and answers with what it is told, byte for byte.
fn says(answer: &'static [u8]) -> Engine {
    engine(move |mut pipe| async move {
        read_head(&mut pipe).await;
        pipe.write_all(answer).await.expect("written");
    })
}

async fn read_head(pipe: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(pipe.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

fn limits() -> Limits {
    Limits { header_size: 32 << 10, header_timeout: DEADLINE, keep_alive_timeout: DEADLINE, idle_timeout: DEADLINE }
}

struct Server {
    address: SocketAddr,
    ending: watch::Sender<bool>,
    connections: JoinHandle<()>,
}

impl Server {
    async fn start(engine: &Engine, limits: Limits, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (ending, ends) = watch::channel(false);
        let engine = Arc::clone(engine);
        let connections = tokio::spawn(async move {
            let mut all = JoinSet::new();
            let mut stop = ends.clone();
            loop {
                let (socket, _) = tokio::select! {
                    accepted = listener.accept() => accepted.expect("a connection"),
                    _ = stop.wait_for(|stop| *stop) => break,
                };
                socket.set_nodelay(true).expect("set");
                let (engine, mut ends, tls) = (Arc::clone(&engine), ends.clone(), tls.clone());
                let ending = async move { drop(ends.wait_for(|ending| *ending).await) };
                let engine = move |pipe| engine(pipe);
                all.spawn(async move {
                    match tls {
                        Some(tls) => serve(tls.accept(socket).await.expect("TLS"), limits, engine, ending).await,
                        None => serve(socket, limits, engine, ending).await,
                    }
                });
            }
            drop(listener);
            while all.join_next().await.is_some() {}
        });
        Self { address, ending, connections }
    }

    async fn of(engine: Engine) -> Self {
        Self::start(&engine, limits(), None).await
    }

    async fn client(&self) -> (SendRequest<ClientBody>, JoinHandle<hyper::Result<()>>) {
        let socket = TcpStream::connect(self.address).await.expect("a connection");
        socket.set_nodelay(true).expect("set");
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(socket)).await.expect("a handshake");
        (sender, tokio::spawn(connection))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.connections.abort();
    }
}

fn empty() -> ClientBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is sent frame by frame.
fn channel() -> (mpsc::Sender<Frame<Bytes>>, ClientBody) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|frame| (Ok(frame), receiver))
    });
    (sender, StreamBody::new(frames.boxed()).boxed_unsync())
}

fn get(path: &str) -> Request<ClientBody> {
    Request::get(format!("http://a.example{path}")).body(empty()).expect("a request")
}

fn post(body: ClientBody) -> Request<ClientBody> {
    Request::post("http://a.example/").body(body).expect("a request")
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

async fn text(body: Incoming) -> String {
    let bytes = soon(body.collect()).await.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn the_preface_is_known_by_its_first_bytes() {
    assert_eq!(is_preface(b""), None);
    assert_eq!(is_preface(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), None);
    assert_eq!(is_preface(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0"), Some(true));
    assert_eq!(is_preface(b"PRI * HTTP/1.1\r\n"), Some(false));
    assert_eq!(is_preface(b"POST / HTTP/1.1\r\n"), Some(false));
}

/// Runs curl, and returns what it printed.
async fn curl(arguments: &[&str]) -> Vec<u8> {
    let mut command = tokio::process::Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--noproxy", "*"]).args(arguments);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("curl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test]
async fn curl_is_served_in_the_clear_and_over_tls() {
    let dir = tempfile::tempdir().expect("a directory");
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
    let files = CertificateFiles { certificate: dir.path().join("crt"), key: dir.path().join("key") };
    std::fs::write(&files.certificate, made.cert.pem()).expect("written");
    std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
    let authority = files.certificate.display().to_string();
    let tls = Certificates::load(&[files]).expect("loaded").server_config();
    let upload = dir.path().join("upload");
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    std::fs::write(&upload, &data).expect("written");
    let upload = format!("@{}", upload.display());

    let plain = Server::of(echo()).await;
    let secure = Server::start(&echo(), limits(), Some(TlsAcceptor::from(tls))).await;
    for (scheme, server, option) in
        [("http", &plain, &["--http2-prior-knowledge"][..]), ("https", &secure, &["--http2", "--cacert", &authority])]
    {
        let port = server.address.port();
        let url = format!("{scheme}://a.example:{port}/");
        let resolve = format!("a.example:{port}:127.0.0.1");
        let mut arguments = vec!["--resolve", &resolve, &url];
        arguments.extend(option);
        let seen =
            curl(&[&arguments[..], &["--write-out", "%{http_version} %{http_code} %header{host}"]].concat()).await;
        assert_eq!(String::from_utf8(seen).expect("text"), format!("2 200 a.example:{port}"));
        let echoed = curl(&[&arguments[..], &["--data-binary", &upload]].concat()).await;
        assert!(echoed == data, "{scheme}: {} bytes", echoed.len());
    }
}

#[tokio::test]
async fn bodies_go_both_ways_at_once_and_to_any_length() {
    let server = Server::of(echo()).await;
    let (mut client, _connection) = server.client().await;
    let (sender, body) = channel();
    let answer = soon(client.send_request(post(body))).await.expect("an answer");
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
    let mut body = answer.into_body();
    // Each piece comes back before the next is sent: nothing is held until there is more.
    for piece in ["a", "bc", "def"] {
        soon(sender.send(Frame::data(piece.into()))).await.expect("sent");
        let frame = soon(body.frame()).await.expect("a frame").expect("data");
        assert_eq!(frame.into_data().expect("data"), piece);
    }
    let chunk = Bytes::from(vec![b'x'; 100_000]);
    let sending = async {
        for _ in 0..100 {
            sender.send(Frame::data(chunk.clone())).await.expect("sent");
        }
        drop(sender);
    };
    let receiving = async { body.collect().await.expect("the rest").to_bytes().len() };
    let ((), received) = soon(async { tokio::join!(sending, receiving) }).await;
    assert_eq!(received, 10_000_000);
}

#[tokio::test]
async fn what_is_not_read_is_not_taken() {
    let (reading, may_read) = watch::channel(false);
    let server = Server::of(engine(move |mut pipe| {
        let mut may_read = may_read.clone();
        async move {
            read_head(&mut pipe).await;
            may_read.wait_for(|may| *may).await.expect("told");
            let mut buffer = vec![0; 64 << 10];
            let mut tail = Vec::new();
            while !tail.ends_with(b"\r\n0\r\n\r\n") {
                let count = pipe.read(&mut buffer).await.expect("read");
                assert_ne!(count, 0);
                tail.extend_from_slice(&buffer[..count]);
                tail.drain(..tail.len().saturating_sub(7));
            }
            pipe.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("written");
        }
    }))
    .await;
    let (mut client, _connection) = server.client().await;
    let (sender, body) = channel();
    let answer = client.send_request(post(body));
    let chunk = Bytes::from(vec![b'x'; 16 << 10]);
    let mut sent = 0;
    // It stalls sooner or later. What was taken is in windows, pipes and the client's own buffer, and never more than they hold.
    while let Ok(result) = tokio::time::timeout(Duration::from_secs(1), sender.send(Frame::data(chunk.clone()))).await {
        result.expect("sent");
        sent += chunk.len();
        assert!(sent < 4 << 20, "{sent} bytes were taken");
    }
    reading.send(true).expect("told");
    soon(sender.send(Frame::data(chunk))).await.expect("it goes on");
    drop(sender);
    assert_eq!(soon(answer).await.expect("an answer").status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn trailers_go_both_ways() {
    let server = Server::of(engine(|mut pipe| async move {
        let head = read_head(&mut pipe).await;
        assert!(head.contains("te: trailers\r\n") && head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
        let mut body = vec![0; b"2\r\nhi\r\n0\r\nx-sent: 1\r\n\r\n".len()];
        pipe.read_exact(&mut body).await.expect("a body");
        assert_eq!(body, b"2\r\nhi\r\n0\r\nx-sent: 1\r\n\r\n");
        let answer =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nho\r\n0\r\nGrpc-Status: 0\r\nX: y\r\n\r\n";
        pipe.write_all(answer.as_bytes()).await.expect("written");
    }))
    .await;
    let (mut client, _connection) = server.client().await;
    let (sender, body) = channel();
    sender.send(Frame::data("hi".into())).await.expect("sent");
    let sending = async {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sent", "1".parse().expect("a value"));
        trailers.insert("content-length", "9".parse().expect("a value"));
        sender.send(Frame::trailers(trailers)).await.expect("sent");
    };
    let mut request = post(body);
    request.headers_mut().insert("te", "trailers".parse().expect("a value"));
    let (answer, ()) = soon(async { tokio::join!(client.send_request(request), sending) }).await;
    let answer = answer.expect("an answer");
    assert!(!answer.headers().contains_key("transfer-encoding"));
    let collected = soon(answer.into_body().collect()).await.expect("a body");
    let trailers = collected.trailers().expect("trailers").clone();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x"]),
        (&"0".parse().expect("a value"), &"y".parse().expect("a value"))
    );
    assert_eq!(collected.to_bytes(), "ho");
}

#[tokio::test]
async fn answers_mean_the_same() {
    let cases: [(&'static [u8], u16, Option<&str>, &str); 6] = [
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, Some("2"), "hi"),
        (b"HTTP/1.1 404 Not Found\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nUpgrade: x\r\nContent-Length: 0\r\n\r\n", 404, Some("0"), ""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, None, ""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304, Some("7"), ""),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, None, "until the end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", 200, None, "abc"),
    ];
    for (answer, status, length, body) in cases {
        let server = Server::of(says(answer)).await;
        let (mut client, _connection) = server.client().await;
        let answer = soon(client.send_request(get("/"))).await.expect("an answer");
        assert_eq!(answer.status(), status);
        let fields = answer.headers().clone();
        assert_eq!(fields.get("content-length").map(|value| value.to_str().expect("text")), length, "{fields:?}");
        assert_eq!(fields.len(), usize::from(length.is_some()), "{fields:?}");
        assert_eq!(text(answer.into_body()).await, body);
    }
    let server = Server::of(says(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")).await;
    let (mut client, _connection) = server.client().await;
    let head = Request::head("http://a.example/").body(empty()).expect("a request");
    let answer = soon(client.send_request(head)).await.expect("an answer");
    assert_eq!(answer.headers()["content-length"], "7");
    assert_eq!(text(answer.into_body()).await, "");
}

#[tokio::test]
async fn a_request_that_is_no_good_is_answered_and_never_seen_by_the_engine() {
    let server = Server::of(engine(|_| async { panic!("it was seen") })).await;
    let (mut client, _connection) = server.client().await;
    let request = Request::get("http://a.example/").header("host", "b.example").body(empty()).expect("a request");
    let answer = soon(client.send_request(request)).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert!(text(answer.into_body()).await.contains(":authority differ"));
}

/// Says when it is dropped.
struct Dropped(mpsc::UnboundedSender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

#[tokio::test]
async fn a_request_that_is_given_up_is_given_up_behind_the_engine() {
    let (sender, mut events) = mpsc::unbounded_channel();
    let server = Server::of(engine(move |mut pipe| {
        let events = sender.clone();
        async move {
            let head = read_head(&mut pipe).await;
            if head.starts_with("GET /begun") {
                pipe.write_all(b"HTTP/1.1 200 OK\r\n\r\nbegun").await.expect("written");
            }
            events.send("began").expect("told");
            let _dropped = Dropped(events);
            std::future::pending::<()>().await;
        }
    }))
    .await;
    let (mut client, _connection) = server.client().await;
    // While its answer is being read.
    let answer = soon(client.send_request(get("/begun"))).await.expect("an answer");
    assert_eq!(soon(events.recv()).await, Some("began"));
    drop(answer);
    assert_eq!(soon(events.recv()).await, Some("dropped"));
    // Before there is one.
    let silent = tokio::spawn(client.send_request(get("/silent")));
    assert_eq!(soon(events.recv()).await, Some("began"));
    silent.abort();
    assert_eq!(soon(events.recv()).await, Some("dropped"));
    // While it is being sent.
    let (sender, body) = channel();
    let sending = tokio::spawn(client.send_request(post(body)));
    soon(sender.send(Frame::data("x".into()))).await.expect("sent");
    assert_eq!(soon(events.recv()).await, Some("began"));
    sending.abort();
    assert_eq!(soon(events.recv()).await, Some("dropped"));
    // The connection is as good as before.
    assert!(soon(client.send_request(get("/begun"))).await.is_ok());
}

#[tokio::test]
async fn an_early_answer_ends_the_upload() {
    let server = Server::of(says(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")).await;
    let (mut client, _connection) = server.client().await;
    let (sender, body) = channel();
    let answer = soon(client.send_request(post(body))).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(text(answer.into_body()).await, "big");
    let chunk = Bytes::from(vec![b'x'; 16 << 10]);
    soon(async { while sender.send(Frame::data(chunk.clone())).await.is_ok() {} }).await;
    // The next request is none the worse for it.
    assert_eq!(soon(client.send_request(get("/"))).await.expect("an answer").status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_broken_answer_breaks_its_own_stream_only() {
    for broken in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nhalf",
        b"garbage\r\n\r\n",
    ] {
        let calls = Arc::new(AtomicUsize::new(0));
        let server = Server::of(engine(move |mut pipe| {
            let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                read_head(&mut pipe).await;
                let good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                pipe.write_all(if first { broken } else { good }).await.expect("written");
            }
        }))
        .await;
        let (mut client, _connection) = server.client().await;
        let result = match soon(client.send_request(get("/"))).await {
            Ok(answer) => soon(answer.into_body().collect()).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(result.is_err(), "{}", String::from_utf8_lossy(broken));
        let answer = soon(client.send_request(get("/"))).await.expect("an answer");
        assert_eq!(text(answer.into_body()).await, "ok");
    }
}

#[tokio::test]
async fn what_is_in_flight_is_finished_when_the_end_is_near() {
    let (go_on, goes_on) = watch::channel(false);
    let mut server = Server::of(engine(move |mut pipe| {
        let mut goes_on = goes_on.clone();
        async move {
            read_head(&mut pipe).await;
            pipe.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await.expect("written");
            goes_on.wait_for(|go| *go).await.expect("told");
            pipe.write_all(b"half").await.expect("written");
        }
    }))
    .await;
    let (mut client, connection) = server.client().await;
    let answer = soon(client.send_request(get("/"))).await.expect("an answer");
    server.ending.send(true).expect("told");
    // It is told to go, and takes nothing new.
    soon(async { while client.send_request(get("/")).await.is_ok() {} }).await;
    go_on.send(true).expect("told");
    assert_eq!(text(answer.into_body()).await, "halfhalf");
    soon(connection).await.expect("joined").expect("a clean end");
    soon(&mut server.connections).await.expect("all connections ended");
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_in_time() {
    let short = Duration::from_millis(200);
    // Nobody asked anything yet.
    let limits = Limits { header_timeout: short, ..limits() };
    let server = Server::start(&echo(), limits, None).await;
    let (_client, connection) = server.client().await;
    soon(connection).await.expect("joined").expect("a clean end");
    // Nobody asks any more; but a request that takes longer is no reason.
    let limits = Limits { keep_alive_timeout: short, header_timeout: DEADLINE, ..limits };
    let server = Server::start(&echo(), limits, None).await;
    let (mut client, connection) = server.client().await;
    let (sender, body) = channel();
    let answer = soon(client.send_request(post(body))).await.expect("an answer");
    tokio::time::sleep(short * 3).await;
    soon(sender.send(Frame::data("late".into()))).await.expect("sent");
    drop(sender);
    assert_eq!(text(answer.into_body()).await, "late");
    soon(connection).await.expect("joined").expect("a clean end");
}

#[tokio::test]
async fn a_client_that_only_gives_up_is_sent_away() {
    let server = Server::of(engine(|mut pipe| async move {
        read_head(&mut pipe).await;
        pipe.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("written");
        std::future::pending::<()>().await;
    }))
    .await;
    let (mut client, connection) = server.client().await;
    let flood = async {
        let mut given_up = 0;
        while let Ok(answer) = client.send_request(get("/")).await {
            drop(answer);
            given_up += 1;
        }
        given_up
    };
    let given_up = soon(flood).await;
    assert!((200..400).contains(&given_up), "{given_up}");
    assert!(soon(connection).await.expect("joined").is_err());
}

/// Writes a frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).expect("short").to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Writes fields without compression (RFC 7541, section 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// Sends a request, and returns what ends its stream: the kind of frame, and what it holds.
async fn raw(server: &Server, fields: &[(&str, &str)]) -> (u8, Vec<u8>) {
    let mut socket = TcpStream::connect(server.address).await.expect("a connection");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 0b101, 1, &block(fields)));
    socket.write_all(&bytes).await.expect("written");
    loop {
        let mut head = [0; 9];
        if socket.read_exact(&mut head).await.is_err() {
            return (u8::MAX, Vec::new());
        }
        let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        socket.read_exact(&mut payload).await.expect("a frame");
        // RST_STREAM, GOAWAY, or HEADERS that begin an answer.
        if matches!(head[3], 1 | 3 | 7) {
            return (head[3], payload);
        }
    }
}

#[tokio::test]
async fn malformed_requests_are_never_seen_by_the_engine() {
    let good = [(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", "/")];
    let server = Server::of(echo()).await;
    assert_eq!(soon(raw(&server, &good)).await.0, 1, "a good one is answered");
    let server = Server::of(engine(|_| async { panic!("it was seen") })).await;
    for bad in [
        ("connection", "close"),
        ("connection", "x"),
        ("keep-alive", "1"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("x", "a\r\nb: c"),
        ("x", "a\nb"),
        ("x", "a\0"),
        ("X-Upper", "a"),
        ("x y", "a"),
        ("x:y", "a"),
        ("", "a"),
        (":path", "/again"),
        (":unknown", "a"),
        ("content-length", "3"),
    ] {
        let fields = [&good[..], &[bad]].concat();
        let (kind, payload) = soon(raw(&server, &fields)).await;
        // An answer that begins has a status of its own: index 12 of the static table is 400.
        assert!(matches!(kind, 3 | 7) || payload.starts_with(&[0x8c]), "{bad:?}: {kind} {payload:?}");
    }
    for bad in [
        (":path", "/a b"),
        (":path", "/a\r\nX: y"),
        (":path", ""),
        (":method", "GE T"),
        (":authority", "a b"),
        (":scheme", ""),
    ] {
        let fields = good.map(|field| if field.0 == bad.0 { bad } else { field });
        let (kind, payload) = soon(raw(&server, &fields)).await;
        assert!(matches!(kind, 3 | 7) || payload.starts_with(&[0x8c]), "{bad:?}: {kind} {payload:?}");
    }
}
