//! Programs as child processes of this host: detached, and adopted again after a restart.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::sync::oneshot;

use super::record::{Records, make_private_dir};
use super::spec::deploy_or_undo;
use super::{Expected, LogLine, LogOptions, Orchestrator, Stack, StackId, StackSpec, known};
use crate::cgroup::Cgroups;
use crate::error::{Error, Result};
use crate::label::{Labels, Selector};
use crate::listing::Listing;
use crate::name::StackName;
use crate::sandbox::Sandbox;

mod check;
mod files;
mod identity;
mod logs;
mod moved;
mod ports;
mod spares;
mod spawn;
mod start;
mod state;
mod tree;

use files::Files;
use state::{Record, Shared};

/// What errors call this orchestrator.
const BACKEND: &str = "process";
/// Where published ports are reached.
const HOST: &str = "127.0.0.1";

/// Where a [`Process`] keeps what it must remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessOptions {
    /// The directory of its records, one file a stack; made if need be. Whoever opens the same directory later adopts the stacks. What stacks
    /// have on disk (secrets, configuration files, directories of their own) is beside it, in a directory of the same name with `-files` after
    /// it; services that run as other users reach that if they may pass through the directories above.
    pub state_dir: PathBuf,
    /// The directory of its logs, one file a service; made if need be.
    pub log_dir: PathBuf,
    /// The installation it belongs to. The variable `ONDEMAND_STACK` carries it, with the stack's id, into all processes.
    pub instance: String,
    /// What services are put in that are to be [sandboxed](super::ServiceSpec::sandboxed); without it, they see the host as it is.
    pub sandbox: Option<Sandbox>,
    /// What keeps services within the [limits](super::Placement::limits) of their placement; without it, limits mean nothing.
    pub cgroups: Option<Cgroups>,
}

/// Runs services as processes of this host.
///
/// They are detached: they outlive this process, and another `Process` over the same directories adopts them. Each starts with an
/// environment of its own (`PATH` and `LANG` of this process, and what the specification says), in a process group of its own, and
/// writes to a log file of its own. A process is started so that it never runs unrecorded, whenever this one is killed; and it is
/// known by number, start time and boot, so that no other process that gets its number later is taken for it.
///
/// # Ports, siblings, files
/// - A published port is one that nobody listens on, on the loopback address and outside the range that the kernel lends to outgoing
///   connections. The service is told by `PORT` (of several ports: the first), and by `PORT_<target>` where there are several; a `PORT` in the
///   specification is taken instead. It stays the stack's, asleep or awake, until the stack is removed.
/// - All services are told where each other listens: `ONDEMAND_SERVICE_<NAME>` is `127.0.0.1:<port>`, in capitals, with `_` for `-`; with
///   `_<target>` after it for each of several ports.
/// - A secret is a file in [`secrets_dir`](Orchestrator::secrets_dir), which `ONDEMAND_SECRETS_DIR` names; a configuration file is one in
///   `ONDEMAND_CONFIGS_DIR`. Only the service's user may read them, unless they have a mode. They are on disk, and go with the stack.
/// - A directory of a service's own is empty in the beginning, only its user may enter it, and it goes with the stack.
/// - What a service depends on is started first. A health check is run only while another service waits for it. A service that is a job, or that
///   another waits to see completed, is not started again once it has ended with status 0.
///
/// A log file that is larger than 64 MiB when stacks are listed, or its lines asked for, is emptied; its first line says so.
///
/// # What it does not do
/// - It isolates only what is to be [sandboxed](super::ServiceSpec::sandboxed), where it was given a sandbox: every other program sees the host as
///   it is, `read_only` mounts are accepted for it, and only the file system's permissions keep it from writing to them.
/// - [`LogOptions::since`] is unsupported: lines carry no time. [`LogOptions::tail`] is counted for each service.
/// - The exit status of an adopted process is unknown: only its parent learns it.
/// - It restarts nothing by itself, whatever the restart policy says: [`set_running`](Orchestrator::set_running) starts again what has exited,
///   and [`Service::restarts`](super::Service::restarts) counts how often it did.
/// - Volumes, tmpfs, capabilities, `read_only`, hosts, limits and kernel parameters of its own, users by name, ports that are not TCP or not the
///   program's own, external secrets and configs, files at paths of their own, and any number of replicas but one are unsupported.
/// - Images, networks, labels of services, init, host names, logging drivers and all else of a placement but its limits mean nothing to a
///   process and are ignored: no service is hidden from another. Without [control groups](ProcessOptions::cgroups), none is kept from taking
///   more than its limits.
#[derive(Debug, Clone)]
pub struct Process {
    shared: Arc<Shared>,
}

impl Process {
    /// Opens the directories, and makes them if need be. Starts and ends nothing. Where the directory that holds the records was moved, with what is
    /// beside them, specifications name its new place from now on.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the kernel has no pidfds (Linux before 5.3).
    pub fn new(mut options: ProcessOptions) -> Result<Self> {
        let probe: Result<OwnedFd, _> =
            rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
        probe.map_err(|e| Error::Unsupported {
            message: format!("this kernel offers no handle on processes (pidfd_open: {e})"),
            hint: "use Linux 5.3 or newer, or the Docker orchestrator".into(),
        })?;
        let boot = crate::proc::boot_id().map_err(|e| Error::io(BACKEND, "reading the boot id", e))?;
        // Not all that opens a log is where this process is.
        let failed = |e| Error::io(BACKEND, format!("finding {}", options.log_dir.display()), e);
        options.log_dir = std::path::absolute(&options.log_dir).map_err(failed)?;
        make_private_dir(&options.log_dir, BACKEND)?;
        let files = Files::beside(&options.state_dir)?;
        let records = Records::open(options.state_dir.clone(), BACKEND)?;
        let shared = Shared::new(records, files, options, boot);
        shared.follow_moved()?;
        Ok(Self { shared: Arc::new(shared) })
    }
}

#[async_trait]
impl Orchestrator for Process {
    fn expect_deploy(&self) -> Expected {
        // Only what is to be in a sandbox can be run by a shell that is there.
        if self.shared.sandbox.is_none() {
            return Expected::default();
        }
        // It is no stack's yet.
        let variable = (spawn::VARIABLE, format!("{}/", self.shared.instance));
        Expected::until_dropped(self.shared.spares.expect(variable))
    }

    async fn deploy(&self, stack: &StackSpec) -> Result<Stack> {
        stack.check()?;
        check::check_stack(stack)?;
        self.shared.files.check(stack)?;
        let program = |service| check::check(service, &self.shared.files.start(&stack.name, service));
        let programs = stack.services.iter().map(program).collect::<Result<Vec<_>>>()?;
        let shared = Arc::clone(&self.shared);
        let undoing = Arc::clone(&self.shared);
        let stack = stack.clone();
        // Dropped with this future, it ends what the deployment may wait for.
        let (_waits, given_up) = oneshot::channel();
        let deploy = async move { shared.deploy(stack, programs, given_up).await };
        deploy_or_undo(BACKEND, deploy, move |id| async move { undoing.remove(&id).await }).await
    }

    async fn get(&self, name: &StackName) -> Result<Stack> {
        Ok(self.shared.stack(&self.shared.records.get(name)?))
    }

    async fn list(&self, selector: &Selector) -> Result<Listing<Stack>> {
        let mut records = self.shared.records.list()?;
        records.retain(|record| selector.matches(&record.spec.labels));
        for record in &records.found {
            self.shared.shorten_logs(record);
        }
        Ok(records.map(|record| self.shared.stack(&record)))
    }

    async fn set_labels(&self, name: &StackName, labels: &Labels) -> Result<()> {
        self.shared.records.set_labels(name, labels)
    }

    async fn set_running(&self, name: &StackName, running: bool) -> Result<()> {
        if running { self.shared.wake(name).await } else { self.shared.sleep(name).await }
    }

    async fn remove(&self, id: &StackId) -> Result<()> {
        self.shared.remove(id).await
    }

    async fn wait_stopped(&self, name: &StackName) -> Result<Stack> {
        let shared = &self.shared;
        let look = |record: Record| {
            let processes = record.engine.processes.iter().flatten();
            let waits = processes.map(|started| {
                let ended = shared.ended(&started.identity);
                let waiting = format!("waiting for stack {name}");
                async move { ended.await.map_err(|e| Error::io(BACKEND, waiting, e)) }.boxed()
            });
            let seen = (shared.stack(&record), waits.collect());
            async move { Ok(seen) }.boxed()
        };
        known::wait_stopped(&shared.records, &shared.turns, name, look).await
    }

    fn secrets_dir(&self, stack: &StackName) -> PathBuf {
        self.shared.files.secrets(stack)
    }

    fn logs(&self, name: &StackName, options: LogOptions) -> BoxStream<'static, Result<LogLine>> {
        let shared = Arc::clone(&self.shared);
        let name = name.clone();
        stream::once(async move { shared.logs(&name, &options) }).try_flatten().boxed()
    }
}
