//! Progress of long operations, told to whoever asked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One step forward of a long operation.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// What is being done now.
    pub phase: Phase,
    /// Bytes of the input that were read since the start.
    pub bytes: u64,
    /// Bytes of the whole input, where that is known.
    pub total: Option<u64>,
    /// Bytes a second in this phase, where bytes are being read.
    pub rate: Option<f64>,
    /// How long the operation has been going on.
    pub elapsed: Duration,
    /// A detail for people, such as the table that is being restored.
    pub detail: Option<String>,
}

/// A phase of an import, in the order they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Making an empty cluster.
    Preparing,
    /// Writing the input to disk, where restoring needs all of it.
    Receiving,
    /// Loading the data.
    Restoring,
    /// Removing what a copy must not keep: passwords, subscriptions, slots.
    Neutralising,
    /// `VACUUM (FREEZE, ANALYZE)`.
    Analysing,
    /// Shutting down, checking, and making the snapshot.
    Publishing,
    /// The snapshot is there.
    Done,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Preparing => "preparing",
            Self::Receiving => "receiving",
            Self::Restoring => "restoring",
            Self::Neutralising => "neutralising",
            Self::Analysing => "analysing",
            Self::Publishing => "publishing",
            Self::Done => "done",
        })
    }
}

/// Receives events. Called from the task that works: it must not block.
pub type Reporter = Arc<dyn Fn(Event) + Send + Sync>;

/// Returns a reporter that tells nobody.
pub fn silent() -> Reporter {
    Arc::new(|_| ())
}
