//! The environments of a data directory, put together as a [`Config`] says.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(feature = "swarm")]
use std::time::Duration;

use super::Ondemand;
use crate::cgroup::Cgroups;
use crate::config::{Accounts, Config, OrchestratorKind};
use crate::environments::{Environments, EnvironmentsOptions, FoundAt, Parts};
use crate::error::{Error, Result};
use crate::git::{Git, GitOptions};
use crate::github::{GitHub, GitHubOptions};
#[cfg(feature = "docker")]
use crate::orchestrator::{Docker, DockerOptions};
use crate::orchestrator::{Orchestrator, Process, ProcessOptions, RunAs};
#[cfg(feature = "swarm")]
use crate::orchestrator::{Swarm, SwarmOptions};
use crate::own;
use crate::postgres::os_user;
use crate::router::Router;
use crate::sandbox::Sandbox;

/// Whom the services of environments run as, where they are processes and this one is root's.
const USER: &str = "nobody";

pub(super) fn open(
    config: &Config,
    templates: &Path,
    ondemand: &Ondemand,
    orchestrator: Arc<dyn Orchestrator>,
    router: Arc<dyn Router>,
    proxy: &FoundAt,
) -> Result<Environments> {
    let environments = &config.environments;
    let run_as = match environments.orchestrator {
        OrchestratorKind::Process => Some(user(environments.user.as_deref())?),
        OrchestratorKind::Docker | OrchestratorKind::Swarm => None,
    };
    let github = &config.github;
    Environments::new(Parts {
        instance: ondemand.instance.clone(),
        orchestrator,
        router,
        databases: ondemand.databases.clone(),
        git: Git::new(&GitOptions { base: github.url.clone(), ..GitOptions::default() })?,
        github: match github.accounts {
            Accounts::Github => Some(GitHub::new(GitHubOptions {
                api: github.api.clone(),
                organisations: github.organisations.clone(),
                ..GitHubOptions::new(ondemand.instance.key_for("tokens"))
            })?),
            Accounts::None => None,
        },
        options: EnvironmentsOptions {
            templates: templates.to_owned(),
            template: environments.template.clone(),
            domain: environments.domain.clone(),
            proxy: environments.proxy.clone().unwrap_or_else(|| proxy.here.clone()),
            public_url: environments.public_url.clone().unwrap_or_else(|| proxy.by_people.clone()),
            variables: environments.variables.clone(),
            max: environments.max,
            max_per_user: environments.max_per_user,
            default_keep_days: environments.default_keep_days,
            max_keep_days: environments.max_keep_days,
            reserved_names: environments.reserved_names.clone(),
            ready_timeout: environments.ready_timeout.duration(),
            follow_interval: environments.follow_interval.duration(),
            revive: environments.orchestrator == OrchestratorKind::Process,
            run_as,
            runner: match environments.orchestrator {
                OrchestratorKind::Process => Some(write_runner(&config.data_dir)?),
                OrchestratorKind::Docker | OrchestratorKind::Swarm => None,
            },
        },
    })
}

/// Writes the script that clones, builds and starts a service where everybody may read it, and returns where that is.
fn write_runner(data_dir: &Path) -> Result<PathBuf> {
    let dir = data_dir.join("environments");
    let (path, new) = (dir.join("run.sh"), dir.join("run.sh.new"));
    let failed = |e| Error::io("data directory", format!("writing {}", path.display()), e);
    own::write(&new, crate::runner::SCRIPT).map_err(failed)?;
    own::set_permissions(&new, PermissionsExt::from_mode(0o644)).map_err(failed)?;
    own::rename(&new, &path).map_err(failed)?;
    Ok(path)
}

/// Returns the user that services run as: never root, since they are whatever somebody has pushed to a branch.
pub(super) fn user(name: Option<&str>) -> Result<RunAs> {
    let name = name.unwrap_or(USER);
    os_user(Some(name)).map_err(|error| match error {
        Error::Unsupported { .. } => Error::Unsupported {
            message: format!(
                "environments do not run as root, and there is no unprivileged user {name:?} to run them as"
            ),
            hint: "set environments.user to one that has no rights here".into(),
        },
        error => error,
    })
}

/// Returns what services are put in, where they are processes, that is configured, and this host can make it.
pub(super) async fn sandbox(config: &Config, notices: &mut Vec<String>) -> Result<Option<Sandbox>> {
    let environments = &config.environments;
    if environments.templates.is_none() || environments.orchestrator != OrchestratorKind::Process {
        return Ok(None);
    }
    // Those above are passed through, too.
    super::make_passable(&config.data_dir.join(super::SANDBOX))?;
    let dir = config.data_dir.join(super::SANDBOX).join("environments");
    let user = user(environments.user.as_deref())?;
    // The certificates of authorities, and what Debian's alternatives lead to: programs that build and run code want both.
    let usual = ["/etc/ssl/certs", "/etc/pki", "/etc/ca-certificates", "/etc/alternatives"].map(PathBuf::from);
    let more: Vec<PathBuf> = usual.into_iter().chain(environments.sandbox_paths.iter().cloned()).collect();
    let missing = "environments are not separated from each other: a branch can read and change the files of all";
    super::find_sandbox("environments.sandbox", environments.sandbox, &dir, user, Some(&more), missing, notices).await
}

/// Environments have an orchestrator of their own, apart from that of the databases.
pub(super) fn orchestrator(
    config: &Config,
    instance: &str,
    sandbox: Option<Sandbox>,
    cgroups: Option<Cgroups>,
) -> Result<Arc<dyn Orchestrator>> {
    let dir = config.data_dir.join("environments");
    // Before anything is made in it: services run as another user, and must come through.
    super::make_passable(&dir)?;
    match config.environments.orchestrator {
        OrchestratorKind::Process => Ok(Arc::new(Process::new(ProcessOptions {
            state_dir: dir.join("processes"),
            log_dir: dir.join("logs"),
            instance: instance.to_owned(),
            sandbox,
            cgroups,
        })?)),
        #[cfg(feature = "docker")]
        OrchestratorKind::Docker => Ok(Arc::new(Docker::new(DockerOptions {
            host: config.docker.host.clone(),
            state_dir: dir.join("containers"),
            // The containers of databases are another orchestrator's.
            instance: format!("{instance}-env"),
        })?)),
        #[cfg(feature = "swarm")]
        OrchestratorKind::Swarm => Ok(Arc::new(Swarm::new(SwarmOptions {
            host: config.swarm.host.clone(),
            registry_auth: config.swarm.registry_auth.clone(),
            ingress: config.swarm.ingress,
            volume_cleaner: Some(config.swarm.volume_cleaner.clone()).filter(|image| !image.is_empty()),
            // How long an environment may take is its template's to say.
            start_timeout: Duration::MAX,
            ..SwarmOptions::new(instance)
        })?)),
        #[allow(unreachable_patterns, reason = "all are there unless a feature is left out")]
        kind => Err(Error::Unsupported {
            message: format!("this program was built without the orchestrator {kind:?}"),
            hint: "build it with the features `docker` and `swarm`".into(),
        }),
    }
}
