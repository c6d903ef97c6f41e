//! `ondemand dataset delete`.

use clap::Args;
use ondemand_core::DatasetRef;
use ondemand_http::wire::DatasetName;

use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output;

/// Which dataset.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The dataset with all its versions, or one version of it
    #[arg(value_name = "DATASET[@VERSION]")]
    dataset: DatasetRef,
}

pub(crate) async fn run(global: &Global, client: &Client, arguments: Arguments) -> Result<(), Failure> {
    let deleted: DatasetName = client.delete(&["datasets", &arguments.dataset.to_string()]).await?;
    if global.json { output::json(&deleted) } else { output::line(deleted.name) }
}
