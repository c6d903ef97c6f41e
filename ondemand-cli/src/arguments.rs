//! What can be written on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::command::{completions, config, dataset, env, pg, pool, proxy, reap, route, serve, template};
use crate::failure::STATUSES;

/// Postgres databases on demand, cloned from snapshots of a dataset; environments made from branches; and a proxy.
///
/// `ondemand serve` runs the server, `ondemand proxy` a proxy alone; the other commands ask them.
#[derive(Debug, Parser)]
#[command(name = "ondemand", version, after_long_help = STATUSES, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What holds for every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where the server answers
    #[arg(long, global = true, env = "ONDEMAND_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// The token that the server wants, or that `serve` and `proxy` are to want. Other users can see arguments: prefer the variable
    #[arg(long, global = true, env = "ONDEMAND_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Print JSON, for scripts
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The configuration file [default: ./ondemand.toml or /etc/ondemand/ondemand.toml, if there is one]
    #[arg(long, global = true, env = "ONDEMAND_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    Serve(serve::Arguments),
    /// Run a proxy and its API, without databases: for a machine of its own
    Proxy(proxy::Arguments),
    /// Make, show, enlarge and delete the loop-file pool that holds the data
    #[command(subcommand)]
    Pool(pool::Command),
    /// Import, list, show and delete datasets, which databases are cloned from
    #[command(subcommand)]
    Dataset(dataset::Command),
    /// Create, list, reset, extend and delete databases
    #[command(subcommand)]
    Pg(pg::Command),
    /// Create, list, redeploy, extend and delete environments
    #[command(subcommand)]
    Env(Box<env::Command>),
    /// Check templates, which environments are rendered from
    #[command(subcommand)]
    Template(template::Command),
    /// Say which host names the proxy knows, and which addresses they reach
    #[command(subcommand)]
    Route(route::Command),
    /// Delete what has expired, and clean up, once
    Reap(reap::Arguments),
    /// Show the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
}

impl Command {
    /// Tells whether the command works on the data itself, and so needs threads.
    pub(crate) fn serves(&self) -> bool {
        match self {
            Self::Serve(_) | Self::Proxy(_) | Self::Reap(_) | Self::Pool(_) => true,
            Self::Dataset(_)
            | Self::Pg(_)
            | Self::Env(_)
            | Self::Template(_)
            | Self::Route(_)
            | Self::Config(_)
            | Self::Completions(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
