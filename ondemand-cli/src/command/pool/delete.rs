//! `ondemand pool delete`.

use std::path::PathBuf;

use clap::Args;
use ondemand_core::snapshot::pool;

use crate::failure::Failure;
use crate::output;

/// Which pool.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where it is mounted
    #[arg(long, value_name = "DIR")]
    path: PathBuf,
    /// Delete what it holds, too
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { path, force } = arguments;
    let path = std::path::absolute(&path).map_err(|e| Failure::caused(format!("finding {}", path.display()), &e))?;
    pool::delete(&path, force).await?;
    output::line(path.display())
}
