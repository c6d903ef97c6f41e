//! Everything put together.

use std::sync::Arc;

use crate::config::Config;
use crate::databases::Databases;
use crate::datasets::Datasets;
use crate::error::Result;
use crate::janitor::Janitor;
use crate::snapshot::SnapshotStore;

/// Databases and datasets over one data directory, put together as a [`Config`] says.
#[derive(Debug, Clone)]
pub struct Ondemand {
    /// Databases.
    pub databases: Databases,
    /// Datasets.
    pub datasets: Datasets,
    /// What cleans up.
    pub janitor: Janitor,
    /// What keeps the data.
    pub store: Arc<dyn SnapshotStore>,
    /// What to tell the user about the choices that were made, such as a store that copies.
    pub notices: Vec<String>,
}

impl Ondemand {
    /// Opens the data directory, and makes it if need be. One process at a time may have it open.
    ///
    /// Nothing is started or deleted before [`Janitor::run_once`] is called.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if another process has it open; [`Unsupported`](crate::Error::Unsupported) for a store or orchestrator that
    /// this machine cannot offer.
    pub async fn open(_config: &Config) -> Result<Self> {
        todo!()
    }
}
