//! Configuration, as `ondemand.toml` writes it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::name::DatasetRef;
use crate::notation::{Size, Ttl};
use crate::orchestrator::Resources;
use crate::secret::Secret;

mod environments;
mod proxy;

pub use environments::{Accounts, EnvironmentsConfig, GitHubConfig, SwarmConfig};
pub(crate) use proxy::MOST_HEADERS;
pub use proxy::{CertificateFiles, ProxyConfig};

/// Everything that can be configured. Every field has a default; unknown keys are errors.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// What runs databases.
    pub orchestrator: OrchestratorKind,
    /// What keeps data.
    pub store: StoreKind,
    /// The HTTP server.
    pub http: HttpConfig,
    /// The proxy.
    pub proxy: ProxyConfig,
    /// Databases.
    pub databases: DatabasesConfig,
    /// Environments.
    pub environments: EnvironmentsConfig,
    /// GitHub, and where repositories are.
    pub github: GitHubConfig,
    /// The Docker Swarm.
    pub swarm: SwarmConfig,
    /// PostgreSQL itself.
    pub postgres: PostgresConfig,
    /// The Docker Engine.
    pub docker: DockerConfig,
    /// The loop-file pool.
    pub pool: PoolConfig,
}

/// What runs stacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrchestratorKind {
    /// Child processes of this host.
    #[default]
    Process,
    /// Containers of one Docker Engine.
    Docker,
    /// Services of a Docker Swarm; for environments only.
    Swarm,
}

/// What keeps data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreKind {
    /// BTRFS where the data directory is on it; else a loop-file pool where one can be made; else copies.
    #[default]
    Auto,
    /// BTRFS, or an error.
    Btrfs,
    /// Reflinks where the file system has them, else plain copies.
    Copy,
}

/// The HTTP server.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct HttpConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What clients must send as `Authorization: Bearer TOKEN`.
    pub token: Option<Secret>,
    /// Whether it may listen beyond loopback without a token.
    pub allow_anonymous: bool,
    /// The names, beside those of this machine itself and `databases.host`, under which a server without a token answers.
    pub hosts: Vec<String>,
    /// The largest request body that is not an upload.
    pub max_body: Size,
    /// The largest upload; unlimited where there is none.
    pub max_upload: Option<Size>,
    /// How many connections may be open. Where there are as many, one that waits for a request is closed for a new one.
    pub max_connections: usize,
    /// How many of them may be one client address's.
    pub max_connections_per_client: usize,
}

/// Databases.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DatabasesConfig {
    /// The address their ports are opened on.
    pub listen: IpAddr,
    /// The host name that clients are told; `listen` where there is none.
    pub host: Option<String>,
    /// The first port they may have.
    pub first_port: u16,
    /// The last port they may have.
    pub last_port: u16,
    /// How many may live at a time; as many as there are ports where there is none.
    pub max: Option<usize>,
    /// How long one lives unless it is said.
    pub default_ttl: Ttl,
    /// How long one may live.
    pub max_ttl: Ttl,
    /// What is cloned unless it is said; the only dataset where there is none.
    pub default_dataset: Option<DatasetRef>,
    /// How long Postgres may take to answer.
    pub ready_timeout: Ttl,
    /// How often the janitor looks.
    pub reap_interval: Ttl,
    /// Whether those that run as processes of this host are put in sandboxes.
    pub sandbox: SandboxMode,
    /// Postgres settings for all.
    pub settings: BTreeMap<String, String>,
    /// What each may take of the machine.
    pub limits: LimitsConfig,
}

/// What a database may take of the machine. Where it is a process and the host has no control groups, there are no limits, with a notice at start.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitsConfig {
    /// The most memory, with what it holds of files; what exceeds it is ended by the kernel.
    pub memory: Option<Size>,
    /// The most processors, such as 1.5.
    pub cpus: Option<f64>,
    /// The most processes and threads; 4096 in a container where there is none.
    pub processes: Option<u32>,
}

impl LimitsConfig {
    pub(crate) fn resources(&self) -> Resources {
        #[expect(clippy::cast_possible_truncation, reason = "it is validated, and a conversion of this kind saturates")]
        let nano_cpus = self.cpus.map(|cpus| (cpus * 1e9) as i64);
        let memory = self.memory.map(|Size(bytes)| i64::try_from(bytes).unwrap_or(i64::MAX));
        Resources { nano_cpus, memory, pids: self.processes.map(Into::into) }
    }

    fn validate(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::invalid("configuration", format!("databases.limits.{reason}")));
        match self {
            Self { cpus: Some(cpus), .. } if !(0.01..=100_000.0).contains(cpus) => {
                refuse("cpus must be a number of processors, 0.01 and more")
            }
            Self { memory: Some(memory), .. } if *memory < LEAST_MEMORY => {
                refuse("memory must be 64M or more, or Postgres does not start")
            }
            Self { processes: Some(processes), .. } if *processes < LEAST_PROCESSES => {
                refuse("processes must be 32 or more, or Postgres does not start")
            }
            Self { processes: Some(processes), .. } if *processes > MOST_PROCESSES => {
                refuse("processes must be 4194304 or less: the kernel has no more")
            }
            _ => Ok(()),
        }
    }
}

/// With less, Postgres's own processes have no place.
const LEAST_MEMORY: Size = Size(64 << 20);
const LEAST_PROCESSES: u32 = 32;
/// `PID_MAX_LIMIT` of Linux.
const MOST_PROCESSES: u32 = 4 << 20;

/// Whether programs are put in sandboxes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxMode {
    /// Where this host can make them; else not, with a notice at start.
    #[default]
    Auto,
    /// Always; where this host cannot make them, opening is an error.
    Required,
    /// Never.
    Off,
}

/// PostgreSQL itself.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PostgresConfig {
    /// Where its programs are; looked for where there is none.
    pub bin_dir: Option<PathBuf>,
    /// The user it runs as when this process is root; `postgres` where there is none.
    pub user: Option<String>,
}

/// The Docker Engine.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DockerConfig {
    /// Its socket; `DOCKER_HOST`, or the usual place, where there is none.
    pub host: Option<String>,
    /// The image of Postgres; `{major}` stands for the major version.
    pub image: String,
    /// Where the image has Postgres's programs; `{major}` stands for the major version.
    pub bin_dir: PathBuf,
}

/// The loop-file pool that is made where the data directory is not on BTRFS.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PoolConfig {
    /// Its size; nine tenths of what is free where there is none. The file is sparse.
    pub size: Option<Size>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/ondemand"),
            orchestrator: OrchestratorKind::default(),
            store: StoreKind::default(),
            http: HttpConfig::default(),
            proxy: ProxyConfig::default(),
            databases: DatabasesConfig::default(),
            environments: EnvironmentsConfig::default(),
            github: GitHubConfig::default(),
            swarm: SwarmConfig::default(),
            postgres: PostgresConfig::default(),
            docker: DockerConfig::default(),
            pool: PoolConfig::default(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            token: None,
            allow_anonymous: false,
            hosts: Vec::new(),
            max_body: Size(1 << 20),
            max_upload: None,
            max_connections: 4_000,
            max_connections_per_client: 2_000,
        }
    }
}

impl Default for DatabasesConfig {
    #[expect(clippy::expect_used, reason = "these literals are within the limits")]
    fn default() -> Self {
        let ttl = |text: &str| text.parse().expect("a valid ttl");
        Self {
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            host: None,
            first_port: 5433,
            last_port: 6432,
            max: None,
            default_ttl: ttl("1d"),
            max_ttl: ttl("30d"),
            default_dataset: None,
            ready_timeout: ttl("60s"),
            reap_interval: ttl("15s"),
            sandbox: SandboxMode::default(),
            settings: BTreeMap::new(),
            limits: LimitsConfig::default(),
        }
    }
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self { host: None, image: "postgres:{major}".into(), bin_dir: PathBuf::from("/usr/lib/postgresql/{major}/bin") }
    }
}

impl Config {
    /// Parses `ondemand.toml`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`], with the line and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|e| Error::invalid("configuration", e))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what no single field shows.
    ///
    /// # Errors
    /// [`Error::InvalidInput`].
    pub fn validate(&self) -> Result<()> {
        let databases = &self.databases;
        if databases.first_port == 0 || databases.first_port > databases.last_port {
            return Err(Error::invalid(
                "configuration",
                "databases.first-port must be above 0 and not above databases.last-port",
            ));
        }
        databases.limits.validate()?;
        if databases.default_ttl > databases.max_ttl {
            return Err(Error::invalid("configuration", "databases.default-ttl is above databases.max-ttl"));
        }
        let is_host = |host: &str| {
            let inner = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            (!host.is_empty() && host.chars().all(inner)) || host.parse::<IpAddr>().is_ok()
        };
        if let Some(bad) = self.http.hosts.iter().find(|host| !is_host(host)) {
            return Err(Error::invalid(
                "configuration",
                format!("http.hosts: {bad:?} is neither a host name nor an IP address; leave out scheme and port"),
            ));
        }
        if self.http.max_connections == 0 || self.http.max_connections_per_client == 0 {
            let reason = "http.max-connections and http.max-connections-per-client must be at least 1";
            return Err(Error::invalid("configuration", reason));
        }
        if self.orchestrator == OrchestratorKind::Swarm {
            let reason = "orchestrator = \"swarm\" cannot run databases, whose volumes are on this host; it is for environments.orchestrator";
            return Err(Error::invalid("configuration", reason));
        }
        self.environments.validate(self.databases.max_ttl)?;
        let github = &self.github;
        let any_user = github.accounts == Accounts::Github && github.organisations.is_empty();
        if self.environments.templates.is_some()
            && any_user
            && !github.any_github_user
            && !self.http.listen.ip().is_loopback()
        {
            let reason = "every GitHub user could run programs here: http.listen is beyond loopback, and github.organisations is empty. Name your organisations, or set github.any-github-user = true";
            return Err(Error::invalid("configuration", reason));
        }
        self.proxy.validate()
    }
}
