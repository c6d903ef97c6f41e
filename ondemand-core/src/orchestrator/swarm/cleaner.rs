//! The service that removes volumes from the nodes it runs on: once on each, with the socket of its engine.
//!
//! Whoever has the API of a manager may run such a container anyway, so this opens nothing. What it runs is [`SCRIPT`], in an image that the operator names.
//! It is none of the engine's jobs, since they leave their containers behind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bollard::models::{
    Mount, MountType, ServiceSpec, ServiceSpecMode, Task, TaskSpec, TaskSpecContainerSpec,
    TaskSpecContainerSpecPrivileges, TaskSpecLogDriver, TaskSpecPlacement, TaskSpecRestartPolicy,
    TaskSpecRestartPolicyConditionEnum as RestartWhen,
};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::engine::{self, failed};
use super::leftover::Leftover;
use super::names::{Names, fit};
use super::state::Shared;
use super::tasks::{Doing, complaint, doing, newest};
use super::{logs, registry};
use crate::error::Result;
use crate::label::keys;
use crate::orchestrator::docker::engine::has_status;
use crate::orchestrator::docker::translate::{LOG_FILES, LOG_SIZE, label_filter};
use crate::pause;

const SCRIPT: &str = include_str!("clean.sh");
/// What the script says before the id of a deployment that has no volumes any more.
const DONE: &str = "done ";
/// Where a node's engine is reached from within.
const SOCKET: &str = "/var/run/docker.sock";
/// The label that tells the service.
const CLEANER: &str = "ondemand.cleaner";
/// How long it may take. The script ends within a minute; the image may take the rest.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// What became of a node.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    /// It could not be seen to at all.
    Failed(String),
    /// Not all could be done: why not, and the deployments that were.
    Partly {
        why: String,
        done: BTreeSet<String>,
    },
}

impl Outcome {
    /// Tells whether a deployment has nothing there any more.
    pub(super) fn is_done(&self, names: &Names) -> bool {
        match self {
            Self::Done => true,
            Self::Failed(_) => false,
            Self::Partly { done, .. } => done.contains(names.attempt.as_str()),
        }
    }
}

/// Runs it on the targets, all nodes but the others, and returns what became of each.
pub(super) async fn run(
    shared: &Shared,
    client: &bollard::Docker,
    image: &str,
    leftovers: &[Leftover],
    targets: &BTreeSet<&String>,
    others: impl Iterator<Item = &String>,
) -> Result<BTreeMap<String, Outcome>> {
    let (pinned, _) = registry::pin(client, image, shared.credentials(image)?).await;
    let spec = service(&shared.instance, &pinned, leftovers, others);
    let made = client.create_service(spec, shared.credentials(image)?).await;
    let id = made.map_err(|e| failed("creating the volume cleaner", e))?.id.unwrap_or_default();
    let outcomes = wait(client, &id, targets).await;
    remove(client, &shared.instance).await?;
    outcomes
}

/// Waits until the service has ended on all targets, and returns what became of each.
async fn wait(
    client: &bollard::Docker,
    service: &str,
    targets: &BTreeSet<&String>,
) -> Result<BTreeMap<String, Outcome>> {
    let begun = Instant::now();
    let tasks = loop {
        // By its id: tasks of the last one, which had the same name and labels, may not be forgotten yet.
        let filter = HashMap::from([("service".to_owned(), vec![service.to_owned()])]);
        let mut tasks = engine::tasks(client, filter).await?;
        tasks.retain(|task| task.service_id.as_deref() == Some(service));
        let over =
            |id: &&String| last(&tasks, id).is_some_and(|task| matches!(doing(task), Doing::Ended(_) | Doing::Stopped));
        if targets.iter().all(over) || begun.elapsed() > PATIENCE {
            break tasks;
        }
        sleep(pause::after(begun.elapsed())).await;
    };
    // Their logs are read at the same time: a node may take long to send one.
    let outcomes = targets.iter().map(async |&id| (id.clone(), outcome(client, last(&tasks, id)).await));
    Ok(join_all(outcomes).await.into_iter().collect())
}

/// Returns the last task of a node.
fn last<'a>(tasks: &'a [Task], node: &str) -> Option<&'a Task> {
    let tasks: Vec<_> = tasks.iter().filter(|task| task.node_id.as_deref() == Some(node)).collect();
    newest(&tasks).pop()
}

/// Tells what a task did, and what kept it from the rest: its last words, or its engine's.
async fn outcome(client: &bollard::Docker, task: Option<&Task>) -> Outcome {
    let late = format!("the volume cleaner did not end within {} s", PATIENCE.as_secs());
    let Some(task) = task else { return Outcome::Failed(late) };
    if doing(task) == Doing::Ended(Some(0)) {
        return Outcome::Done;
    }
    let (done, said): (Vec<_>, Vec<_>) =
        logs::of_task(client, task).await.into_iter().partition(|line| line.starts_with(DONE));
    if let Some(why) = said.into_iter().next_back() {
        let done = done.iter().filter_map(|line| line.strip_prefix(DONE)).map(ToOwned::to_owned).collect();
        return Outcome::Partly { why, done };
    }
    let mut why = complaint(task).map_or(late, ToOwned::to_owned);
    if why.contains("No such image") {
        why += "; name an image with a Docker client that all nodes can get: swarm.volume-cleaner";
    }
    Outcome::Failed(why)
}

/// Removes the service, also one of a process that was killed.
pub(super) async fn remove(client: &bollard::Docker, instance: &str) -> Result<()> {
    let labels = [(keys::INSTANCE, instance), (CLEANER, "volumes")];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    for service in engine::services(client, label_filter(labels.into())).await? {
        // Labels may be somebody else's; names are one's own.
        if service.spec.and_then(|spec| spec.name) != Some(name(instance)) {
            continue;
        }
        match client.delete_service(service.id.as_deref().unwrap_or_default()).await {
            Err(e) if !has_status(&e, 404) => return Err(failed("removing the volume cleaner", e)),
            _ => {}
        }
    }
    Ok(())
}

fn name(instance: &str) -> String {
    fit(&format!("{instance}_volume-cleaner"))
}

fn service<'a>(
    instance: &str,
    image: &str,
    leftovers: &[Leftover],
    others: impl Iterator<Item = &'a String>,
) -> ServiceSpec {
    let labels = [(keys::INSTANCE, instance), (CLEANER, "volumes")];
    let labels: HashMap<_, _> = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let gone = leftovers.iter().map(|leftover| format!("{}/{}", leftover.names.stack, leftover.names.attempt));
    let container = TaskSpecContainerSpec {
        image: Some(image.to_owned()),
        labels: Some(labels.clone()),
        command: Some(["/bin/sh", "-c", SCRIPT, "clean.sh", instance].map(ToOwned::to_owned).into()),
        args: Some(gone.collect()),
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
    };
    let never = TaskSpecRestartPolicy { condition: Some(RestartWhen::NONE), ..TaskSpecRestartPolicy::default() };
    let elsewhere = others.map(|id| format!("node.id != {id}")).collect();
    ServiceSpec {
        name: Some(name(instance)),
        labels: Some(labels),
        mode: Some(ServiceSpecMode { global: Some([].into()), ..ServiceSpecMode::default() }),
        task_template: Some(TaskSpec {
            container_spec: Some(container),
            restart_policy: Some(never),
            log_driver: Some(TaskSpecLogDriver {
                name: Some("json-file".into()),
                options: Some(
                    [("max-size", LOG_SIZE), ("max-file", LOG_FILES)].map(|(k, v)| (k.into(), v.into())).into(),
                ),
            }),
            placement: Some(TaskSpecPlacement { constraints: Some(elsewhere), ..TaskSpecPlacement::default() }),
            ..TaskSpec::default()
        }),
        ..ServiceSpec::default()
    }
}
