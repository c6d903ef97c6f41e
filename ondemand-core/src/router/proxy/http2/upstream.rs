//! Connections of HTTP/2 with upstreams.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, WriteHalf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::PIPE;
use super::body::{PipedBody, invalid, read_head, write_field, write_trailers};
use crate::router::proxy::buffer::Inbox;
use crate::router::proxy::http1::body::{Framing, write_chunk};
use crate::router::proxy::http1::request::{Kind, MOST_FIELDS, Request as Head};
use crate::router::proxy::http1::response;

/// How much of an answer may arrive before it is passed on, of one stream and of all together.
/// One that is not passed on must not stop the others.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;
/// How many requests share a connection; servers commonly allow from 100 on.
const STREAMS: u32 = 100;
/// How long the head of an answer may be. The engine has the last word on it.
const HEADER_LIST: u32 = 1 << 20;
/// How long a connection waits for its next request.
const IDLE: Duration = Duration::from_secs(60);
/// How often an upstream that is silent is asked whether it is still there, and how long it may think about that.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The connections that one worker has with upstreams of HTTP/2. Many requests share each.
#[derive(Debug, Default)]
pub(in crate::router::proxy) struct Sessions(Mutex<HashMap<Arc<str>, Arc<Slot>>>);

/// The place of the connections with one upstream. Who finds none that has room makes one, and the others wait for that.
type Slot = tokio::sync::Mutex<Session>;

#[derive(Debug, Default)]
struct Session {
    connections: Vec<Connection>,
    /// When it was last asked for; none for never.
    used: Option<Instant>,
    /// When there was last no connection to be had, and why.
    failed: Option<(Instant, io::ErrorKind, String)>,
}

/// A connection, and the requests that are under way on it: each has a clone.
#[derive(Debug, Clone)]
struct Connection {
    sender: SendRequest<PipedBody<()>>,
    streams: Arc<()>,
}

impl Connection {
    fn has_room(&self) -> bool {
        Arc::strong_count(&self.streams) <= STREAMS as usize
    }
}

impl Sessions {
    /// Returns a connection of HTTP/1.1 whose request goes to an upstream of HTTP/2, and whether that was connected already.
    ///
    /// # Errors
    /// If it cannot be connected to; `TimedOut` if that takes longer than `patience`.
    pub(in crate::router::proxy) async fn open(
        &self,
        address: &Arc<str>,
        patience: Duration,
    ) -> io::Result<(Tunnel, bool)> {
        let asked = Instant::now();
        let slot = Arc::clone(self.lock().entry(Arc::clone(address)).or_default());
        let mut session = slot.lock().await;
        session.used = Some(asked);
        session.connections.retain(|connection| !connection.sender.is_closed());
        if let Some(connection) = session.connections.iter().find(|connection| connection.has_room()) {
            return Ok((Tunnel::new(connection.clone()), true));
        }
        // Whoever waited for another's try does not try the same after it.
        if let Some((_, kind, what)) = session.failed.as_ref().filter(|(at, ..)| *at >= asked) {
            return Err(io::Error::new(*kind, what.clone()));
        }
        let connected = tokio::time::timeout(patience, connect(address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(sender) => {
                let connection = Connection { sender, streams: Arc::default() };
                session.connections.push(connection.clone());
                Ok((Tunnel::new(connection), false))
            }
            Err(error) => {
                session.failed = Some((Instant::now(), error.kind(), error.to_string()));
                Err(error)
            }
        }
    }

    /// Lets go of connections that were not used for long, or are closed. What is in flight on one finishes.
    pub(in crate::router::proxy) fn sweep(&self) {
        self.lock().retain(|_, slot| {
            // One that is locked is in use.
            slot.try_lock().map_or(true, |session| {
                let alive = session.connections.iter().any(|connection| !connection.sender.is_closed());
                alive && session.used.is_some_and(|used| used.elapsed() < IDLE)
            })
        });
    }

    /// Lets go of the connections with an upstream. What is in flight on them finishes.
    pub(in crate::router::proxy) fn forget(&self, address: &Arc<str>) {
        self.lock().remove(address);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Arc<Slot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects without asking what the upstream speaks: its route says so.
async fn connect(address: &str) -> io::Result<SendRequest<PipedBody<()>>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(PIPE)
        .max_header_list_size(HEADER_LIST)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(io::Error::other)?;
    let address = address.to_owned();
    // It ends when the upstream closes it, or when nobody has the sender and nothing is in flight.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(upstream = address, %error, "a connection of HTTP/2 ended");
        }
    });
    Ok(sender)
}

/// A connection of HTTP/1.1 within this process whose one request is sent on as a stream of HTTP/2. Dropped, it resets the stream.
#[derive(Debug)]
pub(in crate::router::proxy) struct Tunnel {
    pipe: DuplexStream,
    task: AbortHandle,
}

impl Tunnel {
    fn new(connection: Connection) -> Self {
        let (pipe, far) = tokio::io::duplex(PIPE);
        let task = tokio::spawn(async move {
            let Connection { sender, streams: _under_way } = connection;
            if let Err(error) = exchange(far, sender).await {
                // The engine finds the connection closed, and says what that means.
                tracing::debug!(%error, "a stream of HTTP/2 ended early");
            }
        });
        Self { pipe, task: task.abort_handle() }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, room)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, data)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write_vectored(cx, data)
    }
    fn is_write_vectored(&self) -> bool {
        self.pipe.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// Sends one request on, and brings the answer back.
async fn exchange(pipe: DuplexStream, mut sender: SendRequest<PipedBody<()>>) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(pipe);
    let mut inbox = Inbox::default();
    let end = read_head(&mut reader, &mut inbox).await?;
    let (mut request, framing) = {
        let mut room = response::fields();
        let head =
            Head::parse(&inbox.data()[..end], &mut room, MOST_FIELDS).map_err(|refusal| invalid(refusal.detail))?;
        (translate(&head)?, head.framing)
    };
    inbox.consume(end);
    if request.headers_mut().remove(header::EXPECT).is_some() && framing != Framing::None {
        // The library hears of no interim answers. The body may come, as HTTP/2 has frames to stop it.
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let to_head = *request.method() == Method::HEAD;
    let request = request.map(|()| PipedBody::new(reader, inbox, framing, ()));
    // The body is sent by the connection's own task, so that it goes on while the answer comes.
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    receive(writer, answer, to_head).await
}

fn translate(head: &Head<'_, '_>) -> io::Result<Request<()>> {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method.as_bytes()).map_err(invalid)?;
    *request.uri_mut() =
        Uri::builder().scheme("http").authority(head.authority).path_and_query(head.target).build().map_err(invalid)?;
    let fields = request.headers_mut();
    for (field, kind) in head.fields() {
        // What belongs to a connection has no place in HTTP/2 (RFC 9113, section 8.2.2).
        let dropped = matches!(kind, Kind::Drop | Kind::Host | Kind::Connection);
        if !dropped && !head.is_named_by_connection(field.name) {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(invalid)?;
            fields.append(name, HeaderValue::from_bytes(field.value).map_err(invalid)?);
        }
    }
    if head.wants_trailers {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

/// Writes an answer in HTTP/1.1, as fast as it is read there.
async fn receive(mut writer: WriteHalf<DuplexStream>, answer: Response<Incoming>, to_head: bool) -> io::Result<()> {
    let (parts, mut body) = answer.into_parts();
    let mut out = Vec::with_capacity(1024);
    let reason = parts.status.canonical_reason().unwrap_or_default();
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_str()).as_bytes());
    for (name, value) in &parts.headers {
        write_field(&mut out, name.as_str(), value.as_bytes());
    }
    let has_length = parts.headers.contains_key(header::CONTENT_LENGTH);
    let bodiless = to_head || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let chunked = !bodiless && !has_length && !body.is_end_stream();
    if chunked {
        write_field(&mut out, "Transfer-Encoding", b"chunked");
    } else if !bodiless && !has_length {
        write_field(&mut out, "Content-Length", b"0");
    }
    out.extend_from_slice(b"\r\n");
    loop {
        writer.write_all(&out).await?;
        out.clear();
        let Some(frame) = body.frame().await else {
            break;
        };
        match frame.map_err(io::Error::other)?.into_data() {
            Ok(data) if chunked => write_chunk(&mut out, &data),
            Ok(data) => writer.write_all(&data).await?,
            Err(frame) if chunked => {
                out.extend_from_slice(b"0\r\n");
                if let Ok(trailers) = frame.into_trailers() {
                    write_trailers(&mut out, &trailers);
                }
                out.extend_from_slice(b"\r\n");
                return writer.write_all(&out).await;
            }
            // There is no place for trailers after a body with a length.
            Err(_) => (),
        }
    }
    if chunked {
        writer.write_all(b"0\r\n\r\n").await?;
    }
    Ok(())
}
