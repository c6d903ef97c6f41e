//! Volumes as BTRFS subvolumes: a clone is one system call, whatever its size.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use libbtrfsutil::{CreateSnapshotOptions, DeleteSubvolumeOptions};

use super::delegate::store_over_directories;
use super::directories::{Cancel, Directories, Medium, prepare};
use super::pool::requests::Watch;
use super::{Beneath, Snapshot, Usage, Volume, boot, probe};
use crate::error::{Error, Kind, Result};
use crate::label::{Labels, Selector};
use crate::listing::{Listing, usable_dir, usable_file};
use crate::name::{SnapshotName, VolumeName};
use crate::own;

const BACKEND: &str = "btrfs";
/// The inode number of every subvolume's root.
const SUBVOLUME_INODE: u64 = 256;

/// Keeps volumes and snapshots as BTRFS subvolumes.
///
/// Each volume's own bytes are known where simple quotas are enabled, as they are in a pool made by [`pool::create`](super::pool::create).
/// An ordinary user may use one in a directory of theirs; deleting is quick for them where the file system is mounted
/// with `user_subvol_rm_allowed`, and file by file where it is not.
///
/// Subvolumes that somebody makes inside a volume are not part of its snapshots (BTRFS leaves an empty directory
/// there), and are deleted with it.
pub struct Btrfs {
    directories: Directories,
    /// Where the store lies in a pool's file.
    _watch: Option<Watch>,
}

impl Btrfs {
    /// Opens the store at `path`, a directory on BTRFS, and makes it if need be. What a dead process left of snapshots is
    /// deleted, so one process at a time may have a store open.
    ///
    /// # Errors
    /// [`Unsupported`](Error::Unsupported) if the path is not on BTRFS; [`Conflict`](Error::Conflict) if another process has the store open.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let opened = tokio::task::spawn_blocking(move || {
            let root = prepare(&path, BACKEND)?;
            let medium = Subvolumes::at(&root)?;
            Ok::<_, Error>((Directories::open(root, Box::new(medium.clone()))?, medium))
        });
        let (directories, medium) = opened.await.map_err(|e| Error::backend(BACKEND, "opening a store", e))??;
        let watch = medium.loop_device().map(|_| Watch::start(move || medium.loop_device(), beneath));
        Ok(Self { directories, _watch: watch })
    }

    /// Returns how full the store at `path` is, and changes nothing: another process may have it open.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) if there is no such directory; [`Unsupported`](Error::Unsupported) if it is not on BTRFS.
    pub async fn inspect(path: impl Into<PathBuf>) -> Result<Usage> {
        let path = path.into();
        let inspected = tokio::task::spawn_blocking(move || {
            let root = fs::canonicalize(&path).map_err(|_| Error::not_found(Kind::File, path.display()))?;
            let medium = Subvolumes::at(&root)?;
            Directories::inspect(root, Box::new(medium))
        });
        inspected.await.map_err(|e| Error::backend(BACKEND, "inspecting a store", e))?
    }
}

store_over_directories!(Btrfs);

impl std::fmt::Debug for Btrfs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Btrfs").field("directories", &self.directories).finish_non_exhaustive()
    }
}

/// One file system's subvolumes.
#[derive(Debug, Clone)]
struct Subvolumes {
    /// Where the kernel tells about the file system.
    sysfs: PathBuf,
}

impl Subvolumes {
    fn at(root: &Path) -> Result<Self> {
        // The library that makes subvolumes panics on a NUL. No path that the system resolved has one; a name of ours neither.
        if root.as_os_str().as_bytes().contains(&0) {
            return Err(Error::invalid("path", "it holds a NUL character"));
        }
        if !probe::is_btrfs(root)? {
            return Err(Error::Unsupported {
                message: format!("{} is not on BTRFS", root.display()),
                hint: "make a pool with `ondemand pool create`, or use the store `copy`".into(),
            });
        }
        let info = own::open(root)
            .and_then(|dir| Ok(btrfs_uapi::filesystem::filesystem_info(dir.as_fd())?))
            .map_err(|e| Error::io(BACKEND, format!("asking for the file system of {}", root.display()), e))?;
        Ok(Self { sysfs: Path::new("/sys/fs/btrfs").join(info.uuid.to_string()) })
    }
}

impl Medium for Subvolumes {
    fn backend(&self) -> &'static str {
        BACKEND
    }

    fn make(&self, target: &Path) -> Result<()> {
        libbtrfsutil::create_subvolume(target).map_err(|e| error("making a subvolume", target, &e))?;
        own::set_permissions(target, Permissions::from_mode(0o700))
            .map_err(|e| Error::io(BACKEND, format!("setting the mode of {}", target.display()), e))
    }

    fn thaw(&self, source: &Path, target: &Path, _cancel: &Cancel) -> Result<()> {
        CreateSnapshotOptions::new().create(source, target).map_err(|e| error("cloning to", target, &e))
    }

    fn freeze(&self, source: &Path, target: &Path, _cancel: &Cancel) -> Result<()> {
        libbtrfsutil::sync(source).map_err(|e| error("writing to disk", source, &e))?;
        CreateSnapshotOptions::new().readonly(true).create(source, target).map_err(|e| error("making", target, &e))
    }

    fn remove(&self, target: &Path) -> Result<()> {
        if is_missing(target) {
            return Ok(());
        }
        let number = self.number(target);
        delete(target)?;
        free_at_once(target, number);
        Ok(())
    }

    fn sync(&self, root: &Path) -> Result<()> {
        libbtrfsutil::sync(root).map_err(|e| error("writing to disk", root, &e))
    }

    fn epoch(&self) -> Result<String> {
        // The kernel makes it anew with each mount, under a number that it gives once.
        let made = fs::metadata(&self.sysfs)
            .map_err(|e| Error::io(BACKEND, format!("looking at {}", self.sysfs.display()), e))?;
        Ok(format!("{}/{}", boot(BACKEND)?, made.ino()))
    }

    fn usage(&self, root: &Path) -> Result<Usage> {
        let (total, used, free) = probe::space(root, BACKEND)?;
        let beneath = self.loop_device().and_then(|block| beneath(&block));
        Ok(Usage {
            method: "BTRFS snapshots".into(),
            copy_on_write: true,
            total,
            used,
            // What programs have written, and BTRFS has not yet.
            free: free.saturating_sub(self.promised()),
            unallocated: self.unallocated(),
            metadata_free: self.metadata_free(),
            revivable: beneath.is_some() && rustix::process::geteuid().is_root(),
            beneath,
            read_only: probe::is_read_only(root),
            ..Usage::default()
        })
    }

    fn remount(&self, root: &Path) -> Result<()> {
        super::pool::remount(root)
    }

    fn is_mounted(&self, root: &Path) -> bool {
        // Below the mount point, no other BTRFS counts.
        Self::at(root).is_ok_and(|now| now.sysfs == self.sysfs)
    }

    fn own_bytes(&self, path: &Path) -> Option<u64> {
        self.bytes_of(self.number(path)?)
    }

    fn number(&self, path: &Path) -> Option<u64> {
        libbtrfsutil::subvolume_id(path).ok()
    }

    fn bytes_of(&self, number: u64) -> Option<u64> {
        read_number(&self.sysfs.join(format!("qgroups/0_{number}/exclusive")))
    }
}

impl Subvolumes {
    /// Returns how many bytes of data have no place on the disk yet.
    fn promised(&self) -> u64 {
        read_number(&self.sysfs.join("allocation/data/bytes_may_use")).unwrap_or_default()
    }

    /// Returns what is free of the metadata that is allocated, without what BTRFS keeps back for itself.
    fn metadata_free(&self) -> Option<u64> {
        let allocation = self.sysfs.join("allocation");
        let metadata = |file: &str| read_number(&allocation.join("metadata").join(file));
        let taken = metadata("bytes_used")?.saturating_add(read_number(&allocation.join("global_rsv_size"))?);
        Some(metadata("total_bytes")?.saturating_sub(taken))
    }

    /// Returns the directory below `/sys` of the loop device that the file system lies on, if that is all it lies on.
    fn loop_device(&self) -> Option<PathBuf> {
        let devices: Vec<_> = own::read_dir(self.sysfs.join("devices"))
            .ok()?
            .map(|device| Some(device.ok()?.path()))
            .collect::<Option<_>>()?;
        let [device] = <[_; 1]>::try_from(devices).ok()?;
        usable_dir(&device.join("loop")).then_some(device)
    }

    /// Returns what is assigned to neither data nor metadata.
    fn unallocated(&self) -> Option<u64> {
        let sum = |dir: &str, file: &str| -> Option<u64> {
            let entries = own::read_dir(self.sysfs.join(dir)).ok()?;
            let numbers = entries.filter_map(|entry| Some(entry.ok()?.path().join(file)));
            Some(numbers.filter(|file| usable_file(file)).filter_map(|file| read_number(&file)).sum())
        };
        // Devices are counted in sectors of 512 bytes, whatever their real ones are.
        Some((sum("devices", "size")? * 512).saturating_sub(sum("allocation", "disk_total")?))
    }
}

/// Returns the disk that holds the file of a loop device.
fn beneath(block: &Path) -> Option<Beneath> {
    let file = own::read(block.join("loop/backing_file")).ok()?;
    let image = Path::new(OsStr::from_bytes(file.trim_ascii_end()));
    let metadata = fs::symlink_metadata(image).ok().filter(fs::Metadata::is_file)?;
    let path = image.parent()?.to_owned();
    let (total, _, free) = probe::space(&path, BACKEND).ok()?;
    let growth = metadata.len().saturating_sub(metadata.blocks().saturating_mul(512));
    Some(Beneath { path, total, free, growth })
}

/// Deletes a subvolume, or whatever is in its place.
fn delete(target: &Path) -> Result<()> {
    let first = match libbtrfsutil::delete_subvolume(target) {
        Ok(()) => return Ok(()),
        Err(_) if is_missing(target) => return Ok(()),
        Err(e) => e,
    };
    tracing::debug!(path = %target.display(), error = %first, cause = %first.os_error(), "deleting more thoroughly");
    // It holds subvolumes of its own…
    let second = match DeleteSubvolumeOptions::new().recursive(true).delete(target) {
        Ok(()) => return Ok(()),
        Err(_) if is_missing(target) => return Ok(()),
        Err(e) => e,
    };
    // … which the volume's owner may swap for something else at any moment: root must not walk there by path. What
    // failed is tried again by whoever asks again.
    if rustix::process::geteuid().is_root() {
        return Err(error("deleting", target, &second));
    }
    // … or this user may not delete it as a subvolume, but may empty it.
    empty_and_remove(target).map_err(|e| Error::io(BACKEND, format!("deleting {}", target.display()), e))
}

/// Waits, where little room is left, until what was deleted is room again: the file system by itself takes up to half a minute for that, and whoever
/// deletes in a full pool does it for the room.
fn free_at_once(deleted: &Path, number: Option<u64>) {
    let Some(parent) = deleted.parent() else { return };
    if probe::space(parent, BACKEND).is_ok_and(|(total, _, free)| free > total / 8) {
        return;
    }
    // What is deleted is told once that is on disk; and what it held is free once that is. Kernels before 6.13 do not tell.
    let waited = own::open(parent).and_then(|directory| {
        btrfs_uapi::filesystem::sync(directory.as_fd())?;
        if let Some(number) = number {
            btrfs_uapi::subvolume::subvol_sync_wait_one(directory.as_fd(), number)?;
        }
        Ok(btrfs_uapi::filesystem::sync(directory.as_fd())?)
    });
    if let Err(error) = waited {
        tracing::debug!(path = %deleted.display(), %error, "it takes a while until what was deleted is room again");
    }
}

fn read_number(path: &Path) -> Option<u64> {
    own::read_to_string(path).ok()?.trim().parse().ok()
}

fn is_missing(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound)
}

/// Removes a tree of directories and subvolumes, whatever it takes of what this user may do.
fn empty_and_remove(path: &Path) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    if !metadata.is_dir() {
        return own::remove_file(path);
    }
    let is_subvolume = metadata.ino() == SUBVOLUME_INODE && libbtrfsutil::is_subvolume(path).unwrap_or(false);
    if is_subvolume && libbtrfsutil::subvolume_read_only(path).unwrap_or(false) {
        libbtrfsutil::set_subvolume_read_only(path, false).map_err(|e| e.os_error())?;
    }
    if is_subvolume && libbtrfsutil::delete_subvolume(path).is_ok() {
        return Ok(());
    }
    let owner_all = 0o700;
    if metadata.permissions().mode() & owner_all != owner_all {
        own::set_permissions(path, Permissions::from_mode(owner_all))?;
    }
    for entry in own::read_dir(path)? {
        empty_and_remove(&entry?.path())?;
    }
    own::remove_dir(path)
}

/// Translates an error of the library, whose text says what failed and whose number says why.
fn error(operation: &str, path: &Path, source: &libbtrfsutil::Error) -> Error {
    let cause = source.os_error();
    match cause.kind() {
        ErrorKind::AlreadyExists => {
            Error::already_exists(Kind::Volume, path.file_name().unwrap_or(OsStr::new("")).display())
        }
        _ => Error::io(BACKEND, format!("{operation} {}", path.display()), cause),
    }
}
