//! Making an environment.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::deploy::{Teller, announce, delete_database, deploy, undo_deploy, unless_cancelled};
use super::inner::{Inner, keep};
use super::plan::{Draft, Outline};
use super::ready::Patience;
use super::record::database_mark;
use super::under_way::Turn;
use super::{CreateEnvironment, Environment, Phase, Status, StepReporter, delete};
use crate::databases::{CreateOptions, Database};
use crate::error::{Error, Result};
use crate::name::{AttemptId, DatabaseName, EnvironmentName, Hostname};
use crate::secret::Secret;

/// An environment that is being made, in a task of its own. Dropped, it is given up, and what was made is deleted in the background.
#[derive(Debug)]
pub struct Creating {
    name: EnvironmentName,
    urls: Vec<Hostname>,
    made: oneshot::Receiver<Result<Parcel>>,
    given_up: DropGuard,
}

impl Creating {
    /// Returns its name.
    pub fn name(&self) -> &EnvironmentName {
        &self.name
    }

    /// Returns the host names that it will be reached by.
    pub fn urls(&self) -> &[Hostname] {
        &self.urls
    }

    /// Waits until each of its routes answers through the proxy.
    ///
    /// # Errors
    /// As [`Environments::create`](super::Environments::create).
    ///
    /// # Cancel safety
    /// Dropped, what was made so far is deleted in the background.
    pub async fn finish(self) -> Result<Environment> {
        let made = self.made.await.map_err(|e| Error::backend("task", "creating an environment", e))?;
        self.given_up.disarm();
        made?.accept()
    }

    /// Lets it be made without anybody waiting for it.
    pub fn detach(self) {
        tokio::spawn(self.finish());
    }
}

/// An environment on its way to whoever waits for it. One that is dropped on the way is deleted: between the sending and the taking, too, a caller
/// can go away.
#[derive(Debug)]
struct Parcel {
    environment: Option<Environment>,
    attempt: AttemptId,
    inner: Arc<Inner>,
}

impl Parcel {
    fn accept(mut self) -> Result<Environment> {
        self.environment.take().ok_or(Error::Cancelled)
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        let Some(environment) = self.environment.take() else { return };
        let (inner, attempt) = (Arc::clone(&self.inner), self.attempt.clone());
        // Without a runtime the process is ending, and the environment stays until it expires.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let name = environment.name;
                if let Err(error) = delete::delete_made_by(&inner, &name, &attempt).await {
                    tracing::warn!(%name, %error, "an environment that nobody waited for could not be deleted");
                }
            });
        }
    }
}

/// Begins to make an environment in a task of its own, so that a caller that goes away leaves nothing half made.
pub(super) async fn begin(
    inner: &Arc<Inner>,
    token: Option<Secret>,
    wanted: CreateEnvironment,
    report: StepReporter,
) -> Result<Creating> {
    let teller = Teller::new(report);
    teller.tell(Phase::Resolving, None, None);
    let owner = inner.identify(token.as_ref()).await?;
    let outline = Outline::new(inner, &wanted)?;
    let (claim, turn) = inner.claim(wanted.name.clone(), owner, &outline).await?;
    inner.failures.forget(&claim.name);
    turn.work.show(outline.record(&claim, wanted.fixtures)?);
    let name = claim.name.clone();
    let cancel = turn.work.cancel.clone();
    let given_up = cancel.clone().drop_guard();
    // Before anything is made, and before anybody is told of it.
    let draft = unless_cancelled(&cancel, outline.resolve(inner, &claim, wanted.fixtures, token.as_ref())).await?;
    if let Some(dataset) = &draft.dataset {
        inner.databases.check_dataset(dataset).await?;
    }
    draft.check(inner)?;
    let urls = draft.record.urls();
    turn.work.show(draft.record.clone());
    let inner = Arc::clone(inner);
    let (tell, made) = oneshot::channel();
    tokio::spawn(async move {
        let attempt = turn.work.attempt.clone();
        let result = Creation { inner: &inner, token, teller, turn: &turn, cancel }.run(draft).await;
        drop(turn);
        let result = result.map(|environment| Parcel { environment: Some(environment), attempt, inner });
        // Where nobody is there to take it, the parcel comes back, and is dropped.
        let _ = tell.send(result);
    });
    Ok(Creating { name, urls, made, given_up })
}

struct Creation<'a> {
    inner: &'a Arc<Inner>,
    token: Option<Secret>,
    teller: Teller,
    turn: &'a Turn,
    cancel: CancellationToken,
}

impl Creation<'_> {
    async fn run(self, mut draft: Draft) -> Result<Environment> {
        let result = self.make(&mut draft).await;
        if let Err(error) = &result {
            tracing::info!(name = %draft.record.name, %error, "an environment could not be made; undoing it");
            self.undo(&draft).await;
            // What was given up has not failed: whoever did that knows.
            if !matches!(error, Error::Cancelled) {
                self.inner.failures.remember(draft.record, error);
            }
        }
        result
    }

    async fn make(&self, draft: &mut Draft) -> Result<Environment> {
        let inner = self.inner;
        let database = self.clone_data(draft).await?;
        self.turn.work.show(draft.record.clone());
        let spec = draft.spec(inner, self.token.as_ref(), database.as_ref())?;
        let patience = Patience::new(draft.ready_timeout);
        let stack = deploy(inner, draft, &spec, true, &patience, &self.cancel, &self.teller).await?;
        let record = announce(inner, draft, &stack, &patience, &self.cancel, &self.teller).await?;
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        Ok(inner.describe(record, stack.services, Status::Ready))
    }

    /// Makes the database, under the environment's name where that is free.
    async fn clone_data(&self, draft: &mut Draft) -> Result<Option<Database>> {
        let Some(dataset) = draft.dataset.clone() else { return Ok(None) };
        self.teller.tell(Phase::CloningData, None, Some(dataset.to_string()));
        let (inner, record) = (self.inner, &mut draft.record);
        let mut options = CreateOptions {
            dataset: Some(dataset),
            ttl: Some(keep(draft.keep_days, draft.keep_days)?),
            name: DatabaseName::new(format!("env-{}", record.name)).ok(),
            environment: Some(database_mark(&record.name, &record.origin)),
            ..CreateOptions::default()
        };
        // Not given up half-way: it takes no longer than undoing it.
        let database = match inner.databases.create(options.clone()).await {
            Err(Error::AlreadyExists { .. }) => {
                options.name = None;
                inner.databases.create(options).await?
            }
            created => created?,
        };
        record.database = Some(database.id.clone());
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(Some(database)) }
    }

    /// Deletes all that was made. What cannot be deleted now, the janitor will.
    async fn undo(&self, draft: &Draft) {
        let (inner, record) = (self.inner, &draft.record);
        let name = &record.name;
        if let Err(error) = inner.forget_routes(record).await {
            tracing::warn!(%name, %error, "the routes of an environment that failed stay; the janitor will remove them");
        }
        if let Err(error) = undo_deploy(inner, record).await {
            // Its labels may say that it is ready, where only the answer to that was lost.
            inner.under_way.fail(&record.attempt);
            tracing::warn!(%name, %error, "the stack of an environment that failed stays; the janitor will remove it");
            // What is there after a restart is whole.
            return;
        }
        let deleted = async {
            for database in inner.databases_of(record).await? {
                delete_database(&inner.databases, &database).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = deleted.await {
            tracing::warn!(%name, %error, "the database of an environment that failed stays; the janitor will delete it");
        }
    }
}
