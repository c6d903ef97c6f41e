//! Programs as services of a Docker Swarm.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::docker::engine::Engine;
use super::spec::deploy_or_undo;
use super::turns::Turns;
use super::{LogLine, LogOptions, Orchestrator, Service, Stack, StackId, StackSpec, Tidied};
use crate::config::SwarmConfig;
use crate::error::{Error, Kind, Result};
use crate::label::{Labels, Selector};
use crate::listing::Listing;
use crate::name::StackName;

mod claim;
mod clean;
mod cleaner;
mod engine;
mod health;
mod leftover;
mod logs;
mod mounts;
mod names;
mod refusal;
mod registry;
mod resources;
mod sleeping;
mod start;
mod state;
mod tasks;
mod translate;
mod whole;

use state::Shared;

/// What errors call this orchestrator where the engine is not to blame.
const BACKEND: &str = "swarm";
/// How often it is looked whether a service still runs.
const POLL: Duration = Duration::from_millis(250);

/// Which manager a [`Swarm`] uses, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwarmOptions {
    /// The engine of a manager: `unix:///PATH` or `tcp://HOST:PORT`. Where there is none, `DOCKER_HOST`, or the usual socket.
    pub host: Option<String>,
    /// The installation it belongs to: what carries another one's label is never touched. It begins the names of all that is made in the swarm, so it
    /// holds letters, digits, `-` and `_`, and begins with a letter or digit.
    pub instance: String,
    /// A configuration file of the Docker CLI, with the credentials of registries. It is read whenever an image is asked for.
    pub registry_auth: Option<PathBuf>,
    /// Whether ports that the engine chooses are published by every node, which needs the routing mesh, rather than by the task's own.
    pub ingress: bool,
    /// How long the services of a stack may take to be started, images and what they wait for included.
    pub start_timeout: Duration,
    /// An image with a Docker client and a shell. [`Orchestrator::tidy`] runs it once, with the socket of its engine, on nodes that may have volumes of
    /// stacks that are gone. Where there is none, those volumes stay.
    pub volume_cleaner: Option<String>,
}

impl SwarmOptions {
    /// Makes options for an installation, with the usual manager, no credentials, a quarter of an hour to start and the cleaner that a
    /// [`SwarmConfig`] has where none is named.
    pub fn new(instance: impl Into<String>) -> Self {
        let start_timeout = Duration::from_secs(15 * 60);
        Self {
            host: None,
            instance: instance.into(),
            registry_auth: None,
            ingress: false,
            start_timeout,
            volume_cleaner: Some(SwarmConfig::default().volume_cleaner),
        }
    }
}

/// Runs services as services of a Docker Swarm.
///
/// A stack is one for `docker stack` too, by the name `<instance>_<stack>`; its services, networks, secrets and configuration files are named
/// `<instance>_<stack>_<name>`, its volumes `<instance>_<stack>_<name>_<attempt>`, cut with a hash where that is too long. Nothing is kept outside the swarm: a configuration file without a
/// reader claims the stack's name, and carries what is known of the stack as a whole; the services carry copies of the stack's labels.
///
/// Images are pinned to the build that their registry has at the moment, where it answers. Services are reached by their names in the stack's networks.
/// What nothing is said about is published by the task's own node, resolved by the addresses of its tasks, and never started again by the engine.
///
/// # What it does not do
/// - It publishes no port at one address of a node only: [`Error::Unsupported`].
/// - Volumes belong to the node that made them. The manager's own are removed with the stack, those of the others by [`Orchestrator::tidy`] afterwards: by a
///   service that runs once on those nodes ([`SwarmOptions::volume_cleaner`]), once they are there and take tasks.
/// - The engine's own jobs are not used, which leave containers behind: a job is a service that is not started again once it is done. One that was put to
///   sleep before begins anew.
/// - [`LogOptions::tail`] is counted for each service, and for each task of those that are followed. Logs of nodes that are down are left out.
#[derive(Debug, Clone)]
pub struct Swarm {
    shared: Arc<Shared>,
}

impl Swarm {
    /// Makes a handle. Does not talk to the engine yet.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the instance could not be a part of a service's name.
    pub fn new(options: SwarmOptions) -> Result<Self> {
        let in_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let instance = options.instance;
        if !instance.bytes().all(in_name) || !instance.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            let reason = "it must hold letters, digits, '-' and '_', and begin with a letter or digit";
            return Err(Error::invalid("instance", reason));
        }
        let shared = Shared {
            engine: Engine::new(options.host),
            instance,
            registry_auth: options.registry_auth,
            ingress: options.ingress,
            patience: options.start_timeout,
            turns: Turns::default(),
            deploying: Mutex::new(HashMap::new()),
            volume_cleaner: options.volume_cleaner,
            cleaning: tokio::sync::Mutex::default(),
            troubles: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

#[async_trait]
impl Orchestrator for Swarm {
    async fn deploy(&self, stack: &StackSpec) -> Result<Stack> {
        stack.check()?;
        translate::check(stack)?;
        let (shared, undoing, stack) = (Arc::clone(&self.shared), Arc::clone(&self.shared), stack.clone());
        let cancelled = CancellationToken::new();
        // If this future is dropped, what is waited for is not waited for any longer.
        let _guard = cancelled.clone().drop_guard();
        deploy_or_undo(BACKEND, async move { shared.deploy(stack, cancelled).await }, move |id| async move {
            undoing.remove(&id).await
        })
        .await
    }

    async fn get(&self, name: &StackName) -> Result<Stack> {
        Ok(self.shared.stack(&self.shared.whole(name).await?))
    }

    async fn list(&self, selector: &Selector) -> Result<Listing<Stack>> {
        let mut stacks = self.shared.list().await?;
        stacks.retain(|stack| selector.matches(&stack.labels));
        Ok(stacks)
    }

    async fn set_labels(&self, name: &StackName, labels: &Labels) -> Result<()> {
        self.shared.set_labels(name, labels).await
    }

    async fn set_running(&self, name: &StackName, running: bool) -> Result<()> {
        if running { self.shared.wake(name).await } else { self.shared.sleep(name).await }
    }

    async fn remove(&self, id: &StackId) -> Result<()> {
        self.shared.remove(id).await
    }

    async fn tidy(&self) -> Result<Tidied> {
        clean::tidy(&self.shared).await
    }

    async fn wait_stopped(&self, name: &StackName) -> Result<Stack> {
        let mut id = None;
        loop {
            let changed = self.shared.turns.changed.notified();
            let whole = self.shared.whole(name).await?;
            let removing = whole.claim.as_ref().is_some_and(|claim| claim.removing);
            if removing || *id.get_or_insert_with(|| whole.id()) != whole.id() {
                return Err(Error::not_found(Kind::Stack, name));
            }
            let stack = self.shared.stack(&whole);
            if !stack.services.iter().all(Service::is_up) {
                return Ok(stack);
            }
            tokio::select! {
                () = changed => {}
                () = sleep(POLL) => {}
            }
        }
    }

    fn logs(&self, name: &StackName, options: LogOptions) -> BoxStream<'static, Result<LogLine>> {
        logs::lines(Arc::clone(&self.shared), name.clone(), options)
    }
}
