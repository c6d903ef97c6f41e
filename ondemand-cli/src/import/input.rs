//! What is sent: a file, standard input, or a directory as a tar archive.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use futures_util::{Stream, StreamExt};
use reqwest::Body;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::archive;
use crate::failure::Failure;

/// How much is read at a time.
const CHUNK: usize = 256 << 10;

/// Bytes to send.
pub(crate) struct Input {
    pub(crate) body: Body,
    /// How many there are, where that is known.
    pub(crate) length: Option<u64>,
    /// Receives why reading failed, if it does: the connection only shows that it broke.
    pub(crate) failed: tokio::sync::oneshot::Receiver<Failure>,
}

/// Where a dump is.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Standard input.
    Stdin,
    /// A file, or a directory that `pg_dump -Fd` wrote.
    Dump(PathBuf),
    /// The data directory of a server that was shut down cleanly.
    DataDirectory(PathBuf),
}

/// Opens what is to be sent.
pub(crate) async fn open(origin: Origin) -> Result<Input, Failure> {
    let path = match origin {
        Origin::Stdin if std::io::stdin().is_terminal() => {
            return Err(Failure::new("standard input is a terminal, not a dump")
                .with_hint("pipe a dump into it: pg_dump … | ondemand dataset import NAME --dump -")
                .with_exit(2));
        }
        Origin::Stdin => return Ok(read(tokio::io::stdin(), "standard input".into(), None)),
        Origin::DataDirectory(path) => {
            archive::check_data_directory(&path)?;
            return Ok(pack(path));
        }
        Origin::Dump(path) => path,
    };
    let cannot = |e: &std::io::Error| Failure::caused(format!("{} cannot be read", path.display()), e);
    let metadata = tokio::fs::metadata(&path).await.map_err(|e| cannot(&e))?;
    if metadata.is_dir() {
        archive::check_dump_directory(&path)?;
        return Ok(pack(path));
    }
    let file = tokio::fs::File::open(&path).await.map_err(|e| cannot(&e))?;
    // Of a pipe or a device the length says nothing.
    let length = metadata.is_file().then_some(metadata.len());
    Ok(read(file, path.display().to_string(), length))
}

fn read(reader: impl AsyncRead + Send + 'static, name: String, length: Option<u64>) -> Input {
    let chunks = ReaderStream::with_capacity(reader, CHUNK);
    let chunks = chunks.map(move |chunk| chunk.map_err(|e| Failure::caused(format!("{name} cannot be read"), &e)));
    input(chunks, length)
}

fn pack(path: PathBuf) -> Input {
    input(archive::stream(path), None)
}

/// Makes a body that breaks the connection where the bytes fail, so that the server sees no end where there is none.
fn input(chunks: impl Stream<Item = Result<bytes::Bytes, Failure>> + Send + 'static, length: Option<u64>) -> Input {
    let (sender, failed) = tokio::sync::oneshot::channel();
    let mut sender = Some(sender);
    let chunks = chunks.map(move |chunk| {
        chunk.map_err(|failure| {
            let message = failure.message.clone();
            if let Some(sender) = sender.take() {
                // Nobody listens any more once the answer is there.
                let _ = sender.send(failure);
            }
            std::io::Error::other(message)
        })
    });
    Input { body: Body::wrap_stream(chunks), length, failed }
}

/// Returns where a dump is, of what the user wrote.
pub(crate) fn dump(path: &Path) -> Origin {
    if path == Path::new("-") { Origin::Stdin } else { Origin::Dump(path.into()) }
}
