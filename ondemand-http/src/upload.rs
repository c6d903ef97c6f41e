//! Uploads: a body that is imported while it arrives, and the two ways to answer it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, HttpBody};
use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::StreamExt;
use ondemand_core::progress::Reporter;
use ondemand_core::{Error, Source};
use tokio_util::io::StreamReader;

use crate::events;
use crate::problem::Problem;
use crate::wire::Snapshot;

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
        events::answer_reported(headers, |reporter| import(source, reporter), problem).await
    }
}

fn too_large(limit: u64) -> Problem {
    Problem::too_large(limit, "http.max-upload")
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

#[cfg(test)]
mod tests;
