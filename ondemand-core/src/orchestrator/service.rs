//! One program of a stack, as it is asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Placement;
use crate::name::ServiceName;

/// One program of a stack.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ServiceSpec {
    /// Its name within the stack.
    pub name: ServiceName,
    /// The container image; orchestrators of plain processes ignore it, the others need it.
    pub image: Option<String>,
    /// The program and its arguments, in place of whatever the image would run; empty for what the image runs.
    pub command: Vec<String>,
    /// Arguments for the image's own entry point, in place of the image's own; only where `command` is empty.
    #[serde(default)]
    pub arguments: Vec<String>,
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
    /// Ports that are published wherever it runs; [`Service::endpoints`](super::Service::endpoints) tells where. A plain process is told one by the
    /// variable `PORT`.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// What must have happened before it is started.
    #[serde(default)]
    pub depends_on: Vec<Dependency>,
    /// How it is found whether it is healthy.
    #[serde(default)]
    pub healthcheck: Option<Healthcheck>,
    /// The stack's volumes that it sees.
    #[serde(default)]
    pub volumes: Vec<VolumeMount>,
    /// Directories in memory that only it sees.
    #[serde(default)]
    pub tmpfs: Vec<Tmpfs>,
    /// The stack's networks that it is in; one that all services share where there is none.
    #[serde(default)]
    pub networks: Vec<NetworkAttachment>,
    /// The stack's secrets that it sees.
    #[serde(default)]
    pub secrets: Vec<FileMount>,
    /// The stack's configuration files that it sees.
    #[serde(default)]
    pub configs: Vec<FileMount>,
    /// Labels of its own, beside the stack's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it starts in an empty directory of its own, which goes with the stack. Containers have one anyhow.
    #[serde(default)]
    pub own_directory: bool,
    /// Whether it is kept apart as far as the orchestrator can. A plain process sees nothing of the host but its mounts, its files and the system's
    /// programs, and no process but its own, where [`ProcessOptions::sandbox`](super::ProcessOptions::sandbox) is set. A container of one engine has
    /// no capabilities, gains no privileges, writes to nothing but its mounts and `/tmp`, and has a limit of processes.
    #[serde(default)]
    pub sandboxed: bool,
    /// What only containers have.
    #[serde(default)]
    pub container: ContainerOptions,
    /// How many run, where, and what happens when they end.
    #[serde(default)]
    pub placement: Placement,
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
            arguments: Vec::new(),
            env: BTreeMap::new(),
            user: None,
            working_dir: None,
            mounts: Vec::new(),
            ports: Vec::new(),
            publish: Vec::new(),
            depends_on: Vec::new(),
            healthcheck: None,
            volumes: Vec::new(),
            tmpfs: Vec::new(),
            networks: Vec::new(),
            secrets: Vec::new(),
            configs: Vec::new(),
            labels: BTreeMap::new(),
            own_directory: false,
            sandboxed: false,
            container: ContainerOptions::default(),
            placement: Placement::default(),
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

/// A port that is published wherever a service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Publish {
    /// Where the service listens.
    pub target: u16,
    /// The port of the host; one that the engine chooses where there is none.
    pub published: Option<u16>,
    /// What is spoken on it.
    pub transport: Transport,
    /// Which hosts publish it.
    pub mode: PublishMode,
}

impl Publish {
    /// Publishes a TCP port on the host that the service runs on, where the engine chooses.
    pub fn anywhere(target: u16) -> Self {
        Self { target, published: None, transport: Transport::Tcp, mode: PublishMode::Host }
    }
}

/// The protocol of a published port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they are names of protocols")]
pub enum Transport {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// Which hosts of a cluster publish a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// The one that the task runs on.
    #[default]
    Host,
    /// All; whichever is asked passes it on.
    Ingress,
}

/// What must have happened before a service is started.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Dependency {
    /// To which service.
    pub service: ServiceName,
    /// What.
    pub condition: Condition,
}

/// What a service may have to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It was started.
    #[default]
    Started,
    /// Its health check succeeds.
    Healthy,
    /// It has ended with status 0.
    CompletedSuccessfully,
}

/// How it is found whether a service is healthy.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Healthcheck {
    /// `CMD` and a program with its arguments, `CMD-SHELL` and a line for the shell, or `NONE`; empty for the image's own.
    pub test: Vec<String>,
    /// How long it waits between two tries.
    pub interval: Option<Duration>,
    /// How long a try may take.
    pub timeout: Option<Duration>,
    /// How long after the start failures do not count.
    pub start_period: Option<Duration>,
    /// How many failures in a row make it unhealthy.
    pub retries: Option<u32>,
}

/// A volume of the stack, as a service sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VolumeMount {
    /// The stack's name for it; one that goes with the container where there is none.
    pub volume: Option<String>,
    /// Where the service sees it; absolute.
    pub target: PathBuf,
    /// Whether the service may only read it.
    pub read_only: bool,
    /// Whether it stays empty where the image has files at this place.
    pub nocopy: bool,
}

/// A directory in memory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tmpfs {
    /// Where the service sees it; absolute.
    pub target: PathBuf,
    /// How many bytes it may take.
    pub size: Option<u64>,
    /// Its mode.
    pub mode: Option<u32>,
}

/// A network of the stack, as a service is in it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NetworkAttachment {
    /// The stack's name for it.
    pub network: String,
    /// Names that reach the service there, beside its own.
    pub aliases: Vec<String>,
}

/// A secret or configuration file of the stack, as a service sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileMount {
    /// The stack's name for it.
    pub source: String,
    /// Where the service sees it: a path, or a name in the usual directory; the source's name where there is none.
    pub target: Option<String>,
    /// The numeric user it belongs to.
    pub uid: Option<String>,
    /// The numeric group it belongs to.
    pub gid: Option<String>,
    /// Its mode.
    pub mode: Option<u32>,
}

/// What only containers have.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ContainerOptions {
    /// Whom it runs as, by name or number, where [`ServiceSpec::user`] says nothing.
    pub user: Option<String>,
    /// The name of its host.
    pub hostname: Option<String>,
    /// Whether the engine's init is its first process; the orchestrator's choice where there is none.
    pub init: Option<bool>,
    /// Capabilities it has in addition.
    pub cap_add: Vec<String>,
    /// Capabilities it does not have.
    pub cap_drop: Vec<String>,
    /// Whether its root file system is read-only.
    pub read_only: bool,
    /// Names and addresses for `/etc/hosts`.
    pub extra_hosts: Vec<(String, String)>,
    /// Limits, by name.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Kernel parameters, by name.
    pub sysctls: BTreeMap<String, String>,
    /// Where its output goes; a bounded file where there is none.
    pub logging: Option<Logging>,
    /// Labels of the container rather than of the service.
    pub labels: BTreeMap<String, String>,
}

/// A limit that a process can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ulimit {
    /// What is in force.
    pub soft: i64,
    /// Up to where the process may raise it.
    pub hard: i64,
}

/// Where a container's output goes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Logging {
    /// The engine's driver.
    pub driver: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}
