//! Replacing an environment by newer commits.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::deploy::{Teller, announce, deploy, undo_deploy, unless_cancelled};
use super::inner::{Deployed, Inner};
use super::plan::{Draft, dataset, routes_now};
use super::ready::Patience;
use super::record::{Record, State};
use super::under_way::Doing;
use super::{Caller, Environment, Phase, Source, Status, StepReporter};
use crate::error::{Error, Result};
use crate::git::Resolved;
use crate::name::EnvironmentName;
use crate::secret::Secret;

/// Redeploys in a task of its own, so that a caller that goes away leaves nothing half made.
pub(super) async fn redeploy(
    inner: &Arc<Inner>,
    name: &EnvironmentName,
    caller: &Caller,
    token: Option<Secret>,
    report: StepReporter,
) -> Result<Environment> {
    let teller = Teller::new(report);
    teller.tell(Phase::Resolving, None, None);
    let turn = inner.change(name, Doing::Redeploying, caller, Vec::new()).await?;
    let given_up = turn.work.cancel.clone().drop_guard();
    let (inner, name) = (Arc::clone(inner), name.clone());
    let making = tokio::spawn(async move {
        let cancel = turn.work.cancel.clone();
        let old = inner.ready(&name).await?;
        // Above what an attempt that is dead may have left, too.
        let generation = inner.deployed_as(&name).await?.last().map_or(1, |newest| newest.record.generation) + 1;
        let draft = draft(&inner, &old, generation, &turn.work.attempt, token.as_ref());
        let draft = unless_cancelled(&cancel, draft).await?;
        let made = replace(&inner, &old, &draft, token.as_ref(), &cancel, &teller).await;
        if let Err(error) = &made {
            tracing::info!(%name, %error, "an environment could not be redeployed; the old one stays");
            undo(&inner, &old, &draft).await;
        }
        made
    });
    let made = making.await.map_err(|e| Error::backend("task", "redeploying an environment", e))?;
    given_up.disarm();
    made
}

/// Returns what is to be deployed in place of an environment.
async fn draft(
    inner: &Inner,
    old: &Deployed,
    generation: u32,
    attempt: &crate::name::AttemptId,
    token: Option<&Secret>,
) -> Result<Draft> {
    let record = &old.record;
    let (_, template) = inner.template(Some(&record.template))?;
    // Their services may listen elsewhere than when it was made.
    let routes = routes_now(record, &inner.options.domain, template.settings())?;
    let (back, front) =
        tokio::try_join!(again(inner, record.back.as_ref(), token), again(inner, record.front.as_ref(), token))?;
    let ready_timeout = template.settings().limits.ready_timeout.unwrap_or(inner.options.ready_timeout);
    let keep_days = u32::try_from((record.expires - record.created).whole_days()).unwrap_or(1);
    let new = Record {
        back: back.as_ref().map(Source::of),
        front: front.as_ref().map(Source::of),
        routes,
        generation,
        state: State::Pending,
        attempt: attempt.clone(),
        ..record.clone()
    };
    let dataset = dataset(template.settings(), record.fixtures);
    // The data are those it has: a database is not made anew.
    let dataset = dataset.filter(|_| record.database.is_some());
    Ok(Draft { record: new, template, dataset, back, front, keep_days, ready_timeout })
}

/// Finds out what a branch is at now.
async fn again(inner: &Inner, source: Option<&Source>, token: Option<&Secret>) -> Result<Option<Resolved>> {
    let Some(Source { repository, branch, .. }) = source else { return Ok(None) };
    inner.git.resolve(repository, Some(branch), token).await.map(Some)
}

async fn replace(
    inner: &Inner,
    old: &Deployed,
    draft: &Draft,
    token: Option<&Secret>,
    cancel: &CancellationToken,
    teller: &Teller,
) -> Result<Environment> {
    let database = inner.databases_of(&old.record).await?.into_iter().next();
    if database.is_none() && old.record.database.is_some() {
        return Err(Error::Conflict {
            message: format!("the database of environment {} is gone", old.record.name),
            hint: "delete the environment, and create it again".into(),
        });
    }
    let spec = draft.spec(inner, token, database.as_ref())?;
    let patience = Patience::new(draft.ready_timeout);
    let stack = deploy(inner, draft, &spec, false, &patience, cancel, teller).await?;
    let record = announce(inner, draft, &stack, &patience, cancel, teller).await?;
    // The new one is the environment from here on, whatever happens to the old one.
    if let Err(error) = inner.orchestrator.remove(&old.stack.id).await {
        tracing::warn!(name = %record.name, %error, "a replaced deployment stays; the janitor will remove it");
    }
    Ok(inner.describe(record, stack.services, Status::Ready))
}

/// Takes the names back to the old deployment, and removes the new one.
async fn undo(inner: &Inner, old: &Deployed, draft: &Draft) {
    let name = &old.record.name;
    let undone = async {
        let stack = inner.orchestrator.get(&old.stack.name).await?;
        inner.lead_to(&old.record, &stack).await?;
        // Not before: until then the names may reach it.
        undo_deploy(inner, &draft.record).await
    };
    if let Err(error) = undone.await {
        // Its labels may say that it is the environment, where only the answer to that was lost.
        inner.under_way.fail(&draft.record.attempt);
        tracing::warn!(%name, %error, "a deployment that failed stays; the janitor will remove it");
    }
}
