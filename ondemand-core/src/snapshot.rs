//! What keeps data: snapshots that never change, and volumes cloned from them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;

use async_trait::async_trait;
use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::label::{Labels, Selector};
use crate::listing::{Listing, Unreadable};
use crate::name::{SnapshotName, VolumeName};

#[cfg(feature = "btrfs")]
mod btrfs;
mod claim;
mod copy;
mod delegate;
mod directories;
#[cfg(feature = "btrfs")]
pub mod pool;
mod probe;
mod record;
pub(crate) mod room;

#[cfg(feature = "btrfs")]
pub use btrfs::Btrfs;
pub use copy::{Copy, CopyMethod};
pub use probe::{FsKind, kind_of};
pub use room::Beneath;

/// Keeps immutable snapshots and writable volumes.
///
/// # Contract
/// - Names are unique among volumes, and among snapshots; a second thing of a name is
///   [`AlreadyExists`](crate::Error::AlreadyExists), and the first stays as it is.
/// - A clone holds what the snapshot holds, with owners, modes, times and symbolic links; writing to it changes neither the snapshot nor
///   another clone. A volume lives on when its snapshot is deleted.
/// - A snapshot is complete or absent: a process killed while making one leaves none. A volume that was being made is
///   listed with `complete: false`, so that it can be deleted by the labels it was given.
/// - Deleting is idempotent, and what was deleted is not listed again by this process or a later one.
/// - What the store did not make is neither listed nor deleted.
/// - What is there and cannot be read is told as such by every listing, and is an error for who asks for it by its name. Only what is known not to be there
///   is missing. What is there all the time a listing takes is in it, whatever is done to it meanwhile.
#[async_trait]
pub trait SnapshotStore: Debug + Send + Sync + 'static {
    /// Makes an empty volume.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::Error::AlreadyExists), [`OutOfSpace`](crate::Error::OutOfSpace).
    ///
    /// # Cancel safety
    /// Dropped, it may leave an incomplete volume with these labels.
    async fn create_volume(&self, name: &VolumeName, labels: &Labels) -> Result<Volume>;

    /// Makes a volume that holds what a snapshot holds.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) for the snapshot, [`AlreadyExists`](crate::Error::AlreadyExists) for the volume,
    /// [`OutOfSpace`](crate::Error::OutOfSpace).
    ///
    /// # Cancel safety
    /// Dropped, it may leave a volume, complete or not, with these labels.
    async fn clone_snapshot(&self, snapshot: &SnapshotName, name: &VolumeName, labels: &Labels) -> Result<Volume>;

    /// Makes a snapshot of what a volume holds now. When it returns, the snapshot survives a power cut.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) for the volume, [`AlreadyExists`](crate::Error::AlreadyExists) for the snapshot,
    /// [`OutOfSpace`](crate::Error::OutOfSpace).
    ///
    /// # Cancel safety
    /// Dropped, the snapshot is there or it is not; never a part of it.
    async fn snapshot(&self, volume: &VolumeName, name: &SnapshotName, labels: &Labels) -> Result<Snapshot>;

    /// Returns the volumes that `selector` chooses, in the order of their names.
    ///
    /// # Errors
    /// [`Backend`](crate::Error::Backend) if it cannot be found out which there are.
    async fn volumes(&self, selector: &Selector) -> Result<Listing<Volume>>;

    /// Returns a volume; `None` if there is none of that name.
    ///
    /// # Errors
    /// [`Backend`](crate::Error::Backend) if that cannot be found out.
    async fn volume(&self, name: &VolumeName) -> Result<Option<Volume>>;

    /// Returns the snapshots that `selector` chooses, in the order of their names.
    ///
    /// # Errors
    /// [`Backend`](crate::Error::Backend) if it cannot be found out which there are.
    async fn snapshots(&self, selector: &Selector) -> Result<Listing<Snapshot>>;

    /// Replaces a volume's labels. When it returns, a power cut takes neither the labels nor the volume; it may take what was written to it since
    /// [`SnapshotStore::sync`].
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound), [`OutOfSpace`](crate::Error::OutOfSpace).
    ///
    /// # Cancel safety
    /// Either all labels are the new ones, or none.
    async fn set_volume_labels(&self, name: &VolumeName, labels: &Labels) -> Result<()>;

    /// As [`SnapshotStore::set_volume_labels`], but sooner: a power cut right afterwards may bring the labels before them back, though not those before
    /// the last that were set to last.
    ///
    /// # Errors
    /// As [`SnapshotStore::set_volume_labels`].
    ///
    /// # Cancel safety
    /// As [`SnapshotStore::set_volume_labels`].
    async fn set_volume_labels_soon(&self, name: &VolumeName, labels: &Labels) -> Result<()> {
        self.set_volume_labels(name, labels).await
    }

    /// Returns what is another whenever something may have been lost that was not on disk yet: after a boot, and after the store was mounted again. As
    /// long as it is the same, all that was acknowledged is there.
    ///
    /// # Errors
    /// [`Unsupported`](crate::Error::Unsupported) where that cannot be told.
    async fn epoch(&self) -> Result<String> {
        Err(unknown_epoch())
    }

    /// Returns when all that was acknowledged so far survives a power cut.
    async fn sync(&self) -> Result<()>;

    /// Returns how full the store is.
    async fn usage(&self) -> Result<Usage>;

    /// As [`SnapshotStore::usage`], without volumes and snapshots: quick, however many there are.
    async fn space(&self) -> Result<Usage>;

    /// Makes a store that went read-only writable again. Nothing may use it. Succeeds if it is writable.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) while something uses it; [`Unsupported`](crate::Error::Unsupported) where it takes more than this process can do.
    ///
    /// # Cancel safety
    /// Calling it again finishes what was begun.
    async fn revive(&self) -> Result<()>;

    /// Deletes a volume. Succeeds if there is none.
    ///
    /// # Cancel safety
    /// Calling it again finishes what was begun.
    async fn delete_volume(&self, name: &VolumeName) -> Result<()>;

    /// Deletes a snapshot. Succeeds if there is none. Volumes cloned from it live on.
    ///
    /// # Cancel safety
    /// Calling it again finishes what was begun.
    async fn delete_snapshot(&self, name: &SnapshotName) -> Result<()>;
}

/// A writable directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// Its labels now.
    pub labels: Labels,
    /// Where it is.
    pub path: PathBuf,
    /// The snapshot it was cloned from.
    pub snapshot: Option<SnapshotName>,
    /// When it was made.
    pub created: OffsetDateTime,
    /// Whether making it was finished.
    pub complete: bool,
}

/// A directory that does not change.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Its name.
    pub name: SnapshotName,
    /// Its labels.
    pub labels: Labels,
    /// Where it is.
    pub path: PathBuf,
    /// When it was made.
    pub created: OffsetDateTime,
}

/// How full a store is, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// What clones cost here, for people: `BTRFS snapshots`, `reflinks`, `plain copies`.
    pub method: String,
    /// Whether a clone shares its bytes with the snapshot until they are written.
    pub copy_on_write: bool,
    /// All there is.
    pub total: u64,
    /// What is taken.
    pub used: u64,
    /// What can still be written.
    pub free: u64,
    /// What is assigned to neither data nor metadata. BTRFS is full when this and the metadata are, however much data is free.
    pub unallocated: Option<u64>,
    /// What can still be written of metadata before more of it is allocated. Missing where the file system does not tell.
    #[serde(default)]
    pub metadata_free: Option<u64>,
    /// The disk that holds the file of the pool. Missing where there is no such file, or it cannot be looked at.
    #[serde(default)]
    pub beneath: Option<Beneath>,
    /// Whether nothing can be written.
    #[serde(default)]
    pub read_only: bool,
    /// Whether [`SnapshotStore::revive`] can change that.
    #[serde(default)]
    pub revivable: bool,
    /// Each volume's own bytes: what it does not share with a snapshot. Missing where the file system does not count them.
    pub volumes: BTreeMap<VolumeName, Option<u64>>,
    /// Each snapshot's own bytes.
    pub snapshots: BTreeMap<SnapshotName, Option<u64>>,
    /// The volumes and snapshots that are there and cannot be read.
    #[serde(default)]
    pub unreadable: Vec<Unreadable>,
}

/// Returns what is another after each boot.
fn boot(backend: &'static str) -> Result<String> {
    crate::proc::boot_id().map_err(|e| Error::io(backend, "reading the boot id", e))
}

/// Says that a store has no epoch.
fn unknown_epoch() -> Error {
    Error::Unsupported {
        message: "this store does not tell whether something was lost".into(),
        hint: "set labels so that they survive a power cut".into(),
    }
}
