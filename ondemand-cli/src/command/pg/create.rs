//! `ondemand pg create`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::Args;
use ondemand_core::{DatabaseName, DatasetRef, Ttl};
use ondemand_http::wire::{CreateServer, Server};

use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::{output, when};

/// What it is to be.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What to clone [default: what the server's configuration says, or the only dataset]
    #[arg(long, short, value_name = "DATASET[@VERSION]")]
    dataset: Option<DatasetRef>,
    /// How long it lives: 90s, 15m, 12h, 2d, 1w [default: what the server's configuration says]
    #[arg(long, value_name = "TIME", value_parser = when::lifetime)]
    ttl: Option<Ttl>,
    /// A name for it [default: pgondemand_PORT]
    #[arg(long, short)]
    name: Option<DatabaseName>,
    /// Make commits survive a power cut; costs a flush to disk for every commit
    #[arg(long)]
    durable: bool,
    /// A Postgres setting, as in postgresql.conf; may be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().into(), value.trim().into())),
        _ => Err("write it as NAME=VALUE"),
    }
}

pub(crate) async fn run(global: &Global, client: &Client, arguments: Arguments) -> Result<(), Failure> {
    let wanted = CreateServer {
        dataset: arguments.dataset.map(|dataset| dataset.to_string()),
        ttl: arguments.ttl,
        name: arguments.name.map(|name| name.to_string()),
        durable: arguments.durable,
        settings: BTreeMap::from_iter(arguments.set),
        lease: None,
    };
    let server: Server = client.post(&["servers"], &wanted).await?;
    if global.json {
        return output::json(&server);
    }
    output::line(server.url.as_deref().unwrap_or_default())?;
    if output::is_watched() {
        let name = server.name.trim_start_matches('/');
        let expires = when::relative(&server.expires_at, SystemTime::now());
        output::note(format_args!("{name}: a clone of {}, expires {expires}", server.snapshot));
        output::note(format_args!("open it with `ondemand pg psql {name}`"));
    }
    Ok(())
}
