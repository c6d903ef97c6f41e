//! Holding a lease for as long as this process lives.

use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::session::{Question, Server};
use crate::wait::{NoAnswer, Outcome};

/// The server writes every second; after so long without, it or the way there is taken to be gone.
const SILENCE: Duration = Duration::from_secs(10);
/// How long is waited before the next try; the server gives a second to come back, and five where it was restarted.
const PAUSE: Duration = Duration::from_millis(100);

/// What has become of an attempt to hold a lease: nothing yet, or whether it was held.
type State = Option<Outcome<()>>;

/// Holds a lease until it is dropped, over one connection after the other.
pub(crate) struct Holder {
    task: AbortHandle,
    state: watch::Receiver<State>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Holder {
    pub(crate) fn start(runtime: &Runtime, server: Server, id: &str) -> Self {
        let body = serde_json::json!({ "Id": id }).to_string();
        let (tell, state) = watch::channel(None);
        let task = runtime.spawn(async move {
            while let Err(error) = hold_once(&server, &body, &tell).await {
                // It was never held, and whoever asked is told why.
                if tell.borrow().is_none() {
                    tell.send_replace(Some(Err(error)));
                    return;
                }
                sleep(PAUSE).await;
            }
        });
        Self { task: task.abort_handle(), state }
    }

    /// Tells whether it could not begin.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(&*self.state.borrow(), Some(Err(_)))
    }

    /// Waits until the lease is held for the first time.
    pub(crate) fn held(&self) -> impl Future<Output = Outcome<()>> + Send + 'static + use<> {
        let mut state = self.state.clone();
        async move {
            match state.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(Ok(()))) => Ok(()),
                Ok(Some(Err(error))) => Err(error.clone()),
                _ => Err(NoAnswer::Lost("the lease was let go".to_owned())),
            }
        }
    }
}

/// Holds it over one connection, until that breaks; then there is always an error.
async fn hold_once(server: &Server, body: &str, tell: &watch::Sender<State>) -> Outcome<()> {
    let question = Question::new("POST", "/leases".to_owned(), Some(body.as_bytes().to_vec()))
        .map_err(|e| NoAnswer::Lost(e.to_string()))?;
    let mut response = server.send(question).await?;
    let status = response.status();
    if !status.is_success() {
        let body = response.text().await.unwrap_or_default();
        return Err(NoAnswer::Lost(format!("{} {body}", status.as_u16())));
    }
    while let Ok(Ok(Some(_))) = timeout(SILENCE, response.chunk()).await {
        tell.send_replace(Some(Ok(())));
    }
    Err(NoAnswer::Lost("the server let go of the connection".to_owned()))
}
