//! `ondemand pg show`.

use std::time::SystemTime;

use clap::Args;
use ondemand_http::wire::Server;

use super::Which;
use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::table::fields;
use crate::{output, when};

/// Which database.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
}

pub(crate) async fn run(global: &Global, client: &Client, arguments: Arguments) -> Result<(), Failure> {
    let server: Server = client.get(&["servers", arguments.which.segment()?]).await?;
    if global.json { output::json(&server) } else { output::line(describe(server, SystemTime::now())) }
}

fn describe(server: Server, now: SystemTime) -> String {
    let mut rows = vec![
        ("id", server.id),
        ("name", server.name.trim_start_matches('/').to_owned()),
        ("url", server.url.unwrap_or_default()),
        ("snapshot", server.snapshot),
        ("status", format!("{:?}", server.status).to_lowercase()),
        ("created", when::relative(&server.created_at, now)),
        ("expires", when::relative(&server.expires_at, now)),
        ("durable", if server.durable { "yes" } else { "no" }.into()),
    ];
    rows.extend(server.settings.into_iter().map(|(name, value)| ("setting", format!("{name} = {value}"))));
    fields(rows)
}
