//! Deleting an environment.

use std::sync::Arc;

use futures_util::future::join_all;

use super::Caller;
use super::deploy::delete_database;
use super::inner::{Deployed, Inner};
use super::record::{Record, State};
use super::under_way::{Doing, Turn, Work};
use crate::error::{Error, Kind, Result};
use crate::name::{AttemptId, EnvironmentName};

/// Deletes an environment, or gives up making it.
pub(super) async fn delete(inner: &Arc<Inner>, name: &EnvironmentName, caller: &Caller) -> Result<()> {
    let mut given_up = false;
    // Which one is meant: while this waits for its end, another may be made that has its name.
    let mut meant: Option<AttemptId> = None;
    let is_another =
        |meant: &Option<AttemptId>, origin: &AttemptId| meant.as_ref().is_some_and(|meant| meant != origin);
    loop {
        // First: what is begun after this look is seen by its stack, or by its turn below.
        if let Some(work) = inner.under_way.get(name) {
            if let Some(origin) = &work.origin {
                if is_another(&meant, origin) {
                    return gone(given_up, name);
                }
                meant.get_or_insert_with(|| origin.clone());
            }
            // Who looks after it is not whose it is.
            if work.doing != Doing::Tending {
                caller.check(&work.owner)?;
            }
            match work.doing {
                Doing::Creating | Doing::Redeploying => {
                    work.cancel.cancel();
                    given_up = true;
                }
                // Whether it succeeds shows when it is over.
                Doing::Deleting => given_up = true,
                Doing::Extending | Doing::Tending => {}
            }
            work.over.cancelled().await;
            continue;
        }
        let deployed = inner.deployed_as(name).await?;
        let newest = deployed.last().filter(|newest| !is_another(&meant, &newest.record.origin));
        let Some(Deployed { record: Record { owner, origin, .. }, .. }) = newest else { return gone(given_up, name) };
        caller.check(owner)?;
        meant.get_or_insert_with(|| origin.clone());
        let work = Work::new(Doing::Deleting, AttemptId::random()?, owner.clone(), Vec::new()).to(origin);
        // Or somebody was faster.
        if let Ok(turn) = inner.under_way.begin(name, work) {
            return detached(inner, turn, name).await;
        }
    }
}

/// What there is to say when there is none any more.
fn gone(given_up: bool, name: &EnvironmentName) -> Result<()> {
    if given_up { Ok(()) } else { Err(Error::not_found(Kind::Environment, name)) }
}

/// Deletes an environment if it is still the one that an attempt has made.
pub(super) async fn delete_made_by(inner: &Arc<Inner>, name: &EnvironmentName, attempt: &AttemptId) -> Result<()> {
    match inner.ready(name).await {
        Ok(ready) if ready.record.origin == *attempt => delete(inner, name, &Caller::admin()).await,
        Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn detached(inner: &Arc<Inner>, turn: Turn, name: &EnvironmentName) -> Result<()> {
    let (inner, name) = (Arc::clone(inner), name.clone());
    crate::databases::detached(async move {
        let _turn = turn;
        end(&inner, inner.deployed_as(&name).await?).await
    })
    .await
}

/// Deletes all stacks of one environment, with what belongs to it. Its turn has been taken.
pub(super) async fn end(inner: &Inner, deployed: Vec<Deployed>) -> Result<()> {
    // Said first, so that it is finished by the next round if it is cut off.
    for Deployed { record, stack } in &deployed {
        let record = Record { state: State::Deleting, ..record.clone() };
        match inner.orchestrator.set_labels(&stack.name, &record.labels(&inner.instance.id)?).await {
            Err(Error::NotFound { .. }) => {}
            said => said?,
        }
    }
    for Deployed { record, .. } in &deployed {
        inner.forget_routes(record).await?;
    }
    let databases = async {
        for Deployed { record, .. } in &deployed {
            for database in inner.databases_of(record).await? {
                delete_database(&inner.databases, &database).await?;
            }
        }
        Ok(())
    };
    let stacks = join_all(deployed.iter().map(|deployed| inner.orchestrator.remove(&deployed.stack.id)));
    // All to their ends, whichever fails.
    let (databases, stacks) = tokio::join!(databases, stacks);
    stacks.into_iter().fold(databases, Result::and)
}
