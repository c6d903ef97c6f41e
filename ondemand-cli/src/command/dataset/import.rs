//! `ondemand dataset import`.

use std::path::PathBuf;

use clap::Args;
use ondemand_core::DatasetName;
use ondemand_core::progress::Event;
use ondemand_http::wire::Snapshot;
use reqwest::{Method, header};

use crate::arguments::Global;
use crate::client::Client;
use crate::events::follow;
use crate::failure::Failure;
use crate::import::input::{self, Input, Origin};
use crate::import::report::Report;
use crate::output;

/// What to import.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The dataset; it need not exist, and gets another version if it does
    name: DatasetName,
    #[command(flatten)]
    what: What,
    /// The Postgres database that holds the data: of several that the dump makes, this one, or else one that is made to restore
    /// into [default: the only one that the dump makes, or postgres]
    #[arg(long, value_name = "NAME")]
    dbname: Option<String>,
    /// A role to make before restoring, for dumps that name owners they do not bring; may be given more than once
    #[arg(long, value_name = "NAME")]
    role: Vec<String>,
    /// Make, without attributes, each role that the dump names and does not make
    #[arg(long)]
    create_roles: bool,
    /// Leave out owners and privileges; not for SQL text
    #[arg(long)]
    no_owner: bool,
    /// What a statement that fails leads to; with `continue`, the version is incomplete, and has the list of what failed
    #[arg(long, value_name = "WHAT", default_value = "stop", value_parser = ["stop", "continue"])]
    on_error: String,
    /// The major version of Postgres to restore with [default: the newest that the server has]
    #[arg(long, value_name = "MAJOR")]
    postgres: Option<u32>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// SQL text (also .gz, .zst), what `pg_dump -Fc` or `-Fd` wrote, or `-` for standard input
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// The data directory of a server that was shut down cleanly
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(crate) async fn run(global: &Global, client: &Client, arguments: Arguments) -> Result<(), Failure> {
    let origin = match (&arguments.what.data_dir, &arguments.what.dump) {
        (Some(data_dir), _) => Origin::DataDirectory(data_dir.clone()),
        (None, Some(dump)) => input::dump(dump),
        (None, None) => return Err(Failure::new("there is nothing to import").with_exit(2)),
    };
    let Input { body, length, mut failed } = input::open(origin).await?;
    let mut request = client
        .request(Method::POST, &["datasets", arguments.name.as_str()])
        .query(&query(&arguments))
        .header(header::ACCEPT, "text/event-stream")
        .header(header::CONTENT_TYPE, "application/octet-stream");
    if let Some(length) = length {
        request = request.header(header::CONTENT_LENGTH, length);
    }
    let mut report = Report::new();
    let outcome =
        async { follow(client, client.send(request.body(body)).await?, |event: &Event| report.show(event)).await }
            .await;
    report.end();
    // That the bytes failed says more than that the connection broke, which is what follows from it.
    let snapshot: Snapshot = outcome.map_err(|failure| failed.try_recv().unwrap_or(failure))?;
    if global.json {
        return output::json(&snapshot);
    }
    notes(&snapshot);
    output::line(snapshot.name)
}

/// Says what whoever uses a version should know.
pub(super) fn notes(snapshot: &Snapshot) {
    if let Some(warning) = &snapshot.warning {
        output::note(format!("warning: {warning}"));
    }
    if let Some(failures) = snapshot.failures {
        output::note(format!(
            "warning: {} is incomplete; statements of the dump that failed: {failures}",
            snapshot.name
        ));
        for failure in &snapshot.failed {
            output::note(format!("  {failure}"));
        }
    }
}

fn query(arguments: &Arguments) -> Vec<(&'static str, String)> {
    let mut query: Vec<_> = arguments.role.iter().map(|role| ("role", role.clone())).collect();
    query.extend(arguments.dbname.clone().map(|dbname| ("dbname", dbname)));
    query.extend(arguments.create_roles.then(|| ("create_roles", "true".into())));
    query.extend((arguments.on_error == "continue").then(|| ("on_error", "continue".into())));
    query.extend(arguments.no_owner.then(|| ("no_owner", "true".into())));
    query.extend(arguments.postgres.map(|major| ("postgres", major.to_string())));
    query
}
