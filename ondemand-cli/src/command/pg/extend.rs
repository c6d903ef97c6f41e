//! `ondemand pg extend`.

use std::time::SystemTime;

use clap::Args;
use ondemand_core::Ttl;
use ondemand_http::wire::{PatchServer, Server};

use super::Which;
use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::{output, when};

/// Which database, and how long.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// How long it lives from now on: 90s, 15m, 12h, 2d, 1w
    #[arg(value_name = "TIME", value_parser = when::lifetime)]
    ttl: Ttl,
}

pub(crate) async fn run(global: &Global, client: &Client, arguments: Arguments) -> Result<(), Failure> {
    let wanted = PatchServer { ttl: Some(arguments.ttl), ..PatchServer::default() };
    let server: Server = client.patch(&["servers", arguments.which.segment()?], &wanted).await?;
    if global.json {
        return output::json(&server);
    }
    output::line(format_args!("expires {}", when::relative(&server.expires_at, SystemTime::now())))
}
