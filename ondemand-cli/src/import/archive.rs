//! Directories as tar archives, made while they are sent.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{Stream, stream};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use tar::{Builder, Header};
use tokio::sync::mpsc;

use crate::failure::Failure;

/// How much is sent at a time.
const CHUNK: usize = 256 << 10;
/// How many chunks wait for the network.
const BACKLOG: usize = 8;
/// The file that a running server has in its data directory.
const PID_FILE: &str = "postmaster.pid";

/// Checks that a directory is the data directory of a server that does not run.
pub(crate) fn check_data_directory(path: &Path) -> Result<(), Failure> {
    if !path.join("PG_VERSION").is_file() {
        return Err(Failure::new(format!(
            "{} is not a data directory of Postgres: it has no PG_VERSION",
            path.display()
        ))
        .with_hint(
            "give the directory that `SHOW data_directory` names; a directory that pg_dump wrote goes with --dump",
        ));
    }
    if path.join(PID_FILE).exists() {
        return Err(Failure::new(format!("a server runs on {}, or has crashed there", path.display())).with_hint(
            format!("shut it down with `pg_ctl stop -D {}`; after a crash start it once before", path.display()),
        ));
    }
    let linked = fs::read_dir(path.join("pg_tblspc")).ok().and_then(|mut entries| entries.next());
    if linked.is_some() {
        return Err(Failure::new(format!("{} has tablespaces outside of it, which are not copied", path.display()))
            .with_hint("import a dump that pg_dump makes of it"));
    }
    Ok(())
}

/// Checks that a directory is what `pg_dump -Fd` writes.
pub(crate) fn check_dump_directory(path: &Path) -> Result<(), Failure> {
    if path.join("toc.dat").is_file() {
        return Ok(());
    }
    let failure = Failure::new(format!("{} is not a directory that pg_dump wrote: it has no toc.dat", path.display()));
    Err(if path.join("PG_VERSION").exists() {
        failure.with_hint("a data directory goes with --data-dir")
    } else {
        failure.with_hint("give the directory that `pg_dump -Fd -f DIRECTORY` wrote")
    })
}

/// Packs a directory in a thread of its own. What cannot be read is the last item.
pub(crate) fn stream(root: PathBuf) -> impl Stream<Item = Result<Bytes, Failure>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    tokio::task::spawn_blocking(move || {
        if let Err(failure) = pack(&root, Pipe { sender: sender.clone(), buffer: Vec::with_capacity(CHUNK) }) {
            // The receiver is gone once the request is over, and then the failure is nothing but that.
            let _ = sender.blocking_send(Err(failure));
        }
    });
    stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|chunk| (chunk, receiver)) })
}

/// The end of the archive that is written to.
struct Pipe {
    sender: mpsc::Sender<Result<Bytes, Failure>>,
    buffer: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK)));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody receives the archive");
        self.sender.blocking_send(Ok(chunk)).map_err(gone)
    }
}

fn pack(root: &Path, pipe: Pipe) -> Result<(), Failure> {
    let mut archive = Builder::new(pipe);
    let cannot = |e: io::Error| Failure::caused(format!("{} cannot be packed", root.display()), &e);
    // Whoever names it may do so by a link; from there on, none is followed.
    let opened = rustix::fs::open(root, DIRECTORY, Mode::empty()).map_err(|e| cannot(e.into()))?;
    pack_directory(&mut archive, opened, Path::new("")).map_err(cannot)?;
    archive.into_inner().and_then(|mut pipe| pipe.flush()).map_err(cannot)
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Adds what is in a directory, which is called `inside` in the archive. It may belong to a user that programs of a database run as, and this one may be root:
/// links are not followed, whatever is put in the place of what was there a moment ago.
fn pack_directory(archive: &mut Builder<Pipe>, directory: OwnedFd, inside: &Path) -> io::Result<()> {
    let directory = File::from(directory);
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |e: io::Error| io::Error::new(e.kind(), format!("{path}: {e}"))
    };
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory).map_err(|e| at(inside)(e.into()))? {
        let name = OsStr::from_bytes(entry.map_err(|e| at(inside)(e.into()))?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    for name in names {
        let path = inside.join(&name);
        let open = |flags: OFlags| Ok(rustix::fs::openat(&directory, &name, flags, Mode::empty())?);
        let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| at(&path)(e.into()))?;
        let below = |archive: &mut Builder<Pipe>, opened: OwnedFd| {
            let opened = File::from(opened);
            archive.append_data(&mut header(&opened.metadata()?, 0), path.join(""), io::empty())?;
            pack_directory(archive, opened.into(), &path)
        };
        let packed = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => open(DIRECTORY | OFlags::NOFOLLOW).and_then(|opened| below(archive, opened)),
            FileType::RegularFile => {
                // Without waiting, should it be a pipe by now.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                open(flags).and_then(|opened| pack_file(archive, File::from(opened), &path))
            }
            // As `initdb --waldir` makes it: its target belongs to the data.
            FileType::Symlink if path == Path::new("pg_wal") => open(DIRECTORY).and_then(|opened| {
                if rustix::fs::fstat(&opened)?.st_uid != stat.st_uid {
                    return Err(io::Error::other("the link leads to a directory of another user, and is not followed"));
                }
                below(archive, opened)
            }),
            FileType::Symlink if is_configuration(&directory, inside, &name).map_err(at(&path))? => Ok(()),
            FileType::Symlink => {
                Err(io::Error::other("it is a link, and links are not followed; move its target here"))
            }
            FileType::Socket | FileType::Fifo => Ok(()),
            _ => Err(io::Error::other("it is neither a file nor a directory")),
        };
        packed.map_err(at(&path))?;
    }
    Ok(())
}

/// Tells whether a link is one to a file at the top of a data directory: configuration and keys live elsewhere, and are not wanted.
fn is_configuration(directory: &File, inside: &Path, name: &OsStr) -> io::Result<bool> {
    let target = rustix::fs::statat(directory, name, AtFlags::empty())?;
    let is_data = rustix::fs::statat(directory, "PG_VERSION", AtFlags::SYMLINK_NOFOLLOW).is_ok();
    let is_file = FileType::from_raw_mode(target.st_mode) == FileType::RegularFile;
    Ok(is_file && is_data && inside.as_os_str().is_empty())
}

fn pack_file(archive: &mut Builder<Pipe>, file: File, name: &Path) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file any more"));
    }
    let size = metadata.len();
    let mut file = Counted { file, left: size };
    archive.append_data(&mut header(&metadata, size), name, &mut file)?;
    if file.left > 0 || file.file.read(&mut [0])? > 0 {
        return Err(io::Error::other("its size changed while it was read; is a server running on it?"));
    }
    Ok(())
}

fn header(metadata: &Metadata, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata_in_mode(metadata, tar::HeaderMode::Deterministic);
    header.set_size(size);
    header
}

/// Reads as much of a file as was announced: more or less would shift all that follows in the archive.
struct Counted {
    file: File,
    left: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read(&mut buffer[..wanted])?;
        self.left -= read as u64;
        if read == 0 && wanted > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::net::UnixListener;

    use futures_util::StreamExt;

    use super::*;

    async fn packed(root: &Path) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
        let mut bytes = Vec::new();
        let mut chunks = Box::pin(stream(root.into()));
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().expect("an archive");
        Ok(entries
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let (name, mut content) = (entry.path().expect("a name").display().to_string(), Vec::new());
                entry.read_to_end(&mut content).expect("its content");
                (name, content)
            })
            .collect())
    }

    #[tokio::test]
    async fn a_directory_is_packed_without_its_sockets() {
        let dir = tempfile::tempdir().expect("a directory");
        let big = vec![7; 3 * CHUNK + 1];
        fs::write(dir.path().join("PG_VERSION"), "15\n").expect("a file");
        fs::create_dir_all(dir.path().join("base/1")).expect("a directory");
        fs::write(dir.path().join("base/1/1259"), &big).expect("a file");
        let elsewhere = tempfile::tempdir().expect("a directory");
        fs::write(elsewhere.path().join("0001"), "wal").expect("a file");
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("pg_wal")).expect("a link");
        let _socket = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).expect("a socket");

        let entries = packed(dir.path()).await.expect("an archive");
        let names: Vec<_> = entries.keys().map(String::as_str).collect();
        assert_eq!(names, ["PG_VERSION", "base/", "base/1/", "base/1/1259", "pg_wal/", "pg_wal/0001"]);
        assert_eq!(entries["base/1/1259"], big);
        assert_eq!(entries["pg_wal/0001"], b"wal");
    }

    #[tokio::test]
    async fn what_cannot_be_read_ends_the_stream_with_a_failure() {
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("nowhere", dir.path().join("broken")).expect("a link");
        let failure = packed(dir.path()).await.expect_err("a failure");
        assert!(failure.to_string().contains("broken"), "{failure}");
    }

    #[tokio::test]
    async fn links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (data, outside) = (dir.path().join("data"), dir.path().join("outside"));
        fs::create_dir_all(data.join("base")).expect("a directory");
        fs::create_dir(&outside).expect("a directory");
        fs::write(outside.join("precious"), "precious").expect("a file");
        fs::write(data.join("PG_VERSION"), "15\n").expect("a file");
        // Where the configuration lives elsewhere, it is left out.
        std::os::unix::fs::symlink(outside.join("precious"), data.join("server.key")).expect("a link");
        assert_eq!(packed(&data).await.expect("an archive").keys().collect::<Vec<_>>(), ["PG_VERSION", "base/"]);
        for (target, link) in
            [(outside.join("precious"), "base/1259"), (outside.clone(), "base/1"), (outside, "pg_tblspc")]
        {
            std::os::unix::fs::symlink(target, data.join(link)).expect("a link");
            let failure = packed(&data).await.expect_err("a failure").to_string();
            assert!(failure.contains(link) && failure.contains("link"), "{failure}");
            fs::remove_file(data.join(link)).expect("removed");
        }
        // Root's own directories are not those of whoever made the link.
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::symlink(dir.path(), data.join("pg_wal")).expect("a link");
            std::os::unix::fs::lchown(data.join("pg_wal"), Some(65534), None).expect("given away");
            let failure = packed(&data).await.expect_err("a failure").to_string();
            assert!(failure.contains("another user"), "{failure}");
        }
    }

    #[test]
    fn a_file_that_shrinks_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, "12345").expect("a file");
        let mut file = Counted { file: File::open(&path).expect("a file"), left: 6 };
        assert!(file.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn wrong_directories_are_refused_with_a_hint() {
        let dir = tempfile::tempdir().expect("a directory");
        let hint = |result: Result<(), Failure>| result.expect_err("a failure").hint.expect("a hint");
        assert!(hint(check_data_directory(dir.path())).contains("--dump"));
        assert!(hint(check_dump_directory(dir.path())).contains("pg_dump -Fd"));
        fs::write(dir.path().join("PG_VERSION"), "15\n").expect("a file");
        assert!(hint(check_dump_directory(dir.path())).contains("--data-dir"));
        check_data_directory(dir.path()).expect("a data directory");
        fs::write(dir.path().join(PID_FILE), "1\n").expect("a file");
        assert!(hint(check_data_directory(dir.path())).contains("pg_ctl stop"));
        fs::write(dir.path().join("toc.dat"), "").expect("a file");
        check_dump_directory(dir.path()).expect("a dump");
    }
}
