//! What tasks tell about a service.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    EndpointPortConfig, EndpointPortConfigProtocolEnum as Protocol, EndpointPortConfigPublishModeEnum as PortMode,
    Service as Found, Task, TaskState,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::engine::Nodes;
use crate::name::ServiceName;
use crate::orchestrator::{Endpoint, Service, ServiceState};

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// It has no process yet, as far as is known.
    Waiting,
    /// Its container is being started, or is not healthy yet.
    Starting,
    /// It runs, and is healthy.
    Running,
    /// It has ended by itself, or could not be started.
    Ended(Option<i32>),
    /// It was ended by the orchestrator.
    Stopped,
}

pub(super) fn state(task: &Task) -> TaskState {
    task.status.as_ref().and_then(|status| status.state).unwrap_or(TaskState::NEW)
}

pub(super) fn doing(task: &Task) -> Doing {
    match state(task) {
        TaskState::RUNNING => Doing::Running,
        TaskState::STARTING => Doing::Starting,
        TaskState::COMPLETE => Doing::Ended(Some(0)),
        TaskState::FAILED => Doing::Ended(exit_status(task)),
        TaskState::REJECTED => Doing::Ended(None),
        TaskState::SHUTDOWN | TaskState::REMOVE | TaskState::ORPHANED => Doing::Stopped,
        // No node has it, and none will get it.
        TaskState::NEW | TaskState::ALLOCATED | TaskState::PENDING if !is_wanted(task) => Doing::Stopped,
        _ => Doing::Waiting,
    }
}

/// Tells whether the swarm wants a task to run, now or later.
fn is_wanted(task: &Task) -> bool {
    // `COMPLETE` is what is wanted of a job.
    use TaskState::{FAILED, ORPHANED, REJECTED, REMOVE, SHUTDOWN};
    !matches!(task.desired_state, Some(SHUTDOWN | FAILED | REJECTED | REMOVE | ORPHANED))
}

/// Returns what a container ended with; `None` if it never ran.
fn exit_status(task: &Task) -> Option<i32> {
    let status = i32::try_from(task.status.as_ref()?.container_status.as_ref()?.exit_code?).ok()?;
    (status != 0).then_some(status)
}

/// Returns what a task, or the engine about it, last had to say about why it does not run.
pub(super) fn complaint(task: &Task) -> Option<&str> {
    let status = task.status.as_ref()?;
    status.err.as_deref().filter(|err| !err.is_empty())
}

fn time_of(text: Option<&String>) -> OffsetDateTime {
    text.and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Returns since when a task is in its state.
pub(super) fn since(task: &Task) -> OffsetDateTime {
    time_of(task.status.as_ref().and_then(|status| status.timestamp.as_ref()))
}

/// Returns the last task of each place that a service has: the others are its history. A swarm may make two for one place, and then wants the later one no
/// more.
pub(super) fn newest<'a>(tasks: &[&'a Task]) -> Vec<&'a Task> {
    let mut places: HashMap<(i64, &str), &Task> = HashMap::new();
    for &task in tasks {
        let slot = task.slot.unwrap_or_default();
        // One on every node has no number.
        let node = if slot == 0 { task.node_id.as_deref().unwrap_or_default() } else { "" };
        let last = places.entry((slot, node)).or_insert(task);
        let rank = |task: &Task| (is_wanted(task), time_of(task.created_at.as_ref()));
        if rank(task) > rank(last) {
            *last = task;
        }
    }
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_by_key(|(place, _)| *place);
    places.into_iter().map(|(_, task)| task).collect()
}

/// What else decides about the state of a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// Whether this process is starting its stack.
    pub(super) starting: bool,
    /// Whether its stack was put to sleep.
    pub(super) asleep: bool,
}

/// Returns a service as its tasks make it look.
pub(super) fn to_service(
    name: &ServiceName,
    found: Option<&Found>,
    tasks: &[&Task],
    nodes: &Nodes,
    circumstances: Circumstances,
) -> Service {
    let last = newest(tasks);
    let running: Vec<_> = last.iter().copied().filter(|t| doing(t) == Doing::Running && !nodes.is_lost(t)).collect();
    let up = |task: &&Task| matches!(doing(task), Doing::Waiting | Doing::Starting | Doing::Running);
    let ended = || {
        let mut statuses = last.iter().filter_map(|task| match doing(task) {
            Doing::Ended(status) => Some(status),
            _ => None,
        });
        statuses.clone().find(|status| *status != Some(0)).or_else(|| statuses.next()).flatten()
    };
    let state = if !running.is_empty() {
        ServiceState::Running
    } else if circumstances.asleep && !circumstances.starting {
        ServiceState::Asleep
    } else if circumstances.starting && last.is_empty() || last.iter().any(up) {
        ServiceState::Starting
    } else if last.is_empty() && found.is_some() {
        // The swarm has not got to it yet.
        ServiceState::Starting
    } else {
        ServiceState::Exited { status: ended() }
    };
    let pid = running.first().and_then(|task| task.status.as_ref()?.container_status.as_ref()?.pid);
    let history = tasks.iter().filter(|task| matches!(doing(task), Doing::Ended(_))).count();
    let over = last.iter().filter(|task| matches!(doing(task), Doing::Ended(_))).count();
    let error = match state {
        ServiceState::Running | ServiceState::Asleep => None,
        _ => {
            let mut all: Vec<_> = tasks.to_vec();
            all.sort_by_key(|task| std::cmp::Reverse(time_of(task.created_at.as_ref())));
            all.into_iter().find_map(complaint).map(str::to_owned)
        }
    };
    Service {
        pid: pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
        endpoints: endpoints(found, &running, nodes),
        restarts: u32::try_from(history.saturating_sub(over)).unwrap_or(u32::MAX),
        error,
        ..Service::new(name.clone(), state)
    }
}

/// Returns where the TCP ports are reached: each on its task's node, or, where every node passes on, on those.
fn endpoints(found: Option<&Found>, running: &[&Task], nodes: &Nodes) -> Vec<Endpoint> {
    let everywhere = found.and_then(|service| service.endpoint.as_ref()?.ports.as_ref()).into_iter().flatten();
    let everywhere: Vec<_> = everywhere.filter(|port| port.publish_mode == Some(PortMode::INGRESS)).collect();
    let mut endpoints = Vec::new();
    for task in running {
        let Some(address) = nodes.of(task) else { continue };
        let own = task.status.as_ref().and_then(|status| status.port_status.as_ref()?.ports.as_ref());
        let mut published: BTreeMap<u16, u16> = everywhere.iter().filter_map(|port| numbers(port)).collect();
        published.extend(of_one_kind(own.into_iter().flatten(), address.contains(':')));
        endpoints.extend(published.into_iter().map(|(target, published)| Endpoint {
            target,
            address: if address.contains(':') {
                format!("[{address}]:{published}")
            } else {
                format!("{address}:{published}")
            },
        }));
    }
    endpoints.sort();
    endpoints
}

/// Returns the published port of each target that is reached by a node's address. An engine publishes a port for both kinds of addresses, and where
/// it chooses the number it counts for each kind apart: once a number was taken of one kind alone, the two differ from then on, and the other one
/// belongs to another container, or to nobody. What a manager tells does not say which is which, but keeps the engine's order: IPv4 comes first.
fn of_one_kind<'a>(ports: impl Iterator<Item = &'a EndpointPortConfig>, v6: bool) -> BTreeMap<u16, u16> {
    let mut chosen = BTreeMap::new();
    for (target, published) in ports.filter_map(numbers) {
        if v6 {
            chosen.insert(target, published);
        } else {
            chosen.entry(target).or_insert(published);
        }
    }
    chosen
}

/// Returns the target and the published port of what is published for TCP.
fn numbers(port: &EndpointPortConfig) -> Option<(u16, u16)> {
    let target = u16::try_from(port.target_port?).ok()?;
    let published = u16::try_from(port.published_port?).ok().filter(|published| *published != 0)?;
    port.protocol.is_none_or(|protocol| protocol == Protocol::TCP).then_some((target, published))
}

#[cfg(test)]
mod tests {
    use bollard::models::TaskStatus;

    use super::*;

    fn task(id: &str, created: &str, desired: TaskState, state: TaskState) -> Task {
        Task {
            id: Some(id.into()),
            created_at: Some(format!("2026-11-26T05:21:{created}Z")),
            node_id: Some("node".into()),
            desired_state: Some(desired),
            status: Some(TaskStatus { state: Some(state), ..TaskStatus::default() }),
            ..Task::default()
        }
    }

    #[test]
    fn the_last_task_of_a_place_is_the_one_that_is_wanted() {
        let over = task("over", "01", TaskState::SHUTDOWN, TaskState::SHUTDOWN);
        let runs = task("runs", "02.9", TaskState::RUNNING, TaskState::RUNNING);
        let twin = task("twin", "02.91", TaskState::SHUTDOWN, TaskState::PENDING);
        let last = |tasks: &[&Task]| newest(tasks).into_iter().filter_map(|task| task.id.clone()).collect::<Vec<_>>();
        assert_eq!(last(&[&over, &runs, &twin]), ["runs"]);
        assert_eq!(last(&[&over, &twin]), ["twin"]);
        assert_eq!(doing(&twin), Doing::Stopped, "it never gets a node");
        assert_eq!(doing(&task("new", "03", TaskState::RUNNING, TaskState::PENDING)), Doing::Waiting);
        assert_eq!(doing(&task("job", "03", TaskState::COMPLETE, TaskState::PENDING)), Doing::Waiting);
    }

    #[test]
    fn a_port_is_of_the_kind_of_address_that_the_node_has() {
        let port = |target, published, protocol| EndpointPortConfig {
            target_port: Some(target),
            published_port: Some(published),
            protocol: Some(protocol),
            ..EndpointPortConfig::default()
        };
        let told = [
            port(80, 32770, Protocol::TCP),
            port(80, 32769, Protocol::TCP),
            port(53, 32771, Protocol::UDP),
            port(443, 443, Protocol::TCP),
            port(443, 443, Protocol::TCP),
            port(9, 0, Protocol::TCP),
        ];
        assert_eq!(of_one_kind(told.iter(), false), BTreeMap::from([(80, 32770), (443, 443)]));
        assert_eq!(of_one_kind(told.iter(), true), BTreeMap::from([(80, 32769), (443, 443)]));
        // Without IPv6, there is only one.
        assert_eq!(of_one_kind(told[..1].iter(), true), BTreeMap::from([(80, 32770)]));
    }
}
