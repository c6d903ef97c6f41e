//! `ondemand env logs`.

use clap::Args;
use reqwest::Method;

use super::{Token, Which};
use crate::arguments::Global;
use crate::failure::Failure;
use crate::output;

/// Which environment, and which lines.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Only this service's
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Wait for more, until the environment is gone
    #[arg(long, short)]
    follow: bool,
    /// Only the last so many lines of each service
    #[arg(long, short = 'n', value_name = "LINES")]
    tail: Option<usize>,
    /// Only from this time on, as RFC 3339 writes it
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    #[command(flatten)]
    token: Token,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.token.client(global)?;
    let mut query = vec![("follow", arguments.follow.to_string())];
    query.extend(arguments.service.map(|service| ("service", service)));
    query.extend(arguments.tail.map(|tail| ("tail", tail.to_string())));
    query.extend(arguments.since.map(|since| ("since", since)));
    let request = client.request(Method::GET, &["envs", arguments.which.segment()?, "logs"]).query(&query);
    output::copy(&client, client.send(request).await?).await
}
