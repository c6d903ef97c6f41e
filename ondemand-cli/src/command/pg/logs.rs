//! `ondemand pg logs`.

use clap::Args;
use reqwest::Method;

use super::Which;
use crate::client::Client;
use crate::failure::Failure;
use crate::output;

/// Which database, and which lines.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Wait for more, until the database is gone
    #[arg(long, short)]
    follow: bool,
    /// Only the last so many lines
    #[arg(long, short = 'n', value_name = "LINES")]
    tail: Option<usize>,
}

pub(crate) async fn run(client: &Client, arguments: Arguments) -> Result<(), Failure> {
    let mut query = vec![("follow", arguments.follow.to_string())];
    query.extend(arguments.tail.map(|tail| ("tail", tail.to_string())));
    let request = client.request(Method::GET, &["servers", arguments.which.segment()?, "logs"]).query(&query);
    output::copy(client, client.send(request).await?).await
}
