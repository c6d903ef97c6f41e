//! In which order services are started, and what is waited for in between.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Condition, Healthcheck, ServiceSpec, StackSpec};
use crate::error::{Error, Result};
use crate::name::ServiceName;

/// How many lines of a failed service's log its error carries.
pub(crate) const TAIL: usize = 20;

/// Returns the places of the services in the order they are started, in groups: a service is started after all that it depends on, and in a
/// later group than those it waits for. Otherwise the order of the specification is kept.
///
/// # Errors
/// [`Error::InvalidInput`] if one depends on what is not there, on itself in the end, or on the health of one that has no check.
pub(crate) fn groups(stack: &StackSpec) -> Result<Vec<Vec<usize>>> {
    let places: BTreeMap<&ServiceName, usize> =
        stack.services.iter().enumerate().map(|(place, service)| (&service.name, place)).collect();
    let mut group_of: Vec<Option<usize>> = vec![None; stack.services.len()];
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut count = stack.services.len();
    while count > 0 {
        let before = count;
        for (place, service) in stack.services.iter().enumerate() {
            if group_of[place].is_some() {
                continue;
            }
            let mut group = Some(0);
            for dependency in &service.depends_on {
                let other = *places.get(&dependency.service).ok_or_else(|| missing(service, &dependency.service))?;
                if dependency.condition == Condition::Healthy && !is_checked(&stack.services[other]) {
                    return Err(unchecked(service, &dependency.service));
                }
                let after = usize::from(dependency.condition != Condition::Started);
                group = group.zip(group_of[other]).map(|(own, other)| own.max(other + after));
            }
            if let Some(group) = group {
                group_of[place] = Some(group);
                if groups.len() <= group {
                    groups.resize(group + 1, Vec::new());
                }
                groups[group].push(place);
                count -= 1;
            }
        }
        if count == before {
            let left = stack.services.iter().zip(&group_of).filter(|(_, group)| group.is_none());
            let left: Vec<_> = left.map(|(service, _)| service.name.as_str()).collect();
            let reason = format!("its services {} wait for each other", left.join(", "));
            return Err(Error::invalid(format!("stack {}", stack.name), reason));
        }
    }
    Ok(groups)
}

fn missing(service: &ServiceSpec, other: &ServiceName) -> Error {
    let reason = format!("it depends on {other}, and the stack has no such service");
    Error::invalid(format!("service {}", service.name), reason)
}

fn unchecked(service: &ServiceSpec, other: &ServiceName) -> Error {
    let reason =
        format!("it depends on the health of {other}, which has no health check; give it one, or wait for its start");
    Error::invalid(format!("service {}", service.name), reason)
}

fn is_checked(service: &ServiceSpec) -> bool {
    service.healthcheck.as_ref().is_some_and(|check| check.test.first().is_none_or(|kind| kind != "NONE"))
}

/// Tells whether a service does its work once: it is a job, or another waits for it to end. When it has ended with status 0 it is not to be
/// started again.
pub(crate) fn runs_once(stack: &StackSpec, service: &ServiceSpec) -> bool {
    let mut dependencies = stack.services.iter().flat_map(|other| &other.depends_on);
    service.placement.mode.is_job()
        || dependencies.any(|dependency| {
            dependency.service == service.name && dependency.condition == Condition::CompletedSuccessfully
        })
}

/// What is waited for before a group is started: the places of services, and what must be true of them.
pub(crate) fn conditions(stack: &StackSpec, group: &[usize]) -> Vec<(usize, Condition)> {
    let mut conditions = Vec::new();
    for dependency in group.iter().flat_map(|&place| &stack.services[place].depends_on) {
        let place = stack.services.iter().position(|service| service.name == dependency.service);
        let Some(place) = place.filter(|_| dependency.condition != Condition::Started) else { continue };
        if !conditions.contains(&(place, dependency.condition)) {
            conditions.push((place, dependency.condition));
        }
    }
    conditions
}

/// How a service's health is asked for, with what is left out filled in as an engine would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checking {
    /// How long between two tries.
    pub(crate) pause: Duration,
    /// How long a try may take.
    pub(crate) timeout: Duration,
    /// How long after the start it is given up.
    pub(crate) patience: Duration,
}

impl Checking {
    pub(crate) fn of(check: &Healthcheck) -> Self {
        let given = |value: Option<Duration>, usual: u64| {
            value.filter(|value| !value.is_zero()).unwrap_or(Duration::from_secs(usual))
        };
        let interval = given(check.interval, 30);
        let retries = check.retries.filter(|retries| *retries > 0).unwrap_or(3);
        Self {
            // Whoever waits for the first success wants to know it soon.
            pause: interval.min(Duration::from_secs(1)),
            timeout: given(check.timeout, 30),
            patience: check.start_period.unwrap_or_default().saturating_add(interval.saturating_mul(retries)),
        }
    }
}

/// Makes the error for a service that another waits for in vain.
pub(crate) fn failed(service: &ServiceName, reason: impl Into<String>, log: Vec<String>) -> Error {
    Error::ServiceFailed { service: service.to_string(), reason: reason.into(), log }
}

/// Says how a service ended that was not to.
pub(crate) fn ended(status: Option<i32>) -> String {
    match status {
        Some(status) => format!("it ended with status {status}"),
        None => "it ended, and its status is not known".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{AttemptId, StackName};
    use crate::orchestrator::{Dependency, DeployMode};

    fn stack(services: &[(&str, &[(&str, Condition)])]) -> StackSpec {
        let name = |text: &str| ServiceName::new(text).expect("a name");
        let services = services.iter().map(|(service, dependencies)| ServiceSpec {
            depends_on: dependencies
                .iter()
                .map(|(other, condition)| Dependency { service: name(other), condition: *condition })
                .collect(),
            ..ServiceSpec::new(name(service), vec!["true".into()])
        });
        let attempt = AttemptId::random().expect("randomness");
        StackSpec::new(StackName::new("a").expect("a name"), attempt, services.collect())
    }

    fn check(test: &[&str]) -> Healthcheck {
        let test = test.iter().map(|&word| word.to_owned()).collect();
        Healthcheck { test, interval: None, timeout: None, start_period: None, retries: None }
    }

    #[test]
    fn what_waits_for_nothing_starts_together_and_in_order() {
        use Condition::Started;
        assert_eq!(groups(&stack(&[("a", &[]), ("b", &[]), ("c", &[])])).expect("an order"), [[0, 1, 2]]);
        let turned = stack(&[("a", &[("b", Started)]), ("b", &[("c", Started)]), ("c", &[])]);
        assert_eq!(groups(&turned).expect("an order"), [[2, 1, 0]]);
    }

    #[test]
    fn what_waits_is_in_a_later_group() {
        use Condition::{CompletedSuccessfully, Healthy, Started};
        let mut stack = stack(&[
            ("web", &[("api", Healthy), ("cache", Started)]),
            ("api", &[("migrate", CompletedSuccessfully)]),
            ("migrate", &[]),
            ("cache", &[]),
            ("side", &[("api", Started)]),
        ]);
        assert!(matches!(groups(&stack), Err(Error::InvalidInput { .. })), "api has no check");
        stack.services[1].healthcheck = Some(check(&["NONE"]));
        assert!(matches!(groups(&stack), Err(Error::InvalidInput { .. })), "its check is none");
        stack.services[1].healthcheck = Some(check(&["CMD", "true"]));
        let groups = groups(&stack).expect("an order");
        assert_eq!(groups, [vec![2, 3], vec![1, 4], vec![0]]);
        assert_eq!(conditions(&stack, &groups[0]), []);
        assert_eq!(conditions(&stack, &groups[1]), [(2, CompletedSuccessfully)]);
        assert_eq!(conditions(&stack, &groups[2]), [(1, Healthy)]);
    }

    #[test]
    fn what_cannot_be_ordered_is_refused() {
        use Condition::{CompletedSuccessfully, Started};
        for bad in [
            stack(&[("a", &[("a", Started)])]),
            stack(&[("a", &[("b", Started)]), ("b", &[("a", CompletedSuccessfully)])]),
            stack(&[("a", &[("nobody", Started)])]),
        ] {
            assert!(matches!(groups(&bad), Err(Error::InvalidInput { .. })), "{bad:?}");
        }
    }

    #[test]
    fn what_others_wait_for_runs_once() {
        let mut stack = stack(&[("a", &[("b", Condition::CompletedSuccessfully)]), ("b", &[])]);
        let once =
            |stack: &StackSpec| stack.services.iter().map(|service| runs_once(stack, service)).collect::<Vec<_>>();
        assert_eq!(once(&stack), [false, true]);
        stack.services[0].placement.mode = DeployMode::ReplicatedJob(1);
        assert_eq!(once(&stack), [true, true]);
    }

    #[test]
    fn what_a_check_leaves_out_is_filled_in() {
        let seconds = Duration::from_secs;
        let usual = Checking { pause: seconds(1), timeout: seconds(30), patience: seconds(90) };
        assert_eq!(Checking::of(&check(&["CMD", "true"])), usual);
        let own = Healthcheck {
            interval: Some(Duration::from_millis(100)),
            start_period: Some(seconds(5)),
            retries: Some(2),
            timeout: Some(seconds(2)),
            ..check(&["CMD", "true"])
        };
        let patience = Duration::from_millis(5200);
        assert_eq!(Checking::of(&own), Checking { pause: Duration::from_millis(100), timeout: seconds(2), patience });
    }
}
