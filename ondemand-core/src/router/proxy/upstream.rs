//! Connections with upstreams, and those that wait for their next request.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use tokio::net::TcpStream;

use super::buffer::Inbox;
use super::http2::Transport;
use super::table::{Entry, Target};

/// How long a connection waits for its next request. Servers close theirs after 5 s and more (Node.js), and a request that crosses
/// with the closing is lost.
const IDLE: Duration = Duration::from_secs(15);
/// How long one may have waited that gets a request which must not be sent twice.
const FRESH: Duration = Duration::from_secs(1);
/// How many wait for each upstream.
const KEPT: usize = 256;

/// A connection with an upstream.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) io: Transport,
    pub(super) inbox: Inbox,
    pub(super) target: Arc<Target>,
    /// Whether it has had a request before this one.
    pub(super) reused: bool,
}

impl Upstream {
    pub(super) fn new(io: Transport, target: Arc<Target>, reused: bool) -> Self {
        Self { io, inbox: Inbox::default(), target, reused }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Unreachable {
    /// No upstream accepts one.
    Refused(io::Error),
    /// None answered in time.
    TimedOut,
}

/// The connections of one worker that wait.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Lists>);

/// By the id of the upstream.
type Lists = HashMap<u64, Vec<Waiting>, RandomState>;

#[derive(Debug)]
struct Waiting {
    io: TcpStream,
    since: Instant,
}

impl Pool {
    /// Returns a connection with one of a route's upstreams: one that waits, where `reuse` allows that, or a new one.
    pub(super) async fn connect(
        &self,
        entry: &Entry,
        reuse: Reuse,
        clock: super::stats::Clock,
        patience: Duration,
    ) -> Result<Upstream, Unreachable> {
        let now = Instant::now();
        let mut last = Unreachable::TimedOut;
        for target in entry.candidates(clock.unix_millis(now)) {
            if let Some(io) = self.take(target.id, reuse, now) {
                return Ok(Upstream::new(Transport::Tcp(io), Arc::clone(target), true));
            }
            match tokio::time::timeout(patience, TcpStream::connect(&*target.address)).await {
                Ok(Ok(io)) => {
                    // Without it, the end of a body may wait for an acknowledgement.
                    let _ = io.set_nodelay(true);
                    return Ok(Upstream::new(Transport::Tcp(io), Arc::clone(target), false));
                }
                Ok(Err(error)) => last = Unreachable::Refused(error),
                Err(_) => last = Unreachable::TimedOut,
            }
            target.failed(clock.unix_millis(Instant::now()));
            tracing::warn!(host = %entry.route.host, upstream = &*target.address, "cannot connect: {last}");
        }
        Err(last)
    }

    /// Keeps a connection for the next request.
    pub(super) fn put(&self, upstream: Upstream) {
        let Upstream { io: Transport::Tcp(io), target, .. } = upstream else { return };
        let mut waiting = self.lock();
        let since = Instant::now();
        match waiting.get_mut(&target.id) {
            Some(list) if list.len() >= KEPT => (),
            Some(list) => list.push(Waiting { io, since }),
            None => drop(waiting.insert(target.id, vec![Waiting { io, since }])),
        }
    }

    /// Closes those that wait for requests to an upstream.
    pub(super) fn forget(&self, target: &Target) {
        self.lock().remove(&target.id);
    }

    /// Closes those that have waited too long, or that are of no use any more.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|_, list| {
            list.retain(|waiting| now.duration_since(waiting.since) < IDLE && is_silent(&waiting.io));
            !list.is_empty()
        });
    }

    fn take(&self, target: u64, reuse: Reuse, now: Instant) -> Option<TcpStream> {
        let longest = match reuse {
            Reuse::Any => IDLE,
            Reuse::Fresh => FRESH,
            Reuse::Never => return None,
        };
        let mut pool = self.lock();
        let list = pool.get_mut(&target)?;
        while let Some(Waiting { io, since }) = list.pop() {
            if now.saturating_duration_since(since) >= longest {
                // Those below it have waited even longer.
                if reuse == Reuse::Any {
                    list.clear();
                } else {
                    list.push(Waiting { io, since });
                }
                return None;
            }
            if is_silent(&io) {
                return Some(io);
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which connections that wait may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    /// Any: the request can be sent again if the connection turns out to be dead.
    Any,
    /// One that has hardly waited, so that it is unlikely to be closed just now.
    Fresh,
    /// None.
    Never,
}

/// Tells whether an upstream that was asked nothing has neither said anything nor gone away: what it says would be taken for the
/// answer to the next request.
fn is_silent(io: &TcpStream) -> bool {
    match io.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
        // The usual case, without asking the system.
        Poll::Pending => true,
        Poll::Ready(Err(_)) => false,
        Poll::Ready(Ok(())) => {
            matches!(io.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        }
    }
}

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::TimedOut => f.write_str("no answer in time"),
        }
    }
}
