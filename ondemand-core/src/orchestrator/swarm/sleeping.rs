//! Putting services to sleep, and waking them: they stay, and have no tasks.

use bollard::models::ServiceSpec;

/// The label of a service that sleeps, with how many replicas it had.
const REPLICAS: &str = "ondemand.replicas";
/// What no node fulfils: a service that runs on every node cannot have another number of tasks.
const NOWHERE: &str = "node.labels.ondemand.awake == nowhere";

/// Puts a service to sleep; tells whether it was not asleep. A job is left to its end.
pub(super) fn lay(spec: &mut ServiceSpec) -> bool {
    let Some(mode) = spec.mode.as_mut() else { return false };
    let labels = spec.labels.get_or_insert_default();
    if labels.contains_key(REPLICAS) {
        return false;
    }
    if let Some(replicated) = mode.replicated.as_mut() {
        labels.insert(REPLICAS.into(), replicated.replicas.unwrap_or(1).to_string());
        replicated.replicas = Some(0);
        return true;
    }
    if mode.global.is_some() {
        labels.insert(REPLICAS.into(), "global".into());
        constraints(spec).push(NOWHERE.into());
        return true;
    }
    false
}

/// Wakes a service, or starts it again where it is `over`; tells whether anything of it is to be started.
pub(super) fn rouse(spec: &mut ServiceSpec, over: bool) -> bool {
    let before = spec.labels.as_mut().and_then(|labels| labels.remove(REPLICAS));
    let Some(before) = before else {
        if over && let Some(task) = spec.task_template.as_mut() {
            // What runs the same again is no change otherwise.
            task.force_update = Some(task.force_update.unwrap_or_default() + 1);
        }
        return over;
    };
    if let Some(replicated) = spec.mode.as_mut().and_then(|mode| mode.replicated.as_mut()) {
        replicated.replicas = Some(before.parse().unwrap_or(1));
        return replicated.replicas != Some(0);
    }
    constraints(spec).retain(|constraint| constraint != NOWHERE);
    true
}

fn constraints(spec: &mut ServiceSpec) -> &mut Vec<String> {
    let task = spec.task_template.get_or_insert_default();
    task.placement.get_or_insert_default().constraints.get_or_insert_default()
}
