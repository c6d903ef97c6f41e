//! The environments that a server makes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ondemand_core::environments::FoundAt;
use ondemand_core::router::{Proxy, Remote};
use ondemand_core::{Config, Error, Ondemand, Result, Router};

use crate::Routing;

/// Adds environments to what a server has, where templates are configured: their routes are set in the server's own proxy, or in one elsewhere.
pub(super) fn with(ondemand: Ondemand, config: &Config, routing: &Routing, proxy: Option<&Proxy>) -> Result<Ondemand> {
    let environments = &config.environments;
    if environments.templates.is_none() {
        return Ok(ondemand);
    }
    let router: Arc<dyn Router> = match &environments.router {
        Some(url) => Arc::new(Remote::new(url, environments.router_token.clone())?),
        None => routing.set_by_environments().ok_or_else(|| Error::Unsupported {
            message: "environments are reached through a proxy, and this server runs none".into(),
            hint: "set proxy.enabled, or environments.router to the API of a proxy elsewhere".into(),
        })?,
    };
    let found = match (&environments.router, &environments.proxy, proxy) {
        (None, _, Some(proxy)) => FoundAt {
            here: format!("http://{}", nearest(proxy.address())),
            by_people: by_people(proxy.address(), proxy.tls_address()),
        },
        (_, Some(url), _) => FoundAt { here: url.clone(), by_people: like(url) },
        _ => {
            let reason =
                "environments.router is set, so environments.proxy must say where that proxy answers: http://HOST:PORT";
            return Err(Error::invalid("configuration", reason));
        }
    };
    ondemand.with_environments(config, router, &found)
}

/// Returns what people type: the port is left out where it is that of the scheme.
fn by_people(http: SocketAddr, https: Option<SocketAddr>) -> String {
    match https.map(|https| https.port()) {
        Some(443) => "https://{host}".into(),
        Some(port) => format!("https://{{host}}:{port}"),
        None if http.port() == 80 => "http://{host}".into(),
        None => format!("http://{{host}}:{}", http.port()),
    }
}

/// Returns what people type to reach a host through the proxy at this URL.
fn like(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split('/').next().unwrap_or_default();
    let port = authority.rsplit_once(':').map(|(_, port)| port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    port.map_or_else(|| format!("{scheme}://{{host}}"), |port| format!("{scheme}://{{host}}:{port}"))
}

/// Returns where this machine itself finds a server that listens there.
fn nearest(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
