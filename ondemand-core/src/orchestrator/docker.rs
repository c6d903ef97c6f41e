//! Programs as containers of one Docker Engine.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::sync::oneshot;

use super::record::Records;
use super::spec::deploy_or_undo;
use super::turns::Turns;
use super::{LogLine, LogOptions, Orchestrator, Stack, StackId, StackSpec, known};
use crate::error::{Error, Kind, Result};
use crate::label::{Labels, Selector};
use crate::listing::Listing;
use crate::name::StackName;

mod check;
mod containers;
pub(super) mod engine;
pub(super) mod logs;
mod networks;
mod start;
mod state;
mod storage;
pub(super) mod translate;

use engine::Engine;
use state::{Record, Shared};
use storage::Files;
use translate::Doing;

/// What errors call this orchestrator.
const BACKEND: &str = "docker";

/// Which engine a [`Docker`] uses, and where it keeps what containers cannot remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerOptions {
    /// The engine: `unix:///PATH` or `tcp://HOST:PORT`. Where there is none, `DOCKER_HOST`, or the usual socket.
    pub host: Option<String>,
    /// The directory of its records, one file a stack; made if need be. What containers see as secrets and configuration files is beside it, in a
    /// directory of the same name with `-files` after it; the engine must see it at the same path.
    pub state_dir: PathBuf,
    /// The installation it belongs to: what carries another one's label is never touched. It is part of the containers' names, so it
    /// holds letters, digits, `-` and `_`.
    pub instance: String,
}

/// Runs services as containers of one engine.
///
/// Each service is a container named `ondemand-<instance>-<stack>.<service>`, started with the engine's init, restarted by the engine
/// only if its restart policy says so, with a log of bounded size. A stack of several services has a network of its own for those that name none,
/// in which they reach each other by name. Containers carry the stack's labels as they were in the beginning; as the engine never changes labels, a record beside
/// them holds the labels as they are now.
///
/// The engine is connected to when it is first needed. While it cannot be reached, every call is a transient
/// [`Error::Backend`].
///
/// # Ports, siblings, files
/// - A published port is on the loopback address of this host; where it has no number, the engine chooses one whenever the container starts.
/// - All services are told where each other listens by the same variables as plain processes: `ONDEMAND_SERVICE_<NAME>` is `<service>:<target>`,
///   and `PORT` is the first target of their own.
/// - Secrets and configuration files are files of this host that containers see read-only; in the container everybody may read them, unless they have
///   a mode. `ONDEMAND_SECRETS_DIR` and `ONDEMAND_CONFIGS_DIR` name their usual directories, `/run/secrets` and `/`.
/// - Volumes and networks that have no name of their own carry the stack's labels and go with it.
/// - What a service depends on is started first; its health is what the engine says of it. A service that is a job, or that another waits to see
///   completed, is not started again once it has ended with status 0.
///
/// # What it does not do
/// - Constraints, any number of replicas but one, external secrets and configs, and a limit to restarts of what did not fail are unsupported.
/// - What only changes of a cluster's services have (updates, rollbacks, endpoint modes, preferences, replicas a node) means nothing here and is
///   ignored; so are reserved processors, and the pause and window of a restart policy, which the engine has of its own.
/// - Logs are read only where the engine's logging driver can read them back.
/// - It pulls no images: a missing one is [`Error::NotFound`].
/// - A program that is not named by its absolute path is looked for by the container itself, so if it is missing, the service is
///   started and exits with status 127.
/// - [`LogOptions::tail`] is counted for each service.
#[derive(Debug, Clone)]
pub struct Docker {
    shared: Arc<Shared>,
}

impl Docker {
    /// Opens the directory of records, and makes it if need be. Does not talk to the engine yet.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the instance could not be a part of a container's name.
    pub fn new(options: DockerOptions) -> Result<Self> {
        let in_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if options.instance.is_empty() || !options.instance.bytes().all(in_name) {
            let reason = "it must hold letters, digits, '-' and '_', and not be empty";
            return Err(Error::invalid("instance", reason));
        }
        let files = Files::beside(&options.state_dir)?;
        let records = Records::open(options.state_dir, BACKEND)?;
        let engine = Engine::new(options.host);
        let (instance, turns) = (options.instance, Turns::default());
        Ok(Self { shared: Arc::new(Shared { engine, records, files, instance, turns }) })
    }
}

#[async_trait]
impl Orchestrator for Docker {
    async fn deploy(&self, stack: &StackSpec) -> Result<Stack> {
        stack.check()?;
        check::check(stack)?;
        let shared = Arc::clone(&self.shared);
        let undoing = Arc::clone(&self.shared);
        let stack = stack.clone();
        // Dropped with this future, it ends what the deployment may wait for.
        let (_waits, given_up) = oneshot::channel();
        let deploy = async move { shared.deploy(stack, given_up).await };
        deploy_or_undo(BACKEND, deploy, move |id| async move { undoing.remove(&id).await }).await
    }

    async fn get(&self, name: &StackName) -> Result<Stack> {
        self.shared.get(name).await
    }

    async fn list(&self, selector: &Selector) -> Result<Listing<Stack>> {
        let mut stacks = self.shared.list().await?;
        stacks.retain(|stack| selector.matches(&stack.labels));
        Ok(stacks)
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
            async move {
                let client = shared.engine.client().await?;
                let seen = shared.see_all(&record).await?;
                let stack = shared.stack(&record, &seen);
                let running = seen.into_iter().flatten().filter(|seen| seen.doing == Doing::Running);
                let waits = running
                    .map(|seen| async move { containers::ended(client, &seen.container, "not-running").await }.boxed());
                Ok((stack, waits.collect()))
            }
            .boxed()
        };
        known::wait_stopped(&shared.records, &shared.turns, name, look).await
    }

    fn logs(&self, name: &StackName, options: LogOptions) -> BoxStream<'static, Result<LogLine>> {
        let shared = Arc::clone(&self.shared);
        let name = name.clone();
        stream::once(async move { open_logs(&shared, &name, &options) }).try_flatten().boxed()
    }
}

/// Returns the lines of a stack's services: one after the other, or as they come if they are followed.
fn open_logs(
    shared: &Arc<Shared>,
    name: &StackName,
    options: &LogOptions,
) -> Result<BoxStream<'static, Result<LogLine>>> {
    let record = shared.records.get(name)?;
    let services: Vec<_> =
        record.spec.services.iter().filter(|spec| options.service.as_ref().is_none_or(|s| *s == spec.name)).collect();
    if let (true, Some(service)) = (services.is_empty(), &options.service) {
        return Err(Error::not_found(Kind::Service, service));
    }
    let (shared, record, options) = (Arc::clone(shared), record.clone(), options.clone());
    let services: Vec<_> = services.into_iter().cloned().collect();
    let follow = options.follow;
    let streams = services
        .into_iter()
        .map(move |service| logs::lines(Arc::clone(&shared), record.clone(), service, options.clone()));
    Ok(if follow { stream::select_all(streams).boxed() } else { stream::iter(streams).flatten().boxed() })
}
