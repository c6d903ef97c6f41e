//! What environment variables and flags change of how environments are made.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ondemand_core::config::{Accounts, OrchestratorKind};
use ondemand_core::{Config, Hostname};

use super::overrides::{set, set_option};
use super::proxy::absolute;
use crate::failure::Failure;

/// What environment variables and flags change of how environments are made.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Environment options")]
pub(crate) struct EnvironmentsOverrides {
    /// The directory of templates [default: there are no environments]
    #[arg(long, env = "ONDEMAND_TEMPLATES", value_name = "DIR")]
    pub(crate) templates: Option<PathBuf>,
    /// What runs environments [default: process]
    #[arg(long, env = "ONDEMAND_ENVIRONMENTS_ORCHESTRATOR", value_name = "KIND")]
    pub(crate) environments_orchestrator: Option<Cluster>,
    /// The domain below which environments are reached [default: localhost]
    #[arg(long, env = "ONDEMAND_DOMAIN", value_name = "DOMAIN")]
    pub(crate) domain: Option<Hostname>,
    /// Who says whose a token is [default: github]
    #[arg(long, env = "ONDEMAND_ACCOUNTS", value_name = "WHO")]
    pub(crate) accounts: Option<Who>,
    /// What the names of repositories are appended to [default: https://github.com/]
    #[arg(long, env = "ONDEMAND_GITHUB_URL", value_name = "URL")]
    pub(crate) github_url: Option<String>,
    /// GitHub's REST API [default: https://api.github.com/]
    #[arg(long, env = "ONDEMAND_GITHUB_API", value_name = "URL")]
    pub(crate) github_api: Option<String>,
    /// Where a manager of the Swarm answers: `unix:///PATH` or `tcp://HOST:PORT` [default: as `docker` finds it]
    #[arg(long, env = "ONDEMAND_SWARM_HOST", value_name = "ADDRESS")]
    pub(crate) swarm_host: Option<String>,
}

/// What runs environments.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Cluster {
    /// Child processes of this host
    Process,
    /// Containers of one Docker Engine
    Docker,
    /// Services of a Docker Swarm
    Swarm,
}

/// Who says whose a token is.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Who {
    /// GitHub
    Github,
    /// Nobody: whoever reaches the server is one user, without a token
    None,
}

impl EnvironmentsOverrides {
    /// Makes paths absolute: what is written on a command line is meant from where one stands.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        if let Some(dir) = &mut self.templates {
            *dir = absolute(dir)?;
        }
        Ok(())
    }

    pub(super) fn apply(self, config: &mut Config) {
        let Self { templates, environments_orchestrator, domain, accounts, github_url, github_api, swarm_host } = self;
        set_option(&mut config.environments.templates, templates);
        let kind = environments_orchestrator.map(|kind| match kind {
            Cluster::Process => OrchestratorKind::Process,
            Cluster::Docker => OrchestratorKind::Docker,
            Cluster::Swarm => OrchestratorKind::Swarm,
        });
        set(&mut config.environments.orchestrator, kind);
        set(&mut config.environments.domain, domain);
        let accounts = accounts.map(|who| match who {
            Who::Github => Accounts::Github,
            Who::None => Accounts::None,
        });
        set(&mut config.github.accounts, accounts);
        set(&mut config.github.url, github_url);
        set(&mut config.github.api, github_api);
        set_option(&mut config.swarm.host, swarm_host);
    }
}
