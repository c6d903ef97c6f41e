//! A route table in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{Route, Router, Upstream};
use crate::error::{Error, Result};
use crate::name::Hostname;

/// Remembers routes and serves none: what tests route with, and what a data plane looks names up in.
#[derive(Debug, Default)]
pub struct Table {
    routes: Mutex<BTreeMap<Hostname, Vec<Upstream>>>,
}

impl Table {
    /// Makes an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns where a host leads.
    pub fn get(&self, host: &Hostname) -> Option<Vec<Upstream>> {
        self.lock().get(host).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Hostname, Vec<Upstream>>> {
        // Every change is a single insert or remove, so the map is whole even if a holder panicked.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Router for Table {
    async fn set(&self, route: &Route) -> Result<()> {
        if route.upstreams.is_empty() {
            return Err(Error::invalid("route", format!("{} has no upstream", route.host)));
        }
        self.lock().insert(route.host.clone(), route.upstreams.clone());
        Ok(())
    }

    async fn remove(&self, host: &Hostname) -> Result<()> {
        self.lock().remove(host);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Route>> {
        let routes = self.lock();
        Ok(routes.iter().map(|(host, upstreams)| Route { host: host.clone(), upstreams: upstreams.clone() }).collect())
    }
}
