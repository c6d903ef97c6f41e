//! Working in a directory that belongs to another user, without being led out of it.
//!
//! A data directory belongs to the user that Postgres runs as, and whoever is superuser of a database, or brings a dump, can run programs as that
//! user. So nothing in it can be trusted to stay what it was a moment ago; and this may run as root. Everything here goes through open
//! directories, step by step, and follows no symbolic link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::orchestrator::RunAs;

/// A directory that was reached without following a link.
#[derive(Debug)]
pub(crate) struct Tree(OwnedFd);

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Below the directory, and through no link on the way.
const WITHIN: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

impl Tree {
    /// Opens a directory. What is above it is this program's own.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, DIRECTORY, Mode::empty())?))
    }

    /// Opens a directory below, if it is there.
    pub(crate) fn below(&self, path: impl AsRef<OsStr>) -> io::Result<Option<Self>> {
        match rustix::fs::openat2(&self.0, path.as_ref(), DIRECTORY, Mode::empty(), WITHIN) {
            Ok(fd) => Ok(Some(Self(fd))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Returns the names in it.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Tells what the directory itself is.
    pub(crate) fn own_stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    /// Tells of an entry, which may be a link, where it is there.
    pub(crate) fn stat(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.0, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Tells what an entry is, where it is there.
    pub(crate) fn kind(&self, name: impl AsRef<OsStr>) -> io::Result<Option<FileType>> {
        Ok(self.stat(name)?.map(|stat| kind_of(&stat)))
    }

    /// Returns where a link leads.
    pub(crate) fn link(&self, name: impl AsRef<OsStr>) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.0, name.as_ref(), Vec::new())?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    /// Calls `visit` with the path, below the directory, of each thing in it and below. What goes away meanwhile is left out.
    pub(crate) fn walk(&self, mut visit: impl FnMut(&Path, &Stat) -> io::Result<()>) -> io::Result<()> {
        let mut pending = vec![PathBuf::from(".")];
        while let Some(path) = pending.pop() {
            let Some(directory) = self.below(&path)? else { continue };
            for name in directory.names()? {
                let Some(stat) = directory.stat(&name)? else { continue };
                let below = path.join(name);
                visit(&below, &stat)?;
                if kind_of(&stat) == FileType::Directory {
                    pending.push(below);
                }
            }
        }
        Ok(())
    }

    /// Sets the mode of the directory itself.
    pub(crate) fn set_mode(&self, mode: Mode) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.0, mode)?)
    }

    /// Removes an entry with all that is in it. Succeeds if there is none.
    pub(crate) fn remove(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = name.as_ref();
        let flags = match self.kind(name)? {
            None => return Ok(()),
            Some(FileType::Directory) => {
                if let Some(directory) = self.below(name)? {
                    directory.empty()?;
                }
                AtFlags::REMOVEDIR
            }
            Some(_) => AtFlags::empty(),
        };
        match rustix::fs::unlinkat(&self.0, name, flags) {
            Err(Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Removes all that is in it.
    pub(crate) fn empty(&self) -> io::Result<()> {
        self.names()?.into_iter().try_for_each(|name| self.remove(name))
    }

    /// Makes a directory for `user` alone, unless there is one.
    pub(crate) fn make_dir(&self, name: &str, user: RunAs) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.0, name, Mode::RWXU) {
            Err(Errno::EXIST) if self.kind(name)? == Some(FileType::Directory) => return Ok(()),
            other => other?,
        }
        let made = self.below(name)?.ok_or(ErrorKind::NotFound)?;
        give(&made.0, user)
    }

    /// Writes a file for `user` alone, in place of whatever is there.
    pub(crate) fn write(&self, name: &str, text: &str, user: RunAs) -> io::Result<()> {
        self.remove(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?);
        give(&file, user)?;
        file.write_all(text.as_bytes())
    }

    /// Opens a regular file below, to read it or to change it in place.
    pub(crate) fn file(&self, path: impl AsRef<OsStr>, access: OFlags) -> io::Result<File> {
        // Without waiting: a pipe planted here must not hold this up before it is seen to be one.
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat2(&self.0, path.as_ref(), flags, Mode::empty(), WITHIN)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(format!("{} is not a regular file", path.as_ref().display())));
        }
        Ok(file)
    }

    /// Reads a regular file below, if it is there, up to `limit` bytes.
    pub(crate) fn read(&self, path: impl AsRef<OsStr>, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match self.file(path.as_ref(), OFlags::RDONLY) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content)?;
        if content.len() as u64 > limit {
            return Err(io::Error::other(format!("{} has more than {limit} bytes", path.as_ref().display())));
        }
        Ok(Some(content))
    }
}

/// Tells what something is.
pub(crate) fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn give(fd: impl std::os::fd::AsFd, user: RunAs) -> io::Result<()> {
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::fchown(fd, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn me() -> RunAs {
        RunAs { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }

    /// A directory whose entries all lead to a directory with a file in it.
    fn trap() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("precious"), "kept").unwrap();
        let inside = dir.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        symlink(&outside, inside.join("directory")).unwrap();
        symlink(outside.join("precious"), inside.join("file")).unwrap();
        (dir, outside)
    }

    #[test]
    fn no_link_is_followed() {
        let (dir, outside) = trap();
        let tree = Tree::open(&dir.path().join("inside")).unwrap();
        assert!(tree.below("directory").is_err());
        assert!(tree.below("../outside").is_err());
        assert!(tree.below("directory/deeper").is_err());
        assert!(tree.read("file", 100).is_err());
        assert!(tree.read("directory/precious", 100).is_err());
        assert!(tree.make_dir("directory", me()).is_err());
        tree.write("file", "mine", me()).unwrap();
        tree.remove("directory").unwrap();
        assert_eq!(std::fs::read_to_string(outside.join("precious")).unwrap(), "kept");
        assert_eq!(tree.read("file", 100).unwrap().unwrap(), b"mine");
        assert!(Tree::open(&dir.path().join("inside/none")).is_err());
    }

    #[test]
    fn walking_sees_links_and_not_what_they_lead_to() {
        let (dir, outside) = trap();
        std::fs::create_dir_all(dir.path().join("inside/a/b")).unwrap();
        std::fs::write(dir.path().join("inside/a/b/c"), "x").unwrap();
        let tree = Tree::open(&dir.path().join("inside")).unwrap();
        let mut seen = Vec::new();
        tree.walk(|path, stat| {
            seen.push((path.strip_prefix(".").unwrap().display().to_string(), kind_of(stat)));
            Ok(())
        })
        .unwrap();
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        let (dir, link) = (FileType::Directory, FileType::Symlink);
        let expected =
            [("a", dir), ("a/b", dir), ("a/b/c", FileType::RegularFile), ("directory", link), ("file", link)];
        assert_eq!(seen.iter().map(|(path, kind)| (path.as_str(), *kind)).collect::<Vec<_>>(), expected);
        assert_eq!(tree.link("directory").unwrap(), outside);
        // What becomes a link after it was seen is not entered.
        let swapped = tree.walk(|path, _| {
            if path == Path::new("./a") {
                std::fs::rename(outside.with_file_name("inside/a"), outside.with_file_name("inside/was-a"))?;
                symlink(&outside, outside.with_file_name("inside/a"))?;
            }
            assert!(!path.ends_with("precious"), "it was followed");
            Ok(())
        });
        assert!(swapped.is_err());
    }

    #[test]
    fn emptying_removes_links_and_not_what_they_lead_to() {
        let (dir, outside) = trap();
        std::fs::create_dir_all(dir.path().join("inside/a/b")).unwrap();
        std::fs::write(dir.path().join("inside/a/b/c"), "x").unwrap();
        symlink(&outside, dir.path().join("inside/a/b/link")).unwrap();
        let tree = Tree::open(&dir.path().join("inside")).unwrap();
        tree.empty().unwrap();
        assert!(tree.names().unwrap().is_empty());
        assert!(outside.join("precious").exists());
        tree.remove("nothing").unwrap();
    }

    #[test]
    fn what_is_no_file_or_too_long_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe"), Mode::RWXU).unwrap();
        std::fs::write(dir.path().join("long"), "12345").unwrap();
        assert!(tree.read("pipe", 100).is_err());
        assert!(tree.read("long", 4).is_err());
        assert_eq!(tree.read("long", 5).unwrap().unwrap(), b"12345");
        assert!(tree.read("none", 5).unwrap().is_none());
    }
}
