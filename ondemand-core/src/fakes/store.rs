//! A snapshot store in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use time::OffsetDateTime;

use crate::error::{Error, Kind, Result};
use crate::label::{Labels, Selector};
use crate::listing::{Listing, Unreadable};
use crate::name::{SnapshotName, VolumeName};
use crate::snapshot::{Snapshot, SnapshotStore, Usage, Volume};

/// What its volumes' paths begin with. Nothing is there.
const ROOT: &str = "/fake-store";

type Files = BTreeMap<String, Vec<u8>>;

/// Keeps volumes and snapshots in memory, strictly as the contract says.
///
/// Volumes' paths lead nowhere: their contents are what [`FakeStore::write`] put into them. Clones of this value share its
/// state, as a store does that is opened again.
#[derive(Debug, Clone)]
pub struct FakeStore {
    state: Arc<Mutex<State>>,
    capacity: u64,
}

#[derive(Debug, Default)]
struct State {
    volumes: BTreeMap<VolumeName, (Volume, Files)>,
    snapshots: BTreeMap<SnapshotName, (Snapshot, Files, bool)>,
    /// The volumes that listings lack.
    overlooked: BTreeSet<VolumeName>,
    /// The volumes that cannot be read.
    unreadable: BTreeSet<VolumeName>,
    syncs: usize,
    epoch: u32,
    /// Whether it says that nothing is free.
    short: bool,
    /// Whether it says that it is read-only.
    read_only: bool,
    /// Whether that cannot be changed.
    stays_read_only: bool,
    /// How often it was made writable again.
    revived: usize,
}

impl Default for FakeStore {
    fn default() -> Self {
        Self::with_capacity(1 << 30)
    }
}

impl FakeStore {
    /// Makes an empty store with a capacity of a GiB.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty store that holds so many bytes.
    pub fn with_capacity(bytes: u64) -> Self {
        Self { state: Arc::default(), capacity: bytes }
    }

    /// Opens the same state as the next process would: snapshots that were not finished are gone.
    pub fn reopen(&self) -> Self {
        self.lock().snapshots.retain(|_, (_, _, complete)| *complete);
        self.clone()
    }

    /// Writes a file in a volume.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the volume, [`Error::OutOfSpace`].
    pub fn write(&self, volume: &VolumeName, file: &str, content: &[u8]) -> Result<()> {
        let mut state = self.lock();
        self.check_room(&state, content.len() as u64)?;
        let (_, files) = state.volumes.get_mut(volume).ok_or_else(|| Error::not_found(Kind::Volume, volume))?;
        files.insert(file.into(), content.into());
        Ok(())
    }

    /// Reads a file of a volume.
    pub fn read(&self, volume: &VolumeName, file: &str) -> Option<Vec<u8>> {
        self.lock().volumes.get(volume)?.1.get(file).cloned()
    }

    /// Reads a file of a snapshot.
    pub fn read_snapshot(&self, snapshot: &SnapshotName, file: &str) -> Option<Vec<u8>> {
        self.lock().snapshots.get(snapshot)?.1.get(file).cloned()
    }

    /// Makes a volume look as if its maker had been killed. Tells whether there is one.
    pub fn interrupt_volume(&self, volume: &VolumeName) -> bool {
        let mut state = self.lock();
        let Some((volume, files)) = state.volumes.get_mut(volume) else { return false };
        volume.complete = false;
        files.clear();
        true
    }

    /// Makes a snapshot look as if its maker had been killed. Tells whether there is one.
    pub fn interrupt_snapshot(&self, snapshot: &SnapshotName) -> bool {
        let mut state = self.lock();
        let Some((_, files, complete)) = state.snapshots.get_mut(snapshot) else { return false };
        *complete = false;
        files.clear();
        true
    }

    /// Makes a volume one that cannot be read, as if its record were damaged, or readable again.
    pub fn damage(&self, volume: &VolumeName, is_damaged: bool) {
        let mut state = self.lock();
        if is_damaged {
            state.unreadable.insert(volume.clone())
        } else {
            state.unreadable.remove(volume)
        };
    }

    /// Makes a volume one that listings lack though it is there, against the contract, or not any more.
    pub fn overlook(&self, volume: &VolumeName, is_overlooked: bool) {
        let mut state = self.lock();
        if is_overlooked {
            state.overlooked.insert(volume.clone())
        } else {
            state.overlooked.remove(volume)
        };
    }

    /// Begins another epoch, as a boot does.
    pub fn begin_epoch(&self) {
        self.lock().epoch += 1;
    }

    /// Returns how often [`SnapshotStore::sync`] was called.
    pub fn syncs(&self) -> usize {
        self.lock().syncs
    }

    /// Makes it say that nothing is free, or not any more.
    pub fn set_short(&self, is_short: bool) {
        self.lock().short = is_short;
    }

    /// Makes it say that it is read-only, until it is revived.
    pub fn set_read_only(&self) {
        self.lock().read_only = true;
    }

    /// Makes it say that it is read-only, and cannot be revived.
    pub fn set_read_only_for_good(&self) {
        let mut state = self.lock();
        (state.read_only, state.stays_read_only) = (true, true);
    }

    /// Returns how often it was made writable again by [`SnapshotStore::revive`].
    pub fn revivals(&self) -> usize {
        self.lock().revived
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is a single insert or remove, so the state is whole even if a holder panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_room(&self, state: &State, more: u64) -> Result<()> {
        let used = state.used();
        if used.saturating_add(more) > self.capacity {
            return Err(Error::OutOfSpace {
                message: format!("the fake store holds {used} of {} bytes", self.capacity),
            });
        }
        Ok(())
    }

    fn add_volume(
        &self,
        state: &mut State,
        name: &VolumeName,
        labels: &Labels,
        snapshot: Option<SnapshotName>,
        files: Files,
    ) -> Result<Volume> {
        if state.volumes.contains_key(name) {
            return Err(Error::already_exists(Kind::Volume, name));
        }
        // Even an empty volume takes a little, so that a full store refuses it.
        self.check_room(state, 1)?;
        let volume = Volume {
            name: name.clone(),
            labels: labels.clone(),
            path: PathBuf::from(ROOT).join("volumes").join(name.as_str()),
            snapshot,
            created: OffsetDateTime::now_utc(),
            complete: true,
        };
        state.volumes.insert(name.clone(), (volume.clone(), files));
        Ok(volume)
    }
}

impl State {
    fn used(&self) -> u64 {
        let volumes = self.volumes.values().map(|(volume, files)| self.own_bytes(volume, files));
        let snapshots = self.snapshots.values().map(|(_, files, _)| size(files));
        volumes.chain(snapshots).sum()
    }

    /// Returns the bytes of files that are not as the snapshot has them.
    fn own_bytes(&self, volume: &Volume, files: &Files) -> u64 {
        let parent = volume.snapshot.as_ref().and_then(|name| self.snapshots.get(name)).map(|(_, files, _)| files);
        let own = files.iter().filter(|(name, content)| parent.and_then(|p| p.get(*name)) != Some(content));
        own.map(|(_, content)| content.len() as u64).sum()
    }
}

fn damaged() -> Error {
    Error::backend("fake", "reading a record", std::io::Error::other("it is damaged"))
}

fn size(files: &Files) -> u64 {
    files.values().map(|content| content.len() as u64).sum()
}

#[async_trait]
impl SnapshotStore for FakeStore {
    async fn create_volume(&self, name: &VolumeName, labels: &Labels) -> Result<Volume> {
        self.add_volume(&mut self.lock(), name, labels, None, Files::new())
    }

    async fn clone_snapshot(&self, snapshot: &SnapshotName, name: &VolumeName, labels: &Labels) -> Result<Volume> {
        let mut state = self.lock();
        let files = match state.snapshots.get(snapshot) {
            Some((_, files, true)) => files.clone(),
            _ => return Err(Error::not_found(Kind::Snapshot, snapshot)),
        };
        self.add_volume(&mut state, name, labels, Some(snapshot.clone()), files)
    }

    async fn snapshot(&self, volume: &VolumeName, name: &SnapshotName, labels: &Labels) -> Result<Snapshot> {
        let mut state = self.lock();
        let files = match state.volumes.get(volume) {
            Some((volume, files)) if volume.complete => files.clone(),
            _ => return Err(Error::not_found(Kind::Volume, volume)),
        };
        if state.snapshots.contains_key(name) {
            return Err(Error::already_exists(Kind::Snapshot, name));
        }
        self.check_room(&state, 1)?;
        let snapshot = Snapshot {
            name: name.clone(),
            labels: labels.clone(),
            path: PathBuf::from(ROOT).join("snapshots").join(name.as_str()),
            created: OffsetDateTime::now_utc(),
        };
        state.snapshots.insert(name.clone(), (snapshot.clone(), files, true));
        Ok(snapshot)
    }

    async fn volumes(&self, selector: &Selector) -> Result<Listing<Volume>> {
        let state = self.lock();
        let mut listing = Listing::default();
        for (name, (volume, _)) in &state.volumes {
            if state.unreadable.contains(name) {
                listing.unreadable.push(Unreadable::new(name.as_str(), &damaged()));
            } else if selector.matches(&volume.labels) && !state.overlooked.contains(name) {
                listing.found.push(volume.clone());
            }
        }
        Ok(listing)
    }

    async fn volume(&self, name: &VolumeName) -> Result<Option<Volume>> {
        let state = self.lock();
        if state.unreadable.contains(name) {
            return Err(damaged());
        }
        Ok(state.volumes.get(name).map(|(volume, _)| volume.clone()))
    }

    async fn snapshots(&self, selector: &Selector) -> Result<Listing<Snapshot>> {
        let state = self.lock();
        let complete = state.snapshots.values().filter(|(_, _, complete)| *complete).map(|(snapshot, ..)| snapshot);
        let chosen = complete.filter(|snapshot| selector.matches(&snapshot.labels));
        Ok(chosen.cloned().collect::<Vec<_>>().into())
    }

    async fn set_volume_labels(&self, name: &VolumeName, labels: &Labels) -> Result<()> {
        let mut state = self.lock();
        if state.unreadable.contains(name) {
            return Err(damaged());
        }
        let (volume, _) = state.volumes.get_mut(name).ok_or_else(|| Error::not_found(Kind::Volume, name))?;
        volume.labels = labels.clone();
        Ok(())
    }

    async fn epoch(&self) -> Result<String> {
        Ok(self.lock().epoch.to_string())
    }

    async fn sync(&self) -> Result<()> {
        self.lock().syncs += 1;
        Ok(())
    }

    async fn usage(&self) -> Result<Usage> {
        let state = self.lock();
        let used = state.used();
        let volumes = state.volumes.iter();
        let complete = state.snapshots.iter().filter(|(_, (_, _, complete))| *complete);
        Ok(Usage {
            method: "memory".into(),
            copy_on_write: true,
            total: self.capacity,
            used,
            free: if state.short { 0 } else { self.capacity.saturating_sub(used) },
            read_only: state.read_only,
            revivable: !state.stays_read_only,
            volumes: volumes.map(|(name, (v, files))| (name.clone(), Some(state.own_bytes(v, files)))).collect(),
            snapshots: complete.map(|(name, (_, files, _))| (name.clone(), Some(size(files)))).collect(),
            unreadable: state.unreadable.iter().map(|name| Unreadable::new(name.as_str(), &damaged())).collect(),
            ..Usage::default()
        })
    }

    async fn space(&self) -> Result<Usage> {
        Ok(Usage { volumes: BTreeMap::new(), snapshots: BTreeMap::new(), ..self.usage().await? })
    }

    async fn revive(&self) -> Result<()> {
        let mut state = self.lock();
        state.revived += usize::from(state.read_only);
        state.read_only = false;
        Ok(())
    }

    async fn delete_volume(&self, name: &VolumeName) -> Result<()> {
        let mut state = self.lock();
        state.volumes.remove(name);
        state.unreadable.remove(name);
        Ok(())
    }

    async fn delete_snapshot(&self, name: &SnapshotName) -> Result<()> {
        self.lock().snapshots.remove(name);
        Ok(())
    }
}
