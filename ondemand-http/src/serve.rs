//! The whole server: opens the data directory, listens, and ends in good order.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ondemand_core::{Config, Error, Ondemand, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::{AppState, app, check_exposure};

/// How long a client may take to send the head of a request, the time between two requests included.
const HEAD: Duration = Duration::from_secs(60);
/// How long requests may go on after the server was asked to end.
const GRACE: Duration = Duration::from_secs(10);
/// How long what was dropped with a connection may take to clean up.
const CLEANUP: Duration = Duration::from_secs(10);

/// What has been reached of the server's life.
#[derive(Debug)]
#[non_exhaustive]
pub enum Moment<'a> {
    /// The data directory is open, and the address is listened on.
    Opened {
        /// The address, with the port that was chosen where the configuration said 0.
        address: SocketAddr,
        /// What to tell the user about the choices that were made.
        notices: &'a [String],
    },
    /// It is known what runs, and requests are answered.
    Ready {
        /// The address.
        address: SocketAddr,
    },
    /// It was asked to end. Databases keep running.
    Ending,
}

/// Serves until `shutdown` completes, and tells `tell` what has been reached. Databases outlive it.
///
/// # Errors
/// [`Forbidden`](Error::Forbidden) for an address beyond loopback with neither a token nor the permission to go without;
/// [`Conflict`](Error::Conflict) if the address or the data directory is in use; and what [`Ondemand::open`] returns.
///
/// # Cancel safety
/// Dropped, it ends at once: connections are closed, and what was half done is cleaned up by the next start.
pub async fn serve(
    config: &Config,
    shutdown: impl Future<Output = ()>,
    mut tell: impl FnMut(Moment<'_>),
) -> Result<()> {
    config.validate()?;
    check_exposure(&config.http)?;
    let listener = listen(config.http.listen).await?;
    let address = listener.local_addr().map_err(|e| Error::io("http", "asking for its own address", e))?;
    let ondemand = Ondemand::open(config).await?;
    tell(Moment::Opened { address, notices: &ondemand.notices });

    let state = AppState::new(ondemand, config);
    let janitor =
        AbortOnDropHandle::new(tokio::spawn(keep_order(state.clone(), config.databases.reap_interval.duration())));
    let connections = Connections::default();
    let app = app(state.clone());
    let mut shutdown = pin!(shutdown);
    let mut ready = pin!(wait_until_ready(state.clone()));
    let mut told = false;
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = &mut ready, if !told => {
                told = true;
                tell(Moment::Ready { address });
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.spawn(stream, app.clone()),
                Err(error) => pause_after(&error).await,
            },
        }
    }
    tell(Moment::Ending);
    drop(listener);
    state.shut_down();
    connections.end().await;
    drop(janitor);
    state.close();
    Ok(())
}

/// Completes when the process is asked to end, by SIGTERM or SIGINT.
///
/// # Errors
/// [`Backend`](Error::Backend) if the signals cannot be caught.
pub fn signalled() -> Result<impl Future<Output = ()>> {
    let catch = |kind| signal(kind).map_err(|e| Error::io("http", "catching signals", e));
    let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    Ok(poll_fn(move |cx| match (terminate.poll_recv(cx), interrupt.poll_recv(cx)) {
        (Poll::Pending, Poll::Pending) => Poll::Pending,
        _ => Poll::Ready(()),
    }))
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Error::Conflict {
            message: format!("{address} is in use by another program"),
            hint: "end it, or choose another address with --listen or http.listen".into(),
        },
        _ => Error::io("http", format!("listening on {address}"), error),
    })
}

async fn wait_until_ready(state: AppState) {
    while state.ready().await.is_err() {}
}

/// Does the first round, which makes the server ready, and then a round now and then.
async fn keep_order(state: AppState, interval: Duration) {
    loop {
        match state.janitor().run_once().await {
            Ok(report) => {
                tracing::info!(?report, "reconciled");
                break;
            }
            Err(error) => {
                state.set_trouble(&error);
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(cause, "what runs is not known, and requests have to wait: {error}");
                tokio::time::sleep(interval).await;
            }
        }
    }
    state.set_ready();
    state.janitor().run(interval).await;
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

/// The connections that are open.
#[derive(Debug, Default)]
struct Connections {
    tasks: TaskTracker,
    /// Asks them to end after the request they are at.
    ending: CancellationToken,
    /// Ends them.
    ended: CancellationToken,
}

impl Connections {
    /// Serves a connection in the background.
    fn spawn(&self, stream: TcpStream, app: Router) {
        prepare(&stream);
        let (ending, ended) = (self.ending.clone(), self.ended.clone());
        self.tasks.spawn(async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
            let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
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
                }
            }
        });
    }

    /// Lets requests end for a while, and then closes what is left.
    async fn end(self) {
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

#[cfg(test)]
mod tests;
