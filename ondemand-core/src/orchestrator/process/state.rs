//! What is remembered about stacks, and what is done to them, one thing at a time.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use futures_util::stream::{self, BoxStream, StreamExt};
use rustix::process::Signal;
use tokio::sync::watch;

use super::identity::{Handle, Identity};
use super::logs::{LARGEST, LogFile, lines, shorten};
use super::spawn::{self, Held};
use super::tree::Root;
use super::{BACKEND, LogLine, LogOptions};
use crate::error::{Error, Kind, Result};
use crate::mark::Mark;
use crate::name::{ServiceName, StackName};
use crate::orchestrator::known;
use crate::orchestrator::record::Records;
use crate::orchestrator::spec::being_removed;
use crate::orchestrator::turns::{Turns, locked};
use crate::orchestrator::{Service, ServiceSpec, ServiceState, Stack, StackId, StackSpec, StopSignal};

/// How long whoever inherited a process may take to notice that it has ended.
const REAPED_WITHIN: Duration = Duration::from_secs(10);

/// What is remembered about a stack.
pub(super) type Record = known::Record<Processes>;

/// What is remembered about a stack's processes.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Processes {
    /// The process of each service, in the order of the specification; `None` if it was never started.
    pub(super) processes: Vec<Option<Started>>,
}

/// A process that was started.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Started {
    pub(super) identity: Identity,
    /// How it ended, if that was seen.
    exit: Option<Exit>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
struct Exit {
    status: Option<i32>,
}

/// What all handles on one `Process`, and the tasks it started, have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) records: Records<Record>,
    log_dir: PathBuf,
    instance: String,
    boot: String,
    /// The processes whose parent this process is, and how they ended.
    children: Mutex<HashMap<Identity, watch::Receiver<Option<Exit>>>>,
    /// Who does what to which stack.
    pub(super) turns: Turns,
}

fn signal(stop: StopSignal) -> Signal {
    match stop {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
    }
}

impl Shared {
    pub(super) fn new(records: Records<Record>, log_dir: PathBuf, instance: String, boot: String) -> Self {
        Self { records, log_dir, instance, boot, children: Mutex::default(), turns: Turns::default() }
    }

    /// Returns a stack as it is now.
    pub(super) fn stack(&self, record: &Record) -> Stack {
        let services = record.spec.services.iter().enumerate();
        record.stack(services.map(|(at, service)| self.service(record, at, &service.name)).collect())
    }

    fn service(&self, record: &Record, at: usize, name: &ServiceName) -> Service {
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
        Service { pid, ..Service::new(name.clone(), state) }
    }

    /// Tells how a process ended; `None` if it runs.
    fn exit(&self, started: &Started) -> Option<Exit> {
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

    /// Claims the name, starts all services and releases them. Undoes all if one cannot be started.
    pub(super) async fn deploy(self: Arc<Self>, spec: StackSpec, programs: Vec<PathBuf>) -> Result<Stack> {
        let name = spec.name.clone();
        let _turn = self.turns.take(&name).await;
        let processes = vec![None; spec.services.len()];
        let record = Record::new(spec, Processes { processes });
        let starting = self.turns.starting(&record.id);
        self.records.create(&name, &record)?;
        let result = match self.delete_logs(&record) {
            Ok(()) => self.start(&record, programs.into_iter().enumerate().collect()).await,
            Err(e) => Err(e),
        };
        drop(starting);
        match result {
            Ok(record) => Ok(self.stack(&record)),
            Err(error) => {
                if let Err(undo) = self.end_and_forget(&record).await {
                    tracing::warn!(stack = %name, error = %undo, "what a failed deployment left could not be removed");
                }
                Err(error)
            }
        }
    }

    /// Starts the services at these places of the specification, and returns the record that says so.
    async fn start(self: &Arc<Self>, record: &Record, programs: Vec<(usize, PathBuf)>) -> Result<Record> {
        let (id, name) = (&record.id, &record.spec.name);
        let variable = format!("{}/{id}", self.instance);
        let mut held = Vec::with_capacity(programs.len());
        for (at, program) in programs {
            let service = &record.spec.services[at];
            let log = self.log_path(name, service);
            match Held::spawn(service, &program, &log, &self.boot, &variable, self.mark(record, service)) {
                Ok(process) => held.push((at, process)),
                Err(error) => {
                    // None was released, so each ends as soon as its pipe is closed.
                    join_all(held.into_iter().map(|(_, process)| process.discard())).await;
                    return Err(error);
                }
            }
        }
        let recorded = self.records.update(name, |record| {
            if record.id != *id || record.removing {
                return None;
            }
            record.asleep = false;
            for (at, process) in &held {
                record.engine.processes[*at] = Some(Started { identity: process.identity.clone(), exit: None });
            }
            Some(record.clone())
        });
        let recorded = match recorded {
            Ok(Some(recorded)) => recorded,
            unrecorded => {
                join_all(held.into_iter().map(|(_, process)| process.discard())).await;
                return Err(unrecorded.err().unwrap_or_else(|| being_removed(name)));
            }
        };
        let mut released = Ok(());
        for (_, mut process) in held {
            let pipe = process.take_pipe();
            self.reap(name, id, process);
            if released.is_ok() {
                released = spawn::release(pipe).await;
            }
        }
        released.map(|()| recorded)
    }

    /// Waits, in the background, for a child to end, and notes how it did.
    fn reap(self: &Arc<Self>, name: &StackName, id: &StackId, mut process: Held) {
        let (tell, told) = watch::channel(None);
        locked(&self.children).insert(process.identity.clone(), told);
        let (shared, name, id) = (Arc::clone(self), name.clone(), id.clone());
        tokio::spawn(async move {
            let exit = Exit { status: process.wait().await };
            let noted = shared.records.update(&name, |record| {
                let mut started = record.engine.processes.iter_mut().flatten();
                let started = started.find(|started| started.identity == process.identity && record.id == id)?;
                started.exit = Some(exit);
                Some(())
            });
            if let Err(error) = noted {
                tracing::warn!(stack = %name, %error, "the end of a process could not be recorded");
            }
            tell.send_replace(Some(exit));
        });
    }

    /// Ends a stack's processes and keeps its definition.
    pub(super) async fn sleep(&self, name: &StackName) -> Result<()> {
        let _turn = self.turns.take(name).await;
        let record = self.records.set_asleep(name, true)?;
        self.end(&record).await?;
        self.turns.changed.notify_waiters();
        Ok(())
    }

    /// Starts whatever of a stack does not run.
    pub(super) async fn wake(self: &Arc<Self>, name: &StackName) -> Result<()> {
        let _turn = self.turns.take(name).await;
        let record = self.records.get(name)?;
        if record.removing {
            return Err(being_removed(name));
        }
        let mut programs = Vec::new();
        for (at, service) in record.spec.services.iter().enumerate() {
            let started = record.engine.processes.get(at).and_then(Option::as_ref);
            if started.is_some_and(|started| self.exit(started).is_none()) {
                continue;
            }
            programs.push((at, spawn::check(service)?));
            // What came from the process that ended may have survived it.
            self.end_service(&record, at).await?;
            // The program may look for the one before it by its number, as Postgres does, and the machine's first process may be slow.
            if let Some(started) = started {
                started.identity.reaped(REAPED_WITHIN).await;
            }
        }
        let _starting = self.turns.starting(&record.id);
        self.start(&record, programs).await?;
        Ok(())
    }

    /// Ends a stack and forgets it.
    pub(super) async fn remove(&self, id: &StackId) -> Result<()> {
        let Some((name, _)) = id.parts() else { return Ok(()) };
        let _turn = self.turns.take(&name).await;
        match self.records.begin_removal(&name, id)? {
            Some(record) => self.end_and_forget(&record).await,
            None => Ok(()),
        }
    }

    async fn end_and_forget(&self, record: &Record) -> Result<()> {
        // As it is now: the attempt to start it may have recorded processes.
        let record = self.records.read(&record.spec.name)?.filter(|now| now.id == record.id).unwrap_or(record.clone());
        self.end(&record).await?;
        self.delete_logs(&record)?;
        // Last: until then, it is found by its record.
        self.records.delete(&record.spec.name, |now| now.id == record.id)?;
        self.turns.changed.notify_waiters();
        Ok(())
    }

    async fn end(&self, record: &Record) -> Result<()> {
        try_join_all((0..record.engine.processes.len()).map(|at| self.end_service(record, at))).await.map(drop)
    }

    async fn end_service(&self, record: &Record, at: usize) -> Result<()> {
        let (Some(service), Some(Some(started))) = (record.spec.services.get(at), record.engine.processes.get(at))
        else {
            return Ok(());
        };
        let line = format!("{}={}/{}", spawn::VARIABLE, self.instance, record.id);
        let mark = self.mark(record, service);
        let root = Root { main: &started.identity, boot: &self.boot, mark, line: &line };
        let failed =
            |e| Error::io(BACKEND, format!("ending service {} of stack {}", service.name, record.spec.name), e);
        root.end(signal(service.stop_signal), service.stop_grace).await.map_err(failed)?;
        self.ended(&started.identity).await.map_err(failed)?;
        locked(&self.children).remove(&started.identity);
        Ok(())
    }

    /// Returns the mark of all that comes from a service. Another service of the stack has another: it is not to end with this one.
    fn mark(&self, record: &Record, service: &ServiceSpec) -> Mark {
        Mark::of(&format!("{}/{}/{}", self.instance, record.id, service.name))
    }

    fn log_path(&self, name: &StackName, service: &ServiceSpec) -> PathBuf {
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

    fn delete_logs(&self, record: &Record) -> Result<()> {
        for service in &record.spec.services {
            let path = self.log_path(&record.spec.name, service);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(BACKEND, format!("deleting {}", path.display()), e));
                }
                _ => {}
            }
        }
        Ok(())
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
