//! `ondemand pool grow`.

use std::path::PathBuf;

use clap::Args;
use ondemand_core::Size;
use ondemand_core::snapshot::pool;

use super::path_of;
use crate::arguments::Global;
use crate::failure::Failure;
use crate::output;

/// Which pool, and how large.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How large it may become in all: 40G. The file is sparse, and grows with what is written
    size: Size,
    /// Where it is mounted [default: pool in the configured data directory]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Let it become larger than the disk beneath has room for
    #[arg(long)]
    overcommit: bool,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { size, path, overcommit } = arguments;
    let grown = pool::grow(path_of(global, path)?, size, overcommit).await?;
    grown.notices.iter().for_each(output::note);
    if global.json {
        let (before, after) = (grown.before, grown.after);
        return output::json(
            &serde_json::json!({ "Path": grown.path, "Image": grown.image, "Before": before, "After": after }),
        );
    }
    output::line(format_args!("{}: {} (before: {})", grown.path.display(), grown.after, grown.before))
}
