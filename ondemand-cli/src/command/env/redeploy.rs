//! `ondemand env redeploy`.

use clap::Args;
use reqwest::Method;

use super::{Token, Which, create, progress};
use crate::arguments::Global;
use crate::failure::Failure;

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
    let name = arguments.which.segment()?;
    let request = client.request(Method::POST, &["envs", name, "redeploy"]);
    let done = progress::follow(&client, request).await?;
    create::finish(global, &client, done, Some(name.to_owned())).await
}
