//! Ports, handed out one at a time.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// The ports of a range. They are handed out in turn, so that a port just freed comes last: a client that still has its old address
/// meets a closed port, not somebody else's database.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    next: u16,
    taken: BTreeSet<u16>,
}

/// A port that nobody else is given until this is dropped.
#[derive(Debug)]
pub(super) struct PortLease {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        let state = State { next: *range.start(), taken: BTreeSet::new() };
        Self { range, state: Arc::new(Mutex::new(state)) }
    }

    /// Hands out the next port that is not taken and that `is_free` finds free of strangers.
    pub(super) fn take(&self, is_free: impl Fn(u16) -> bool) -> Result<PortLease> {
        let count = u32::from(*self.range.end()) - u32::from(*self.range.start()) + 1;
        let mut strangers = 0;
        for _ in 0..count {
            // The port is reserved before it is probed, and the lock is not held meanwhile.
            let Some(lease) = self.reserve_next() else { continue };
            if is_free(lease.port) {
                return Ok(lease);
            }
            strangers += 1;
        }
        let (first, last) = (self.range.start(), self.range.end());
        let others = if strangers == 0 { String::new() } else { format!("; other programs have {strangers} of them") };
        Err(Error::QuotaExceeded {
            message: format!("no port from {first} to {last} is free{others}"),
            hint: "delete databases, or configure a wider range of ports".into(),
        })
    }

    fn reserve_next(&self) -> Option<PortLease> {
        let mut state = lock(&self.state);
        let port = state.next;
        state.next = if port == *self.range.end() { *self.range.start() } else { port + 1 };
        state.taken.insert(port).then(|| PortLease { port, state: Arc::clone(&self.state) })
    }

    /// Takes the port of a database that exists already, unless another has it.
    pub(super) fn adopt(&self, port: u16) -> Option<PortLease> {
        let mut state = lock(&self.state);
        if !state.taken.insert(port) {
            return None;
        }
        // What comes next is after the youngest that was met, as it would be had this process handed them out.
        if self.range.contains(&port) && port >= state.next {
            state.next = if port == *self.range.end() { *self.range.start() } else { port + 1 };
        }
        Some(PortLease { port, state: Arc::clone(&self.state) })
    }
}

impl PortLease {
    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        lock(&self.state).taken.remove(&self.port);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Each change is a single step, so the state is whole even if a holder panicked.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_just_freed_comes_last() {
        let ports = Ports::new(5433..=5435);
        let first = ports.take(|_| true).unwrap();
        assert_eq!(first.port(), 5433);
        drop(first);
        assert_eq!(ports.take(|_| true).unwrap().port(), 5434);
        assert_eq!(ports.take(|_| true).unwrap().port(), 5435);
        assert_eq!(ports.take(|_| true).unwrap().port(), 5433);
    }

    #[test]
    fn strangers_ports_are_skipped_and_not_kept() {
        let ports = Ports::new(5433..=5435);
        let lease = ports.take(|port| port == 5435).unwrap();
        assert_eq!(lease.port(), 5435);
        let error = ports.take(|_| false).unwrap_err();
        assert!(matches!(error, Error::QuotaExceeded { .. }), "{error}");
        // What the lease has is no stranger's.
        assert_eq!(error.to_string(), "no port from 5433 to 5435 is free; other programs have 2 of them");
        assert_eq!(ports.take(|_| true).unwrap().port(), 5433, "the stranger has left");
    }

    #[test]
    fn a_full_range_is_an_error() {
        let ports = Ports::new(65535..=65535);
        let lease = ports.take(|_| true).unwrap();
        assert_eq!(ports.take(|_| true).unwrap_err().to_string(), "no port from 65535 to 65535 is free");
        drop(lease);
        assert!(ports.take(|_| true).is_ok());
    }

    #[test]
    fn adopted_ports_are_taken_once() {
        let ports = Ports::new(5433..=5440);
        let lease = ports.adopt(5434).unwrap();
        assert!(ports.adopt(5434).is_none());
        assert_eq!(ports.take(|_| true).unwrap().port(), 5435);
        drop(lease);
        assert!(ports.adopt(5434).is_some());
        assert!(ports.adopt(1).is_some(), "a database keeps its port when the range is moved");
    }
}
