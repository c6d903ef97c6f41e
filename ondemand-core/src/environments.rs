//! Environments: running copies of the product, built from chosen branches, reached by name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use time::OffsetDateTime;

use crate::databases::Databases;
use crate::error::Result;
use crate::git::{Branch, Commit, Git, Repository};
use crate::github::{GitHub, Identity};
use crate::instance::Instance;
use crate::name::{DatabaseId, EnvironmentName, Hostname};
use crate::orchestrator::{LogLine, LogOptions, Orchestrator, RunAs, Service};
use crate::router::Router;
use crate::secret::Secret;

mod access;
mod awaited;
mod create;
mod delete;
mod deploy;
mod failures;
mod follow;
mod inner;
mod last_line;
mod names;
mod plan;
mod ready;
mod reconcile;
mod record;
mod redeploy;
mod render;
mod routes;
mod secrets;
#[cfg(test)]
mod tests;
mod under_way;

pub use access::Caller;
pub use create::Creating;
pub use plan::Plan;

use inner::Inner;

/// Creates, redeploys, extends and deletes environments.
///
/// Cheap to clone: all clones are one.
#[derive(Debug, Clone)]
pub struct Environments {
    inner: Arc<Inner>,
}

/// What environments are made with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) instance: Instance,
    pub(crate) orchestrator: Arc<dyn Orchestrator>,
    pub(crate) router: Arc<dyn Router>,
    pub(crate) databases: Databases,
    pub(crate) git: Git,
    /// Who says whose a token is; nobody where there is none, and then everybody is one user.
    pub(crate) github: Option<GitHub>,
    pub(crate) options: EnvironmentsOptions,
}

/// How environments are made.
#[derive(Debug, Clone)]
pub struct EnvironmentsOptions {
    /// The directory of templates.
    pub templates: PathBuf,
    /// The template that is rendered unless it is said; the only one where there is none.
    pub template: Option<String>,
    /// The domain below which they are reached.
    pub domain: Hostname,
    /// Where the proxy is found, to see that an environment is reached through it: `http://HOST:PORT`.
    pub proxy: String,
    /// What people type to reach a host, with `{host}` for it: `https://{host}`.
    pub public_url: String,
    /// What `${NAME}` is in templates.
    pub variables: BTreeMap<String, String>,
    /// How many may live at a time.
    pub max: usize,
    /// How many of them one user may have.
    pub max_per_user: usize,
    /// How many days one lives unless it is said, here or in its template.
    pub default_keep_days: u32,
    /// How many days one may live.
    pub max_keep_days: u32,
    /// Names that no environment may have.
    pub reserved_names: Vec<String>,
    /// How long one may take until all its routes answer, unless its template says it.
    pub ready_timeout: Duration,
    /// How often it is looked where services run.
    pub follow_interval: Duration,
    /// Whether services that end by themselves have to be started again here, as nobody else does it.
    pub revive: bool,
    /// Whom services run as that name nobody; as the orchestrator has it where there is none.
    pub run_as: Option<RunAs>,
    /// The script that services without a command run, where no image has it.
    pub runner: Option<PathBuf>,
}

/// Where a proxy is found, unless the configuration says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundAt {
    /// By this server: `http://HOST:PORT`.
    pub here: String,
    /// By people, with `{host}` for the name of an environment: `http://{host}:8000`.
    pub by_people: String,
}

/// What a new environment is to be.
#[derive(Debug, Clone, Default)]
pub struct CreateEnvironment {
    /// Its name; where there is none, a readable one is made.
    pub name: Option<EnvironmentName>,
    /// The template it is rendered from; where there is none, the configured one, or the only one there is.
    pub template: Option<String>,
    /// Whether it gets the dataset of fixtures instead of the dump.
    pub fixtures: bool,
    /// How many days it lives; where there is none, as its template or the configuration says.
    pub keep_days: Option<u32>,
    /// The back end it runs.
    pub back: Choice,
    /// The front end it runs.
    pub front: Choice,
}

/// Which repository and branch a part of an environment is built from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// The repository; where there is none, the template's. A part for which neither says one is left out.
    pub repository: Option<Repository>,
    /// The branch; where there is none, the template's if the repository is the template's too, else the repository's own.
    pub branch: Option<Branch>,
}

/// What a part of an environment was built from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Source {
    /// The repository.
    pub repository: Repository,
    /// The branch.
    pub branch: Branch,
    /// What the branch was at when it was deployed.
    pub commit: Commit,
}

/// A running copy of the product.
#[derive(Debug, Clone, PartialEq)]
pub struct Environment {
    /// Its name.
    pub name: EnvironmentName,
    /// What it does.
    pub status: Status,
    /// The host names it is reached by.
    pub urls: Vec<Hostname>,
    /// What people type to reach it, in the order of `urls`.
    pub links: Vec<String>,
    /// What people type to reach its main route, by its plain name; none where it was made without the services of that route.
    pub main: Option<String>,
    /// Whose it is.
    pub owner: Identity,
    /// The template it was rendered from.
    pub template: String,
    /// When it was created.
    pub created: OffsetDateTime,
    /// When it is reaped.
    pub expires: OffsetDateTime,
    /// What its back end was built from.
    pub back: Option<Source>,
    /// What its front end was built from.
    pub front: Option<Source>,
    /// Whether its data are fixtures.
    pub fixtures: bool,
    /// Its database.
    pub database: Option<DatabaseId>,
    /// Its services.
    pub services: Vec<Service>,
    /// Why it could not be made, where that failed a while ago.
    pub failure: Option<String>,
}

/// What an environment does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Status {
    /// It is being made; it is not reached yet.
    Creating,
    /// All its services run.
    Ready,
    /// Some of its services do not run at the moment.
    Degraded,
    /// It is there, and is being replaced by newer commits.
    Redeploying,
    /// It is being deleted.
    Deleting,
    /// It could not be made, and nothing of it is left.
    Failed,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Redeploying => "redeploying",
            Self::Deleting => "deleting",
            Self::Failed => "failed",
        })
    }
}

/// One step forward of an environment that is being made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Step {
    /// What is being done.
    pub phase: Phase,
    /// The service it is about, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// A detail for people: the last line of a log, or what is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Milliseconds since the beginning.
    pub elapsed_ms: u64,
}

/// A phase of making an environment, in the order they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// Finding whose the token is, and which commits the branches are at.
    Resolving,
    /// Making its database.
    CloningData,
    /// Starting its services.
    Deploying,
    /// Its services are cloning, building and starting their code.
    Building,
    /// Its services run, and its routes do not all answer yet.
    Waiting,
    /// It is reached.
    Ready,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Resolving => "resolving",
            Self::CloningData => "cloning data",
            Self::Deploying => "deploying",
            Self::Building => "building",
            Self::Waiting => "waiting",
            Self::Ready => "ready",
        })
    }
}

/// Receives the steps of an environment that is being made. Called from the task that works: it must not block.
pub type StepReporter = Arc<dyn Fn(Step) + Send + Sync>;

impl Environments {
    /// Puts environments together. [`Ondemand::environments`](crate::Ondemand::environments) does so for a whole data directory.
    pub(crate) fn new(parts: Parts) -> Result<Self> {
        Ok(Self { inner: Arc::new(Inner::new(parts)?) })
    }

    /// Returns who calls with this token.
    ///
    /// # Errors
    /// [`Unauthenticated`](crate::Error::Unauthenticated) without a token or with one that is not valid any more,
    /// [`Forbidden`](crate::Error::Forbidden) for a user of none of the configured organisations, a transient
    /// [`Backend`](crate::Error::Backend) while GitHub does not answer.
    pub async fn identify(&self, token: Option<&Secret>) -> Result<Identity> {
        self.inner.identify(token).await
    }

    /// Creates an environment for the owner of `token`, and returns once each of its routes answers through the proxy. The token is also what its
    /// code is cloned with.
    ///
    /// # Errors
    /// As [`Environments::identify`]; [`NotFound`](crate::Error::NotFound) for a template, repository, branch or dataset;
    /// [`AlreadyExists`](crate::Error::AlreadyExists) for a name or a host name that another environment has, or that leads elsewhere already;
    /// [`InvalidName`](crate::Error::InvalidName), [`InvalidInput`](crate::Error::InvalidInput), [`InvalidTemplate`](crate::Error::InvalidTemplate),
    /// [`QuotaExceeded`](crate::Error::QuotaExceeded); [`ServiceFailed`](crate::Error::ServiceFailed) if the code does not build or a service ends;
    /// [`NotReady`](crate::Error::NotReady) if a route does not answer in time; [`Cancelled`](crate::Error::Cancelled) if it was deleted meanwhile;
    /// and what the orchestrator returns. Whatever it is, all that was made is deleted again before it is returned.
    ///
    /// # Cancel safety
    /// Dropped, what was made so far is deleted in the background.
    pub async fn create(
        &self,
        token: Option<Secret>,
        wanted: CreateEnvironment,
        report: StepReporter,
    ) -> Result<Environment> {
        self.begin(token, wanted, report).await?.finish().await
    }

    /// Begins to create an environment, and returns once its name is taken and its branches are found.
    ///
    /// # Errors
    /// As [`Environments::create`], as far as they can be told before anything is made.
    ///
    /// # Cancel safety
    /// Dropped, nothing is made.
    pub async fn begin(
        &self,
        token: Option<Secret>,
        wanted: CreateEnvironment,
        report: StepReporter,
    ) -> Result<Creating> {
        create::begin(&self.inner, token, wanted, report).await
    }

    /// Returns what creating an environment would do, and changes nothing.
    ///
    /// # Errors
    /// As [`Environments::create`], as far as they can be told before anything is made.
    pub async fn plan(&self, token: Option<Secret>, wanted: CreateEnvironment) -> Result<Plan> {
        plan::plan(&self.inner, token.as_ref(), wanted).await
    }

    /// Returns the names of all environments, those included that are being made or deleted, in order.
    ///
    /// # Errors
    /// [`Backend`](crate::Error::Backend) if the orchestrator cannot be asked what runs.
    pub async fn list(&self) -> Result<Vec<EnvironmentName>> {
        self.inner.names().await
    }

    /// Returns an environment.
    ///
    /// One that could not be made is still told of for an hour, unless the name was used again.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound).
    pub async fn get(&self, name: &EnvironmentName) -> Result<Environment> {
        self.inner.get(name).await
    }

    /// Returns what the services of an environment wrote, also while it is being made.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound); [`Forbidden`](crate::Error::Forbidden) unless it is the caller's.
    pub async fn logs(
        &self,
        name: &EnvironmentName,
        caller: &Caller,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        self.inner.logs(name, caller, options).await
    }

    /// Deletes an environment. Returns when its routes, services, secrets, networks, volumes and its database are gone. One that is being made is
    /// cancelled.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound); [`Forbidden`](crate::Error::Forbidden) unless it is the caller's.
    ///
    /// # Cancel safety
    /// Dropped, it goes on in the background.
    pub async fn delete(&self, name: &EnvironmentName, caller: &Caller) -> Result<()> {
        delete::delete(&self.inner, name, caller).await
    }

    /// Replaces an environment by what its branches are at now: same URLs, same data, same expiry. The old one answers until the new one does; if
    /// that fails, it stays.
    ///
    /// # Errors
    /// As [`Environments::create`]; [`NotFound`](crate::Error::NotFound); [`Forbidden`](crate::Error::Forbidden) unless it is the caller's;
    /// [`Conflict`](crate::Error::Conflict) while something else is done to it.
    ///
    /// # Cancel safety
    /// Dropped, what was made so far is deleted in the background, and the old one stays.
    pub async fn redeploy(
        &self,
        name: &EnvironmentName,
        caller: &Caller,
        token: Option<Secret>,
        report: StepReporter,
    ) -> Result<Environment> {
        redeploy::redeploy(&self.inner, name, caller, token, report).await
    }

    /// Makes an environment, and its database, live so many days from now.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound); [`Forbidden`](crate::Error::Forbidden) unless it is the caller's;
    /// [`InvalidInput`](crate::Error::InvalidInput) for 0 days, or more than are allowed; [`Conflict`](crate::Error::Conflict) while something else
    /// is done to it.
    ///
    /// # Cancel safety
    /// The expiry is the old one or the new one.
    pub async fn extend(&self, name: &EnvironmentName, caller: &Caller, keep_days: u32) -> Result<Environment> {
        self.inner.extend(name, caller, keep_days).await
    }

    /// Keeps the routes leading to where the services run, until the future is dropped.
    ///
    /// # Cancel safety
    /// Each route is the old one or the new one.
    pub async fn follow(&self) {
        follow::follow(&self.inner).await;
    }

    /// Makes what is there match what the labels say; see [`Janitor::run_once`](crate::Janitor::run_once).
    pub(crate) async fn reconcile(&self, report: &mut crate::janitor::Report) -> Result<()> {
        reconcile::reconcile(&self.inner, report).await
    }

    /// Removes what stacks that are gone left elsewhere; see [`Janitor::tidy`](crate::Janitor::tidy).
    pub(crate) async fn tidy(&self) -> Result<crate::orchestrator::Tidied> {
        self.inner.orchestrator.tidy().await
    }
}
