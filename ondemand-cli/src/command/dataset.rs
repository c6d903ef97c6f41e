//! `ondemand dataset`: what databases are cloned from.

use clap::Subcommand;

use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;

mod delete;
mod import;
mod list;
mod show;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Restore a dump into a new version of a dataset
    Import(import::Arguments),
    /// List the datasets
    #[command(visible_alias = "ls")]
    List,
    /// Show a dataset and its versions
    Show(show::Arguments),
    /// Delete a dataset, or one version of it
    #[command(visible_alias = "rm")]
    Delete(delete::Arguments),
}

pub(crate) async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let client = Client::new(global)?;
    match command {
        Command::Import(arguments) => import::run(global, &client, arguments).await,
        Command::List => list::run(global, &client).await,
        Command::Show(arguments) => show::run(global, &client, arguments).await,
        Command::Delete(arguments) => delete::run(global, &client, arguments).await,
    }
}
