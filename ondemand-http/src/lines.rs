//! Answers that are the lines of a log, as they come.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use ondemand_core::Result;
use ondemand_core::orchestrator::LogLine;

use crate::life::Life;
use crate::problem::Problem;

/// Answers with lines, each as `write` has it, until there are no more, the client goes away or the server ends.
pub(crate) fn answer(
    mut lines: BoxStream<'static, Result<LogLine>>,
    life: Life,
    write: impl Fn(LogLine) -> String + Send + 'static,
) -> Result<Response, Problem> {
    // What fails at once is still answered with a status; what fails later can only end the stream.
    let first = match lines.next().now_or_never() {
        Some(Some(Err(error))) => return Err(error.into()),
        Some(first) => stream::iter(first).left_stream(),
        None => stream::empty().right_stream(),
    };
    let shutdown = async move { life.ending().await };
    let text = first.chain(lines).take_until(Box::pin(shutdown)).map(move |entry| match entry {
        Ok(entry) => Ok(write(entry) + "\n"),
        Err(error) => {
            tracing::warn!("a log ends early: {error}");
            Err(error)
        }
    });
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(text)).into_response())
}
