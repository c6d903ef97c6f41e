//! `ondemand pool`: the loop-file pool that holds the data where the disk is not BTRFS.

use std::path::PathBuf;

use clap::Subcommand;

use crate::arguments::Global;
use crate::config::{self, Overrides};
use crate::failure::Failure;

mod create;
mod delete;
mod grow;
mod status;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a BTRFS pool in a sparse file, and mount it; needs root
    Create(create::Arguments),
    /// Show how full the pool is, and what each volume takes
    Status(status::Arguments),
    /// Make a pool larger while it is used; needs root
    Grow(grow::Arguments),
    /// Unmount a pool, and delete its file; needs root
    Delete(delete::Arguments),
}

pub(crate) async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(arguments) => create::run(global, arguments).await,
        Command::Status(arguments) => status::run(global, arguments).await,
        Command::Grow(arguments) => grow::run(global, arguments).await,
        Command::Delete(arguments) => delete::run(arguments).await,
    }
}

/// Returns the absolute path of the pool that was named, or else of the one in the configured data directory.
fn path_of(global: &Global, named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let path = match named {
        Some(path) => path,
        None => config::load(global, Overrides::of_environment()?)?.data_dir.join("pool"),
    };
    std::path::absolute(&path).map_err(|e| Failure::caused(format!("finding {}", path.display()), &e))
}
