//! Starting the services of a stack in their order.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::{join_all, try_join_all};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::check::{check, check_words, run_as};
use super::logs::{LogFile, lines};
use super::ports;
use super::spawn::{Held, Setting};
use super::state::{Exit, Processes, Record, Shared, Started, group_name};
use crate::cgroup::Group;
use crate::error::{Error, Result};
use crate::name::StackName;
use crate::orchestrator::depends::{self, Checking};
use crate::orchestrator::spec::being_removed;
use crate::orchestrator::turns::locked;
use crate::orchestrator::{Condition, Resources, ServiceSpec, Stack, StackId, StackSpec, discovery, known};

/// How long whoever inherited a process may take to notice that it has ended.
const REAPED_WITHIN: Duration = Duration::from_secs(10);

impl Shared {
    /// Claims the name, and starts all services in their order. Undoes all if one cannot be started, or if `given_up` ends while one is waited
    /// for.
    pub(super) async fn deploy(
        self: Arc<Self>,
        spec: StackSpec,
        programs: Vec<PathBuf>,
        given_up: oneshot::Receiver<()>,
    ) -> Result<Stack> {
        let name = spec.name.clone();
        let _turn = self.turns.take(&name).await;
        // Its secrets are nowhere else: a record has none.
        let secrets = spec.clone();
        let processes = vec![None; spec.services.len()];
        let place = Some(self.files.place().to_owned());
        let record = Record::new(spec, Processes { processes, ports: Vec::new(), place });
        let starting = self.turns.starting(&record.id);
        self.records.create(&name, &record)?;
        let result = match self.prepare(&record, &secrets) {
            Ok(record) => self.start_in_order(&record, programs.into_iter().enumerate().collect(), given_up).await,
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

    /// Chooses the ports of a stack and makes its files. Returns the record with the ports.
    fn prepare(&self, record: &Record, spec: &StackSpec) -> Result<Record> {
        self.delete_logs(record)?;
        self.files.make(spec)?;
        let (id, name) = (&record.id, &record.spec.name);
        if spec.services.iter().all(|service| service.publish.is_empty()) {
            return Ok(record.clone());
        }
        // While nobody else changes a record: another stack could choose the same ports.
        let recorded = self.records.update_among(name, |record, all| {
            let chosen = all().and_then(|all| ports::choose(spec, &taken_ports(all.found, id)));
            (record.id == *id && !record.removing).then(|| {
                chosen.map(|ports| {
                    record.engine.ports = ports;
                    record.clone()
                })
            })
        });
        recorded?.unwrap_or_else(|| Err(being_removed(name)))
    }

    /// Starts the services at these places of the specification, each after what it depends on, and returns the record that says so.
    async fn start_in_order(
        self: &Arc<Self>,
        record: &Record,
        mut programs: Vec<(usize, PathBuf)>,
        mut given_up: oneshot::Receiver<()>,
    ) -> Result<Record> {
        // What is woken did not end by itself.
        let again = !record.asleep;
        let mut record = record.clone();
        let mut started = false;
        for group in depends::groups(&record.spec)? {
            let mut due = Vec::new();
            for place in group {
                due.extend(programs.extract_if(.., |(at, _)| *at == place));
            }
            if due.is_empty() {
                continue;
            }
            let places: Vec<usize> = due.iter().map(|(place, _)| *place).collect();
            let conditions = depends::conditions(&record.spec, &places);
            if !conditions.is_empty() {
                let waits = conditions.into_iter().map(|(place, condition)| self.wait_for(&record, place, condition));
                tokio::select! {
                    waited = try_join_all(waits) => drop(waited?),
                    _ = &mut given_up => return Err(Error::Cancelled),
                    () = known::removed(&self.records, &self.turns, &record) => return Err(being_removed(&record.spec.name)),
                }
            }
            record = self.start(&record, due, again).await?;
            started = true;
        }
        if started { Ok(record) } else { self.start(&record, Vec::new(), again).await }
    }

    /// Waits until a service that was started is what others wait for.
    async fn wait_for(&self, record: &Record, place: usize, condition: Condition) -> Result<()> {
        let service = &record.spec.services[place];
        let Some(started) = record.engine.processes.get(place).and_then(Option::as_ref) else {
            return Err(depends::failed(&service.name, "it was not started", Vec::new()));
        };
        let ended = async {
            let waiting = |e| Error::io(super::BACKEND, format!("waiting for service {}", service.name), e);
            self.ended(&started.identity).await.map_err(waiting)?;
            Ok::<_, Error>(self.exit(started).and_then(|exit| exit.status))
        };
        let reason = match condition {
            Condition::Started => return Ok(()),
            Condition::CompletedSuccessfully => match ended.await? {
                Some(0) => return Ok(()),
                status => depends::ended(status),
            },
            Condition::Healthy => tokio::select! {
                status = ended => depends::ended(status?),
                healthy = self.wait_healthy(record, place) => match healthy? {
                    Ok(()) => return Ok(()),
                    Err(reason) => reason,
                },
            },
        };
        Err(depends::failed(&service.name, reason, self.log_tail(&record.spec.name, service).await))
    }

    /// Waits until a service's health check succeeds; or says why it does not, when it has been tried for as long as it may take.
    async fn wait_healthy(&self, record: &Record, place: usize) -> Result<Result<(), String>> {
        let service = &record.spec.services[place];
        let Some(check) = &service.healthcheck else { return Ok(Ok(())) };
        let Some(words) = check_words(service, check)? else { return Ok(Ok(())) };
        let (setting, group) = (self.setting(record, place)?, self.group(record, service).await?);
        let checking = Checking::of(check);
        let deadline = Instant::now().checked_add(checking.patience);
        loop {
            match setting.try_out(&words, checking.timeout, &group).await? {
                Ok(()) => return Ok(Ok(())),
                Err(reason) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return Ok(Err(reason)),
                Err(_) => tokio::time::sleep(checking.pause).await,
            }
        }
    }

    async fn log_tail(&self, name: &StackName, service: &ServiceSpec) -> Vec<String> {
        let log = LogFile { service: service.name.clone(), path: self.log_path(name, service) };
        let lines = lines(log, Some(depends::TAIL), None).map_ok(|line| line.text);
        lines.try_collect().await.unwrap_or_default()
    }

    /// Returns what the programs of a service start with.
    fn setting(&self, record: &Record, place: usize) -> Result<Setting> {
        let (spec, service) = (&record.spec, &record.spec.services[place]);
        let port = |place: usize, at: usize| {
            record.engine.ports.get(place).and_then(|ports| ports.get(at)).copied().unwrap_or_default()
        };
        let mut told = discovery::siblings(spec, port, |_| super::HOST.to_owned());
        told.extend(discovery::own_ports(service, |at| port(place, at)));
        told.extend(self.files.variables(&spec.name, service));
        Ok(Setting {
            told,
            given: service.env.clone(),
            dir: self.files.start(&spec.name, service),
            user: run_as(service)?,
            variable: format!("{}/{}", self.instance, record.id),
            mark: self.mark(record, service),
            sandbox: self.sandbox.clone().filter(|_| service.sandboxed).map(|sandbox| {
                let own = self.files.mounts(&spec.name, service);
                (sandbox, service.mounts.iter().cloned().chain(own).collect())
            }),
            shm_size: service.shm_size,
        })
    }

    /// Makes the control group of a service, or returns the one that there is.
    async fn group(&self, record: &Record, service: &ServiceSpec) -> Result<Group> {
        let limits = service.placement.limits;
        let Some(cgroups) = self.cgroups.clone().filter(|_| limits != Resources::default()) else {
            return Ok(Group::default());
        };
        let name = group_name(record, service);
        let failed = |e| Error::io(super::BACKEND, format!("making the control group of service {}", service.name), e);
        let made = tokio::task::spawn_blocking(move || cgroups.make(&name, &limits)).await;
        made.map_err(|e| failed(e.into()))?.map_err(failed)
    }

    /// Starts a service's process, which waits until it is released.
    async fn hold(&self, record: &Record, at: usize, program: &Path) -> Result<Held> {
        let service = &record.spec.services[at];
        let (setting, group) = (self.setting(record, at)?, self.group(record, service).await?);
        let log = self.log_path(&record.spec.name, service);
        let held = Held::start(service, &setting, program, &log, &self.boot, &self.spares).await?;
        match held.enter(&group).await {
            Ok(()) => Ok(held),
            Err(error) => {
                held.discard().await;
                Err(error)
            }
        }
    }

    /// Starts the services at these places at once, and returns the record that says so. What ended by itself and is started `again` is counted.
    async fn start(self: &Arc<Self>, record: &Record, programs: Vec<(usize, PathBuf)>, again: bool) -> Result<Record> {
        let (id, name) = (&record.id, &record.spec.name);
        let mut held = Vec::with_capacity(programs.len());
        for (at, program) in programs {
            match self.hold(record, at, &program).await {
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
                let before = record.engine.processes[*at].as_ref();
                let restarts = before.map_or(0, |before| before.restarts.saturating_add(again.into()));
                let identity = process.identity.clone();
                let sandboxed = process.sandboxed;
                record.engine.processes[*at] = Some(Started { identity, exit: None, restarts, sandboxed });
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
            let leash = process.take_leash();
            self.reap(name, id, process);
            if released.is_ok() {
                released = leash.release().await;
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
            let succeeded = started.and_then(|started| self.exit(started)).is_some_and(|exit| exit.status == Some(0));
            if succeeded && depends::runs_once(&record.spec, service) {
                continue;
            }
            programs.push((at, check(service, &self.files.start(name, service))?));
            // What came from the process that ended may have survived it.
            self.end_service(&record, at).await?;
            // The program may look for the one before it by its number, as Postgres does, and the machine's first process may be slow.
            if let Some(started) = started {
                started.identity.reaped(REAPED_WITHIN).await;
            }
        }
        let _starting = self.turns.starting(&record.id);
        // Whoever gives up drops this.
        let (_waits, given_up) = oneshot::channel();
        self.start_in_order(&record, programs, given_up).await.map(drop)
    }
}

/// Returns the ports that other stacks have, whether they are awake or not.
fn taken_ports(all: Vec<Record>, id: &StackId) -> HashSet<u16> {
    let others = all.into_iter().filter(|record| record.id != *id);
    let ports = others.flat_map(|record| {
        let fixed = record.spec.services.into_iter().flat_map(|service| service.ports);
        fixed.map(|port| port.published.port()).chain(record.engine.ports.into_iter().flatten()).collect::<Vec<_>>()
    });
    ports.collect()
}
