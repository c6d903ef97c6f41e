//! Answers that are streams of server-sent events: progress, and the outcome at the end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use ondemand_core::Error;
use ondemand_core::progress::{self, Reporter};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::body::reply;
use crate::problem::Problem;

/// How many events may wait for a slow client; more are left out.
pub(crate) const BACKLOG: usize = 64;
/// How often a client is told that the work goes on, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Tells whether a client asks for events.
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    let wants = |value: &header::HeaderValue| value.to_str().is_ok_and(|text| text.contains("text/event-stream"));
    headers.get_all(header::ACCEPT).iter().any(wants)
}

/// Does the work, and answers with `progress` for each event and `done` or `error` at the end. A client that goes away ends the work.
pub(crate) fn answer<E, T>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    events: mpsc::Receiver<E>,
) -> Response
where
    E: Serialize + Send + 'static,
    T: Serialize + Send + 'static,
{
    let task = AbortOnDropHandle::new(tokio::spawn(work));
    Sse::new(of(task, events)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// Does work that makes something and reports on the way: answers with events where the client asked for them, else with what was made.
pub(crate) async fn answer_reported<T, F>(
    headers: &HeaderMap,
    work: impl FnOnce(Reporter) -> F,
    problem: impl FnOnce(Error) -> Problem + Send + 'static,
) -> Result<Response, Problem>
where
    T: Serialize + Send + 'static,
    F: Future<Output = ondemand_core::Result<T>> + Send + 'static,
{
    if !wanted(headers) {
        let made = work(progress::silent()).await.map_err(problem)?;
        return Ok(reply(StatusCode::CREATED, &made));
    }
    let (sender, events) = mpsc::channel(BACKLOG);
    let reporter: Reporter = Arc::new(move |event| {
        // A client that does not keep up misses events, and the work goes on at its own pace.
        let _ = sender.try_send(event);
    });
    let work = work(reporter);
    Ok(answer(async move { work.await.map_err(problem) }, events))
}

/// Returns what a client is told: progress while the task runs, and its outcome at the end. Dropped with the connection, it
/// ends the task.
fn of<E: Serialize, T: Serialize>(
    task: AbortOnDropHandle<Result<T, Problem>>,
    events: mpsc::Receiver<E>,
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
            Ok(Ok(done)) => json("done", &done),
            Ok(Err(problem)) => json("error", &problem.into_body()),
            Err(failed) if failed.is_cancelled() => json("error", &Problem::from(Error::Cancelled).into_body()),
            Err(_) => json("error", &Problem::internal().into_body()),
        };
        Some((Ok(event), None))
    })
}

fn json(name: &str, data: &impl Serialize) -> Event {
    Event::default().event(name).json_data(data).unwrap_or_else(|_| Event::default().event(name))
}
