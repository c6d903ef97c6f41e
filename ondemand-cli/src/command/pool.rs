//! `ondemand pool`: the loop-file pool that holds the data where the disk is not BTRFS.

use clap::Subcommand;

use crate::arguments::Global;
use crate::failure::Failure;

mod create;
mod delete;
mod status;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a BTRFS pool in a sparse file, and mount it; needs root
    Create(create::Arguments),
    /// Show how full the pool is, and what each volume takes
    Status(status::Arguments),
    /// Unmount a pool, and delete its file; needs root
    Delete(delete::Arguments),
}

pub(crate) async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(arguments) => create::run(global, arguments).await,
        Command::Status(arguments) => status::run(global, arguments).await,
        Command::Delete(arguments) => delete::run(arguments).await,
    }
}
