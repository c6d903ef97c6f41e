//! Making a pool larger while it is mounted.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use btrfs_uapi::filesystem::{ResizeAmount, ResizeArgs};
use rustix::fs::OFlags;

use super::mounts::Mounted;
use super::{BACKEND, MARKER, check_path, mounts, no_pool, supported, system};
use crate::error::{Error, Kind, Result};
use crate::listing::usable_file;
use crate::notation::Size;
use crate::own;
use crate::snapshot::probe;

/// A pool that was made larger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grown {
    /// Where it is mounted.
    pub path: PathBuf,
    /// The file that holds it.
    pub image: PathBuf,
    /// How large its file system was.
    pub before: Size,
    /// How large it is now.
    pub after: Size,
    /// What people should know about it.
    pub notices: Vec<String>,
}

/// The steps are the file, the loop device, the file system. Each can be repeated, and after each the pool is whole: a file system may be smaller than what it
/// lies on. So a call that was killed is finished by the next one.
pub(super) fn grow_now(path: &Path, size: Size, overcommit: bool) -> Result<Grown> {
    check_path(path)?;
    let (mounted, device, image) = pool_at(path)?;
    supported()?;
    let root = own::open(&mounted.path).map_err(|e| failed("opening", &mounted.path, e))?;
    let (file, _) = open_backing(&image, &device)?;
    let metadata = file.metadata().map_err(|e| failed("looking at", &image, e))?;
    let before = Size(file_system(&root, &mounted.path)?);
    if size.0 < metadata.len() {
        let has = Size(metadata.len());
        return Err(Error::invalid("size", format!("{size} is less than the pool at {} has: {has}", path.display())));
    }
    let mut notices = Vec::new();
    if size.0 > metadata.len() {
        check_room(size, &metadata, &image, overcommit, &mut notices)?;
        file.set_len(size.0).map_err(|e| failed("enlarging", &image, e))?;
    }
    // The file system's new size may reach the disk before that of its file does, and then could not be mounted any more.
    file.sync_all().map_err(|e| failed("writing to disk", &image, e))?;
    system::resize_loop(&device)?;
    btrfs_uapi::filesystem::resize(root.as_fd(), ResizeArgs::new(ResizeAmount::Max))
        .map_err(|e| failed("enlarging the file system at", &mounted.path, e.into()))?;
    libbtrfsutil::sync(&mounted.path).map_err(|e| failed("writing", &mounted.path, e.os_error()))?;
    let after = Size(file_system(&root, &mounted.path)?);
    Ok(Grown { path: mounted.path, image, before, after, notices })
}

/// Returns the pool that is mounted at `path`, its loop device and its file.
pub(super) fn pool_at(path: &Path) -> Result<(Mounted, PathBuf, PathBuf)> {
    let Some(mounted) = mounts::at(path)? else {
        return Err(Error::Conflict {
            message: format!("no pool is mounted at {}", path.display()),
            hint: "start the server, which mounts its pool; or name the path that `ondemand pool create` was given"
                .into(),
        });
    };
    let ours = usable_file(&mounted.path.join(MARKER));
    match (mounted.device.clone(), mounted.image.clone()) {
        (Some(device), Some(image)) if ours => Ok((mounted, device, image)),
        _ => Err(no_pool(path)),
    }
}

/// Opens the file behind a loop device. Its directory may belong to somebody else, who could put another file in its place: what is opened is compared with
/// what the kernel has open. Returns its inode and device, too.
pub(super) fn open_backing(image: &Path, device: &Path) -> Result<(File, String)> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file =
        own::open_with(OpenOptions::new().write(true).custom_flags(flags), image).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::not_found(Kind::File, image.display()),
            _ => failed("opening", image, e),
        })?;
    let metadata = file.metadata().map_err(|e| failed("looking at", image, e))?;
    let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let opened = format!("{} {major}:{minor}", metadata.ino());
    let held = system::backing_of(device)?;
    if !metadata.is_file() || opened != held {
        return Err(replaced(image, device));
    }
    Ok((file, held))
}

/// Makes the error for a file that is not the pool's.
pub(super) fn replaced(image: &Path, device: &Path) -> Error {
    Error::Conflict {
        message: format!("{} is not the file that {} keeps the pool in", image.display(), device.display()),
        hint: "put the pool's file back to where it was".into(),
    }
}

/// Refuses a size that the disk has no room for.
fn check_room(
    size: Size,
    metadata: &std::fs::Metadata,
    image: &Path,
    overcommit: bool,
    notices: &mut Vec<String>,
) -> Result<()> {
    let dir = image.parent().unwrap_or(image);
    let (_, _, free) = probe::space(dir, BACKEND)?;
    // What is not written yet is not taken yet.
    let missing = size.0.saturating_sub(metadata.blocks().saturating_mul(512));
    if missing <= free {
        return Ok(());
    }
    let message = format!(
        "a pool of {size} may take {} more than now, and only {} are free in {}",
        Size(missing),
        Size(free),
        dir.display()
    );
    if overcommit {
        notices.push(format!("{message}: a pool whose disk is full stops working"));
        return Ok(());
    }
    Err(Error::Conflict {
        message,
        hint: "free space there, choose a smaller size, or pass --overcommit and watch the disk".into(),
    })
}

/// Returns the size of the file system.
fn file_system(root: &File, path: &Path) -> Result<u64> {
    let sizes = || -> std::io::Result<Vec<u64>> {
        let info = btrfs_uapi::filesystem::filesystem_info(root.as_fd())?;
        let devices = btrfs_uapi::device::device_info_all(root.as_fd(), &info)?;
        Ok(devices.iter().map(|device| device.total_bytes).collect())
    };
    match sizes().map_err(|e| failed("asking for the size of", path, e))?[..] {
        [one] => Ok(one),
        ref several => Err(Error::Conflict {
            message: format!("the pool at {} lies on {} devices", path.display(), several.len()),
            hint: "enlarge it with `btrfs filesystem resize`".into(),
        }),
    }
}

fn failed(operation: &str, path: &Path, error: std::io::Error) -> Error {
    Error::io(BACKEND, format!("{operation} {}", path.display()), error)
}
