//! The life of a connection with a client, from being accepted to being closed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::answer::Refusal;
use super::client::{Client, Prefixed};
use super::http1::connection::{Connection, Next};
use super::http1::forward::Peer;
use super::http2;
use super::worker::{Place, Worker};

/// Serves a connection in the background.
pub(super) fn serve(worker: &Arc<Worker>, stream: TcpStream, ip: IpAddr, tls: Option<TlsAcceptor>) {
    let admission = match worker.shared.admit(ip) {
        Ok(admission) => admission,
        Err(why) => return refuse(&stream, why, tls.is_some()),
    };
    prepare(&stream);
    let worker = Arc::clone(worker);
    tokio::spawn(async move {
        let peer = Peer::new(ip, tls.is_some());
        let life = worker.at_a_place(|place| {
            let worker = Arc::clone(&worker);
            async move {
                place.idle();
                match tls {
                    None => any(stream, peer, worker, place, true).await,
                    Some(tls) => secure(stream, &tls, peer, worker, place).await,
                }
            }
        });
        life.await;
        drop(admission);
    });
}

async fn secure(stream: TcpStream, tls: &TlsAcceptor, peer: Peer, worker: Arc<Worker>, place: Arc<Place>) {
    let patience = worker.shared.settings.header_timeout;
    let stream = match tokio::time::timeout(patience, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(client = %peer.ip, "no TLS: {error}"),
        Err(_) => return tracing::debug!(client = %peer.ip, "no TLS in time"),
    };
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => streams(stream, peer, worker, &place).await,
        // Who has agreed upon HTTP/1.1 speaks nothing else.
        alpn => {
            let open = alpn.is_none();
            any(stream, peer, worker, place, open).await;
        }
    }
}

/// Serves what begins with HTTP/1.1, or with HTTP/2 where that is open.
async fn any<S: Client>(stream: S, peer: Peer, worker: Arc<Worker>, place: Arc<Place>, open: bool) {
    let connection = Connection::new(stream, peer.clone(), Arc::clone(&worker), Arc::clone(&place));
    // The future of a request is large; of a connection that was upgraded, only what it needs from then on stays.
    let next = Box::pin(connection.serve(open)).await;
    match next {
        Next::Closed => (),
        Next::Tunnel(tunnel) => Box::pin(tunnel.run()).await,
        Next::Http2(io, inbox) => Box::pin(streams(Prefixed { inbox, io }, peer, worker, &place)).await,
    }
}

/// Serves HTTP/2.
async fn streams<S>(stream: S, peer: Peer, worker: Arc<Worker>, place: &Place)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    // When it is idle is not known here; it is asked to end when the time comes.
    place.busy();
    let settings = &worker.shared.settings;
    let limits = http2::Limits {
        header_size: settings.max_header_size,
        header_timeout: settings.header_timeout,
        keep_alive_timeout: settings.keep_alive_timeout,
        idle_timeout: settings.idle_timeout,
    };
    let ending = worker.ending.clone();
    let engine = {
        let worker = Arc::clone(&worker);
        move |pipe| {
            let (worker, peer) = (Arc::clone(&worker), peer.clone());
            async move {
                let _admission = match worker.shared.admit_stream(peer.ip) {
                    Ok(admission) => admission,
                    Err(why) => return refuse_stream(pipe, why).await,
                };
                let stream = worker.at_a_place(|place| {
                    let connection = Connection::new(pipe, peer, Arc::clone(&worker), place);
                    async move {
                        // A stream is not upgraded: the translation passes no such request on.
                        let _ = Box::pin(connection.serve(false)).await;
                    }
                });
                stream.await;
            }
        }
    };
    http2::serve(stream, limits, engine, async move { ending.cancelled().await }).await;
}

/// Turns a stream of HTTP/2 away.
async fn refuse_stream(mut pipe: tokio::io::DuplexStream, why: &str) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    tracing::warn!("a request is refused: {why}");
    let mut answer = Vec::new();
    Refusal::full(why).write(&mut answer, false, false, false);
    // Both fail only if the client has gone.
    if pipe.write_all(&answer).await.is_ok() && pipe.shutdown().await.is_ok() {
        let _ = pipe.read(&mut [0]).await;
    }
}

/// Turns a connection away, with a word where it costs nothing.
fn refuse(stream: &TcpStream, why: &str, secure: bool) {
    tracing::warn!("a connection is refused: {why}");
    if !secure {
        let mut answer = Vec::new();
        Refusal::full(why).write(&mut answer, false, false, false);
        // Nothing waits for a client that is not wanted; but what it gets is in its buffer before the connection is closed.
        let _ = stream.try_write(&answer);
    }
}

/// Sets a connection up. None of it is vital: what fails is left as it was.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    // An upgraded connection may be silent for as long as it likes, but not if the client's machine is gone.
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(60));
    let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15));
    let _ = sockopt::set_tcp_keepcnt(stream, 4);
}
