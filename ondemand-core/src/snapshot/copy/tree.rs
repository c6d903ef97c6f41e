//! Copying and removing directory trees, on a few threads.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, OFlags, SeekFrom, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::CopyMethod;
use crate::own;
use crate::snapshot::directories::Cancel;
use crate::tree::{Tree, kind_of};

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
///
/// The source may be changed meanwhile by the user it belongs to, who may put links in place of directories and files: none is followed. Nobody else gets into
/// the target until all is in it.
pub(super) fn copy(source: &Path, target: &Path, method: CopyMethod, cancel: &Cancel) -> Result<(), Failure> {
    let opened = Tree::open(source).and_then(|tree| Ok((tree.own_stat()?, tree)));
    let (stat, tree) = opened.map_err(|e| failure(source, e))?;
    match make_dir(target) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(Failure::Taken),
        made => made.map_err(|e| failure(target, e))?,
    }
    let copier = Copier {
        method,
        cancel,
        keep_owners: rustix::process::geteuid().is_root(),
        source,
        tree,
        shared: Mutex::new(Shared {
            queue: VecDeque::from([Job { path: ".".into(), target: target.into(), stat }]),
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
        adopt(&done.target, &done.stat, copier.keep_owners).map_err(|e| failure(&done.target, e))?;
    }
    Ok(())
}

/// Removes whatever is at `path`. Succeeds if there is nothing.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(metadata) if metadata.is_dir() => match own::remove_dir_all(path) {
            // A directory that its owner may not change, which does not stop root; and root must not be led elsewhere.
            Err(e) if e.kind() == ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root() => {
                unlock(path)?;
                own::remove_dir_all(path)
            }
            removed => removed,
        },
        Ok(_) => own::remove_file(path),
    }
}

fn unlock(dir: &Path) -> io::Result<()> {
    own::set_permissions(dir, Permissions::from_mode(0o700))?;
    for entry in own::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}

/// One directory, file or symbolic link to copy. Directories are made before they are queued.
struct Job {
    /// Below the source.
    path: PathBuf,
    target: PathBuf,
    stat: Stat,
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
    source: &'a Path,
    tree: Tree,
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
                    if kind_of(&job.stat) == FileType::Directory {
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
        match kind_of(&job.stat) {
            FileType::Directory => return self.entries(job).map_err(|e| self.failure(job, e)),
            FileType::Symlink => {
                let link = || std::os::unix::fs::symlink(self.link(job)?, &job.target);
                link()
                    .and_then(|()| adopt(&job.target, &job.stat, self.keep_owners))
                    .map_err(|e| self.failure(job, e))?;
            }
            FileType::RegularFile => self.copy_file(job)?,
            FileType::Socket => {}
            _ => {
                let path = self.source.join(&job.path);
                tracing::warn!(path = %path.display(), "left out of a copy: it is neither file, directory nor link");
            }
        }
        Ok(Vec::new())
    }

    /// Makes the directories in a directory, and returns all that is in it.
    fn entries(&self, job: &Job) -> io::Result<Vec<Job>> {
        let directory = self.tree.below(&job.path)?.ok_or(ErrorKind::NotFound)?;
        let mut entries = Vec::new();
        for name in directory.names()? {
            let stat = directory.stat(&name)?.ok_or(ErrorKind::NotFound)?;
            let (path, target) = (job.path.join(&name), job.target.join(&name));
            if kind_of(&stat) == FileType::Directory {
                make_dir(&target)?;
            }
            entries.push(Job { path, target, stat });
        }
        Ok(entries)
    }

    fn link(&self, job: &Job) -> io::Result<PathBuf> {
        let (parent, name) = job.path.parent().zip(job.path.file_name()).ok_or(ErrorKind::NotFound)?;
        self.tree.below(parent)?.ok_or(ErrorKind::NotFound)?.link(name)
    }

    fn failure(&self, job: &Job, source: io::Error) -> Failure {
        failure(&self.source.join(&job.path), source)
    }

    fn copy_file(&self, job: &Job) -> Result<(), Failure> {
        let error = |e: io::Error| self.failure(job, e);
        let source = self.tree.file(&job.path, OFlags::RDONLY).map_err(error)?;
        let target =
            own::open_with(OpenOptions::new().write(true).create_new(true).mode(0o600), &job.target).map_err(error)?;
        if self.method == CopyMethod::Copy || !reflink(&source, &target).map_err(error)? {
            self.copy_bytes(job, &source, &target)?;
        }
        adopt(&job.target, &job.stat, self.keep_owners).map_err(error)
    }

    /// Copies a file's data and leaves its holes out.
    fn copy_bytes(&self, job: &Job, source: &File, target: &File) -> Result<(), Failure> {
        let error = |e: Errno| self.failure(job, e.into());
        let length = source.metadata().map_err(|e| self.failure(job, e))?.len();
        target.set_len(length).map_err(|e| self.failure(job, e))?;
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
                    let copied = copy_through_memory(source, target, from, wanted).map_err(|e| self.failure(job, e))?;
                    if copied == 0 {
                        break;
                    }
                    from += copied;
                    to += copied;
                }
                Err(e) => return Err(self.failure(job, e.into())),
            }
        }
        Ok(())
    }
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
fn adopt(path: &Path, of: &Stat, keep_owners: bool) -> io::Result<()> {
    // The owner first: changing it clears parts of the mode.
    if keep_owners {
        std::os::unix::fs::lchown(path, Some(of.st_uid), Some(of.st_gid))?;
    }
    if kind_of(of) != FileType::Symlink {
        own::set_permissions(path, Permissions::from_mode(of.st_mode & 0o7777))?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: of.st_atime, tv_nsec: of.st_atime_nsec.try_into().unwrap_or_default() },
        last_modification: Timespec { tv_sec: of.st_mtime, tv_nsec: of.st_mtime_nsec.try_into().unwrap_or_default() },
    };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn failure(path: &Path, source: io::Error) -> Failure {
    Failure::Io { path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::RenameFlags;

    use super::*;

    struct Ended<'a>(&'a AtomicBool);

    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Whoever owns the source swaps a directory and a file of it for links, again and again, while it is copied.
    #[test]
    fn what_is_swapped_for_a_link_is_not_followed() {
        let home = tempfile::tempdir().expect("a directory");
        let (source, outside) = (home.path().join("source"), home.path().join("outside"));
        fs::create_dir_all(source.join("directory")).expect("a directory");
        fs::create_dir(&outside).expect("a directory");
        for name in ["directory/file", "file"] {
            fs::write(source.join(name), "own").expect("a file");
        }
        fs::write(outside.join("file"), "of somebody else").expect("a file");
        std::os::unix::fs::symlink(&outside, source.join("a")).expect("a link");
        std::os::unix::fs::symlink(outside.join("file"), source.join("b")).expect("a link");
        let done = AtomicBool::new(false);
        let copies = std::thread::scope(|scope| {
            // Also where this fails: the other thread is waited for.
            let _ended = Ended(&done);
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for (one, other) in [("directory", "a"), ("file", "b")] {
                        let (one, other) = (source.join(one), source.join(other));
                        rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("exchanged");
                    }
                }
            });
            let mut copies = 0;
            for _ in 0..300 {
                let target = home.path().join("target");
                copies += usize::from(copy(&source, &target, CopyMethod::Copy, &Cancel::default()).is_ok());
                for name in ["directory", "a"].map(|name| target.join(name)) {
                    if name.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                        let text = fs::read_to_string(name.join("file")).unwrap_or_default();
                        assert!(["", "own"].contains(&&*text), "{text}");
                    }
                }
                for name in ["file", "b"].map(|name| target.join(name)) {
                    if name.symlink_metadata().is_ok_and(|found| found.is_file()) {
                        let text = fs::read_to_string(name).expect("text");
                        assert!(["", "own"].contains(&&*text), "{text}");
                    }
                }
                remove(&target).expect("removed");
            }
            copies
        });
        assert!(copies > 0, "no copy was finished");
    }
}
