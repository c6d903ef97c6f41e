//! What runs programs: one trait, and its implementations.

use std::any::Any;
use std::fmt;
use std::fmt::Debug;
use std::path::PathBuf;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use time::OffsetDateTime;

use crate::error::Result;
use crate::label::{Labels, Selector};
use crate::listing::Listing;
use crate::name::{ServiceName, StackName};

pub(crate) mod depends;
pub(crate) mod discovery;
#[cfg(feature = "docker")]
mod docker;
mod files;
mod known;
mod placement;
mod process;
mod record;
mod service;
mod spec;
mod stack;
#[cfg(feature = "swarm")]
mod swarm;
mod turns;

#[cfg(feature = "docker")]
pub use docker::{Docker, DockerOptions};
pub use placement::{
    DeployMode, EndpointMode, FailureAction, Order, Placement, Resources, RestartCondition, RestartPolicy, UpdateConfig,
};
pub use process::{Process, ProcessOptions};
pub use service::{
    Condition, ContainerOptions, Dependency, FileMount, Healthcheck, Logging, Mount, NetworkAttachment, Publish,
    PublishMode, PublishedPort, RunAs, ServiceSpec, StopSignal, Tmpfs, Transport, Ulimit, VolumeMount,
};
#[cfg(feature = "fakes")]
pub(crate) use spec::deploy_or_undo;
pub use stack::{ConfigSpec, Endpoint, NetworkSpec, SecretSpec, Service, ServiceState, Stack, StackSpec, VolumeSpec};
#[cfg(feature = "swarm")]
pub use swarm::{Swarm, SwarmOptions};

/// Runs stacks: named sets of programs with their mounts, ports and labels.
///
/// # Contract
/// - A stack's name is unique; of two deployments that race for one name, one gets [`Error::AlreadyExists`] and leaves the
///   other's stack alone.
/// - `deploy` returns once every service was *started*, each after what it depends on; whether it answers is for the caller to find out. If it fails, or its
///   future is dropped, nothing of that attempt is left after a moment: at the latest when the same attempt is given
///   to `remove` by its name.
/// - A stack is told where its services are by variables that are the same everywhere: `ONDEMAND_SERVICE_<NAME>` holds the host and port of another's
///   first published port, and `PORT` the one to listen on; what the specification sets itself is kept.
/// - A service that is a job, or that another waits to see completed, is not started again once it has ended with status 0.
/// - What runs outlives this object, and the process that holds it: another object over the same state lists it.
/// - `remove` is idempotent. When it returns, every process of the stack has ended and its mounts and ports are free. It removes
///   only what this orchestrator deployed: a process or container that merely reuses an id is never touched.
/// - `set_labels` replaces all labels and restarts nothing.
/// - What is there and cannot be read is told as such by every listing, and is an error for who asks for it by its name: only what is known not to be there
///   is missing.
/// - What an implementation cannot do is [`Error::Unsupported`], never a quiet success.
///
/// [`Error::AlreadyExists`]: crate::Error::AlreadyExists
/// [`Error::Unsupported`]: crate::Error::Unsupported
#[async_trait]
pub trait Orchestrator: Debug + Send + Sync + 'static {
    /// Tells that a stack is about to be deployed, whatever it will be: what can be begun for it is begun, in the background. It is expected until what
    /// this returns is dropped. Where nothing can be begun, it does nothing. It must be called in a runtime.
    fn expect_deploy(&self) -> Expected {
        Expected::default()
    }

    /// Starts a stack.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::Error::AlreadyExists) if the name is taken; [`NotFound`](crate::Error::NotFound) if an image or a
    /// program does not exist; [`Conflict`](crate::Error::Conflict), with the word `port` in its message, if a published port is taken;
    /// [`ServiceFailed`](crate::Error::ServiceFailed) if one that others wait for ends or is never healthy;
    /// [`InvalidInput`](crate::Error::InvalidInput) if services name what the stack does not have, or wait for each other;
    /// [`Unsupported`](crate::Error::Unsupported) for what this orchestrator cannot run.
    ///
    /// # Cancel safety
    /// Dropped, it undoes what it did, in the background. It may take long: nothing else limits how long one service waits for another to complete.
    async fn deploy(&self, stack: &StackSpec) -> Result<Stack>;

    /// Returns a stack as it is now.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound).
    async fn get(&self, name: &StackName) -> Result<Stack>;

    /// Returns the stacks that `selector` chooses, in the order of their names.
    ///
    /// # Errors
    /// [`Backend`](crate::Error::Backend) if it cannot be found out which there are.
    async fn list(&self, selector: &Selector) -> Result<Listing<Stack>>;

    /// Replaces a stack's labels.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound).
    ///
    /// # Cancel safety
    /// Either all labels are the new ones, or none.
    async fn set_labels(&self, name: &StackName, labels: &Labels) -> Result<()>;

    /// Puts a stack to sleep (its programs end, its definition stays) or wakes it. Waking also starts again what has exited, unless it was to do
    /// its work once and has.
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

    /// Removes what removed stacks left where it could not be reached at once, such as volumes on other machines. It may take minutes, and is for somebody
    /// who does it now and then; where nothing is ever left, it does nothing.
    ///
    /// # Errors
    /// [`Backend`](crate::Error::Backend) if it cannot be asked what is left. What fails for a single thing is in what is returned.
    ///
    /// # Cancel safety
    /// Calling it again finishes what was begun.
    async fn tidy(&self) -> Result<Tidied> {
        Ok(Tidied::default())
    }

    /// Waits until a service of the stack is not running, and returns the stack as it is then.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is no such stack, or it is removed meanwhile.
    async fn wait_stopped(&self, name: &StackName) -> Result<Stack>;

    /// Returns the directory in which a stack's services find its secrets, one file each.
    fn secrets_dir(&self, stack: &StackName) -> PathBuf {
        let _ = stack;
        PathBuf::from("/run/secrets")
    }

    /// Returns the lines that the services wrote. An unknown stack is a stream of one
    /// [`NotFound`](crate::Error::NotFound).
    fn logs(&self, name: &StackName, options: LogOptions) -> BoxStream<'static, Result<LogLine>>;
}

/// A deployment that is expected, until this is dropped.
#[derive(Debug, Default)]
#[must_use]
pub struct Expected {
    _begun: Option<Box<dyn Any + Send + Sync>>,
}

impl Expected {
    /// Keeps what was begun until it is dropped.
    pub fn until_dropped(begun: impl Any + Send + Sync) -> Self {
        Self { _begun: Some(Box::new(begun)) }
    }
}

/// Identifies one deployment of a stack: a name may be used again, an id may not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct StackId(pub String);

impl fmt::Display for StackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What was removed after its stack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tidied {
    /// What is gone, such as `volumes of stack NAME`.
    pub removed: Vec<String>,
    /// What could not be removed and why; it will be tried again.
    pub failed: Vec<String>,
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
