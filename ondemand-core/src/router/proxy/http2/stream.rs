//! One stream of HTTP/2: a request, translated into HTTP/1.1, and its answer, translated back.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::PIPE;
use super::body::{Guard, PipedBody, invalid, read_head, write_trailers};
use crate::router::proxy::answer::Refusal;
use crate::router::proxy::buffer::Inbox;
use crate::router::proxy::http1::body::{Framing, write_chunk};
use crate::router::proxy::http1::response::{self, Response as Head};

/// How many streams more may be given up than are answered, before it is no longer taken for a user who is in a hurry: each makes
/// work that is thrown away, and another may follow at once.
const MOST_CANCELLED: usize = 200;

/// What happens on a connection's streams.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Requests that are under way.
    active: AtomicUsize,
    /// How many streams more were given up than answered.
    cancelled: AtomicUsize,
    changed: Notify,
}

impl Load {
    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    pub(super) fn is_abused(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) > MOST_CANCELLED
    }

    /// Waits until something of it may have changed since the last time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// A request that is under way.
struct Active(Arc<Load>);

impl Active {
    fn begin(load: &Arc<Load>) -> Self {
        load.active.fetch_add(1, Ordering::Relaxed);
        load.changed.notify_one();
        Self(Arc::clone(load))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

/// What is given up where nobody reads the answer to its end.
#[derive(Debug)]
pub(super) struct Work {
    task: AbortHandle,
    load: Arc<Load>,
    complete: bool,
}

impl Guard for Work {
    fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let count = &self.load.cancelled;
        if self.complete {
            let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
        } else {
            self.task.abort();
            count.fetch_add(1, Ordering::Relaxed);
            self.load.changed.notify_one();
        }
    }
}

/// Has a request answered by `engine`, which gets it as a connection of HTTP/1.1.
///
/// # Errors
/// If there is no answer; the stream is reset then.
///
/// # Cancel safety
/// Dropped, like the answer before its end, it gives the request up.
pub(super) async fn serve<F>(
    request: Request<Incoming>,
    load: Arc<Load>,
    engine: impl FnOnce(DuplexStream) -> F,
) -> io::Result<Response<PipedBody<Work>>>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (parts, body) = request.into_parts();
    let to_head = parts.method == Method::HEAD;
    let mut head = Vec::with_capacity(512);
    let framing = match super::request::write(&mut head, &parts, !body.is_end_stream()) {
        Ok(framing) => framing,
        Err(what) => {
            // The engine never sees it: there is no way to write it down that would be read as it is.
            head.clear();
            let html = parts.headers.get(http::header::ACCEPT).is_some_and(accepts_html);
            return refuse(&Refusal::malformed(what), html, to_head, load);
        }
    };
    drop(parts);

    let (near, far) = tokio::io::duplex(PIPE);
    let (reader, writer) = tokio::io::split(near);
    let (active, engine) = (Active::begin(&load), engine(far));
    let task = tokio::spawn(async move {
        let _active = active;
        let sending = async {
            match send(writer, head, body, framing).await {
                // The answer is still to come, or the engine has ended and says so itself.
                Ok(()) | Err(Unsent::Pipe) => pending().await,
                Err(Unsent::Client) => (),
            }
        };
        // Either half that ends ends the other: what the client gave up, and what it sends to no one any more.
        tokio::select! {
            () = engine => (),
            () = sending => (),
        }
    });
    let work = Work { task: task.abort_handle(), load, complete: false };
    receive(reader, to_head, work).await
}

/// Why a request was not sent to its end.
enum Unsent {
    /// The client gave it up, or broke the rules.
    Client,
    /// Nobody reads it.
    Pipe,
}

/// Writes a request into the pipe, as fast as it is read there.
async fn send(
    mut writer: WriteHalf<DuplexStream>,
    mut out: Vec<u8>,
    mut body: Incoming,
    framing: Framing,
) -> Result<(), Unsent> {
    let mut left = if let Framing::Length(length) = framing { length } else { 0 };
    loop {
        writer.write_all(&out).await.map_err(|_| Unsent::Pipe)?;
        out.clear();
        let frame = match body.frame().await {
            Some(frame) => frame.map_err(|_| Unsent::Client)?,
            None => break,
        };
        match (frame.into_data(), framing) {
            (Ok(data), Framing::Chunked) => write_chunk(&mut out, &data),
            (Ok(data), _) => {
                left = left.checked_sub(data.len() as u64).ok_or(Unsent::Client)?;
                writer.write_all(&data).await.map_err(|_| Unsent::Pipe)?;
            }
            (Err(frame), Framing::Chunked) => {
                out.extend_from_slice(b"0\r\n");
                if let Ok(trailers) = frame.into_trailers() {
                    write_trailers(&mut out, &trailers);
                }
                out.extend_from_slice(b"\r\n");
                return writer.write_all(&out).await.map_err(|_| Unsent::Pipe);
            }
            // There is no place for trailers after a body with a length.
            (Err(_), _) => (),
        }
    }
    if left > 0 {
        return Err(Unsent::Client);
    }
    if framing == Framing::Chunked {
        writer.write_all(b"0\r\n\r\n").await.map_err(|_| Unsent::Pipe)?;
    }
    Ok(())
}

/// Reads the head of the answer; its body is read as it is sent.
async fn receive(
    mut reader: ReadHalf<DuplexStream>,
    to_head: bool,
    work: Work,
) -> io::Result<Response<PipedBody<Work>>> {
    let mut inbox = Inbox::default();
    loop {
        let end = read_head(&mut reader, &mut inbox).await?;
        let (answer, framing) = translate(&inbox.data()[..end], to_head)?;
        inbox.consume(end);
        // Interim answers have no way through the library that sends the frames.
        if !answer.status().is_informational() {
            return Ok(answer.map(|()| PipedBody::new(reader, inbox, framing, work)));
        }
    }
}

/// Translates the head of an answer, and says what framing its body has in HTTP/1.1.
fn translate(head: &[u8], to_head: bool) -> io::Result<(Response<()>, Framing)> {
    let mut room = response::fields();
    let head = Head::parse(head, &mut room, to_head).map_err(invalid)?;
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::from_u16(head.status).map_err(invalid)?;
    let fields = answer.headers_mut();
    fields.reserve(head.fields.len());
    for field in head.fields.iter().filter(|field| head.passes(field)) {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(invalid)?;
        fields.append(name, HeaderValue::from_bytes(field.value).map_err(invalid)?);
    }
    Ok((answer, head.framing))
}

fn accepts_html(accept: &HeaderValue) -> bool {
    memchr::memmem::find(accept.as_bytes(), b"text/html").is_some()
}

/// Answers a request by itself.
fn refuse(refusal: &Refusal, html: bool, to_head: bool, load: Arc<Load>) -> io::Result<Response<PipedBody<Work>>> {
    let mut text = Vec::new();
    refusal.write(&mut text, html, to_head, true);
    let end = memchr::memmem::find(&text, b"\r\n\r\n").map_or(text.len(), |at| at + 4);
    let (answer, framing) = translate(&text[..end], to_head)?;
    let (near, mut far) = tokio::io::duplex(text.len());
    // The pipe has room for it, so that it is written at once.
    let task = tokio::spawn(async move { drop(far.write_all(&text[end..]).await) });
    let work = Work { task: task.abort_handle(), load, complete: false };
    Ok(answer.map(|()| PipedBody::new(tokio::io::split(near).0, Inbox::default(), framing, work)))
}
