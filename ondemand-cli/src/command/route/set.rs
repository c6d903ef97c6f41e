//! `ondemand route set`.

use clap::Args;
use ondemand_core::Hostname;
use ondemand_core::router::{Protocol, Upstream};
use ondemand_http::wire::{PutRoute, Route};

use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output;

/// Where it is to lead.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The host name, without a port
    #[arg(value_parser = super::host)]
    host: Hostname,
    /// The addresses that are to take turns
    #[arg(value_name = "ADDRESS:PORT", required_unless_present = "pending")]
    upstreams: Vec<Upstream>,
    /// The upstreams speak HTTP/2, without TLS
    #[arg(long)]
    http2: bool,
    /// Hold requests until the route is set again without this
    #[arg(long)]
    pending: bool,
}

pub(crate) async fn run(global: &Global, client: &Client, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { host, upstreams, http2, pending } = arguments;
    let wanted = PutRoute {
        upstream: None,
        upstreams: Some(upstreams.into_iter().map(Into::into).collect()),
        protocol: if http2 { Protocol::Http2 } else { Protocol::Http1 },
        pending,
        owner: None,
    };
    let route: Route = client.put(&["routes", host.as_str()], &wanted).await?;
    if global.json { output::json(&route) } else { output::line(route.host) }
}
