//! `ondemand env open`.

use std::process::{Command, Stdio};

use clap::Args;
use ondemand_http::wire::Environment;

use super::{Token, Which};
use crate::arguments::Global;
use crate::failure::Failure;
use crate::output;

/// What opens a URL on this kind of machine.
const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

/// Which environment.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    token: Token,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.token.client(global)?;
    let environment: Environment = client.get(&["envs", arguments.which.segment()?]).await?;
    let link = environment.entrance().ok_or_else(|| Failure::new("the environment has no URL"))?;
    output::line(link)?;
    let browser = std::env::var_os("BROWSER").unwrap_or_else(|| OPENER.into());
    let opened = Command::new(&browser).arg(link).stdin(Stdio::null()).stdout(Stdio::null()).status();
    match opened {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(format!("{} ended with {status}", browser.display()))),
        Err(error) => Err(Failure::caused(format!("{} cannot be started", browser.display()), &error)
            .with_hint("set BROWSER to a program that opens URLs, or open the URL yourself")),
    }
}
