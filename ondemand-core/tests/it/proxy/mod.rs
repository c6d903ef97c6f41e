//! The proxy over real sockets: what a stranger may send to it, what an upstream may do to it, and what it owes to both.
#![expect(clippy::unwrap_used, reason = "what fails must fail the test")]

pub(crate) mod lab;

mod bodies;
mod chunks;
mod early;
mod forwarding;
mod hosts;
mod keep_alive;
mod limits;
mod memory;
mod misbehaving;
mod mutations;
mod pages;
mod pending;
mod secure;
mod several;
mod shows;
mod shutdown;
mod smuggling;
mod steady;
mod strangers;
mod tolerated;
mod upgrades;

mod conformance {
    use std::sync::Arc;

    use ondemand_core::config::ProxyConfig;
    use ondemand_core::router::Proxy;

    async fn proxy() -> Arc<Proxy> {
        let config = ProxyConfig { listen: "127.0.0.1:0".parse().unwrap(), workers: Some(1), ..ProxyConfig::default() };
        Arc::new(Proxy::start(&config).await.unwrap())
    }

    ondemand_core::router_conformance!(the_proxy, proxy().await);
}
