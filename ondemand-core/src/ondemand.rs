//! Everything put together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cgroup::Cgroups;
use crate::config::{Config, LimitsConfig, OrchestratorKind, SandboxMode};
use crate::databases::{Databases, DatabasesOptions, Programs};
use crate::datasets::{Datasets, DatasetsOptions};
use crate::error::{Error, Result};
use crate::instance::{Instance, check_reachable};
use crate::janitor::Janitor;
#[cfg(feature = "docker")]
use crate::orchestrator::{Docker, DockerOptions};
use crate::orchestrator::{Orchestrator, Process, ProcessOptions, RunAs};
use crate::postgres::{Installs, StaticFiles, Wire, os_user};
use crate::sandbox::Sandbox;
use crate::snapshot::SnapshotStore;

#[cfg(feature = "environments")]
mod environments;
mod store;

/// Where child processes are recorded, below the data directory.
const PROCESSES: &str = "stacks";
/// Where containers are recorded, below the data directory.
const CONTAINERS: &str = "containers";
/// What sandboxes see of `/etc`, below the data directory.
const SANDBOX: &str = "sandbox";

/// Databases and datasets over one data directory, put together as a [`Config`] says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Ondemand {
    /// Databases.
    pub databases: Databases,
    /// Datasets.
    pub datasets: Datasets,
    /// What cleans up.
    pub janitor: Janitor,
    /// What keeps the data.
    pub store: Arc<dyn SnapshotStore>,
    /// What runs the databases.
    pub orchestrator: Arc<dyn Orchestrator>,
    /// Environments, where [`Ondemand::with_environments`] has put them together.
    #[cfg(feature = "environments")]
    pub environments: Option<crate::Environments>,
    /// What to tell the user about the choices that were made, such as a store that copies.
    pub notices: Vec<String>,
    guests: BTreeSet<u32>,
    /// What services of environments are put in.
    #[cfg(feature = "environments")]
    environment_sandbox: Option<Sandbox>,
    #[cfg(feature = "environments")]
    cgroups: Option<Cgroups>,
    instance: Instance,
}

impl Ondemand {
    /// Opens the data directory, and makes it if need be. One process at a time may have it open.
    ///
    /// It may make or mount a pool, and deletes what a dead process left of unfinished snapshots. No database is started or deleted before
    /// [`Janitor::run_once`] is called; until then none of an earlier process is known.
    ///
    /// # Errors
    /// [`Conflict`](Error::Conflict) if another process has it open; [`Unsupported`](Error::Unsupported) for a store or orchestrator that
    /// this machine cannot offer, and for a data directory that Postgres's user cannot reach.
    ///
    /// # Cancel safety
    /// Calling it again finishes what was begun.
    pub async fn open(config: &Config) -> Result<Self> {
        Self::open_wrapped(config, |store| store, |orchestrator| orchestrator).await
    }

    /// As [`Ondemand::open`], with the store and the orchestrator wrapped: for tests that make them fail, and for programs that watch or
    /// limit what is done.
    ///
    /// # Errors
    /// As [`Ondemand::open`].
    ///
    /// # Cancel safety
    /// As [`Ondemand::open`].
    pub async fn open_wrapped(
        config: &Config,
        wrap_store: impl FnOnce(Arc<dyn SnapshotStore>) -> Arc<dyn SnapshotStore>,
        wrap_orchestrator: impl FnOnce(Arc<dyn Orchestrator>) -> Arc<dyn Orchestrator>,
    ) -> Result<Self> {
        config.validate()?;
        let installs = Installs::discover(config.postgres.bin_dir.as_deref()).await?;
        let user = os_user(config.postgres.user.as_deref())?;
        let instance = Instance::open(&config.data_dir)?;
        let mut notices = Vec::new();
        let store = wrap_store(store::open(config, &mut notices).await?);
        let files = config.data_dir.join("postgres");
        make_passable(&files)?;
        StaticFiles::write(&files)?;
        check_reachable(&files.join("postgresql.conf"), user)?;
        let sandbox = sandbox(config, user, &mut notices).await?;
        let datasets = DatasetsOptions::new(installs.clone(), user, &instance.runtime_dir, &instance.id);
        let datasets = Datasets::new(Arc::clone(&store), DatasetsOptions { sandbox: sandbox.clone(), ..datasets });
        let cgroups = cgroups(config, &instance, &mut notices);
        let orchestrator = wrap_orchestrator(orchestrator(config, &instance, sandbox, cgroups.clone())?);
        let databases = Databases::new(
            instance.clone(),
            Arc::clone(&orchestrator),
            Arc::clone(&store),
            datasets.clone(),
            Arc::new(Wire::default()),
            DatabasesOptions {
                listen: config.databases.listen,
                host: config.databases.host.clone().unwrap_or_else(|| config.databases.listen.to_string()),
                ports: config.databases.first_port..=config.databases.last_port,
                max: config.databases.max.unwrap_or(usize::MAX),
                default_ttl: config.databases.default_ttl,
                max_ttl: config.databases.max_ttl,
                default_dataset: config.databases.default_dataset.clone(),
                ready_timeout: config.databases.ready_timeout.duration(),
                settings: config.databases.settings.clone(),
                limits: config.databases.limits.resources(),
                user,
                programs: programs(config, &installs),
                files,
            },
        );
        let janitor = Janitor::new(databases.clone(), datasets.clone());
        #[cfg(feature = "environments")]
        let environment_sandbox = environments::sandbox(config, &mut notices).await?;
        Ok(Self {
            databases,
            datasets,
            janitor,
            store,
            orchestrator,
            #[cfg(feature = "environments")]
            environments: None,
            #[cfg(feature = "environments")]
            environment_sandbox,
            #[cfg(feature = "environments")]
            cgroups,
            notices,
            guests: guest(config.orchestrator, user).into_iter().collect(),
            instance,
        })
    }

    /// Puts environments together, whose routes are set in `router`, and whose proxy is found at `proxy`, where
    /// templates are configured. The janitor of what is returned looks after both.
    ///
    /// # Errors
    /// [`Unsupported`](Error::Unsupported) for an orchestrator that this machine cannot offer;
    /// [`InvalidInput`](Error::InvalidInput) for what is configured wrongly.
    #[cfg(feature = "environments")]
    pub fn with_environments(
        self,
        config: &Config,
        router: Arc<dyn crate::Router>,
        proxy: &crate::environments::FoundAt,
    ) -> Result<Self> {
        self.with_environments_wrapped(config, router, proxy, |orchestrator| orchestrator)
    }

    /// As [`Ondemand::with_environments`], with the orchestrator wrapped, as in [`Ondemand::open_wrapped`].
    ///
    /// # Errors
    /// As [`Ondemand::with_environments`].
    #[cfg(feature = "environments")]
    pub fn with_environments_wrapped(
        mut self,
        config: &Config,
        router: Arc<dyn crate::Router>,
        proxy: &crate::environments::FoundAt,
        wrap: impl FnOnce(Arc<dyn Orchestrator>) -> Arc<dyn Orchestrator>,
    ) -> Result<Self> {
        if let Some(templates) = &config.environments.templates {
            let orchestrator = wrap(environments::orchestrator(
                config,
                &self.instance.id,
                self.environment_sandbox.clone(),
                self.cgroups.clone(),
            )?);
            let environments = environments::open(config, templates, &self, orchestrator, router, proxy)?;
            self.janitor = self.janitor.with_environments(environments.clone());
            self.environments = Some(environments);
            if config.environments.orchestrator == OrchestratorKind::Process {
                let user = environments::user(config.environments.user.as_deref())?;
                self.guests.extend(guest(OrchestratorKind::Process, user));
            }
        }
        Ok(self)
    }

    /// Returns the users of this machine, apart from this process's own, that programs of databases and environments run as.
    pub fn guests(&self) -> impl Iterator<Item = u32> {
        self.guests.iter().copied()
    }

    /// Tells whether there is nothing to look after: no database and no lease, no environment, and nothing that is being made. What cannot be
    /// asked counts as something.
    pub async fn is_idle(&self) -> bool {
        #[cfg(feature = "environments")]
        if let Some(environments) = &self.environments
            && !environments.list().await.is_ok_and(|listed| listed.is_empty())
        {
            return false;
        }
        self.databases.is_idle() && self.datasets.is_idle()
    }

    /// Gives back what only a running process needs: the runtime directory, if no database has its sockets there. To be called before a process
    /// ends that cannot wait until every clone of this is dropped. Databases run on.
    pub fn close(&self) {
        self.instance.close();
    }
}

/// Returns the user of this machine that programs run as, where they are processes, and that is not this process's own.
fn guest(orchestrator: OrchestratorKind, user: RunAs) -> Option<u32> {
    let own = rustix::process::geteuid().as_raw();
    (orchestrator == OrchestratorKind::Process && user.uid != own).then_some(user.uid)
}

/// Makes a directory that others may pass through: Postgres runs as another user.
fn make_passable(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|e| Error::io("data directory", format!("making {}", path.display()), e))
}

/// Returns what imports, and databases that are processes, are put in, where that is configured and this host can make it.
async fn sandbox(config: &Config, user: RunAs, notices: &mut Vec<String>) -> Result<Option<Sandbox>> {
    let missing = match config.orchestrator {
        OrchestratorKind::Process => {
            "databases are not separated from each other: a superuser of one can read the files of all"
        }
        _ => "imports are not separated from databases: a dump can read the files of all",
    };
    let dir = config.data_dir.join(SANDBOX);
    find_sandbox("databases.sandbox", config.databases.sandbox, &dir, user, None, missing, notices).await
}

/// Looks for a sandbox, where `setting` says so; `missing` is what it means that there is none.
async fn find_sandbox(
    setting: &str,
    mode: SandboxMode,
    dir: &Path,
    user: RunAs,
    shown: Option<&[PathBuf]>,
    missing: &str,
    notices: &mut Vec<String>,
) -> Result<Option<Sandbox>> {
    if mode == SandboxMode::Off {
        return Ok(None);
    }
    make_passable(dir)?;
    let found = match shown {
        Some(shown) => Sandbox::find_showing(dir, user, shown).await,
        None => Sandbox::find(dir, user).await,
    };
    match found {
        Ok(sandbox) => Ok(Some(sandbox)),
        Err(reason) if mode == SandboxMode::Required => Err(Error::Unsupported {
            message: format!("{setting} is \"required\", and there is no sandbox on this host: {reason}"),
            hint: format!("apt-get install bubblewrap, or set {setting} = \"auto\""),
        }),
        Err(reason) => {
            notices.push(format!("{missing} (there is no sandbox on this host: {reason})"));
            Ok(None)
        }
    }
}

/// Looks for control groups, where databases or environments are processes.
fn cgroups(config: &Config, instance: &Instance, notices: &mut Vec<String>) -> Option<Cgroups> {
    if config.orchestrator != OrchestratorKind::Process && config.environments.orchestrator != OrchestratorKind::Process
    {
        return None;
    }
    // Also where none are configured: templates may have limits, and databases those of an earlier configuration.
    match Cgroups::find(&instance.id) {
        Ok(cgroups) => Some(cgroups),
        Err(reason) => {
            let environments = &config.environments;
            if environments.templates.is_some() && environments.orchestrator == OrchestratorKind::Process {
                notices.push(format!(
                    "limits of templates mean nothing here: an environment can take all of the machine (there are no control groups: {reason})"
                ));
            }
            // In a container, its engine sees to them.
            if config.orchestrator == OrchestratorKind::Process && config.databases.limits != LimitsConfig::default() {
                notices.push(format!(
                    "databases.limits means nothing here: a database can take all of the machine (there are no control groups: {reason})"
                ));
            }
            None
        }
    }
}

fn orchestrator(
    config: &Config,
    instance: &Instance,
    sandbox: Option<Sandbox>,
    cgroups: Option<Cgroups>,
) -> Result<Arc<dyn Orchestrator>> {
    refuse_others(config)?;
    match config.orchestrator {
        OrchestratorKind::Process => Ok(Arc::new(Process::new(ProcessOptions {
            state_dir: config.data_dir.join(PROCESSES),
            log_dir: config.data_dir.join("logs"),
            instance: instance.id.clone(),
            sandbox,
            cgroups,
        })?)),
        #[cfg(feature = "docker")]
        OrchestratorKind::Docker => Ok(Arc::new(Docker::new(DockerOptions {
            host: config.docker.host.clone(),
            state_dir: config.data_dir.join(CONTAINERS),
            instance: instance.id.clone(),
        })?)),
        OrchestratorKind::Swarm => Err(Error::Unsupported {
            message: "a Swarm cannot run databases, whose volumes are on this host".into(),
            hint: "run them as processes or in Docker; a Swarm is for environments".into(),
        }),
        #[cfg(not(feature = "docker"))]
        OrchestratorKind::Docker => Err(Error::Unsupported {
            message: "this program was built without Docker".into(),
            hint: "build it with the feature `docker`".into(),
        }),
    }
}

/// Refuses to run databases that the other orchestrator already runs: two servers on the same files would destroy them.
fn refuse_others(config: &Config) -> Result<()> {
    let (wanted, other, records) = match config.orchestrator {
        OrchestratorKind::Process => ("process", "docker", CONTAINERS),
        OrchestratorKind::Docker | OrchestratorKind::Swarm => ("docker", "process", PROCESSES),
    };
    let path = config.data_dir.join(records);
    let entries = match path.read_dir() {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("data directory", format!("reading {}", path.display()), e)),
    };
    if !entries.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "json")) {
        return Ok(());
    }
    Err(Error::Unsupported {
        message: format!(
            "the databases of {} are run by the orchestrator {other:?}, and {wanted:?} is configured",
            config.data_dir.display()
        ),
        hint: format!(
            "set orchestrator = {other:?} or ONDEMAND_ORCHESTRATOR={other}; to change it, delete the databases first"
        ),
    })
}

fn programs(config: &Config, installs: &Installs) -> Programs {
    match config.orchestrator {
        OrchestratorKind::Process => Programs::Host(
            installs.iter().map(|install| (install.major, install.bin_dir.clone())).collect::<BTreeMap<_, _>>(),
        ),
        OrchestratorKind::Docker | OrchestratorKind::Swarm => Programs::Image {
            image: config.docker.image.clone(),
            bin_dir: config.docker.bin_dir.to_string_lossy().into_owned(),
        },
    }
}
