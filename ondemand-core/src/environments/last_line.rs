//! The last line that the services of an environment wrote, for whoever waits for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::Phase;
use super::deploy::Teller;
use super::inner::Inner;
use crate::name::{ServiceName, StackName};
use crate::orchestrator::LogOptions;

/// A service, and what it wrote.
type Line = (ServiceName, String);

/// Reads the services' logs while somebody waits.
pub(super) struct LastLine {
    seen: watch::Receiver<Newest>,
    told: Mutex<Option<(Phase, Option<Line>)>>,
    _reading: AbortOnDropHandle<()>,
}

impl LastLine {
    pub(super) fn follow(inner: &Inner, stack: &StackName) -> Self {
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let mut lines = inner.orchestrator.logs(stack, options);
        let (tell, seen) = watch::channel(Newest::default());
        let reading = tokio::spawn(async move {
            while let Some(line) = lines.next().await {
                if let Ok(line) = line
                    && !line.text.trim().is_empty()
                {
                    tell.send_modify(|newest| newest.add(line.service, line.text));
                }
            }
        });
        Self { seen, told: Mutex::default(), _reading: AbortOnDropHandle::new(reading) }
    }

    /// Tells what is new of the services that are waited for: what another says that is up already is no news of those.
    pub(super) fn tell(&self, teller: &Teller, phase: Phase, waited_for: impl Fn(&ServiceName) -> bool) {
        let now = (phase, self.seen.borrow().of(waited_for));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.as_ref() != Some(&now) {
            let (service, line) = now.1.clone().unzip();
            teller.tell(phase, service.map(|service| service.to_string()), line);
            *told = Some(now);
        }
    }
}

/// The last line of each service, and how many there were of all of them up to it.
#[derive(Debug, Default)]
struct Newest {
    count: u64,
    lines: BTreeMap<ServiceName, (u64, String)>,
}

impl Newest {
    fn add(&mut self, service: ServiceName, line: String) {
        self.count += 1;
        self.lines.insert(service, (self.count, line));
    }

    /// Returns the last line of some services.
    fn of(&self, services: impl Fn(&ServiceName) -> bool) -> Option<Line> {
        let lines = self.lines.iter().filter(|(service, _)| services(service));
        let (service, (_, line)) = lines.max_by_key(|(_, (count, _))| *count)?;
        Some((service.clone(), line.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_that_of_a_service_that_is_waited_for() {
        let service = |name: &str| name.parse::<ServiceName>().unwrap();
        let mut newest = Newest::default();
        assert_eq!(newest.of(|_| true), None);
        newest.add(service("back"), "cloning".into());
        newest.add(service("back"), "building".into());
        newest.add(service("front"), "listening".into());
        assert_eq!(newest.of(|_| true), Some((service("front"), "listening".into())));
        assert_eq!(newest.of(|name| name.as_str() != "front"), Some((service("back"), "building".into())));
        assert_eq!(newest.of(|name| name.as_str() == "other"), None);
    }
}
