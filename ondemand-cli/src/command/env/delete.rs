//! `ondemand env delete`.

use clap::Args;
use ondemand_http::wire::EnvironmentDone;

use super::{Token, segment};
use crate::arguments::Global;
use crate::failure::Failure;
use crate::output;

/// Which environments.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Their names
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    token: Token,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.token.client(global)?;
    for name in &arguments.names {
        let _: EnvironmentDone = client.delete(&["envs", segment(name)?]).await?;
        if !global.json {
            output::line(name)?;
        }
    }
    if global.json { output::json(&arguments.names) } else { Ok(()) }
}
