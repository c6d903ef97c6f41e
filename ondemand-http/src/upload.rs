//! Uploads: a body that is imported while it arrives, and the two ways to answer it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use ondemand_core::progress::{self, Reporter};
use ondemand_core::{Error, Source};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use tokio_util::task::AbortOnDropHandle;

use crate::body::reply;
use crate::problem::Problem;
use crate::wire::Snapshot;

/// How many events may wait for a slow client; more are left out.
const BACKLOG: usize = 64;
/// How often a client is told that the import goes on, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A body on its way in.
pub(crate) struct Upload {
    body: Body,
    limit: Option<u64>,
    exceeded: Arc<AtomicBool>,
}

impl Upload {
    /// Takes a body of at most `limit` bytes.
    ///
    /// # Errors
    /// A 413 problem if it is announced as larger.
    pub(crate) fn new(body: Body, limit: Option<u64>) -> Result<Self, Problem> {
        match (limit, body.size_hint().exact()) {
            (Some(limit), Some(length)) if length > limit => Err(too_large(limit)),
            _ => Ok(Self { body, limit, exceeded: Arc::default() }),
        }
    }

    /// Runs an import of the body, and answers with events where the client asked for them, else with the result.
    pub(crate) async fn answer<F>(
        self,
        headers: &HeaderMap,
        import: impl FnOnce(Source, Reporter) -> F,
    ) -> Result<Response, Problem>
    where
        F: Future<Output = ondemand_core::Result<Snapshot>> + Send + 'static,
    {
        let Self { body, limit, exceeded } = self;
        let source = source(body, limit, exceeded.clone());
        let problem = move |error: Error| match limit {
            Some(limit) if exceeded.load(Ordering::Relaxed) => too_large(limit),
            _ => Problem::from(error),
        };
        if !wants_events(headers) {
            let snapshot = import(source, progress::silent()).await.map_err(problem)?;
            return Ok(reply(StatusCode::CREATED, &snapshot));
        }
        let (sender, events) = mpsc::channel(BACKLOG);
        let reporter: Reporter = Arc::new(move |event| {
            // A client that does not keep up misses events, and the import goes on at its own pace.
            let _ = sender.try_send(event);
        });
        let import = import(source, reporter);
        let task = AbortOnDropHandle::new(tokio::spawn(async move { import.await.map_err(problem) }));
        let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
        Ok(Sse::new(events_of(task, events)).keep_alive(keep_alive).into_response())
    }
}

fn too_large(limit: u64) -> Problem {
    Problem::too_large(limit, "http.max-upload")
}

fn wants_events(headers: &HeaderMap) -> bool {
    let wants = |value: &header::HeaderValue| value.to_str().is_ok_and(|text| text.contains("text/event-stream"));
    headers.get_all(header::ACCEPT).iter().any(wants)
}

/// Makes a source of a body. It fails at the first byte above the limit.
fn source(body: Body, limit: Option<u64>, exceeded: Arc<AtomicBool>) -> Source {
    let total = body.size_hint().exact();
    let mut left = limit.unwrap_or(u64::MAX);
    let chunks = body.into_data_stream().map(move |chunk| {
        let chunk = chunk.map_err(|e| io::Error::new(io::ErrorKind::ConnectionAborted, e))?;
        left = left.checked_sub(chunk.len() as u64).ok_or_else(|| {
            exceeded.store(true, Ordering::Relaxed);
            io::Error::new(io::ErrorKind::FileTooLarge, "the upload is larger than allowed")
        })?;
        Ok::<_, io::Error>(chunk)
    });
    Source::Stream { reader: Box::pin(StreamReader::new(chunks)), total }
}

/// Returns what a client is told: progress while the task runs, and its outcome at the end. Dropped with the connection, it
/// ends the task.
fn events_of(
    task: AbortOnDropHandle<Result<Snapshot, Problem>>,
    events: mpsc::Receiver<progress::Event>,
) -> impl futures_util::Stream<Item = Result<Event, Infallible>> {
    stream::unfold(Some((task, events)), |state| async {
        let (mut task, mut events) = state?;
        // The outcome comes last, however fast it is: what was reported before it is waiting in the channel.
        let outcome = tokio::select! {
            biased;
            Some(event) = events.recv() => return Some((Ok(json("progress", &event)), Some((task, events)))),
            outcome = &mut task => outcome,
        };
        let event = match outcome {
            Ok(Ok(snapshot)) => json("done", &snapshot),
            Ok(Err(problem)) => json("error", &problem.into_body()),
            Err(failed) if failed.is_cancelled() => json("error", &Problem::from(Error::Cancelled).into_body()),
            Err(_) => json("error", &Problem::internal().into_body()),
        };
        Some((Ok(event), None))
    })
}

fn json(name: &str, data: &impl serde::Serialize) -> Event {
    Event::default().event(name).json_data(data).unwrap_or_else(|_| Event::default().event(name))
}

#[cfg(test)]
mod tests;
