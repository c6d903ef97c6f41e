//! The data plane: an HTTP proxy within this process that looks its upstreams up in a table which may change at any moment.

mod accept;
mod answer;
mod buffer;
mod client;
mod host;
mod http1;
mod http2;
mod metrics;
mod settings;
mod stats;
mod table;
mod timer;
mod tls;
mod tunnel;
mod upstream;
mod worker;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use self::http1::forward::Forwarding;
use self::settings::Settings;
pub use self::settings::raise_open_files;
use self::tls::Certificates;
use self::worker::{Command, Listeners, Shared, Worker};
use super::{Route, Router};
use crate::config::ProxyConfig;
use crate::error::{Error, Kind, Result};
use crate::name::{Hostname, hex, random};

/// A running proxy. Clones share it; it ends with [`Proxy::shutdown`], or at once when the last of them is dropped.
///
/// ```
/// use ondemand_core::config::ProxyConfig;
/// use ondemand_core::router::{Proxy, Route};
/// use ondemand_core::{Result, Router};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let config = ProxyConfig { listen: ([127, 0, 0, 1], 0).into(), ..ProxyConfig::default() };
/// let proxy = Proxy::start(&config).await?;
/// proxy.set(&Route::new("demo.localhost".parse()?, ["127.0.0.1:3000".parse()?])).await?;
/// println!("http://demo.localhost:{}/", proxy.address().port());
/// proxy.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Proxy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    /// How many workers have not ended.
    working: watch::Receiver<usize>,
    /// Ends following the files of the certificates.
    _watch: Option<tokio_util::task::AbortOnDropHandle<()>>,
}

/// What goes through a route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Activity {
    /// Requests that were not answered to their end yet, upgraded ones not counted.
    pub in_flight: u64,
    /// Upgraded connections, such as WebSockets, that are open.
    pub upgrades: u64,
    /// Requests since the route was made.
    pub requests: u64,
    /// When the last request came, or the last upgraded connection ended; none where there was none.
    pub last_active: Option<SystemTime>,
}

impl Proxy {
    /// Starts a proxy without routes, on threads of its own.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::Error::InvalidInput) for a configuration that makes no sense or certificates that cannot be used;
    /// [`Conflict`](crate::Error::Conflict) if an address is in use.
    ///
    /// # Cancel safety
    /// Dropped, it starts nothing.
    pub async fn start(config: &ProxyConfig) -> Result<Self> {
        Self::start_with(config, &[]).await
    }

    /// Starts a proxy as [`Proxy::start`] does, with these routes: no client finds one missing that is among them.
    ///
    /// # Errors
    /// As [`Proxy::start`], and as [`Router::set`].
    ///
    /// # Cancel safety
    /// As [`Proxy::start`].
    pub async fn start_with(config: &ProxyConfig, routes: &[Route]) -> Result<Self> {
        config.validate()?;
        routes.iter().try_for_each(Route::validate)?;
        let certificates = match config.tls_listen {
            Some(_) => Some(load(config).await?),
            None => None,
        };
        let plain = listen(config.listen, "proxy.listen")?;
        let tls = config.tls_listen.map(|address| listen(address, "proxy.tls-listen")).transpose()?;
        let address = local_address(&plain)?;
        let tls_address = tls.as_ref().map(local_address).transpose()?;
        let mut id = [0; 6];
        random(&mut id)?;
        let forwarding = Forwarding { via: format!("ondemand-{}", hex(&id)), trust: config.trust_forwarded };
        let watch = certificates
            .clone()
            .map(|certificates| tokio_util::task::AbortOnDropHandle::new(tokio::spawn(certificates.watch())));
        let tls_port = tls_address.map(|address| address.port());
        let shared = Arc::new(Shared::new(Settings::new(config), forwarding, certificates, tls_port));
        for route in routes {
            shared.table.set(route);
        }
        let threads = worker::threads(config.workers);
        let (working, ended) = watch::channel(threads);
        let mut workers = Vec::with_capacity(threads);
        for number in 0..threads {
            let (sender, commands) = mpsc::unbounded_channel();
            let clone =
                |listener: &TcpListener| listener.try_clone().map_err(|e| Error::io("proxy", "sharing a socket", e));
            let listeners = Listeners { plain: clone(&plain)?, tls: tls.as_ref().map(clone).transpose()? };
            spawn(number, Arc::clone(&shared), listeners, commands, working.clone())?;
            workers.push(sender);
        }
        Ok(Self(Arc::new(Inner { shared, address, tls_address, workers, working: ended, _watch: watch })))
    }

    /// Returns where it listens for HTTP, with the port that was chosen where the configuration said 0.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Returns where it listens for HTTPS.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.0.tls_address
    }

    /// Returns what goes through a route; none if the host is unknown.
    pub fn activity(&self, host: &Hostname) -> Option<Activity> {
        self.0.shared.table.get(host.as_str()).map(|entry| entry.stats.activity())
    }

    /// Returns what is measured, in Prometheus's text format.
    pub fn metrics(&self) -> String {
        metrics::write(&self.0.shared, self.0.shared.settings.max_metrics_routes)
    }

    /// Ends: takes no more connections, lets what is in flight finish for the time that is configured, and closes what is left.
    ///
    /// # Cancel safety
    /// Dropped, it goes on ending in the background, as long as the proxy itself is not dropped.
    pub async fn shutdown(&self) {
        self.tell(|| Command::End);
        // It fails if there is no worker any more, which is what is awaited.
        let _ = self.0.working.clone().wait_for(|working| *working == 0).await;
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for worker in &self.0.workers {
            // One that has ended needs no telling.
            let _ = worker.send(command());
        }
    }
}

/// Reads the certificates.
async fn load(config: &ProxyConfig) -> Result<Arc<Certificates>> {
    let files = config.certificates.clone();
    let loaded = tokio::task::spawn_blocking(move || Certificates::load(&files)).await;
    loaded.map_err(|e| Error::backend("proxy", "reading certificates", e))?
}

fn listen(address: SocketAddr, setting: &str) -> Result<TcpListener> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        // As many may wait as the system lets; the standard library's 128 are soon used up.
        rustix::net::listen(&listener, i32::MAX)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Error::Conflict {
            message: format!("the proxy cannot listen on {address}: another program does"),
            hint: format!("end it, or choose another address with {setting}"),
        },
        _ => Error::io("proxy", format!("listening on {address}"), error),
    })
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|e| Error::io("proxy", "asking for its own address", e))
}

/// Starts a worker on a thread of its own.
fn spawn(
    number: usize,
    shared: Arc<Shared>,
    listeners: Listeners,
    commands: mpsc::UnboundedReceiver<Command>,
    working: watch::Sender<usize>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("proxy", "starting a worker", e))?;
    let work = move || {
        let ended = runtime.block_on(worker::work(Worker::new(shared), listeners, commands));
        if let Err(error) = ended {
            tracing::error!("a worker of the proxy ended: {error}");
        }
        // A name that is still being looked up is not waited for.
        runtime.shutdown_background();
        working.send_modify(|working| *working -= 1);
    };
    let thread = std::thread::Builder::new().name(format!("proxy-{number}")).spawn(work);
    thread.map(drop).map_err(|e| Error::io("proxy", "starting a worker", e))
}

#[async_trait]
impl Router for Proxy {
    async fn set(&self, route: &Route) -> Result<()> {
        route.validate()?;
        self.0.shared.table.set(route);
        Ok(())
    }

    async fn remove(&self, host: &Hostname) -> Result<()> {
        if let Some(entry) = self.0.shared.table.remove(host) {
            self.tell(|| Command::Drain(Arc::clone(&entry)));
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Route>> {
        Ok(self.0.shared.table.list().iter().map(|entry| entry.route.clone()).collect())
    }

    async fn get(&self, host: &Hostname) -> Result<Route> {
        let entry = self.0.shared.table.get(host.as_str());
        entry.map(|entry| entry.route.clone()).ok_or_else(|| Error::not_found(Kind::Route, host))
    }
}
