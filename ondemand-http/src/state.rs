//! What every handler can reach.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ondemand_core::{Config, Databases, Datasets, Error, Janitor, Ondemand, SnapshotStore};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::auth::Credentials;
use crate::problem::Problem;

/// How long a request waits for a server that is starting.
const PATIENCE: Duration = Duration::from_secs(30);

/// What every handler can reach. Clones share it.
#[derive(Debug, Clone)]
pub struct AppState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ondemand: Ondemand,
    credentials: Credentials,
    max_body: u64,
    max_upload: Option<u64>,
    ready: watch::Sender<bool>,
    /// What keeps the server from being ready, and what to do about it.
    trouble: Mutex<Option<(String, Option<String>)>>,
    shutdown: CancellationToken,
}

impl AppState {
    /// Makes the state of a server that is not ready yet.
    pub fn new(ondemand: Ondemand, config: &Config) -> Self {
        let http = &config.http;
        Self(Arc::new(Inner {
            ondemand,
            credentials: Credentials::new(config),
            max_body: http.max_body.0,
            max_upload: http.max_upload.map(|size| size.0),
            ready: watch::Sender::new(false),
            trouble: Mutex::default(),
            shutdown: CancellationToken::new(),
        }))
    }

    /// Says that the first round of the janitor is done, so that what runs is known.
    pub fn set_ready(&self) {
        self.0.ready.send_replace(true);
    }

    /// Says what keeps the first round from being done, for those who ask meanwhile.
    pub(crate) fn set_trouble(&self, error: &Error) {
        let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
        let what = causes.fold(error.to_string(), |what, cause| format!("{what}: {cause}"));
        *self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some((what, error.hint()));
    }

    /// Ends the answers that would never end by themselves, such as logs that are followed.
    pub fn shut_down(&self) {
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

    pub(crate) async fn shutdown(&self) {
        self.0.shutdown.cancelled().await;
    }

    pub(crate) fn close(&self) {
        self.0.ondemand.close();
    }

    pub(crate) fn databases(&self) -> &Databases {
        &self.0.ondemand.databases
    }

    pub(crate) fn datasets(&self) -> &Datasets {
        &self.0.ondemand.datasets
    }

    pub(crate) fn janitor(&self) -> &Janitor {
        &self.0.ondemand.janitor
    }

    pub(crate) fn store(&self) -> &dyn SnapshotStore {
        &*self.0.ondemand.store
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    pub(crate) fn max_body(&self) -> u64 {
        self.0.max_body
    }

    pub(crate) fn max_upload(&self) -> Option<u64> {
        self.0.max_upload
    }
}
