//! How many of a service run, where, and what happens when they end or change.

use super::field::Field;
use super::notation;
use super::problem::{Problems, Read};
use crate::orchestrator::{
    DeployMode, EndpointMode, FailureAction, Order, Placement, Resources, RestartCondition, RestartPolicy, ServiceSpec,
    UpdateConfig,
};

/// Reads `deploy`.
pub(super) fn deploy(deploy: &Field<'_>, spec: &mut ServiceSpec) -> Read<()> {
    let mut problems = Problems::default();
    let mut replicas = None;
    let mut mode = "replicated";
    let placement = &mut spec.placement;
    for field in deploy.entries()? {
        match field.name() {
            "mode" => {
                let modes = ["replicated", "global", "replicated-job", "global-job"].map(|mode| (mode, mode));
                mode = problems.keep(field.choice(&modes));
            }
            "replicas" => replicas = Some((problems.keep(field.whole::<u32>()), field)),
            "resources" => problems.keep(resources(&field, placement)),
            "placement" => problems.keep(self::placement(&field, placement)),
            "restart_policy" => placement.restart_policy = problems.keep(restart_policy(&field).map(Some)),
            "update_config" => placement.update = problems.keep(update(&field, true).map(Some)),
            "rollback_config" => placement.rollback = problems.keep(update(&field, false).map(Some)),
            "endpoint_mode" => {
                let modes = [("vip", EndpointMode::Vip), ("dnsrr", EndpointMode::Dnsrr)];
                placement.endpoint_mode = problems.keep(field.choice(&modes).map(Some));
            }
            "labels" => spec.labels = problems.keep(field.pairs()),
            _ if field.is_extension() => {}
            _ => problems.push(field.unsupported()),
        }
    }
    let count = replicas.as_ref().map_or(1, |(count, _)| u64::from(*count));
    placement.mode = match mode {
        "global" => DeployMode::Global,
        "global-job" => DeployMode::GlobalJob,
        "replicated-job" => DeployMode::ReplicatedJob(count),
        _ => DeployMode::Replicated(count),
    };
    if let (DeployMode::Global | DeployMode::GlobalJob, Some((_, field))) = (placement.mode, &replicas) {
        problems.push(field.problem("a global service has one replica on every node; leave this key out"));
    }
    problems.finish()
}

fn resources(resources: &Field<'_>, placement: &mut Placement) -> Read<()> {
    for field in resources.entries()? {
        match field.name() {
            "limits" => placement.limits = amounts(&field, true)?,
            "reservations" => placement.reservations = amounts(&field, false)?,
            _ if field.is_extension() => {}
            _ => return Err(field.unsupported()),
        }
    }
    Ok(())
}

fn amounts(amounts: &Field<'_>, limits: bool) -> Read<Resources> {
    let mut resources = Resources::default();
    for field in amounts.entries()? {
        match field.name() {
            "cpus" => {
                let cpus = notation::decimal(&field.text()?).and_then(|nanos| i64::try_from(nanos).ok());
                resources.nano_cpus = Some(cpus.ok_or_else(|| field.problem("it must be a number such as 0.5"))?);
            }
            "memory" => {
                let bytes = i64::try_from(field.bytes()?).map_err(|_| field.problem("it is out of range"))?;
                resources.memory = Some(bytes);
            }
            "pids" if limits => resources.pids = Some(field.whole::<i64>()?),
            _ if field.is_extension() => {}
            _ => return Err(field.unsupported()),
        }
    }
    Ok(resources)
}

fn placement(field: &Field<'_>, placement: &mut Placement) -> Read<()> {
    for field in field.entries()? {
        match field.name() {
            "constraints" => placement.constraints = field.texts()?,
            "preferences" => {
                for item in field.items()? {
                    for preference in item.entries()? {
                        match preference.name() {
                            "spread" => placement.spread.push(preference.word()?),
                            _ => return Err(preference.unsupported()),
                        }
                    }
                }
            }
            "max_replicas_per_node" => {
                // Zero is no limit.
                placement.max_replicas_per_node = Some(u64::from(field.whole::<u32>()?)).filter(|most| *most > 0);
            }
            _ if field.is_extension() => {}
            _ => return Err(field.unsupported()),
        }
    }
    Ok(())
}

fn restart_policy(policy: &Field<'_>) -> Read<RestartPolicy> {
    let mut restart = RestartPolicy::default();
    for field in policy.entries()? {
        match field.name() {
            "condition" => {
                restart.condition = field.choice(&[
                    ("none", RestartCondition::None),
                    ("on-failure", RestartCondition::OnFailure),
                    ("any", RestartCondition::Any),
                ])?;
            }
            "delay" => restart.delay = Some(field.duration()?),
            "max_attempts" => restart.max_attempts = Some(u64::from(field.whole::<u32>()?)),
            "window" => restart.window = Some(field.duration()?),
            _ if field.is_extension() => {}
            _ => return Err(field.unsupported()),
        }
    }
    Ok(restart)
}

/// Reads `restart`, the older way to say it.
pub(super) fn restart(field: &Field<'_>) -> Read<RestartPolicy> {
    let text = field.text()?;
    let (word, attempts) = match text.split_once(':') {
        Some((word, attempts)) => (word, Some(attempts)),
        None => (text.as_str(), None),
    };
    let (condition, max_attempts) = match (word, attempts) {
        // `no` without quotes is a boolean to some.
        ("no" | "false", None) => (RestartCondition::None, None),
        ("always" | "unless-stopped", None) => (RestartCondition::Any, None),
        ("on-failure", None) => (RestartCondition::OnFailure, None),
        ("on-failure", Some(attempts)) => {
            let attempts = attempts.parse::<u32>().map_err(|_| field.problem("on-failure:N needs a number"))?;
            (RestartCondition::OnFailure, Some(u64::from(attempts)))
        }
        _ => return Err(field.problem("it is none of no, always, unless-stopped, on-failure, on-failure:N")),
    };
    Ok(RestartPolicy { condition, max_attempts, ..RestartPolicy::default() })
}

fn update(config: &Field<'_>, forward: bool) -> Read<UpdateConfig> {
    let mut update = UpdateConfig::default();
    for field in config.entries()? {
        match field.name() {
            "parallelism" => update.parallelism = Some(u64::from(field.whole::<u32>()?)),
            "delay" => update.delay = Some(field.duration()?),
            "failure_action" => {
                let actions = [
                    ("pause", FailureAction::Pause),
                    ("continue", FailureAction::Continue),
                    ("rollback", FailureAction::Rollback),
                ];
                // What is taken back cannot be taken back again.
                update.failure_action = Some(field.choice(if forward { &actions } else { &actions[..2] })?);
            }
            "monitor" => update.monitor = Some(field.duration()?),
            "max_failure_ratio" => update.max_failure_ratio = Some(field.ratio()?),
            "order" => {
                let orders = [("stop-first", Order::StopFirst), ("start-first", Order::StartFirst)];
                update.order = Some(field.choice(&orders)?);
            }
            _ if field.is_extension() => {}
            _ => return Err(field.unsupported()),
        }
    }
    Ok(update)
}
