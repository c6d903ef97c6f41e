//! What a plain process can do, and what it cannot.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::spawn::path_variable;
use crate::error::{Error, Kind, Result};
use crate::listing::{usable, usable_dir};
use crate::orchestrator::discovery::PORT;
use crate::orchestrator::files::other_user;
use crate::orchestrator::{
    ConfigSpec, DeployMode, Healthcheck, Publish, RunAs, SecretSpec, ServiceSpec, StackSpec, Transport,
};

/// What nearly every refusal recommends.
const USE_CONTAINERS: &str = "leave it out, or use an orchestrator of containers";

fn unsupported(message: String, hint: &str) -> Error {
    Error::Unsupported { message, hint: hint.into() }
}

/// Checks that plain processes can be what a stack asks for, apart from its services.
pub(super) fn check_stack(stack: &StackSpec) -> Result<()> {
    let used = |name: &String, secret: bool| {
        let files = |service: &ServiceSpec| if secret { service.secrets.clone() } else { service.configs.clone() };
        stack.services.iter().flat_map(files).any(|mount| mount.source == *name)
    };
    let secrets =
        stack.secrets.iter().filter(|(name, spec)| matches!(spec, SecretSpec::External(_)) && used(name, true));
    let configs =
        stack.configs.iter().filter(|(name, spec)| matches!(spec, ConfigSpec::External(_)) && used(name, false));
    let external = secrets.map(|(name, _)| ("secret", name)).chain(configs.map(|(name, _)| ("config", name))).next();
    match external {
        Some((kind, name)) => Err(unsupported(
            format!("the {kind} {name:?} is to exist already, and plain processes have no store of them"),
            "give its content, or use the Swarm orchestrator",
        )),
        None => Ok(()),
    }
}

/// Checks that a plain process that starts in `dir` can do what is asked, and returns its program. Where `dir` is one that is made for the
/// service, it need not be there yet.
pub(super) fn check(service: &ServiceSpec, dir: &Path) -> Result<PathBuf> {
    let name = &service.name;
    let refuse = |message: String, hint: &str| Err(unsupported(message, hint));
    if service.command.is_empty() {
        return refuse(
            format!("service {name} has no command, and a plain process has no image to take one from"),
            "give the service a command, or use the Docker orchestrator",
        );
    }
    if let Some(port) = service.ports.iter().find(|port| port.published.port() != port.target) {
        return refuse(
            format!(
                "service {name}: a plain process opens its ports itself, so port {} cannot be published as {}",
                port.target,
                port.published.port()
            ),
            "let the program listen on the published port, or use the Docker orchestrator",
        );
    }
    for mount in &service.mounts {
        if mount.source != mount.target {
            return refuse(
                format!(
                    "service {name}: a plain process sees the host as it is, so {} cannot be at {}",
                    mount.source.display(),
                    mount.target.display()
                ),
                "use the same path inside and outside, or use the Docker orchestrator",
            );
        }
        if !usable(&mount.source) {
            return Err(Error::not_found(Kind::File, mount.source.display()));
        }
    }
    if let Some(what) = only_for_containers(service) {
        return refuse(format!("service {name}: a plain process cannot have {what}"), USE_CONTAINERS);
    }
    service.publish.iter().enumerate().try_for_each(|(at, port)| fixed_port(service, at, *port).map(drop))?;
    if let Some(check) = &service.healthcheck {
        check_words(service, check)?;
    }
    if let Some(key) = service.env.keys().find(|key| !is_variable(key)) {
        let reason = format!("{key:?} is not a name of letters, digits and '_' that starts with no digit");
        return Err(Error::invalid(format!("environment of service {name}"), reason));
    }
    let checked = service.healthcheck.iter().flat_map(|check| &check.test);
    let texts = service.command.iter().chain(service.env.values()).chain(checked);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(Error::invalid(format!("command of service {name}"), "it holds a NUL character"));
    }
    if run_as(service)?.is_some_and(|user| other_user(user).is_some()) && !rustix::process::geteuid().is_root() {
        return refuse(
            format!("service {name} is to run as another user, and only root may do that"),
            "run as root, or leave the user out",
        );
    }
    if !service.own_directory && service.working_dir.is_some() && !usable_dir(dir) {
        return Err(Error::not_found(Kind::File, dir.display()));
    }
    if let Some(dir) = service.working_dir.as_ref().filter(|dir| service.own_directory && dir.is_absolute())
        && !usable_dir(dir)
    {
        return Err(Error::not_found(Kind::File, dir.display()));
    }
    find_program(service, dir)
}

/// Names what a service asks for that only a container can have.
fn only_for_containers(service: &ServiceSpec) -> Option<&'static str> {
    let container = &service.container;
    let mode = match service.placement.mode {
        DeployMode::Replicated(n) | DeployMode::ReplicatedJob(n) => n,
        DeployMode::Global | DeployMode::GlobalJob => 1,
    };
    [
        (!service.volumes.is_empty(), "volumes; a mount of a directory of the host, or a directory of its own, may do"),
        (!service.tmpfs.is_empty(), "a tmpfs"),
        (!container.cap_add.is_empty() || !container.cap_drop.is_empty(), "capabilities given or taken"),
        (container.read_only, "a root file system that is read-only"),
        (!container.extra_hosts.is_empty(), "hosts of its own"),
        (!container.ulimits.is_empty(), "limits of its own"),
        (!container.sysctls.is_empty(), "kernel parameters of its own"),
        (mode != 1, "any number of replicas but one"),
    ]
    .into_iter()
    .find_map(|(asked, what)| asked.then_some(what))
}

/// Returns whom a service runs as, where that is said.
pub(super) fn run_as(service: &ServiceSpec) -> Result<Option<RunAs>> {
    let Some(name) = service.container.user.as_ref().filter(|_| service.user.is_none()) else {
        return Ok(service.user);
    };
    let numbers =
        name.split_once(':').and_then(|(uid, gid)| Some(RunAs { uid: uid.parse().ok()?, gid: gid.parse().ok()? }));
    numbers.map(Some).ok_or_else(|| {
        unsupported(
            format!("service {}: a plain process runs as a user and a group by number, not as {name:?}", service.name),
            "write UID:GID, or leave the user out",
        )
    })
}

/// Returns the port that a published port must have, if it is not for the orchestrator to choose.
pub(super) fn fixed_port(service: &ServiceSpec, at: usize, port: Publish) -> Result<Option<u16>> {
    let name = &service.name;
    // One host is all hosts, so it does not matter which of them publish it.
    if port.transport != Transport::Tcp {
        return Err(unsupported(
            format!(
                "service {name}: only TCP ports of plain processes are published, and port {} is another",
                port.target
            ),
            USE_CONTAINERS,
        ));
    }
    if let Some(published) = port.published.filter(|published| *published != port.target) {
        return Err(unsupported(
            format!(
                "service {name}: a plain process opens its ports itself, so port {} cannot be published as {published}",
                port.target
            ),
            "leave the published port out, and let the program listen on $PORT; or use the Docker orchestrator",
        ));
    }
    let Some(given) = service.env.get(PORT).filter(|_| at == 0) else { return Ok(port.published) };
    let invalid = |reason: String| Error::invalid(format!("PORT of service {name}"), reason);
    let given = given.parse().ok().filter(|port| *port != 0);
    let given = given.ok_or_else(|| invalid("it is not the number of a port, 1 to 65535".into()))?;
    match port.published.filter(|published| *published != given) {
        Some(published) => Err(invalid(format!("it is {given}, and port {published} is published"))),
        None => Ok(Some(given)),
    }
}

/// Returns the program, with its arguments, that tells whether a service is healthy; `None` if nothing does.
pub(super) fn check_words(service: &ServiceSpec, check: &Healthcheck) -> Result<Option<Vec<String>>> {
    let invalid = |reason: &str| Err(Error::invalid(format!("health check of service {}", service.name), reason));
    let words: Vec<&str> = check.test.iter().map(String::as_str).collect();
    match words[..] {
        [] => Err(unsupported(
            format!("service {}: a plain process has no image to take a health check from", service.name),
            "write the check's test, or use the Docker orchestrator",
        )),
        ["NONE"] => Ok(None),
        ["CMD", _, ..] => Ok(Some(check.test[1..].to_vec())),
        ["CMD-SHELL", line] => Ok(Some(["/bin/sh", "-c", line].map(str::to_owned).to_vec())),
        ["CMD"] => invalid("`CMD` needs a program"),
        ["CMD-SHELL", ..] => invalid("`CMD-SHELL` needs one line for the shell"),
        _ => invalid("it must begin with `CMD`, `CMD-SHELL` or `NONE`"),
    }
}

fn is_variable(key: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    key.bytes().all(inner) && key.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

fn find_program(service: &ServiceSpec, dir: &Path) -> Result<PathBuf> {
    let given = service.command[0].as_str();
    if given.contains('/') {
        let path = dir.join(given);
        if !usable(&path) {
            return Err(Error::not_found(Kind::File, given));
        }
        if !is_executable(&path) {
            return Err(Error::invalid(format!("program {given}"), "it is not an executable file"));
        }
        return Ok(path);
    }
    let path = path_variable(&service.env);
    let mut found = std::env::split_paths(&path).map(|entry| dir.join(entry).join(given));
    found
        .find(|path| is_executable(path))
        .filter(|_| !given.is_empty())
        .ok_or_else(|| Error::not_found(Kind::File, given))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ServiceName;
    use crate::orchestrator::{Mount, PublishMode, PublishedPort, Tmpfs, Ulimit, VolumeMount};

    fn service(command: &[&str]) -> ServiceSpec {
        ServiceSpec::new(
            ServiceName::new("main").expect("a name"),
            command.iter().map(|&word| word.to_owned()).collect(),
        )
    }

    fn check(service: &ServiceSpec) -> Result<PathBuf> {
        super::check(service, service.working_dir.as_deref().unwrap_or(Path::new("/")))
    }

    #[test]
    fn what_only_containers_have_is_refused_with_a_hint() {
        let publish = |change: fn(&mut Publish)| {
            let mut port = Publish::anywhere(80);
            change(&mut port);
            vec![port]
        };
        let ports: [fn(&mut Publish); 3] = [
            |port| port.transport = Transport::Udp,
            |port| port.transport = Transport::Sctp,
            |port| port.published = Some(81),
        ];
        for change in ports {
            let mut spec = service(&["true"]);
            spec.publish = publish(change);
            assert!(matches!(check(&spec), Err(Error::Unsupported { .. })), "{spec:?}");
        }
        let volume = || VolumeMount { volume: None, target: "/x".into(), read_only: false, nocopy: false };
        let changes: [&dyn Fn(&mut ServiceSpec); 13] = [
            &|spec| spec.volumes = vec![volume()],
            &|spec| spec.tmpfs = vec![Tmpfs { target: "/x".into(), size: None, mode: None }],
            &|spec| spec.container.cap_add = vec!["NET_ADMIN".into()],
            &|spec| spec.container.cap_drop = vec!["ALL".into()],
            &|spec| spec.container.read_only = true,
            &|spec| spec.container.extra_hosts = vec![("a".into(), "127.0.0.1".into())],
            &|spec| spec.container.ulimits = [("nofile".into(), Ulimit { soft: 1, hard: 1 })].into(),
            &|spec| spec.container.sysctls = [("a".into(), "b".into())].into(),
            &|spec| spec.container.user = Some("postgres".into()),
            &|spec| spec.placement.mode = DeployMode::Replicated(2),
            &|spec| spec.placement.mode = DeployMode::Replicated(0),
            &|spec| spec.placement.mode = DeployMode::ReplicatedJob(2),
            &|spec| {
                let none = None::<std::time::Duration>;
                let (interval, timeout, start_period) = (none, none, none);
                spec.healthcheck =
                    Some(Healthcheck { test: Vec::new(), interval, timeout, start_period, retries: None });
            },
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut spec = service(&["true"]);
            change(&mut spec);
            let error = check(&spec).expect_err("not for plain processes");
            assert!(matches!(error, Error::Unsupported { .. }) && error.hint().is_some(), "{n}: {error:?}");
        }
    }

    #[test]
    fn what_means_nothing_to_a_process_is_accepted() {
        let mut spec = service(&["true"]);
        spec.container.hostname = Some("a".into());
        spec.container.init = Some(true);
        spec.placement.mode = DeployMode::Global;
        spec.placement.constraints = vec!["node.role == manager".into()];
        spec.placement.limits.memory = Some(1);
        spec.publish = vec![Publish { mode: PublishMode::Ingress, ..Publish::anywhere(80) }];
        check(&spec).expect("accepted");
    }

    #[test]
    fn a_port_is_fixed_by_the_specification_or_by_a_variable() {
        let mut spec = service(&["true"]);
        let port = Publish::anywhere(80);
        let fixed = Publish { published: Some(80), ..port };
        assert_eq!(fixed_port(&spec, 0, port).expect("valid"), None);
        assert_eq!(fixed_port(&spec, 0, fixed).expect("valid"), Some(80));
        spec.env.insert(PORT.into(), "8080".into());
        assert_eq!(fixed_port(&spec, 0, port).expect("valid"), Some(8080));
        assert_eq!(fixed_port(&spec, 1, port).expect("valid"), None, "it is the first port's");
        assert!(matches!(fixed_port(&spec, 0, fixed), Err(Error::InvalidInput { .. })), "they differ");
        for wrong in ["", "0", "65536", "http", "-1"] {
            spec.env.insert(PORT.into(), wrong.into());
            assert!(matches!(fixed_port(&spec, 0, port), Err(Error::InvalidInput { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_user_is_a_pair_of_numbers() {
        let mut spec = service(&["true"]);
        assert_eq!(run_as(&spec).expect("valid"), None);
        spec.container.user = Some("7:8".into());
        assert_eq!(run_as(&spec).expect("valid"), Some(RunAs { uid: 7, gid: 8 }));
        spec.user = Some(RunAs { uid: 1, gid: 2 });
        assert_eq!(run_as(&spec).expect("valid"), spec.user);
    }

    #[test]
    fn a_health_check_is_a_program_or_a_line() {
        let spec = service(&["true"]);
        let words = |test: &[&str]| {
            let test = test.iter().map(|&word| word.to_owned()).collect();
            let check = Healthcheck { test, interval: None, timeout: None, start_period: None, retries: None };
            check_words(&spec, &check)
        };
        assert_eq!(words(&["NONE"]).expect("valid"), None);
        assert_eq!(words(&["CMD", "a", "b"]).expect("valid"), Some(vec!["a".into(), "b".into()]));
        assert_eq!(
            words(&["CMD-SHELL", "a b"]).expect("valid"),
            Some(vec!["/bin/sh".into(), "-c".into(), "a b".into()])
        );
        for wrong in [&["CMD"][..], &["CMD-SHELL"], &["CMD-SHELL", "a", "b"], &["curl", "x"], &["NONE", "x"]] {
            assert!(matches!(words(wrong), Err(Error::InvalidInput { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_a_hint() {
        let mut image_only = service(&[]);
        image_only.image = Some("postgres".into());
        let mut port = service(&["true"]);
        port.ports = vec![PublishedPort { published: ([127, 0, 0, 1], 80).into(), target: 81 }];
        let mut mount = service(&["true"]);
        mount.mounts = vec![Mount { source: "/tmp".into(), target: "/data".into(), read_only: false }];
        for spec in [image_only, port, mount] {
            let error = check(&spec).expect_err("not for plain processes");
            assert!(matches!(error, Error::Unsupported { .. }) && error.hint().is_some(), "{error:?}");
        }
    }

    #[test]
    fn what_does_not_exist_is_named() {
        let mut dir = service(&["true"]);
        dir.working_dir = Some("/no/such/dir".into());
        let mut mount = service(&["true"]);
        mount.mounts = vec![Mount::same("/no/such/dir", false)];
        for (spec, missing) in [
            (service(&["/no/such/program"]), "/no/such/program"),
            (service(&["no-such-program"]), "no-such-program"),
            (service(&[""]), ""),
            (dir, "/no/such/dir"),
            (mount, "/no/such/dir"),
        ] {
            match check(&spec).expect_err("something is missing") {
                Error::NotFound { kind: Kind::File, name } => assert_eq!(name, missing),
                other => panic!("{other:?}"),
            }
        }
        for not_a_program in ["/etc/passwd", "/etc"] {
            let error = check(&service(&[not_a_program])).expect_err("it cannot be run");
            assert!(matches!(error, Error::InvalidInput { .. }), "{error:?}");
        }
        let mut bad = service(&["true"]);
        bad.env.insert("A=B".into(), String::new());
        assert!(matches!(check(&bad), Err(Error::InvalidInput { .. })));
    }
}
