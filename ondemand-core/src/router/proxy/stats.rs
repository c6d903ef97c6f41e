//! What is counted of each route.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use super::Activity;
use super::table::Entry;

/// The upper bounds of the latency histogram, in seconds and in microseconds.
pub(super) const BUCKETS: [(&str, u64); 11] = [
    ("0.001", 1_000),
    ("0.0025", 2_500),
    ("0.005", 5_000),
    ("0.01", 10_000),
    ("0.025", 25_000),
    ("0.05", 50_000),
    ("0.1", 100_000),
    ("0.25", 250_000),
    ("1", 1_000_000),
    ("5", 5_000_000),
    ("30", 30_000_000),
];

/// What is counted of one host, for as long as it has a route.
///
/// What nearly every request touches comes first and fits a line of the processor's cache: among ten thousand hosts, memory that has to
/// be fetched is what a request pays for.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Stats {
    /// Tells this host's life as a route from every other one; never 0.
    pub(super) id: u64,
    pub(super) in_flight: AtomicU64,
    requests: AtomicU64,
    /// When something last happened, in milliseconds since 1970; 0 for never.
    last_active: AtomicU64,
    pub(super) micros: AtomicU64,
    /// Answers of status 2xx.
    fine: AtomicU64,
    /// Answers of the first bucket.
    quick: AtomicU64,
    pub(super) upgrades: AtomicU64,
    /// The other answers, by the first digit of their status.
    answers: [AtomicU64; CLASSES],
    /// How many of the other answers took at most as long as the bound of the bucket, and longer than that of the one before; the last
    /// has the rest.
    buckets: [AtomicU64; BUCKETS.len() + 1],
}

/// As many as there are first digits of a status, and one for 0.
pub(super) const CLASSES: usize = 6;

impl Stats {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            in_flight: AtomicU64::default(),
            requests: AtomicU64::default(),
            last_active: AtomicU64::default(),
            micros: AtomicU64::default(),
            fine: AtomicU64::default(),
            quick: AtomicU64::default(),
            upgrades: AtomicU64::default(),
            answers: Default::default(),
            buckets: Default::default(),
        }
    }

    /// Counts an answer.
    pub(super) fn answered(&self, status: u16, took: Duration) {
        let class = match status / 100 {
            2 => &self.fine,
            class => &self.answers[usize::from(class).min(CLASSES - 1)],
        };
        class.fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Relaxed);
        let bucket = match BUCKETS.iter().position(|(_, bound)| micros <= *bound) {
            Some(0) => &self.quick,
            bucket => &self.buckets[bucket.unwrap_or(BUCKETS.len())],
        };
        bucket.fetch_add(1, Relaxed);
    }

    /// Returns how many answers there were, by the first digit of their status.
    pub(super) fn answers(&self) -> [u64; CLASSES] {
        std::array::from_fn(|class| if class == 2 { &self.fine } else { &self.answers[class] }.load(Relaxed))
    }

    /// Returns how many answers there were in each bucket, and beyond the last one.
    pub(super) fn buckets(&self) -> [u64; BUCKETS.len() + 1] {
        std::array::from_fn(|bucket| if bucket == 0 { &self.quick } else { &self.buckets[bucket] }.load(Relaxed))
    }

    pub(super) fn activity(&self) -> Activity {
        let last_active = match self.last_active.load(Relaxed) {
            0 => None,
            millis => Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis)),
        };
        Activity {
            in_flight: self.in_flight.load(Relaxed),
            upgrades: self.upgrades.load(Relaxed),
            requests: self.requests.load(Relaxed),
            last_active,
        }
    }

    fn touch(&self, now: u64) {
        self.last_active.store(now, Relaxed);
    }
}

/// Tells the time by one clock that is cheap to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
    epoch: u64,
}

impl Clock {
    pub(super) fn new() -> Self {
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), epoch: millis(epoch) }
    }

    /// Returns milliseconds since 1970.
    pub(super) fn now(self) -> u64 {
        self.unix_millis(Instant::now())
    }

    /// Returns milliseconds since 1970 at an instant.
    pub(super) fn unix_millis(self, at: Instant) -> u64 {
        self.epoch + millis(at.saturating_duration_since(self.start))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A request, or an upgraded connection, for as long as it is under way.
#[derive(Debug)]
pub(super) struct InFlight {
    /// What has the counters: the entry of the route when the request began.
    entry: Arc<Entry>,
    clock: Clock,
    upgraded: bool,
}

impl InFlight {
    /// Counts a request that began.
    pub(super) fn begin(entry: Arc<Entry>, clock: Clock, now: Instant) -> Self {
        let stats = &entry.stats;
        stats.requests.fetch_add(1, Relaxed);
        stats.in_flight.fetch_add(1, Relaxed);
        stats.touch(clock.unix_millis(now));
        Self { entry, clock, upgraded: false }
    }

    /// Makes it an upgraded connection.
    pub(super) fn upgrade(mut self) -> Self {
        if !self.upgraded {
            self.upgraded = true;
            self.stats().upgrades.fetch_add(1, Relaxed);
            self.stats().in_flight.fetch_sub(1, Relaxed);
        }
        self
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.entry.stats
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.upgraded {
            // It was in use until now.
            self.stats().touch(self.clock.unix_millis(Instant::now()));
            self.stats().upgrades.fetch_sub(1, Relaxed);
        } else {
            self.stats().in_flight.fetch_sub(1, Relaxed);
        }
    }
}
