//! What is known of every database, and the operations that are a few lines long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::BoxStream;
use time::OffsetDateTime;
use tokio::sync::OwnedMutexGuard;

use super::leases::Leases;
use super::ports::{PortLease, Ports};
use super::record::{KIND, Record, State, stack_of};
use super::{Database, DatabaseState, DatabasesOptions};
use crate::datasets::Datasets;
use crate::error::{Error, Kind, Result};
use crate::instance::Instance;
use crate::label::{Selector, keys};
use crate::name::{AttemptId, DatabaseId, DatabaseName, SnapshotName};
use crate::notation::Ttl;
use crate::orchestrator::{LogLine, LogOptions, Orchestrator, Stack};
use crate::postgres::{Engine, USER};
use crate::snapshot::SnapshotStore;

/// The databases of one data directory.
///
/// The volumes' labels are the truth; `known` mirrors them, so that nothing needs to be read from disk to answer. It is filled by the
/// first reconciliation, and every later one corrects it.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) instance: Instance,
    pub(super) orchestrator: Arc<dyn Orchestrator>,
    pub(super) store: Arc<dyn SnapshotStore>,
    pub(super) datasets: Datasets,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) options: DatabasesOptions,
    pub(super) ports: Ports,
    pub(super) leases: Leases,
    /// Held while the store is mounted again.
    pub(super) recovering: tokio::sync::Mutex<()>,
    /// What a round of the janitor is removing, also after it has given up waiting for that.
    pub(super) removals: Mutex<BTreeSet<String>>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    entries: BTreeMap<DatabaseId, Entry>,
    /// The attempts that are under way in this process, each with the name it will announce.
    attempts: BTreeMap<AttemptId, Option<DatabaseName>>,
    /// The snapshots whose place for the password has been seen to be right.
    proved: BTreeSet<SnapshotName>,
    /// The attempts that have failed, and left something that could not be removed yet.
    given_up: BTreeSet<AttemptId>,
}

/// An announced database.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    /// None where the port was found taken; then it cannot be started.
    pub(super) port: Option<PortLease>,
    /// What is being done to it, for those who look.
    activity: Option<DatabaseState>,
    /// Held by whoever changes the database.
    gate: Arc<tokio::sync::Mutex<()>>,
}

/// An attempt under way: while it lives, the janitor leaves alone what carries its id.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) id: AttemptId,
    inner: Arc<Inner>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.inner.known().attempts.remove(&self.id);
    }
}

/// The right to change a database, until it is dropped.
#[derive(Debug)]
pub(super) struct Gate {
    id: DatabaseId,
    inner: Arc<Inner>,
    _guard: OwnedMutexGuard<()>,
}

impl Gate {
    /// Says what is being done.
    pub(super) fn show(&self, activity: DatabaseState) {
        if let Some(entry) = self.inner.known().entries.get_mut(&self.id) {
            entry.activity = Some(activity);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(entry) = self.inner.known().entries.get_mut(&self.id) {
            entry.activity = None;
        }
    }
}

impl Inner {
    pub(super) fn new(
        instance: Instance,
        orchestrator: Arc<dyn Orchestrator>,
        store: Arc<dyn SnapshotStore>,
        datasets: Datasets,
        engine: Arc<dyn Engine>,
        options: DatabasesOptions,
    ) -> Self {
        let ports = Ports::new(options.ports.clone());
        Self {
            instance,
            orchestrator,
            store,
            datasets,
            engine,
            options,
            ports,
            leases: Leases::default(),
            recovering: tokio::sync::Mutex::default(),
            removals: Mutex::default(),
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change to it is a single insert or remove, so it is whole even if a holder panicked.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an attempt at a database that does not exist yet, and reserves its name.
    pub(super) fn begin_create(self: &Arc<Self>, name: Option<&DatabaseName>) -> Result<Attempt> {
        let id = AttemptId::random()?;
        let mut known = self.known();
        let creating = known.attempts.values().flatten();
        if let Some(name) = name
            && known.entries.values().map(|entry| &entry.record.name).chain(creating).any(|taken| taken == name)
        {
            return Err(Error::already_exists(Kind::Database, name));
        }
        // A reset's attempt counts too: for its moment there are two volumes, and none is too many.
        if known.entries.len() + known.attempts.len() >= self.options.max {
            return Err(Error::QuotaExceeded {
                message: format!("there are {} databases, as many as are allowed", known.entries.len()),
                hint: "delete some, or raise databases.max".into(),
            });
        }
        known.attempts.insert(id.clone(), name.cloned());
        Ok(Attempt { id, inner: Arc::clone(self) })
    }

    /// Begins an attempt at changing a database that exists.
    pub(super) fn begin_change(self: &Arc<Self>) -> Result<Attempt> {
        let id = AttemptId::random()?;
        self.known().attempts.insert(id.clone(), None);
        Ok(Attempt { id, inner: Arc::clone(self) })
    }

    /// Tells whether an attempt is under way in this process.
    pub(super) fn is_live(&self, attempt: &AttemptId) -> bool {
        self.known().attempts.contains_key(attempt)
    }

    /// Tells whether an attempt has failed in this process, so that what it may have left is nobody's.
    pub(super) fn is_given_up(&self, attempt: &AttemptId) -> bool {
        self.known().given_up.contains(attempt)
    }

    /// Removes what an attempt at a new database has made. What is left of it stays nobody's, also after a power cut.
    pub(super) async fn give_up(&self, record: Record) -> Result<()> {
        self.known().given_up.insert(record.attempt.clone());
        if record.epoch.is_some() {
            // This fails if there is no volume yet, or no room. Only a power cut before the next line ends could then bring the database back.
            let _ = self.write(&Record { state: State::Deleting, ..record.clone() }).await;
        }
        self.discard(&record).await?;
        self.known().given_up.remove(&record.attempt);
        Ok(())
    }

    /// Tells whether a snapshot's place for the password has been seen to be right.
    pub(super) fn is_proved(&self, snapshot: &SnapshotName) -> bool {
        self.known().proved.contains(snapshot)
    }

    /// Remembers that a snapshot's place for the password is right.
    pub(super) fn prove(&self, snapshot: SnapshotName) {
        self.known().proved.insert(snapshot);
    }

    /// Tells whether any attempt is under way in this process.
    pub(super) fn is_busy(&self) -> bool {
        !self.known().attempts.is_empty()
    }

    /// Tells whether there is nothing to look after: no database, nobody who makes one, no lease.
    pub(super) fn is_idle(&self) -> bool {
        self.known().entries.is_empty() && !self.is_busy() && self.leases.is_empty()
    }

    /// Makes a database known.
    pub(super) fn announce(&self, record: Record, port: Option<PortLease>) {
        let entry = Entry { record: record.clone(), port, activity: None, gate: Arc::default() };
        self.known().entries.insert(record.id, entry);
    }

    /// Replaces what is known of a database.
    pub(super) fn update(&self, record: Record) {
        if let Some(entry) = self.known().entries.get_mut(&record.id) {
            entry.record = record;
        }
    }

    /// Forgets a database, and returns its port.
    pub(super) fn forget(&self, id: &DatabaseId) {
        self.known().entries.remove(id);
    }

    /// Returns what is known of a database.
    pub(super) fn record(&self, id: &DatabaseId) -> Result<Record> {
        let known = self.known();
        known.entries.get(id).map(|entry| entry.record.clone()).ok_or_else(|| Error::not_found(Kind::Database, id))
    }

    /// Returns what is known of every database.
    pub(super) fn records(&self) -> Vec<Record> {
        self.known().entries.values().map(|entry| entry.record.clone()).collect()
    }

    /// Tells whether a database has its port.
    pub(super) fn has_port(&self, id: &DatabaseId) -> bool {
        self.known().entries.get(id).is_some_and(|entry| entry.port.is_some())
    }

    /// Gives a database its port, once it can be had.
    pub(super) fn set_port(&self, id: &DatabaseId, port: PortLease) {
        if let Some(entry) = self.known().entries.get_mut(id) {
            entry.port = Some(port);
        }
    }

    /// Returns every database's id and name.
    pub(super) fn names(&self) -> Vec<(DatabaseId, DatabaseName)> {
        self.known().entries.values().map(|entry| (entry.record.id.clone(), entry.record.name.clone())).collect()
    }

    /// Waits for the right to change a database.
    pub(super) async fn gate(self: &Arc<Self>, id: &DatabaseId) -> Result<Gate> {
        let gate = self.gate_of(id)?;
        let guard = gate.lock_owned().await;
        // It may have been deleted while this waited.
        self.record(id)?;
        Ok(Gate { id: id.clone(), inner: Arc::clone(self), _guard: guard })
    }

    /// Takes the right to change a database. Waits while somebody has it who is soon done: who extends it, or looks whether it is well. Does not wait for
    /// what takes long and is told to those who look.
    pub(super) async fn gate_unless_busy(self: &Arc<Self>, id: &DatabaseId) -> Result<Gate> {
        match self.try_gate(id) {
            Err(Error::Conflict { .. }) if self.activity(id).is_none() => self.gate(id).await,
            taken => taken,
        }
    }

    /// Returns what is being done to a database, where it is told to those who look.
    fn activity(&self, id: &DatabaseId) -> Option<DatabaseState> {
        self.known().entries.get(id).and_then(|entry| entry.activity)
    }

    /// Takes the right to change a database, unless somebody has it.
    pub(super) fn try_gate(self: &Arc<Self>, id: &DatabaseId) -> Result<Gate> {
        let guard = self.gate_of(id)?.try_lock_owned().map_err(|_| Error::Conflict {
            message: format!("database {} is being reset, extended, restarted or deleted", id.short()),
            hint: "try again in a moment".into(),
        })?;
        self.record(id)?;
        Ok(Gate { id: id.clone(), inner: Arc::clone(self), _guard: guard })
    }

    fn gate_of(&self, id: &DatabaseId) -> Result<Arc<tokio::sync::Mutex<()>>> {
        let known = self.known();
        known.entries.get(id).map(|entry| Arc::clone(&entry.gate)).ok_or_else(|| Error::not_found(Kind::Database, id))
    }

    /// Writes a record to its volume's labels.
    pub(super) async fn write(&self, record: &Record) -> Result<()> {
        self.store.set_volume_labels(&record.volume(), &record.labels(&self.instance.id)?).await?;
        if record.durable {
            self.store.sync().await?;
        }
        Ok(())
    }

    /// Writes what a record says now; a power cut may bring back what was written last by [`write`](Self::write).
    pub(super) async fn write_soon(&self, record: &Record) -> Result<()> {
        self.store.set_volume_labels_soon(&record.volume(), &record.labels(&self.instance.id)?).await
    }

    /// Returns the selector for this instance's databases.
    pub(super) fn selector(&self) -> Selector {
        Selector::all().with(keys::KIND, KIND).with(keys::INSTANCE, &self.instance.id)
    }

    /// Describes a database to its user.
    pub(super) fn describe(&self, record: Record, state: DatabaseState) -> Database {
        Database {
            password: self.instance.password(&record.id),
            host: self.options.host.clone(),
            user: USER.to_owned(),
            id: record.id,
            name: record.name,
            dataset: record.dataset,
            version: record.version,
            port: record.port,
            dbname: record.dbname,
            created: record.created,
            expires: record.expires,
            durable: record.durable,
            settings: record.settings,
            environment: record.environment,
            lease: record.lease,
            state,
        }
    }

    fn state(&self, id: &DatabaseId, stack: Option<&Stack>) -> DatabaseState {
        self.activity(id).unwrap_or(match stack {
            Some(stack) if stack.is_running() => DatabaseState::Running,
            _ => DatabaseState::Stopped,
        })
    }

    pub(super) async fn get(&self, id: &DatabaseId) -> Result<Database> {
        let record = self.record(id)?;
        let stack = match self.orchestrator.get(&record.stack()).await {
            Ok(stack) => Some(stack),
            Err(Error::NotFound { .. }) => None,
            Err(e) => return Err(e),
        };
        let state = self.state(id, stack.as_ref());
        Ok(self.describe(record, state))
    }

    pub(super) async fn list(&self) -> Result<Vec<Database>> {
        let stacks = self.orchestrator.list(&self.selector()).await?.found;
        let stacks: BTreeMap<_, _> = stacks.iter().map(|stack| (&stack.name, stack)).collect();
        let mut databases: Vec<_> = self
            .records()
            .into_iter()
            .map(|record| {
                let state = self.state(&record.id, stacks.get(&record.stack()).copied());
                self.describe(record, state)
            })
            .collect();
        databases.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(databases)
    }

    pub(super) fn logs(&self, id: &DatabaseId, options: LogOptions) -> Result<BoxStream<'static, Result<LogLine>>> {
        self.record(id)?;
        Ok(self.orchestrator.logs(&stack_of(id), options))
    }

    /// Returns when something that lives `ttl` from now ends, if that is allowed.
    pub(super) fn expiry(&self, ttl: Ttl) -> Result<OffsetDateTime> {
        if ttl > self.options.max_ttl {
            let reason = format!("{ttl} is above the maximum of {}", self.options.max_ttl);
            return Err(Error::invalid("ttl", reason));
        }
        Ok(OffsetDateTime::now_utc() + ttl.duration())
    }

    pub(super) async fn extend(self: &Arc<Self>, id: &DatabaseId, ttl: Ttl) -> Result<Database> {
        let expires = self.expiry(ttl)?;
        self.change(id, move |record| Record { expires, ..record }).await
    }

    pub(super) async fn release(self: &Arc<Self>, id: &DatabaseId) -> Result<Database> {
        self.change(id, |record| Record { lease: None, ..record }).await
    }

    /// Changes what is written of a database, whose server notices nothing of it.
    async fn change(
        self: &Arc<Self>,
        id: &DatabaseId,
        change: impl FnOnce(Record) -> Record + Send + 'static,
    ) -> Result<Database> {
        let (inner, owned) = (Arc::clone(self), id.clone());
        detached(async move {
            let _gate = inner.gate_unless_busy(&owned).await?;
            let record = change(inner.record(&owned)?);
            inner.write(&record).await?;
            inner.update(record);
            Ok(())
        })
        .await?;
        self.get(id).await
    }

    pub(super) async fn delete(self: &Arc<Self>, id: &DatabaseId) -> Result<()> {
        self.record(id)?;
        let (inner, id) = (Arc::clone(self), id.clone());
        detached(async move {
            let _gate = match inner.gate(&id).await {
                Ok(gate) => gate,
                // Another call has deleted it while this one waited: what was asked for is done.
                Err(Error::NotFound { .. }) => return Ok(()),
                Err(e) => return Err(e),
            };
            inner.delete_held(&id).await
        })
        .await
    }

    /// Deletes a database whose gate the caller holds. It is marked first, so that whatever happens meanwhile, it is finished.
    pub(super) async fn delete_held(&self, id: &DatabaseId) -> Result<()> {
        let record = Record { state: State::Deleting, ..self.record(id)? };
        match self.write(&record).await {
            // The volume was removed behind our back; what is left of the database still goes.
            // Or the pool is full, and to delete is the way out; should this process be killed before the end, the database is there again.
            Err(Error::NotFound { .. } | Error::OutOfSpace { .. }) => {}
            other => other?,
        }
        self.update(record.clone());
        self.discard(&record).await?;
        self.forget(id);
        Ok(())
    }
}

/// Runs to its end whatever happens to the caller.
pub(crate) async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(|e| Error::backend("task", "running an operation", e))?
}
