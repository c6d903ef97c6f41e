//! `ondemand pg psql`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;
use ondemand_http::wire::Server;

use super::Which;
use crate::client::Client;
use crate::failure::Failure;

/// What users may have set for another server, and must not change where this goes or how it is reached.
const FOREIGN: [&str; 11] = [
    "PGHOSTADDR",
    "PGSERVICE",
    "PGPASSFILE",
    "PGOPTIONS",
    "PGSSLMODE",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGGSSENCMODE",
    "PGREQUIREAUTH",
    "PGCHANNELBINDING",
    "PGTARGETSESSIONATTRS",
];

/// Which database, and what psql is told.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Arguments for psql
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(crate) async fn run(client: &Client, arguments: Arguments) -> Result<(), Failure> {
    let server: Server = client.get(&["servers", arguments.which.segment()?]).await?;
    // Replaces this program; it only returns if that fails.
    let error = psql(&server, &arguments.arguments).exec();
    let failure = Failure::caused("psql could not be started", &error);
    Err(match error.kind() {
        std::io::ErrorKind::NotFound => failure.with_hint("install it: on Debian, apt-get install postgresql-client"),
        _ => failure,
    })
}

/// Makes the command. The password goes into the environment, which other users cannot see, as they could see arguments.
fn psql(server: &Server, arguments: &[OsString]) -> Command {
    let mut command = Command::new("psql");
    command
        .env("PGHOST", &server.host)
        .env("PGPORT", &server.port)
        .env("PGUSER", &server.user)
        .env("PGDATABASE", &server.dbname)
        .env("PGPASSWORD", server.password.as_deref().unwrap_or_default())
        .args(arguments);
    for name in FOREIGN {
        command.env_remove(name);
    }
    command
}
