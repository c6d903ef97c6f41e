//! Counts what is read, and tells whoever asked.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::progress::{Event, Phase, Reporter};

/// The shortest time between two events of a phase.
const INTERVAL: Duration = Duration::from_millis(100);

/// Counts the bytes of an import, and reports phases at once and bytes now and then.
#[derive(Clone)]
pub(super) struct Meter {
    reporter: Reporter,
    state: Arc<Mutex<State>>,
}

struct State {
    phase: Phase,
    started: Instant,
    phase_started: Instant,
    bytes: u64,
    bytes_before_phase: u64,
    total: Option<u64>,
    detail: Option<String>,
    reported: Instant,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

impl Meter {
    pub(super) fn new(reporter: Reporter) -> Self {
        let now = Instant::now();
        let state = State {
            phase: Phase::Preparing,
            started: now,
            phase_started: now,
            bytes: 0,
            bytes_before_phase: 0,
            total: None,
            detail: None,
            reported: now,
        };
        Self { reporter, state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Numbers only: none can be half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a phase.
    pub(super) fn phase(&self, phase: Phase) {
        let mut state = self.lock();
        state.phase = phase;
        state.phase_started = Instant::now();
        state.bytes_before_phase = state.bytes;
        state.detail = None;
        self.report(state);
    }

    /// Sets how many bytes there are.
    pub(super) fn set_total(&self, total: Option<u64>) {
        self.lock().total = total;
    }

    /// Returns how many bytes there are, where that is known.
    pub(super) fn total(&self) -> Option<u64> {
        self.lock().total
    }

    /// Returns the bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Sets how many bytes were read by somebody else.
    pub(super) fn set_bytes(&self, bytes: u64) {
        self.lock().bytes = bytes;
    }

    /// Counts bytes.
    pub(super) fn add(&self, bytes: u64) {
        let mut state = self.lock();
        state.bytes += bytes;
        self.report_now_and_then(state);
    }

    /// Says what is being worked on.
    pub(super) fn detail(&self, detail: &str) {
        let mut state = self.lock();
        state.detail = Some(crate::error::shorten(detail));
        self.report_now_and_then(state);
    }

    fn report_now_and_then(&self, state: MutexGuard<'_, State>) {
        if state.reported.elapsed() >= INTERVAL {
            self.report(state);
        }
    }

    fn report(&self, mut state: MutexGuard<'_, State>) {
        state.reported = Instant::now();
        let read = state.bytes.saturating_sub(state.bytes_before_phase);
        let event = Event {
            phase: state.phase,
            bytes: state.bytes,
            total: state.total,
            rate: (read > 0).then(|| rate(read, state.phase_started.elapsed())),
            elapsed: state.started.elapsed(),
            detail: state.detail.clone(),
        };
        // The reporter may ask for whatever it likes: it is not called under the lock.
        drop(state);
        (self.reporter)(event);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate is for people")]
fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_told_at_once_and_bytes_now_and_then() {
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = events.clone();
        let meter = Meter::new(Arc::new(move |event: Event| seen.lock().unwrap().push(event)));
        meter.set_total(Some(20_000));
        meter.phase(Phase::Restoring);
        for _ in 0..10_000 {
            meter.add(2);
        }
        meter.phase(Phase::Done);
        let events = events.lock().unwrap();
        assert!((2..20).contains(&events.len()), "{} events", events.len());
        assert_eq!(events[0].phase, Phase::Restoring);
        let last = events.last().unwrap();
        assert_eq!((last.phase, last.bytes, last.total), (Phase::Done, 20_000, Some(20_000)));
    }
}
