//! The connections of the API.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::header::CONNECTION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ondemand_core::{Error, Result};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::admission::{Admissions, Limits, Place};
use super::peers::{Peers, refuse};

/// How long a client may take to send the head of a request, the time between two requests included.
const HEAD: Duration = Duration::from_secs(60);
/// How long requests may go on after the server was asked to end.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// How long what was dropped with a connection may take to clean up.
const CLEANUP: Duration = Duration::from_secs(10);

/// Listens at the address of the API.
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener> {
    bind(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Error::Conflict {
            message: format!("{address} is in use by another program"),
            hint: "end it, or choose another address with --listen or http.listen".into(),
        },
        _ => Error::io("http", format!("listening on {address}"), error),
    })
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // As many as the system lets wait. One more would try again only after a second.
    socket.listen(u32::MAX)
}

/// Serves those who connect, without end.
pub(super) async fn accept(listener: TcpListener, app: Router, connections: &Connections) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => connections.spawn(stream, peer, app.clone()),
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Waits after a failed accept where another would fail at once, as when there are too many open files.
async fn pause_after(error: &std::io::Error) {
    use std::io::ErrorKind;
    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
    {
        return;
    }
    tracing::error!("accepting a connection: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// What whoever cannot be served is told.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n";

/// The connections that are open.
#[derive(Debug)]
pub(super) struct Connections {
    tasks: TaskTracker,
    admissions: Admissions,
    peers: Option<Peers>,
    /// Asks them to end after the request they are at.
    ending: CancellationToken,
    /// Ends them.
    ended: CancellationToken,
}

impl Connections {
    pub(super) fn new(limits: Limits, peers: Option<Peers>) -> Self {
        Self {
            tasks: TaskTracker::new(),
            admissions: Admissions::new(limits),
            peers,
            ending: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Serves a connection in the background, if there is a place for it.
    pub(super) fn spawn(&self, stream: TcpStream, peer: SocketAddr, app: Router) {
        let client = peer.ip();
        let Some(place) = self.admissions.admit(client) else {
            tracing::debug!(%client, "refused a connection: there are as many as may be, and all are at work");
            // It is new, so its buffer is empty; and who does not read it learns the same from its end.
            let _ = stream.try_write(FULL);
            return;
        };
        let app = match self.refusal(&stream, peer) {
            Some(reason) => refuse(&reason),
            None => app,
        };
        prepare(&stream);
        let (ending, ended) = (self.ending.clone(), self.ended.clone());
        self.tasks.spawn(async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
            let service = service_fn(|request| answer(&app, &place, request));
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let mut connection = pin!(connection);
            let mut asked = false;
            loop {
                tokio::select! {
                    result = &mut connection => {
                        // A client that goes away is its own business.
                        if let Err(error) = result {
                            tracing::debug!("a connection ended: {error}");
                        }
                        return;
                    }
                    () = ending.cancelled(), if !asked => {
                        asked = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    () = ended.cancelled() => return,
                    () = place.is_needed() => {
                        tracing::debug!("closed a connection that waits for a request: another one needs its place");
                        return;
                    }
                }
            }
        });
    }

    /// Returns why requests on this connection are refused, if they are.
    fn refusal(&self, stream: &TcpStream, peer: SocketAddr) -> Option<Error> {
        let peers = self.peers.as_ref()?;
        match stream.local_addr() {
            Ok(server) => peers.refusal(peer, server),
            Err(e) => Some(Error::io("http", "asking for its own address", e)),
        }
    }

    /// Lets requests end for a while, and then closes what is left.
    pub(super) async fn end(self) {
        self.tasks.close();
        self.ending.cancel();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(connections = self.tasks.len(), "closing connections that are still at work");
        self.ended.cancel();
        let _ = tokio::time::timeout(CLEANUP, self.tasks.wait()).await;
    }
}

/// Answers a request; its connection is at work until the answer is sent.
async fn answer(app: &Router, place: &Place, request: Request<Incoming>) -> Result<hyper::Response<Body>, Infallible> {
    let Some(work) = place.work() else {
        let refusal = hyper::Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).header(CONNECTION, "close");
        return Ok(refusal.body(Body::empty()).unwrap_or_default());
    };
    let response = app.clone().oneshot(request.map(Body::new)).await?;
    Ok(response.map(|body| Body::new(work.until_sent(body))))
}

/// Sets a connection up. None of it is vital: what fails is left as it was.
fn prepare(stream: &TcpStream) {
    use rustix::net::sockopt;
    let _ = stream.set_nodelay(true);
    // An upload may pause for as long as it likes, but a client whose machine died would hold its import for ever.
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(60));
    let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15));
    let _ = sockopt::set_tcp_keepcnt(stream, 4);
}
