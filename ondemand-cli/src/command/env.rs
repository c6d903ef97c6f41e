//! `ondemand env`: environments.

use clap::Subcommand;
use ondemand_core::{Error, Kind};

use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::token;

mod create;
mod delete;
mod extend;
mod list;
mod logs;
mod open;
mod progress;
mod redeploy;
mod show;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an environment from branches, and print its URLs once they answer
    Create(create::Arguments),
    /// List the environments
    #[command(visible_alias = "ls")]
    List(list::Arguments),
    /// Show all about an environment
    #[command(visible_alias = "details")]
    Show(show::Arguments),
    /// Print what an environment's services wrote
    Logs(logs::Arguments),
    /// Replace an environment by what its branches are at now: same URLs, same data
    Redeploy(redeploy::Arguments),
    /// Change when an environment is reaped
    Extend(extend::Arguments),
    /// Open an environment in a browser
    Open(open::Arguments),
    /// Delete environments
    #[command(visible_alias = "rm")]
    Delete(delete::Arguments),
}

pub(crate) async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(arguments) => create::run(global, arguments).await,
        Command::List(arguments) => list::run(global, arguments).await,
        Command::Show(arguments) => show::run(global, arguments).await,
        Command::Logs(arguments) => logs::run(global, arguments).await,
        Command::Redeploy(arguments) => redeploy::run(global, arguments).await,
        Command::Extend(arguments) => extend::run(global, arguments).await,
        Command::Open(arguments) => open::run(global, arguments).await,
        Command::Delete(arguments) => delete::run(global, arguments).await,
    }
}

/// Whose token is sent.
#[derive(Debug, clap::Args)]
pub(crate) struct Token {
    /// A GitHub token: whose the environment is, and what code is cloned with. Other users can see arguments: prefer the variable
    #[arg(long, env = "GITHUB_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    github_token: Option<String>,
}

impl Token {
    /// Makes a client that sends the token; where there is none, that of the server, for whoever runs it.
    fn client(&self, global: &Global) -> Result<Client, Failure> {
        let given = self.github_token.as_deref().and_then(token::Token::github);
        Client::with_token(&global.url, given.or_else(|| global.token.as_deref().and_then(token::Token::own)))
    }
}

/// Which environment.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
}

impl Which {
    /// Returns what stands for the environment in a path: an empty segment or one of dots would name another resource.
    fn segment(&self) -> Result<&str, Failure> {
        segment(&self.name)
    }
}

/// Returns what stands for an environment in a path.
pub(crate) fn segment(name: &str) -> Result<&str, Failure> {
    if name.is_empty() || name.bytes().all(|b| b == b'.') {
        return Err(Error::not_found(Kind::Environment, name).into());
    }
    Ok(name)
}
