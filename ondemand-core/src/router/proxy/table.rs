//! The route table: looked up by every request without a lock, changed at any moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

use super::stats::Stats;
use crate::name::Hostname;
use crate::router::{Route, Upstream};

/// For how long an upstream that cannot be connected to is passed over, in milliseconds: at first, and at most.
const EJECTED: (u64, u64) = (500, 30_000);

/// All routes.
#[derive(Debug, Default)]
pub(super) struct Table(papaya::HashMap<String, Arc<Entry>>);

/// A route, and what is known of its upstreams.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) route: Route,
    pub(super) targets: Box<[Arc<Target>]>,
    pub(super) stats: Arc<Stats>,
    /// How many requests are held until the route is no longer pending.
    pub(super) held: AtomicUsize,
    /// Tells them that this entry was replaced.
    replaced: Notify,
    turn: AtomicUsize,
}

/// An upstream.
#[derive(Debug)]
pub(super) struct Target {
    /// Its address as text: what its connections are pooled by.
    pub(super) address: Arc<str>,
    /// How often in a row it could not be connected to.
    failures: AtomicU32,
    /// Until when it is passed over, in milliseconds since 1970.
    ejected_until: AtomicU64,
}

impl Table {
    /// Returns the entry of a host, which must be in the form of [`Hostname`] to be found.
    pub(super) fn get(&self, host: &str) -> Option<Arc<Entry>> {
        self.0.pin().get(host).cloned()
    }

    /// Puts a route in the place of what the host had.
    pub(super) fn set(&self, route: &Route) {
        let routes = self.0.pin();
        let host = route.host.as_str();
        // The counters go on, so two changes of one host at once must not both begin anew.
        let mut replaced = None;
        routes.compute(host.to_owned(), |old| {
            let old = old.map(|(_, entry)| entry);
            let entry = Arc::new(Entry::new(route, old.map(|old| &**old)));
            replaced = old.cloned();
            papaya::Operation::Insert::<_, ()>(entry)
        });
        if let Some(old) = replaced {
            old.replaced.notify_waiters();
        }
    }

    /// Takes a route away, and returns it.
    pub(super) fn remove(&self, host: &Hostname) -> Option<Arc<Entry>> {
        let removed = self.0.pin().remove(host.as_str()).cloned();
        if let Some(entry) = &removed {
            entry.replaced.notify_waiters();
        }
        removed
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns all entries in the order of their hosts.
    pub(super) fn list(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> = self.0.pin().values().cloned().collect();
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

impl Entry {
    fn new(route: &Route, old: Option<&Self>) -> Self {
        let target = |upstream: &Upstream| {
            // What is known of an upstream stays known.
            let known = old.and_then(|old| old.targets.iter().find(|target| *target.address == *upstream.as_str()));
            known.cloned().unwrap_or_else(|| Arc::new(Target::new(upstream)))
        };
        Self {
            route: route.clone(),
            targets: route.upstreams.iter().map(target).collect(),
            stats: old.map_or_else(|| Arc::new(Stats::new()), |old| Arc::clone(&old.stats)),
            held: AtomicUsize::default(),
            replaced: Notify::default(),
            turn: AtomicUsize::default(),
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
        Self { address: upstream.as_str().into(), failures: AtomicU32::default(), ejected_until: AtomicU64::default() }
    }

    fn is_ejected(&self, now: u64) -> bool {
        now < self.ejected_until.load(Relaxed)
    }

    /// Notes that it could not be connected to: it is passed over for a while, and for twice as long each time.
    pub(super) fn failed(&self, now: u64) {
        let failures = self.failures.fetch_add(1, Relaxed).min(16);
        self.ejected_until.store(now + (EJECTED.0 << failures).min(EJECTED.1), Relaxed);
    }

    /// Notes that it could be connected to.
    pub(super) fn connected(&self) {
        if self.failures.swap(0, Relaxed) > 0 {
            self.ejected_until.store(0, Relaxed);
        }
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
        dead.connected();
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
}
