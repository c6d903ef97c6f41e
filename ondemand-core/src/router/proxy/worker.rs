//! The threads that do the work, each with its own runtime, clients and upstream connections: no request goes from thread to thread.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slab::Slab;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accept;
use super::http1::forward::Forwarding;
use super::http2::{Sessions, Transport};
use super::settings::Settings;
use super::stats::{Clock, Stats};
use super::table::{Entry, Table, Target};
use super::tls::Certificates;
use super::upstream::{Pool, Reuse, Unreachable, Upstream};
use crate::router::Protocol;

/// How often connections that wait are looked through.
const SWEEP: Duration = Duration::from_secs(5);
/// How long what was cut off may take to be dropped.
const CLEANUP: Duration = Duration::from_secs(5);

/// What all workers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) table: Table,
    pub(super) forwarding: Forwarding,
    pub(super) clock: Clock,
    pub(super) certificates: Option<Arc<Certificates>>,
    /// Where HTTPS is, for redirects.
    pub(super) tls_port: Option<u16>,
    /// What is counted of requests that no route is for.
    pub(super) unknown: Stats,
    pub(super) connections: AtomicU64,
    /// Streams of HTTP/2 that are open.
    streams: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    clients: Mutex<HashMap<IpAddr, usize>>,
}

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Command {
    /// What is still in flight for a route that was removed is cut off after the time that it may take.
    Drain(Arc<Entry>),
    /// Finish what is in flight, and end.
    End,
}

/// One thread's part.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Pool,
    sessions: Sessions,
    /// Asks what is under way to be the last of its connection.
    pub(super) ending: CancellationToken,
    places: Mutex<Slab<Arc<Place>>>,
    left: Notify,
}

/// A connection, or a stream of one, as others see it.
#[derive(Debug)]
pub(super) struct Place {
    /// The route that it is at work for: [`Place::IDLE`] for none, [`Place::BUSY`] while that is not known.
    route: AtomicU64,
    cut: futures_util::future::AbortHandle,
}

impl Place {
    const IDLE: u64 = 0;
    const BUSY: u64 = u64::MAX;

    pub(super) fn idle(&self) {
        self.route.store(Self::IDLE, Relaxed);
    }

    pub(super) fn busy(&self) {
        self.route.store(Self::BUSY, Relaxed);
    }

    /// Says for which route it is at work.
    pub(super) fn works_for(&self, stats: &Stats) {
        self.route.store(stats.id, Relaxed);
    }
}

/// Frees a place.
struct Leave<'a>(&'a Worker, usize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.places().remove(self.1);
        self.0.left.notify_waiters();
    }
}

/// A connection that was let in.
#[derive(Debug)]
pub(super) struct Admission {
    shared: Arc<Shared>,
    client: IpAddr,
    stream: bool,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let kind = if self.stream { &self.shared.streams } else { &self.shared.connections };
        kind.fetch_sub(1, Relaxed);
        let mut clients = self.shared.clients();
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        forwarding: Forwarding,
        certificates: Option<Arc<Certificates>>,
        tls_port: Option<u16>,
    ) -> Self {
        Self {
            settings,
            table: Table::default(),
            forwarding,
            clock: Clock::new(),
            certificates,
            tls_port,
            unknown: Stats::new(),
            connections: AtomicU64::default(),
            streams: AtomicU64::default(),
            accepted: AtomicU64::default(),
            refused: AtomicU64::default(),
            clients: Mutex::default(),
        }
    }

    /// Lets a connection in, if there is room for it; says why not otherwise.
    pub(super) fn admit(self: &Arc<Self>, client: IpAddr) -> Result<Admission, &'static str> {
        self.accepted.fetch_add(1, Relaxed);
        let admitted = self.take_place(client, &self.connections);
        if admitted.is_err() {
            self.refused.fetch_add(1, Relaxed);
        }
        admitted.map(|client| Admission { shared: Arc::clone(self), client, stream: false })
    }

    /// Lets a stream of HTTP/2 in, if there is room for it: it has a connection with an upstream as any other request.
    pub(super) fn admit_stream(self: &Arc<Self>, client: IpAddr) -> Result<Admission, &'static str> {
        let admitted = self.take_place(client, &self.streams);
        admitted.map(|client| Admission { shared: Arc::clone(self), client, stream: true })
    }

    /// Counts one more, and returns whose it is.
    fn take_place(&self, client: IpAddr, kind: &AtomicU64) -> Result<IpAddr, &'static str> {
        let client = network(client);
        let mut clients = self.clients();
        let open = clients.get(&client).copied().unwrap_or(0);
        let all = self.connections.load(Relaxed) + self.streams.load(Relaxed);
        if all >= self.settings.max_connections as u64 {
            return Err("too many connections are open");
        }
        if open >= self.settings.max_connections_per_client {
            return Err("too many connections are open from this address");
        }
        // Under the lock, so that no two take the last place.
        kind.fetch_add(1, Relaxed);
        *clients.entry(client).or_default() += 1;
        Ok(client)
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            pool: Pool::default(),
            sessions: Sessions::default(),
            ending: CancellationToken::new(),
            places: Mutex::default(),
            left: Notify::new(),
        })
    }

    /// Does work that may be cut off from elsewhere.
    pub(super) async fn at_a_place<F: Future>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Place>) -> F,
    ) -> Option<F::Output> {
        let (cut, registration) = futures_util::future::AbortHandle::new_pair();
        let place = Arc::new(Place { route: AtomicU64::new(Place::BUSY), cut });
        let key = self.places().insert(Arc::clone(&place));
        let _leave = Leave(self, key);
        futures_util::future::Abortable::new(work(place), registration).await.ok()
    }

    /// Returns a connection with one of a route's upstreams.
    pub(super) async fn connect(&self, entry: &Entry, reuse: Reuse) -> Result<Upstream, Unreachable> {
        let patience = self.shared.settings.connect_timeout;
        if entry.protocol == Protocol::Http1 {
            return self.pool.connect(entry, reuse, self.shared.clock, patience).await;
        }
        let mut last = Unreachable::TimedOut;
        for target in entry.candidates(self.shared.clock.now()) {
            match self.sessions.open(&target.address, patience).await {
                Ok((tunnel, reused)) => {
                    // A connection that resets each stream is open all the same: what was tried again is not tried once more.
                    let reused = reused && reuse != Reuse::Never;
                    return Ok(Upstream::new(Transport::Http2(tunnel), Arc::clone(target), reused));
                }
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => last = Unreachable::TimedOut,
                Err(error) => last = Unreachable::Refused(error),
            }
            target.failed(self.shared.clock.now());
            tracing::warn!(host = %entry.route.host, upstream = &*target.address, "cannot connect: {last}");
        }
        Err(last)
    }

    /// Lets go of the connections with an upstream that are not in use.
    fn forget(&self, target: &Target) {
        self.pool.forget(target);
        self.sessions.forget(&target.address);
    }

    fn places(&self) -> MutexGuard<'_, Slab<Arc<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts off whatever is at work for a route.
    fn cut(&self, which: impl Fn(u64) -> bool) {
        for (_, place) in self.places().iter() {
            if which(place.route.load(Relaxed)) {
                place.cut.abort();
            }
        }
    }

    /// Waits until nobody is at a place.
    async fn emptied(&self) {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if self.places().is_empty() {
                return;
            }
            left.await;
        }
    }
}

/// Where a worker takes connections from.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) plain: std::net::TcpListener,
    pub(super) tls: Option<std::net::TcpListener>,
}

/// Works until it is told to end, or nobody is left to tell it.
pub(super) async fn work(
    worker: Arc<Worker>,
    listeners: Listeners,
    mut commands: mpsc::UnboundedReceiver<Command>,
) -> std::io::Result<()> {
    let plain = TcpListener::from_std(listeners.plain)?;
    let tls = listeners.tls.map(TcpListener::from_std).transpose()?;
    let config = worker.shared.certificates.as_ref().map(Certificates::server_config);
    let acceptor = config.map(tokio_rustls::TlsAcceptor::from);
    let drain = worker.shared.settings.drain_timeout;
    let mut draining = VecDeque::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Drain(entry)) => {
                    // Whatever runs at that address next is something else.
                    entry.targets.iter().for_each(|target| worker.forget(target));
                    draining.push_back((Instant::now() + drain, entry.stats.id));
                }
                Some(Command::End) => break,
                None => return Ok(()),
            },
            accepted = plain.accept() => take(&worker, accepted, None).await,
            accepted = accept_some(tls.as_ref()) => take(&worker, accepted, acceptor.clone()).await,
            () = tokio::time::sleep_until(draining.front().map_or_else(Instant::now, |(at, _)| *at)), if !draining.is_empty() => {
                if let Some((_, route)) = draining.pop_front() {
                    worker.cut(|at| at == route);
                }
            }
            _ = sweep.tick() => {
                worker.pool.sweep();
                worker.sessions.sweep();
            }
        }
    }
    drop((plain, tls));
    worker.ending.cancel();
    worker.cut(|at| at == Place::IDLE);
    if tokio::time::timeout(drain, worker.emptied()).await.is_err() {
        tracing::warn!("cutting off what is still in flight");
        worker.cut(|_| true);
        let _ = tokio::time::timeout(CLEANUP, worker.emptied()).await;
    }
    Ok(())
}

async fn accept_some(listener: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn take(
    worker: &Arc<Worker>,
    accepted: std::io::Result<(TcpStream, SocketAddr)>,
    tls: Option<tokio_rustls::TlsAcceptor>,
) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset};
    match accepted {
        Ok((stream, peer)) => accept::serve(worker, stream, peer.ip(), tls),
        Err(error) if matches!(error.kind(), ConnectionAborted | ConnectionReset) => (),
        Err(error) => {
            // Another would fail at once, as when there are too many open files.
            tracing::error!("accepting a connection: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Returns what counts as one client: of IPv6, the network that one customer gets, which has more addresses than there are connections.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into()),
        ip @ IpAddr::V4(_) => ip,
    }
}

/// How many threads there are by default.
pub(super) fn threads(configured: Option<usize>) -> usize {
    configured.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_address_or_a_network_of_ipv6() {
        let one = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(one("2001:db8:1:2:3:4:5:6"), one("2001:db8:1:2::1"));
        assert_ne!(one("2001:db8:1:2::1"), one("2001:db8:1:3::1"));
        assert_eq!(one("::ffff:10.0.0.1"), one("10.0.0.1"));
        assert_ne!(one("10.0.0.1"), one("10.0.0.2"));
    }
}
