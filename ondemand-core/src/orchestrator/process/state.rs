//! What is remembered about stacks, and what is done to them, one thing at a time.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures_util::future::try_join_all;
use futures_util::stream::{self, BoxStream, StreamExt};
use rustix::process::Signal;
use tokio::sync::watch;

use super::files::Files;
use super::identity::{Handle, Identity};
use super::logs::{LARGEST, LogFile, lines, shorten};
use super::moved;
use super::spares::Spares;
use super::spawn;
use super::tree::Root;
use super::{BACKEND, HOST, LogLine, LogOptions, ProcessOptions};
use crate::cgroup::Cgroups;
use crate::error::{Error, Kind, Result};
use crate::mark::Mark;
use crate::name::StackName;
use crate::orchestrator::record::Records;
use crate::orchestrator::turns::{Turns, locked};
use crate::orchestrator::{Endpoint, Service, ServiceSpec, ServiceState, Stack, StackId, StopSignal, depends, known};
use crate::own;
use crate::sandbox::Sandbox;

/// What is remembered about a stack.
pub(super) type Record = known::Record<Processes>;

/// What is remembered about a stack's processes.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[expect(clippy::struct_field_names, reason = "so they are called in records")]
pub(super) struct Processes {
    /// The process of each service, in the order of the specification; `None` if it was never started.
    pub(super) processes: Vec<Option<Started>>,
    /// The published ports of each service, in the order of the specification; empty if none publishes any.
    #[serde(default)]
    pub(super) ports: Vec<Vec<u16>>,
    /// Where the directory of records was, with all that is beside it, when the specification was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) place: Option<PathBuf>,
}

/// A process that was started.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Started {
    pub(super) identity: Identity,
    /// How it ended, if that was seen.
    pub(super) exit: Option<Exit>,
    /// How many of the service's processes before it ended by themselves.
    #[serde(default)]
    pub(super) restarts: u32,
    /// Whether its program runs in a sandbox, which ends with this process.
    #[serde(default)]
    pub(super) sandboxed: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(super) struct Exit {
    pub(super) status: Option<i32>,
}

/// What all handles on one `Process`, and the tasks it started, have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) records: Records<Record>,
    pub(super) files: Files,
    log_dir: PathBuf,
    pub(super) instance: String,
    pub(super) sandbox: Option<Sandbox>,
    pub(super) cgroups: Option<Cgroups>,
    pub(super) boot: String,
    /// The processes whose parent this process is, and how they ended.
    pub(super) children: Mutex<HashMap<Identity, watch::Receiver<Option<Exit>>>>,
    /// Who does what to which stack.
    pub(super) turns: Turns,
    /// What was started for stacks that are expected.
    pub(super) spares: Arc<Spares>,
}

/// Returns the name of a service's control group.
pub(super) fn group_name(record: &Record, service: &ServiceSpec) -> String {
    let stack: String =
        record.id.to_string().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("{stack}.{}", service.name)
}

fn signal(stop: StopSignal) -> Signal {
    match stop {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
    }
}

impl Shared {
    pub(super) fn new(records: Records<Record>, files: Files, options: ProcessOptions, boot: String) -> Self {
        let ProcessOptions { log_dir, instance, sandbox, cgroups, .. } = options;
        let (children, turns, spares) = (Mutex::default(), Turns::default(), Arc::default());
        Self { records, files, log_dir, instance, sandbox, cgroups, boot, children, turns, spares }
    }

    /// Changes the specifications of stacks whose directory is elsewhere now. Those that cannot be read or written are left alone until the next time.
    pub(super) fn follow_moved(&self) -> Result<()> {
        let place = self.files.place();
        for record in self.records.list()?.found {
            if record.engine.place.as_deref() == Some(place) {
                continue;
            }
            let followed = self.records.update(&record.spec.name, |record| {
                // One of a version that did not write it down is taken to be where it was made.
                if let Some(then) = record.engine.place.replace(place.to_owned()) {
                    tracing::info!(stack = %record.spec.name, from = %then.display(), to = %place.display(), "a stack was moved");
                    moved::follow(&mut record.spec, &then, place);
                }
                Some(())
            });
            if let Err(error) = followed {
                tracing::warn!(stack = %record.spec.name, %error, "the place of a stack could not be noted");
            }
        }
        Ok(())
    }

    /// Returns a stack as it is now.
    pub(super) fn stack(&self, record: &Record) -> Stack {
        let services = record.spec.services.iter().enumerate();
        record.stack(services.map(|(at, service)| self.service(record, at, service)).collect())
    }

    fn service(&self, record: &Record, at: usize, spec: &ServiceSpec) -> Service {
        let started = record.engine.processes.get(at).and_then(Option::as_ref);
        let starting = self.turns.is_starting(&record.id);
        let exit = started.map_or(Some(Exit { status: None }), |started| self.exit(started));
        let state = match exit {
            None if starting => ServiceState::Starting,
            None => ServiceState::Running,
            Some(_) if starting && started.is_none() => ServiceState::Starting,
            Some(_) if record.asleep => ServiceState::Asleep,
            Some(exit) => ServiceState::Exited { status: exit.status },
        };
        let pid = started.filter(|_| exit.is_none()).map(|started| started.identity.pid);
        let error = match state {
            ServiceState::Exited { status } if status != Some(0) && started.is_some() => Some(depends::ended(status)),
            _ => None,
        };
        let ports = record.engine.ports.get(at).filter(|_| pid.is_some()).into_iter().flatten();
        let endpoints = spec.publish.iter().zip(ports);
        let endpoints = endpoints
            .map(|(publish, port)| Endpoint { target: publish.target, address: format!("{HOST}:{port}") })
            .collect();
        let restarts = started.map_or(0, |started| started.restarts);
        Service { pid, endpoints, restarts, error, ..Service::new(spec.name.clone(), state) }
    }

    /// Tells how a process ended; `None` if it runs.
    pub(super) fn exit(&self, started: &Started) -> Option<Exit> {
        if started.exit.is_some() {
            return started.exit;
        }
        if let Some(child) = self.child(&started.identity) {
            let exit = *child.borrow();
            // Without its sender the task that waits has died with its runtime, and nothing is known.
            if exit.is_some() || child.has_changed().is_ok() {
                return exit;
            }
        }
        (!started.identity.is_alive(&self.boot)).then_some(Exit { status: None })
    }

    fn child(&self, identity: &Identity) -> Option<watch::Receiver<Option<Exit>>> {
        locked(&self.children).get(identity).cloned()
    }

    /// Waits until a process has ended and, if it is this one's child, was reaped.
    pub(super) fn ended(&self, identity: &Identity) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let child = self.child(identity);
        let (identity, boot) = (identity.clone(), self.boot.clone());
        async move {
            if let Some(mut child) = child
                && child.wait_for(Option::is_some).await.is_ok()
            {
                return Ok(());
            }
            match Handle::open(&identity, &boot)? {
                Some(handle) => handle.ended().await,
                None => Ok(()),
            }
        }
    }

    /// Ends a stack's processes and keeps its definition.
    pub(super) async fn sleep(&self, name: &StackName) -> Result<()> {
        let _turn = self.turns.take(name).await;
        let record = self.records.set_asleep(name, true)?;
        self.end(&record).await?;
        self.turns.changed.notify_waiters();
        Ok(())
    }

    /// Ends a stack and forgets it.
    pub(super) async fn remove(&self, id: &StackId) -> Result<()> {
        let Some((name, _)) = id.parts() else { return Ok(()) };
        // Before its turn: a deployment that waits for one of its services sees it, and gives up.
        self.records.begin_removal(&name, id)?;
        self.turns.changed.notify_waiters();
        let _turn = self.turns.take(&name).await;
        match self.records.begin_removal(&name, id)? {
            Some(record) => self.end_and_forget(&record).await,
            None => Ok(()),
        }
    }

    pub(super) async fn end_and_forget(&self, record: &Record) -> Result<()> {
        // As it is now: the attempt to start it may have recorded processes.
        let record = self.records.read(&record.spec.name)?.filter(|now| now.id == record.id).unwrap_or(record.clone());
        self.end(&record).await?;
        self.delete_logs(&record)?;
        self.delete_files(&record).await?;
        // Last: until then, it is found by its record.
        self.records.delete(&record.spec.name, |now| now.id == record.id)?;
        self.turns.changed.notify_waiters();
        Ok(())
    }

    async fn end(&self, record: &Record) -> Result<()> {
        try_join_all((0..record.engine.processes.len()).map(|at| self.end_service(record, at))).await?;
        let Some(cgroups) = &self.cgroups else { return Ok(()) };
        for service in &record.spec.services {
            let removed = cgroups.remove(&group_name(record, service)).await;
            removed.map_err(|e| Error::io(BACKEND, format!("removing the control group of {}", service.name), e))?;
        }
        Ok(())
    }

    pub(super) async fn end_service(&self, record: &Record, at: usize) -> Result<()> {
        let (Some(service), Some(Some(started))) = (record.spec.services.get(at), record.engine.processes.get(at))
        else {
            return Ok(());
        };
        if let Some(cgroups) = self.cgroups.as_ref().filter(|_| service.placement.limits.nano_cpus.is_some()) {
            cgroups.lift_cpu_limit(&group_name(record, service));
        }
        let line = format!("{}={}/{}", spawn::VARIABLE, self.instance, record.id);
        let mark = self.mark(record, service);
        let sandboxed = started.sandboxed;
        let root = Root { main: &started.identity, sandboxed, boot: &self.boot, mark, line: &line };
        let failed =
            |e| Error::io(BACKEND, format!("ending service {} of stack {}", service.name, record.spec.name), e);
        root.end(signal(service.stop_signal), service.stop_grace).await.map_err(failed)?;
        self.ended(&started.identity).await.map_err(failed)?;
        locked(&self.children).remove(&started.identity);
        Ok(())
    }

    /// Returns the mark of all that comes from a service. Another service of the stack has another: it is not to end with this one.
    pub(super) fn mark(&self, record: &Record, service: &ServiceSpec) -> Mark {
        Mark::of(&format!("{}/{}/{}", self.instance, record.id, service.name))
    }

    pub(super) fn log_path(&self, name: &StackName, service: &ServiceSpec) -> PathBuf {
        self.log_dir.join(format!("{name}.{}.log", service.name))
    }

    /// Empties the log files of a stack that have become too large.
    pub(super) fn shorten_logs(&self, record: &Record) {
        for service in &record.spec.services {
            let path = self.log_path(&record.spec.name, service);
            if let Err(error) = shorten(&path, LARGEST) {
                tracing::warn!(path = %path.display(), %error, "a log that is too large could not be emptied");
            }
        }
    }

    pub(super) fn delete_logs(&self, record: &Record) -> Result<()> {
        for service in &record.spec.services {
            let path = self.log_path(&record.spec.name, service);
            match own::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(BACKEND, format!("deleting {}", path.display()), e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Deletes what a stack has on disk. That may be much, as a program that builds another leaves it.
    async fn delete_files(&self, record: &Record) -> Result<()> {
        let (files, name) = (self.files.clone(), record.spec.name.clone());
        let deleting = tokio::task::spawn_blocking(move || files.remove(&name));
        deleting.await.map_err(|e| Error::backend(BACKEND, format!("deleting the files of {}", record.spec.name), e))?
    }

    /// Returns the lines of a stack's log files: one after the other, or as they come if they are followed.
    pub(super) fn logs(
        self: &Arc<Self>,
        name: &StackName,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        let record = self.records.get(name)?;
        self.shorten_logs(&record);
        if options.since.is_some() {
            return Err(Error::Unsupported {
                message: "the log lines of plain processes carry no time".into(),
                hint: "ask for the last lines with `tail` instead, or use the Docker orchestrator".into(),
            });
        }
        let chosen = |service: &&ServiceSpec| options.service.as_ref().is_none_or(|name| *name == service.name);
        let services: Vec<&ServiceSpec> = record.spec.services.iter().filter(chosen).collect();
        if let (true, Some(service)) = (services.is_empty(), &options.service) {
            return Err(Error::not_found(Kind::Service, service));
        }
        let files = services.into_iter().map(|service| {
            let log = LogFile { service: service.name.clone(), path: self.log_path(name, service) };
            let (shared, name, id) = (Arc::clone(self), name.clone(), record.id.clone());
            let follow = options.follow.then(|| {
                Box::new(move || matches!(shared.records.read(&name), Ok(Some(now)) if now.id == id))
                    as super::logs::IsThere
            });
            lines(log, options.tail, follow)
        });
        let files: Vec<_> = files.collect();
        Ok(if options.follow { stream::select_all(files).boxed() } else { stream::iter(files).flatten().boxed() })
    }
}
