//! From services to containers, and back.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, HealthConfig, HostConfig,
    HostConfigLogConfig, Mount, MountTmpfsOptions, MountType, MountVolumeOptions, NetworkingConfig, PortBinding,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};

use super::networks::Joined;
use super::storage::Shown;
use crate::error::{Error, Result};
use crate::label::keys;
use crate::name::{AttemptId, ServiceName, StackName};
use crate::orchestrator::{
    Endpoint, Publish, RestartCondition, RunAs, ServiceSpec, StackId, StackSpec, StopSignal, Tmpfs, Transport,
    VolumeMount, depends, discovery,
};

/// The label that says which stack a thing belongs to.
pub(in crate::orchestrator) const STACK: &str = "ondemand.stack";
/// The label that says which service a container runs.
pub(in crate::orchestrator) const SERVICE: &str = "ondemand.service";

/// What a container's log may take on disk: this, times [`LOG_FILES`].
pub(in crate::orchestrator) const LOG_SIZE: &str = "10m";
/// In how many files.
pub(in crate::orchestrator) const LOG_FILES: &str = "3";
/// Where published ports are reached: what others may reach is for the proxy to say.
const HOST: &str = "127.0.0.1";

/// The names and labels of what one stack has in the engine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) instance: &'a str,
    pub(super) stack: &'a StackName,
    pub(super) attempt: &'a AttemptId,
}

impl Names<'_> {
    /// Returns the name of a service's container. A name of ours holds no dot, so no two are the same.
    pub(super) fn container(&self, service: &ServiceName) -> String {
        format!("ondemand-{}-{}.{service}", self.instance, self.stack)
    }

    /// Returns the name of the stack's network.
    pub(super) fn network(&self) -> String {
        format!("ondemand-{}-{}", self.instance, self.stack)
    }

    /// Returns the labels that tell whose a thing is.
    pub(super) fn labels(&self) -> HashMap<String, String> {
        let labels =
            [(keys::INSTANCE, self.instance), (STACK, self.stack.as_str()), (keys::ATTEMPT, self.attempt.as_str())];
        labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    /// Returns the filter that chooses all that belongs to the stack.
    pub(super) fn filter(&self) -> HashMap<String, Vec<String>> {
        label_filter(self.labels())
    }
}

/// Returns the filter that chooses what carries all these labels.
pub(in crate::orchestrator) fn label_filter(labels: HashMap<String, String>) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect())])
}

/// Tells which deployment and service a container belongs to by its labels.
pub(in crate::orchestrator) fn owner(labels: &HashMap<String, String>) -> Option<(StackId, ServiceName)> {
    let name = StackName::new(labels.get(STACK)?.as_str()).ok()?;
    let attempt = AttemptId::new(labels.get(keys::ATTEMPT)?.as_str()).ok()?;
    Some((StackId::of(&name, &attempt), ServiceName::new(labels.get(SERVICE)?.as_str()).ok()?))
}

/// Returns the image that a service runs from.
pub(in crate::orchestrator) fn image(service: &ServiceSpec) -> Result<&str> {
    service.image.as_deref().filter(|image| !image.is_empty()).ok_or_else(|| Error::Unsupported {
        message: format!("service {} has no image, and a container needs one", service.name),
        hint: "name an image, or use the process orchestrator".into(),
    })
}

/// Returns the name of a signal as the engine takes it.
pub(in crate::orchestrator) fn signal(signal: StopSignal) -> &'static str {
    match signal {
        StopSignal::Term => "SIGTERM",
        StopSignal::Int => "SIGINT",
        StopSignal::Quit => "SIGQUIT",
    }
}

/// Translates one service of a stack. `joined` is the network that it is created in, where that is not the engine's usual one, and `files` are its
/// secrets and configuration files.
pub(super) fn container(
    stack: &StackSpec,
    service: &ServiceSpec,
    names: Names<'_>,
    joined: Option<&Joined>,
    files: &[Shown],
) -> Result<ContainerCreateBody> {
    let options = &service.container;
    let mut env = discovery::by_name(stack, service);
    env.extend(service.env.clone());
    let user = service.user.map(|RunAs { uid, gid }| format!("{uid}:{gid}"));
    let mut exposed: Vec<_> = service.ports.iter().map(|port| format!("{}/tcp", port.target)).collect();
    exposed.extend(service.publish.iter().copied().map(port_key));
    Ok(ContainerCreateBody {
        image: Some(image(service)?.to_owned()),
        // As the entry point: one that the image has would take the command as its arguments.
        entrypoint: (!service.command.is_empty()).then(|| service.command.clone()),
        cmd: (!service.arguments.is_empty()).then(|| service.arguments.clone()),
        env: Some(env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        user: user.or_else(|| options.user.clone()),
        hostname: options.hostname.clone(),
        working_dir: service.working_dir.as_ref().map(|dir| dir.display().to_string()),
        labels: Some(labels(stack, service, names)),
        stop_signal: Some(signal(service.stop_signal).to_owned()),
        stop_timeout: i64::try_from(service.stop_grace.as_secs()).ok(),
        healthcheck: Some(healthcheck(service)),
        exposed_ports: Some(exposed),
        host_config: Some(host_config(stack, service, names, joined, files)?),
        networking_config: joined.map(|joined| NetworkingConfig {
            endpoints_config: Some(HashMap::from([(joined.network.clone(), joined.endpoint())])),
        }),
        ..ContainerCreateBody::default()
    })
}

fn labels(stack: &StackSpec, service: &ServiceSpec, names: Names<'_>) -> HashMap<String, String> {
    let own = service.labels.iter().chain(&service.container.labels);
    let mut labels: HashMap<String, String> = own.map(|(key, value)| (key.clone(), value.clone())).collect();
    labels.extend(stack.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels.extend(names.labels());
    labels.insert(SERVICE.to_owned(), service.name.to_string());
    labels
}

/// How many processes a sandboxed service may have, where it is given no limit.
const SANDBOXED_PIDS: i64 = 4096;

fn host_config(
    stack: &StackSpec,
    service: &ServiceSpec,
    names: Names<'_>,
    joined: Option<&Joined>,
    files: &[Shown],
) -> Result<HostConfig> {
    let (options, limits) = (&service.container, service.placement.limits);
    let shm_size = service.shm_size.map(i64::try_from).transpose();
    let ulimits = options.ulimits.iter().map(|(name, limit)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    });
    let sysctls: HashMap<String, String> = options.sysctls.clone().into_iter().collect();
    let given = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    Ok(HostConfig {
        // Reaps stray children and passes signals on.
        init: Some(options.init.unwrap_or(true)),
        restart_policy: Some(restart_policy(stack, service)),
        mounts: Some(mounts(stack, service, names, files)?),
        port_bindings: Some(port_bindings(service)),
        shm_size: shm_size.map_err(|_| Error::invalid("shm_size", "it is too large"))?,
        log_config: Some(log_config(service)),
        network_mode: joined.map(|joined| joined.network.clone()),
        nano_cpus: limits.nano_cpus,
        memory: limits.memory,
        pids_limit: limits.pids.or(service.sandboxed.then_some(SANDBOXED_PIDS)),
        memory_reservation: service.placement.reservations.memory,
        cap_add: given(&options.cap_add),
        cap_drop: if service.sandboxed { Some(vec!["ALL".into()]) } else { given(&options.cap_drop) },
        security_opt: service.sandboxed.then(|| vec!["no-new-privileges".into()]),
        readonly_rootfs: (options.read_only || service.sandboxed).then_some(true),
        tmpfs: service.sandboxed.then(|| HashMap::from([("/tmp".into(), "mode=1777".into())])),
        extra_hosts: given(&options.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect()),
        ulimits: (!options.ulimits.is_empty()).then(|| ulimits.collect()),
        sysctls: (!sysctls.is_empty()).then_some(sysctls),
        ..HostConfig::default()
    })
}

fn restart_policy(stack: &StackSpec, service: &ServiceSpec) -> RestartPolicy {
    let policy = service.placement.restart_policy.as_ref();
    let (name, maximum_retry_count) = match policy.map(|policy| policy.condition) {
        None | Some(RestartCondition::None) => (RestartPolicyNameEnum::NO, None),
        Some(RestartCondition::OnFailure) => {
            let attempts = policy.and_then(|policy| policy.max_attempts).and_then(|n| i64::try_from(n).ok());
            (RestartPolicyNameEnum::ON_FAILURE, attempts)
        }
        // The engine would start again what has done its work, and what others wait for in vain.
        Some(RestartCondition::Any) if depends::runs_once(stack, service) => (RestartPolicyNameEnum::NO, None),
        // Not `always`, which wakes what sleeps when the engine is restarted.
        Some(RestartCondition::Any) => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
    };
    RestartPolicy { name: Some(name), maximum_retry_count }
}

fn log_config(service: &ServiceSpec) -> HostConfigLogConfig {
    match &service.container.logging {
        Some(logging) => HostConfigLogConfig {
            typ: Some(logging.driver.clone()),
            config: Some(logging.options.clone().into_iter().collect()),
        },
        None => HostConfigLogConfig {
            // The driver `local` of some engines loses where a line of more than 16 KiB ends.
            typ: Some("json-file".into()),
            config: Some([("max-size", LOG_SIZE), ("max-file", LOG_FILES)].map(|(k, v)| (k.into(), v.into())).into()),
        },
    }
}

fn healthcheck(service: &ServiceSpec) -> HealthConfig {
    let Some(check) = &service.healthcheck else {
        // A program run to see whether another is healthy is a stray child to that one.
        return HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() };
    };
    let nanoseconds = |time: Option<Duration>| time.and_then(|time| i64::try_from(time.as_nanos()).ok());
    HealthConfig {
        test: (!check.test.is_empty()).then(|| check.test.clone()),
        interval: nanoseconds(check.interval),
        timeout: nanoseconds(check.timeout),
        start_period: nanoseconds(check.start_period),
        retries: check.retries.map(i64::from),
        ..HealthConfig::default()
    }
}

/// The kind of mount that fails when its source is missing, where the older one would make a directory there.
fn mounts(stack: &StackSpec, service: &ServiceSpec, names: Names<'_>, files: &[Shown]) -> Result<Vec<Mount>> {
    let bind = |source: &Path, target: &Path, read_only| Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.display().to_string()),
        read_only: Some(read_only),
        ..Mount::default()
    };
    let volume = |mount: &VolumeMount| {
        let key = mount.volume.as_ref();
        let spec = key.and_then(|key| stack.volumes.get(key)).cloned().unwrap_or_default();
        Mount {
            typ: Some(MountType::VOLUME),
            source: key.map(|key| names.volume(key, &spec)),
            target: Some(mount.target.display().to_string()),
            read_only: Some(mount.read_only),
            volume_options: mount
                .nocopy
                .then(|| MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() }),
            ..Mount::default()
        }
    };
    let tmpfs = |mount: &Tmpfs| {
        let size_bytes = mount.size.map(i64::try_from).transpose();
        let size_bytes = size_bytes.map_err(|_| Error::invalid("size of a tmpfs", "it is too large"))?;
        Ok(Mount {
            typ: Some(MountType::TMPFS),
            target: Some(mount.target.display().to_string()),
            tmpfs_options: Some(MountTmpfsOptions { size_bytes, mode: mount.mode.map(i64::from), options: None }),
            ..Mount::default()
        })
    };
    let given = service.mounts.iter().map(|mount| bind(&mount.source, &mount.target, mount.read_only));
    let files = files.iter().map(|file| bind(&file.source, &file.target, true));
    let plain = given.chain(service.volumes.iter().map(volume)).chain(files);
    plain.map(Ok).chain(service.tmpfs.iter().map(tmpfs)).collect()
}

/// Returns what the engine calls a published port.
fn port_key(port: Publish) -> String {
    let transport = match port.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
        Transport::Sctp => "sctp",
    };
    format!("{}/{transport}", port.target)
}

fn port_bindings(service: &ServiceSpec) -> HashMap<String, Option<Vec<PortBinding>>> {
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in &service.ports {
        let binding = PortBinding {
            host_ip: Some(port.published.ip().to_string()),
            host_port: Some(port.published.port().to_string()),
        };
        bindings.entry(format!("{}/tcp", port.target)).or_default().get_or_insert_default().push(binding);
    }
    for port in &service.publish {
        let host_port = port.published.map_or_else(String::new, |port| port.to_string());
        let binding = PortBinding { host_ip: Some(HOST.into()), host_port: Some(host_port) };
        bindings.entry(port_key(*port)).or_default().get_or_insert_default().push(binding);
    }
    bindings
}

/// Returns where the published ports of a running container are reached.
pub(super) fn endpoints(service: &ServiceSpec, container: &ContainerInspectResponse) -> Vec<Endpoint> {
    let ports = container.network_settings.as_ref().and_then(|settings| settings.ports.as_ref());
    let mut endpoints = Vec::new();
    for port in &service.publish {
        let bindings = ports.and_then(|ports| ports.get(&port_key(*port))?.as_ref()).into_iter().flatten();
        let ours = bindings.filter(|binding| binding.host_ip.as_deref() == Some(HOST));
        endpoints.extend(
            ours.filter_map(|binding| binding.host_port.as_ref())
                .map(|published| Endpoint { target: port.target, address: format!("{HOST}:{published}") }),
        );
    }
    endpoints.dedup();
    endpoints
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// It was never started.
    Created,
    /// It runs.
    Running,
    /// It has ended.
    Ended {
        /// Its exit status.
        status: Option<i32>,
    },
}

/// Reads what a container does, and its process on this host.
pub(super) fn doing(container: &ContainerInspectResponse) -> (Doing, Option<u32>) {
    use ContainerStateStatusEnum as Status;
    let Some(state) = &container.state else { return (Doing::Ended { status: None }, None) };
    match state.status {
        Some(Status::CREATED) => (Doing::Created, None),
        Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING | Status::STOPPING) => {
            let pid = state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
            (Doing::Running, pid)
        }
        _ => (Doing::Ended { status: state.exit_code.and_then(|status| i32::try_from(status).ok()) }, None),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::label::Labels;
    use crate::orchestrator::PublishedPort;

    #[test]
    fn a_service_becomes_a_container() {
        let mut service =
            ServiceSpec::new(ServiceName::new("main").expect("a name"), vec!["/bin/x".into(), "-v".into()]);
        service.image = Some("image:1".into());
        service.user = Some(RunAs { uid: 7, gid: 8 });
        service.ports = vec![PublishedPort { published: (Ipv4Addr::LOCALHOST, 5433).into(), target: 5432 }];
        service.mounts = vec![crate::orchestrator::Mount::same("/data", true)];
        service.env.insert("A".into(), "b=c".into());
        service.stop_signal = StopSignal::Int;
        let labels = Labels::new().with("test.a", "1").and_then(|l| l.with(STACK, "forged")).expect("labels");
        let name = StackName::new("s").expect("a name");
        let attempt = AttemptId::random().expect("randomness");
        let mut stack = StackSpec::new(name.clone(), attempt.clone(), vec![service.clone()]);
        stack.labels = labels;
        let names = Names { instance: "i", stack: &name, attempt: &attempt };
        assert_eq!(names.container(&service.name), "ondemand-i-s.main");

        let body = container(&stack, &service, names, None, &[]).expect("translated");
        assert_eq!(body.entrypoint, Some(vec!["/bin/x".into(), "-v".into()]));
        assert_eq!((body.user.as_deref(), body.stop_signal.as_deref()), (Some("7:8"), Some("SIGINT")));
        assert_eq!(body.env, Some(vec!["A=b=c".into()]));
        let labels = body.labels.expect("labels");
        assert_eq!(labels.get("test.a").map(String::as_str), Some("1"));
        assert_eq!(owner(&labels), Some((stack.id(), service.name.clone())), "ours cannot be forged");
        let host = body.host_config.expect("a host configuration");
        assert_eq!((host.init, host.binds, host.network_mode), (Some(true), None, None));
        let mount = &host.mounts.expect("mounts")[0];
        assert_eq!((mount.typ, mount.read_only), (Some(MountType::BIND), Some(true)));
        let binding = host.port_bindings.expect("ports").remove("5432/tcp").flatten().expect("a binding").remove(0);
        assert_eq!((binding.host_ip.as_deref(), binding.host_port.as_deref()), (Some("127.0.0.1"), Some("5433")));

        let joined = Joined { network: "net".into(), aliases: vec!["main".into()] };
        let own = container(&stack, &service, names, Some(&joined), &[]).expect("translated");
        assert_eq!(own.host_config.and_then(|host| host.network_mode).as_deref(), Some("net"));
        let endpoints = own.networking_config.and_then(|config| config.endpoints_config).expect("endpoints");
        assert_eq!(endpoints["net"].aliases.as_deref(), Some(&["main".to_owned()][..]));

        service.image = None;
        assert!(matches!(container(&stack, &service, names, None, &[]), Err(Error::Unsupported { .. })));
    }
}
