//! `ondemand route delete`.

use clap::Args;
use ondemand_core::Hostname;
use reqwest::Method;

use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output;

/// Which routes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Their host names, without ports
    #[arg(value_name = "HOST", required = true, value_parser = super::host)]
    hosts: Vec<Hostname>,
}

pub(crate) async fn run(global: &Global, client: &Client, arguments: Arguments) -> Result<(), Failure> {
    let mut deleted = Vec::new();
    for host in arguments.hosts {
        client.send(client.request(Method::DELETE, &["routes", host.as_str()])).await?;
        // What is gone is said at once: the next one may fail.
        if global.json {
            deleted.push(host);
        } else {
            output::line(host)?;
        }
    }
    if global.json { output::json(&deleted) } else { Ok(()) }
}
