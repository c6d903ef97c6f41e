//! What one engine can do, and what it cannot.

use super::translate;
use crate::error::{Error, Result};
use crate::orchestrator::{ConfigSpec, DeployMode, RestartCondition, SecretSpec, ServiceSpec, StackSpec};

/// Checks that containers of one engine can be what a stack asks for.
pub(super) fn check(stack: &StackSpec) -> Result<()> {
    for service in &stack.services {
        translate::image(service)?;
        check_service(service)?;
        let secrets = service.secrets.iter().map(|mount| (&mount.source, "secret"));
        let secrets =
            secrets.filter(|(name, _)| matches!(stack.secrets.get(name.as_str()), Some(SecretSpec::External(_))));
        let configs = service.configs.iter().map(|mount| (&mount.source, "config"));
        let configs =
            configs.filter(|(name, _)| matches!(stack.configs.get(name.as_str()), Some(ConfigSpec::External(_))));
        if let Some((name, kind)) = secrets.chain(configs).next() {
            return Err(Error::Unsupported {
                message: format!("the {kind} {name:?} is to exist already, and one engine has no store of them"),
                hint: "give its content, or use the Swarm orchestrator".into(),
            });
        }
    }
    Ok(())
}

fn check_service(service: &ServiceSpec) -> Result<()> {
    let placement = &service.placement;
    let replicas = match placement.mode {
        DeployMode::Replicated(n) | DeployMode::ReplicatedJob(n) => n,
        DeployMode::Global | DeployMode::GlobalJob => 1,
    };
    let policy = placement.restart_policy.as_ref();
    let limited =
        policy.is_some_and(|policy| policy.condition == RestartCondition::Any && policy.max_attempts.is_some());
    let job = placement.mode.is_job() && policy.is_some_and(|policy| policy.condition == RestartCondition::Any);
    let refused = [
        (replicas != 1, "any number of replicas but one"),
        (!placement.constraints.is_empty(), "constraints on where it runs"),
        (limited, "a number of restarts that counts those after a success; count those `on-failure`"),
        (job, "a job that is restarted whenever it ends; restart it `on-failure`"),
    ];
    match refused.into_iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(Error::Unsupported {
            message: format!("service {}: one Docker Engine cannot offer {what}", service.name),
            hint: "leave it out, or use the Swarm orchestrator".into(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{AttemptId, ServiceName, StackName};
    use crate::orchestrator::{FileMount, RestartPolicy};

    fn stack(change: impl FnOnce(&mut ServiceSpec)) -> StackSpec {
        let mut service = ServiceSpec::new(ServiceName::new("main").expect("a name"), vec!["true".into()]);
        service.image = Some("image:1".into());
        change(&mut service);
        let attempt = AttemptId::random().expect("randomness");
        StackSpec::new(StackName::new("a").expect("a name"), attempt, vec![service])
    }

    #[test]
    fn what_only_a_cluster_has_is_refused_with_a_hint() {
        let restart =
            |condition, max_attempts| Some(RestartPolicy { condition, max_attempts, ..RestartPolicy::default() });
        let file = |source: &str| FileMount { source: source.into(), target: None, uid: None, gid: None, mode: None };
        let mut secret = stack(|service| service.secrets = vec![file("a")]);
        secret.secrets.insert("a".into(), SecretSpec::External("b".into()));
        let mut config = stack(|service| service.configs = vec![file("a")]);
        config.configs.insert("a".into(), ConfigSpec::External("b".into()));
        for stack in [
            stack(|service| service.image = None),
            stack(|service| service.placement.mode = DeployMode::Replicated(0)),
            stack(|service| service.placement.mode = DeployMode::Replicated(2)),
            stack(|service| service.placement.mode = DeployMode::ReplicatedJob(3)),
            stack(|service| service.placement.constraints = vec!["node.role == manager".into()]),
            stack(|service| service.placement.restart_policy = restart(RestartCondition::Any, Some(3))),
            stack(|service| {
                service.placement.mode = DeployMode::GlobalJob;
                service.placement.restart_policy = restart(RestartCondition::Any, None);
            }),
            secret,
            config,
        ] {
            let error = check(&stack).expect_err("not for one engine");
            assert!(matches!(error, Error::Unsupported { .. }) && error.hint().is_some(), "{error:?}");
        }
        let mut accepted = stack(|service| {
            service.placement.mode = DeployMode::ReplicatedJob(1);
            service.placement.restart_policy = restart(RestartCondition::OnFailure, Some(3));
        });
        accepted.secrets.insert("unused".into(), SecretSpec::External("b".into()));
        check(&accepted).expect("accepted");
    }
}
