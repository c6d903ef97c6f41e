//! Deleting an environment.

use std::sync::Arc;

use futures_util::future::try_join_all;

use super::Caller;
use super::deploy::delete_database;
use super::inner::{Deployed, Inner, in_the_way};
use super::record::{Record, State};
use super::under_way::{Doing, Turn, Work};
use crate::error::{Error, Kind, Result};
use crate::name::{AttemptId, EnvironmentName};

/// Deletes an environment, or gives up making it.
pub(super) async fn delete(inner: &Arc<Inner>, name: &EnvironmentName, caller: &Caller) -> Result<()> {
    let mut given_up = false;
    loop {
        let deployed = inner.deployed_as(name).await?;
        if let Some(work) = inner.under_way.get(name) {
            caller.check(&work.owner)?;
            match work.doing {
                // It is as good as gone.
                Doing::Deleting => {
                    work.over.cancelled().await;
                    return Ok(());
                }
                Doing::Creating | Doing::Redeploying => {
                    work.cancel.cancel();
                    given_up = true;
                }
                Doing::Extending => {}
            }
            work.over.cancelled().await;
            continue;
        }
        let Some(newest) = deployed.last() else {
            return if given_up { Ok(()) } else { Err(Error::not_found(Kind::Environment, name)) };
        };
        let owner = newest.record.owner.clone();
        caller.check(&owner)?;
        let work = Work::new(Doing::Deleting, AttemptId::random()?, owner, Vec::new());
        match inner.under_way.begin(name, work) {
            Ok(turn) => return detached(inner, turn, name).await,
            // Somebody was faster.
            Err(_) => continue,
        }
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
    let stacks = try_join_all(deployed.iter().map(|deployed| inner.orchestrator.remove(&deployed.stack.id)));
    // Both to their ends, whichever fails.
    let (databases, stacks) = tokio::join!(databases, stacks);
    databases.and(stacks.map(drop))
}

/// Takes the turn to delete an environment for the janitor; `None` while something else is done to it.
pub(super) fn turn(inner: &Inner, record: &Record) -> Result<Turn> {
    let work = Work::new(Doing::Deleting, AttemptId::random()?, record.owner.clone(), Vec::new());
    inner.under_way.begin(&record.name, work).map_err(|other| in_the_way(&record.name, other.doing))
}
