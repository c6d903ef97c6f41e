//! `ondemand env extend`.

use clap::Args;
use ondemand_http::wire::{Environment, PatchEnvironment};

use super::{Token, Which};
use crate::arguments::Global;
use crate::failure::Failure;
use crate::{output, when};

/// Which environment, and how long.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// How many days it lives from now on: 3, 3d, 1w
    #[arg(value_name = "DAYS", value_parser = when::days)]
    keep_days: u32,
    #[command(flatten)]
    token: Token,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.token.client(global)?;
    let wanted = PatchEnvironment { keep_days: arguments.keep_days };
    let environment: Environment = client.patch(&["envs", arguments.which.segment()?], &wanted).await?;
    if global.json {
        return output::json(&environment);
    }
    output::line(humantime::format_rfc3339_seconds(environment.expires.0))
}
