//! Copying and removing directory trees, on a few threads.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, SeekFrom, Timespec, Timestamps};
use rustix::io::Errno;

use super::CopyMethod;
use crate::snapshot::directories::Cancel;

/// How much is copied before it is asked again whether anybody waits for it.
const CHUNK: usize = 16 << 20;

/// Why a tree was not copied.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nobody waits for it any more.
    Cancelled,
    /// Something is at the target already.
    Taken,
    /// A file could not be copied.
    Io { path: PathBuf, source: io::Error },
}

/// Copies the directory `source` to `target`, which must not exist. What a failure leaves, [`remove`] removes.
pub(super) fn copy(source: &Path, target: &Path, method: CopyMethod, cancel: &Cancel) -> Result<(), Failure> {
    let metadata = fs::symlink_metadata(source).map_err(|e| failure(source, e))?;
    match make_dir(target) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(Failure::Taken),
        made => made.map_err(|e| failure(target, e))?,
    }
    let copier = Copier {
        method,
        cancel,
        keep_owners: rustix::process::geteuid().is_root(),
        shared: Mutex::new(Shared {
            queue: VecDeque::from([Job { source: source.into(), target: target.into(), metadata }]),
            ..Shared::default()
        }),
        changed: Condvar::new(),
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| copier.work());
        }
    });
    let shared = copier.shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(failure) = shared.failure {
        return Err(failure);
    }
    // Only now, with their entries in place, do directories get the modes and times they are to keep: the inner ones first.
    for done in shared.directories.iter().rev() {
        adopt(&done.target, &done.metadata, copier.keep_owners).map_err(|e| failure(&done.target, e))?;
    }
    Ok(())
}

/// Removes whatever is at `path`. Succeeds if there is nothing.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(metadata) if metadata.is_dir() => match fs::remove_dir_all(path) {
            // A directory that its owner may not change, which does not stop root.
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                unlock(path)?;
                fs::remove_dir_all(path)
            }
            removed => removed,
        },
        Ok(_) => fs::remove_file(path),
    }
}

fn unlock(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}

/// One directory, file or symbolic link to copy. Directories are made before they are queued.
struct Job {
    source: PathBuf,
    target: PathBuf,
    metadata: Metadata,
}

#[derive(Default)]
struct Shared {
    queue: VecDeque<Job>,
    /// How many threads work on a job, and so may queue more.
    busy: usize,
    /// The directories that were copied, each after the one that holds it.
    directories: Vec<Job>,
    failure: Option<Failure>,
}

struct Copier<'a> {
    method: CopyMethod,
    cancel: &'a Cancel,
    keep_owners: bool,
    shared: Mutex<Shared>,
    changed: Condvar,
}

impl Copier<'_> {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does jobs until there are none and there will be none.
    fn work(&self) {
        let mut shared = self.lock();
        loop {
            if shared.failure.is_some() {
                break;
            }
            let Some(job) = shared.queue.pop_front() else {
                if shared.busy == 0 {
                    break;
                }
                shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            shared.busy += 1;
            drop(shared);
            let done = self.copy(&job);
            shared = self.lock();
            shared.busy -= 1;
            match done {
                Ok(entries) => {
                    shared.queue.extend(entries);
                    if job.metadata.is_dir() {
                        shared.directories.push(job);
                    }
                }
                Err(failure) => {
                    shared.failure.get_or_insert(failure);
                }
            }
            self.changed.notify_all();
        }
        self.changed.notify_all();
    }

    /// Copies one thing, and returns what is in it.
    fn copy(&self, job: &Job) -> Result<Vec<Job>, Failure> {
        self.cancel.check().map_err(|_| Failure::Cancelled)?;
        let kind = job.metadata.file_type();
        if kind.is_dir() {
            return entries(job).map_err(|e| failure(&job.source, e));
        }
        if kind.is_symlink() {
            fs::read_link(&job.source)
                .and_then(|to| std::os::unix::fs::symlink(to, &job.target))
                .and_then(|()| adopt(&job.target, &job.metadata, self.keep_owners))
                .map_err(|e| failure(&job.source, e))?;
        } else if kind.is_file() {
            self.copy_file(job)?;
        } else if !kind.is_socket() {
            tracing::warn!(path = %job.source.display(), "left out of a copy: it is neither file, directory nor link");
        }
        Ok(Vec::new())
    }

    fn copy_file(&self, job: &Job) -> Result<(), Failure> {
        let error = |e: io::Error| failure(&job.source, e);
        // What was a file a moment ago may be a link now, put there by the user whom the files belong to.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = rustix::fs::open(&job.source, flags, Mode::empty()).map_err(|e| error(e.into()))?;
        let source = File::from(source);
        if !source.metadata().map_err(error)?.is_file() {
            return Err(error(io::Error::other("it is not a regular file any more")));
        }
        let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&job.target).map_err(error)?;
        if self.method == CopyMethod::Copy || !reflink(&source, &target).map_err(error)? {
            self.copy_bytes(job, &source, &target)?;
        }
        adopt(&job.target, &job.metadata, self.keep_owners).map_err(error)
    }

    /// Copies a file's data and leaves its holes out.
    fn copy_bytes(&self, job: &Job, source: &File, target: &File) -> Result<(), Failure> {
        let error = |e: Errno| failure(&job.source, e.into());
        let length = source.metadata().map_err(|e| failure(&job.source, e))?.len();
        target.set_len(length).map_err(|e| failure(&job.source, e))?;
        let mut position = 0;
        while position < length {
            let data = match rustix::fs::seek(source, SeekFrom::Data(position)) {
                Ok(data) => data,
                // There is nothing but a hole up to the end.
                Err(Errno::NXIO) => break,
                // This file system does not know its holes.
                Err(Errno::INVAL) => position,
                Err(e) => return Err(error(e)),
            };
            let end = match rustix::fs::seek(source, SeekFrom::Hole(data)) {
                Ok(end) => end,
                Err(Errno::INVAL | Errno::NXIO) => length,
                Err(e) => return Err(error(e)),
            };
            self.copy_range(job, source, target, data, end)?;
            position = end.max(data + 1);
        }
        Ok(())
    }

    fn copy_range(&self, job: &Job, source: &File, target: &File, start: u64, end: u64) -> Result<(), Failure> {
        let (mut from, mut to) = (start, start);
        while from < end {
            self.cancel.check().map_err(|_| Failure::Cancelled)?;
            let wanted = usize::try_from(end - from).unwrap_or(CHUNK).min(CHUNK);
            match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), wanted) {
                // The file has become shorter.
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => {
                    let copied =
                        copy_through_memory(source, target, from, wanted).map_err(|e| failure(&job.source, e))?;
                    if copied == 0 {
                        break;
                    }
                    from += copied;
                    to += copied;
                }
                Err(e) => return Err(failure(&job.source, e.into())),
            }
        }
        Ok(())
    }
}

/// Makes the directories in a directory, and returns all that is in it.
fn entries(job: &Job) -> io::Result<Vec<Job>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(&job.source)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let target = job.target.join(entry.file_name());
        if metadata.is_dir() {
            make_dir(&target)?;
        }
        entries.push(Job { source: entry.path(), target, metadata });
    }
    Ok(entries)
}

/// Shares the blocks of `source` with `target`. Tells `false` if these two files cannot.
fn reflink(source: &File, target: &File) -> io::Result<bool> {
    match rustix::fs::ioctl_ficlone(target, source) {
        Ok(()) => Ok(true),
        // Across devices, or between files of different kinds, such as without copy-on-write.
        Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::TXTBSY) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn copy_through_memory(source: &File, target: &File, position: u64, wanted: usize) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; wanted.min(1 << 20)];
    let read = source.read_at(&mut buffer, position)?;
    target.write_all_at(&buffer[..read], position)?;
    Ok(read as u64)
}

/// Makes a directory that only its maker can enter until it has its contents.
fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Gives a copy the owner, mode and times of what it was copied from.
fn adopt(path: &Path, of: &Metadata, keep_owners: bool) -> io::Result<()> {
    // The owner first: changing it clears parts of the mode.
    if keep_owners {
        std::os::unix::fs::lchown(path, Some(of.uid()), Some(of.gid()))?;
    }
    if !of.file_type().is_symlink() {
        fs::set_permissions(path, Permissions::from_mode(of.mode() & 0o7777))?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: of.atime(), tv_nsec: of.atime_nsec() as _ },
        last_modification: Timespec { tv_sec: of.mtime(), tv_nsec: of.mtime_nsec() as _ },
    };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn failure(path: &Path, source: io::Error) -> Failure {
    Failure::Io { path: path.into(), source }
}
