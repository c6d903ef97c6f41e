//! `ondemand proxy`: a proxy and its API, and nothing else.

use clap::Args;

use super::serving::Log;
use crate::arguments::Global;
use crate::config::{self, ProxyOnly};
use crate::failure::Failure;

/// How to run it.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    overrides: ProxyOnly,
    #[command(flatten)]
    log: Log,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { overrides, log } = arguments;
    log.start()?;
    let config = config::load(global, overrides.into())?;
    let shutdown = ondemand_http::signalled()?;
    ondemand_http::serve_proxy(&config, shutdown, |moment| log.tell(&config, &moment, "ending; routes are kept"))
        .await?;
    Ok(())
}
