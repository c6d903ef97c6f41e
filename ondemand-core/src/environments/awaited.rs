//! What the services of a stack that is being deployed wait for.

use crate::orchestrator::{Condition, Dependency, Service, ServiceSpec, ServiceState, Stack, StackSpec};

/// Returns what has not happened yet that services wait for, such as the end of migrations; not what waits for something itself.
pub(super) fn awaited<'a>(spec: &'a StackSpec, stack: &Stack) -> Vec<&'a Dependency> {
    let found = |spec: &ServiceSpec| stack.services.iter().find(|service| service.name == spec.name);
    let waiting = spec.services.iter().filter(|service| found(service).is_some_and(has_not_begun));
    let unmet =
        |on: &&Dependency| stack.services.iter().any(|service| service.name == on.service && !meets(service, on));
    let all: Vec<_> =
        waiting.flat_map(|service| service.depends_on.iter().filter(unmet).map(move |on| (service, on))).collect();
    let waits = |on: &Dependency| all.iter().any(|(service, _)| service.name == on.service);
    all.iter().map(|(_, on)| *on).filter(|on| !waits(on)).collect()
}

/// Where a service has a process, that was started after all that it waits for had happened.
fn has_not_begun(service: &Service) -> bool {
    service.state == ServiceState::Starting && service.pid.is_none()
}

/// Tells whether what others wait for is seen to have happened. Child processes are not seen to be healthy; those who wait for it begin at once.
fn meets(service: &Service, on: &Dependency) -> bool {
    match on.condition {
        Condition::Started => service.state != ServiceState::Starting || service.pid.is_some(),
        Condition::Healthy => service.state == ServiceState::Running,
        Condition::CompletedSuccessfully => service.state == ServiceState::Exited { status: Some(0) },
    }
}

/// Says what somebody has waited for too long.
pub(super) fn complaint(on: &Dependency) -> String {
    match on.condition {
        Condition::Started => format!("service {} does not start, and others wait for it", on.service),
        Condition::Healthy => format!("service {} is not healthy, and others wait for it", on.service),
        Condition::CompletedSuccessfully => format!("service {} does not end, and others wait for it", on.service),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{AttemptId, ServiceName};

    fn name(name: &str) -> ServiceName {
        name.parse().unwrap()
    }

    /// A service, and what it waits for.
    fn service(own: &str, on: &[(&str, Condition)]) -> ServiceSpec {
        let depends_on = on.iter().map(|(other, condition)| Dependency { service: name(other), condition: *condition });
        ServiceSpec { depends_on: depends_on.collect(), ..ServiceSpec::new(name(own), Vec::new()) }
    }

    /// A cache and a database that is migrated, and a back end that waits for both.
    fn shop() -> StackSpec {
        let services = vec![
            service("back", &[("cache", Condition::Healthy), ("migrate", Condition::CompletedSuccessfully)]),
            service("cache", &[]),
            service("migrate", &[("database", Condition::Healthy)]),
            service("database", &[]),
            service("front", &[("back", Condition::Started)]),
        ];
        StackSpec::new("shop".parse().unwrap(), AttemptId::new("fedcba9876543210").unwrap(), services)
    }

    /// Who is awaited where services are in these states, with a process or without.
    fn of(states: [(&str, ServiceState, Option<u32>); 5]) -> Vec<String> {
        let spec = shop();
        let services = states.into_iter().map(|(own, state, pid)| Service { pid, ..Service::new(name(own), state) });
        let stack = Stack {
            id: spec.id(),
            name: spec.name.clone(),
            attempt: spec.attempt.clone(),
            labels: spec.labels.clone(),
            created: time::OffsetDateTime::UNIX_EPOCH,
            services: services.collect(),
        };
        awaited(&spec, &stack).into_iter().map(|on| on.service.to_string()).collect()
    }

    const STARTING: ServiceState = ServiceState::Starting;
    const RUNNING: ServiceState = ServiceState::Running;
    const DONE: ServiceState = ServiceState::Exited { status: Some(0) };

    #[test]
    fn who_waits_is_not_waited_for() {
        let begun = |database, migrate, cache| {
            of([
                ("back", STARTING, None),
                ("cache", cache, None),
                ("migrate", migrate, None),
                ("database", database, None),
                ("front", STARTING, None),
            ])
        };
        assert_eq!(begun(STARTING, STARTING, RUNNING), ["database"]);
        assert_eq!(begun(RUNNING, RUNNING, RUNNING), ["migrate"]);
        assert_eq!(begun(RUNNING, RUNNING, STARTING), ["cache", "migrate"]);
        // The back end may start now: what the front end waits for is that.
        assert_eq!(begun(RUNNING, DONE, RUNNING), ["back"]);
    }

    #[test]
    fn who_has_a_process_waits_for_nothing_more() {
        let states = |migrate: Option<u32>, back: Option<u32>| {
            of([
                ("back", STARTING, back),
                ("cache", STARTING, Some(1)),
                ("migrate", if back.is_some() { DONE } else { STARTING }, migrate),
                ("database", STARTING, Some(2)),
                ("front", STARTING, back),
            ])
        };
        assert_eq!(states(None, None), ["cache", "database"]);
        assert_eq!(states(Some(3), None), ["cache", "migrate"]);
        assert_eq!(states(None, Some(4)), [""; 0]);
    }

    #[test]
    fn what_is_complained_of_is_what_was_waited_for() {
        let on = |condition| complaint(&Dependency { service: name("migrate"), condition });
        assert!(on(Condition::CompletedSuccessfully).contains("migrate does not end"));
        assert!(on(Condition::Healthy).contains("migrate is not healthy"));
        assert!(on(Condition::Started).contains("migrate does not start"));
    }
}
