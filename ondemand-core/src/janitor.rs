//! Makes what runs match what is recorded, and reaps what has expired.

use std::time::Duration;

use crate::error::Result;

/// Reconciles and reaps.
#[derive(Debug, Clone)]
pub struct Janitor {}

/// What a round did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// Databases whose time had passed, by id.
    pub reaped: Vec<String>,
    /// Databases that were started again, by id.
    pub restarted: Vec<String>,
    /// What dead attempts had left, by name.
    pub removed: Vec<String>,
    /// What was found and not recognised, and so left alone.
    pub unknown: Vec<String>,
    /// What could not be done, and will be tried again.
    pub failed: Vec<String>,
}

impl Janitor {
    /// Does one round: finishes half-done deletions, removes what dead attempts left, starts what should run, reaps what has expired.
    ///
    /// # Cancel safety
    /// Every step can be repeated by the next round.
    pub async fn run_once(&self) -> Result<Report> {
        todo!()
    }

    /// Does a round now and then, until the future is dropped.
    pub async fn run(&self, _interval: Duration) {
        todo!()
    }
}
