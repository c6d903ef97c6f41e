//! Upstreams of HTTP/2 over sockets, asked in HTTP/1.1.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Full, StreamBody};
use hyper::service::service_fn;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::*;
use crate::router::proxy::http1::body::{Decoder, Piece};

const DEADLINE: Duration = Duration::from_secs(20);

/// Answers by path: `/echo` sends the body and its trailers back, `/hang` never answers, `/trailers` has no body, and any other says
/// what it was asked.
struct Server {
    address: Arc<str>,
    accepted: Arc<AtomicUsize>,
    ending: watch::Sender<bool>,
    /// Requests that began, and those that were given up.
    events: mpsc::UnboundedReceiver<&'static str>,
    task: JoinHandle<()>,
}

struct Hanging(mpsc::UnboundedSender<&'static str>);

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

type AnswerBody = UnsyncBoxBody<Bytes, hyper::Error>;

async fn answer(
    request: Request<Incoming>,
    events: mpsc::UnboundedSender<&'static str>,
) -> Result<Response<AnswerBody>, Infallible> {
    let full = |text: String| Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let fields = |request: &Request<Incoming>| {
        let mut fields: Vec<_> =
            request.headers().iter().map(|(k, v)| format!("{k}: {}", v.to_str().expect("text"))).collect();
        fields.sort();
        fields.join(", ")
    };
    Ok(match request.uri().path() {
        "/echo" => Response::new(request.into_body().boxed_unsync()),
        "/hang" => {
            events.send("began").expect("told");
            let _hanging = Hanging(events);
            std::future::pending().await
        }
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("5"));
            let frames = futures_util::stream::iter([Ok(Frame::trailers(trailers))]);
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        _ => Response::new(full(format!(
            "{} {} {:?} {}",
            request.method(),
            request.uri(),
            request.version(),
            fields(&request)
        ))),
    })
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string().into();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (ending, ends) = watch::channel(false);
        let (sender, events) = mpsc::unbounded_channel();
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut all = tokio::task::JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                count.fetch_add(1, Ordering::SeqCst);
                let (mut ends, sender) = (ends.clone(), sender.clone());
                all.spawn(async move {
                    ends.mark_unchanged();
                    let service = service_fn(move |request| answer(request, sender.clone()));
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(socket), service));
                    tokio::select! {
                        _ = connection.as_mut() => return,
                        _ = ends.changed() => connection.as_mut().graceful_shutdown(),
                    }
                    let _ = connection.await;
                });
            }
        });
        Self { address, accepted, ending, events, task }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

async fn open(sessions: &Sessions, server: &Server) -> (Tunnel, bool) {
    soon(sessions.open(&server.address, DEADLINE)).await.expect("a connection")
}

/// Sends a request, and returns all that comes back.
async fn ask(mut tunnel: Tunnel, request: &str) -> String {
    soon(tunnel.write_all(request.as_bytes())).await.expect("written");
    let mut answer = String::new();
    soon(tunnel.read_to_string(&mut answer)).await.expect("an answer");
    answer
}

#[tokio::test]
async fn requests_share_one_connection_and_mean_the_same() {
    let (server, sessions) = (Server::start().await, Sessions::default());
    let request = "GET /x?y=1 HTTP/1.1\r\nHost: a.example:81\r\nAccept: a\r\nConnection: TE, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\n\r\n";
    let (tunnel, reused) = open(&sessions, &server).await;
    assert!(!reused);
    let answer = ask(tunnel, request).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    assert_eq!(body, "GET http://a.example:81/x?y=1 HTTP/2.0 accept: a, te: trailers");

    let (hanging, _) = open(&sessions, &server).await;
    let (tunnel, reused) = open(&sessions, &server).await;
    assert!(reused);
    let answer = ask(tunnel, "HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert_eq!(server.accepted(), 1);
    drop(hanging);
}

#[tokio::test]
async fn bodies_and_trailers_go_both_ways_at_once() {
    let (server, sessions) = (Server::start().await, Sessions::default());
    let (mut tunnel, _) = open(&sessions, &server).await;
    let head = "POST /echo HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    tunnel.write_all(head.as_bytes()).await.expect("written");
    let mut inbox = vec![0; 4096];
    let mut seen = Vec::new();
    // The answer begins, and the first piece comes back, before the request ends.
    tunnel.write_all(b"5\r\nhello\r\n").await.expect("written");
    while !seen.ends_with(b"5\r\nhello\r\n") {
        let count = soon(tunnel.read(&mut inbox)).await.expect("read");
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&inbox[..count]);
    }
    let (mut reader, mut writer) = tokio::io::split(tunnel);
    let sending = async {
        let chunk = vec![b'x'; 0x4000];
        for _ in 0..200 {
            writer.write_all(b"4000\r\n").await.expect("written");
            writer.write_all(&chunk).await.expect("written");
            writer.write_all(b"\r\n").await.expect("written");
        }
        writer.write_all(b"0\r\nX-Sum: 7\r\n\r\n").await.expect("written");
    };
    let receiving = async {
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.expect("read");
        rest
    };
    let ((), rest) = soon(async { tokio::join!(sending, receiving) }).await;
    assert!(rest.ends_with(b"\r\n0\r\nx-sum: 7\r\n\r\n"));
    // How it is cut into chunks is nobody's business.
    let (mut decoder, mut rest, mut received) = (Decoder::new(Framing::Chunked), &rest[..], 0);
    loop {
        match decoder.next(rest).expect("chunks") {
            Piece::Data(count) => {
                assert!(rest[..count].iter().all(|byte| *byte == b'x'));
                decoder.took(count);
                (rest, received) = (&rest[count..], received + count);
            }
            Piece::Skip(count) => rest = &rest[count..],
            Piece::More | Piece::End => break,
        }
    }
    assert_eq!((received, rest), (200 * 0x4000, &b""[..]));

    let (tunnel, _) = open(&sessions, &server).await;
    let answer = ask(tunnel, "GET /trailers HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(answer.ends_with("Transfer-Encoding: chunked\r\n\r\n0\r\ngrpc-status: 5\r\n\r\n"), "{answer}");
    let (tunnel, _) = open(&sessions, &server).await;
    let answer = ask(tunnel, "POST /echo HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi").await;
    assert!(answer.contains("content-length: 2\r\n") && answer.ends_with("\r\n\r\nhi"), "{answer}");
    let (tunnel, _) = open(&sessions, &server).await;
    let answer = ask(tunnel, "POST /echo HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n").await;
    assert!(answer.ends_with("Content-Length: 0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn whoever_expects_to_be_told_to_go_on_is_told() {
    let (server, sessions) = (Server::start().await, Sessions::default());
    let (mut tunnel, _) = open(&sessions, &server).await;
    let head = "POST /echo HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    tunnel.write_all(head.as_bytes()).await.expect("written");
    let mut told = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    soon(tunnel.read_exact(&mut told)).await.expect("an interim answer");
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(ask(tunnel, "hi").await.ends_with("\r\n\r\nhi"));
}

#[tokio::test]
async fn a_stream_that_is_given_up_is_reset() {
    let (mut server, sessions) = (Server::start().await, Sessions::default());
    let (mut tunnel, _) = open(&sessions, &server).await;
    tunnel.write_all(b"GET /hang HTTP/1.1\r\nHost: a.example\r\n\r\n").await.expect("written");
    assert_eq!(soon(server.events.recv()).await, Some("began"));
    drop(tunnel);
    assert_eq!(soon(server.events.recv()).await, Some("dropped"));
    let (tunnel, reused) = open(&sessions, &server).await;
    assert!(reused, "the others go on");
    assert!(ask(tunnel, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_upstream_that_says_goodbye_is_connected_to_again() {
    let (server, sessions) = (Server::start().await, Sessions::default());
    let (mut before, _) = open(&sessions, &server).await;
    let head = "POST /echo HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nhe";
    before.write_all(head.as_bytes()).await.expect("written");
    let mut first = [0; 8];
    soon(before.read_exact(&mut first)).await.expect("it has begun");
    server.ending.send_modify(|_| ());
    // Whoever asks meanwhile is answered, or finds the connection closed and asks again.
    let again = async {
        loop {
            let (mut tunnel, reused) = open(&sessions, &server).await;
            tunnel.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.expect("written");
            let mut answer = String::new();
            tunnel.read_to_string(&mut answer).await.expect("read");
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 200"), "{answer}");
            if !reused {
                return answer;
            }
        }
    };
    assert!(soon(again).await.starts_with("HTTP/1.1 200"));
    assert_eq!(server.accepted(), 2);
    // What was in flight finishes.
    before.write_all(b"he").await.expect("written");
    let mut rest = String::new();
    soon(before.read_to_string(&mut rest)).await.expect("read");
    assert!(rest.ends_with("\r\n\r\nhehe"), "{rest}");
}

#[tokio::test]
async fn what_cannot_be_connected_to_fails_for_all_who_wait_at_once() {
    let sessions = Sessions::default();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address: Arc<str> = closed.local_addr().expect("an address").to_string().into();
    drop(closed);
    let error = soon(sessions.open(&address, DEADLINE)).await.expect_err("nobody is there");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    // One that was asked again is tried again.
    let listener = TcpListener::bind(&*address).await.expect("the same port");
    assert!(!soon(sessions.open(&address, DEADLINE)).await.expect("a connection").1);
    // What is no server of HTTP/2 closes the connection, and says nothing of an answer.
    let (mut tunnel, _) = soon(sessions.open(&address, DEADLINE)).await.expect("a connection");
    let (mut socket, _) = soon(listener.accept()).await.expect("accepted");
    socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("written");
    tunnel.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.expect("written");
    let mut answer = String::new();
    soon(tunnel.read_to_string(&mut answer)).await.expect("read");
    assert_eq!(answer, "");
    sessions.sweep();
    assert!(!soon(sessions.open(&address, DEADLINE)).await.expect("a connection").1);
}
