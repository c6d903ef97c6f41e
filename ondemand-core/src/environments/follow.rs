//! Keeping routes leading to where services run, and services running.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::inner::{Deployed, Inner, is_well};
use super::record::{State, is_stack_of};
use crate::error::{Error, Result};
use crate::listing::Listing;
use crate::name::StackName;

/// How long a service that has ended is left alone before it is started again, the first time; twice as long each time after that.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest it is left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a stack has to run to be taken for well again.
const WELL_AFTER: Duration = Duration::from_secs(300);

/// Looks now and then where services run, until the future is dropped.
pub(super) async fn follow(inner: &Arc<Inner>) {
    let mut ticks = tokio::time::interval(inner.options.follow_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut fallen = BTreeMap::new();
    loop {
        ticks.tick().await;
        if let Err(error) = look(inner, &mut fallen).await {
            tracing::debug!(%error, "it is not known where environments run; looking again");
        }
    }
}

/// A stack of which something has ended by itself.
#[derive(Debug)]
pub(super) struct Fallen {
    pause: Duration,
    again: Instant,
    /// Starts it again: what waits for another to become healthy may take long, and keeps no other from being looked after.
    starting: AbortOnDropHandle<()>,
}

impl Fallen {
    /// Tells whether it is being started again.
    #[cfg(test)]
    pub(super) fn is_starting(&self) -> bool {
        !self.starting.is_finished()
    }
}

/// Looks once.
pub(super) async fn look(inner: &Arc<Inner>, fallen: &mut BTreeMap<StackName, Fallen>) -> Result<()> {
    let Listing { found: mut deployed, unreadable } = inner.deployed().await?;
    // What cannot be read may be a later deployment of the same environment.
    deployed.retain(|deployed| !unreadable.iter().any(|other| is_stack_of(&other.name, &deployed.record.name)));
    let ready = newest(deployed);
    if inner.options.revive {
        revive(inner, &ready, fallen);
    }
    let routes = inner.router.list().await?.into_iter().map(|route| (route.host.clone(), route)).collect();
    for seen in &ready {
        // Whoever does something to it sets its routes.
        if inner.is_led_to(seen, &routes) || inner.under_way.get(&seen.record.name).is_some() {
            continue;
        }
        if let Err(error) = lead(inner, seen).await {
            tracing::warn!(name = %seen.record.name, %error, "the routes of an environment could not be set; trying again");
        }
    }
    Ok(())
}

/// Makes the names of an environment reach where its services run now.
async fn lead(inner: &Inner, seen: &Deployed) -> Result<()> {
    let name = &seen.record.name;
    let Some(_turn) = inner.tend(name, &seen.record.owner)? else { return Ok(()) };
    // What was seen may be old news: since then it may have been redeployed, or deleted.
    match inner.ready(name).await {
        Ok(now) => inner.lead_to(&now.record, &now.stack).await,
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Starts again what has ended by itself, ever more rarely.
fn revive(inner: &Arc<Inner>, ready: &[Deployed], fallen: &mut BTreeMap<StackName, Fallen>) {
    let now = Instant::now();
    fallen.retain(|name, fallen| {
        ready.iter().any(|deployed| deployed.stack.name == *name) && now < fallen.again + WELL_AFTER
    });
    for Deployed { record, stack } in ready {
        if is_well(record, stack) || inner.under_way.get(&record.name).is_some() {
            continue;
        }
        let before = fallen.get(&stack.name);
        if before.is_some_and(|before| now < before.again || !before.starting.is_finished()) {
            continue;
        }
        let pause = before.map_or(FIRST_PAUSE, |before| before.pause);
        let (starter, name, of) = (Arc::clone(inner), stack.name.clone(), record.name.clone());
        let starting = AbortOnDropHandle::new(tokio::spawn(async move {
            tracing::info!(name = %of, "a service has ended by itself; starting it again");
            if let Err(error) = starter.orchestrator.set_running(&name, true).await {
                tracing::warn!(name = %of, %error, "a service that has ended could not be started again");
            }
        }));
        let next = Fallen { pause: LONGEST_PAUSE.min(pause * 2), again: now + pause, starting };
        fallen.insert(stack.name.clone(), next);
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
