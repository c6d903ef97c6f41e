//! How many of a service run, where, and what happens when they end or change.

use std::time::Duration;

/// How many of a service run, where, and what happens when they end or change. What is left out is the engine's choice.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Placement {
    /// How many run.
    pub mode: DeployMode,
    /// What a replica may take.
    pub limits: Resources,
    /// What a replica is promised.
    pub reservations: Resources,
    /// Expressions that a node must fulfil, such as `node.labels.disk == ssd`.
    pub constraints: Vec<String>,
    /// What replicas are spread over, such as `node.labels.zone`.
    pub spread: Vec<String>,
    /// How many replicas a node may have.
    pub max_replicas_per_node: Option<u64>,
    /// What happens when a replica ends.
    pub restart_policy: Option<RestartPolicy>,
    /// How a change is carried out.
    pub update: Option<UpdateConfig>,
    /// How a change is taken back.
    pub rollback: Option<UpdateConfig>,
    /// How the service's name leads to its replicas.
    pub endpoint_mode: Option<EndpointMode>,
}

/// How many of a service run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeployMode {
    /// So many.
    Replicated(u64),
    /// One on every node.
    Global,
    /// So many, each once and to its end.
    ReplicatedJob(u64),
    /// One on every node, once and to its end.
    GlobalJob,
}

impl DeployMode {
    /// Tells whether it is to end by itself.
    pub fn is_job(self) -> bool {
        matches!(self, Self::ReplicatedJob(_) | Self::GlobalJob)
    }
}

impl Default for DeployMode {
    fn default() -> Self {
        Self::Replicated(1)
    }
}

/// What a replica takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Thousand millionths of a processor.
    pub nano_cpus: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Processes.
    pub pids: Option<i64>,
}

/// What happens when a replica ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    /// When another is started.
    pub condition: RestartCondition,
    /// How long it waits before.
    pub delay: Option<Duration>,
    /// How often.
    pub max_attempts: Option<u64>,
    /// Within which time they are counted.
    pub window: Option<Duration>,
}

/// When another replica is started in place of one that has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// Never.
    None,
    /// When it has failed.
    OnFailure,
    /// Always.
    #[default]
    Any,
}

/// How a change is carried out, or taken back.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct UpdateConfig {
    /// How many replicas at a time; 0 for all.
    pub parallelism: Option<u64>,
    /// How long it waits between two.
    pub delay: Option<Duration>,
    /// What happens when it fails.
    pub failure_action: Option<FailureAction>,
    /// How long a new replica is watched.
    pub monitor: Option<Duration>,
    /// Which part of the replicas may fail, from 0 to 1.
    pub max_failure_ratio: Option<f64>,
    /// Which comes first.
    pub order: Option<Order>,
}

/// What happens when a change fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureAction {
    /// It stops where it is.
    Pause,
    /// It goes on.
    Continue,
    /// It is taken back.
    Rollback,
}

/// Which comes first when a replica is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The old one ends.
    StopFirst,
    /// The new one starts.
    StartFirst,
}

/// How a service's name leads to its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointMode {
    /// By an address of its own.
    Vip,
    /// By the addresses of all.
    Dnsrr,
}
