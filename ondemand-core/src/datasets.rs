//! Datasets: what databases are cloned from.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::io::AsyncRead;

use crate::error::Result;
use crate::name::{DatasetName, DatasetRef, SnapshotName, Version};
use crate::progress::Reporter;
use crate::snapshot::SnapshotStore;

/// Imports, lists and deletes datasets.
#[derive(Debug, Clone)]
pub struct Datasets {
    store: Arc<dyn SnapshotStore>,
}

/// How datasets are imported.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DatasetsOptions {}

/// A named lineage of data, with its versions.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Its name.
    pub name: DatasetName,
    /// Its versions, the newest last; never empty.
    pub versions: Vec<DatasetSnapshot>,
}

/// One published version of a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetSnapshot {
    /// The dataset.
    pub dataset: DatasetName,
    /// The version.
    pub version: Version,
    /// Its name in the store.
    pub name: SnapshotName,
    /// When it was published.
    pub created: OffsetDateTime,
    /// The major version of Postgres that wrote it.
    pub postgres: u32,
    /// The Postgres database that holds the data.
    pub dbname: String,
    /// Bytes of the data directory.
    pub data_bytes: u64,
    /// Bytes of the dump it was made from.
    pub dump_bytes: u64,
    /// How many databases live on it.
    pub databases: usize,
}

/// What a dataset is made from.
pub enum Source {
    /// A file with a dump, a directory that `pg_dump -Fd` wrote, or the data directory of a server that was shut down cleanly.
    Path(PathBuf),
    /// The bytes of a dump file, or of a tar archive of either directory.
    Stream {
        /// The bytes.
        reader: Pin<Box<dyn AsyncRead + Send>>,
        /// How many there are, where that is known.
        total: Option<u64>,
    },
}

/// What a dump is, found by looking at its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// SQL text, perhaps compressed.
    Sql,
    /// What `pg_dump -Fc` writes.
    Custom,
    /// What `pg_dump -Fd` writes.
    Directory,
    /// A data directory.
    DataDirectory,
}

/// How a dump is restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// The Postgres database to restore into; where there is none, `postgres`, or the one that the dump makes.
    pub dbname: Option<String>,
    /// Roles to make before restoring, for dumps that name owners they do not bring.
    pub roles: Vec<String>,
    /// Leaves out owners and privileges; not for SQL text.
    pub no_owner: bool,
    /// The major version of Postgres to restore with; where there is none, the newest that is installed.
    pub postgres: Option<u32>,
}

impl Datasets {
    /// Restores a dump into a new version of `name`, which need not exist yet.
    ///
    /// # Errors
    /// [`InvalidDump`](crate::Error::InvalidDump), [`Conflict`](crate::Error::Conflict) while another import into the same dataset runs,
    /// [`OutOfSpace`](crate::Error::OutOfSpace), [`Unsupported`](crate::Error::Unsupported) for a Postgres that is not installed.
    ///
    /// # Cancel safety
    /// Dropped, it publishes nothing and leaves nothing.
    pub async fn import(
        &self,
        _name: &DatasetName,
        _source: Source,
        _options: ImportOptions,
        _reporter: Reporter,
    ) -> Result<DatasetSnapshot> {
        todo!()
    }

    /// Returns all datasets in the order of their names.
    pub async fn list(&self) -> Result<Vec<Dataset>> {
        todo!()
    }

    /// Returns a dataset.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound).
    pub async fn get(&self, _name: &DatasetName) -> Result<Dataset> {
        todo!()
    }

    /// Returns the snapshot that `reference` names: that version, or the newest. With no reference, the newest of the only dataset.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound); [`InvalidInput`](crate::Error::InvalidInput) where there is no reference and several datasets.
    pub async fn resolve(&self, _reference: Option<&DatasetRef>) -> Result<DatasetSnapshot> {
        todo!()
    }

    /// Removes what dead attempts left; returns its names.
    pub(crate) async fn reconcile(&self) -> Result<Vec<String>> {
        todo!()
    }

    /// Deletes a dataset, or one version of it.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound); [`Conflict`](crate::Error::Conflict) while databases live on it.
    ///
    /// # Cancel safety
    /// Calling it again finishes what was begun.
    pub async fn delete(&self, _reference: &DatasetRef) -> Result<()> {
        let _ = &self.store;
        todo!()
    }
}
