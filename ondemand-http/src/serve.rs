//! Whole servers: from the configuration to the last connection.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use ondemand_core::router::Proxy;
use ondemand_core::{Config, DataDir, Error, Ondemand, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use crate::life::Life;
use crate::{AppState, ProxyState, Routing, app, check_exposure, proxy_app};
use admission::Limits;
use connections::{Connections, accept, listen};
pub use keep::keep;
use peers::Peers;

mod admission;
mod connections;
mod environments;
mod keep;
mod peers;
mod proxy;

/// What has been reached of the server's life.
#[derive(Debug)]
#[non_exhaustive]
pub enum Moment<'a> {
    /// The data directory is open, and the addresses are listened on.
    Opened {
        /// The address of the API, with the port that was chosen where the configuration said 0.
        address: SocketAddr,
        /// What to tell the user about the choices that were made, and where the proxy is.
        notices: &'a [String],
    },
    /// It is known what runs, and requests are answered.
    Ready {
        /// The address of the API.
        address: SocketAddr,
    },
    /// It was asked to end. Databases keep running.
    Ending,
}

/// Serves until `shutdown` completes, and tells `tell` what has been reached. Databases outlive it.
///
/// # Errors
/// [`Forbidden`](Error::Forbidden) for an address beyond loopback with neither a token nor the permission to go without;
/// [`Conflict`](Error::Conflict) if an address or the data directory is in use; and what [`Ondemand::open`] and [`Proxy::start`]
/// return.
///
/// # Cancel safety
/// Dropped, it ends at once: connections are closed, and what was half done is cleaned up by the next start.
pub async fn serve(config: &Config, shutdown: impl Future<Output = ()>, tell: impl FnMut(Moment<'_>)) -> Result<()> {
    config.validate()?;
    check_exposure(&config.http)?;
    let listener = listen(config.http.listen)?;
    serve_opened(config, listener, Ondemand::open(config).await?, shutdown, tell).await
}

/// Serves what is open, as [`serve`] does.
async fn serve_opened(
    config: &Config,
    listener: TcpListener,
    ondemand: Ondemand,
    shutdown: impl Future<Output = ()>,
    mut tell: impl FnMut(Moment<'_>),
) -> Result<()> {
    let mut notices = ondemand.notices.clone();
    let (routing, proxy) = if config.proxy.enabled {
        let (routing, proxy) = proxy::start(config, proxy::Place::BesideDatabases).await?;
        notices.push(proxy::notice(&proxy));
        (routing, Some(proxy))
    } else {
        (Routing::default(), None)
    };
    let ondemand = environments::with(ondemand, config, &routing, proxy.as_ref())?;
    let peers = keep_out(ondemand.guests().collect(), &mut notices);
    let address = address_of(&listener)?;
    tell(Moment::Opened { address, notices: &notices });

    let state = AppState::new(ondemand, routing, config);
    let janitor =
        AbortOnDropHandle::new(tokio::spawn(keep_order(state.clone(), config.databases.reap_interval.duration())));
    let following = AbortOnDropHandle::new(tokio::spawn(follow(state.clone())));
    let life = Life::from_ref(&state);
    let limits = Limits::new(&config.http);
    run(Parts { listener, limits, peers, app: app(state.clone()), life, proxy }, shutdown, tell).await?;
    drop((janitor, following));
    state.close();
    Ok(())
}

/// Runs a proxy and its API, and nothing else, until `shutdown` completes, and tells `tell` what has been reached.
///
/// # Errors
/// [`Forbidden`](Error::Forbidden) for an address of the API beyond loopback with neither a token nor the permission to go without;
/// [`Conflict`](Error::Conflict) if an address or the data directory is in use; and what [`Proxy::start`] returns.
///
/// # Cancel safety
/// Dropped, it ends at once. Routes are kept.
pub async fn serve_proxy(
    config: &Config,
    shutdown: impl Future<Output = ()>,
    mut tell: impl FnMut(Moment<'_>),
) -> Result<()> {
    config.validate()?;
    check_exposure(&config.http)?;
    let listener = listen(config.http.listen)?;
    let _data_dir = DataDir::open(&config.data_dir)?;
    let (routing, proxy) = proxy::start(config, proxy::Place::Alone).await?;
    tell(Moment::Opened { address: address_of(&listener)?, notices: &[proxy::notice(&proxy)] });

    let state = ProxyState::new(routing, config);
    let life = Life::from_ref(&state);
    let limits = Limits::new(&config.http);
    let peers = None;
    run(Parts { listener, limits, peers, app: proxy_app(state), life, proxy: Some(proxy) }, shutdown, tell).await
}

/// What runs.
struct Parts {
    listener: TcpListener,
    limits: Limits,
    peers: Option<Peers>,
    app: Router,
    life: Life,
    proxy: Option<Proxy>,
}

/// Returns what keeps these users out of the API. Where the kernel does not help, it says so.
fn keep_out(guests: Vec<u32>, notices: &mut Vec<String>) -> Option<Peers> {
    if guests.is_empty() {
        return None;
    }
    match Peers::new(guests) {
        Ok(peers) => Some(peers),
        Err(reason) => {
            notices.push(format!("{reason}. Programs of databases on this machine can use the API; set http.token"));
            None
        }
    }
}

/// Answers requests until `shutdown` completes, and then lets what is in flight end, in the proxy and in its API at once.
async fn run(parts: Parts, shutdown: impl Future<Output = ()>, mut tell: impl FnMut(Moment<'_>)) -> Result<()> {
    let Parts { listener, limits, peers, app, life, proxy } = parts;
    let address = address_of(&listener)?;
    let connections = Connections::new(limits, peers);
    {
        let (mut shutdown, mut ready) = (pin!(shutdown), pin!(wait_until_ready(&life)));
        let mut accepting = pin!(accept(listener, app, &connections));
        let mut told = false;
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                () = &mut ready, if !told => {
                    told = true;
                    tell(Moment::Ready { address });
                }
                never = &mut accepting => match never {},
            }
        }
    }
    tell(Moment::Ending);
    life.shut_down();
    let drained = async {
        if let Some(proxy) = &proxy {
            proxy.shutdown().await;
        }
    };
    tokio::join!(connections.end(), drained);
    Ok(())
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|e| Error::io("http", "asking for its own address", e))
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

async fn wait_until_ready(life: &Life) {
    while life.ready().await.is_err() {}
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
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(cause, "what runs is not known, and requests have to wait: {error}");
                state.set_trouble(&error);
                tokio::time::sleep(interval).await;
            }
        }
    }
    state.set_ready();
    state.janitor().run(interval).await;
}

/// Keeps the routes of environments leading to where their services run, once it is known what runs.
async fn follow(state: AppState) {
    wait_until_ready(&Life::from_ref(&state)).await;
    if let Some(environments) = state.environments() {
        environments.follow().await;
    }
}

#[cfg(test)]
mod tests;
