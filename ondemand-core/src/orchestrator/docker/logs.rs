//! Reading what containers wrote.

use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use futures_util::stream::{self, BoxStream, StreamExt};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;

use super::engine::{failed, has_status};
use super::state::{Record, Seen, Shared};
use crate::error::Result;
use crate::orchestrator::{LogLine, LogOptions, ServiceSpec};

/// How often a container that has ended is looked at, by those who follow its log until its stack is removed.
const POLL: Duration = Duration::from_millis(250);
/// How many lines are read ahead.
const AHEAD: usize = 64;
/// Where a line without an end is cut, so that it cannot fill the memory.
pub(in crate::orchestrator) const LONGEST_LINE: usize = 256 * 1024;

/// Returns the lines of one service.
pub(super) fn lines(
    shared: Arc<Shared>,
    record: Record,
    service: ServiceSpec,
    options: LogOptions,
) -> BoxStream<'static, Result<LogLine>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut reader = Reader {
            shared,
            record,
            service,
            options,
            sender: sender.clone(),
            last: None,
            partial: Default::default(),
        };
        tokio::select! {
            () = sender.closed() => {}
            read = reader.read() => if let Err(error) = read {
                let _ = sender.send(Err(error)).await;
            }
        }
    });
    stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((line, receiver))
    })
    .boxed()
}

struct Reader {
    shared: Arc<Shared>,
    record: Record,
    service: ServiceSpec,
    options: LogOptions,
    sender: mpsc::Sender<Result<LogLine>>,
    /// The time of the last line.
    last: Option<OffsetDateTime>,
    /// The beginnings of lines whose ends have not been read: of standard output, and of standard error.
    partial: [Option<(Option<OffsetDateTime>, Vec<u8>)>; 2],
}

impl Reader {
    async fn read(&mut self) -> Result<()> {
        let mut started = None;
        loop {
            let seen = self.shared.see(&self.record, &self.service).await?;
            // The engine's stream ends with the container, and there is more to read once it was started again.
            if let Some(seen) = seen.filter(|seen| started.is_none() || seen.started != started) {
                self.read_run(&seen).await?;
                started = seen.started;
            }
            let there = |now: Record| now.id == self.record.id;
            if !self.options.follow || !self.shared.records.read(&self.record.spec.name)?.is_some_and(there) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Reads until the engine's stream ends.
    async fn read_run(&mut self, seen: &Seen) -> Result<()> {
        let client = self.shared.engine.client().await?;
        let since = self.last.or(self.options.since).map_or(0, OffsetDateTime::unix_timestamp);
        let tail = self.options.tail.filter(|_| self.last.is_none());
        let options = LogsOptions {
            follow: self.options.follow,
            stdout: true,
            stderr: true,
            since: i32::try_from(since).unwrap_or(i32::MAX),
            timestamps: true,
            tail: tail.map_or_else(|| "all".to_owned(), |tail| tail.to_string()),
            ..LogsOptions::default()
        };
        if tail == Some(0) && !self.options.follow {
            return Ok(());
        }
        let before = self.last;
        let mut frames = Box::pin(client.logs(&seen.container, Some(options)));
        while let Some(frame) = frames.next().await {
            match frame {
                Ok(frame) => self.take(&frame, before).await,
                // It is gone, or about to be.
                Err(e) if has_status(&e, 404) || has_status(&e, 409) => break,
                Err(e) => return Err(failed(format!("reading the log of service {}", self.service.name), e)),
            }
        }
        for stream in 0..self.partial.len() {
            self.end_line(stream, before).await;
        }
        Ok(())
    }

    /// Takes one message of the log: a line, or a piece of a long one, each with the time before it.
    async fn take(&mut self, frame: &LogOutput, before: Option<OffsetDateTime>) {
        let (stream, message) = match frame {
            LogOutput::StdErr { message } => (1, message),
            LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
                (0, message)
            }
        };
        let (time, text) = split_time(message);
        let (text, ends) = text.strip_suffix(b"\n").map_or((text, false), |text| (text, true));
        let (_, line) = self.partial[stream].get_or_insert((time, Vec::new()));
        line.extend_from_slice(text);
        if ends || line.len() >= LONGEST_LINE {
            self.end_line(stream, before).await;
        }
    }

    async fn end_line(&mut self, stream: usize, before: Option<OffsetDateTime>) {
        let Some((time, line)) = self.partial[stream].take() else { return };
        // The engine counts from whole seconds, so some may come again.
        let from = self.options.since;
        if time.is_some_and(|time| before.is_some_and(|before| time <= before) || from.is_some_and(|from| time < from))
        {
            return;
        }
        self.last = self.last.max(time);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        let text = String::from_utf8_lossy(line).into_owned();
        // If nobody reads any more, this task is about to end.
        let _ = self.sender.send(Ok(LogLine { service: self.service.name.clone(), time, text })).await;
    }
}

/// Splits the time off that the engine puts before every message.
pub(in crate::orchestrator) fn split_time(message: &[u8]) -> (Option<OffsetDateTime>, &[u8]) {
    let Some(space) = message.iter().position(|&byte| byte == b' ') else { return (None, message) };
    let time = std::str::from_utf8(&message[..space]).ok().and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok());
    match time {
        Some(time) => (Some(time), &message[space + 1..]),
        None => (None, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_begins_with_its_time() {
        let (time, text) = split_time(b"2026-11-22T20:02:49.434521942Z two words\n");
        assert_eq!(time.map(OffsetDateTime::nanosecond), Some(434_521_942));
        assert_eq!(text, b"two words\n");
        assert_eq!(split_time(b"two words"), (None, &b"two words"[..]));
        assert_eq!(split_time(b""), (None, &b""[..]));
    }
}
