//! Volumes as plain directories: a clone shares its blocks where the file system can, and is a full copy where it cannot.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::delegate::store_over_directories;
use super::directories::{Cancel, Directories, Medium, prepare};
use super::{Snapshot, Usage, Volume, probe};
use crate::error::{Error, Kind, Result};
use crate::label::{Labels, Selector};
use crate::listing::Listing;
use crate::name::{SnapshotName, VolumeName};
use crate::own;
use crate::tree::Tree;

mod tree;

const BACKEND: &str = "copy";

/// Keeps volumes and snapshots as directories on any file system.
///
/// Copies keep contents, holes, modes, times, symbolic links and, if this process is root, owners. Hard links become
/// files of their own; extended attributes are not kept; sockets, pipes and devices are left out.
///
/// A plain directory cannot be made read-only against its owner, let alone root, and its modes are part of what a clone must
/// keep: so nothing but its use keeps a snapshot from being written to.
#[derive(Debug)]
pub struct Copy {
    directories: Directories,
    method: CopyMethod,
}

/// How a [`Copy`](struct@Copy) store clones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMethod {
    /// Files share their blocks until they are written.
    Reflink,
    /// Every byte is copied.
    Copy,
}

impl Copy {
    /// Opens the store at `path`, a directory, and makes it if need be. What a dead process left of snapshots is deleted, so one
    /// process at a time may have a store open.
    ///
    /// # Errors
    /// [`Error::Backend`] if the directory cannot be made or read; [`Error::Conflict`] if another process has the store open.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let opened = tokio::task::spawn_blocking(move || {
            let root = prepare(&path, BACKEND)?;
            let method = if probe::can_reflink(&root) { CopyMethod::Reflink } else { CopyMethod::Copy };
            Ok((Directories::open(root, Box::new(Trees { method }))?, method))
        });
        let (directories, method) = opened.await.map_err(|e| Error::backend(BACKEND, "opening a store", e))??;
        Ok(Self { directories, method })
    }

    /// Returns how it clones.
    pub fn method(&self) -> CopyMethod {
        self.method
    }
}

store_over_directories!(Copy);

/// Directory trees.
#[derive(Debug)]
struct Trees {
    method: CopyMethod,
}

impl Trees {
    fn copy(&self, source: &Path, target: &Path, cancel: &Cancel) -> Result<()> {
        match tree::copy(source, target, self.method, cancel) {
            Ok(()) => Ok(()),
            Err(tree::Failure::Cancelled) => Err(Error::Cancelled),
            Err(tree::Failure::Taken) => {
                let name = target.file_name().unwrap_or_default();
                Err(Error::already_exists(Kind::Volume, name.display()))
            }
            Err(tree::Failure::Io { path, source }) => {
                Err(Error::io(BACKEND, format!("copying {}", path.display()), source))
            }
        }
    }
}

impl Medium for Trees {
    fn backend(&self) -> &'static str {
        BACKEND
    }

    fn make(&self, target: &Path) -> Result<()> {
        match DirBuilder::new().mode(0o700).create(target) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                Err(Error::already_exists(Kind::Volume, target.file_name().unwrap_or_default().display()))
            }
            made => made.map_err(|e| Error::io(BACKEND, format!("making {}", target.display()), e)),
        }
    }

    fn thaw(&self, source: &Path, target: &Path, cancel: &Cancel) -> Result<()> {
        self.copy(source, target, cancel)
    }

    fn freeze(&self, source: &Path, target: &Path, cancel: &Cancel) -> Result<()> {
        let partial = partial(target);
        self.copy(source, &partial, cancel)?;
        // Everything is on disk before it gets its name.
        self.sync(&partial)?;
        own::rename(&partial, target).map_err(|e| Error::io(BACKEND, format!("naming {}", target.display()), e))
    }

    fn remove(&self, target: &Path) -> Result<()> {
        for path in [target, &partial(target)] {
            tree::remove(path).map_err(|e| Error::io(BACKEND, format!("deleting {}", path.display()), e))?;
        }
        Ok(())
    }

    fn sync(&self, root: &Path) -> Result<()> {
        own::open(root)
            .and_then(|dir| Ok(rustix::fs::syncfs(&dir)?))
            .map_err(|e| Error::io(BACKEND, format!("writing {} to disk", root.display()), e))
    }

    fn usage(&self, root: &Path) -> Result<Usage> {
        let (total, used, free) = probe::space(root, BACKEND)?;
        let (method, copy_on_write) = match self.method {
            CopyMethod::Reflink => ("reflinks", true),
            CopyMethod::Copy => ("plain copies", false),
        };
        Ok(Usage {
            method: method.into(),
            copy_on_write,
            total,
            used,
            free,
            read_only: probe::is_read_only(root),
            ..Usage::default()
        })
    }

    fn own_bytes(&self, path: &Path) -> Option<u64> {
        match self.method {
            // The file system does not tell what is shared.
            CopyMethod::Reflink => None,
            CopyMethod::Copy => bytes_on_disk(path).ok(),
        }
    }
}

/// Returns the name under which a snapshot is copied. It starts with a dot, as no snapshot's name does.
fn partial(target: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".partial");
    target.with_file_name(name)
}

/// Returns what a directory takes. Files of a running database come and go, and are its user's to swap.
fn bytes_on_disk(path: &Path) -> std::io::Result<u64> {
    // Blocks are counted in 512 bytes, whatever the file system's own are.
    let bytes = |stat: &rustix::fs::Stat| u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
    let tree = match Tree::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        tree => tree?,
    };
    let mut all = bytes(&tree.own_stat()?);
    tree.walk(|_, stat| {
        all += bytes(stat);
        Ok(())
    })?;
    Ok(all)
}
