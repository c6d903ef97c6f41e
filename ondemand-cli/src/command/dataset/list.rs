//! `ondemand dataset list`.

use std::time::SystemTime;

use ondemand_core::Size;
use ondemand_http::wire::{Dataset, Snapshot};

use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::table::table;
use crate::{output, when};

pub(crate) async fn run(global: &Global, client: &Client) -> Result<(), Failure> {
    let datasets: Vec<Dataset> = client.get(&["datasets"]).await?;
    if global.json {
        return output::json(&datasets);
    }
    if datasets.is_empty() {
        output::note("there are no datasets; `ondemand dataset import NAME --dump FILE` makes one");
        return Ok(());
    }
    let now = SystemTime::now();
    let row = |dataset: Dataset| {
        let databases: usize = dataset.versions.iter().map(|version| version.servers).sum();
        let newest = dataset.versions.last();
        [
            dataset.name,
            dataset.versions.len().to_string(),
            newest.map(newest_version).unwrap_or_default(),
            newest.map(|newest| Size(newest.data_bytes).to_string()).unwrap_or_default(),
            newest.map(|newest| newest.postgres.to_string()).unwrap_or_default(),
            databases.to_string(),
            newest.map(|newest| when::relative(&newest.created_at, now)).unwrap_or_default(),
        ]
    };
    let header = ["NAME", "VERSIONS", "NEWEST", "SIZE", "POSTGRES", "DATABASES", "CREATED"];
    output::line(table(header, datasets.into_iter().map(row)))
}

fn newest_version(newest: &Snapshot) -> String {
    let incomplete = if newest.failures.is_some() { " (incomplete)" } else { "" };
    format!("{}{incomplete}", newest.version)
}
