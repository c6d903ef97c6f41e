//! The order in which records and data come and go, the same whatever makes the data.
//!
//! Making: record (`complete: false`), data, record (`complete: true`). Deleting: record (`complete: false`), data, record gone. So whatever a
//! process leaves when it dies has a record that says so, and what has no record was made by somebody else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::claim::Claim;
use super::record::{Record, SNAPSHOTS, VOLUMES};
use super::{Snapshot, Usage, Volume, probe};
use crate::catalog::Catalog;
use crate::error::{Error, Kind, Result};
use crate::label::{Labels, Selector};
use crate::listing::{Listing, Unreadable, is_directory, usable_dir, what_is_at};
use crate::name::{SnapshotName, VolumeName};
use crate::own;
use crate::snapshot::unknown_epoch;

/// How long a store that is to be mounted again waits for what works in it, and how long before it looks again.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// What makes, copies and removes the directories. Everything here blocks.
pub(super) trait Medium: Debug + Send + Sync + 'static {
    /// Returns the name that errors carry.
    fn backend(&self) -> &'static str;
    /// Makes an empty directory of mode 0700; [`Error::AlreadyExists`] if something is there.
    fn make(&self, target: &Path) -> Result<()>;
    /// Makes a writable copy of a snapshot.
    fn thaw(&self, source: &Path, target: &Path, cancel: &Cancel) -> Result<()>;
    /// Makes a snapshot of a volume that, when this returns, survives a power cut.
    fn freeze(&self, source: &Path, target: &Path, cancel: &Cancel) -> Result<()>;
    /// Removes a directory and what is in it, and what a broken-off copy to it left. Succeeds if there is nothing.
    fn remove(&self, target: &Path) -> Result<()>;
    /// Returns once everything below `root` survives a power cut.
    fn sync(&self, root: &Path) -> Result<()>;
    /// Returns what is another after each boot, and each time that the file system is mounted, where that can be told.
    fn epoch(&self) -> Result<String> {
        Err(unknown_epoch())
    }
    /// Returns how full the whole is, without volumes and snapshots.
    fn usage(&self, root: &Path) -> Result<Usage>;
    /// Mounts again what went read-only, which nothing uses.
    fn remount(&self, root: &Path) -> Result<()> {
        Err(Error::Unsupported {
            message: format!("the store at {} is read-only, and not a pool that was made here", root.display()),
            hint: "make it writable: see what the kernel's log says of its file system".into(),
        })
    }
    /// Tells whether what [`Medium::remount`] mounts is mounted.
    fn is_mounted(&self, _root: &Path) -> bool {
        true
    }
    /// Returns what only this directory holds.
    fn own_bytes(&self, path: &Path) -> Option<u64>;
    /// Returns the number under which the file system counts what is first written here.
    fn number(&self, _path: &Path) -> Option<u64> {
        None
    }
    /// Returns what is counted under that number, also when its directory is gone.
    fn bytes_of(&self, _number: u64) -> Option<u64> {
        None
    }
}

/// Tells a blocking operation that nobody waits for it any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Fails once the operation is given up.
    pub(super) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Gives the operation up.
    pub(super) fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

type Key = (Kind, String);

/// A lock a name, so that an operation nobody waits for any more is over before the next one on its name begins.
#[derive(Debug, Default)]
struct Locks(Mutex<HashMap<Key, Weak<RwLock<()>>>>);

impl Locks {
    fn of(&self, kind: Kind, name: &str) -> Arc<RwLock<()>> {
        // An insertion or removal is one step, so the map is whole even if a holder panicked.
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.len() >= 256 {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let key = (kind, name.to_owned());
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(RwLock::new(()));
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }

    async fn write(&self, kind: Kind, name: &str) -> OwnedRwLockWriteGuard<()> {
        self.of(kind, name).write_owned().await
    }

    async fn read(&self, kind: Kind, name: &str) -> OwnedRwLockReadGuard<()> {
        self.of(kind, name).read_owned().await
    }
}

/// A store of directories with records beside them.
///
/// Where two names are locked, the volume is locked before the snapshot.
#[derive(Debug)]
pub(super) struct Directories(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    medium: Box<dyn Medium>,
    volumes: Catalog<Record>,
    snapshots: Catalog<Record>,
    locks: Locks,
    /// Keeps other processes out, and is missing while the store is mounted again, or where that failed half way. Every operation holds it; whoever
    /// mounts the store again holds it alone.
    claim: std::sync::RwLock<Option<Claim>>,
}

impl Directories {
    /// Opens the store at `root`, which exists, and removes what a dead process left of snapshots. Blocks.
    pub(super) fn open(root: PathBuf, medium: Box<dyn Medium>) -> Result<Self> {
        // First: what another process is making right now must not be taken for what a dead one left.
        let claim = std::sync::RwLock::new(Some(Claim::take(&root, medium.backend())?));
        // BTRFS that has met an error may not even list its directories. They are cleaned when it can be written again.
        let read_only = probe::is_read_only(&root);
        let catalog = |name: &str, mode| match root.join(name) {
            dir if read_only && usable_dir(&dir) => Ok(Catalog::at(dir, medium.backend())),
            dir => Catalog::open(dir, mode, medium.backend()),
        };
        let (volumes, snapshots) = (catalog("volumes", VOLUMES)?, catalog("snapshots", SNAPSHOTS)?);
        let inner = Inner { root, medium, volumes, snapshots, locks: Locks::default(), claim };
        if !read_only {
            inner.discard_unfinished()?;
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Returns how full what is at `root` is, and changes nothing: another process may have it open.
    #[cfg(feature = "btrfs")]
    pub(super) fn inspect(root: PathBuf, medium: Box<dyn Medium>) -> Result<Usage> {
        let (volumes, snapshots) = (root.join("volumes"), root.join("snapshots"));
        let backend = medium.backend();
        if !(is_directory(&volumes, backend)? && is_directory(&snapshots, backend)?) {
            return medium.usage(&root);
        }
        let (volumes, snapshots) = (Catalog::at(volumes, backend), Catalog::at(snapshots, backend));
        Inner { root, medium, volumes, snapshots, locks: Locks::default(), claim: std::sync::RwLock::default() }.usage()
    }

    pub(super) async fn create_volume(&self, name: &VolumeName, labels: &Labels) -> Result<Volume> {
        refuse_taken(&self.0.volumes, Kind::Volume, name.as_str())?;
        let lock = self.0.locks.write(Kind::Volume, name.as_str()).await;
        let (name, record) = (name.clone(), Record::begun(labels, None));
        self.blocking(move |inner, cancel| {
            let _lock = lock;
            let made = inner.build(Kind::Volume, name.as_str(), record, cancel, |data, _| inner.medium.make(data))?;
            inner.volume(name, made)
        })
        .await
    }

    pub(super) async fn clone_snapshot(
        &self,
        snapshot: &SnapshotName,
        name: &VolumeName,
        labels: &Labels,
    ) -> Result<Volume> {
        refuse_taken(&self.0.volumes, Kind::Volume, name.as_str())?;
        let lock = self.0.locks.write(Kind::Volume, name.as_str()).await;
        let source_lock = self.0.locks.read(Kind::Snapshot, snapshot.as_str()).await;
        let (snapshot, name, record) = (snapshot.clone(), name.clone(), Record::begun(labels, Some(snapshot.clone())));
        self.blocking(move |inner, cancel| {
            let _locks = (lock, source_lock);
            let source = inner.snapshots.data(snapshot.as_str());
            let complete = inner.snapshots.read(snapshot.as_str())?.is_some_and(|s| s.complete);
            if !complete || !is_directory(&source, inner.medium.backend())? {
                return Err(Error::not_found(Kind::Snapshot, &snapshot));
            }
            let made = inner.build(Kind::Volume, name.as_str(), record, cancel, |data, _| {
                inner.medium.thaw(&source, data, cancel)
            })?;
            inner.volume(name, made)
        })
        .await
    }

    pub(super) async fn snapshot(&self, volume: &VolumeName, name: &SnapshotName, labels: &Labels) -> Result<Snapshot> {
        refuse_taken(&self.0.snapshots, Kind::Snapshot, name.as_str())?;
        let source_lock = self.0.locks.read(Kind::Volume, volume.as_str()).await;
        let lock = self.0.locks.write(Kind::Snapshot, name.as_str()).await;
        let (volume, name, record) = (volume.clone(), name.clone(), Record::begun(labels, None));
        self.blocking(move |inner, cancel| {
            let _locks = (source_lock, lock);
            let source = inner.volumes.data(volume.as_str());
            let complete = inner.volumes.read(volume.as_str())?.is_some_and(|v| v.complete);
            if !complete || !is_directory(&source, inner.medium.backend())? {
                return Err(Error::not_found(Kind::Volume, &volume));
            }
            let made = inner.build(Kind::Snapshot, name.as_str(), record, cancel, |data, record| {
                record.origin = inner.medium.number(&source);
                inner.medium.freeze(&source, data, cancel)
            })?;
            Ok(inner.snapshot(name, made))
        })
        .await
    }

    pub(super) async fn volumes(&self, selector: &Selector) -> Result<Listing<Volume>> {
        let selector = selector.clone();
        self.blocking(move |inner, _| {
            let mut records = inner.volumes.list::<VolumeName>()?;
            records.retain(|(_, record)| selector.matches(&record.labels));
            Ok(each(records, |name, record| inner.volume(name, record).map(Some)))
        })
        .await
    }

    pub(super) async fn volume(&self, name: &VolumeName) -> Result<Option<Volume>> {
        let name = name.clone();
        self.blocking(move |inner, _| {
            let record = inner.volumes.read(name.as_str())?;
            record.map(|record| inner.volume(name, record)).transpose()
        })
        .await
    }

    pub(super) async fn snapshots(&self, selector: &Selector) -> Result<Listing<Snapshot>> {
        let selector = selector.clone();
        self.blocking(move |inner, _| {
            let mut records = inner.snapshots.list::<SnapshotName>()?;
            records.retain(|(_, record)| record.complete && selector.matches(&record.labels));
            let snapshot = |name, record| {
                let snapshot = inner.snapshot(name, record);
                Ok(is_directory(&snapshot.path, inner.medium.backend())?.then_some(snapshot))
            };
            Ok(each(records, snapshot))
        })
        .await
    }

    pub(super) async fn set_volume_labels_soon(&self, name: &VolumeName, labels: &Labels) -> Result<()> {
        self.replace_labels(name, labels, false).await?;
        let directories = Self(Arc::clone(&self.0));
        // Nobody waits for it, and it goes on when the caller goes away.
        tokio::spawn(async move {
            if let Err(error) = directories.blocking(|inner, _| inner.volumes.sync()).await {
                tracing::warn!(%error, "the records of volumes could not be written to disk; the next change tries again");
            }
        });
        Ok(())
    }

    pub(super) async fn set_volume_labels(&self, name: &VolumeName, labels: &Labels) -> Result<()> {
        self.replace_labels(name, labels, true).await
    }

    async fn replace_labels(&self, name: &VolumeName, labels: &Labels, durable: bool) -> Result<()> {
        let lock = self.0.locks.write(Kind::Volume, name.as_str()).await;
        let (name, labels) = (name.clone(), labels.clone());
        self.blocking(move |inner, _| {
            let _lock = lock;
            let Some(record) = inner.volumes.read(name.as_str())? else {
                return Err(Error::not_found(Kind::Volume, &name));
            };
            inner.volumes.replace(name.as_str(), &Record { labels, ..record }, durable)
        })
        .await
    }

    pub(super) async fn epoch(&self) -> Result<String> {
        self.blocking(|inner, _| inner.medium.epoch()).await
    }

    pub(super) async fn sync(&self) -> Result<()> {
        self.blocking(|inner, _| inner.medium.sync(&inner.root)).await
    }

    pub(super) async fn usage(&self) -> Result<Usage> {
        self.blocking(|inner, _| inner.usage()).await
    }

    pub(super) async fn space(&self) -> Result<Usage> {
        self.blocking(|inner, _| inner.medium.usage(&inner.root)).await
    }

    pub(super) async fn revive(&self) -> Result<()> {
        let inner = Arc::clone(&self.0);
        let backend = inner.medium.backend();
        let revived = tokio::task::spawn_blocking(move || inner.revive()).await;
        revived.map_err(|e| Error::backend(backend, "mounting a store again", e))?
    }

    pub(super) async fn delete_volume(&self, name: &VolumeName) -> Result<()> {
        let lock = self.0.locks.write(Kind::Volume, name.as_str()).await;
        let name = name.clone();
        self.blocking(move |inner, _| {
            let _lock = lock;
            inner.discard(&inner.volumes, name.as_str())
        })
        .await
    }

    pub(super) async fn delete_snapshot(&self, name: &SnapshotName) -> Result<()> {
        let lock = self.0.locks.write(Kind::Snapshot, name.as_str()).await;
        let name = name.clone();
        self.blocking(move |inner, _| {
            let _lock = lock;
            inner.discard(&inner.snapshots, name.as_str())
        })
        .await
    }

    /// Runs blocking work. If the future is dropped the work is told to stop, keeps its locks, and undoes what it did.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &Cancel) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let cancel = Cancel::default();
        let _guard = CancelOnDrop(cancel.clone());
        let inner = Arc::clone(&self.0);
        let backend = inner.medium.backend();
        match tokio::task::spawn_blocking(move || inner.work(work, &cancel)).await {
            Ok(result) => result,
            Err(e) if e.is_cancelled() => Err(Error::Cancelled),
            Err(e) => Err(Error::backend(backend, "working on a store", e)),
        }
    }
}

/// Looks at the data of each record that was found.
fn each<N: AsRef<str> + Clone, T>(
    records: Listing<(N, Record)>,
    mut look: impl FnMut(N, Record) -> Result<Option<T>>,
) -> Listing<T> {
    let mut listing = Listing { found: Vec::new(), unreadable: records.unreadable };
    for (name, record) in records.found {
        match look(name.clone(), record) {
            Ok(found) => listing.found.extend(found),
            Err(error) => listing.unreadable.push(Unreadable::new(name.as_ref(), &error)),
        }
    }
    listing
}

/// Answers at once what the lock would answer only when the first one is done: a copy takes its time.
fn refuse_taken(catalog: &Catalog<Record>, kind: Kind, name: &str) -> Result<()> {
    if catalog.exists(name)? { Err(Error::already_exists(kind, name)) } else { Ok(()) }
}

impl Inner {
    /// Does something in the store while it is mounted. What fails as it is read-only says so: the system calls it an I/O error, too.
    fn work<T>(&self, work: impl FnOnce(&Self, &Cancel) -> Result<T>, cancel: &Cancel) -> Result<T> {
        let claim = self.claim.read().unwrap_or_else(PoisonError::into_inner);
        if claim.is_none() {
            // What lies below the mount point must not be taken for an empty store.
            return Err(Error::ReadOnly { message: format!("the store at {} is not mounted", self.root.display()) });
        }
        work(self, cancel).map_err(|error| match error {
            Error::Backend { .. } | Error::OutOfSpace { .. } if probe::is_read_only(&self.root) => {
                tracing::debug!(error = error.with_causes(), "a store is read-only");
                Error::ReadOnly { message: format!("the store at {} is read-only: {error}", self.root.display()) }
            }
            error => error,
        })
    }

    fn revive(&self) -> Result<()> {
        // Whoever asks meanwhile must not wait for an operation that hangs.
        let deadline = Instant::now() + PATIENCE;
        let mut claim = loop {
            match self.claim.try_write() {
                Ok(claim) => break claim,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Conflict {
                        message: format!("the store at {} is in use, and cannot be mounted again", self.root.display()),
                        hint: "try again in a moment".into(),
                    });
                }
            }
        };
        if claim.is_some() && !probe::is_read_only(&self.root) {
            return Ok(());
        }
        // The lock is on the directory, and keeps it from being unmounted.
        *claim = None;
        let remounted = self.medium.remount(&self.root);
        // Where it could not even be unmounted, it is as it was.
        if remounted.is_ok() || self.medium.is_mounted(&self.root) {
            *claim = Some(Claim::take(&self.root, self.medium.backend())?);
        }
        remounted?;
        // Nobody makes one at the moment.
        if let Err(error) = self.discard_unfinished() {
            tracing::warn!(error = error.with_causes(), "could not look for snapshots that were never finished");
        }
        Ok(())
    }

    /// Deletes the snapshots that a dead process was making.
    fn discard_unfinished(&self) -> Result<()> {
        let listed = self.snapshots.list::<SnapshotName>()?;
        for unreadable in &listed.unreadable {
            tracing::warn!("snapshot {unreadable}; it stays as it is");
        }
        for (name, record) in listed.found {
            // What cannot be looked at is there, as far as anybody knows.
            let gone = || matches!(is_directory(&self.snapshots.data(name.as_str()), self.medium.backend()), Ok(false));
            if !record.complete || gone() {
                tracing::info!(snapshot = %name, "deleting a snapshot that was never finished");
                if let Err(error) = self.discard(&self.snapshots, name.as_str()) {
                    // It is not listed anyway, and everything else can be used.
                    tracing::warn!(snapshot = %name, error = error.to_string(), "could not delete it");
                }
            }
        }
        Ok(())
    }

    /// Makes one thing in the order that this module is about, and undoes it if it fails.
    fn build(
        &self,
        kind: Kind,
        name: &str,
        mut record: Record,
        cancel: &Cancel,
        make: impl FnOnce(&Path, &mut Record) -> Result<()>,
    ) -> Result<Record> {
        let durable = kind == Kind::Snapshot;
        let catalog = if durable { &self.snapshots } else { &self.volumes };
        let data = catalog.data(name);
        // Looked for first: a record written next to what is not ours would claim it, should we die here.
        if what_is_at(&data, self.medium.backend())?.is_some() || !catalog.create(name, &record)? {
            return Err(Error::already_exists(kind, name));
        }
        let outcome = make(&data, &mut record).and_then(|()| cancel.check()).and_then(|()| {
            record.complete = true;
            catalog.replace(name, &record, durable)
        });
        match outcome {
            Ok(()) => Ok(record),
            Err(error) => {
                self.undo(catalog, name, &data, &error);
                Err(error)
            }
        }
    }

    fn undo(&self, catalog: &Catalog<Record>, name: &str, data: &Path, error: &Error) {
        // Something was there after all: not ours.
        let ours = !matches!(error, Error::AlreadyExists { .. });
        let undone = if ours { self.medium.remove(data) } else { Ok(()) };
        if let Err(error) = undone.and_then(|()| catalog.remove(name)) {
            // The record stays and says that it is incomplete, so it can be deleted later.
            tracing::warn!(path = %data.display(), error = error.to_string(), "could not undo a failed creation");
        }
    }

    fn discard(&self, catalog: &Catalog<Record>, name: &str) -> Result<()> {
        if !catalog.exists(name)? {
            return Ok(());
        }
        // A record that cannot be read belongs to something of ours all the same.
        if let Ok(Some(record)) = catalog.read(name)
            && record.complete
        {
            match catalog.replace(name, &Record { complete: false, ..record }, false) {
                // Deleting must work above all when the disk is full.
                Ok(()) | Err(Error::OutOfSpace { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.medium.remove(&catalog.data(name))?;
        catalog.remove(name)
    }

    fn volume(&self, name: VolumeName, record: Record) -> Result<Volume> {
        let path = self.volumes.data(name.as_str());
        let complete = record.complete && is_directory(&path, self.medium.backend())?;
        Ok(Volume { name, labels: record.labels, path, snapshot: record.snapshot, created: record.created, complete })
    }

    fn snapshot(&self, name: SnapshotName, record: Record) -> Snapshot {
        let path = self.snapshots.data(name.as_str());
        Snapshot { name, labels: record.labels, path, created: record.created }
    }

    fn usage(&self) -> Result<Usage> {
        let mut usage = self.medium.usage(&self.root)?;
        let mut living = HashSet::new();
        let volumes = unless_read_only(self.volumes.list::<VolumeName>(), &mut usage, "volumes")?;
        usage.unreadable.extend(volumes.unreadable);
        for (name, _) in volumes.found {
            let path = self.volumes.data(name.as_str());
            living.extend(self.medium.number(&path));
            usage.volumes.insert(name, self.medium.own_bytes(&path));
        }
        let Listing { found: mut snapshots, unreadable } =
            unless_read_only(self.snapshots.list::<SnapshotName>(), &mut usage, "snapshots")?;
        usage.unreadable.extend(unreadable);
        snapshots.retain(|(_, record)| record.complete);
        snapshots.sort_by_key(|(_, record)| record.created);
        let mut counted = BTreeMap::new();
        for (name, record) in snapshots {
            let own = self.medium.own_bytes(&self.snapshots.data(name.as_str()));
            // What a volume wrote before its snapshot was made is counted under the volume, and after its deletion under
            // nothing that is listed. The oldest snapshot of it answers for it then.
            let inherited = record.origin.filter(|origin| !living.contains(origin)).and_then(|origin| {
                living.insert(origin);
                self.medium.bytes_of(origin)
            });
            counted.insert(name, own.map(|own| own + inherited.unwrap_or(0)));
        }
        usage.snapshots = counted;
        Ok(usage)
    }
}

/// Notes that something cannot be listed, where the store is read-only: then BTRFS may not read its directories, and how full it is counts the more.
fn unless_read_only<T>(listed: Result<Listing<T>>, usage: &mut Usage, what: &str) -> Result<Listing<T>> {
    match listed {
        Err(error) if usage.read_only => {
            usage.unreadable.push(Unreadable::new(what, &error));
            Ok(Listing::default())
        }
        listed => listed,
    }
}

/// Makes the directory a store is to be opened at, and returns it as an absolute path.
pub(super) fn prepare(root: &Path, backend: &'static str) -> Result<PathBuf> {
    let error = |e| Error::io(backend, format!("opening the store at {}", root.display()), e);
    own::create_dir_all(root).map_err(error)?;
    fs::canonicalize(root).map_err(error)
}
