//! Files of strangers: unpacking tar archives and copying directories into a volume. All of it blocks.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use tokio_util::sync::CancellationToken;

use super::meter::Meter;
use crate::error::{Error, Result};
use crate::orchestrator::RunAs;
use crate::own;
use crate::postgres::tablespaces;
use crate::tree::Tree;

/// How many bytes are copied at a time.
const CHUNK: usize = 1 << 20;

/// How many files and directories an archive may have: more than any cluster's, and far fewer than fill the metadata of a large store.
const MOST_ENTRIES: u64 = 4_000_000;

/// What files are written for, and whose they become.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) user: RunAs,
    pub(super) meter: Meter,
    pub(super) cancelled: CancellationToken,
}

impl Writer {
    fn check(&self) -> io::Result<()> {
        if self.cancelled.is_cancelled() { Err(io::Error::other("the import was cancelled")) } else { Ok(()) }
    }

    /// Makes a directory and those above it, down from `root`.
    fn make_dirs(&self, root: &Path, relative: &Path) -> io::Result<()> {
        let mut path = root.to_owned();
        for part in relative.components() {
            path.push(part);
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(&path)?.is_dir() => {}
                Err(e) => return Err(e),
                Ok(()) if nix::unistd::geteuid().is_root() => {
                    std::os::unix::fs::lchown(&path, Some(self.user.uid), Some(self.user.gid))?;
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Makes a file that is not there yet.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        let file = own::open_with(OpenOptions::new().write(true).create_new(true).mode(0o600), path)?;
        if nix::unistd::geteuid().is_root() {
            fchown(&file, Some(self.user.uid), Some(self.user.gid))?;
        }
        Ok(file)
    }

    /// Unpacks an archive into `root`: regular files and directories, nothing that leads outside.
    ///
    /// # Errors
    /// [`Error::InvalidDump`] for what is not allowed in it, [`Error::Unsupported`] for the archives of `pg_dump -Ft`.
    pub(super) fn unpack(&self, reader: impl Read, root: &Path) -> Result<()> {
        self.unpack_at_most(MOST_ENTRIES, reader, root)
    }

    fn unpack_at_most(&self, most: u64, reader: impl Read, root: &Path) -> Result<()> {
        let mut archive = tar::Archive::new(reader);
        let mut buffer = vec![0; CHUNK];
        let mut first = true;
        let mut entries = 0;
        for entry in archive.entries().map_err(|e| corrupt(&e))? {
            let mut entry = entry.map_err(|e| corrupt(&e))?;
            self.check().map_err(|e| writing(Path::new("."), e))?;
            entries += 1;
            if entries > most {
                return Err(refused(format!("it has more than {most} entries")));
            }
            let path = entry.path().map_err(|e| corrupt(&e))?.into_owned();
            let Some(relative) = inside(&path) else {
                return Err(refused(format!("its entry {} leads outside of it", shown(&path))));
            };
            let kind = entry.header().entry_type();
            if kind.is_dir() {
                self.make_dirs(root, &relative).map_err(|e| writing(&relative, e))?;
                continue;
            }
            if kind.is_symlink() && relative.parent().is_some_and(|p| p.ends_with("pg_tblspc")) {
                return Err(tablespaces::error());
            }
            if !matches!(kind, tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse) {
                return Err(refused(format!("its entry {} is neither a file nor a directory", shown(&path))));
            }
            if let Some(parent) = relative.parent() {
                self.make_dirs(root, parent).map_err(|e| writing(&relative, e))?;
            }
            let target = root.join(&relative);
            let mut file = match self.create(&target) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(refused(format!("its entry {} is there twice", shown(&path))));
                }
                file => file.map_err(|e| writing(&relative, e))?,
            };
            loop {
                let read = entry.read(&mut buffer).map_err(|e| corrupt(&e))?;
                if read == 0 {
                    break;
                }
                if first {
                    first = false;
                    is_directory_dump(&relative, &buffer[..read])?;
                }
                file.write_all(&buffer[..read]).map_err(|e| writing(&relative, e))?;
            }
        }
        Ok(())
    }

    /// Copies a file, sharing its blocks where the file system can. Returns its bytes; `None` if it is not there any more.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`], [`Error::Backend`].
    fn copy_file(&self, from: &Tree, name: &OsStr, to: &Path) -> Result<Option<u64>> {
        let mut source = match from.file(name, OFlags::RDONLY) {
            // What a server on it has just deleted is found out by its state.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            source => source.map_err(|e| writing(to, e))?,
        };
        let mut copy = || -> io::Result<u64> {
            let mut target = self.create(to)?;
            let length = source.metadata()?.len();
            if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
                self.meter.add(length);
                return self.check().map(|()| length);
            }
            let mut buffer = vec![0; CHUNK];
            let mut copied = 0;
            loop {
                self.check()?;
                let read = source.read(&mut buffer)?;
                if read == 0 {
                    return Ok(copied);
                }
                target.write_all(&buffer[..read])?;
                copied += read as u64;
                self.meter.add(read as u64);
            }
        };
        copy().map(Some).map_err(|e| writing(to, e))
    }

    /// Copies what is in a directory, through no link in it. A link `pg_wal`, as `initdb --waldir` makes it, is followed where it leads to a directory of the
    /// same owner; others are refused.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for tablespaces, [`Error::InvalidDump`] for other links.
    pub(super) fn copy_dir(&self, from: &Path, to: &Path) -> Result<()> {
        let root = Tree::open(from).map_err(|e| writing(from, e))?;
        self.copy_tree(&root, Path::new(""), to)
    }

    /// Copies what is in a tree, which is called `at` below the target.
    fn copy_tree(&self, tree: &Tree, at: &Path, to: &Path) -> Result<()> {
        let mut pending = vec![PathBuf::from(".")];
        while let Some(relative) = pending.pop() {
            let failed = |e| writing(&at.join(&relative), e);
            let Some(directory) = tree.below(&relative).map_err(failed)? else { continue };
            for name in directory.names().map_err(failed)? {
                let below = relative.join(&name);
                let path = at.join(below.strip_prefix(".").unwrap_or(&below));
                let Some(kind) = directory.kind(&name).map_err(|e| writing(&path, e))? else { continue };
                let is_top = path.parent() == Some(Path::new(""));
                match kind {
                    FileType::Directory => {
                        self.make_dirs(to, &path).map_err(|e| writing(&path, e))?;
                        pending.push(below);
                    }
                    FileType::RegularFile => {
                        self.copy_file(&directory, &name, &to.join(&path))?;
                    }
                    _ if path.parent() == Some(Path::new("pg_tblspc")) => return Err(tablespaces::error()),
                    FileType::Symlink if path == Path::new("pg_wal") => {
                        let wal = linked(&directory, &name).map_err(|e| writing(&path, e))?;
                        self.make_dirs(to, &path).map_err(|e| writing(&path, e))?;
                        self.copy_tree(&wal, &path, to)?;
                    }
                    // Configuration and keys live elsewhere, and are not wanted.
                    FileType::Symlink if is_top => {}
                    FileType::Symlink => return Err(refused(format!("{} is a link", shown(&path)))),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Opens the directory that a link leads to, which whoever owns the link must own too: this may be root, who may go anywhere.
fn linked(directory: &Tree, name: &OsStr) -> io::Result<Tree> {
    let link = directory.stat(name)?.ok_or(io::ErrorKind::NotFound)?;
    let target = directory.link(name)?;
    if !target.is_absolute() {
        return Err(io::Error::other("the link must hold an absolute path"));
    }
    let tree = Tree::open(&target.canonicalize()?)?;
    if tree.own_stat()?.st_uid == link.st_uid {
        Ok(tree)
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "the link leads to a directory of another user"))
    }
}

/// Goes down from `root` as long as there is nothing but one directory.
pub(super) fn single_top(root: &Path) -> Result<PathBuf> {
    let mut top = root.to_owned();
    loop {
        let list = || -> io::Result<Vec<fs::DirEntry>> { own::read_dir(&top)?.collect() };
        let entries = list().map_err(|e| writing(&top, e))?;
        match entries.as_slice() {
            [only] if only.file_type().is_ok_and(|kind| kind.is_dir()) => top = only.path(),
            _ => return Ok(top),
        }
    }
}

/// Moves what is in `top`, somewhere below `root`, to `root` itself.
pub(super) fn raise(root: &Path, top: &Path) -> Result<()> {
    let Ok(relative) = top.strip_prefix(root) else { return Ok(()) };
    let Some(first) = relative.components().next() else { return Ok(()) };
    let raise = || -> io::Result<()> {
        // Its name may be that of something in it.
        let aside = root.join(".ondemand-unpacked");
        own::rename(root.join(first), &aside)?;
        let rest: PathBuf = relative.components().skip(1).collect();
        for entry in own::read_dir(aside.join(rest))? {
            let entry = entry?;
            own::rename(entry.path(), root.join(entry.file_name()))?;
        }
        own::remove_dir_all(aside)
    };
    raise().map_err(|e| writing(root, e))
}

/// Returns the path without its harmless parts, if it has no others.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut relative = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => relative.push(part),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(relative)
}

/// Refuses what `pg_dump -Ft` writes: its first entry says so.
fn is_directory_dump(path: &Path, bytes: &[u8]) -> Result<()> {
    if path == Path::new("toc.dat") && bytes.starts_with(b"PGDMP") && bytes.get(10) == Some(&3) {
        return Err(Error::Unsupported {
            message: "archives of pg_dump -Ft are not supported".into(),
            hint: "dump with pg_dump -Fc, or a directory with -Fd".into(),
        });
    }
    Ok(())
}

/// Writes a stranger's path so that it does no harm on a terminal.
fn shown(path: &Path) -> String {
    format!("{:?}", crate::error::shorten(&path.to_string_lossy()))
}

fn refused(message: String) -> Error {
    Error::InvalidDump {
        message,
        log: Vec::new(),
        hint: "make the archive with `tar -C DIRECTORY -ch .`, of one dump or one data directory".into(),
    }
}

/// Explains an error in reading an archive: one of the reader beneath comes through as it is.
fn corrupt(error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof || error.to_string().contains("unexpected EOF") {
        return super::input::truncated("the tar archive ends too early");
    }
    Error::InvalidDump {
        message: format!("the tar archive is corrupt: {error}"),
        log: Vec::new(),
        hint: "check it with `tar -tf`, and copy it again".into(),
    }
}

fn writing(path: &Path, error: io::Error) -> Error {
    Error::io("import", format!("copying {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> Writer {
        Writer {
            user: RunAs { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() },
            meter: Meter::new(crate::progress::silent()),
            cancelled: CancellationToken::new(),
        }
    }

    fn tar_of(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, bytes) in entries {
            let mut header = tar::Header::new_ustar();
            // As it would be written by somebody who means harm: unchecked.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(bytes.len() as u64);
            header.set_mode(0o4777);
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name("/etc/passwd").expect("a link");
            }
            header.set_cksum();
            builder.append(&header, *bytes).expect("an entry");
        }
        builder.into_inner().expect("an archive")
    }

    #[test]
    fn files_and_directories_are_unpacked() {
        let dir = tempfile::tempdir().expect("a directory");
        let archive = tar_of(&[
            ("./data/", tar::EntryType::Directory, b""),
            ("./data/PG_VERSION", tar::EntryType::Regular, b"15\n"),
            ("data/base/1/2", tar::EntryType::Regular, b"x"),
            ("data/data/y", tar::EntryType::Regular, b"y"),
        ]);
        writer().unpack(archive.as_slice(), dir.path()).expect("unpacked");
        let top = single_top(dir.path()).expect("a top");
        assert_eq!(top, dir.path().join("data"));
        raise(dir.path(), &top).expect("raised");
        assert_eq!(fs::read(dir.path().join("PG_VERSION")).expect("a file"), b"15\n");
        assert_eq!(fs::read(dir.path().join("base/1/2")).expect("a file"), b"x");
        assert_eq!(fs::read(dir.path().join("data/y")).expect("a file"), b"y");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(dir.path().join("PG_VERSION")).expect("m").permissions(),
        );
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn nothing_leads_outside() {
        for (path, kind) in [
            ("../x", tar::EntryType::Regular),
            ("/tmp/x", tar::EntryType::Regular),
            ("a/../../x", tar::EntryType::Regular),
            ("link", tar::EntryType::Symlink),
            ("link", tar::EntryType::Link),
            ("device", tar::EntryType::Char),
            ("pipe", tar::EntryType::Fifo),
        ] {
            let parent = tempfile::tempdir().expect("a directory");
            let root = parent.path().join("root");
            fs::create_dir(&root).expect("a directory");
            let error = writer().unpack(tar_of(&[(path, kind, b"")]).as_slice(), &root).expect_err(path);
            assert_eq!(error.code(), crate::Code::InvalidDump, "{path}");
            assert_eq!(fs::read_dir(&root).expect("a listing").count(), 0, "{path}");
            assert_eq!(fs::read_dir(parent.path()).expect("a listing").count(), 1, "{path}");
        }
        let twice = tar_of(&[("a", tar::EntryType::Regular, b"1"), ("a", tar::EntryType::Regular, b"2")]);
        let dir = tempfile::tempdir().expect("a directory");
        assert!(writer().unpack(twice.as_slice(), dir.path()).is_err());
    }

    /// Each takes an inode, and a few hundred bytes of an upload.
    #[test]
    fn an_archive_has_so_many_entries_and_no_more() {
        let archive = tar_of(&[
            ("a/", tar::EntryType::Directory, b""),
            ("a/b", tar::EntryType::Regular, b"1"),
            ("a/c", tar::EntryType::Regular, b"2"),
        ]);
        let unpack = |most: u64| {
            let dir = tempfile::tempdir().expect("a directory");
            let unpacked = writer().unpack_at_most(most, archive.as_slice(), dir.path());
            (unpacked, dir.path().join("a/c").exists())
        };
        assert!(matches!(unpack(3), (Ok(()), true)));
        let (refused, is_there) = unpack(2);
        let error = refused.expect_err("one too many");
        assert!(
            error.code() == crate::Code::InvalidDump && error.to_string().contains("more than 2 entries"),
            "{error}"
        );
        assert!(!is_there);
    }

    #[test]
    fn what_it_cannot_do_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let dump = tar_of(&[("toc.dat", tar::EntryType::Regular, b"PGDMP\x01\x0e\0\x04\x08\x03")]);
        let error = writer().unpack(dump.as_slice(), dir.path()).expect_err("pg_dump -Ft");
        assert_eq!(error.code(), crate::Code::Unsupported);
        let spaces = tar_of(&[("data/pg_tblspc/16400", tar::EntryType::Symlink, b"")]);
        let error = writer().unpack(spaces.as_slice(), dir.path()).expect_err("tablespaces");
        assert_eq!(error.code(), crate::Code::Unsupported);
        let cut = tar_of(&[("b", tar::EntryType::Regular, &[7; 5000])]);
        let error = writer().unpack(&cut[..3000], dir.path()).expect_err("an early end");
        assert!(error.to_string().contains("truncated"), "{error}");
    }

    #[test]
    fn a_cancelled_copy_stops() {
        let (from, to) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        fs::write(from.path().join("a"), vec![1; 3 << 20]).expect("a file");
        let writer = writer();
        writer.cancelled.cancel();
        assert!(writer.copy_dir(from.path(), to.path()).is_err());
    }
}
