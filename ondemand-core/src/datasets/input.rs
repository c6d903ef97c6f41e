//! Opening what is imported: counted, stoppable, with compressions taken off.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Source;
use super::meter::Meter;
use super::sniff::{self, Compression, Content};
use crate::error::{Error, Kind, Result};
use crate::listing::usable_file;
use crate::orchestrator::RunAs;

/// How many bytes are read at a time.
const CHUNK: usize = 256 * 1024;
/// How often something may be compressed again: more is a bomb.
const LAYERS: usize = 3;

pub(super) type Reader = Pin<Box<dyn AsyncRead + Send>>;

/// What is imported.
pub(super) enum Input {
    /// Nothing at all.
    Nothing,
    /// Bytes.
    Bytes(Bytes),
    /// A directory that `pg_dump -Fd` wrote.
    DumpDirectory(PathBuf),
    /// A data directory.
    DataDirectory(PathBuf),
}

/// Bytes without compression, and what they are.
pub(super) struct Bytes {
    pub(super) content: Content,
    /// The first of them.
    pub(super) head: Vec<u8>,
    /// All of them.
    pub(super) reader: Reader,
    /// The file they are in as they are.
    pub(super) file: Option<PathBuf>,
    /// What reading the source itself led to.
    pub(super) outcome: Outcome,
}

/// Opens a source and finds out what it is.
///
/// # Errors
/// [`Error::NotFound`] if there is no such file, [`Error::InvalidDump`] if it is nothing that can be imported.
pub(super) async fn open(source: Source, meter: &Meter, cancelled: &CancellationToken) -> Result<Input> {
    let (reader, total, file): (Reader, _, _) = match source {
        Source::Empty => return Ok(Input::Nothing),
        Source::Stream { reader, total } => (reader, total, None),
        Source::Path(path) => {
            let metadata = tokio::fs::metadata(&path).await.map_err(|e| open_error(&path, e))?;
            if metadata.is_dir() {
                return directory(&path);
            }
            let file = tokio::fs::File::open(&path).await.map_err(|e| open_error(&path, e))?;
            // A pipe has no length.
            let total = metadata.is_file().then_some(metadata.len());
            (Box::pin(file), total, metadata.is_file().then_some(path))
        }
    };
    meter.set_total(total);
    let outcome = Outcome::default();
    let counted = Counted {
        inner: reader,
        total,
        read: 0,
        meter: meter.clone(),
        outcome: outcome.clone(),
        cancelled: Box::pin(cancelled.clone().cancelled_owned()),
    };
    let mut reader: Reader = Box::pin(counted);
    let mut file = file;
    for _ in 0..=LAYERS {
        let head = peek(&mut reader).await.map_err(|e| outcome.explain(&e))?;
        let rest = std::mem::replace(&mut reader, Box::pin(tokio::io::empty()));
        let whole: Reader = Box::pin(io::Cursor::new(head.clone()).chain(rest));
        let Some(compression) = sniff::compression(&head) else {
            let content = sniff::content(&head)?;
            return Ok(Input::Bytes(Bytes { content, head, reader: whole, file, outcome }));
        };
        file = None;
        let buffered = BufReader::with_capacity(CHUNK, whole);
        reader = match compression {
            Compression::Gzip => {
                let mut decoder = GzipDecoder::new(buffered);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
            Compression::Zstd => {
                let mut decoder = ZstdDecoder::new(buffered);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
        };
    }
    Err(Error::InvalidDump {
        message: format!("it is compressed more than {LAYERS} times"),
        log: Vec::new(),
        hint: "compress it once".into(),
    })
}

fn open_error(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::not_found(Kind::File, path.display()),
        io::ErrorKind::PermissionDenied => {
            Error::Forbidden { message: format!("{} cannot be read: permission denied", path.display()) }
        }
        _ => Error::io("dump", format!("opening {}", path.display()), error),
    }
}

/// Tells what a directory is.
fn directory(path: &Path) -> Result<Input> {
    // The working directory of PostgreSQL's programs is another.
    let path = path.canonicalize().map_err(|e| open_error(path, e))?;
    if usable_file(&path.join("toc.dat")) {
        return Ok(Input::DumpDirectory(path));
    }
    if usable_file(&path.join("PG_VERSION")) {
        return Ok(Input::DataDirectory(path));
    }
    Err(Error::InvalidDump {
        message: format!("{} is neither a directory dump (toc.dat) nor a data directory (PG_VERSION)", path.display()),
        log: Vec::new(),
        hint: "name the directory that pg_dump -Fd wrote, or the data directory of a server that is shut down".into(),
    })
}

/// Reads the first bytes.
async fn peek(reader: &mut Reader) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(sniff::HEAD);
    reader.take(sniff::HEAD as u64).read_to_end(&mut head).await?;
    Ok(head)
}

/// Tells whether `user` can read a file, by the modes of it and of the directories above it, and nobody but root can put another in its place: a sandbox
/// is made by root, who would show that one. In doubt, no: then it is copied.
pub(super) fn readable_by(path: &Path, user: RunAs) -> bool {
    use std::os::unix::fs::MetadataExt;
    if !nix::unistd::geteuid().is_root() {
        return true;
    }
    let allows = |path: &Path, bit: u32| {
        std::fs::symlink_metadata(path).is_ok_and(|m| {
            if !stays(m.uid(), m.mode()) {
                return false;
            }
            let shift = if m.uid() == user.uid {
                6
            } else if m.gid() == user.gid {
                3
            } else {
                0
            };
            (m.mode() >> shift) & bit == bit
        })
    };
    allows(path, 4) && path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).all(|dir| allows(dir, 1))
}

/// Tells whether only root can change what is in a directory of this owner and mode, or replace a file. In a directory with the sticky bit, such as
/// `/tmp`, others can replace only what is theirs.
fn stays(owner: u32, mode: u32) -> bool {
    owner == 0 && (mode & 0o022 == 0 || mode & 0o1000 != 0)
}

/// What reading the source itself led to: an error there is not an error in the dump.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome(Arc<Mutex<Option<io::Error>>>);

impl Outcome {
    /// Takes the error of the source itself.
    pub(super) fn take(&self) -> Option<Error> {
        let source = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return Some(truncated(&source.to_string()));
        }
        Some(Error::io("dump", "reading the dump", source))
    }

    /// Explains an error that came out of the layers above the source.
    pub(super) fn explain(&self, error: &io::Error) -> Error {
        if let Some(source) = self.take() {
            return source;
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return truncated("its compressed data ends too early");
        }
        Error::InvalidDump {
            message: format!("its compressed data is corrupt: {error}"),
            log: Vec::new(),
            hint: "check the file with `gzip -t` or `zstd -t`, and copy it again".into(),
        }
    }
}

/// Makes the error for a dump that ends too early.
pub(super) fn truncated(reason: &str) -> Error {
    Error::InvalidDump {
        message: format!("it is truncated: {reason}"),
        log: Vec::new(),
        hint: "check that pg_dump succeeded, and that the file was copied whole".into(),
    }
}

/// Counts what is read, notices an early end, and stops when the import is cancelled.
struct Counted {
    inner: Reader,
    total: Option<u64>,
    read: u64,
    meter: Meter,
    outcome: Outcome,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        use std::future::Future;
        let fail = |outcome: &Outcome, error: io::Error| {
            let copy = io::Error::new(error.kind(), error.to_string());
            *outcome.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            Poll::Ready(Err(copy))
        };
        if self.cancelled.as_mut().poll(cx).is_ready() {
            return fail(&self.outcome, io::Error::other("the import was cancelled"));
        }
        let before = buf.filled().len();
        if let Err(error) = std::task::ready!(self.inner.as_mut().poll_read(cx, buf)) {
            return fail(&self.outcome, error);
        }
        let read = (buf.filled().len() - before) as u64;
        self.read += read;
        self.meter.add(read);
        match self.total {
            Some(total) if read == 0 && buf.remaining() > 0 && self.read < total => {
                let reason = format!("{} bytes of {total} were received", self.read);
                fail(&self.outcome, io::Error::new(io::ErrorKind::UnexpectedEof, reason))
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::silent;
    use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
    use tokio::io::AsyncWriteExt;

    async fn opened(bytes: Vec<u8>, total: Option<u64>) -> Result<Vec<u8>> {
        let source = Source::Stream { reader: Box::pin(io::Cursor::new(bytes)), total };
        match open(source, &Meter::new(silent()), &CancellationToken::new()).await? {
            Input::Bytes(mut bytes) => {
                let mut text = Vec::new();
                bytes.reader.read_to_end(&mut text).await.map_err(|e| bytes.outcome.explain(&e))?;
                Ok(text)
            }
            _ => panic!("not bytes"),
        }
    }

    async fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzipEncoder::new(Vec::new());
        encoder.write_all(bytes).await.expect("compressed");
        encoder.shutdown().await.expect("compressed");
        encoder.into_inner()
    }

    async fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZstdEncoder::new(Vec::new());
        encoder.write_all(bytes).await.expect("compressed");
        encoder.shutdown().await.expect("compressed");
        encoder.into_inner()
    }

    fn text() -> Vec<u8> {
        (0..50_000).flat_map(|i| format!("INSERT INTO t VALUES ({i});\n").into_bytes()).collect()
    }

    #[test]
    fn what_others_can_replace_does_not_stay() {
        for (owner, mode, expected) in [
            (0, 0o40755, true),
            (0, 0o41777, true),
            (0, 0o100_644, true),
            (0, 0o40777, false),
            (0, 0o40775, false),
            (0, 0o100_664, false),
            (1000, 0o40755, false),
            (1000, 0o41777, false),
            (1000, 0o100_644, false),
        ] {
            assert_eq!(stays(owner, mode), expected, "{owner} {mode:o}");
        }
    }

    #[tokio::test]
    async fn compressions_come_off() {
        let text = text();
        assert_eq!(opened(text.clone(), None).await.expect("plain"), text);
        assert_eq!(opened(gzip(&text).await, None).await.expect("gzip"), text);
        assert_eq!(opened(zstd(&text).await, None).await.expect("zstd"), text);
        let both = gzip(&zstd(&text).await).await;
        assert_eq!(opened(both, None).await.expect("both"), text);
        let members = [gzip(&text[..700_000]).await, gzip(&text[700_000..]).await].concat();
        assert_eq!(opened(members, None).await.expect("members"), text);
    }

    #[tokio::test]
    async fn an_early_end_is_noticed() {
        let text = text();
        for whole in [gzip(&text).await, zstd(&text).await] {
            for cut in [1, whole.len() / 2, whole.len() - 20] {
                let error = opened(whole[..whole.len() - cut].to_vec(), None).await.expect_err("an early end");
                assert_eq!(error.code(), crate::Code::InvalidDump, "{error:?}");
                assert!(error.to_string().contains("truncated"), "{error}");
            }
        }
        let error = opened(b"SELECT 1;".to_vec(), Some(100)).await.expect_err("an early end");
        assert!(error.to_string().contains("9 bytes of 100"), "{error}");
    }

    #[tokio::test]
    async fn a_bomb_of_layers_is_refused() {
        let mut bytes = b"SELECT 1;".to_vec();
        for _ in 0..5 {
            bytes = gzip(&bytes).await;
        }
        assert_eq!(opened(bytes, None).await.expect_err("a bomb").code(), crate::Code::InvalidDump);
    }
}
