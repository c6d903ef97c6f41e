//! A route table in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{Route, Router};
use crate::error::{Error, Kind, Result};
use crate::name::Hostname;

/// Remembers routes and serves none: what tests route with.
#[derive(Debug, Default)]
pub struct Table {
    routes: Mutex<BTreeMap<Hostname, Route>>,
}

impl Table {
    /// Makes an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Hostname, Route>> {
        // Every change is a single insert or remove, so the map is whole even if a holder panicked.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Router for Table {
    async fn set(&self, route: &Route) -> Result<()> {
        route.validate()?;
        self.lock().insert(route.host.clone(), route.clone());
        Ok(())
    }

    async fn remove(&self, host: &Hostname) -> Result<()> {
        self.lock().remove(host);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Route>> {
        Ok(self.lock().values().cloned().collect())
    }

    async fn get(&self, host: &Hostname) -> Result<Route> {
        self.lock().get(host).cloned().ok_or_else(|| Error::not_found(Kind::Route, host))
    }
}
