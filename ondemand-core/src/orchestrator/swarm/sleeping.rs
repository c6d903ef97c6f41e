//! Putting services to sleep, and waking them: they stay, and have no tasks.

use bollard::models::ServiceSpec;

/// The label of a service that sleeps, with how many replicas it had.
const REPLICAS: &str = "ondemand.replicas";
/// What no node fulfils: a service that runs on every node cannot have another number of tasks.
const NOWHERE: &str = "node.labels.ondemand.awake == nowhere";

/// Puts a service to sleep; tells whether it was not asleep.
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
        if over {
            run_again(spec);
        }
        return over;
    };
    if let Some(replicated) = spec.mode.as_mut().and_then(|mode| mode.replicated.as_mut()) {
        replicated.replicas = Some(before.parse().unwrap_or(1));
        return replicated.replicas != Some(0);
    }
    constraints(spec).retain(|constraint| constraint != NOWHERE);
    // Its tasks of before count as done, if they are not to be started again when they end.
    run_again(spec);
    true
}

/// Makes the service another one, which is the same: what is over is no reason to start it otherwise.
fn run_again(spec: &mut ServiceSpec) {
    let task = spec.task_template.get_or_insert_default();
    task.force_update = Some(task.force_update.unwrap_or_default() + 1);
}

fn constraints(spec: &mut ServiceSpec) -> &mut Vec<String> {
    let task = spec.task_template.get_or_insert_default();
    task.placement.get_or_insert_default().constraints.get_or_insert_default()
}

#[cfg(test)]
mod tests {
    use bollard::models::{ServiceSpecMode, ServiceSpecModeReplicated};

    use super::*;

    fn replicated(replicas: i64) -> ServiceSpec {
        let replicated = Some(ServiceSpecModeReplicated { replicas: Some(replicas) });
        ServiceSpec { mode: Some(ServiceSpecMode { replicated, ..Default::default() }), ..ServiceSpec::default() }
    }

    #[test]
    fn a_service_wakes_as_it_went_to_sleep() {
        let mut spec = replicated(3);
        assert!(lay(&mut spec));
        assert_eq!(spec.mode, replicated(0).mode);
        assert!(!lay(&mut spec), "it sleeps");
        assert!(rouse(&mut spec, false));
        assert_eq!((spec.mode.clone(), spec.labels.clone()), (replicated(3).mode, Some([].into())));
        assert!(!rouse(&mut spec, false), "it is awake");
        assert!(rouse(&mut spec, true), "it is over");
        assert_eq!(spec.task_template.and_then(|task| task.force_update), Some(1));
        assert!(
            !rouse(
                &mut {
                    let mut none = replicated(0);
                    lay(&mut none);
                    none
                },
                false
            ),
            "it has no replica"
        );
    }

    #[test]
    fn one_on_every_node_keeps_its_constraints() {
        let mode = ServiceSpecMode { global: Some([].into()), ..Default::default() };
        let mut spec = ServiceSpec { mode: Some(mode), ..ServiceSpec::default() };
        constraints(&mut spec).push("node.role == worker".into());
        assert!(lay(&mut spec));
        assert_eq!(constraints(&mut spec).len(), 2);
        assert!(rouse(&mut spec, false));
        assert_eq!(*constraints(&mut spec), ["node.role == worker"]);
    }
}
