//! Making what runs match what the volumes say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use rustix::fs::{FileType, Stat};
use time::OffsetDateTime;

use super::DatabaseState;
use super::inner::{Inner, detached};
use super::leases;
use super::record::{Record, State, is_volume_of, stack_of};
use super::recover::recover;
use crate::error::{Error, Kind, Result};
use crate::janitor::Report;
use crate::label::{Labels, keys};
use crate::listing::Listing;
use crate::name::{AttemptId, DatabaseId, VolumeName};
use crate::orchestrator::Stack;
use crate::snapshot::Volume;
use crate::tree::{Tree, kind_of};

/// The file that names the server that has a volume.
const LOCK: &str = "postmaster.pid";
/// How many servers are started at a time, such as after a reboot.
const STARTS_AT_A_TIME: usize = 4;
/// How many things that belong to nobody are removed at a time.
const REMOVALS_AT_A_TIME: usize = 4;
/// How long a round waits for one of them, or for a database beyond the time that its server may take to start. It goes on after that, and is
/// reported.
const PATIENCE: Duration = Duration::from_secs(120);

/// Does one round. What is being made or changed by an attempt under way is left alone; what fails is reported and tried again by the
/// next round.
pub(super) async fn reconcile(inner: &Arc<Inner>, report: &mut Report) -> Result<()> {
    recover(inner).await?;
    let before = inner.records();
    let Listing { found: volumes, unreadable } = inner.store.volumes(&inner.selector()).await?;
    report.unknown.extend(unreadable.iter().map(|unreadable| format!("volume {unreadable}")));
    let mut found: BTreeMap<DatabaseId, Record> = BTreeMap::new();
    let mut dead = Vec::new();
    let mut kept = BTreeSet::new();
    let epoch = inner.store.epoch().await.ok();
    for volume in &volumes {
        match judge(inner, volume, epoch.as_deref()) {
            Verdict::LeaveAlone => {}
            Verdict::Unknown(reason) => report.unknown.push(format!("volume {}: {reason}", volume.name)),
            Verdict::Dead => dead.push(volume.clone()),
            verdict @ (Verdict::Announced(_) | Verdict::Kept(_)) => {
                if let Verdict::Kept(record) = &verdict {
                    kept.insert(record.id.clone());
                }
                let (Verdict::Announced(record) | Verdict::Kept(record)) = verdict else { continue };
                // Two announced volumes of one database are a reset that was cut off after its commit: the higher generation is the
                // database, and the lower one goes.
                let superseded = match found.get(&record.id) {
                    Some(other) if other.generation > record.generation => Some(*record),
                    _ => found.insert(record.id.clone(), *record),
                };
                if let Some(record) = superseded {
                    dead.extend(volumes.iter().find(|volume| volume.name == record.volume()).cloned());
                }
            }
        }
    }
    // A volume of the same database that cannot be read may be a later one, whose server would have to make room for this one's.
    found.retain(|id, _| !unreadable.iter().any(|other| is_volume_of(&other.name, id)));
    adopt(inner, &before, &found);
    let there = volumes.iter().map(|volume| volume.name.as_str());
    let there: BTreeSet<_> = there.chain(unreadable.iter().map(|unreadable| unreadable.name.as_str())).collect();
    for record in before.iter().filter(|record| !there.contains(record.volume().as_str())) {
        forget_if_gone(inner, record, report).await;
    }
    let strays = strays(inner, &found, report).await?;
    remove_each(inner, strays.into_iter().map(Remains::Stack).chain(dead.into_iter().map(Remains::Volume)), report)
        .await;
    let mut rounds = futures_util::stream::iter(inner.records())
        .map(|known| {
            let inner = Arc::clone(inner);
            // Labels that were read while somebody changed them are not news, so they are looked at again before they count.
            let drifted = kept.contains(&known.id) || found.get(&known.id).is_some_and(|record| *record != known);
            async move {
                let id = known.id.clone();
                let limit = inner.options.ready_timeout + PATIENCE;
                let done = within(limit, async move { settle(&inner, &known.id, drifted).await }).await;
                (id, done)
            }
        })
        .buffer_unordered(STARTS_AT_A_TIME);
    while let Some((id, done)) = rounds.next().await {
        match done {
            Ok(Settled::Well) => {}
            Ok(Settled::Reaped) => report.reaped.push(id.to_string()),
            Ok(Settled::Restarted) => report.restarted.push(id.to_string()),
            Err(error) => {
                let log = error.log().join("\n");
                tracing::warn!(%id, %error, log, "a database needs care and could not be given it; it will be tried again");
                report.failed.push(format!("database {id}: {error}"));
            }
        }
    }
    Ok(())
}

enum Verdict {
    /// An attempt under way made it.
    LeaveAlone,
    /// It carries our labels and cannot be read.
    Unknown(String),
    /// A dead attempt left it, or its deletion was cut off.
    Dead,
    /// It is a database's.
    Announced(Box<Record>),
    /// It may be a database's: that it was announced may be what was lost. Its record is as it is from now on.
    Kept(Box<Record>),
}

/// Tells what a volume is, in the epoch that the store is in, as far as that can be told.
fn judge(inner: &Inner, volume: &Volume, epoch: Option<&str>) -> Verdict {
    if attempt_of(&volume.labels).is_some_and(|attempt| inner.is_live(&attempt)) {
        return Verdict::LeaveAlone;
    }
    if !volume.complete || attempt_of(&volume.labels).is_some_and(|attempt| inner.is_given_up(&attempt)) {
        return Verdict::Dead;
    }
    match Record::read(volume) {
        // The labels were read a moment ago: an attempt that has announced its database since, is known by it.
        Ok(record) if inner.record(&record.id).is_ok_and(|known| known.attempt == record.attempt) => {
            Verdict::Announced(Box::new(record))
        }
        Ok(record) if record.state == State::Pending => match (&record.epoch, epoch) {
            // Were it announced, its record would say so.
            (None, _) => Verdict::Dead,
            (Some(begun), Some(now)) if begun == now => Verdict::Dead,
            // That may be what was lost.
            (Some(_), Some(_)) => Verdict::Kept(Box::new(Record { state: State::Announced, epoch: None, ..record })),
            (Some(_), None) => Verdict::Unknown("it cannot be told whether it was announced".into()),
        },
        // A deletion under way is of a database that is known; this one was cut off when an earlier process ended.
        Ok(record) if record.state == State::Deleting => Verdict::Dead,
        Ok(record) => Verdict::Announced(Box::new(record)),
        Err(error) => Verdict::Unknown(error.to_string()),
    }
}

/// Returns the try that made a volume, from its labels or from those of a stack on it.
fn attempt_of(labels: &Labels) -> Option<AttemptId> {
    labels.get(keys::ATTEMPT)?.parse().ok()
}

/// Makes known what was found and was not known before the volumes were listed.
fn adopt(inner: &Arc<Inner>, before: &[Record], found: &BTreeMap<DatabaseId, Record>) {
    for record in found.values() {
        // One that was known before and is not now, was deleted since its labels were read.
        let is_new = before.iter().all(|known| known.id != record.id);
        if is_new && inner.record(&record.id).is_err() {
            // Before it is known, or the round that made it known could take its lease for one that has ended.
            if let Some(lease) = &record.lease {
                leases::expect(inner, lease);
            }
            inner.announce(record.clone(), inner.ports.adopt(record.port));
        }
    }
}

/// Forgets a database whose volume is not there any more. That it is not listed is no proof: the volume itself is asked for.
async fn forget_if_gone(inner: &Arc<Inner>, record: &Record, report: &mut Report) {
    // Where the gate is taken, somebody is deleting or resetting it.
    let Ok(_gate) = inner.try_gate(&record.id) else { return };
    if !inner.record(&record.id).is_ok_and(|now| now.volume() == record.volume()) {
        return;
    }
    match inner.store.volume(&record.volume()).await {
        Ok(None) => {
            tracing::warn!(id = %record.id, "the volume of a database was removed by somebody else; forgetting the database");
            inner.forget(&record.id);
        }
        Ok(Some(_)) => {}
        Err(error) => report.failed.push(format!("database {}: {}", record.id, error.with_causes())),
    }
}

/// Returns the stacks of this instance that belong to no database: those whose volume is known to be gone.
async fn strays(inner: &Inner, found: &BTreeMap<DatabaseId, Record>, report: &mut Report) -> Result<Vec<Stack>> {
    let Listing { found: stacks, unreadable } = inner.orchestrator.list(&inner.selector()).await?;
    report.unknown.extend(unreadable.iter().map(|unreadable| format!("stack {unreadable}")));
    let mut strays = Vec::new();
    for stack in stacks {
        if attempt_of(&stack.labels).is_some_and(|attempt| inner.is_live(&attempt)) {
            continue;
        }
        let owner = owner_of(&stack);
        let wanted = owner.as_ref().is_some_and(|id| found.contains_key(id) || inner.record(id).is_ok());
        if wanted {
            continue;
        }
        let Some(volume) = stack.labels.get(keys::VOLUME).and_then(|name| name.parse::<VolumeName>().ok()) else {
            report.unknown.push(format!("stack {}: its labels name no volume", stack.name));
            continue;
        };
        match inner.store.volume(&volume).await {
            Ok(None) => strays.push(stack),
            // If that is of a dead attempt, its stack goes with it.
            Ok(Some(_)) => {}
            Err(error) => report.unknown.push(format!("stack {}: {}", stack.name, error.with_causes())),
        }
    }
    Ok(strays)
}

fn owner_of(stack: &Stack) -> Option<DatabaseId> {
    stack.labels.get(keys::ID)?.parse().ok()
}

/// What belongs to nobody.
enum Remains {
    /// A stack whose volume is gone.
    Stack(Stack),
    /// A volume that a dead attempt left, with the stack on it.
    Volume(Volume),
}

impl Remains {
    async fn remove(&self, inner: &Inner) -> Result<()> {
        match self {
            Self::Stack(stack) => {
                let removed = inner.orchestrator.remove(&stack.id).await;
                if let Some(id) = owner_of(stack)
                    && let Err(error) = inner.remove_run_dir(&id)
                {
                    tracing::warn!(%id, %error, "the sockets of a removed database stay");
                }
                removed
            }
            Self::Volume(volume) => match Record::read(volume) {
                Ok(record) => inner.discard(&record).await,
                // Without readable labels no stack can have been deployed on it.
                Err(_) => inner.store.delete_volume(&volume.name).await,
            },
        }
    }
}

impl std::fmt::Display for Remains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stack(stack) => write!(f, "stack {}", stack.name),
            Self::Volume(volume) => write!(f, "volume {}", volume.name),
        }
    }
}

/// Removes what belongs to nobody, some of it at a time. What takes too long is left to end by itself, and not removed a second time meanwhile.
async fn remove_each(inner: &Arc<Inner>, remains: impl Iterator<Item = Remains>, report: &mut Report) {
    let removals = remains.map(|remains| {
        let inner = Arc::clone(inner);
        async move {
            let what = remains.to_string();
            let Some(turn) = Removal::begin(&inner, &what) else {
                let message = "its removal, which began in an earlier round, has not ended".into();
                return (what, Err(Error::Conflict { message, hint: String::new() }));
            };
            let done = within(PATIENCE, async move {
                let _turn = turn;
                remains.remove(&inner).await
            });
            (what, done.await)
        }
    });
    let mut removals = futures_util::stream::iter(removals).buffer_unordered(REMOVALS_AT_A_TIME);
    while let Some((what, done)) = removals.next().await {
        match done {
            Ok(()) => report.removed.push(what),
            Err(error) => {
                tracing::warn!(what, %error, "what belongs to no database could not be removed");
                report.failed.push(format!("{what}: {error}"));
            }
        }
    }
}

/// A removal under way.
struct Removal {
    inner: Arc<Inner>,
    what: String,
}

impl Removal {
    fn begin(inner: &Arc<Inner>, what: &str) -> Option<Self> {
        let begun = inner.removals.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned());
        begun.then(|| Self { inner: Arc::clone(inner), what: what.to_owned() })
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.inner.removals.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.what);
    }
}

/// Does something in a task of its own. After `limit` it goes on, and nobody waits for it any more.
async fn within<T: Send + 'static>(
    limit: Duration,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let waiting = || Error::NotReady { waited: limit, last: "it goes on".into(), log: Vec::new() };
    tokio::time::timeout(limit, detached(work)).await.unwrap_or_else(|_| Err(waiting()))
}

enum Settled {
    Well,
    Reaped,
    Restarted,
}

/// Gives one database what it needs: its end, or its server.
async fn settle(inner: &Arc<Inner>, id: &DatabaseId, drifted: bool) -> Result<Settled> {
    // Whoever holds the gate is giving it what it needs.
    let Ok(gate) = inner.try_gate(id) else { return Ok(Settled::Well) };
    if drifted {
        // A write whose answer was lost has changed the labels all the same, and the labels are the truth.
        let known = inner.record(id)?;
        if let Some(volume) = inner.volume(&known).await? {
            let read = Record::read(&volume)?;
            if read.state == State::Pending {
                // It was kept. What its record says of its beginning is to mean nothing any more.
                let announced = Record { state: State::Announced, epoch: None, ..read };
                inner.write(&announced).await?;
                inner.update(announced);
            } else {
                inner.update(read);
            }
        }
    }
    let record = inner.record(id)?;
    if record.state == State::Deleting {
        inner.delete_held(id).await?;
        return Ok(Settled::Well);
    }
    let lease_ended = record.lease.as_ref().is_some_and(|lease| !inner.leases.is_alive(lease));
    if lease_ended || record.expires <= OffsetDateTime::now_utc() {
        inner.delete_held(id).await?;
        return Ok(Settled::Reaped);
    }
    if !inner.has_port(id) {
        let port = inner.ports.adopt(record.port).ok_or_else(|| Error::Conflict {
            message: format!("port {} belongs to another database", record.port),
            hint: "delete one of the two".into(),
        })?;
        inner.set_port(id, port);
    }
    match inner.orchestrator.get(&record.stack()).await {
        Ok(stack) if record.owns(&stack) && stack.is_running() => return Ok(Settled::Well),
        Ok(_) | Err(Error::NotFound { .. }) => {}
        Err(e) => return Err(e),
    }
    gate.show(DatabaseState::Starting);
    Ok(if inner.ensure_runs(&record).await? { Settled::Restarted } else { Settled::Well })
}

impl Inner {
    /// Returns a record's volume, as the store has it now.
    pub(super) async fn volume(&self, record: &Record) -> Result<Option<Volume>> {
        self.store.volume(&record.volume()).await
    }

    /// Makes sure that a database's server runs on its volume. Tells whether it had to be started.
    pub(super) async fn ensure_runs(&self, record: &Record) -> Result<bool> {
        let unlock = async || match self.volume(record).await? {
            Some(volume) => remove_empty_lock(&volume.path),
            None => Ok(()),
        };
        match self.orchestrator.get(&stack_of(&record.id)).await {
            Ok(stack) if record.owns(&stack) && stack.is_running() => return Ok(false),
            Ok(stack) if record.owns(&stack) && self.has_moved(record, &stack).await? => {
                tracing::info!(id = %record.id, "the data directory was moved; the database is started where it is now");
                self.orchestrator.remove(&stack.id).await?;
            }
            Ok(stack) if record.owns(&stack) => {
                unlock().await?;
                match self.restart(record).await {
                    // A reset was cut off while it took this stack away: that is finished, and the stack made again.
                    Err(Error::Conflict { .. }) => self.orchestrator.remove(&stack.id).await?,
                    restarted => return restarted.map(|()| true),
                }
            }
            // A reset that was cut off before its commit has left its stack under the database's name.
            Ok(stack) => self.orchestrator.remove(&stack.id).await?,
            Err(Error::NotFound { .. }) => {}
            Err(e) => return Err(e),
        }
        let volume = self.volume(record).await?;
        let volume = volume.ok_or_else(|| Error::not_found(Kind::Volume, record.volume()))?;
        remove_empty_lock(&volume.path)?;
        self.start(record, &volume.path).await?;
        Ok(true)
    }
}

/// Removes the lock file of a server that has ended, if it is empty: a power cut leaves its name and takes what was in it, and Postgres then refuses to start. Nothing
/// outside of the volume is touched, whatever its user may make of the name meanwhile.
fn remove_empty_lock(data: &Path) -> Result<()> {
    let remove = || {
        let volume = Tree::open(data)?;
        let is_empty = |stat: &Stat| kind_of(stat) == FileType::RegularFile && stat.st_size == 0;
        if volume.stat(LOCK)?.as_ref().is_some_and(is_empty) { volume.remove(LOCK) } else { Ok(()) }
    };
    match remove() {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("database", format!("removing an empty {LOCK} in {}", data.display()), e))
        }
        _ => Ok(()),
    }
}
