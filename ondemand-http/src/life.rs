//! How far a server is: starting, ready, ending.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ondemand_core::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::problem::Problem;

/// How long a request waits for a server that is starting.
const PATIENCE: Duration = Duration::from_secs(30);

/// How far a server is. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ready: watch::Sender<bool>,
    /// What keeps the server from being ready, and what to do about it.
    trouble: Mutex<Option<(String, Option<String>)>>,
    shutdown: CancellationToken,
}

impl Life {
    /// Says that the server can do its work.
    pub(crate) fn set_ready(&self) {
        self.0.ready.send_replace(true);
    }

    /// Says what keeps it from being ready, for those who ask meanwhile.
    pub(crate) fn set_trouble(&self, error: &Error) {
        let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
        let what = causes.fold(error.to_string(), |what, cause| format!("{what}: {cause}"));
        *self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some((what, error.hint()));
    }

    /// Ends the answers that would never end by themselves.
    pub(crate) fn shut_down(&self) {
        self.0.shutdown.cancel();
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.0.ready.borrow()
    }

    /// Waits until the server is ready.
    pub(crate) async fn ready(&self) -> Result<(), Problem> {
        let mut ready = self.0.ready.subscribe();
        match tokio::time::timeout(PATIENCE, ready.wait_for(|&ready| ready)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.not_ready()),
        }
    }

    /// Makes the problem of a server that is starting.
    pub(crate) fn not_ready(&self) -> Problem {
        let trouble = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (last, hint) = match trouble {
            Some((what, hint)) => (format!("the server is starting, and cannot find out what runs: {what}"), hint),
            None => ("the server is starting: it is finding out what runs".to_owned(), None),
        };
        let hint = hint.unwrap_or_else(|| "try again; if that does not help, the server's log says why".to_owned());
        Problem::from(Error::NotReady { waited: Duration::ZERO, last, log: Vec::new() }).with_hint(hint).expected()
    }

    /// Waits until the server is asked to end.
    pub(crate) async fn ending(&self) {
        self.0.shutdown.cancelled().await;
    }
}

/// Holds a request until it is known what runs: a server that was just started neither knows its databases nor should it
/// take a new one for the rest of a dead attempt.
pub(crate) async fn wait_until_ready(State(life): State<Life>, request: Request, next: Next) -> Response {
    match life.ready().await {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}
