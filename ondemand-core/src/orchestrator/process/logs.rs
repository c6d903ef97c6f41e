//! Reading what programs wrote to their log files.

use std::collections::VecDeque;
use std::io::SeekFrom;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::BACKEND;
use crate::error::{Error, Result};
use crate::name::ServiceName;
use crate::orchestrator::LogLine;
use crate::own;

/// How often a file is looked at for more. Only those who follow wait for this; nothing else does.
const POLL: Duration = Duration::from_millis(100);
/// What is read at a time.
const BLOCK: usize = 64 * 1024;
/// Where a line without an end is cut, so that it cannot fill the memory.
const LONGEST_LINE: usize = 256 * 1024;

/// How large a log file may become before it is emptied, in bytes.
pub(super) const LARGEST: u64 = 64 << 20;
/// What stands first in a log file that was emptied.
const DROPPED: &str = "(older lines were dropped: the log had become too large)\n";

/// Empties a log file that is larger than `limit`. Its program goes on: it appends to wherever the end is.
pub(super) fn shorten(path: &std::path::Path, limit: u64) -> std::io::Result<()> {
    use std::io::Write;
    let too_large = match path.symlink_metadata() {
        Ok(metadata) => metadata.is_file() && metadata.len() > limit,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(e),
    };
    if too_large {
        let mut file = own::open_with(std::fs::OpenOptions::new().append(true), path)?;
        file.set_len(0)?;
        file.write_all(DROPPED.as_bytes())?;
    }
    Ok(())
}

/// The log file of one service.
pub(super) struct LogFile {
    pub(super) service: ServiceName,
    pub(super) path: PathBuf,
}

/// Tells whether the stack whose log is followed is still there.
pub(super) type IsThere = Box<dyn Fn() -> bool + Send>;

/// Returns the lines of one file: all or the last `tail`, and with `follow` those to come while the stack is there.
pub(super) fn lines(log: LogFile, tail: Option<usize>, follow: Option<IsThere>) -> BoxStream<'static, Result<LogLine>> {
    let state = Reader { log, tail, follow, file: None, partial: Vec::new(), ready: VecDeque::new(), done: false };
    stream::unfold(state, |mut reader| async move {
        let line = reader.next().await?;
        Some((line, reader))
    })
    .boxed()
}

struct Reader {
    log: LogFile,
    tail: Option<usize>,
    follow: Option<IsThere>,
    file: Option<File>,
    /// The beginning of a line whose end has not been read.
    partial: Vec<u8>,
    ready: VecDeque<String>,
    done: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<LogLine>> {
        loop {
            if let Some(text) = self.ready.pop_front() {
                return Some(Ok(LogLine { service: self.log.service.clone(), time: None, text }));
            }
            if self.done {
                return None;
            }
            if let Err(e) = self.fill().await {
                self.done = true;
                return Some(Err(Error::io(BACKEND, format!("reading {}", self.log.path.display()), e)));
            }
        }
    }

    /// Reads more lines; at the end of the file it waits for them, or is done.
    async fn fill(&mut self) -> std::io::Result<()> {
        if self.file.is_none() {
            match tokio::fs::File::open(&self.log.path).await {
                Ok(mut file) => {
                    if let Some(tail) = self.tail {
                        seek_to_tail(&mut file, tail).await?;
                    }
                    self.file = Some(file);
                }
                // The stack was recorded, and its program is yet to be started.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        // Before reading: what a program wrote before the stack was removed is read after this is seen.
        let wait = self.follow.as_ref().is_some_and(|is_there| is_there());
        let mut block = Vec::with_capacity(BLOCK);
        if let Some(file) = &mut self.file {
            // It was emptied meanwhile: what is new stands at its beginning.
            if file.metadata().await?.len() < file.stream_position().await? {
                file.rewind().await?;
            }
            file.take(BLOCK as u64).read_to_end(&mut block).await?;
        }
        if !block.is_empty() {
            self.split(&block);
        } else if wait {
            tokio::time::sleep(POLL).await;
        } else {
            self.done = true;
            if !self.partial.is_empty() {
                self.end_line();
            }
        }
        Ok(())
    }

    fn split(&mut self, block: &[u8]) {
        for piece in block.split_inclusive(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.partial.pop();
                self.end_line();
            } else if self.partial.len() >= LONGEST_LINE {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.partial);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        self.ready.push_back(String::from_utf8_lossy(line).into_owned());
    }
}

/// Moves to where the last `lines` lines begin, reading no more of the file than that.
async fn seek_to_tail(file: &mut File, lines: usize) -> std::io::Result<()> {
    let end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(());
    }
    let mut start = end;
    let mut found = 0;
    let mut block = Vec::with_capacity(BLOCK);
    while start > 0 {
        let from = start.saturating_sub(BLOCK as u64);
        file.seek(SeekFrom::Start(from)).await?;
        block.clear();
        file.take(start - from).read_to_end(&mut block).await?;
        for (at, _) in block.iter().enumerate().rev().filter(|&(_, &byte)| byte == b'\n') {
            let after = from + at as u64 + 1;
            // The end of the last line ends nothing before it.
            if after == end {
                continue;
            }
            found += 1;
            if found == lines {
                file.seek(SeekFrom::Start(after)).await?;
                return Ok(());
            }
        }
        start = from;
    }
    file.seek(SeekFrom::Start(0)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(content: &[u8], tail: Option<usize>) -> Vec<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        std::fs::write(&path, content).expect("written");
        let log = LogFile { service: ServiceName::new("main").expect("a name"), path };
        lines(log, tail, None).map(|line| line.expect("a line").text).collect().await
    }

    #[tokio::test]
    async fn a_tail_is_the_last_lines() {
        let content = b"one\ntwo\r\nthree\n";
        assert_eq!(read(content, None).await, ["one", "two", "three"]);
        assert_eq!(read(content, Some(2)).await, ["two", "three"]);
        assert_eq!(read(content, Some(3)).await, ["one", "two", "three"]);
        assert_eq!(read(content, Some(9)).await, ["one", "two", "three"]);
        assert_eq!(read(content, Some(0)).await, [""; 0]);
        assert_eq!(read(b"one\ntwo", Some(1)).await, ["two"]);
        assert_eq!(read(b"", Some(1)).await, [""; 0]);
        assert_eq!(read(b"\n\n", Some(1)).await, [""]);
    }

    #[tokio::test]
    async fn a_log_that_is_too_large_is_emptied_under_its_program() {
        use std::io::BufRead;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let out = std::fs::OpenOptions::new().append(true).create(true).open(&path).expect("a file");
        let mut program = std::process::Command::new("/bin/sh")
            .args(["-c", "head -c 100000 /dev/zero; echo full >&2; read -r _; echo more"])
            .stdin(std::process::Stdio::piped())
            .stdout(out)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut told = String::new();
        std::io::BufReader::new(program.stderr.take().expect("a pipe")).read_line(&mut told).expect("a line");
        shorten(&path, 100_000).expect("nothing to do");
        assert_eq!(path.metadata().expect("a file").len(), 100_000);
        shorten(&path, 99_999).expect("emptied");
        drop(program.stdin.take());
        assert!(program.wait().expect("it ends").success());
        let left = std::fs::read_to_string(&path).expect("text");
        assert_eq!(left, format!("{DROPPED}more\n"));
        shorten(&dir.path().join("none"), 0).expect("what is not there is not too large");
    }

    #[tokio::test]
    async fn a_tail_crosses_blocks() {
        let mut content: Vec<u8> = Vec::new();
        for n in 0..40_000 {
            content.extend(format!("line {n}\n").bytes());
        }
        let tail = read(&content, Some(30_000)).await;
        assert_eq!(tail.len(), 30_000);
        assert_eq!((tail[0].as_str(), tail[29_999].as_str()), ("line 10000", "line 39999"));
        assert_eq!(read(&content, None).await.len(), 40_000);
    }

    #[tokio::test]
    async fn bytes_of_any_kind_are_lines() {
        assert_eq!(read(b"a\xff\0b\n", None).await, ["a\u{fffd}\0b"]);
        let endless = read(&vec![b'x'; LONGEST_LINE + 10], None).await;
        assert_eq!(endless.iter().map(String::len).collect::<Vec<_>>(), [LONGEST_LINE, 10]);
    }
}
