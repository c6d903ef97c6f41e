//! `ondemand pg delete`.

use clap::Args;
use ondemand_http::wire::ServerId;

use super::Which;
use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output;

/// Which databases.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Their ids, the first digits of their ids, or their names
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

pub(crate) async fn run(global: &Global, client: &Client, arguments: Arguments) -> Result<(), Failure> {
    let mut deleted = Vec::new();
    for id in arguments.ids {
        let server: ServerId = client.delete(&["servers", Which { id }.segment()?]).await?;
        // What is gone is said at once: the next one may fail.
        if global.json {
            deleted.push(server);
        } else {
            output::line(server.id)?;
        }
    }
    if global.json { output::json(&deleted) } else { Ok(()) }
}
