//! `ondemand serve`: the server.

use clap::Args;

use super::serving::Log;
use crate::arguments::Global;
use crate::config::{self, Overrides};
use crate::failure::Failure;

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    log: Log,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { overrides, log } = arguments;
    log.start()?;
    let config = config::load(global, overrides)?;
    let shutdown = ondemand_http::signalled()?;
    ondemand_http::serve(&config, shutdown, |moment| log.tell(&config, &moment, "ending; databases keep running"))
        .await?;
    Ok(())
}
