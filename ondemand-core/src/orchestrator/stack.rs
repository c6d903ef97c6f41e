//! What is deployed as one unit, as it was asked for and as it is.

use std::collections::BTreeMap;
use std::fmt;

use time::OffsetDateTime;

use super::{ServiceSpec, StackId};
use crate::label::Labels;
use crate::name::{AttemptId, ServiceName, StackName};
use crate::secret::Secret;

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
    /// Its networks by the names that its services use; one that no service names is not made.
    #[serde(default)]
    pub networks: BTreeMap<String, NetworkSpec>,
    /// Its volumes by the names that its services use.
    #[serde(default)]
    pub volumes: BTreeMap<String, VolumeSpec>,
    /// Its secrets by the names that its services use. They are left out where a specification is serialised.
    #[serde(skip)]
    pub secrets: BTreeMap<String, SecretSpec>,
    /// Its configuration files by the names that its services use.
    #[serde(default)]
    pub configs: BTreeMap<String, ConfigSpec>,
}

impl StackSpec {
    /// Makes a stack of services, with no label, network, volume or file of its own.
    pub fn new(name: StackName, attempt: AttemptId, services: Vec<ServiceSpec>) -> Self {
        Self {
            name,
            attempt,
            services,
            labels: Labels::new(),
            networks: BTreeMap::new(),
            volumes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            configs: BTreeMap::new(),
        }
    }
}

/// A network of a stack, in which services reach each other by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    /// The name of a network that exists already and is used as it is; the stack neither makes nor removes it.
    pub external: Option<String>,
    /// Its name, where it is not to be made of the stack's and its own.
    pub name: Option<String>,
    /// What makes it; the orchestrator's usual driver where there is none.
    pub driver: Option<String>,
    /// Options of the driver.
    pub driver_opts: BTreeMap<String, String>,
    /// Whether containers that belong to no service may join.
    pub attachable: bool,
    /// Whether it leads nowhere else.
    pub internal: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume of a stack: a directory that outlives the containers that use it, and goes with the stack.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct VolumeSpec {
    /// The name of a volume that exists already; the stack neither makes nor removes it.
    pub external: Option<String>,
    /// Its name, where it is not to be made of the stack's and its own. Stacks that give the same name share it, and none removes it.
    pub name: Option<String>,
    /// What makes it; the orchestrator's usual driver where there is none.
    pub driver: Option<String>,
    /// Options of the driver.
    pub driver_opts: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl VolumeSpec {
    /// Tells whether it is removed when its stack is.
    pub(super) fn goes_with_its_stack(&self) -> bool {
        self.external.is_none() && self.name.is_none()
    }
}

/// A secret of a stack: services see it as a file, and whoever inspects the engine does not see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSpec {
    /// What is in it.
    Content(Secret),
    /// The name of one that exists already; the stack neither makes nor removes it.
    External(String),
}

/// A configuration file of a stack.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigSpec {
    /// What is in it.
    Content(String),
    /// The name of one that exists already; the stack neither makes nor removes it.
    External(String),
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
    /// Where its published ports are reached now, for those of its replicas that run. On a Swarm each replica has one for each target, of the kind of address
    /// that its node is known by.
    pub endpoints: Vec<Endpoint>,
    /// How often it has ended by itself and was started again, as far as the orchestrator knows.
    pub restarts: u32,
    /// What the orchestrator last had to say about why it does not run.
    pub error: Option<String>,
}

impl Service {
    /// Makes a service of which nothing more is known.
    pub fn new(name: ServiceName, state: ServiceState) -> Self {
        Self { name, state, pid: None, endpoints: Vec::new(), restarts: 0, error: None }
    }
}

/// Where a port of a service is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The port that the service listens on.
    pub target: u16,
    /// The host that it runs on, by name or address, and the port there.
    pub address: String,
}

/// What a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceState {
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It sleeps: [`Orchestrator::set_running`](super::Orchestrator::set_running) ended it.
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
