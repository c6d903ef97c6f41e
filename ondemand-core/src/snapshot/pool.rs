//! Loop-file pools: BTRFS in a sparse file, for those whose disk is not BTRFS.
//!
//! All of this needs root.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::probe;
use crate::error::{Error, Kind, Result};
use crate::listing::{usable_dir, usable_file, what_is_at};
use crate::notation::Size;
use crate::orchestrator::RunAs;
use crate::own;

mod grow;
mod mounts;
mod remount;
pub(super) mod requests;
mod system;

pub use grow::Grown;
pub use system::supported;

use mounts::Mounted;
pub(super) use remount::remount;
use system::{mount_image, program, run, unmount};

const BACKEND: &str = "pool";
/// Below this BTRFS has no room to work in.
const SMALLEST: Size = Size(256 << 20);
/// The file in a pool's root that says that this library made it.
const MARKER: &str = ".ondemand-pool";

/// Which pool to make.
#[derive(Debug, Clone)]
pub struct PoolSpec {
    /// Where it is mounted; absolute. A directory that is empty or does not exist.
    pub path: PathBuf,
    /// The file that holds it; the path with `.btrfs` appended where there is none.
    pub image: Option<PathBuf>,
    /// How large it may become. The file is sparse and grows with what is written.
    pub size: Size,
    /// Who owns its root; this process's user where there is none.
    pub owner: Option<RunAs>,
}

impl PoolSpec {
    /// Describes a pool of `size` at `path`, in the file beside it.
    pub fn new(path: impl Into<PathBuf>, size: Size) -> Self {
        Self { path: path.into(), image: None, size, owner: None }
    }
}

/// A pool that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Where it is mounted.
    pub path: PathBuf,
    /// The file that holds it.
    pub image: PathBuf,
    /// What people should know about it, such as what this kernel cannot do.
    pub notices: Vec<String>,
}

/// Returns the file of a pool at `path` that was given no other.
pub fn default_image(path: &Path) -> PathBuf {
    let mut image = path.as_os_str().to_owned();
    image.push(".btrfs");
    image.into()
}

/// Returns the file that says that there is a pool at `path`, wherever its data lies: it stays where the pool is lost or not mounted.
fn note(path: &Path) -> PathBuf {
    let mut note = path.as_os_str().to_owned();
    note.push(".made");
    note.into()
}

/// Notes that there is a pool at `path`.
///
/// # Errors
/// [`Error::Backend`] if that cannot be written.
pub(crate) fn remember(path: &Path) -> Result<()> {
    let note = note(path);
    if what_is_at(&note, BACKEND)?.is_some() {
        return Ok(());
    }
    let text = format!(
        "There is a pool at {}. `ondemand pool delete --path {}` removes it, and this file.\n",
        path.display(),
        path.display()
    );
    own::write(&note, text).map_err(|e| Error::io(BACKEND, format!("writing {}", note.display()), e))
}

/// Tells whether there was a pool at `path`, be it there or not.
///
/// # Errors
/// [`Error::Backend`] if that cannot be found out.
pub(crate) fn is_remembered(path: &Path) -> Result<bool> {
    Ok(what_is_at(&note(path), BACKEND)?.is_some())
}

fn forget(path: &Path) -> Result<()> {
    match own::remove_file(note(path)) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(Error::io(BACKEND, format!("removing {}", note(path).display()), e))
        }
        _ => Ok(()),
    }
}

/// Returns the size for a pool in a file in the directory `dir`: nine tenths of what is free there.
///
/// # Errors
/// [`Error::Backend`] if the file system does not answer.
pub fn default_size(dir: &Path) -> Result<Size> {
    let (_, _, free) = probe::space(dir, BACKEND)?;
    Ok(Size(free / 10 * 9))
}

/// Makes a pool and mounts it. If anything fails, all that was done before is undone.
///
/// # Errors
/// [`InvalidInput`](Error::InvalidInput) for a relative path or a size that is too small or larger than the disk;
/// [`AlreadyExists`](Error::AlreadyExists) if the image exists or the directory is not empty; [`Unsupported`](Error::Unsupported) as [`supported`].
///
/// # Cancel safety
/// Dropped, it goes on in the background until the pool is there or undone.
pub async fn create(spec: PoolSpec) -> Result<Pool> {
    blocking("making a pool", move || create_now(&spec)).await
}

/// Mounts a pool that exists. Succeeds if it is mounted there.
///
/// # Errors
/// [`NotFound`](Error::NotFound) if there is no such image; [`Conflict`](Error::Conflict) if something else is mounted there, or the image
/// elsewhere; [`Unsupported`](Error::Unsupported) as [`supported`].
///
/// # Cancel safety
/// Calling it again finishes what was begun.
pub async fn mount(image: impl Into<PathBuf>, path: impl Into<PathBuf>) -> Result<Pool> {
    let (image, path) = (image.into(), path.into());
    blocking("mounting a pool", move || mount_now(&image, &path)).await
}

/// Unmounts the pool at `path` and removes its directory and its file. Succeeds if there is none.
///
/// # Errors
/// [`Conflict`](Error::Conflict) if a file of it is in use, if it holds anything and `force` is not set, or if what is there was not made
/// by [`create`].
///
/// # Cancel safety
/// Calling it again finishes what was begun.
pub async fn delete(path: impl Into<PathBuf>, force: bool) -> Result<()> {
    let path = path.into();
    blocking("deleting a pool", move || delete_now(&path, force)).await
}

/// Makes the pool that is mounted at `path` larger, up to `size`, while it is used. Succeeds if it is that large.
///
/// The file stays sparse. With `overcommit`, it may become larger than the disk beneath has room for: a pool whose disk is full stops working.
///
/// # Errors
/// [`InvalidInput`](Error::InvalidInput) for a size below the one it has, as a pool does not shrink; [`Conflict`](Error::Conflict) if no pool is mounted there,
/// if what is there was not made by [`create`], or if the disk beneath has no room for it; [`Unsupported`](Error::Unsupported) as [`supported`].
///
/// # Cancel safety
/// Calling it again finishes what was begun.
pub async fn grow(path: impl Into<PathBuf>, size: Size, overcommit: bool) -> Result<Grown> {
    let path = path.into();
    blocking("enlarging a pool", move || grow::grow_now(&path, size, overcommit)).await
}

/// Tells whether a file system is mounted at exactly this path.
///
/// # Errors
/// [`Error::Backend`] if the kernel does not tell its mounts.
pub fn is_mounted(path: &Path) -> Result<bool> {
    Ok(mounts::at(path)?.is_some())
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::backend(BACKEND, operation, e))?
}

/// Undoes steps, the last one first, unless all of them succeeded.
#[derive(Default)]
struct Undo(Vec<Box<dyn FnOnce() -> Result<()>>>);

impl Undo {
    fn later(&mut self, step: impl FnOnce() -> Result<()> + 'static) {
        self.0.push(Box::new(step));
    }

    fn forget(mut self) {
        self.0.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        while let Some(step) = self.0.pop() {
            if let Err(error) = step() {
                tracing::warn!(error = error.to_string(), "could not undo a step of making a pool");
            }
        }
    }
}

fn create_now(spec: &PoolSpec) -> Result<Pool> {
    let image = spec.image.clone().unwrap_or_else(|| default_image(&spec.path));
    check_path(&spec.path)?;
    check_path(&image)?;
    let mut notices = Vec::new();
    check_size(spec.size, &image, &mut notices)?;
    supported()?;
    if mounts::at(&spec.path)?.is_some() {
        return Err(busy(&spec.path, "something is mounted there"));
    }

    let mut undo = Undo::default();
    make_mount_point(&spec.path, &mut undo)?;
    make_image(&image, spec.size, &mut undo)?;
    let mkfs = program("mkfs.btrfs").unwrap_or_else(|| "mkfs.btrfs".into());
    // One copy of the metadata: the file lies on one disk anyway, and half of it need not be written.
    run(&mkfs, &["-q", "-L", "ondemand", "-m", "single", "-d", "single", "--"], &[&image])?;
    mount_image(&image, &spec.path)?;
    let mounted = spec.path.clone();
    undo.later(move || unmount(&mounted));

    furnish(spec, &mut notices)?;
    undo.forget();
    Ok(Pool { path: spec.path.clone(), image, notices })
}

/// Prepares the root of a new pool.
fn furnish(spec: &PoolSpec, notices: &mut Vec<String>) -> Result<()> {
    let error = |operation: &str, e| Error::io(BACKEND, format!("{operation} {}", spec.path.display()), e);
    let root = own::open(&spec.path).map_err(|e| error("opening", e))?;
    if let Err(e) = btrfs_uapi::quota::quota_enable(root.as_fd(), true) {
        let notice = format!("this kernel has no simple quotas ({e}): the bytes of single volumes are not known");
        tracing::info!("{notice}");
        notices.push(notice);
    }
    own::write(spec.path.join(MARKER), "Made by ondemand; its pool may be deleted with `ondemand pool delete`.\n")
        .map_err(|e| error("writing to", e))?;
    if let Some(RunAs { uid, gid }) = spec.owner {
        own::chown(&spec.path, Some(uid), Some(gid)).map_err(|e| error("changing the owner of", e))?;
    }
    libbtrfsutil::sync(&spec.path).map_err(|e| error("writing", e.os_error()))
}

fn check_path(path: &Path) -> Result<()> {
    if !path.is_absolute() {
        return Err(Error::invalid("path", format!("{} is relative; give it from the root on", path.display())));
    }
    let plain = path.components().all(|c| !matches!(c, std::path::Component::ParentDir));
    // A mount table separates its fields by white space, and nobody needs it here.
    if !plain || path.to_str().is_none_or(|p| p.chars().any(|c| c.is_control() || c == '\\')) {
        return Err(Error::invalid(
            "path",
            format!("{:?} holds `..`, a backslash or a control character", path.display()),
        ));
    }
    if path.parent().is_none() {
        return Err(Error::invalid("path", "the root directory cannot be a pool"));
    }
    Ok(())
}

fn check_size(size: Size, image: &Path, notices: &mut Vec<String>) -> Result<()> {
    if size < SMALLEST {
        return Err(Error::invalid("size", format!("{size} is too small; BTRFS needs {SMALLEST}")));
    }
    let dir = image.parent().unwrap_or(image);
    if !usable_dir(dir) {
        return Err(Error::not_found(Kind::File, dir.display()));
    }
    let (total, _, free) = probe::space(dir, BACKEND)?;
    if size.0 > total {
        return Err(Error::invalid(
            "size",
            format!("{size} is more than the disk of {} has: {}", dir.display(), Size(total)),
        ));
    }
    if size.0 > free {
        notices.push(format!(
            "the pool may grow to {size}, and only {} are free in {}: a pool whose disk is full stops working",
            Size(free),
            dir.display()
        ));
    }
    Ok(())
}

fn make_mount_point(path: &Path, undo: &mut Undo) -> Result<()> {
    match own::read_dir(path) {
        Ok(mut entries) => {
            return if entries.next().is_none() {
                Ok(())
            } else {
                Err(Error::already_exists(Kind::File, path.display()))
            };
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) if e.kind() == ErrorKind::NotADirectory => {
            return Err(Error::already_exists(Kind::File, path.display()));
        }
        Err(e) => return Err(Error::io(BACKEND, format!("reading {}", path.display()), e)),
    }
    DirBuilder::new().mode(0o755).create(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::not_found(Kind::File, path.parent().unwrap_or(path).display()),
        _ => Error::io(BACKEND, format!("making {}", path.display()), e),
    })?;
    let path = path.to_owned();
    undo.later(move || own::remove_dir(&path).map_err(|e| Error::io(BACKEND, "removing the mount point", e)));
    Ok(())
}

fn make_image(image: &Path, size: Size, undo: &mut Undo) -> Result<()> {
    let file = match own::open_with(OpenOptions::new().write(true).create_new(true).mode(0o600), image) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::already_exists(Kind::File, image.display()));
        }
        Err(e) => return Err(Error::io(BACKEND, format!("making {}", image.display()), e)),
    };
    let path = image.to_owned();
    undo.later(move || own::remove_file(&path).map_err(|e| Error::io(BACKEND, "removing the image", e)));
    file.set_len(size.0).map_err(|e| Error::io(BACKEND, format!("sizing {}", image.display()), e))
}

fn mount_now(image: &Path, path: &Path) -> Result<Pool> {
    check_path(image)?;
    check_path(path)?;
    let image = fs::canonicalize(image).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::not_found(Kind::File, image.display()),
        _ => Error::io(BACKEND, format!("looking for {}", image.display()), e),
    })?;
    let pool = Pool { path: path.to_owned(), image: image.clone(), notices: Vec::new() };
    match mounts::at(path)? {
        Some(mounted) if mounted.is_image(&image) => return Ok(pool),
        Some(_) => return Err(busy(path, "something else is mounted there")),
        None => {}
    }
    if let Some(other) = mounts::of_image(&image)? {
        return Err(busy(&image, &format!("it is mounted at {}", other.path.display())));
    }
    supported()?;
    let mut undo = Undo::default();
    make_mount_point(path, &mut undo)?;
    mount_image(&image, path)?;
    undo.forget();
    Ok(pool)
}

fn delete_now(path: &Path, force: bool) -> Result<()> {
    check_path(path)?;
    let Some(mounted) = mounts::at(path)? else {
        let image = default_image(path);
        if what_is_at(&image, BACKEND)?.is_none() {
            // Nothing of a pool is left but perhaps the directory that it was mounted on.
            let is_gone = what_is_at(path, BACKEND)?.is_none()
                || own::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
            return if is_gone { forget(path) } else { Err(no_pool(path)) };
        }
        // Only its inside tells whether it is ours and empty.
        mount_now(&image, path)?;
        return delete_mounted(path, mounts::at(path)?, force);
    };
    delete_mounted(path, Some(mounted), force)
}

fn delete_mounted(path: &Path, mounted: Option<Mounted>, force: bool) -> Result<()> {
    let ours = usable_file(&path.join(MARKER));
    let Some(image) = mounted.and_then(|mounted| mounted.image).filter(|_| ours) else {
        return Err(no_pool(path));
    };
    if !force && let Some(found) = first_content(path)? {
        return Err(Error::Conflict {
            message: format!("the pool at {} is not empty: it holds {found}", path.display()),
            hint: "delete what it holds first, or force it".into(),
        });
    }
    unmount(path)?;
    own::remove_file(&image).map_err(|e| Error::io(BACKEND, format!("removing {}", image.display()), e))?;
    match own::remove_dir(path) {
        // What lay under the mount was there before the pool.
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
            Err(Error::io(BACKEND, format!("removing {}", path.display()), e))
        }
        _ => forget(path),
    }
}

/// Returns something a pool holds beside what belongs to an empty one.
fn first_content(path: &Path) -> Result<Option<String>> {
    let error = |e| Error::io(BACKEND, format!("reading {}", path.display()), e);
    for entry in own::read_dir(path).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        if name == MARKER {
            continue;
        }
        if name != "volumes" && name != "snapshots" {
            return Ok(Some(name.display().to_string()));
        }
        if let Some(inner) = own::read_dir(path.join(&name)).map_err(error)?.next() {
            let inner = inner.map_err(error)?.file_name();
            return Ok(Some(format!("{}/{}", name.display(), inner.display())));
        }
    }
    Ok(None)
}

fn no_pool(path: &Path) -> Error {
    Error::Conflict {
        message: format!("{} is not a pool that was made here", path.display()),
        hint: "name the path that `ondemand pool create` was given".into(),
    }
}

fn busy(path: &Path, why: &str) -> Error {
    Error::Conflict {
        message: format!("{} is in use: {why}", path.display()),
        hint: "name another path, or unmount what is there".into(),
    }
}
