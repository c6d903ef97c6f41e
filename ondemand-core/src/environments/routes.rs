//! Making an environment's names reach its services.

use std::collections::{BTreeMap, BTreeSet};

use super::inner::{Deployed, Inner};
use super::record::{HostRoute, Record};
use crate::error::{Error, Kind, Result};
use crate::name::{EnvironmentName, Hostname};
use crate::orchestrator::{Service, ServiceState, Stack};
use crate::router::{Route, Upstream};

/// Returns where the service of a route is reached now.
pub(super) fn upstreams(stack: &Stack, route: &HostRoute) -> Result<Vec<Upstream>> {
    let service = stack.services.iter().find(|service| service.name == route.service);
    let endpoints = service.map(|Service { endpoints, .. }| endpoints.as_slice()).unwrap_or_default();
    let reached = endpoints.iter().filter(|endpoint| endpoint.target == route.port);
    let mut upstreams = reached.map(|endpoint| Upstream::new(endpoint.address.clone())).collect::<Result<Vec<_>>>()?;
    // The order in which an engine happens to list them is no news.
    upstreams.sort_unstable();
    Ok(upstreams)
}

/// Tells whether it is known where the service of a route is reached, or that it is reached nowhere. A Swarm whose manager was restarted does not say
/// it any more of tasks that have been running all the while: their routes are right as they are.
fn is_told(stack: &Stack, route: &HostRoute) -> bool {
    let service = stack.services.iter().find(|service| service.name == route.service);
    service.is_none_or(|service| service.state != ServiceState::Running || !service.endpoints.is_empty())
}

/// What becomes of a host name that somebody else has set a route of.
enum Others {
    /// It is left as it is.
    Left,
    /// It is an error.
    InTheWay,
}

impl Inner {
    /// Returns what the routes of an environment are marked with, so that they are told from others, also in a proxy that several instances share.
    pub(super) fn route_mark(&self, name: &EnvironmentName) -> String {
        format!("{}/{name}", self.instance.id)
    }

    /// Returns whose a route is by its mark, if it is one of an environment of this instance.
    pub(super) fn marked(&self, route: &Route) -> Option<EnvironmentName> {
        let name = route.owner.as_ref()?.strip_prefix(&self.instance.id)?.strip_prefix('/')?;
        name.parse().ok()
    }

    /// Returns the route of a host name: pending, where its service runs nowhere.
    fn route(&self, record: &Record, stack: &Stack, host: &HostRoute) -> Result<Route> {
        let upstreams = upstreams(stack, host)?;
        let route = if upstreams.is_empty() {
            Route::pending(host.host.clone())
        } else {
            Route::new(host.host.clone(), upstreams)
        };
        Ok(route.with_owner(self.route_mark(&record.name)))
    }

    /// Tells whether the names of an environment reach its services, as far as they are its own.
    pub(super) fn is_led_to(&self, Deployed { record, stack }: &Deployed, routes: &BTreeMap<Hostname, Route>) -> bool {
        record.routes.iter().all(|host| match (routes.get(&host.host), self.route(record, stack, host)) {
            (Some(now), Ok(wanted)) => *now == wanted || now.owner != wanted.owner || !is_told(stack, host),
            (None, Ok(_)) => false,
            // Then it is nothing that setting it would mend.
            (_, Err(_)) => true,
        })
    }

    /// Makes the names of an environment reach the services of a stack that is to become it, and returns those that do. A route that somebody has
    /// set of an environment that was there already is left alone.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if somebody has set a route of a new one meanwhile.
    pub(super) async fn take_names(&self, record: &Record, stack: &Stack) -> Result<BTreeSet<Hostname>> {
        let others = if record.generation > 1 { Others::Left } else { Others::InTheWay };
        let mut taken = BTreeSet::new();
        for host in &record.routes {
            if self.set_route(self.route(record, stack, host)?, &others).await? {
                taken.insert(host.host.clone());
            }
        }
        Ok(taken)
    }

    /// Makes the names of an environment that is there reach the services of a stack. A route that somebody has set instead is left alone.
    pub(super) async fn lead_to(&self, record: &Record, stack: &Stack) -> Result<()> {
        for host in &record.routes {
            if !is_told(stack, host) && self.router.get(&host.host).await.is_ok() {
                continue;
            }
            self.set_route(self.route(record, stack, host)?, &Others::Left).await?;
        }
        Ok(())
    }

    /// Has requests for an environment that is being made wait.
    ///
    /// # Errors
    /// As [`Inner::take_names`].
    pub(super) async fn hold_requests(&self, record: &Record) -> Result<()> {
        for host in &record.routes {
            let route = Route::pending(host.host.clone()).with_owner(self.route_mark(&record.name));
            self.set_route(route, &Others::InTheWay).await?;
        }
        Ok(())
    }

    /// Sets a route, and tells whether it is there now.
    async fn set_route(&self, route: Route, others: &Others) -> Result<bool> {
        match (self.router.get(&route.host).await, others) {
            (Err(Error::NotFound { .. }), _) => self.router.set(&route).await.map(|()| true),
            (Err(error), _) => Err(error),
            (Ok(now), _) if now == route => Ok(true),
            (Ok(now), _) if now.owner == route.owner => self.router.set(&route).await.map(|()| true),
            (Ok(_), Others::Left) => Ok(false),
            (Ok(_), Others::InTheWay) => Err(Error::already_exists(Kind::Route, &route.host)),
        }
    }

    /// Makes the names of an environment unknown, but for those that somebody else has set a route of.
    pub(super) async fn forget_routes(&self, record: &Record) -> Result<()> {
        let hosts: Vec<_> = record.routes.iter().map(|route| route.host.clone()).collect();
        self.remove_routes(&record.name, hosts).await
    }

    /// Removes routes of host names if they have the mark of an environment.
    pub(super) async fn remove_routes(&self, name: &EnvironmentName, hosts: Vec<Hostname>) -> Result<()> {
        for host in hosts {
            match self.router.get(&host).await {
                Ok(route) if self.marked(&route).as_ref() == Some(name) => self.router.remove(&host).await?,
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::Labels;
    use crate::name::{AttemptId, StackName};
    use crate::orchestrator::{Endpoint, StackId};

    #[test]
    fn only_what_runs_at_no_known_address_is_left_as_it_is() {
        let stack = |state, endpoints: Vec<Endpoint>| {
            let (name, attempt) = (StackName::new("env-a").unwrap(), AttemptId::new("0".repeat(16)).unwrap());
            let service = Service { endpoints, ..Service::new("back".parse().unwrap(), state) };
            let (id, created) = (StackId::of(&name, &attempt), time::OffsetDateTime::UNIX_EPOCH);
            Stack { id, name, attempt, labels: Labels::new(), created, services: vec![service] }
        };
        let route = |service: &str| HostRoute {
            host: "a.localhost".parse().unwrap(),
            service: service.parse().unwrap(),
            port: 80,
            told: true,
        };
        let there = || vec![Endpoint { target: 80, address: "10.0.0.1:30000".into() }];
        assert!(!is_told(&stack(ServiceState::Running, Vec::new()), &route("back")));
        assert!(is_told(&stack(ServiceState::Running, there()), &route("back")));
        assert!(is_told(&stack(ServiceState::Starting, Vec::new()), &route("back")));
        assert!(is_told(&stack(ServiceState::Exited { status: Some(1) }, Vec::new()), &route("back")));
        assert!(is_told(&stack(ServiceState::Running, Vec::new()), &route("other")));
    }
}
