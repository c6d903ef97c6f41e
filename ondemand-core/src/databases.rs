//! Databases: private, writable Postgres servers on clones of a snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use time::OffsetDateTime;

use crate::datasets::Datasets;
use crate::error::Result;
use crate::name::{DatabaseId, DatabaseName, DatasetName, DatasetRef, Version};
use crate::notation::Ttl;
use crate::orchestrator::{LogLine, LogOptions, Orchestrator};
use crate::secret::Secret;
use crate::snapshot::SnapshotStore;

/// Creates, resets, extends and deletes databases.
#[derive(Debug, Clone)]
pub struct Databases {
    _orchestrator: Arc<dyn Orchestrator>,
    _store: Arc<dyn SnapshotStore>,
    _datasets: Datasets,
}

/// How databases are made.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DatabasesOptions {}

/// What a new database is to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CreateOptions {
    /// What to clone; where there is none, the configured default, or the only dataset there is.
    pub dataset: Option<DatasetRef>,
    /// How long it lives; where there is none, the configured default.
    pub ttl: Option<Ttl>,
    /// A name, unique among the databases that live; where there is none, `pgondemand_PORT`.
    pub name: Option<DatabaseName>,
    /// Whether commits survive a power cut. Costs a flush to disk for every commit.
    pub durable: bool,
    /// Postgres settings, as in `postgresql.conf`.
    pub settings: BTreeMap<String, String>,
}

/// A running Postgres server on a volume of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// Identifies it for as long as it lives.
    pub id: DatabaseId,
    /// Its name.
    pub name: DatabaseName,
    /// The dataset it was cloned from.
    pub dataset: DatasetName,
    /// The version of the dataset.
    pub version: Version,
    /// The host to connect to.
    pub host: String,
    /// The port to connect to.
    pub port: u16,
    /// The user to connect as; a superuser.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// The Postgres database that holds the data.
    pub dbname: String,
    /// When it was created.
    pub created: OffsetDateTime,
    /// When it is reaped.
    pub expires: OffsetDateTime,
    /// Whether commits survive a power cut.
    pub durable: bool,
    /// The settings it was created with.
    pub settings: BTreeMap<String, String>,
    /// What it does.
    pub state: DatabaseState,
}

/// What a database does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum DatabaseState {
    /// It answers.
    Running,
    /// It is going back to its snapshot.
    Resetting,
    /// It is being started again, after it or the host stopped.
    Starting,
    /// Postgres has ended by itself; the janitor starts it again.
    Stopped,
}

impl Database {
    /// Returns the connection URL with the password in it, as `psql` and every driver take it.
    pub fn url(&self) -> String {
        todo!()
    }
}

impl Databases {
    /// Creates a database, and returns once it answers.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) for the dataset, [`AlreadyExists`](crate::Error::AlreadyExists) for the name,
    /// [`InvalidInput`](crate::Error::InvalidInput) for a ttl or setting, [`QuotaExceeded`](crate::Error::QuotaExceeded) without a free port,
    /// [`OutOfSpace`](crate::Error::OutOfSpace), [`NotReady`](crate::Error::NotReady) if Postgres does not start.
    ///
    /// # Cancel safety
    /// Dropped, what was made so far is deleted in the background.
    pub async fn create(&self, _options: CreateOptions) -> Result<Database> {
        todo!()
    }

    /// Returns a database.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound).
    pub async fn get(&self, _id: &DatabaseId) -> Result<Database> {
        todo!()
    }

    /// Returns the id that `text` stands for: an id, its first digits (four at least) if only one has them, or a name (with or
    /// without the leading slash of the wire format).
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound); [`InvalidInput`](crate::Error::InvalidInput) if several ids begin so.
    pub async fn find(&self, _text: &str) -> Result<DatabaseId> {
        todo!()
    }

    /// Returns all databases, the oldest first.
    pub async fn list(&self) -> Result<Vec<Database>> {
        todo!()
    }

    /// Deletes a database. Returns when its process, volume and port are gone.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound).
    ///
    /// # Cancel safety
    /// Dropped, it goes on in the background.
    pub async fn delete(&self, _id: &DatabaseId) -> Result<()> {
        todo!()
    }

    /// Takes a database back to its snapshot: same address, same password, same expiry.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) for the database or its snapshot; [`Conflict`](crate::Error::Conflict) while it is being reset or deleted.
    ///
    /// # Cancel safety
    /// Dropped, it goes on in the background.
    pub async fn reset(&self, _id: &DatabaseId) -> Result<Database> {
        todo!()
    }

    /// Makes a database live `ttl` from now.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound); [`InvalidInput`](crate::Error::InvalidInput) above the configured maximum.
    ///
    /// # Cancel safety
    /// The expiry is the old one or the new one.
    pub async fn extend(&self, _id: &DatabaseId, _ttl: Ttl) -> Result<Database> {
        todo!()
    }

    /// Returns what the server wrote to its log.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound).
    pub async fn logs(&self, _id: &DatabaseId, _options: LogOptions) -> Result<BoxStream<'static, Result<LogLine>>> {
        todo!()
    }
}
