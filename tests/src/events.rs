//! What a server tells while it makes or changes an environment, as it tells it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::RequestBuilder;

/// How long a step may take; far more than any needs.
const PATIENCE: Duration = Duration::from_secs(100);

/// An answer of server-sent events that is still coming.
pub struct Steps {
    events: BoxStream<'static, reqwest::Result<Vec<u8>>>,
    text: String,
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steps").field("text", &self.text).finish_non_exhaustive()
    }
}

impl Steps {
    /// Sends a request whose answer is events.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn of(request: RequestBuilder) -> Result<Self> {
        let answer = request.header("accept", "text/event-stream").send().await?.error_for_status()?;
        let events = answer.bytes_stream().map(|bytes| bytes.map(|bytes| bytes.to_vec())).boxed();
        Ok(Self { events, text: String::new() })
    }

    /// Waits until a phase has begun: `resolving`, `cloning-data`, `deploying`, `building`, `waiting`, `ready`.
    ///
    /// # Errors
    /// If it has not within 100 seconds, or the answer ends before, with all that was told.
    pub async fn until(&mut self, phase: &str) -> Result<()> {
        self.until_told(&format!("\"phase\":\"{phase}\"")).await
    }

    /// Waits until something has been told.
    ///
    /// # Errors
    /// If it has not within 100 seconds, or the answer ends before, with all that was told.
    pub async fn until_told(&mut self, what: &str) -> Result<()> {
        while !self.text.contains(what) {
            ensure!(self.more().await?, "it ended before {what}:\n{}", self.text);
        }
        Ok(())
    }

    /// Waits for the end, and returns all that was told.
    ///
    /// # Errors
    /// If the answer is cut off, or nothing is told for 100 seconds.
    pub async fn rest(mut self) -> Result<String> {
        while self.more().await? {}
        Ok(self.text)
    }

    async fn more(&mut self) -> Result<bool> {
        let next = tokio::time::timeout(PATIENCE, self.events.next()).await;
        let Some(bytes) = next.with_context(|| format!("nothing more is told:\n{}", self.text))? else {
            return Ok(false);
        };
        self.text += &String::from_utf8_lossy(&bytes?);
        Ok(true)
    }
}
