//! `Saved` meets the contract of `Router`, over `Table`.

#![expect(clippy::expect_used, reason = "what a test cannot do without fails it")]

use std::sync::Arc;

use async_trait::async_trait;
use ondemand_core::router::{Route, Saved, Table};
use ondemand_core::{Hostname, Result, Router};
use tempfile::TempDir;

/// Saved routes in a directory of their own, which goes with them.
#[derive(Debug)]
struct InADirectory(Saved, #[expect(dead_code, reason = "it is there to be dropped")] TempDir);

impl InADirectory {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self(Saved::open(directory.path(), Arc::new(Table::new())).await.expect("it opens"), directory)
    }
}

#[async_trait]
impl Router for InADirectory {
    async fn set(&self, route: &Route) -> Result<()> {
        self.0.set(route).await
    }

    async fn remove(&self, host: &Hostname) -> Result<()> {
        self.0.remove(host).await
    }

    async fn list(&self) -> Result<Vec<Route>> {
        self.0.list().await
    }

    async fn get(&self, host: &Hostname) -> Result<Route> {
        self.0.get(host).await
    }
}

ondemand_core::router_conformance!(saved, Arc::new(InADirectory::new().await));
