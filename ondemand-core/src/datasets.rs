//! Datasets: what databases are cloned from.

mod catalog;
mod diagnose;
mod faults;
mod handover;
mod import;
mod input;
mod meter;
mod needs;
mod reconcile;
mod restore;
mod sniff;
mod statements;
mod unpack;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;
use tokio::io::AsyncRead;

pub(crate) use handover::Handover;

use crate::error::Result;
use crate::janitor::Report;
use crate::name::{AttemptId, DatasetName, DatasetRef, SnapshotName, Version};
use crate::orchestrator::RunAs;
use crate::postgres::Installs;
use crate::progress::Reporter;
use crate::sandbox::Sandbox;
use crate::snapshot::SnapshotStore;

/// Imports, lists and deletes datasets.
#[derive(Debug, Clone)]
pub struct Datasets {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn SnapshotStore>,
    options: DatasetsOptions,
    live: Mutex<Live>,
    /// Held for writing while it is decided what is deleted.
    deciding: tokio::sync::RwLock<()>,
    /// The snapshots that are being deleted, each with the number of deletions under way; where they are copies, one takes minutes. Nothing is
    /// made of them any more.
    doomed: Mutex<HashMap<SnapshotName, usize>>,
}

/// Snapshots that are doomed until this is dropped.
#[derive(Debug)]
struct Doomed {
    inner: Arc<Inner>,
    names: Vec<SnapshotName>,
}

impl Doomed {
    fn new(inner: &Arc<Inner>, names: Vec<SnapshotName>) -> Self {
        let mut doomed = inner.doomed.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &names {
            *doomed.entry(name.clone()).or_default() += 1;
        }
        drop(doomed);
        Self { inner: Arc::clone(inner), names }
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        let mut doomed = self.inner.doomed.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            let left = doomed.remove(name).unwrap_or_default().saturating_sub(1);
            if left > 0 {
                doomed.insert(name.clone(), left);
            }
        }
    }
}

/// The imports that run in this process.
#[derive(Debug, Default)]
struct Live {
    datasets: HashSet<DatasetName>,
    attempts: HashSet<AttemptId>,
}

/// How datasets are imported.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DatasetsOptions {
    /// The versions of PostgreSQL there are.
    pub installs: Installs,
    /// Whom PostgreSQL runs as; see [`os_user`](crate::postgres::os_user).
    pub user: RunAs,
    /// Where private unix sockets are made. Its path is short, and `user` can pass through it.
    pub runtime_dir: PathBuf,
    /// The data directory (the installation) that owns what is made.
    pub instance: String,
    /// How many programs work at a time.
    pub jobs: usize,
    /// What the programs of imports and publications are put in; without, they see the host as it is. A dump is a program, and so is what a superuser
    /// leaves in a database.
    pub sandbox: Option<Sandbox>,
}

impl DatasetsOptions {
    /// Makes options with as many jobs as there are processors.
    pub fn new(installs: Installs, user: RunAs, runtime_dir: impl Into<PathBuf>, instance: impl Into<String>) -> Self {
        Self {
            installs,
            user,
            runtime_dir: runtime_dir.into(),
            instance: instance.into(),
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            sandbox: None,
        }
    }
}

impl Default for DatasetsOptions {
    /// Lists and deletes; with no PostgreSQL, an import is [`Unsupported`](crate::Error::Unsupported).
    fn default() -> Self {
        let user = RunAs { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        Self::new(Installs::default(), user, std::env::temp_dir(), "default")
    }
}

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
    /// Whether it is a by-product; see [`ImportOptions::derived`].
    pub derived: bool,
    /// How many statements of the dump failed: of an incomplete version, more than none. See [`OnError::Continue`].
    pub failures: u64,
    /// What the first of them failed with.
    pub failed: Vec<String>,
    /// What whoever uses it should know.
    pub warning: Option<String>,
    /// How many databases live on it.
    pub databases: usize,
}

/// What a dataset is made from.
pub enum Source {
    /// A file with a dump, a directory that `pg_dump -Fd` wrote, or the data directory of a server that was shut down cleanly.
    Path(PathBuf),
    /// Nothing: the version is an empty cluster.
    Empty,
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

/// What a statement of a dump that fails leads to. What makes things that are there already (the schema `public`, roles, extensions, languages), or
/// drops what is not there, has not failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// The import fails.
    #[default]
    Stop,
    /// The restore goes on, and the version is [incomplete](DatasetSnapshot::failures).
    Continue,
}

/// What a role leads to that a dump names and does not make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MissingRoles {
    /// Its statement fails, and with it the import, which names all of them.
    #[default]
    Refuse,
    /// It is made, without attributes.
    Create,
}

impl std::str::FromStr for OnError {
    type Err = crate::Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "stop" => Ok(Self::Stop),
            "continue" => Ok(Self::Continue),
            _ => Err(crate::Error::invalid("on_error", "it is stop or continue")),
        }
    }
}

/// How a dump is restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// The Postgres database that holds the data: of several that the dump makes, this one, or else one that is made to restore into. Where there is
    /// none, an archive's own, the only one that SQL text makes, or `postgres`.
    pub dbname: Option<String>,
    /// Roles to make before restoring, for dumps that name owners they do not bring.
    pub roles: Vec<String>,
    /// What a role leads to that the dump names and does not make.
    pub missing_roles: MissingRoles,
    /// Leaves out owners and privileges; not for SQL text.
    pub no_owner: bool,
    /// What a statement that fails leads to.
    pub on_error: OnError,
    /// The major version of Postgres to restore with; where there is none, the newest that is installed.
    pub postgres: Option<u32>,
    /// Refuses if the dataset exists already: of several that make the same one, one does.
    pub new: bool,
    /// Makes it a by-product, which is used by name alone: whoever names no dataset gets the only one that is none.
    pub derived: bool,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Stream { total, .. } => f.debug_struct("Stream").field("total", total).finish_non_exhaustive(),
        }
    }
}

impl Datasets {
    /// Takes a store whose snapshots are the datasets.
    pub fn new(store: Arc<dyn SnapshotStore>, options: DatasetsOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                options,
                live: Mutex::default(),
                deciding: tokio::sync::RwLock::default(),
                doomed: Mutex::default(),
            }),
        }
    }

    /// Restores a dump into a new version of `name`, which need not exist yet.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::Error::AlreadyExists) for a dataset that is there and was to be new;
    /// [`InvalidDump`](crate::Error::InvalidDump), [`Conflict`](crate::Error::Conflict) while another import into the same dataset runs,
    /// [`OutOfSpace`](crate::Error::OutOfSpace), [`Unsupported`](crate::Error::Unsupported) for a Postgres that is not installed.
    ///
    /// # Cancel safety
    /// Dropped, it publishes nothing and leaves nothing.
    pub async fn import(
        &self,
        name: &DatasetName,
        source: Source,
        options: ImportOptions,
        reporter: Reporter,
    ) -> Result<DatasetSnapshot> {
        import::import(&self.inner, name, source, options, reporter).await
    }

    /// Returns all datasets in the order of their names.
    pub async fn list(&self) -> Result<Vec<Dataset>> {
        catalog::list(&*self.inner.store).await
    }

    /// Returns a dataset.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound).
    pub async fn get(&self, name: &DatasetName) -> Result<Dataset> {
        catalog::get(&*self.inner.store, name).await
    }

    /// Returns the snapshot that `reference` names: that version, or the newest. With no reference, the newest of the only dataset.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound); [`InvalidInput`](crate::Error::InvalidInput) where there is no reference and several datasets.
    pub async fn resolve(&self, reference: Option<&DatasetRef>) -> Result<DatasetSnapshot> {
        catalog::resolve(&*self.inner.store, reference).await
    }

    /// As [`Datasets::resolve`], with no databases counted.
    pub(crate) async fn find(&self, reference: Option<&DatasetRef>) -> Result<DatasetSnapshot> {
        let doomed = {
            let doomed = self.inner.doomed.lock().unwrap_or_else(PoisonError::into_inner);
            doomed.keys().cloned().collect()
        };
        catalog::find(&*self.inner.store, reference, &doomed).await
    }

    /// Deletes a dataset, or one version of it.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound); [`Conflict`](crate::Error::Conflict) while databases live on it.
    ///
    /// # Cancel safety
    /// Dropped, it goes on. In a process that ends, calling it again finishes what was begun.
    pub async fn delete(&self, reference: &DatasetRef) -> Result<()> {
        let store = Arc::clone(&self.inner.store);
        let doomed = {
            // A database that is being made is counted, or has not yet chosen its snapshot.
            let _alone = self.inner.deciding.write().await;
            Doomed::new(&self.inner, catalog::deletable(&*store, reference).await?)
        };
        // Its snapshots are doomed for as long as anything works on them.
        let deleting = tokio::spawn(async move {
            // The oldest goes first: cut off in the middle, the newest version is still the one that is cloned.
            for name in &doomed.names {
                store.delete_snapshot(name).await?;
            }
            Ok(())
        });
        deleting.await.map_err(|e| crate::Error::backend("task", "deleting a dataset", e))?
    }

    /// Ends what imports of a process that was killed have left running, and deletes their volumes. Imports of this process are left alone;
    /// what cannot be removed is in the report.
    ///
    /// # Errors
    /// [`Backend`](crate::Error::Backend) if the store cannot be asked what there is.
    ///
    /// # Cancel safety
    /// Calling it again finishes what was begun.
    pub async fn reconcile(&self) -> Result<Report> {
        let mut report = Report::default();
        reconcile::reconcile(&self.inner, &mut report).await?;
        Ok(report)
    }

    /// Begins to make a version of a volume that is a database's until [`Handover::mark`].
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) while something is being imported into the dataset; [`Unsupported`](crate::Error::Unsupported)
    /// for a version of Postgres that is not installed here.
    pub(crate) fn expect_volume(&self, dataset: &DatasetName, postgres: u32) -> Result<Handover> {
        Handover::begin(&self.inner, dataset, postgres)
    }

    /// Tells whether nothing is being imported.
    pub fn is_idle(&self) -> bool {
        self.inner.live.lock().unwrap_or_else(PoisonError::into_inner).attempts.is_empty()
    }

    /// Keeps snapshots from being deleted, until the guard is dropped: held from choosing one until it has been cloned.
    pub(crate) async fn hold(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.inner.deciding.read().await
    }
}
