//! `ondemand pg`: databases.

use clap::Subcommand;

use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;

mod create;
mod delete;
mod extend;
mod list;
mod logs;
mod psql;
mod reset;
mod show;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a database, and print its connection URL
    Create(create::Arguments),
    /// List the databases
    #[command(visible_alias = "ls")]
    List,
    /// Show all about a database, with its password
    Show(show::Arguments),
    /// Take a database back to its snapshot: same address, same password, same expiry
    Reset(reset::Arguments),
    /// Change when a database expires
    Extend(extend::Arguments),
    /// Print what a database's server wrote to its log
    Logs(logs::Arguments),
    /// Delete databases
    #[command(visible_alias = "rm")]
    Delete(delete::Arguments),
    /// Open psql on a database
    Psql(psql::Arguments),
}

pub(crate) async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let client = Client::new(global)?;
    match command {
        Command::Create(arguments) => create::run(global, &client, arguments).await,
        Command::List => list::run(global, &client).await,
        Command::Show(arguments) => show::run(global, &client, arguments).await,
        Command::Reset(arguments) => reset::run(global, &client, arguments).await,
        Command::Extend(arguments) => extend::run(global, &client, arguments).await,
        Command::Logs(arguments) => logs::run(&client, arguments).await,
        Command::Delete(arguments) => delete::run(global, &client, arguments).await,
        Command::Psql(arguments) => psql::run(&client, arguments).await,
    }
}

/// Which database.
#[derive(Debug, clap::Args)]
struct Which {
    /// Its id, the first digits of its id, or its name
    #[arg(value_name = "ID")]
    id: String,
}

impl Which {
    /// Returns what stands for the database in a path: an empty segment or one of dots would name another resource.
    fn segment(&self) -> Result<&str, Failure> {
        let id = self.id.trim_start_matches('/');
        if id.is_empty() || id.bytes().all(|b| b == b'.') {
            let error = ondemand_core::Error::not_found(ondemand_core::Kind::Database, &self.id);
            return Err(error.into());
        }
        Ok(id)
    }
}
