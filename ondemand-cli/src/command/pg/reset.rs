//! `ondemand pg reset`.

use clap::Args;
use ondemand_http::wire::Server;

use super::Which;
use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output;

/// Which database.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
}

pub(crate) async fn run(global: &Global, client: &Client, arguments: Arguments) -> Result<(), Failure> {
    let segments = ["servers", arguments.which.segment()?, "reset"];
    let server: Server = client.post(&segments, &serde_json::Map::new()).await?;
    if global.json {
        return output::json(&server);
    }
    output::line(server.url.as_deref().unwrap_or_default())?;
    if output::is_watched() {
        output::note(format_args!("{} is back at {}", server.name.trim_start_matches('/'), server.snapshot));
    }
    Ok(())
}
