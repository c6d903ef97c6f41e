//! Connections of HTTP/2 with clients.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::time::{Instant, sleep_until, timeout};

use super::stream::{self, Load};

/// What a client of HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How many requests a client may have under way on one connection.
const STREAMS: u32 = 128;
/// How much of a request's body may arrive before it is passed on, of one stream and of all together.
/// One that is not passed on must not stop the others.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;
/// How much of an answer waits to be sent on each stream.
const UNSENT: usize = 64 << 10;
/// How many streams that the client gave up, or that broke the rules, may be on their way at once.
const RESETS: usize = 64;
/// How often a client that is silent is asked whether it is still there, and how long it may think about that.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What a client may do.
#[derive(Debug, Clone, Copy)]
pub(in crate::router::proxy) struct Limits {
    /// How long the head of a request may be.
    pub(in crate::router::proxy) header_size: usize,
    /// How long the first request may take to begin.
    pub(in crate::router::proxy) header_timeout: Duration,
    /// How long a connection without a request is kept.
    pub(in crate::router::proxy) keep_alive_timeout: Duration,
    /// How long what is left of the answers may take to be sent after that.
    pub(in crate::router::proxy) idle_timeout: Duration,
}

/// Tells whether a connection begins as one of HTTP/2; none while that is open.
pub(in crate::router::proxy) fn is_preface(data: &[u8]) -> Option<bool> {
    let count = data.len().min(PREFACE.len());
    match data[..count] == PREFACE[..count] {
        false => Some(false),
        true if count == PREFACE.len() => Some(true),
        true => None,
    }
}

/// Serves a client, until it goes, has been idle for too long, or until `ending` is ready and its last request is answered. Each
/// request is given to `engine` as a connection of HTTP/1.1 of its own.
///
/// # Cancel safety
/// Dropped, it closes the connection and gives its requests up.
pub(in crate::router::proxy) async fn serve<S, E, F>(io: S, limits: Limits, engine: E, ending: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    E: Fn(DuplexStream) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let load = Arc::new(Load::default());
    let service = service_fn({
        let load = Arc::clone(&load);
        move |request| stream::serve(request, Arc::clone(&load), engine.clone())
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(UNSENT)
        .max_header_list_size(u32::try_from(limits.header_size).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        // What the upstream says is passed on, and nothing added.
        .auto_date_header(false);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let idle = tokio::select! {
        result = connection.as_mut() => return ended(result),
        () = ending => false,
        idle = settled(&load, limits) => idle,
    };
    if load.is_abused() {
        tracing::info!("a client of HTTP/2 gave up too many requests; its connection is closed");
        return;
    }
    connection.as_mut().graceful_shutdown();
    // While the proxy ends, whoever drops this decides how long.
    let patience = if idle { limits.idle_timeout } else { Duration::MAX };
    tokio::select! {
        result = timeout(patience, connection) => if let Ok(result) = result { ended(result) },
        () = abused(&load) => (),
    }
}

/// Waits until there is a reason to close the connection; true if it is that nothing happens on it.
async fn settled(load: &Load, limits: Limits) -> bool {
    let mut deadline = Instant::now() + limits.header_timeout;
    loop {
        tokio::select! {
            () = load.changed() => (),
            () = sleep_until(deadline), if load.active() == 0 => return true,
        }
        if load.is_abused() {
            return false;
        }
        deadline = Instant::now() + limits.keep_alive_timeout;
    }
}

async fn abused(load: &Load) {
    while !load.is_abused() {
        load.changed().await;
    }
}

fn ended(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a connection of HTTP/2 ended");
    }
}
