//! `ondemand reap`: one round of the janitor, for cron.

use clap::Args;
use ondemand_core::{Code, Ondemand, Report};
use ondemand_http::wire::Reaped;

use crate::arguments::Global;
use crate::client::Client;
use crate::config::{self, Overrides};
use crate::failure::Failure;
use crate::output;

/// Where to reap.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Work on this data directory itself, while no server has it open [default: ask the server]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<std::path::PathBuf>,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let report = match arguments.data_dir {
        Some(_) => here(global, arguments.data_dir).await?,
        None => Client::new(global)?.post(&["reap"], &serde_json::Map::new()).await?,
    };
    tell(global, &report)?;
    if report.failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new("not everything could be cleaned up").with_hint("the next round tries again"))
}

/// Does a round without a server.
async fn here(global: &Global, data_dir: Option<std::path::PathBuf>) -> Result<Reaped, Failure> {
    let mut overrides = Overrides::of_environment()?;
    overrides.api.data_dir = data_dir;
    let config = config::load(global, overrides)?;
    let ondemand = Ondemand::open(&config).await.map_err(|error| {
        let locked = error.code() == Code::Conflict;
        let failure = Failure::from(error);
        if locked { failure.with_hint("leave --data-dir out to ask the server that has it open") } else { failure }
    })?;
    let mut report = ondemand.janitor.run_once().await?;
    report.add(ondemand.janitor.tidy().await.unwrap_or_else(|error| Report::of_failure(&error)));
    Ok(report.into())
}

fn tell(global: &Global, report: &Reaped) -> Result<(), Failure> {
    if global.json {
        return output::json(report);
    }
    let Reaped { reaped, restarted, removed, unknown, failed } = report;
    for (what, names) in [("reaped", reaped), ("restarted", restarted), ("removed", removed)] {
        for name in names {
            output::line(format_args!("{what} {name}"))?;
        }
    }
    for name in unknown {
        output::note(format_args!("left alone, because it is not known: {name}"));
    }
    for name in failed {
        output::note(format_args!("failed: {name}"));
    }
    if output::is_watched() && report == &Reaped::default() {
        output::note("there was nothing to do");
    }
    Ok(())
}
