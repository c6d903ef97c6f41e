//! `ondemand dataset show`.

use std::time::SystemTime;

use clap::Args;
use ondemand_core::{DatasetRef, Size};
use ondemand_http::wire::{Dataset, Snapshot};

use super::import::notes;
use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::table::table;
use crate::{output, when};

/// Which dataset.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The dataset, or one version of it
    #[arg(value_name = "DATASET[@VERSION]")]
    dataset: DatasetRef,
}

pub(crate) async fn run(global: &Global, client: &Client, arguments: Arguments) -> Result<(), Failure> {
    let dataset: Dataset = client.get(&["datasets", &arguments.dataset.to_string()]).await?;
    if global.json {
        return output::json(&dataset);
    }
    dataset.versions.iter().for_each(notes);
    let now = SystemTime::now();
    let row = |snapshot: Snapshot| {
        [
            if snapshot.failures.is_some() { format!("{} (incomplete)", snapshot.name) } else { snapshot.name },
            Size(snapshot.data_bytes).to_string(),
            Size(snapshot.dump_bytes).to_string(),
            snapshot.dbname,
            snapshot.postgres.to_string(),
            snapshot.servers.to_string(),
            when::relative(&snapshot.created_at, now),
        ]
    };
    let header = ["SNAPSHOT", "SIZE", "DUMP", "DBNAME", "POSTGRES", "DATABASES", "CREATED"];
    output::line(table(header, dataset.versions.into_iter().map(row)))
}
