//! What runs programs: one trait, and its implementations.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use time::OffsetDateTime;

use crate::error::Result;
use crate::label::{Labels, Selector};
use crate::name::{AttemptId, ServiceName, StackName};

#[cfg(feature = "docker")]
mod docker;
mod known;
mod process;
mod record;
mod spec;
mod turns;

#[cfg(feature = "docker")]
pub use docker::{Docker, DockerOptions};
pub use process::{Process, ProcessOptions};
#[cfg(feature = "fakes")]
pub(crate) use spec::deploy_or_undo;

/// Runs stacks: named sets of programs with their mounts, ports and labels.
///
/// # Contract
/// - A stack's name is unique; of two deployments that race for one name, one gets [`Error::AlreadyExists`] and leaves the
///   other's stack alone.
/// - `deploy` returns once every service was *started*; whether it answers is for the caller to find out. If it fails, or its
///   future is dropped, nothing of that attempt is left after a moment: at the latest when the same attempt is given
///   to `remove` by its name.
/// - What runs outlives this object, and the process that holds it: another object over the same state lists it.
/// - `remove` is idempotent. When it returns, every process of the stack has ended and its mounts and ports are free. It removes
///   only what this orchestrator deployed: a process or container that merely reuses an id is never touched.
/// - `set_labels` replaces all labels and restarts nothing.
/// - What an implementation cannot do is [`Error::Unsupported`], never a quiet success.
///
/// [`Error::AlreadyExists`]: crate::Error::AlreadyExists
/// [`Error::Unsupported`]: crate::Error::Unsupported
#[async_trait]
pub trait Orchestrator: Debug + Send + Sync + 'static {
    /// Starts a stack.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::Error::AlreadyExists) if the name is taken; [`NotFound`](crate::Error::NotFound) if an image or a
    /// program does not exist; [`Conflict`](crate::Error::Conflict), with the word `port` in its message, if a published port is taken;
    /// [`Unsupported`](crate::Error::Unsupported) for what this orchestrator cannot run.
    ///
    /// # Cancel safety
    /// Dropped, it undoes what it did, in the background.
    async fn deploy(&self, stack: &StackSpec) -> Result<Stack>;

    /// Returns a stack as it is now.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound).
    async fn get(&self, name: &StackName) -> Result<Stack>;

    /// Returns the stacks that `selector` chooses, in the order of their names.
    async fn list(&self, selector: &Selector) -> Result<Vec<Stack>>;

    /// Replaces a stack's labels.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound).
    ///
    /// # Cancel safety
    /// Either all labels are the new ones, or none.
    async fn set_labels(&self, name: &StackName, labels: &Labels) -> Result<()>;

    /// Puts a stack to sleep (its programs end, its definition stays) or wakes it. Waking also starts again what has exited.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound); [`Conflict`](crate::Error::Conflict) if its removal was begun and cut off: only `remove` finishes that.
    ///
    /// # Cancel safety
    /// Calling it again finishes what was begun.
    async fn set_running(&self, name: &StackName, running: bool) -> Result<()>;

    /// Ends a stack and forgets it. Succeeds if there is none with this id.
    ///
    /// # Cancel safety
    /// Calling it again finishes what was begun.
    async fn remove(&self, id: &StackId) -> Result<()>;

    /// Waits until a service of the stack is not running, and returns the stack as it is then.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is no such stack, or it is removed meanwhile.
    async fn wait_stopped(&self, name: &StackName) -> Result<Stack>;

    /// Returns the lines that the services wrote. An unknown stack is a stream of one
    /// [`NotFound`](crate::Error::NotFound).
    fn logs(&self, name: &StackName, options: LogOptions) -> BoxStream<'static, Result<LogLine>>;
}

/// Identifies one deployment of a stack: a name may be used again, an id may not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct StackId(pub String);

impl fmt::Display for StackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What is to run.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StackSpec {
    /// Its name, unique in the orchestrator.
    pub name: StackName,
    /// The try that deploys it.
    pub attempt: AttemptId,
    /// Its labels to begin with.
    pub labels: Labels,
    /// Its programs, in the order they are started.
    pub services: Vec<ServiceSpec>,
}

/// One program of a stack.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ServiceSpec {
    /// Its name within the stack.
    pub name: ServiceName,
    /// The container image; orchestrators of plain processes ignore it, the others need it.
    pub image: Option<String>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Environment variables. Visible to whoever may inspect the engine: no secrets.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Whom it runs as; where there is none, the image's user, or the user of this process.
    pub user: Option<RunAs>,
    /// Where it starts.
    pub working_dir: Option<PathBuf>,
    /// Directories of the host that it sees. Plain processes see the host as it is, so there `source` and `target` must be
    /// equal.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Ports that the host publishes for it. A plain process opens its ports itself, so there both must be equal.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// The signal that asks it to end.
    #[serde(default)]
    pub stop_signal: StopSignal,
    /// How long it has to end before it is killed.
    pub stop_grace: Duration,
    /// The size of its `/dev/shm` in bytes, where it has one of its own.
    pub shm_size: Option<u64>,
}

impl ServiceSpec {
    /// Makes a service that runs `command` with nothing else set, ten seconds to end.
    pub fn new(name: ServiceName, command: Vec<String>) -> Self {
        Self {
            name,
            image: None,
            command,
            env: BTreeMap::new(),
            user: None,
            working_dir: None,
            mounts: Vec::new(),
            ports: Vec::new(),
            stop_signal: StopSignal::default(),
            stop_grace: Duration::from_secs(10),
            shm_size: None,
        }
    }
}

/// The numeric user and group of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct RunAs {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// A directory or file of the host that a service sees.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// Where it is on the host; absolute.
    pub source: PathBuf,
    /// Where the service sees it; absolute.
    pub target: PathBuf,
    /// Whether the service may only read it.
    pub read_only: bool,
}

impl Mount {
    /// Makes a mount that stands at the same path inside and outside, so that every orchestrator can offer it.
    pub fn same(path: impl Into<PathBuf>, read_only: bool) -> Self {
        let source = path.into();
        Self { target: source.clone(), source, read_only }
    }
}

/// A port of the host that leads to a port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PublishedPort {
    /// Where the host listens.
    pub published: SocketAddr,
    /// Where the service listens.
    pub target: u16,
}

/// The signal that asks a program to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum StopSignal {
    /// `SIGTERM`.
    #[default]
    Term,
    /// `SIGINT`; Postgres: disconnects everyone and shuts down cleanly.
    Int,
    /// `SIGQUIT`; Postgres: ends at once, without a checkpoint.
    Quit,
}

/// A stack as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// This deployment.
    pub id: StackId,
    /// Its name.
    pub name: StackName,
    /// The try that deployed it.
    pub attempt: AttemptId,
    /// Its labels now.
    pub labels: Labels,
    /// When it was deployed.
    pub created: OffsetDateTime,
    /// Its services, in the order of the specification.
    pub services: Vec<Service>,
}

impl Stack {
    /// Tells whether every service runs.
    pub fn is_running(&self) -> bool {
        self.services.iter().all(|service| service.state == ServiceState::Running)
    }
}

/// A service as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name within the stack.
    pub name: ServiceName,
    /// What it does.
    pub state: ServiceState,
    /// The process on this host, where it is known.
    pub pid: Option<u32>,
}

/// What a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceState {
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It sleeps: [`Orchestrator::set_running`] ended it.
    Asleep,
    /// It has ended by itself.
    Exited {
        /// Its exit status, where it is known; 128 + n for signal n.
        status: Option<i32>,
    },
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Running => f.write_str("running"),
            Self::Asleep => f.write_str("asleep"),
            Self::Exited { status: Some(status) } => write!(f, "exited with status {status}"),
            Self::Exited { status: None } => f.write_str("exited"),
        }
    }
}

/// Which log lines, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only this service's.
    pub service: Option<ServiceName>,
    /// Only the last so many lines of each service.
    pub tail: Option<usize>,
    /// Whether to wait for more until the stack is removed.
    pub follow: bool,
    /// Only lines from this time on; [`Unsupported`](crate::Error::Unsupported) where lines carry no time.
    pub since: Option<OffsetDateTime>,
}

/// One line that a service wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Which service.
    pub service: ServiceName,
    /// When, where the engine knows.
    pub time: Option<OffsetDateTime>,
    /// The line without its end; bytes that are not UTF-8 are replaced.
    pub text: String,
}
