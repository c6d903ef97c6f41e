//! The route table: looked up by every request without a lock, changed at any moment.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::stats::Stats;
use crate::name::Hostname;
use crate::router::{Protocol, Route, Upstream};

/// For how long an upstream that cannot be connected to, or does not answer, is passed over, in milliseconds: at first, and at most.
const EJECTED: (u64, u64) = (500, 30_000);

/// All routes. What strangers send is only looked up and never inserted, so that they cannot choose what collides.
#[derive(Debug, Default)]
pub(super) struct Table {
    routes: papaya::HashMap<Key, Arc<Entry>, RandomState>,
    /// The upstreams of all routes, by address: what is known of one holds for every route that leads there.
    targets: Mutex<Targets>,
}

/// A host, next to its entry in memory unless it is longer than most.
type Key = SmallVec<[u8; 48]>;

#[derive(Debug, Default)]
struct Targets {
    known: HashMap<Box<str>, Weak<Target>>,
    /// How many there were when those that no route leads to were last forgotten.
    swept: usize,
}

/// A route, and what is known of its upstreams. What every request needs comes first, so that it is fetched from memory at once.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Entry {
    pub(super) stats: Arc<Stats>,
    pub(super) targets: SmallVec<[Arc<Target>; 1]>,
    pub(super) pending: bool,
    pub(super) protocol: Protocol,
    turn: AtomicUsize,
    pub(super) route: Route,
    /// How many requests are held until the route is no longer pending.
    pub(super) held: AtomicUsize,
    /// Tells them that this entry was replaced.
    replaced: Notify,
}

/// An upstream.
#[derive(Debug)]
pub(super) struct Target {
    /// What its connections are pooled by; the same for all routes that lead there.
    pub(super) id: u64,
    pub(super) address: Arc<str>,
    /// How often in a row it could not be connected to, or closed the connection without an answer, or with none that can be used.
    failures: AtomicU32,
    /// Until when it is passed over, in milliseconds since 1970.
    ejected_until: AtomicU64,
}

impl Table {
    /// Returns the entry of a host, which must be in the form of [`Hostname`] to be found.
    pub(super) fn get(&self, host: &str) -> Option<Arc<Entry>> {
        self.routes.pin().get(host.as_bytes()).cloned()
    }

    /// Puts a route in the place of what the host had.
    pub(super) fn set(&self, route: &Route) {
        let routes = self.routes.pin();
        let host = route.host.as_str();
        let targets: SmallVec<_> = {
            let mut known = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
            route.upstreams.iter().map(|upstream| known.find(upstream)).collect()
        };
        // The counters go on, so two changes of one host at once must not both begin anew.
        let mut replaced = None;
        routes.compute(Key::from_slice(host.as_bytes()), |old| {
            let old = old.map(|(_, entry)| entry);
            let entry = Arc::new(Entry::new(route, targets.clone(), old.map(|old| &**old)));
            replaced = old.cloned();
            papaya::Operation::Insert::<_, ()>(entry)
        });
        if let Some(old) = replaced {
            old.replaced.notify_waiters();
        }
    }

    /// Takes a route away, and returns it.
    pub(super) fn remove(&self, host: &Hostname) -> Option<Arc<Entry>> {
        let removed = self.routes.pin().remove(host.as_str().as_bytes()).cloned();
        if let Some(entry) = &removed {
            entry.replaced.notify_waiters();
        }
        removed
    }

    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }

    /// Returns all entries in the order of their hosts.
    pub(super) fn list(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> = self.routes.pin().values().cloned().collect();
        entries.sort_unstable_by(|a, b| a.route.host.cmp(&b.route.host));
        entries
    }

    /// Waits until an entry is no longer the one that its host has.
    pub(super) async fn replaced(&self, entry: &Arc<Entry>) {
        let mut replaced = std::pin::pin!(entry.replaced.notified());
        replaced.as_mut().enable();
        let current = self.get(entry.route.host.as_str());
        if current.is_some_and(|current| Arc::ptr_eq(&current, entry)) {
            replaced.await;
        }
    }
}

impl Targets {
    /// Returns what is known of an upstream.
    fn find(&mut self, upstream: &Upstream) -> Arc<Target> {
        let address = upstream.as_str();
        if let Some(target) = self.known.get(address).and_then(Weak::upgrade) {
            return target;
        }
        // Now and then, so that each pays for few.
        if self.known.len() > 2 * self.swept + 64 {
            self.known.retain(|_, target| target.strong_count() > 0);
            self.swept = self.known.len();
        }
        let target = Arc::new(Target::new(upstream));
        self.known.insert(address.into(), Arc::downgrade(&target));
        target
    }
}

impl Entry {
    fn new(route: &Route, targets: SmallVec<[Arc<Target>; 1]>, old: Option<&Self>) -> Self {
        Self {
            stats: old.map_or_else(|| Arc::new(Stats::new()), |old| Arc::clone(&old.stats)),
            targets,
            pending: route.pending,
            protocol: route.protocol,
            turn: AtomicUsize::default(),
            route: route.clone(),
            held: AtomicUsize::default(),
            replaced: Notify::default(),
        }
    }

    /// Returns the upstreams in the order in which a request should try them: whose turn it is first, those that are passed
    /// over last.
    pub(super) fn candidates(&self, now: u64) -> impl Iterator<Item = &Arc<Target>> {
        let count = self.targets.len();
        let first = if count > 1 { self.turn.fetch_add(1, Relaxed) % count } else { 0 };
        let in_turn = move |ejected: bool| {
            let targets = (0..count).map(move |i| &self.targets[(first + i) % count]);
            targets.filter(move |target| (count > 1 && target.is_ejected(now)) == ejected)
        };
        in_turn(false).chain(in_turn(true))
    }
}

impl Target {
    fn new(upstream: &Upstream) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            address: upstream.as_str().into(),
            failures: AtomicU32::default(),
            ejected_until: AtomicU64::default(),
        }
    }

    fn is_ejected(&self, now: u64) -> bool {
        now < self.ejected_until.load(Relaxed)
    }

    /// Notes that it is of no use: it is passed over for a while, and for twice as long each time.
    pub(super) fn failed(&self, now: u64) {
        let failures = self.failures.fetch_add(1, Relaxed).min(16);
        self.ejected_until.store(now + (EJECTED.0 << failures).min(EJECTED.1), Relaxed);
    }

    /// Notes that it answered.
    pub(super) fn answered(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
            self.ejected_until.store(0, Relaxed);
        }
    }
}

/// A place among the requests that are held for a route.
#[derive(Debug)]
pub(super) struct Held(Arc<Entry>);

impl Held {
    /// Takes one, if there are no more than `most`.
    pub(super) fn take(entry: &Arc<Entry>, most: usize) -> Option<Self> {
        let taken = entry.held.fetch_update(Relaxed, Relaxed, |held| (held < most).then_some(held + 1));
        taken.is_ok().then(|| Self(Arc::clone(entry)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(upstreams: &[&str]) -> Route {
        let upstreams = upstreams.iter().map(|upstream| Upstream::new(*upstream).expect("an upstream"));
        Route::new(Hostname::new("a.example").expect("a host"), upstreams)
    }

    fn order(entry: &Entry, now: u64) -> Vec<String> {
        entry.candidates(now).map(|target| target.address.to_string()).collect()
    }

    #[test]
    fn upstreams_take_turns_and_each_request_can_try_all() {
        let table = Table::default();
        table.set(&route(&["a:1", "b:1", "c:1"]));
        let entry = table.get("a.example").expect("a route");
        assert_eq!(order(&entry, 0), ["a:1", "b:1", "c:1"]);
        assert_eq!(order(&entry, 0), ["b:1", "c:1", "a:1"]);
        assert_eq!(order(&entry, 0), ["c:1", "a:1", "b:1"]);
    }

    #[test]
    fn a_dead_upstream_is_tried_last_for_longer_and_longer_until_it_answers() {
        let table = Table::default();
        table.set(&route(&["a:1", "b:1"]));
        let entry = table.get("a.example").expect("a route");
        let dead = Arc::clone(&entry.targets[0]);
        dead.failed(1_000);
        assert_eq!(order(&entry, 1_001), ["b:1", "a:1"]);
        assert_eq!(order(&entry, 1_002), ["b:1", "a:1"]);
        assert_eq!(order(&entry, 1_500), ["a:1", "b:1"]);
        dead.failed(1_500);
        assert!(dead.is_ejected(2_499) && !dead.is_ejected(2_500));
        for _ in 0..100 {
            dead.failed(2_500);
        }
        assert!(dead.is_ejected(32_499) && !dead.is_ejected(32_500));
        // The route set again with the same upstream does not forget.
        table.set(&route(&["a:1", "c:1"]));
        let entry = table.get("a.example").expect("a route");
        assert_eq!(order(&entry, 2_501), ["c:1", "a:1"]);
        dead.answered();
        assert!(!dead.is_ejected(2_501));
    }

    #[test]
    fn counters_live_as_long_as_the_host_has_a_route() {
        let table = Table::default();
        table.set(&route(&["a:1"]));
        let first = table.get("a.example").expect("a route").stats.id;
        table.set(&route(&["b:1"]));
        assert_eq!(table.get("a.example").expect("a route").stats.id, first);
        table.remove(&route(&[]).host).expect("a route");
        table.set(&route(&["b:1"]));
        assert_ne!(table.get("a.example").expect("a route").stats.id, first);
    }

    #[test]
    fn what_no_route_leads_to_is_forgotten() {
        let table = Table::default();
        for port in 1..2_000 {
            table.set(&route(&[&format!("a:{port}")]));
        }
        let known = table.targets.lock().expect("no panic").known.len();
        assert!(known < 150, "{known}");
        let one = Arc::clone(&table.get("a.example").expect("a route").targets[0]);
        let mut other = route(&["a:1999"]);
        other.host = Hostname::new("b.example").expect("a host");
        table.set(&other);
        assert_eq!(table.get("b.example").expect("a route").targets[0].id, one.id);
    }
}
