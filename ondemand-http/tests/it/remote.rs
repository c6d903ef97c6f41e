//! `Remote` meets the contract of `Router`, through the API of a stand-alone proxy.

use std::sync::Arc;

use async_trait::async_trait;
use ondemand_core::config::ProxyConfig;
use ondemand_core::router::{Proxy, Remote, Route, Table};
use ondemand_core::{Code, Config, Hostname, Result, Router, Secret};
use ondemand_http::{ProxyState, Routing, proxy_app};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// A router, behind an API of its own that ends with it.
#[derive(Debug)]
struct Elsewhere {
    remote: Remote,
    _api: AbortOnDropHandle<()>,
}

impl Elsewhere {
    async fn new(token: Option<&str>, routing: Routing) -> Self {
        let mut config = Config::default();
        config.http.token = Some(Secret::new("s3same"));
        let app = proxy_app(ProxyState::new(routing, &config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let api = tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        let remote = Remote::new(&url, token.map(Secret::new)).expect("a URL");
        Self { remote, _api: AbortOnDropHandle::new(api) }
    }
}

#[async_trait]
impl Router for Elsewhere {
    async fn set(&self, route: &Route) -> Result<()> {
        self.remote.set(route).await
    }

    async fn remove(&self, host: &Hostname) -> Result<()> {
        self.remote.remove(host).await
    }

    async fn list(&self) -> Result<Vec<Route>> {
        self.remote.list().await
    }

    async fn get(&self, host: &Hostname) -> Result<Route> {
        self.remote.get(host).await
    }
}

async fn over_a_table() -> Elsewhere {
    Elsewhere::new(Some("s3same"), Routing::new(Arc::new(Table::new()))).await
}

async fn over_a_proxy() -> Elsewhere {
    let config = ProxyConfig { listen: ([127, 0, 0, 1], 0).into(), workers: Some(1), ..ProxyConfig::default() };
    let proxy = Proxy::start(&config).await.expect("a proxy");
    Elsewhere::new(Some("s3same"), Routing::new(Arc::new(proxy.clone())).with_proxy(proxy)).await
}

ondemand_core::router_conformance!(table, Arc::new(over_a_table().await));
ondemand_core::router_conformance!(proxy, Arc::new(over_a_proxy().await));

#[tokio::test]
async fn without_the_token_nothing_is_changed() {
    let table = Arc::new(Table::new());
    let host = Hostname::new("a.example").expect("a host");
    for token in [None, Some("other")] {
        let router = Elsewhere::new(token, Routing::new(Arc::clone(&table) as _)).await;
        let errors = [
            router.set(&Route::pending(host.clone())).await.expect_err("refused"),
            router.remove(&host).await.expect_err("refused"),
            router.list().await.expect_err("refused"),
            router.get(&host).await.expect_err("refused"),
        ];
        for error in errors {
            assert_eq!(error.code(), Code::Unauthenticated, "{error}");
        }
    }
    assert_eq!(table.list().await.expect("a list"), []);
}
