//! Keeping routes leading to where services run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::inner::{Deployed, Inner, is_well};
use super::record::State;
use super::routes;
use crate::error::Result;
use crate::name::{Hostname, StackName};
use crate::router::Route;

/// How long a service that has ended is left alone before it is started again, the first time; twice as long each time after that.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest it is left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a stack has to run to be taken for well again.
const WELL_AFTER: Duration = Duration::from_secs(300);

/// Looks now and then where services run, until the future is dropped.
pub(super) async fn follow(inner: &Inner) {
    let mut ticks = tokio::time::interval(inner.options.follow_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known = Known::default();
    loop {
        ticks.tick().await;
        if let Err(error) = known.look(inner).await {
            tracing::debug!(%error, "it is not known where environments run; looking again");
        }
    }
}

/// What was seen the last time.
#[derive(Debug, Default)]
struct Known {
    routes: BTreeMap<Hostname, Route>,
    fallen: BTreeMap<StackName, Fallen>,
}

/// A stack of which something has ended by itself.
#[derive(Debug)]
struct Fallen {
    pause: Duration,
    again: Instant,
}

impl Known {
    async fn look(&mut self, inner: &Inner) -> Result<()> {
        let (deployed, _) = inner.deployed().await?;
        let ready = newest(deployed);
        let mut routes = BTreeMap::new();
        for Deployed { record, stack } in &ready {
            // Whoever does something to it sets its routes.
            if inner.under_way.get(&record.name).is_some() {
                continue;
            }
            for host in &record.routes {
                let route = routes::route(stack, host)?;
                if self.routes.get(&host.host) != Some(&route) {
                    inner.router.set(&route).await?;
                }
                routes.insert(host.host.clone(), route);
            }
        }
        self.routes = routes;
        if inner.options.revive {
            self.revive(inner, &ready).await;
        }
        Ok(())
    }

    /// Starts again what has ended by itself, ever more rarely.
    async fn revive(&mut self, inner: &Inner, ready: &[Deployed]) {
        let now = Instant::now();
        self.fallen.retain(|name, fallen| {
            ready.iter().any(|deployed| deployed.stack.name == *name) && now < fallen.again + WELL_AFTER
        });
        for Deployed { record, stack } in ready {
            if is_well(stack) || inner.under_way.get(&record.name).is_some() {
                continue;
            }
            let fallen = self.fallen.entry(stack.name.clone());
            let fallen = fallen.or_insert(Fallen { pause: FIRST_PAUSE, again: now });
            if now < fallen.again {
                continue;
            }
            fallen.again = now + fallen.pause;
            fallen.pause = LONGEST_PAUSE.min(fallen.pause * 2);
            tracing::info!(name = %record.name, "a service has ended by itself; starting it again");
            if let Err(error) = inner.orchestrator.set_running(&stack.name, true).await {
                tracing::warn!(name = %record.name, %error, "a service that has ended could not be started again");
            }
        }
    }
}

/// Returns the newest ready deployment of each environment.
pub(super) fn newest(deployed: Vec<Deployed>) -> Vec<Deployed> {
    let mut newest: BTreeMap<_, Deployed> = BTreeMap::new();
    for deployed in deployed.into_iter().filter(|deployed| deployed.record.state == State::Ready) {
        let name = deployed.record.name.clone();
        if newest.get(&name).is_none_or(|other| other.record.generation < deployed.record.generation) {
            newest.insert(name, deployed);
        }
    }
    newest.into_values().collect()
}
