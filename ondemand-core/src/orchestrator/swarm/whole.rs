//! A stack as it was seen: what the manager tells about it, put together.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{Service as Found, Task, TaskState};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::claim::{Claim, Claims, Damaged};
use super::engine::{self, Nodes};
use super::names::{IMAGE, NAMESPACE, Names};
use super::tasks::{Circumstances, Doing, doing, newest, to_service};
use super::translate::ONCE;
use crate::error::Result;
use crate::label::{Labels, keys};
use crate::listing::Listing;
use crate::name::{ServiceName, StackName};
use crate::orchestrator::docker::translate::{SERVICE, STACK, label_filter, owner};
use crate::orchestrator::{Stack, StackId};

/// A stack as it was seen.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) names: Names,
    /// None if somebody removed it, as `docker stack rm` may half-way.
    pub(super) claim: Option<Claim>,
    found: Vec<Found>,
    tasks: Vec<Task>,
    pub(super) nodes: Nodes,
    /// Whether the health of services is checked, as far as that was looked up.
    pub(super) checked: HashMap<ServiceName, bool>,
}

impl Whole {
    /// Looks at one deployment.
    pub(super) async fn see(client: &bollard::Docker, names: Names, claim: Option<Claim>) -> Result<Self> {
        let (found, tasks, nodes) = tokio::try_join!(
            engine::services(client, names.filter()),
            engine::tasks(client, names.filter()),
            Nodes::read(client),
        )?;
        Ok(Self { names, claim, found, tasks, nodes, checked: HashMap::new() })
    }

    /// Returns the names of what carries the labels of a stack's services.
    pub(super) async fn orphan(client: &bollard::Docker, instance: &str, name: &StackName) -> Result<Option<Names>> {
        let labels = [(keys::INSTANCE, instance.to_owned()), (STACK, name.to_string())];
        let labels = labels.map(|(key, value)| (key.to_owned(), value)).into();
        let found = engine::services(client, label_filter(labels)).await?;
        Ok(found.iter().find_map(|found| names_of(instance, labels_of(found)?)))
    }

    /// Looks at all stacks of an installation.
    pub(super) async fn all(client: &bollard::Docker, instance: &str) -> Result<Listing<Self>> {
        let filter = || label_filter(HashMap::from([(keys::INSTANCE.to_owned(), instance.to_owned())]));
        // First the services: what has none of its claim any more is gone, and what has a claim has it first.
        let found = engine::services(client, filter()).await?;
        let (claims, tasks, nodes) =
            tokio::try_join!(Claim::all(client, instance), engine::tasks(client, filter()), Nodes::read(client),)?;
        let mut wholes: BTreeMap<StackId, Self> = BTreeMap::new();
        let empty = |names: Names| {
            let nodes = nodes.clone();
            Self { names, claim: None, found: Vec::new(), tasks: Vec::new(), nodes, checked: HashMap::new() }
        };
        let Claims { found: claims, damaged } = claims;
        for claim in claims {
            let whole = wholes.entry(claim.id()).or_insert_with(|| empty(claim.names.clone()));
            whole.claim = Some(claim);
        }
        for service in found {
            let Some(names) = labels_of(&service).and_then(|labels| names_of(instance, labels)) else { continue };
            // It is no orphan: what is known of it cannot be read.
            if damaged.iter().any(|damaged| damaged.is_of(&names)) {
                continue;
            }
            wholes.entry(names.id()).or_insert_with(|| empty(names)).found.push(service);
        }
        for task in tasks {
            let id = container_labels(&task).and_then(owner).map(|(id, _)| id);
            if let Some(whole) = id.and_then(|id| wholes.get_mut(&id)) {
                whole.tasks.push(task);
            }
        }
        let unreadable = damaged.into_iter().map(Damaged::unreadable).collect();
        Ok(Listing { found: wholes.into_values().collect(), unreadable })
    }

    pub(super) fn id(&self) -> StackId {
        self.names.id()
    }

    pub(super) fn name(&self) -> &StackName {
        &self.names.stack
    }

    /// Returns the services in the order of the specification.
    pub(super) fn services(&self) -> impl Iterator<Item = ServiceName> {
        let mut names: Vec<_> = self.found.iter().filter_map(|found| service_of(labels_of(found)?)).collect();
        names.sort();
        self.claim.as_ref().map_or(names, |claim| claim.services.clone()).into_iter()
    }

    /// Returns a service as the engine knows it.
    pub(super) fn found(&self, service: &ServiceName) -> Option<&Found> {
        self.found.iter().find(|found| labels_of(found).and_then(service_of).as_ref() == Some(service))
    }

    /// Returns all tasks, those that are over too.
    pub(super) fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Returns the tasks of a service, those that are over too.
    pub(super) fn tasks_of(&self, service: &ServiceName) -> Vec<&Task> {
        let of = |task: &&Task| container_labels(task).and_then(service_of).as_ref() == Some(service);
        self.tasks.iter().filter(of).collect()
    }

    /// Tells whether a service that does its work once has done it.
    pub(super) fn is_done(&self, service: &ServiceName) -> bool {
        let once = self.found(service).and_then(labels_of).is_some_and(|labels| labels.contains_key(ONCE));
        let tasks = self.tasks_of(service);
        let last = newest(&tasks);
        once && !last.is_empty() && last.iter().all(|task| doing(task) == Doing::Ended(Some(0)))
    }

    /// Returns the ids of the engine's services.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.found.iter().filter_map(|found| found.id.as_deref())
    }

    /// Returns the ids of the nodes on which its tasks are or were, as far as the manager remembers.
    pub(super) fn places(&self) -> impl Iterator<Item = String> {
        self.tasks.iter().filter_map(|task| task.node_id.clone()).filter(|id| !id.is_empty())
    }

    /// Tells whether its services have volumes that go with it.
    pub(super) fn has_volumes(&self) -> bool {
        let ours = |mount: &bollard::models::Mount| {
            let labels = mount.volume_options.as_ref().and_then(|options| options.labels.as_ref());
            labels.is_some_and(|labels| labels.contains_key(keys::ATTEMPT))
        };
        self.found.iter().any(|found| {
            let task = found.spec.as_ref().and_then(|spec| spec.task_template.as_ref());
            let container = task.and_then(|task| task.container_spec.as_ref());
            container.and_then(|container| container.mounts.as_ref()).is_some_and(|mounts| mounts.iter().any(ours))
        })
    }

    /// Tells whether a task may still have a process.
    pub(super) fn has_processes(&self) -> bool {
        let over = |task: &Task| matches!(doing(task), Doing::Ended(_) | Doing::Stopped);
        self.tasks.iter().any(|task| !over(task) && !self.nodes.is_lost(task))
    }

    /// Tells whether a task is to be taken away and has not been. A service that gets replicas again before that is left without any by the engine.
    pub(super) fn is_shrinking(&self) -> bool {
        let goes = |task: &Task| task.desired_state == Some(TaskState::REMOVE);
        self.tasks.iter().any(|task| goes(task) && !self.nodes.is_lost(task))
    }

    /// Tells whether there is a task that its node has not taken away yet.
    pub(super) fn has_tasks(&self) -> bool {
        self.tasks.iter().any(|task| !self.nodes.is_lost(task))
    }

    /// Returns the stack.
    pub(super) fn stack(&self, starting: bool) -> Stack {
        let asleep = self.claim.as_ref().is_some_and(|claim| claim.asleep);
        let circumstances = Circumstances { starting, asleep };
        let service =
            |name: ServiceName| to_service(&name, self.found(&name), &self.tasks_of(&name), &self.nodes, circumstances);
        let (labels, created) = match &self.claim {
            Some(claim) => (claim.labels.clone(), claim.created),
            None => (self.copied_labels(), self.first_created()),
        };
        Stack {
            id: self.id(),
            name: self.names.stack.clone(),
            attempt: self.names.attempt.clone(),
            labels,
            created,
            services: self.services().map(service).collect(),
        }
    }

    /// Returns what the services say that the stack's labels are.
    fn copied_labels(&self) -> Labels {
        let ours = [keys::INSTANCE, STACK, keys::ATTEMPT, SERVICE, NAMESPACE, IMAGE];
        let mut labels = Labels::new();
        for (key, value) in self.found.first().and_then(labels_of).into_iter().flatten() {
            if !ours.contains(&key.as_str()) {
                // What a label of ours could not be is not from us.
                let _ = labels.set(key, value);
            }
        }
        labels
    }

    fn first_created(&self) -> OffsetDateTime {
        let times = self.found.iter().filter_map(|found| found.created_at.as_ref());
        times.filter_map(|time| OffsetDateTime::parse(time, &Rfc3339).ok()).min().unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

fn labels_of(found: &Found) -> Option<&HashMap<String, String>> {
    found.spec.as_ref()?.labels.as_ref()
}

fn container_labels(task: &Task) -> Option<&HashMap<String, String>> {
    task.spec.as_ref()?.container_spec.as_ref()?.labels.as_ref()
}

fn service_of(labels: &HashMap<String, String>) -> Option<ServiceName> {
    ServiceName::new(labels.get(SERVICE)?.as_str()).ok()
}

fn names_of(instance: &str, labels: &HashMap<String, String>) -> Option<Names> {
    let (stack, attempt) = owner(labels)?.0.parts()?;
    Some(Names { instance: instance.to_owned(), stack, attempt })
}
