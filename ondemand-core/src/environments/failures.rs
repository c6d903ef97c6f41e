//! What could not be made, for those who did not wait for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::record::Record;
use crate::error::Error;
use crate::name::EnvironmentName;

/// How long a failure is remembered.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// How many are.
const MOST: usize = 200;

/// Environments that could not be made, by name.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<BTreeMap<EnvironmentName, Failure>>);

#[derive(Debug)]
struct Failure {
    record: Record,
    message: String,
    at: Instant,
}

impl Failures {
    /// Remembers why an environment could not be made.
    pub(super) fn remember(&self, record: Record, error: &Error) {
        let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
        let message = causes.fold(error.to_string(), |message, cause| format!("{message}: {cause}"));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, failure| failure.at.elapsed() < REMEMBERED);
        if all.len() >= MOST
            && let Some(oldest) = all.iter().min_by_key(|(_, failure)| failure.at)
        {
            let oldest = oldest.0.clone();
            all.remove(&oldest);
        }
        all.insert(record.name.clone(), Failure { record, message, at: Instant::now() });
    }

    /// Forgets what a name once stood for.
    pub(super) fn forget(&self, name: &EnvironmentName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Returns what was to be made, and why it could not.
    pub(super) fn get(&self, name: &EnvironmentName) -> Option<(Record, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = all.get(name).filter(|failure| failure.at.elapsed() < REMEMBERED)?;
        Some((failure.record.clone(), failure.message.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environments::record::tests::record;

    #[test]
    fn of_too_many_the_oldest_is_forgotten() {
        let failures = Failures::default();
        let name = |n: usize| format!("demo{n}").parse::<EnvironmentName>().unwrap();
        for n in 0..=MOST {
            failures.remember(Record { name: name(n), ..record() }, &Error::Cancelled);
        }
        assert!(failures.get(&name(0)).is_none());
        for n in [1, MOST] {
            assert_eq!(failures.get(&name(n)).unwrap().1, Error::Cancelled.to_string());
        }
    }
}
