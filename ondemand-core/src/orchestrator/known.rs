//! What every orchestrator remembers about a stack, and what it does with that alone.

use std::time::Duration;

use futures_util::future::{BoxFuture, select_all};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::record::Records;
use super::turns::Turns;
use super::{Service, Stack, StackId, StackSpec};
use crate::error::{Error, Kind, Result};
use crate::label::Labels;
use crate::name::StackName;

/// What is remembered about a stack.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record<E> {
    pub(super) id: StackId,
    /// The specification, with the labels as they are now.
    pub(super) spec: StackSpec,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) created: OffsetDateTime,
    /// Whether it was put to sleep.
    pub(super) asleep: bool,
    /// Whether its removal was begun.
    pub(super) removing: bool,
    /// What only this kind of engine has.
    #[serde(flatten)]
    pub(super) engine: E,
}

impl<E> Record<E> {
    /// Begins to remember a stack that is about to be deployed.
    pub(super) fn new(spec: StackSpec, engine: E) -> Self {
        let (id, created) = (spec.id(), OffsetDateTime::now_utc());
        Self { id, spec, created, asleep: false, removing: false, engine }
    }

    /// Returns the stack, whose services are as they were seen.
    pub(super) fn stack(&self, services: Vec<Service>) -> Stack {
        Stack {
            id: self.id.clone(),
            name: self.spec.name.clone(),
            attempt: self.spec.attempt.clone(),
            labels: self.spec.labels.clone(),
            created: self.created,
            services,
        }
    }
}

impl<E: Clone + Serialize + DeserializeOwned> Records<Record<E>> {
    /// Reads the record of a stack.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(super) fn get(&self, name: &StackName) -> Result<Record<E>> {
        self.read(name)?.ok_or_else(|| Error::not_found(Kind::Stack, name))
    }

    /// Changes a record, and returns it as it is then.
    fn set(&self, name: &StackName, change: impl FnOnce(&mut Record<E>)) -> Result<Record<E>> {
        let changed = self.update(name, |record| {
            change(record);
            Some(record.clone())
        });
        changed?.ok_or_else(|| Error::not_found(Kind::Stack, name))
    }

    /// Notes the labels that a stack has now.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(super) fn set_labels(&self, name: &StackName, labels: &Labels) -> Result<()> {
        self.set(name, |record| record.spec.labels.clone_from(labels)).map(drop)
    }

    /// Notes whether a stack is asleep.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(super) fn set_asleep(&self, name: &StackName, asleep: bool) -> Result<Record<E>> {
        self.set(name, |record| record.asleep = asleep)
    }

    /// Notes that the removal of a deployment has begun; returns its record, if it is this deployment that has the name.
    pub(super) fn begin_removal(&self, name: &StackName, id: &StackId) -> Result<Option<Record<E>>> {
        self.update(name, |record| {
            record.removing |= record.id == *id;
            (record.id == *id).then(|| record.clone())
        })
    }
}

/// Waits until a service of a stack does not run any more, and returns the stack as it is then. `look` returns how the stack is, and for each
/// service that runs, what ends with it.
///
/// # Errors
/// [`Error::NotFound`] if there is no such stack, or it is removed meanwhile.
pub(super) async fn wait_stopped<'a, E, L>(
    records: &Records<Record<E>>,
    turns: &Turns,
    name: &StackName,
    look: L,
) -> Result<Stack>
where
    E: Clone + Serialize + DeserializeOwned,
    L: Fn(Record<E>) -> BoxFuture<'a, Result<(Stack, Vec<BoxFuture<'a, Result<()>>>)>>,
{
    let id = records.get(name)?.id;
    // It may be removed while it is looked at.
    let there = || match records.get(name)? {
        record if record.removing || record.id != id => Err(Error::not_found(Kind::Stack, name)),
        record => Ok(record),
    };
    loop {
        let changed = turns.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let (stack, waits) = look(there()?).await?;
        if !stack.services.iter().all(Service::is_up) {
            return there().map(|_| stack);
        }
        // What is being started may have nothing yet that could end.
        let never: BoxFuture<'_, Result<()>> = Box::pin(std::future::pending());
        tokio::select! {
            (ended, ..) = select_all(waits.into_iter().chain([never])) => ended?,
            () = changed => {}
        }
    }
}

/// How often whoever waits looks whether another process has removed a stack.
const LOOK: Duration = Duration::from_secs(1);

/// Waits until the removal of a stack has begun.
pub(super) async fn removed<E>(records: &Records<Record<E>>, turns: &Turns, record: &Record<E>)
where
    E: Clone + Serialize + DeserializeOwned,
{
    loop {
        let changed = turns.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        match records.read(&record.spec.name) {
            Ok(Some(now)) if now.id == record.id && !now.removing => {}
            // What cannot be read at the moment is not gone.
            Err(_) => {}
            _ => return,
        }
        // Nobody tells what another process does.
        let _ = tokio::time::timeout(LOOK, changed).await;
    }
}
