//! The proxy that a server runs.

use std::sync::Arc;

use ondemand_core::router::{Proxy, Saved};
use ondemand_core::{Config, Error, Result};

use crate::Routing;

/// Where routes are kept, below the data directory.
const ROUTES: &str = "routes";

/// What else the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It has databases, and can do without a proxy.
    BesideDatabases,
    /// Nothing.
    Alone,
}

/// Starts the proxy with the routes that are saved below the data directory, which this process has open.
pub(super) async fn start(config: &Config, place: Place) -> Result<(Routing, Proxy)> {
    let saved = Saved::read(config.data_dir.join(ROUTES)).await?;
    let proxy = Proxy::start_with(&config.proxy, saved.routes()).await.map_err(|error| match error {
        Error::Conflict { message, .. } => Error::Conflict { message, hint: hint(place) },
        error => error,
    })?;
    let saved = saved.keep(Arc::new(proxy.clone()));
    Ok((Routing::new(Arc::new(saved)).with_proxy(proxy.clone()), proxy))
}

fn hint(place: Place) -> String {
    let mut hint =
        String::from("end what uses it, or choose another address with --proxy-listen or --proxy-tls-listen");
    if place == Place::BesideDatabases {
        hint.push_str("; --no-proxy goes without");
    }
    hint
}

/// Says where the proxy is.
pub(super) fn notice(proxy: &Proxy) -> String {
    let http = proxy.address();
    let https = proxy.tls_address().map(|https| format!(" and https://{https}")).unwrap_or_default();
    let is_here = http.ip().is_loopback() || http.ip().is_unspecified();
    let names = if is_here { "; browsers here find it as http://NAME.localhost:" } else { "" };
    let port = if is_here { http.port().to_string() } else { String::new() };
    format!("proxy ready at http://{http}{https}{names}{port}")
}
