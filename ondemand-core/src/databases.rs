//! Databases: private, writable Postgres servers on clones of a snapshot.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use time::OffsetDateTime;

use crate::datasets::{DatasetSnapshot, Datasets};
use crate::error::{Error, Kind, Result};
use crate::instance::Instance;
use crate::name::{DatabaseId, DatabaseName, DatasetName, DatasetRef, LeaseId, Version};
use crate::notation::Ttl;
use crate::orchestrator::{LogLine, LogOptions, Orchestrator, Resources, RunAs};
use crate::postgres::Engine;
use crate::progress::Reporter;
use crate::secret::Secret;
use crate::snapshot::SnapshotStore;

mod create;
mod inner;
mod leases;
mod password;
mod ports;
mod publish;
mod reconcile;
mod record;
mod recover;
mod reset;
mod server;
#[cfg(test)]
pub(crate) mod tests;

use inner::Inner;
pub(crate) use inner::detached;
pub use leases::Lease;

/// Creates, resets, extends and deletes databases.
///
/// Cheap to clone: all clones are one.
///
/// ```no_run
/// # async fn example() -> ondemand_core::Result<()> {
/// use ondemand_core::*;
///
/// let ondemand = Ondemand::open(&Config::default()).await?;
/// let database = ondemand.databases.create(CreateOptions::default()).await?;
/// println!("{}", database.url());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Databases {
    inner: Arc<Inner>,
}

/// How databases are made.
#[derive(Debug, Clone)]
pub struct DatabasesOptions {
    /// The address their ports are opened on.
    pub listen: IpAddr,
    /// The host name that clients are told.
    pub host: String,
    /// The ports they may have.
    pub ports: RangeInclusive<u16>,
    /// How many may live at a time.
    pub max: usize,
    /// How long one lives unless it is said.
    pub default_ttl: Ttl,
    /// How long one may live.
    pub max_ttl: Ttl,
    /// What is cloned unless it is said.
    pub default_dataset: Option<DatasetRef>,
    /// How long Postgres may take to answer.
    pub ready_timeout: Duration,
    /// Postgres settings for all.
    pub settings: BTreeMap<String, String>,
    /// What each may take.
    pub limits: Resources,
    /// Whom Postgres runs as.
    pub user: RunAs,
    /// Postgres's programs.
    pub programs: Programs,
    /// The directory of the configuration files that all servers share.
    pub files: PathBuf,
}

/// Where Postgres's programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Programs {
    /// On this host: a directory for each major version.
    Host(BTreeMap<u32, PathBuf>),
    /// In an image; `{major}` stands for the major version in both.
    Image {
        /// The image.
        image: String,
        /// The directory in it.
        bin_dir: String,
    },
}

/// What a database's data are published as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// Makes the version a by-product; see [`ImportOptions::derived`](crate::ImportOptions::derived).
    pub derived: bool,
}

/// What a new database is to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CreateOptions {
    /// What to clone; where there is none, the configured default, or the only dataset there is.
    pub dataset: Option<DatasetRef>,
    /// How long it lives; where there is none, the configured default.
    pub ttl: Option<Ttl>,
    /// A name, unique among the databases that live; where there is none, `pgondemand_PORT`. No other may begin so.
    pub name: Option<DatabaseName>,
    /// Whether commits survive a power cut. Costs a flush to disk for every commit.
    pub durable: bool,
    /// Postgres settings, as in `postgresql.conf`.
    pub settings: BTreeMap<String, String>,
    /// What it is made for: an environment's name, a dot, and the attempt that makes that. It goes with the environment.
    pub environment: Option<String>,
    /// The lease that it lives on, which must be held: when that ends, it goes. Where there is none, it lives for all of its time.
    pub lease: Option<LeaseId>,
}

impl CreateOptions {
    /// Chooses what to clone.
    pub fn with_dataset(mut self, dataset: impl Into<DatasetRef>) -> Self {
        self.dataset = Some(dataset.into());
        self
    }

    /// Chooses how long it lives.
    pub fn with_ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Chooses a name.
    pub fn with_name(mut self, name: DatabaseName) -> Self {
        self.name = Some(name);
        self
    }

    /// Chooses whether commits survive a power cut.
    pub fn with_durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Chooses the lease that it lives on.
    pub fn with_lease(mut self, lease: LeaseId) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Adds a Postgres setting.
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }
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
    /// What it was made for; see [`CreateOptions::environment`].
    pub environment: Option<String>,
    /// The lease it lives on; see [`CreateOptions::lease`].
    pub lease: Option<LeaseId>,
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

impl fmt::Display for DatabaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "Running",
            Self::Resetting => "Resetting",
            Self::Starting => "Starting",
            Self::Stopped => "Stopped",
        })
    }
}

impl Database {
    /// Returns the connection URL with the password in it, as `psql` and every driver take it.
    pub fn url(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!(
            "postgresql://{}:{}@{host}:{}/{}",
            escape(&self.user),
            escape(self.password.expose()),
            self.port,
            escape(&self.dbname)
        )
    }
}

/// Writes text so that it can stand in any part of a URL: all but RFC 3986's unreserved characters as `%XX`.
fn escape(text: &str) -> String {
    use fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}

impl Databases {
    /// Puts databases together. [`Ondemand::open`](crate::Ondemand::open) does so for a whole data directory.
    pub(crate) fn new(
        instance: Instance,
        orchestrator: Arc<dyn Orchestrator>,
        store: Arc<dyn SnapshotStore>,
        datasets: Datasets,
        engine: Arc<dyn Engine>,
        options: DatabasesOptions,
    ) -> Self {
        Self { inner: Arc::new(Inner::new(instance, orchestrator, store, datasets, engine, options)) }
    }

    /// Creates a database, and returns once it answers.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) for the dataset, [`AlreadyExists`](Error::AlreadyExists) for the name,
    /// [`InvalidName`](Error::InvalidName) for one that begins with `pgondemand_`, [`InvalidInput`](Error::InvalidInput) for a ttl or setting,
    /// [`QuotaExceeded`](Error::QuotaExceeded) without a free port or beyond the configured number, [`Unsupported`](Error::Unsupported) if the dataset's
    /// version of Postgres is not installed, [`OutOfSpace`](Error::OutOfSpace), [`NotReady`](Error::NotReady) if Postgres does not start.
    ///
    /// # Cancel safety
    /// Dropped, what was made so far is deleted in the background.
    pub async fn create(&self, options: CreateOptions) -> Result<Database> {
        create::create(&self.inner, options).await
    }

    /// Returns a database.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub async fn get(&self, id: &DatabaseId) -> Result<Database> {
        self.inner.get(id).await
    }

    /// Returns the id that `text` stands for: an id, its first digits (four at least) if only one has them, or a name (with or
    /// without the leading slash of the wire format).
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound); [`InvalidInput`](Error::InvalidInput) if several ids begin so.
    pub fn find(&self, text: &str) -> Result<DatabaseId> {
        let name = text.strip_prefix('/').unwrap_or(text);
        let known = self.inner.names();
        if let Some((id, _)) = known.iter().find(|(id, known)| id.as_str() == text || known.as_str() == name) {
            return Ok(id.clone());
        }
        let mut begin_so = known.iter().map(|(id, _)| id).filter(|id| text.len() >= 4 && id.as_str().starts_with(text));
        match (begin_so.next(), begin_so.next()) {
            (Some(id), None) => Ok(id.clone()),
            (Some(_), Some(_)) => Err(Error::invalid("database id", format!("several begin with {text}"))),
            (None, _) => Err(Error::not_found(Kind::Database, text)),
        }
    }

    /// Returns all databases, the oldest first.
    ///
    /// # Errors
    /// [`Backend`](Error::Backend) if the orchestrator cannot be asked what runs.
    pub async fn list(&self) -> Result<Vec<Database>> {
        self.inner.list().await
    }

    /// Deletes a database. Returns when its process, volume and port are gone.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound); [`Conflict`](Error::Conflict) for that of an environment, which goes with it.
    ///
    /// # Cancel safety
    /// Dropped, it goes on in the background.
    pub async fn delete(&self, id: &DatabaseId) -> Result<()> {
        self.check_free(id)?;
        self.inner.delete(id).await
    }

    /// Deletes a database for the environment that it was made for.
    #[cfg(feature = "environments")]
    pub(crate) async fn delete_for_environment(&self, id: &DatabaseId) -> Result<()> {
        self.inner.delete(id).await
    }

    /// Fails for the database of an environment, which would be of no use without it.
    fn check_free(&self, id: &DatabaseId) -> Result<()> {
        let Some(environment) = self.inner.record(id)?.environment else { return Ok(()) };
        let name = environment.split('.').next().unwrap_or_default();
        Err(Error::Conflict {
            message: format!("it belongs to environment {name:?}"),
            hint: format!("delete the environment, and the database goes with it: `ondemand env delete {name}`"),
        })
    }

    /// Takes a database back to its snapshot: same address, same password, same expiry.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) for the database or its snapshot; [`Conflict`](Error::Conflict) while it is being reset or deleted.
    ///
    /// # Cancel safety
    /// Dropped, it goes on in the background.
    pub async fn reset(&self, id: &DatabaseId) -> Result<Database> {
        reset::reset(&self.inner, id).await
    }

    /// Makes a database live `ttl` from now.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound); [`InvalidInput`](Error::InvalidInput) above the configured maximum;
    /// [`Conflict`](Error::Conflict) while it is being reset or deleted.
    ///
    /// # Cancel safety
    /// The expiry is the old one or the new one.
    pub async fn extend(&self, id: &DatabaseId, ttl: Ttl) -> Result<Database> {
        self.inner.extend(id, ttl).await
    }

    /// Holds a lease, until what is returned is dropped. A second later, unless somebody holds it again, its databases are deleted.
    ///
    /// Leases survive this process as little as their holders do: after a restart, those who held one have five seconds to come back.
    pub fn hold(&self, id: LeaseId) -> Lease {
        Lease::new(&self.inner, id)
    }

    /// Takes a database off its lease: from now on it lives until it expires.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound); [`Conflict`](Error::Conflict) while it is being reset or deleted.
    ///
    /// # Cancel safety
    /// It is released or it is not.
    pub async fn release(&self, id: &DatabaseId) -> Result<Database> {
        self.inner.release(id).await
    }

    /// Ends a database's server, and makes the newest version of `dataset` of its data, which need not exist yet. The database is gone
    /// then, whether or not that could be done; until its server was ended, an error leaves it as it is.
    ///
    /// What is published is cleaned as an import is: of passwords, connections to other servers, and everything that would act on them.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound); [`Conflict`](Error::Conflict) for that of an environment, while it is being reset or deleted, or while
    /// something else is being imported into the dataset; [`OutOfSpace`](Error::OutOfSpace).
    ///
    /// # Cancel safety
    /// Dropped, it goes on in the background.
    pub async fn publish(
        &self,
        id: &DatabaseId,
        dataset: &DatasetName,
        options: PublishOptions,
        reporter: Reporter,
    ) -> Result<DatasetSnapshot> {
        self.check_free(id)?;
        publish::publish(&self.inner, id, dataset, options, reporter).await
    }

    /// Tells whether there is nothing to look after: no database, nobody who makes one, and no lease.
    pub fn is_idle(&self) -> bool {
        self.inner.is_idle()
    }

    /// Returns what the server wrote to its log.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub fn logs(&self, id: &DatabaseId, options: LogOptions) -> Result<BoxStream<'static, Result<LogLine>>> {
        self.inner.logs(id, options)
    }

    /// Returns the host that every database is told to be reached at.
    #[cfg(feature = "environments")]
    pub(crate) fn host(&self) -> &str {
        &self.inner.options.host
    }

    /// Checks that there is something to clone.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub(crate) async fn check_dataset(&self, dataset: &DatasetRef) -> Result<()> {
        self.inner.datasets.find(Some(dataset)).await.map(drop)
    }

    /// Makes what runs match what the volumes say; see [`Janitor::run_once`](crate::Janitor::run_once).
    pub(crate) async fn reconcile(&self, report: &mut crate::janitor::Report) -> Result<()> {
        reconcile::reconcile(&self.inner, report).await
    }
}
