//! Which connections of the API may be open. Those that wait for a request make room for new ones, the one that waits longest first: strangers who connect
//! and say nothing keep nobody out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use hyper::body::{Bytes, Frame, SizeHint};
use ondemand_core::config::HttpConfig;
use ondemand_core::router::proxy::raise_open_files;
use tokio_util::sync::CancellationToken;

/// The part of all files that this process may open, as a divisor, that connections take at most.
const PART: u64 = 8;
/// How many connections there may be, however few files.
const FEWEST: usize = 16;

/// How many connections may be open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of all clients.
    pub(super) all: usize,
    /// Of one address.
    pub(super) per_client: usize,
}

impl Limits {
    /// Takes over what is configured, as far as there may be files for it.
    pub(super) fn new(config: &HttpConfig) -> Self {
        let room = usize::try_from(raise_open_files() / PART).unwrap_or(usize::MAX).max(FEWEST);
        if room < config.max_connections {
            tracing::info!(
                "the system's limit of open files leaves {room} connections to the API, and http.max-connections is {}",
                config.max_connections
            );
        }
        Self { all: config.max_connections.min(room), per_client: config.max_connections_per_client }
    }
}

/// The places of the connections that are open.
#[derive(Debug)]
pub(super) struct Admissions {
    limits: Limits,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Counts up whenever a connection begins to wait, so that an earlier number has waited longer.
    turn: u64,
    open: usize,
    clients: HashMap<IpAddr, Client>,
    /// The connections that wait for a request.
    waiting: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

#[derive(Debug, Default)]
struct Client {
    open: usize,
    /// Those of its connections that wait for a request.
    waiting: BTreeSet<u64>,
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    client: IpAddr,
    shared: Arc<Mutex<Shared>>,
    state: Arc<Mutex<State>>,
    needed: CancellationToken,
}

/// What a connection does. It is locked before what all share.
#[derive(Debug)]
struct State {
    /// Its number while it waits for a request.
    turn: Option<u64>,
    /// How many requests are being answered.
    works: usize,
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
pub(super) struct Work {
    client: IpAddr,
    shared: Arc<Mutex<Shared>>,
    state: Arc<Mutex<State>>,
    needed: CancellationToken,
}

impl Admissions {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, shared: Arc::default() }
    }

    /// Finds a place for a new connection; where there is none, one that waits for a request loses its own.
    pub(super) fn admit(&self, client: IpAddr) -> Option<Place> {
        let mut shared = locked(&self.shared);
        let own = shared.clients.get(&client);
        let chosen = if own.is_some_and(|own| own.open >= self.limits.per_client) {
            Some(own.and_then(|own| own.waiting.first().copied())?)
        } else if shared.open >= self.limits.all {
            Some(*shared.waiting.first_key_value()?.0)
        } else {
            None
        };
        if let Some((_, needed)) = chosen.and_then(|turn| shared.stop_waiting(turn)) {
            // Its task leaves in a moment; so for that moment there is one more.
            needed.cancel();
        }
        shared.open += 1;
        shared.clients.entry(client).or_default().open += 1;
        let needed = CancellationToken::new();
        let turn = shared.wait(client, needed.clone());
        let state = Arc::new(Mutex::new(State { turn: Some(turn), works: 0 }));
        Some(Place { client, shared: Arc::clone(&self.shared), state, needed })
    }
}

impl Shared {
    fn wait(&mut self, client: IpAddr, needed: CancellationToken) -> u64 {
        self.turn += 1;
        self.waiting.insert(self.turn, (client, needed));
        self.clients.entry(client).or_default().waiting.insert(self.turn);
        self.turn
    }

    fn stop_waiting(&mut self, turn: u64) -> Option<(IpAddr, CancellationToken)> {
        let (client, needed) = self.waiting.remove(&turn)?;
        if let Some(client) = self.clients.get_mut(&client) {
            client.waiting.remove(&turn);
        }
        Some((client, needed))
    }
}

impl Place {
    /// Completes when the connection is to make room for another one. It waits for a request then.
    pub(super) async fn is_needed(&self) {
        self.needed.cancelled().await;
    }

    /// Says that a request has come; `None` if that is too late, as another connection needs the place.
    pub(super) fn work(&self) -> Option<Work> {
        let mut state = locked(&self.state);
        if let Some(turn) = state.turn
            && locked(&self.shared).stop_waiting(turn).is_none()
        {
            return None;
        }
        state.turn = None;
        state.works += 1;
        let (shared, state) = (Arc::clone(&self.shared), Arc::clone(&self.state));
        Some(Work { client: self.client, shared, state, needed: self.needed.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = locked(&self.state);
        // What still works of it, such as an answer that nobody will send, waits for no other request.
        state.works = usize::MAX;
        let mut shared = locked(&self.shared);
        if let Some(turn) = state.turn.take() {
            shared.stop_waiting(turn);
        }
        shared.open -= 1;
        if let Some(client) = shared.clients.get_mut(&self.client) {
            client.open -= 1;
            if client.open == 0 {
                shared.clients.remove(&self.client);
            }
        }
    }
}

impl Work {
    /// Returns the body of the answer, with which the work ends.
    pub(super) fn until_sent(self, body: Body) -> Sent {
        Sent { body, _work: self }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut state = locked(&self.state);
        if state.works == usize::MAX {
            return;
        }
        state.works -= 1;
        if state.works == 0 {
            state.turn = Some(locked(&self.shared).wait(self.client, self.needed.clone()));
        }
    }
}

/// The body of an answer, which is work until it is sent.
#[derive(Debug)]
pub(super) struct Sent {
    body: Body,
    _work: Work,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is counted here is changed in steps that cannot fail.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn admissions(all: usize, per_client: usize) -> Admissions {
        Admissions::new(Limits { all, per_client })
    }

    #[test]
    fn whoever_waits_longest_makes_room() {
        let admissions = admissions(3, 3);
        let [first, second, third] = [HERE, THERE, HERE].map(|client| admissions.admit(client).expect("a place"));
        // It is at work, and then waits anew: the others have waited longer.
        drop(first.work().expect("it has its place"));
        let fourth = admissions.admit(THERE).expect("a place");
        assert!(second.needed.is_cancelled() && !first.needed.is_cancelled() && !third.needed.is_cancelled());
        assert!(second.work().is_none(), "a request that comes now is too late");
        drop(second);
        let (at_first, at_third, at_fourth) = (first.work(), third.work(), fourth.work());
        assert!(at_first.is_some() && at_third.is_some() && at_fourth.is_some());
        assert!(admissions.admit(HERE).is_none(), "all are at work");
        assert!([&first, &third, &fourth].iter().all(|place| !place.needed.is_cancelled()));
        drop((at_first, at_fourth));
        let fifth = admissions.admit(HERE).expect("a place");
        assert!(first.needed.is_cancelled() && !fourth.needed.is_cancelled());
        drop((first, at_third, third, fourth, fifth));
        let shared = locked(&admissions.shared);
        assert!(shared.open == 0 && shared.clients.is_empty() && shared.waiting.is_empty(), "{shared:?}");
    }

    #[test]
    fn one_client_takes_no_more_than_its_part() {
        let admissions = admissions(10, 2);
        let [a, b] = [HERE, HERE].map(|client| admissions.admit(client).expect("a place"));
        let other = admissions.admit(THERE).expect("a place");
        let c = admissions.admit(HERE).expect("a place");
        assert!(a.needed.is_cancelled() && !b.needed.is_cancelled() && !other.needed.is_cancelled());
        let _works = (b.work(), c.work());
        drop(a);
        assert!(admissions.admit(HERE).is_none());
        assert!(admissions.admit(THERE).is_some());
    }

    #[test]
    fn what_is_sent_after_its_connection_has_ended_counts_no_more() {
        let admissions = admissions(1, 1);
        let place = admissions.admit(HERE).expect("a place");
        let work = place.work();
        drop(place);
        drop(work);
        assert!(locked(&admissions.shared).waiting.is_empty());
        assert!(admissions.admit(HERE).is_some());
    }
}
