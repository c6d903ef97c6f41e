//! `ondemand template`: what environments are rendered from.

use clap::Subcommand;

use crate::arguments::Global;
use crate::failure::Failure;

mod check;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Render a template with sample values, and say what is wrong with it, by file and line
    Check(check::Arguments),
}

pub(crate) fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Check(arguments) => check::run(global, &arguments),
    }
}
