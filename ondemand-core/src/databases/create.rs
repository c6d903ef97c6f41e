//! Making a database.

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::oneshot;

use super::inner::{Attempt, Inner};
use super::ports::PortLease;
use super::record::{Record, State};
use super::server::port_was_taken;
use super::{CreateOptions, Database, DatabaseState};
use crate::datasets::DatasetSnapshot;
use crate::error::{Error, Kind, Result};
use crate::name::{DatabaseId, DatabaseName};
use crate::postgres;
use crate::snapshot::room;

/// How many ports are tried when strangers take them between the look and the start.
const PORTS_TRIED: usize = 5;

/// Makes a database in a task of its own, so that a caller that goes away leaves nothing half made.
pub(super) async fn create(inner: &Arc<Inner>, options: CreateOptions) -> Result<Database> {
    let (mut tell, told) = oneshot::channel();
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        let result = Creation::run(&inner, options, &mut tell).await;
        let result = result.map(|database| Parcel { database: Some(database), inner });
        // Where nobody is there to take it, the parcel comes back, and is dropped.
        let _ = tell.send(result);
    });
    told.await.map_err(|e| Error::backend("task", "creating a database", e))??.accept()
}

/// A database on its way to its caller. One that is dropped on the way is deleted: between the sending and the taking, too, a caller can go
/// away.
#[derive(Debug)]
struct Parcel {
    database: Option<Database>,
    inner: Arc<Inner>,
}

impl Parcel {
    fn accept(mut self) -> Result<Database> {
        self.database.take().ok_or(Error::Cancelled)
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        let Some(database) = self.database.take() else { return };
        let inner = Arc::clone(&self.inner);
        // Without a runtime the process is ending, and the database stays until it expires.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = inner.delete(&database.id).await {
                    tracing::warn!(id = %database.id, %error, "a database that nobody waited for could not be deleted; the janitor will");
                }
            });
        }
    }
}

/// What the name of a database begins with that was given none; its port follows.
const DEFAULT_NAME: &str = "pgondemand_";

type Caller = oneshot::Sender<Result<Parcel>>;

struct Creation<'a> {
    inner: &'a Arc<Inner>,
    caller: &'a mut Caller,
    port: PortLease,
    record: Record,
}

impl Creation<'_> {
    async fn run(inner: &Arc<Inner>, options: CreateOptions, caller: &mut Caller) -> Result<Database> {
        let limits = &inner.options;
        if let Some(name) = options.name.as_ref().filter(|name| name.as_str().starts_with(DEFAULT_NAME)) {
            return Err(Error::InvalidName {
                kind: Kind::Database,
                name: name.to_string(),
                reason: format!("names that start with {DEFAULT_NAME} are those of databases nobody has named"),
            });
        }
        postgres::check_settings(&options.settings)?;
        if let Some(lease) = &options.lease {
            inner.leases.check(lease)?;
        }
        let expires = inner.expiry(options.ttl.unwrap_or(limits.default_ttl))?;
        let attempt = inner.begin_create(options.name.as_ref())?;
        let _expected = inner.orchestrator.expect_deploy();
        let reference = options.dataset.as_ref().or(limits.default_dataset.as_ref());
        let finding = async {
            let hold = inner.datasets.hold().await;
            inner.datasets.find(reference).await.map(|snapshot| (hold, snapshot))
        };
        // Each asks the disk or the kernel, and none the others.
        let (space, found, epoch) = tokio::join!(inner.store.space(), finding, inner.store.epoch());
        space?.check_room()?;
        let (hold, snapshot) = found?;
        let port = take_port(inner)?;
        let record = plan(options, &snapshot, &attempt, expires, port.port())?;
        // Labels that the store would refuse are found before anything is made.
        record.labels(&inner.instance.id)?;
        let mut creation = Creation { inner, caller, port, record };
        // Without an epoch, the last record reaches the disk before the database is announced.
        creation.record.epoch = epoch.ok();
        match creation.make(hold).await {
            Ok(()) => {
                let Creation { port, record, .. } = creation;
                inner.announce(record.clone(), Some(port));
                if record.lease.as_ref().is_some_and(|lease| !inner.leases.is_alive(lease)) {
                    // Its end did not see this database, which was not announced then.
                    inner.delete(&record.id).await?;
                    return Err(Error::Cancelled);
                }
                Ok(inner.describe(record, DatabaseState::Running))
            }
            Err(error) => {
                let error = room::cause(&*inner.store, error).await;
                let undone = inner.give_up(creation.record.clone()).await;
                if let Err(undo) = undone {
                    tracing::warn!(id = %creation.record.id, error = %undo, "a failed create could not be undone; the janitor will");
                }
                if let Error::OutOfSpace { .. } = error
                    && let Err(error) = inner.store.sync().await
                {
                    // What was deleted is free only once that is on disk, which by itself may take half a minute.
                    tracing::warn!(%error, "a full store could not be told to free what was deleted");
                }
                Err(error)
            }
        }
    }

    /// Makes it; `hold` keeps its snapshot from being deleted until it is cloned.
    async fn make(&mut self, hold: tokio::sync::RwLockReadGuard<'_, ()>) -> Result<()> {
        let inner = self.inner;
        tracing::debug!(id = self.record.id.short(), port = self.record.port, "creating");
        let hashing = inner.hash_password(&self.record);
        let labels = self.record.labels(&inner.instance.id)?;
        let id = self.record.id.short().to_owned();
        let volume = inner.store.clone_snapshot(&self.record.snapshot(), &self.record.volume(), &labels).await?;
        drop(hold);
        tracing::debug!(%id, "cloned");
        self.still_wanted()?;
        let password = inner.place_password(&volume.path, hashing).await?;
        // This record reaches the disk while the server starts. It keeps the database if the power fails right after the announcement.
        let noted = self.record.clone();
        let noting = async { if noted.epoch.is_some() { inner.write(&noted).await } else { Ok(()) } };
        let (started, written) = tokio::join!(self.start(&volume.path), noting);
        started?;
        written?;
        tracing::debug!(%id, "ready");
        inner.ensure_password(&self.record, &volume.path, password).await?;
        self.still_wanted()?;
        tracing::debug!(%id, "password set");
        let is_noted = self.record.epoch.is_some() && self.record == noted;
        self.record.state = State::Announced;
        if is_noted {
            inner.write_soon(&self.record).await?;
        } else {
            self.record.epoch = None;
            inner.write(&self.record).await?;
        }
        tracing::debug!(%id, "announced");
        Ok(())
    }

    /// Starts the server, on another port where a stranger has taken the one that was found free.
    async fn start(&mut self, data: &std::path::Path) -> Result<()> {
        for tried in 1.. {
            let started = tokio::select! {
                started = self.inner.start(&self.record, data) => started,
                () = self.caller.closed() => Err(Error::Cancelled),
            };
            match started {
                Err(error) if port_was_taken(&error) && tried < PORTS_TRIED => {
                    tracing::info!(port = self.record.port, "a stranger has taken the port; trying the next");
                    self.inner.remove_stack(&self.record).await?;
                    let named_by_port = self.record.name == default_name(self.record.port)?;
                    self.port = take_port(self.inner)?;
                    self.record.port = self.port.port();
                    if named_by_port {
                        self.record.name = default_name(self.record.port)?;
                    }
                }
                other => return other,
            }
        }
        unreachable!("the loop returns at the last port")
    }

    fn still_wanted(&self) -> Result<()> {
        if self.caller.is_closed() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

fn plan(
    options: CreateOptions,
    snapshot: &DatasetSnapshot,
    attempt: &Attempt,
    expires: OffsetDateTime,
    port: u16,
) -> Result<Record> {
    Ok(Record {
        id: DatabaseId::random()?,
        name: options.name.map_or_else(|| default_name(port), Ok)?,
        dataset: snapshot.dataset.clone(),
        version: snapshot.version.clone(),
        postgres: snapshot.postgres,
        dbname: snapshot.dbname.clone(),
        port,
        created: OffsetDateTime::now_utc(),
        expires,
        durable: options.durable,
        settings: options.settings,
        environment: options.environment,
        lease: options.lease,
        epoch: None,
        generation: 0,
        state: State::Pending,
        attempt: attempt.id.clone(),
    })
}

fn default_name(port: u16) -> Result<DatabaseName> {
    DatabaseName::new(format!("{DEFAULT_NAME}{port}"))
}

fn take_port(inner: &Inner) -> Result<PortLease> {
    inner.ports.take(|port| inner.engine.is_free((inner.options.listen, port).into()))
}
