//! What a manager's answers mean, and what a try may have to be repeated for.

use std::collections::HashMap;

use bollard::errors::Error as EngineError;
use bollard::models::{Node, NodeState, Service, Task};
use bollard::query_parameters::{ListNodesOptions, ListServicesOptions, ListTasksOptions, UpdateServiceOptions};

use crate::error::{Error, Result};
use crate::orchestrator::docker::engine;

/// How often a change is tried again that another one came before.
const CHANGES: usize = 20;

/// Makes an error that says what was being done.
pub(super) fn failed(operation: impl Into<String>, error: EngineError) -> Error {
    if let EngineError::DockerResponseServerError { status_code: 503, message } = &error
        && message.contains("not a swarm manager")
    {
        return Error::Unsupported {
            message: "this Docker Engine is no manager of a swarm".into(),
            hint: "make it one with `docker swarm init`, or name the socket of a manager".into(),
        };
    }
    engine::failed(operation, error)
}

/// Tells whether the thing was changed by somebody else since it was read. Some engines call that an error of their own.
pub(super) fn is_out_of_sequence(error: &EngineError) -> bool {
    matches!(error, EngineError::DockerResponseServerError { message, .. } if message.contains("out of sequence"))
}

/// Tells whether the thing is still used by what is about to go.
pub(super) fn is_in_use(error: &EngineError) -> bool {
    let used = |message: &str| message.contains("in use") || message.contains("active endpoints");
    matches!(error, EngineError::DockerResponseServerError { message, .. } if used(message))
}

type Filter = HashMap<String, Vec<String>>;

pub(super) async fn services(client: &bollard::Docker, filters: Filter) -> Result<Vec<Service>> {
    let options = ListServicesOptions { filters: Some(filters), ..ListServicesOptions::default() };
    client.list_services(Some(options)).await.map_err(|e| failed("listing services", e))
}

pub(super) async fn tasks(client: &bollard::Docker, filters: Filter) -> Result<Vec<Task>> {
    let options = ListTasksOptions { filters: Some(filters) };
    client.list_tasks(Some(options)).await.map_err(|e| failed("listing tasks", e))
}

/// The nodes that are there, by their ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Nodes(HashMap<String, Place>);

/// A node, as others see it.
#[derive(Debug, Clone)]
struct Place {
    address: String,
    /// What `docker node ls` calls it.
    name: String,
}

impl Nodes {
    pub(super) async fn read(client: &bollard::Docker) -> Result<Self> {
        let nodes = client.list_nodes(None::<ListNodesOptions>).await.map_err(|e| failed("listing nodes", e))?;
        Ok(Self(nodes.into_iter().filter_map(present).collect()))
    }

    fn place(&self, task: &Task) -> Option<&Place> {
        self.0.get(task.node_id.as_ref()?)
    }

    /// Returns the address of a task's node; `None` if that is not there, or is not chosen yet.
    pub(super) fn of(&self, task: &Task) -> Option<&str> {
        self.place(task).map(|place| place.address.as_str())
    }

    /// Returns what people call a task's node.
    pub(super) fn name_of<'a>(&'a self, task: &'a Task) -> &'a str {
        let name = self.place(task).map(|place| place.name.as_str()).filter(|name| !name.is_empty());
        name.or(task.node_id.as_deref()).unwrap_or_default()
    }

    /// Tells whether a task is on a node that cannot say any more what became of it.
    pub(super) fn is_lost(&self, task: &Task) -> bool {
        task.node_id.as_ref().is_some_and(|node| !node.is_empty() && !self.0.contains_key(node))
    }
}

/// Returns the id and place of a node, if it is there. A manager that has just become one knows of no node until it reports: such a node has not lost its
/// tasks, and what it told before stands.
fn present(node: Node) -> Option<(String, Place)> {
    let there = |state| matches!(state, Some(NodeState::READY | NodeState::UNKNOWN));
    let status = node.status.filter(|status| there(status.state))?;
    // A manager may know itself by no address but the one that it told the others.
    let told = node.manager_status.and_then(|manager| manager.addr);
    let told = told.and_then(|addr| addr.rsplit_once(':').map(|(host, _)| host.to_owned()));
    let addr = status.addr.filter(|addr| !addr.is_empty() && addr != "0.0.0.0").or(told);
    let name = node.description.and_then(|description| description.hostname);
    Some((node.id?, Place { address: addr.unwrap_or_default(), name: name.unwrap_or_default() }))
}

/// Changes a service; tries again if another change came before. `change` tells whether there is anything to change.
pub(super) async fn update(
    client: &bollard::Docker,
    id: &str,
    change: impl Fn(&mut bollard::models::ServiceSpec) -> bool,
) -> Result<bool> {
    let operation = || format!("changing service {id}");
    for tries in 1.. {
        let service = client.inspect_service(id, None).await.map_err(|e| failed(operation(), e))?;
        let version = service.version.and_then(|version| version.index).unwrap_or_default();
        let mut spec = service.spec.unwrap_or_default();
        if !change(&mut spec) {
            return Ok(false);
        }
        let options = UpdateServiceOptions {
            version: i32::try_from(version).unwrap_or(i32::MAX),
            // The credentials that it was made with.
            registry_auth_from: "spec".into(),
            ..UpdateServiceOptions::default()
        };
        match client.update_service(id, spec, options, None).await {
            Ok(_) => break,
            Err(e) if is_out_of_sequence(&e) && tries < CHANGES => {}
            Err(e) => return Err(failed(operation(), e)),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use bollard::models::NodeStatus;

    use super::*;

    #[test]
    fn a_node_that_the_manager_has_not_heard_of_yet_has_not_lost_its_tasks() {
        let node = |state| Node {
            id: Some("node".into()),
            status: Some(NodeStatus { state: Some(state), addr: Some("10.0.0.2".into()), ..NodeStatus::default() }),
            ..Node::default()
        };
        let task = Task { node_id: Some("node".into()), ..Task::default() };
        for (state, there) in [
            (NodeState::READY, true),
            (NodeState::UNKNOWN, true),
            (NodeState::DOWN, false),
            (NodeState::DISCONNECTED, false),
        ] {
            let nodes = Nodes(present(node(state)).into_iter().collect());
            assert_eq!(nodes.of(&task), there.then_some("10.0.0.2"), "{state}");
            assert_eq!(nodes.is_lost(&task), !there, "{state}");
        }
    }
}
