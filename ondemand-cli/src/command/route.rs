//! `ondemand route`: which names reach which addresses.

use clap::Subcommand;
use ondemand_core::{Hostname, Result};

use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;

mod delete;
mod list;
mod set;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the routes, with what goes through each
    #[command(visible_alias = "ls")]
    List,
    /// Make a host name reach addresses, in place of those it reached
    Set(set::Arguments),
    /// Make host names unknown
    #[command(visible_alias = "rm")]
    Delete(delete::Arguments),
}

pub(crate) async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let client = Client::new(global)?;
    match command {
        Command::List => list::run(global, &client).await,
        Command::Set(arguments) => set::run(global, &client, arguments).await,
        Command::Delete(arguments) => delete::run(global, &client, arguments).await,
    }
}

/// Reads a host name as a browser does.
fn host(text: &str) -> Result<Hostname> {
    Hostname::parse_lenient(text)
}
