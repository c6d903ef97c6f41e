//! Making an environment's names reach its services.

use super::inner::Inner;
use super::record::{HostRoute, Record};
use crate::error::Result;
use crate::orchestrator::{Service, Stack};
use crate::router::{Route, Upstream};

/// Returns where the service of a route is reached now.
pub(super) fn upstreams(stack: &Stack, route: &HostRoute) -> Result<Vec<Upstream>> {
    let service = stack.services.iter().find(|service| service.name == route.service);
    let endpoints = service.map(|Service { endpoints, .. }| endpoints.as_slice()).unwrap_or_default();
    let reached = endpoints.iter().filter(|endpoint| endpoint.target == route.port);
    reached.map(|endpoint| Upstream::new(endpoint.address.clone())).collect()
}

/// Returns the route of a host name: pending, where its service runs nowhere.
pub(super) fn route(stack: &Stack, route: &HostRoute) -> Result<Route> {
    let upstreams = upstreams(stack, route)?;
    Ok(match upstreams.is_empty() {
        true => Route::pending(route.host.clone()),
        false => Route::new(route.host.clone(), upstreams),
    })
}

impl Inner {
    /// Makes the names of an environment reach the services of a stack.
    pub(super) async fn lead_to(&self, record: &Record, stack: &Stack) -> Result<()> {
        for host in &record.routes {
            self.router.set(&route(stack, host)?).await?;
        }
        Ok(())
    }

    /// Has requests for an environment that is being made wait.
    pub(super) async fn hold_requests(&self, record: &Record) -> Result<()> {
        for host in &record.routes {
            self.router.set(&Route::pending(host.host.clone())).await?;
        }
        Ok(())
    }

    /// Makes the names of an environment unknown.
    pub(super) async fn forget_routes(&self, record: &Record) -> Result<()> {
        for host in &record.routes {
            self.router.remove(&host.host).await?;
        }
        Ok(())
    }
}
