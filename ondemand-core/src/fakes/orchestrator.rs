//! An orchestrator that runs nothing, and minds the contract.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use time::OffsetDateTime;
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;

use super::program::{FakeProgram, FakeService, HOST};
use crate::error::{Error, Kind, Result};
use crate::label::{Labels, Selector};
use crate::listing::{Listing, Unreadable};
use crate::name::{ServiceName, StackName};
use crate::orchestrator::{
    Condition, LogLine, LogOptions, Orchestrator, SecretSpec, ServiceSpec, ServiceState, Stack, StackId, StackSpec,
    depends, deploy_or_undo, discovery,
};

/// The first number that a fake process gets; no kernel gives one as high to a real one.
const FIRST_PID: u32 = 1 << 30;
/// The port below the first that is chosen.
const FIRST_PORT: u16 = 20_000;

/// Keeps stacks in memory as an orchestrator would that runs them, for tests of what is built on one.
///
/// It refuses nothing that a stack can be asked for. Of what is not in every specification, it chooses published ports (where nobody listens), makes
/// services wait for those they depend on, tells them where their siblings are, and shows them their secrets; the rest has no effect.
///
/// A program does what [`FakeOrchestrator::program`] said for its name, and otherwise runs until it is told to end. As a real
/// orchestrator, it refuses a published port that another stack has. Mounts need not exist: a store in memory has none. A program
/// under test that deploys one id a second time breaks the contract, and gets a panic.
///
/// Clones share their stacks: one can be dropped and another used, as after a restart.
#[derive(Debug, Clone, Default)]
pub struct FakeOrchestrator {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    stacks: BTreeMap<StackName, FakeStack>,
    programs: BTreeMap<String, FakeProgram>,
    deployed: HashSet<StackId>,
    /// The stacks whose records cannot be read.
    unreadable: HashSet<StackName>,
    processes: u32,
    /// How many ports were chosen.
    ports: u16,
}

#[derive(Debug)]
struct FakeStack {
    id: StackId,
    spec: StackSpec,
    created: OffsetDateTime,
    services: Vec<FakeService>,
}

impl FakeOrchestrator {
    /// Makes one with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what the program of this name, the first word of a command, does from now on.
    pub fn program(&self, name: impl Into<String>, program: FakeProgram) {
        self.shared.state().programs.insert(name.into(), program);
    }

    /// Returns what was deployed under a name and has not been removed, with its labels as they are now.
    pub fn spec(&self, name: &StackName) -> Option<StackSpec> {
        self.shared.state().stacks.get(name).map(|stack| stack.spec.clone())
    }

    /// Returns the names of all stacks.
    pub fn names(&self) -> Vec<StackName> {
        self.shared.state().stacks.keys().cloned().collect()
    }

    /// Returns the ids of everything that was ever deployed.
    pub fn ever_deployed(&self) -> HashSet<StackId> {
        self.shared.state().deployed.clone()
    }

    /// Makes a stack one whose record cannot be read, or readable again.
    pub fn damage(&self, name: &StackName, is_damaged: bool) {
        let mut state = self.shared.state();
        if is_damaged {
            state.unreadable.insert(name.clone())
        } else {
            state.unreadable.remove(name)
        };
    }

    /// Tells whether a fake process runs.
    pub fn is_alive(&self, pid: u32) -> bool {
        let state = self.shared.state();
        state.stacks.values().flat_map(|stack| &stack.services).any(|service| service.pid == Some(pid))
    }

    /// Tells whether an address is that of a published port of a service that runs.
    pub fn is_reached(&self, address: &str) -> bool {
        self.shared.state().is_reached(address)
    }

    /// Makes all services of a stack that run end by themselves. Returns how many did.
    pub fn exit(&self, name: &StackName, status: i32) -> usize {
        let mut ended = 0;
        if let Some(stack) = self.shared.state().stacks.get_mut(name) {
            for service in stack.services.iter_mut().filter(|service| service.pid.is_some()) {
                service.end(ServiceState::Exited { status: Some(status) });
                ended += 1;
            }
        }
        self.shared.changed.notify_waiters();
        ended
    }

    /// Gives the services of a stack other ports, as those have that an engine starts again elsewhere.
    pub fn move_ports(&self, name: &StackName) {
        let mut state = self.shared.state();
        let specs = state.stacks.get(name).map(|stack| stack.spec.services.clone()).unwrap_or_default();
        for (at, spec) in specs.iter().enumerate() {
            let ports = state.choose_ports(spec);
            if let Some(service) = state.stacks.get_mut(name).and_then(|stack| stack.services.get_mut(at)) {
                service.ports = ports;
            }
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// Makes a service write a line. Tells whether there is such a service.
    pub fn print(&self, name: &StackName, service: &ServiceName, line: impl Into<String>) -> bool {
        let printed = {
            let mut state = self.shared.state();
            let found = state.stacks.get_mut(name).and_then(|stack| stack.service(service));
            found.map(|service| service.log.push((OffsetDateTime::now_utc(), line.into()))).is_some()
        };
        self.shared.changed.notify_waiters();
        printed
    }
}

impl FakeStack {
    fn service(&mut self, name: &ServiceName) -> Option<&mut FakeService> {
        let at = self.spec.services.iter().position(|service| service.name == *name)?;
        self.services.get_mut(at)
    }

    fn view(&self) -> Stack {
        let services = self.spec.services.iter().zip(&self.services);
        Stack {
            id: self.id.clone(),
            name: self.spec.name.clone(),
            attempt: self.spec.attempt.clone(),
            labels: self.spec.labels.clone(),
            created: self.created,
            services: services.map(|(spec, now)| now.view(spec)).collect(),
        }
    }

    /// Returns a variable as a service finds it.
    fn variable(&self, at: usize, key: &str) -> String {
        let spec = &self.spec.services[at];
        let port = |place: usize, at: usize| self.services[place].ports.get(at).copied().unwrap_or_default();
        let mut variables = discovery::siblings(&self.spec, port, |_| HOST.to_owned());
        variables.extend(discovery::own_ports(spec, |nth| port(at, nth)));
        variables.extend(spec.env.clone());
        variables.remove(key).unwrap_or_default()
    }

    fn secret(&self, name: &str) -> String {
        match self.spec.secrets.get(name) {
            Some(SecretSpec::Content(secret)) => secret.expose().to_owned(),
            Some(SecretSpec::External(name)) => format!("the secret {name}"),
            None => String::new(),
        }
    }
}

impl State {
    fn what(&self, service: &ServiceSpec) -> FakeProgram {
        let program = service.command.first().and_then(|program| self.programs.get(program));
        program.cloned().unwrap_or_default()
    }

    fn stack(&mut self, name: &StackName) -> Result<&mut FakeStack> {
        self.stacks.get_mut(name).ok_or_else(|| Error::not_found(Kind::Stack, name))
    }

    /// Returns a stack unless it was removed, whatever has its name now.
    fn same_stack(&mut self, id: &StackId, name: &StackName) -> Result<&mut FakeStack> {
        self.stack(name).ok().filter(|stack| stack.id == *id).ok_or_else(|| Error::not_found(Kind::Stack, name))
    }

    fn is_reached(&self, address: &str) -> bool {
        let services = self.stacks.values().flat_map(|stack| &stack.services).filter(|service| service.pid.is_some());
        services.flat_map(|service| &service.ports).any(|port| format!("{HOST}:{port}") == address)
    }

    /// Chooses the ports that a service publishes.
    fn choose_ports(&mut self, service: &ServiceSpec) -> Vec<u16> {
        let mut choose = || {
            self.ports = (self.ports + 1) % (u16::MAX - FIRST_PORT);
            FIRST_PORT + self.ports
        };
        service.publish.iter().map(|publish| publish.published.unwrap_or_else(&mut choose)).collect()
    }

    /// Checks what only can be checked against the host and the other stacks.
    fn check(&self, spec: &StackSpec) -> Result<()> {
        for service in &spec.services {
            if self.what(service) == FakeProgram::Missing {
                return Err(Error::not_found(Kind::File, service.command.first().map_or("", String::as_str)));
            }
            let fixed = service.publish.iter().filter_map(|publish| publish.published);
            let taken = |port: &u16| self.is_reached(&format!("{HOST}:{port}"));
            if let Some(port) = fixed.into_iter().find(taken) {
                return Err(Error::Conflict {
                    message: format!("port {port} is taken"),
                    hint: "choose another port".into(),
                });
            }
            let others = self.stacks.values().flat_map(|stack| stack.spec.services.iter().zip(&stack.services));
            let taken = others.filter(|(_, now)| now.pid.is_some()).flat_map(|(other, _)| &other.ports);
            let taken: HashSet<_> = taken.map(|port| port.published).collect();
            if let Some(port) = service.ports.iter().find(|port| taken.contains(&port.published)) {
                return Err(Error::Conflict {
                    message: format!("port {} is taken", port.published),
                    hint: "choose another port".into(),
                });
            }
        }
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn deploy(self: &Arc<Self>, spec: StackSpec, given_up: oneshot::Receiver<()>) -> Result<Stack> {
        let (id, name) = (spec.id(), spec.name.clone());
        {
            let mut state = self.state();
            if state.stacks.contains_key(&name) {
                return Err(Error::already_exists(Kind::Stack, &name));
            }
            state.check(&spec)?;
            state.deployed.insert(id.clone());
            let mut services = Vec::new();
            for service in &spec.services {
                let ports = state.choose_ports(service);
                let state = ServiceState::Starting;
                services.push(FakeService { state, pid: None, log: Vec::new(), ports, restarts: 0 });
            }
            let stack = FakeStack { id: id.clone(), spec, created: OffsetDateTime::now_utc(), services };
            state.stacks.insert(name.clone(), stack);
        }
        let started = tokio::select! {
            started = self.start(&name) => started,
            _ = given_up => Err(Error::Cancelled),
        };
        if let Err(error) = started {
            self.remove(&id);
            return Err(error);
        }
        Ok(self.state().stack(&name)?.view())
    }

    /// Starts whatever of a stack does not run, each service after what it depends on.
    async fn start(self: &Arc<Self>, name: &StackName) -> Result<()> {
        let (id, spec) = {
            let mut state = self.state();
            let stack = state.stack(name)?;
            (stack.id.clone(), stack.spec.clone())
        };
        for group in depends::groups(&spec)? {
            for (place, condition) in depends::conditions(&spec, &group) {
                self.wait_for(&id, name, place, condition).await?;
            }
            self.start_group(&id, name, &group)?;
        }
        Ok(())
    }

    /// Waits until a service is what others wait for.
    async fn wait_for(&self, id: &StackId, name: &StackName, place: usize, condition: Condition) -> Result<()> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.state();
                let stack = state.same_stack(id, name)?;
                let spec = stack.spec.services[place].clone();
                let (now, log) = (stack.services[place].state, &stack.services[place].log);
                let from = log.len().saturating_sub(depends::TAIL);
                let log = log[from..].iter().map(|(_, line)| line.clone()).collect();
                let failed = |reason| Err(depends::failed(&spec.name, reason, log));
                match (now, condition) {
                    (ServiceState::Exited { status: Some(0) }, Condition::CompletedSuccessfully) => return Ok(()),
                    (ServiceState::Exited { status }, _) => return failed(depends::ended(status)),
                    (ServiceState::Running, Condition::Healthy) => {
                        return match state.what(&spec) {
                            FakeProgram::Unhealthy => failed("its health check does not succeed".into()),
                            _ => Ok(()),
                        };
                    }
                    _ => {}
                }
            }
            changed.await;
        }
    }

    /// Starts those of a group of services that do not run.
    fn start_group(self: &Arc<Self>, id: &StackId, name: &StackName, group: &[usize]) -> Result<()> {
        let mut state = self.state();
        let programs: Vec<_> = state.stack(name)?.spec.services.clone().iter().map(|spec| state.what(spec)).collect();
        let mut pid = FIRST_PID + state.processes;
        for &at in group {
            let stack = state.same_stack(id, name)?;
            let now = stack.services[at].state;
            let done = now == ServiceState::Exited { status: Some(0) }
                && depends::runs_once(&stack.spec, &stack.spec.services[at]);
            if stack.services[at].pid.is_some() || done {
                continue;
            }
            let mut lines = Vec::new();
            let mut exit = None;
            match programs[at].clone() {
                FakeProgram::Runs | FakeProgram::Missing | FakeProgram::Unhealthy => {}
                FakeProgram::Prints(given) => lines = given,
                FakeProgram::Exits(status) => exit = Some(status),
                FakeProgram::PrintsAndExits(given, status) => (lines, exit) = (given, Some(status)),
                FakeProgram::PrintsVariable(key) => lines.push(stack.variable(at, &key)),
                FakeProgram::PrintsSecret(name) => lines.push(stack.secret(&name)),
                FakeProgram::Finds(key) => {
                    // Its siblings of the same group are started before it looks again.
                    let address = stack.variable(at, &key);
                    let ours = group.iter().flat_map(|&at| &stack.services[at].ports);
                    let starts = ours.into_iter().any(|port| format!("{HOST}:{port}") == address);
                    if starts || state.is_reached(&address) {
                        lines.push("found: hello".into());
                    } else {
                        exit = Some(3);
                    }
                }
                FakeProgram::Ticks(pause) => {
                    tokio::spawn(Arc::clone(self).tick(name.clone(), at, pid, pause));
                }
            }
            let service = &mut state.same_stack(id, name)?.services[at];
            if matches!(service.state, ServiceState::Exited { .. }) {
                service.restarts += 1;
            }
            service.state = ServiceState::Running;
            service.pid = Some(pid);
            service.print(lines);
            if let Some(status) = exit {
                service.end(ServiceState::Exited { status: Some(status) });
            }
            pid += 1;
        }
        state.processes = pid - FIRST_PID;
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Writes a line now and then, while the process runs.
    async fn tick(self: Arc<Self>, name: StackName, at: usize, pid: u32, pause: Duration) {
        for n in 0_u64.. {
            let runs = {
                let mut state = self.state();
                let service = state.stacks.get_mut(&name).and_then(|stack| stack.services.get_mut(at));
                service.filter(|service| service.pid == Some(pid)).map(|service| {
                    service.log.push((OffsetDateTime::now_utc(), format!("tick {n}")));
                })
            };
            if runs.is_none() {
                return;
            }
            self.changed.notify_waiters();
            tokio::time::sleep(pause).await;
        }
    }

    fn remove(&self, id: &StackId) {
        let Some((name, _)) = id.parts() else { return };
        let mut state = self.state();
        if state.stacks.get(&name).is_some_and(|stack| stack.id == *id) {
            state.stacks.remove(&name);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn logs(self: Arc<Self>, name: &StackName, options: LogOptions) -> Result<BoxStream<'static, Result<LogLine>>> {
        let mut state = self.state();
        let stack = state.stack(name)?;
        let id = stack.id.clone();
        let mut services = Vec::new();
        for (spec, now) in stack.spec.services.iter().zip(&stack.services) {
            if options.service.as_ref().is_none_or(|name| *name == spec.name) {
                services.push((spec.name.clone(), now.log.len().saturating_sub(options.tail.unwrap_or(usize::MAX))));
            }
        }
        drop(state);
        if let (true, Some(service)) = (services.is_empty(), &options.service) {
            return Err(Error::not_found(Kind::Service, service));
        }
        let name = name.clone();
        let streams = services.into_iter().map(move |(service, from)| {
            let cursor = Cursor { id: id.clone(), name: name.clone(), service, next: from };
            self.clone().lines(cursor, options.clone())
        });
        Ok(stream::select_all(streams).boxed())
    }

    fn lines(self: Arc<Self>, cursor: Cursor, options: LogOptions) -> BoxStream<'static, Result<LogLine>> {
        stream::unfold((self, cursor, options), |(shared, mut cursor, options)| async move {
            loop {
                let changed = shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let line = {
                    let mut state = shared.state();
                    let stack = state.stacks.get_mut(&cursor.name).filter(|stack| stack.id == cursor.id);
                    // A stack that was removed has taken its log with it.
                    stack?.service(&cursor.service)?.log.get(cursor.next).cloned()
                };
                match line {
                    Some((time, text)) => {
                        cursor.next += 1;
                        if options.since.is_none_or(|since| time >= since) {
                            let line = LogLine { service: cursor.service.clone(), time: Some(time), text };
                            return Some((Ok(line), (shared.clone(), cursor, options)));
                        }
                    }
                    None if options.follow => changed.await,
                    None => return None,
                }
            }
        })
        .boxed()
    }
}

fn damaged() -> Error {
    Error::backend("fake", "reading a record", std::io::Error::other("it is damaged"))
}

/// Which line of which log comes next.
struct Cursor {
    id: StackId,
    name: StackName,
    service: ServiceName,
    next: usize,
}

#[async_trait]
impl Orchestrator for FakeOrchestrator {
    async fn deploy(&self, stack: &StackSpec) -> Result<Stack> {
        stack.check()?;
        let id = stack.id();
        assert!(!self.shared.state().deployed.contains(&id), "{id} was deployed before: an attempt is one try");
        let (shared, undoing, stack) = (Arc::clone(&self.shared), Arc::clone(&self.shared), stack.clone());
        // Dropped with this future, it ends what the deployment may wait for.
        let (_waits, given_up) = oneshot::channel();
        let deploy = async move {
            yield_now().await;
            shared.deploy(stack, given_up).await
        };
        deploy_or_undo("fake", deploy, move |id| async move {
            undoing.remove(&id);
            Ok(())
        })
        .await
    }

    async fn get(&self, name: &StackName) -> Result<Stack> {
        yield_now().await;
        let mut state = self.shared.state();
        if state.unreadable.contains(name) {
            return Err(damaged());
        }
        Ok(state.stack(name)?.view())
    }

    async fn list(&self, selector: &Selector) -> Result<Listing<Stack>> {
        yield_now().await;
        let state = self.shared.state();
        let mut listing = Listing::default();
        for (name, stack) in &state.stacks {
            if state.unreadable.contains(name) {
                listing.unreadable.push(Unreadable::new(name.as_str(), &damaged()));
            } else if selector.matches(&stack.spec.labels) {
                listing.found.push(stack.view());
            }
        }
        Ok(listing)
    }

    async fn set_labels(&self, name: &StackName, labels: &Labels) -> Result<()> {
        yield_now().await;
        self.shared.state().stack(name)?.spec.labels.clone_from(labels);
        Ok(())
    }

    async fn set_running(&self, name: &StackName, running: bool) -> Result<()> {
        yield_now().await;
        if running {
            return self.shared.start(name).await;
        }
        {
            let mut state = self.shared.state();
            let stack = state.stack(name)?;
            for (now, spec) in stack.services.iter_mut().zip(&stack.spec.services) {
                let done = now.state == ServiceState::Exited { status: Some(0) };
                if !(done && depends::runs_once(&stack.spec, spec)) {
                    now.end(ServiceState::Asleep);
                }
            }
        }
        self.shared.changed.notify_waiters();
        Ok(())
    }

    async fn remove(&self, id: &StackId) -> Result<()> {
        yield_now().await;
        self.shared.remove(id);
        Ok(())
    }

    async fn wait_stopped(&self, name: &StackName) -> Result<Stack> {
        let id = self.shared.state().stack(name)?.id.clone();
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let stack = self.shared.state().stack(name)?.view();
            if stack.id != id {
                return Err(Error::not_found(Kind::Stack, name));
            }
            let is_up = |state| matches!(state, ServiceState::Running | ServiceState::Starting);
            if !stack.services.iter().all(|service| is_up(service.state)) {
                return Ok(stack);
            }
            changed.await;
        }
    }

    fn logs(&self, name: &StackName, options: LogOptions) -> BoxStream<'static, Result<LogLine>> {
        let (shared, name) = (Arc::clone(&self.shared), name.clone());
        stream::once(async move { shared.logs(&name, options) }).try_flatten().boxed()
    }
}
