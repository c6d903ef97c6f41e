//! From services of a stack to services of a swarm.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{
    EndpointPortConfig, EndpointPortConfigProtocolEnum as Protocol, EndpointPortConfigPublishModeEnum as PortMode,
    EndpointSpec, EndpointSpecModeEnum, HealthConfig, Limit, NetworkAttachmentConfig, ResourceObject, ResourcesUlimits,
    ServiceSpec, ServiceSpecMode, ServiceSpecModeReplicated, ServiceSpecRollbackConfig,
    ServiceSpecRollbackConfigFailureActionEnum as RollbackAction, ServiceSpecRollbackConfigOrderEnum as RollbackOrder,
    ServiceSpecUpdateConfig, ServiceSpecUpdateConfigFailureActionEnum as UpdateAction,
    ServiceSpecUpdateConfigOrderEnum as UpdateOrder, TaskSpec, TaskSpecContainerSpec, TaskSpecContainerSpecConfigs,
    TaskSpecContainerSpecFile, TaskSpecContainerSpecFile1, TaskSpecContainerSpecSecrets, TaskSpecLogDriver,
    TaskSpecPlacement, TaskSpecPlacementPreferences, TaskSpecPlacementSpread, TaskSpecResources, TaskSpecRestartPolicy,
    TaskSpecRestartPolicyConditionEnum as RestartWhen,
};

use super::mounts::mounts;
use super::names::{IMAGE, Names};
use crate::error::{Error, Result};
use crate::orchestrator::docker::translate::{LOG_FILES, LOG_SIZE, SERVICE, image, signal};
use crate::orchestrator::{
    DeployMode, EndpointMode, FailureAction, FileMount, Healthcheck, Order, Publish, PublishMode, RestartCondition,
    RestartPolicy, RunAs, StackSpec, Transport, UpdateConfig,
};
use crate::orchestrator::{depends, discovery};

/// The label of a service that is not started again once it has done its work: others wait for that.
pub(super) const ONCE: &str = "ondemand.once";

type Asked = crate::orchestrator::ServiceSpec;

/// The network of services that name none.
pub(super) const DEFAULT_NETWORK: &str = "default";

/// What a stack's things are called by the engine: ids of networks, secrets and configuration files, by the stack's names for them.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) networks: HashMap<String, String>,
    /// The id, and the name.
    pub(super) secrets: HashMap<String, (String, String)>,
    pub(super) configs: HashMap<String, (String, String)>,
}

/// Checks what a swarm cannot do, before anything is made. That services name only what the stack has was checked before.
pub(super) fn check(stack: &StackSpec) -> Result<()> {
    for service in &stack.services {
        image(service)?;
        if let Some(port) = service.ports.iter().find(|port| !port.published.ip().is_unspecified()) {
            return Err(Error::Unsupported {
                message: format!("a swarm cannot publish a port at the address {} alone", port.published.ip()),
                hint: "publish it at every address of the node: 0.0.0.0".into(),
            });
        }
    }
    Ok(())
}

/// Translates one service of a stack. `pinned` is its image as the nodes shall run it.
pub(super) fn service(
    stack: &StackSpec,
    asked: &Asked,
    names: &Names,
    known: &Known,
    pinned: &str,
    ingress: bool,
) -> Result<ServiceSpec> {
    let own = asked.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let mut labels = names.labels_and(stack.labels.iter().chain(own));
    labels.insert(SERVICE.to_owned(), asked.name.to_string());
    labels.insert(IMAGE.to_owned(), image(asked)?.to_owned());
    if depends::runs_once(stack, asked) {
        labels.insert(ONCE.to_owned(), "true".to_owned());
    }
    let placement = &asked.placement;
    let ports = ports(asked, ingress);
    let through_all = ports.iter().any(|port| port.publish_mode == Some(PortMode::INGRESS));
    let mode = match placement.endpoint_mode {
        Some(EndpointMode::Vip) => EndpointSpecModeEnum::VIP,
        // The routing mesh leads to the address of the service.
        None if through_all => EndpointSpecModeEnum::VIP,
        Some(EndpointMode::Dnsrr) | None => EndpointSpecModeEnum::DNSRR,
    };
    Ok(ServiceSpec {
        name: Some(names.service(&asked.name)),
        labels: Some(labels),
        task_template: Some(task(stack, asked, names, known, pinned)?),
        mode: Some(deploy_mode(placement.mode)?),
        update_config: placement.update.as_ref().map(update),
        rollback_config: placement.rollback.as_ref().map(rollback),
        networks: None,
        endpoint_spec: Some(EndpointSpec { mode: Some(mode), ports: Some(ports) }),
    })
}

fn task(stack: &StackSpec, asked: &Asked, names: &Names, known: &Known, pinned: &str) -> Result<TaskSpec> {
    let placement = &asked.placement;
    let limits = placement.limits;
    let promised = placement.reservations;
    let spread = |over: &String| TaskSpecPlacementPreferences {
        spread: Some(TaskSpecPlacementSpread { spread_descriptor: Some(over.clone()) }),
    };
    let log_driver = match &asked.container.logging {
        Some(logging) => TaskSpecLogDriver {
            name: Some(logging.driver.clone()),
            options: Some(logging.options.clone().into_iter().collect()),
        },
        None => TaskSpecLogDriver {
            name: Some("json-file".into()),
            options: Some([("max-size", LOG_SIZE), ("max-file", LOG_FILES)].map(|(k, v)| (k.into(), v.into())).into()),
        },
    };
    Ok(TaskSpec {
        container_spec: Some(container(stack, asked, names, known, pinned)?),
        resources: Some(TaskSpecResources {
            limits: Some(Limit { nano_cpus: limits.nano_cpus, memory_bytes: limits.memory, pids: limits.pids }),
            reservations: Some(ResourceObject {
                nano_cpus: promised.nano_cpus,
                memory_bytes: promised.memory,
                generic_resources: None,
            }),
            ..TaskSpecResources::default()
        }),
        restart_policy: Some(restart_policy(stack, asked)?),
        placement: Some(TaskSpecPlacement {
            constraints: Some(placement.constraints.clone()),
            preferences: Some(placement.spread.iter().map(spread).collect()),
            max_replicas: placement.max_replicas_per_node.map(signed).transpose()?,
            platforms: None,
        }),
        networks: Some(networks(asked, known)),
        log_driver: Some(log_driver),
        ..TaskSpec::default()
    })
}

fn container(
    stack: &StackSpec,
    asked: &Asked,
    names: &Names,
    known: &Known,
    pinned: &str,
) -> Result<TaskSpecContainerSpec> {
    let options = &asked.container;
    let own = options.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let mut labels = names.labels_and(own);
    labels.insert(SERVICE.to_owned(), asked.name.to_string());
    let pairs = |(name, limit): (&String, &crate::orchestrator::Ulimit)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    };
    let user = asked.user.map(|RunAs { uid, gid }| format!("{uid}:{gid}"));
    let mut env = discovery::by_name(stack, asked);
    env.extend(asked.env.clone());
    let secret = |file: &FileMount| {
        let (id, name) = known.secrets.get(&file.source)?;
        let [name_there, uid, gid] = file_names(file, &file.source);
        let there = TaskSpecContainerSpecFile { name: name_there, uid, gid, mode: Some(file.mode.unwrap_or(0o444)) };
        let (id, name) = (Some(id.clone()), Some(name.clone()));
        Some(TaskSpecContainerSpecSecrets { file: Some(there), secret_id: id, secret_name: name })
    };
    let config = |file: &FileMount| {
        let (id, name) = known.configs.get(&file.source)?;
        let [name_there, uid, gid] = file_names(file, &format!("/{}", file.source));
        let there = TaskSpecContainerSpecFile1 { name: name_there, uid, gid, mode: Some(file.mode.unwrap_or(0o444)) };
        let (config_id, config_name) = (Some(id.clone()), Some(name.clone()));
        Some(TaskSpecContainerSpecConfigs { file: Some(there), runtime: None, config_id, config_name })
    };
    Ok(TaskSpecContainerSpec {
        image: Some(pinned.to_owned()),
        labels: Some(labels),
        // Which takes the place of the image's entry point.
        command: (!asked.command.is_empty()).then(|| asked.command.clone()),
        args: (!asked.arguments.is_empty()).then(|| asked.arguments.clone()),
        hostname: options.hostname.clone(),
        env: Some(env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        dir: asked.working_dir.as_ref().map(|dir| dir.display().to_string()),
        user: user.or_else(|| options.user.clone()),
        read_only: Some(options.read_only),
        mounts: Some(mounts(stack, asked, names)?),
        stop_signal: Some(signal(asked.stop_signal).to_owned()),
        stop_grace_period: Some(nanoseconds(asked.stop_grace)),
        health_check: asked.healthcheck.as_ref().map(healthcheck),
        hosts: Some(options.extra_hosts.iter().map(|(name, address)| format!("{address} {name}")).collect()),
        secrets: Some(asked.secrets.iter().filter_map(secret).collect()),
        configs: Some(asked.configs.iter().filter_map(config).collect()),
        // Reaps stray children and passes signals on.
        init: Some(options.init.unwrap_or(true)),
        sysctls: Some(options.sysctls.clone().into_iter().collect()),
        capability_add: Some(options.cap_add.iter().map(|name| capability(name)).collect()),
        capability_drop: Some(options.cap_drop.iter().map(|name| capability(name)).collect()),
        ulimits: Some(options.ulimits.iter().map(pairs).collect()),
        ..TaskSpecContainerSpec::default()
    })
}

/// Returns where a file is seen, and whose it is.
fn file_names(file: &FileMount, otherwise: &str) -> [Option<String>; 3] {
    let owner = |id: &Option<String>| Some(id.clone().unwrap_or_else(|| "0".into()));
    [Some(file.target.clone().unwrap_or_else(|| otherwise.to_owned())), owner(&file.uid), owner(&file.gid)]
}

/// Writes a capability as the engines compare it.
fn capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
}

/// In its networks, a service is reached by its name in the stack.
fn networks(asked: &Asked, known: &Known) -> Vec<NetworkAttachmentConfig> {
    let attach = |name: &str, aliases: &[String]| {
        let mut all = vec![asked.name.to_string()];
        all.extend(aliases.iter().filter(|alias| **alias != *asked.name.as_str()).cloned());
        let target = Some(known.networks.get(name)?.clone());
        Some(NetworkAttachmentConfig { target, aliases: Some(all), driver_opts: None })
    };
    if asked.networks.is_empty() {
        return attach(DEFAULT_NETWORK, &[]).into_iter().collect();
    }
    asked.networks.iter().filter_map(|network| attach(&network.network, &network.aliases)).collect()
}

fn ports(asked: &Asked, ingress: bool) -> Vec<EndpointPortConfig> {
    let fixed = asked.ports.iter().map(|port| Publish {
        target: port.target,
        published: Some(port.published.port()),
        transport: Transport::Tcp,
        mode: PublishMode::Host,
    });
    let port = |port: Publish| EndpointPortConfig {
        name: None,
        protocol: Some(match port.transport {
            Transport::Tcp => Protocol::TCP,
            Transport::Udp => Protocol::UDP,
            Transport::Sctp => Protocol::SCTP,
        }),
        target_port: Some(port.target.into()),
        published_port: port.published.map(Into::into),
        publish_mode: Some(match port.mode {
            PublishMode::Host if port.published.is_none() && ingress => PortMode::INGRESS,
            PublishMode::Host => PortMode::HOST,
            PublishMode::Ingress => PortMode::INGRESS,
        }),
    };
    fixed.chain(asked.publish.iter().copied()).map(port).collect()
}

fn healthcheck(check: &Healthcheck) -> HealthConfig {
    HealthConfig {
        test: (!check.test.is_empty()).then(|| check.test.clone()),
        interval: check.interval.map(nanoseconds),
        timeout: check.timeout.map(nanoseconds),
        retries: check.retries.map(Into::into),
        start_period: check.start_period.map(nanoseconds),
        start_interval: None,
    }
}

/// What nothing is said about is never started again by the engine; nor is what others wait for the end of, once that has come.
fn restart_policy(stack: &StackSpec, asked: &Asked) -> Result<TaskSpecRestartPolicy> {
    let never = TaskSpecRestartPolicy { condition: Some(RestartWhen::NONE), ..TaskSpecRestartPolicy::default() };
    let is_job = asked.placement.mode.is_job();
    // As the engine does with jobs.
    let until_done = RestartPolicy { condition: RestartCondition::OnFailure, ..RestartPolicy::default() };
    let usual = is_job.then_some(&until_done);
    let Some(policy) = asked.placement.restart_policy.as_ref().or(usual) else { return Ok(never) };
    let condition = match policy.condition {
        RestartCondition::Any if is_job => RestartWhen::ON_FAILURE,
        RestartCondition::Any if depends::runs_once(stack, asked) => return Ok(never),
        RestartCondition::None => RestartWhen::NONE,
        RestartCondition::OnFailure => RestartWhen::ON_FAILURE,
        RestartCondition::Any => RestartWhen::ANY,
    };
    Ok(TaskSpecRestartPolicy {
        condition: Some(condition),
        delay: policy.delay.map(nanoseconds),
        max_attempts: policy.max_attempts.map(signed).transpose()?,
        window: policy.window.map(nanoseconds),
    })
}

/// Jobs are services that are not started again once they have done their work: with the engine's own jobs, the tasks of a service that is removed are
/// remembered for ever, and their containers stay on the nodes or even run on (<https://github.com/moby/moby/issues/44312>).
fn deploy_mode(mode: DeployMode) -> Result<ServiceSpecMode> {
    let none = ServiceSpecMode::default();
    Ok(match mode {
        DeployMode::Replicated(replicas) | DeployMode::ReplicatedJob(replicas) => ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated { replicas: Some(signed(replicas)?) }),
            ..none
        },
        DeployMode::Global | DeployMode::GlobalJob => ServiceSpecMode { global: Some([].into()), ..none },
    })
}

fn update(config: &UpdateConfig) -> ServiceSpecUpdateConfig {
    ServiceSpecUpdateConfig {
        parallelism: config.parallelism.and_then(|n| i64::try_from(n).ok()),
        delay: config.delay.map(nanoseconds),
        failure_action: config.failure_action.map(|action| match action {
            FailureAction::Pause => UpdateAction::PAUSE,
            FailureAction::Continue => UpdateAction::CONTINUE,
            FailureAction::Rollback => UpdateAction::ROLLBACK,
        }),
        monitor: config.monitor.map(nanoseconds),
        max_failure_ratio: config.max_failure_ratio,
        order: config.order.map(|order| match order {
            Order::StopFirst => UpdateOrder::STOP_FIRST,
            Order::StartFirst => UpdateOrder::START_FIRST,
        }),
    }
}

fn rollback(config: &UpdateConfig) -> ServiceSpecRollbackConfig {
    ServiceSpecRollbackConfig {
        parallelism: config.parallelism.and_then(|n| i64::try_from(n).ok()),
        delay: config.delay.map(nanoseconds),
        // What is taken back cannot be taken back.
        failure_action: config.failure_action.map(|action| match action {
            FailureAction::Pause | FailureAction::Rollback => RollbackAction::PAUSE,
            FailureAction::Continue => RollbackAction::CONTINUE,
        }),
        monitor: config.monitor.map(nanoseconds),
        max_failure_ratio: config.max_failure_ratio,
        order: config.order.map(|order| match order {
            Order::StopFirst => RollbackOrder::STOP_FIRST,
            Order::StartFirst => RollbackOrder::START_FIRST,
        }),
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn signed(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::invalid("number of replicas", "it is too large"))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::error::Code::Unsupported;
    use crate::name::{AttemptId, ServiceName, StackName};
    use crate::orchestrator::{Condition, Dependency, NetworkAttachment, PublishedPort, RestartPolicy};

    fn asked(name: &str) -> Asked {
        let mut asked = Asked::new(ServiceName::new(name).expect("a name"), vec!["/bin/x".into()]);
        asked.image = Some("image:1".into());
        asked
    }

    fn stack(services: Vec<Asked>) -> (StackSpec, Names) {
        let attempt = AttemptId::random().expect("randomness");
        let name = StackName::new("s").expect("a name");
        let names = Names { instance: "i".into(), stack: name.clone(), attempt: attempt.clone() };
        (StackSpec::new(name, attempt, services), names)
    }

    #[test]
    fn what_is_left_out_is_published_by_its_node_and_never_started_again() {
        let mut main = asked("main");
        main.publish = vec![Publish::anywhere(80)];
        main.networks = vec![NetworkAttachment { network: "n".into(), aliases: vec!["alias".into(), "main".into()] }];
        let (spec, names) = stack(vec![main.clone()]);
        let known = Known { networks: HashMap::from([("n".into(), "id".into())]), ..Known::default() };
        let made = service(&spec, &main, &names, &known, "image:1@sha256:0", false).expect("translated");
        assert_eq!(made.name.as_deref(), Some("i_s_main"));
        let endpoint = made.endpoint_spec.expect("an endpoint");
        assert_eq!(endpoint.mode, Some(EndpointSpecModeEnum::DNSRR));
        let port = &endpoint.ports.expect("ports")[0];
        assert_eq!((port.publish_mode, port.target_port, port.published_port), (Some(PortMode::HOST), Some(80), None));
        let task = made.task_template.expect("a task");
        assert_eq!(task.restart_policy.and_then(|policy| policy.condition), Some(RestartWhen::NONE));
        assert_eq!(task.networks.expect("networks")[0].aliases.as_deref(), Some(&["main".into(), "alias".into()][..]));
        let container = task.container_spec.expect("a container");
        assert_eq!((container.image.as_deref(), container.init), (Some("image:1@sha256:0"), Some(true)));
        let labels = made.labels.expect("labels");
        assert_eq!(labels.get("com.docker.stack.image").map(String::as_str), Some("image:1"));
        assert_eq!(labels.get("com.docker.stack.namespace").map(String::as_str), Some("i_s"));

        let mesh = service(&spec, &main, &names, &known, "image:1", true).expect("translated");
        let endpoint = mesh.endpoint_spec.expect("an endpoint");
        assert_eq!(endpoint.mode, Some(EndpointSpecModeEnum::VIP), "the routing mesh needs an address");
        assert_eq!(endpoint.ports.expect("ports")[0].publish_mode, Some(PortMode::INGRESS));
    }

    #[test]
    fn what_others_wait_for_the_end_of_is_not_started_again() {
        let mut once = asked("once");
        once.placement.restart_policy = Some(RestartPolicy::default());
        let mut main = once.clone();
        main.name = ServiceName::new("main").expect("a name");
        main.depends_on = vec![Dependency { service: once.name.clone(), condition: Condition::CompletedSuccessfully }];
        let (spec, _) = stack(vec![once.clone(), main.clone()]);
        let condition = |asked: &Asked| restart_policy(&spec, asked).expect("a policy").condition;
        assert_eq!(condition(&once), Some(RestartWhen::NONE));
        assert_eq!(condition(&main), Some(RestartWhen::ANY));
    }

    #[test]
    fn what_a_swarm_cannot_do_is_refused_before_anything_is_made() {
        let (spec, _) = stack(vec![asked("main")]);
        assert!(check(&spec).is_ok());
        let refused = |change: &dyn Fn(&mut Asked)| {
            let mut main = asked("main");
            change(&mut main);
            let (spec, _) = stack(vec![main]);
            check(&spec).err().map(|error| error.code())
        };
        let local = PublishedPort { published: SocketAddr::from((Ipv4Addr::LOCALHOST, 80)), target: 80 };
        assert_eq!(refused(&|main| main.image = None), Some(Unsupported));
        assert_eq!(refused(&|main| main.ports = vec![local]), Some(Unsupported));
    }
}
