//! One service, key by key.

use std::path::{Path, PathBuf};

use super::field::Field;
use super::problem::{Problems, Read};
use super::{Document, deploy, environment, mounts, notation, order, ports};
use crate::name::ServiceName;
use crate::orchestrator::{
    EndpointMode, Healthcheck, Logging, NetworkAttachment, PublishMode, RunAs, ServiceSpec, StopSignal, Ulimit,
};

/// What people write that a cluster has no use for, and what to do instead.
const HINTS: [(&str, &str); 9] = [
    ("build", "build the image beforehand, and name it with `image`"),
    ("container_name", "replicas have names of their own; services are reached by theirs"),
    ("links", "services of a network reach each other by name"),
    ("network_mode", "use `networks`"),
    ("privileged", "use `cap_add`"),
    ("cpus", "use `deploy.resources.limits.cpus`"),
    ("mem_limit", "use `deploy.resources.limits.memory`"),
    ("scale", "use `deploy.replicas`"),
    ("profiles", "use `{% if %}` in a template"),
];

/// What is known of a service before all of its keys are read.
#[derive(Default)]
struct Parts {
    entrypoint: Option<Vec<String>>,
    command: Option<Vec<String>>,
    from_files: std::collections::BTreeMap<String, String>,
    restart: Option<crate::orchestrator::RestartPolicy>,
}

/// Translates a service; keeps what is wrong with it.
pub(super) fn translate(entry: &Field<'_>, document: &Document, problems: &mut Problems) -> Option<ServiceSpec> {
    let name = problems.keep(ServiceName::new(entry.name()).map(Some).map_err(|error| entry.problem(error)));
    if !entry.is_mapping() {
        problems.push(entry.problem("it must be a mapping"));
        return None;
    }
    let mut spec = ServiceSpec::new(name?, Vec::new());
    // Containers have one anyhow.
    spec.own_directory = true;
    let mut parts = Parts::default();
    for field in problems.keep(entry.entries()) {
        problems.keep(key(&field, document, &mut spec, &mut parts));
    }
    if spec.image.is_none() && entry.node.get("image").is_none() {
        problems.push(entry.problem("it has no image"));
    }
    let command = parts.command.unwrap_or_default();
    match parts.entrypoint {
        Some(entrypoint) => {
            spec.command = entrypoint.into_iter().chain(command).collect();
            if spec.command.is_empty() {
                problems.push(entry.problem("its entrypoint is emptied, and there is no command in its place"));
            }
        }
        None => spec.arguments = command,
    }
    for (name, value) in parts.from_files {
        spec.env.entry(name).or_insert(value);
    }
    let ingress = spec.publish.iter().any(|port| port.mode == PublishMode::Ingress);
    if ingress && spec.placement.endpoint_mode == Some(EndpointMode::Dnsrr) {
        problems.push(entry.problem("endpoint_mode dnsrr goes with ports in mode host, and not in mode ingress"));
    }
    if let Some(target) = twice(&spec) {
        problems.push(entry.problem(format!("two volumes have the target {:?}", target.to_string_lossy())));
    }
    if spec.placement.restart_policy.is_none() {
        // Where nothing is said, a Swarm starts again whatever ends, but for jobs.
        let usual = || (!spec.placement.mode.is_job()).then(crate::orchestrator::RestartPolicy::default);
        spec.placement.restart_policy = parts.restart.or_else(usual);
    }
    Some(spec)
}

/// Returns a place within the container that two things would be seen at.
fn twice(spec: &ServiceSpec) -> Option<&Path> {
    let mounts = spec.mounts.iter().map(|mount| &mount.target);
    let volumes = spec.volumes.iter().map(|mount| &mount.target);
    let mut seen = std::collections::BTreeSet::new();
    let mut targets = mounts.chain(volumes).chain(spec.tmpfs.iter().map(|tmpfs| &tmpfs.target));
    targets.find(|target| !seen.insert(*target)).map(PathBuf::as_path)
}

fn key(field: &Field<'_>, document: &Document, spec: &mut ServiceSpec, parts: &mut Parts) -> Read<()> {
    let container = &mut spec.container;
    match field.name() {
        "image" => spec.image = Some(field.word()?),
        "command" => parts.command = command(field)?,
        "entrypoint" => parts.entrypoint = command(field)?,
        "environment" => spec.env = environment::environment(field, document)?,
        "env_file" => parts.from_files = environment::env_file(field, document)?,
        "labels" => container.labels = field.pairs()?,
        "ports" => spec.publish = ports::published(field)?,
        "expose" => ports::exposed(field)?,
        "networks" => spec.networks = networks(field)?,
        "volumes" => mounts::volumes(field, document, spec)?,
        "tmpfs" => spec.tmpfs.extend(mounts::tmpfs(field)?),
        "secrets" => spec.secrets = mounts::file_mounts(field)?,
        "configs" => spec.configs = mounts::file_mounts(field)?,
        "healthcheck" => spec.healthcheck = Some(healthcheck(field)?),
        "depends_on" => spec.depends_on = order::dependencies(field, &document.services())?,
        "deploy" => deploy::deploy(field, spec)?,
        "stop_grace_period" => spec.stop_grace = field.duration()?,
        "stop_signal" => spec.stop_signal = stop_signal(field)?,
        "user" => user(field, spec)?,
        "working_dir" => spec.working_dir = Some(field.absolute()?),
        "hostname" => container.hostname = Some(field.word()?),
        "init" => container.init = Some(field.boolean()?),
        "cap_add" => container.cap_add = field.texts()?,
        "cap_drop" => container.cap_drop = field.texts()?,
        "read_only" => container.read_only = field.boolean()?,
        "extra_hosts" => container.extra_hosts = extra_hosts(field)?,
        "ulimits" => container.ulimits = ulimits(field)?,
        "sysctls" => container.sysctls = field.pairs()?,
        "logging" => container.logging = logging(field)?,
        "shm_size" => spec.shm_size = Some(field.bytes()?),
        "restart" => parts.restart = Some(deploy::restart(field)?),
        _ if field.is_extension() => {}
        name => {
            return Err(match HINTS.iter().find(|(key, _)| *key == name) {
                Some((_, hint)) => field.unsupported_because(hint),
                None => field.unsupported(),
            });
        }
    }
    Ok(())
}

/// Reads a command: a list of words, or a line that is split into words. Nothing leaves it to the image.
fn command(field: &Field<'_>) -> Read<Option<Vec<String>>> {
    if field.is_null() {
        return Ok(None);
    }
    if field.is_list() {
        return field.texts().map(Some);
    }
    notation::words(&field.text()?).map(Some).map_err(|reason| field.problem(reason))
}

fn networks(field: &Field<'_>) -> Read<Vec<NetworkAttachment>> {
    let mut all: Vec<NetworkAttachment> = Vec::new();
    if field.is_list() || field.is_null() {
        for item in field.items()? {
            let network = item.word()?;
            if all.iter().any(|other| other.network == network) {
                return Err(item.problem("the network is there twice"));
            }
            all.push(NetworkAttachment { network, aliases: Vec::new() });
        }
        return Ok(all);
    }
    for entry in field.entries()? {
        let mut aliases = Vec::new();
        for option in entry.entries()? {
            match option.name() {
                "aliases" => aliases = option.texts()?,
                _ if option.is_extension() => {}
                _ => return Err(option.unsupported()),
            }
        }
        all.push(NetworkAttachment { network: entry.name().to_owned(), aliases });
    }
    Ok(all)
}

fn healthcheck(check: &Field<'_>) -> Read<Healthcheck> {
    let mut health = Healthcheck { test: Vec::new(), interval: None, timeout: None, start_period: None, retries: None };
    let mut disabled = false;
    for field in check.entries()? {
        match field.name() {
            "test" if field.is_list() => {
                health.test = field.texts()?;
                match health.test.first().map(String::as_str) {
                    Some("NONE") if health.test.len() == 1 => {}
                    Some("CMD") if health.test.len() > 1 => {}
                    Some("CMD-SHELL") if health.test.len() == 2 => {}
                    _ => return Err(field.problem("it must be [CMD, program, …], [CMD-SHELL, line] or [NONE]")),
                }
            }
            "test" => health.test = vec!["CMD-SHELL".into(), field.word()?],
            "disable" => disabled = field.boolean()?,
            "interval" => health.interval = Some(field.duration()?),
            "timeout" => health.timeout = Some(field.duration()?),
            "start_period" => health.start_period = Some(field.duration()?),
            "retries" => health.retries = Some(field.whole()?),
            _ if field.is_extension() => {}
            _ => return Err(field.unsupported()),
        }
    }
    if disabled {
        health.test = vec!["NONE".into()];
    }
    Ok(health)
}

fn stop_signal(field: &Field<'_>) -> Read<StopSignal> {
    field.choice(&[
        ("SIGTERM", StopSignal::Term),
        ("SIGINT", StopSignal::Int),
        ("SIGQUIT", StopSignal::Quit),
        ("TERM", StopSignal::Term),
        ("INT", StopSignal::Int),
        ("QUIT", StopSignal::Quit),
    ])
}

fn user(field: &Field<'_>, spec: &mut ServiceSpec) -> Read<()> {
    let text = field.word()?;
    let ids = text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    match ids {
        Some((uid, gid)) => spec.user = Some(RunAs { uid, gid }),
        None => spec.container.user = Some(text),
    }
    Ok(())
}

fn extra_hosts(field: &Field<'_>) -> Read<Vec<(String, String)>> {
    let mut all = Vec::new();
    let mut add = |field: &Field<'_>, host: &str, address: &str| {
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        if host.is_empty() || bare.parse::<std::net::IpAddr>().is_err() {
            return Err(field.problem("it must be a host and its IP address, as in db:10.0.0.5"));
        }
        all.push((host.to_owned(), bare.to_owned()));
        Ok(())
    };
    if field.is_list() {
        for item in field.items()? {
            let text = item.text()?;
            // An address of version 6 has colons too.
            let (host, address) = text.split_once('=').or_else(|| text.split_once(':')).unwrap_or((&text, ""));
            add(&item, host, address)?;
        }
    } else {
        for entry in field.entries()? {
            for address in entry.text_or_texts()? {
                add(&entry, entry.name(), &address)?;
            }
        }
    }
    Ok(all)
}

fn ulimits(field: &Field<'_>) -> Read<std::collections::BTreeMap<String, Ulimit>> {
    let mut all = std::collections::BTreeMap::new();
    for entry in field.entries()? {
        let limit = if entry.is_mapping() {
            let (mut soft, mut hard) = (None, None);
            for field in entry.entries()? {
                match field.name() {
                    "soft" => soft = Some(field.whole()?),
                    "hard" => hard = Some(field.whole()?),
                    _ => return Err(field.unsupported()),
                }
            }
            match (soft, hard) {
                (Some(soft), Some(hard)) => Ulimit { soft, hard },
                _ => return Err(entry.problem("it needs both soft and hard")),
            }
        } else {
            let limit = entry.whole()?;
            Ulimit { soft: limit, hard: limit }
        };
        all.insert(entry.name().to_owned(), limit);
    }
    Ok(all)
}

fn logging(field: &Field<'_>) -> Read<Option<Logging>> {
    if field.is_null() {
        return Ok(None);
    }
    // The engine's usual one.
    let mut logging = Logging { driver: "json-file".into(), options: std::collections::BTreeMap::new() };
    for field in field.entries()? {
        match field.name() {
            "driver" => logging.driver = field.word()?,
            "options" => logging.options = field.pairs()?,
            _ if field.is_extension() => {}
            _ => return Err(field.unsupported()),
        }
    }
    Ok(Some(logging))
}
