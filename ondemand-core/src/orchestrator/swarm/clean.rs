//! Removing volumes from the nodes that a manager's API does not reach: a service that runs once on each of those nodes, with the socket of its engine. It is
//! none of the engine's jobs, since they leave their containers behind.
//!
//! Whoever has the API of a manager may run such a container anyway, so this opens nothing. What it runs is [`SCRIPT`], in an image that the operator names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bollard::models::{
    Mount, MountType, Node, NodeSpecAvailabilityEnum as Availability, NodeState, ServiceSpec, ServiceSpecMode, Task,
    TaskSpec, TaskSpecContainerSpec, TaskSpecContainerSpecPrivileges, TaskSpecPlacement, TaskSpecRestartPolicy,
    TaskSpecRestartPolicyConditionEnum as RestartWhen,
};
use bollard::query_parameters::ListNodesOptions;
use tokio::time::{Instant, sleep};

use super::engine::{self, failed};
use super::leftover::Leftover;
use super::names::{Names, fit};
use super::state::Shared;
use super::tasks::{Doing, complaint, doing, newest};
use super::{logs, registry};
use crate::error::Result;
use crate::label::keys;
use crate::orchestrator::Tidied;
use crate::orchestrator::docker::engine::has_status;
use crate::orchestrator::docker::translate::label_filter;
use crate::orchestrator::turns::locked;
use crate::pause;

/// What the job runs.
const SCRIPT: &str = include_str!("clean.sh");
/// Where a node's engine is reached from within.
const SOCKET: &str = "/var/run/docker.sock";
/// The label of the job.
const CLEANER: &str = "ondemand.cleaner";
/// How many deployments one job sees to: their names are its arguments.
const MOST: usize = 200;
/// How long it may take, the image included.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a node that failed is left alone at first, and at most; each time it is twice as long.
const FIRST_REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(60 * 60);

/// A node that could not be seen to.
#[derive(Debug)]
pub(super) struct Trouble {
    rest: Duration,
    until: Instant,
}

/// What became of a node.
type Outcome = std::result::Result<(), String>;

/// Writes down that all other nodes may have volumes of a deployment whose tasks are gone.
pub(super) async fn note(shared: &Shared, client: &bollard::Docker, names: &Names) -> Result<()> {
    if shared.volume_cleaner.is_none() {
        return Ok(());
    }
    let own = client.info().await.map_err(|e| failed("asking the engine which node it is", e))?;
    let own = own.swarm.and_then(|swarm| swarm.node_id);
    // This one's were removed already.
    let others = nodes(client).await?.into_iter().filter_map(|node| node.id).filter(|id| own.as_ref() != Some(id));
    Leftover::note(client, names, &others.collect()).await
}

/// Removes what can be removed now.
pub(super) async fn tidy(shared: &Shared) -> Result<Tidied> {
    let mut tidied = Tidied::default();
    let Some(image) = &shared.volume_cleaner else { return Ok(tidied) };
    let _turn = shared.cleaning.lock().await;
    let client = shared.engine.client().await?;
    let mut leftovers = Leftover::find(client, &shared.instance).await?;
    if leftovers.is_empty() {
        return Ok(tidied);
    }
    let nodes = nodes(client).await?;
    let known: BTreeSet<_> = nodes.iter().filter_map(|node| node.id.clone()).collect();
    for leftover in &mut leftovers {
        // Nobody comes back to a node that has left the swarm.
        let left = leftover.nodes.intersection(&known).cloned().collect();
        settle(client, leftover, left, &mut tidied).await;
    }
    let due: BTreeSet<&String> = leftovers.iter().flat_map(|leftover| &leftover.nodes).collect();
    let targets: BTreeMap<String, &Node> = nodes
        .iter()
        .filter(|node| is_reachable(node))
        .filter_map(|node| Some((node.id.clone()?, node)))
        .filter(|(id, _)| due.contains(id) && !shared.is_resting(id))
        .collect();
    if targets.is_empty() {
        return Ok(tidied);
    }
    leftovers.retain(|leftover| leftover.nodes.iter().any(|node| targets.contains_key(node)));
    leftovers.truncate(MOST);
    let outcomes = run(shared, client, image, &leftovers, &nodes, &targets).await?;
    for (id, outcome) in &outcomes {
        shared.remember(id, outcome.is_ok());
        if let Err(why) = outcome {
            let name = targets.get(id).map(|node| name_of(node)).unwrap_or_default();
            tracing::warn!(
                node = name,
                why,
                "the volumes of stacks that are gone stay on a node; it will be tried again"
            );
            tidied.failed.push(format!("volumes on node {name}: {why}"));
        }
    }
    tidied.failed.sort();
    for leftover in &mut leftovers {
        let seen_to = |node: &&String| !outcomes.get(*node).is_some_and(Outcome::is_ok);
        let left = leftover.nodes.iter().filter(seen_to).cloned().collect();
        settle(client, leftover, left, &mut tidied).await;
    }
    Ok(tidied)
}

async fn settle(client: &bollard::Docker, leftover: &mut Leftover, left: BTreeSet<String>, tidied: &mut Tidied) {
    match leftover.settle(client, left).await {
        Ok(()) if leftover.nodes.is_empty() => {
            tidied.removed.push(format!("volumes of stack {}", leftover.names.stack));
        }
        Ok(()) => {}
        // It is done once more, and finds nothing.
        Err(error) => tidied.failed.push(format!("volumes of stack {}: {error}", leftover.names.stack)),
    }
}

/// Runs the job on the targets, and returns what became of it on each.
async fn run(
    shared: &Shared,
    client: &bollard::Docker,
    image: &str,
    leftovers: &[Leftover],
    nodes: &[Node],
    targets: &BTreeMap<String, &Node>,
) -> Result<BTreeMap<String, Outcome>> {
    // A process that was killed may have left one.
    remove(shared, client).await?;
    let (pinned, _) = registry::pin(client, image, shared.credentials(image)?).await;
    let others = nodes.iter().filter_map(|node| node.id.as_ref()).filter(|id| !targets.contains_key(*id));
    let spec = job(&shared.instance, &pinned, leftovers, others);
    client
        .create_service(spec, shared.credentials(image)?)
        .await
        .map_err(|e| failed("creating the volume cleaner", e))?;
    let outcomes = wait(shared, client, targets).await;
    remove(shared, client).await?;
    outcomes
}

/// Waits until the job has ended on all targets.
async fn wait(
    shared: &Shared,
    client: &bollard::Docker,
    targets: &BTreeMap<String, &Node>,
) -> Result<BTreeMap<String, Outcome>> {
    let begun = Instant::now();
    let mut outcomes = BTreeMap::new();
    loop {
        let tasks = engine::tasks(client, shared.cleaners()).await?;
        let tasks: Vec<_> = tasks.iter().collect();
        let mut last: HashMap<&str, &Task> = HashMap::new();
        for task in newest(&tasks) {
            last.extend(task.node_id.as_deref().map(|node| (node, task)));
        }
        for id in targets.keys() {
            if outcomes.contains_key(id) {
                continue;
            }
            let outcome = match last.get(id.as_str()).map(|task| (*task, doing(task))) {
                Some((_, Doing::Ended(Some(0)))) => Ok(()),
                Some((task, Doing::Ended(_) | Doing::Stopped)) => Err(why(client, task).await),
                found if begun.elapsed() > PATIENCE => {
                    let state = found.and_then(|(task, _)| Some(task.status.as_ref()?.state?.to_string()));
                    Err(format!(
                        "the job did not end within {} s; it is {}",
                        PATIENCE.as_secs(),
                        state.unwrap_or_default()
                    ))
                }
                _ => continue,
            };
            outcomes.insert(id.clone(), outcome);
        }
        if targets.keys().all(|id| outcomes.contains_key(id)) {
            return Ok(outcomes);
        }
        sleep(pause::after(begun.elapsed())).await;
    }
}

/// Says why a task failed: its last words, or its engine's.
async fn why(client: &bollard::Docker, task: &Task) -> String {
    let said = logs::last_words(client, task).await;
    let said = said.or_else(|| complaint(task).map(ToOwned::to_owned)).unwrap_or_else(|| "it ended".into());
    if said.contains("No such image") {
        return format!("{said}; name an image with a Docker client that all nodes can get: swarm.volume-cleaner");
    }
    said
}

/// Removes the job, also one of a process that was killed.
async fn remove(shared: &Shared, client: &bollard::Docker) -> Result<()> {
    for service in engine::services(client, shared.cleaners()).await? {
        match client.delete_service(service.id.as_deref().unwrap_or_default()).await {
            Err(e) if !has_status(&e, 404) => return Err(failed("removing the volume cleaner", e)),
            _ => {}
        }
    }
    Ok(())
}

fn job<'a>(
    instance: &str,
    image: &str,
    leftovers: &[Leftover],
    others: impl Iterator<Item = &'a String>,
) -> ServiceSpec {
    let labels: HashMap<_, _> = [(keys::INSTANCE, instance), (CLEANER, "volumes")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let ids = leftovers.iter().flat_map(|l| [l.names.stack.to_string(), l.names.attempt.to_string()]);
    let arguments = ["clean.sh".to_owned(), instance.to_owned()].into_iter().chain(ids);
    ServiceSpec {
        name: Some(fit(&format!("{instance}_volume-cleaner"))),
        labels: Some(labels.clone()),
        mode: Some(ServiceSpecMode { global: Some([].into()), ..ServiceSpecMode::default() }),
        task_template: Some(TaskSpec {
            container_spec: Some(TaskSpecContainerSpec {
                image: Some(image.to_owned()),
                labels: Some(labels),
                command: Some(["/bin/sh", "-c", SCRIPT].map(ToOwned::to_owned).into()),
                args: Some(arguments.collect()),
                // Whom the socket is for.
                user: Some("0:0".into()),
                env: Some(vec![format!("DOCKER_HOST=unix://{SOCKET}")]),
                mounts: Some(vec![Mount {
                    typ: Some(MountType::BIND),
                    source: Some(SOCKET.into()),
                    target: Some(SOCKET.into()),
                    ..Mount::default()
                }]),
                read_only: Some(true),
                capability_drop: Some(vec!["ALL".into()]),
                privileges: Some(TaskSpecContainerSpecPrivileges {
                    no_new_privileges: Some(true),
                    ..TaskSpecContainerSpecPrivileges::default()
                }),
                ..TaskSpecContainerSpec::default()
            }),
            restart_policy: Some(TaskSpecRestartPolicy {
                condition: Some(RestartWhen::NONE),
                ..TaskSpecRestartPolicy::default()
            }),
            placement: Some(TaskSpecPlacement {
                constraints: Some(others.map(|id| format!("node.id != {id}")).collect()),
                ..TaskSpecPlacement::default()
            }),
            ..TaskSpec::default()
        }),
        ..ServiceSpec::default()
    }
}

async fn nodes(client: &bollard::Docker) -> Result<Vec<Node>> {
    client.list_nodes(None::<ListNodesOptions>).await.map_err(|e| failed("listing nodes", e))
}

fn name_of(node: &Node) -> String {
    let name = node.description.as_ref().and_then(|description| description.hostname.clone());
    name.or_else(|| node.id.clone()).unwrap_or_default()
}

/// Tells whether a node would be given a task.
fn is_reachable(node: &Node) -> bool {
    let state = node.status.as_ref().and_then(|status| status.state);
    let availability = node.spec.as_ref().and_then(|spec| spec.availability);
    state == Some(NodeState::READY) && availability == Some(Availability::ACTIVE)
}

impl Shared {
    /// Returns what chooses the job of this installation.
    fn cleaners(&self) -> HashMap<String, Vec<String>> {
        let labels = [(keys::INSTANCE, self.instance.clone()), (CLEANER, "volumes".into())];
        label_filter(labels.map(|(key, value)| (key.to_owned(), value)).into())
    }

    /// Tells whether a node that failed is to be left alone yet.
    fn is_resting(&self, node: &str) -> bool {
        locked(&self.troubles).get(node).is_some_and(|trouble| Instant::now() < trouble.until)
    }

    fn remember(&self, node: &str, well: bool) {
        let mut troubles = locked(&self.troubles);
        if well {
            troubles.remove(node);
            return;
        }
        let rest = troubles.get(node).map_or(FIRST_REST, |trouble| (trouble.rest * 2).min(LONGEST_REST));
        troubles.insert(node.to_owned(), Trouble { rest, until: Instant::now() + rest });
    }
}
