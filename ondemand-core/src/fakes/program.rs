//! What runs in the fake orchestrator: programs that do as they were told beforehand.

use std::fmt;
use std::time::Duration;

use time::OffsetDateTime;

use crate::orchestrator::{Endpoint, Service, ServiceSpec, ServiceState, depends};

/// Where published ports are.
pub(super) const HOST: &str = "127.0.0.1";

/// What a fake program does when it is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FakeProgram {
    /// It runs until it is told to end.
    #[default]
    Runs,
    /// It writes these lines, and runs.
    Prints(Vec<String>),
    /// It writes `tick 0`, `tick 1`, and so on, one after each such time.
    Ticks(Duration),
    /// It ends at once with this status.
    Exits(i32),
    /// It does not exist, so a stack with it cannot be deployed.
    Missing,
    /// It writes what a variable of its environment holds, and runs.
    PrintsVariable(String),
    /// It writes `found: hello` if the variable holds the address of a service that runs, and runs; otherwise it ends with status 3.
    Finds(String),
    /// It writes what is in a secret, and runs.
    PrintsSecret(String),
    /// It writes these lines, and ends at once with this status.
    PrintsAndExits(Vec<String>, i32),
    /// It runs, and its health check never succeeds.
    Unhealthy,
}

/// A service of a stack as it is.
pub(super) struct FakeService {
    pub(super) state: ServiceState,
    pub(super) pid: Option<u32>,
    pub(super) log: Vec<(OffsetDateTime, String)>,
    /// Its published ports.
    pub(super) ports: Vec<u16>,
    pub(super) restarts: u32,
}

/// What a program wrote may be a secret that it was given.
impl fmt::Debug for FakeService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeService").field("state", &self.state).field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl FakeService {
    pub(super) fn end(&mut self, state: ServiceState) {
        self.state = state;
        self.pid = None;
    }

    pub(super) fn print(&mut self, lines: impl IntoIterator<Item = String>) {
        self.log.extend(lines.into_iter().map(|line| (OffsetDateTime::now_utc(), line)));
    }

    pub(super) fn view(&self, spec: &ServiceSpec) -> Service {
        let endpoints = spec.publish.iter().zip(&self.ports).filter(|_| self.pid.is_some());
        let endpoints = endpoints
            .map(|(publish, port)| Endpoint { target: publish.target, address: format!("{HOST}:{port}") })
            .collect();
        let error = match self.state {
            ServiceState::Exited { status } if status != Some(0) => Some(depends::ended(status)),
            _ => None,
        };
        Service {
            pid: self.pid,
            endpoints,
            restarts: self.restarts,
            error,
            ..Service::new(spec.name.clone(), self.state)
        }
    }
}
