//! From services to containers, and back.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, EndpointSettings, HealthConfig,
    HostConfig, HostConfigLogConfig, Mount, MountType, NetworkingConfig, PortBinding, RestartPolicy,
    RestartPolicyNameEnum,
};

use crate::error::{Error, Result};
use crate::label::keys;
use crate::name::{AttemptId, ServiceName, StackName};
use crate::orchestrator::{RunAs, ServiceSpec, StackId, StackSpec, StopSignal};

/// The label that says which stack a thing belongs to.
pub(super) const STACK: &str = "ondemand.stack";
/// The label that says which service a container runs.
pub(super) const SERVICE: &str = "ondemand.service";

/// What a container's log may take on disk: this, times [`LOG_FILES`].
const LOG_SIZE: &str = "10m";
/// In how many files.
const LOG_FILES: &str = "3";

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
pub(super) fn label_filter(labels: HashMap<String, String>) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect())])
}

/// Tells which deployment and service a container belongs to by its labels.
pub(super) fn owner(labels: &HashMap<String, String>) -> Option<(StackId, ServiceName)> {
    let name = StackName::new(labels.get(STACK)?.as_str()).ok()?;
    let attempt = AttemptId::new(labels.get(keys::ATTEMPT)?.as_str()).ok()?;
    Some((StackId::of(&name, &attempt), ServiceName::new(labels.get(SERVICE)?.as_str()).ok()?))
}

/// Returns the image that a service runs from.
pub(super) fn image(service: &ServiceSpec) -> Result<&str> {
    service.image.as_deref().filter(|image| !image.is_empty()).ok_or_else(|| Error::Unsupported {
        message: format!("service {} has no image, and a container needs one", service.name),
        hint: "name an image, or use the process orchestrator".into(),
    })
}

/// Returns the name of a signal as the engine takes it.
pub(super) fn signal(signal: StopSignal) -> &'static str {
    match signal {
        StopSignal::Term => "SIGTERM",
        StopSignal::Int => "SIGINT",
        StopSignal::Quit => "SIGQUIT",
    }
}

/// Translates one service of a stack. `network` is the stack's own, where it has one.
pub(super) fn container(
    stack: &StackSpec,
    service: &ServiceSpec,
    names: Names<'_>,
    network: Option<&str>,
) -> Result<ContainerCreateBody> {
    let mut labels: HashMap<String, String> =
        stack.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    labels.extend(names.labels());
    labels.insert(SERVICE.to_owned(), service.name.to_string());
    let endpoint = EndpointSettings { aliases: Some(vec![service.name.to_string()]), ..EndpointSettings::default() };
    let shm_size = service.shm_size.map(i64::try_from).transpose();
    Ok(ContainerCreateBody {
        image: Some(image(service)?.to_owned()),
        // As the entry point: one that the image has would take the command as its arguments.
        entrypoint: (!service.command.is_empty()).then(|| service.command.clone()),
        env: Some(service.env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        user: service.user.map(|RunAs { uid, gid }| format!("{uid}:{gid}")),
        working_dir: service.working_dir.as_ref().map(|dir| dir.display().to_string()),
        labels: Some(labels),
        stop_signal: Some(signal(service.stop_signal).to_owned()),
        stop_timeout: i64::try_from(service.stop_grace.as_secs()).ok(),
        // A program run to see whether another is healthy is a stray child to that one.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
        exposed_ports: Some(service.ports.iter().map(|port| format!("{}/tcp", port.target)).collect()),
        host_config: Some(HostConfig {
            // Reaps stray children and passes signals on.
            init: Some(true),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            mounts: Some(mounts(service)),
            port_bindings: Some(port_bindings(service)),
            shm_size: shm_size.map_err(|_| Error::invalid("shm_size", "it is too large"))?,
            log_config: Some(HostConfigLogConfig {
                // The driver `local` of some engines loses where a line of more than 16 KiB ends.
                typ: Some("json-file".into()),
                config: Some(
                    [("max-size", LOG_SIZE), ("max-file", LOG_FILES)].map(|(k, v)| (k.into(), v.into())).into(),
                ),
            }),
            network_mode: network.map(str::to_owned),
            ..HostConfig::default()
        }),
        networking_config: network.map(|network| NetworkingConfig {
            endpoints_config: Some(HashMap::from([(network.to_owned(), endpoint)])),
        }),
        ..ContainerCreateBody::default()
    })
}

/// The kind of mount that fails when its source is missing, where the older one would make a directory there.
fn mounts(service: &ServiceSpec) -> Vec<Mount> {
    let mount = |mount: &crate::orchestrator::Mount| Mount {
        typ: Some(MountType::BIND),
        source: Some(mount.source.display().to_string()),
        target: Some(mount.target.display().to_string()),
        read_only: Some(mount.read_only),
        ..Mount::default()
    };
    service.mounts.iter().map(mount).collect()
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
    bindings
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

        let body = container(&stack, &service, names, None).expect("translated");
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

        let own = container(&stack, &service, names, Some("net")).expect("translated");
        assert_eq!(own.host_config.and_then(|host| host.network_mode).as_deref(), Some("net"));
        let endpoints = own.networking_config.and_then(|config| config.endpoints_config).expect("endpoints");
        assert_eq!(endpoints["net"].aliases.as_deref(), Some(&["main".to_owned()][..]));

        service.image = None;
        assert!(matches!(container(&stack, &service, names, None), Err(Error::Unsupported { .. })));
    }
}
