//! `ondemand pool create`.

use std::path::PathBuf;

use clap::Args;
use nix::unistd::User;
use ondemand_core::orchestrator::RunAs;
use ondemand_core::snapshot::pool::{self, PoolSpec};
use ondemand_core::{Error, Size};

use crate::arguments::Global;
use crate::failure::Failure;
use crate::output;

/// Which pool to make.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where it is mounted: a directory that is empty or does not exist
    #[arg(long, value_name = "DIR")]
    path: PathBuf,
    /// How large it may become: 20G. The file is sparse, and grows with what is written
    #[arg(long)]
    size: Size,
    /// The file that holds it [default: the path with .btrfs after it]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// The user who owns its root [default: who makes it]
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { path, size, image, owner } = arguments;
    let path = std::path::absolute(&path).map_err(|e| Failure::caused(format!("finding {}", path.display()), &e))?;
    let owner = owner.map(|name| find_user(&name)).transpose()?;
    let pool = pool::create(PoolSpec { image, owner, ..PoolSpec::new(path, size) }).await?;
    pool.notices.iter().for_each(output::note);
    if global.json {
        return output::json(&serde_json::json!({ "Path": pool.path, "Image": pool.image }));
    }
    output::line(pool.path.display())
}

fn find_user(name: &str) -> Result<RunAs, Failure> {
    let user = User::from_name(name).map_err(|e| Failure::caused(format!("looking for the user {name:?}"), &e))?;
    let user = user.ok_or_else(|| Error::invalid("owner", format!("there is no user {name:?}")))?;
    Ok(RunAs { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}
