//! What a file system can do.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};
use crate::listing::usable;

/// What `statfs` says of BTRFS.
const BTRFS_MAGIC: u64 = 0x9123_683e;

/// What a clone costs on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsKind {
    /// BTRFS: a clone is one system call.
    Btrfs,
    /// Files can share their blocks: a clone is a system call a file.
    Reflink,
    /// A clone is a copy.
    Other,
}

/// Tells what file system `path` is on, or would be on if it were made.
///
/// # Errors
/// [`Error::Backend`] if the file system does not answer.
pub fn kind_of(path: &Path) -> Result<FsKind> {
    let there = nearest(path);
    if is_btrfs(there)? {
        return Ok(FsKind::Btrfs);
    }
    Ok(if can_reflink(there) { FsKind::Reflink } else { FsKind::Other })
}

/// Returns the longest part of `path` that exists.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|p| !p.as_os_str().is_empty() && usable(p)).unwrap_or(Path::new("."))
}

pub(super) fn is_btrfs(path: &Path) -> Result<bool> {
    let stat = rustix::fs::statfs(path)
        .map_err(|e| Error::io("store", format!("asking for the file system of {}", path.display()), e.into()))?;
    // The type is signed on some platforms; the magic has 32 bits everywhere.
    #[expect(clippy::cast_sign_loss, reason = "only the lower 32 bits count")]
    let magic = stat.f_type as u64 & 0xffff_ffff;
    Ok(magic == BTRFS_MAGIC)
}

/// Tells whether two files in `dir` can share a block, by making two that never get a name.
pub(super) fn can_reflink(dir: &Path) -> bool {
    let nameless = || -> std::io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)?))
    };
    let try_it = || -> std::io::Result<()> {
        let (mut source, target) = (nameless()?, nameless()?);
        source.write_all(&[1; 4096])?;
        Ok(rustix::fs::ioctl_ficlone(&target, &source)?)
    };
    try_it().is_ok()
}

/// Tells whether the file system of `path` is known to be read-only.
pub(super) fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Returns how full the file system of `path` is: total, used and free bytes.
pub(super) fn space(path: &Path, backend: &'static str) -> Result<(u64, u64, u64)> {
    let stat = rustix::fs::statvfs(path)
        .map_err(|e| Error::io(backend, format!("asking how full {} is", path.display()), e.into()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok((bytes(stat.f_blocks), bytes(stat.f_blocks.saturating_sub(stat.f_bfree)), bytes(stat.f_bavail)))
}
