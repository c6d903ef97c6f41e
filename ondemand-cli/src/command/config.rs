//! `ondemand config`: the configuration that holds.

use clap::{Args, Subcommand};

use crate::arguments::Global;
use crate::config::{self, Overrides};
use crate::failure::Failure;
use crate::output;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the configuration that holds as TOML, with secrets masked
    Show(Show),
}

/// What to show: what `serve` would use with the same flags.
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    overrides: Overrides,
}

pub(crate) fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let Command::Show(Show { overrides }) = command;
    let config = config::load(global, overrides)?;
    output::bytes(config::show(&config)?.as_bytes())
}
