//! What a stack of containers may ask for: ports, storage, networks, limits, dependencies.

use ondemand_core::Secret;
use ondemand_core::orchestrator::{
    Condition, ConfigSpec, ContainerOptions, Dependency, FileMount, Healthcheck, NetworkAttachment, NetworkSpec,
    Publish, Resources, RestartCondition, RestartPolicy, SecretSpec, Tmpfs, Ulimit, VolumeMount, VolumeSpec,
};

use super::*;

impl Containers {
    /// Returns the names of the volumes of this instance.
    async fn volumes(&self) -> Vec<String> {
        let volumes = client()
            .await
            .list_volumes(None::<bollard::query_parameters::ListVolumesOptions>)
            .await
            .expect("volumes")
            .volumes
            .unwrap_or_default();
        volumes.into_iter().map(|volume| volume.name).filter(|name| name.contains(&self.instance)).collect()
    }
}

/// Runs a service to its end, and returns what it wrote.
async fn run(docker: &Docker, spec: &StackSpec) -> Vec<String> {
    let deployed = docker.deploy(spec).await.expect("deployed");
    let ended = tokio::time::timeout(Duration::from_secs(60), docker.wait_stopped(&spec.name)).await;
    ended.expect("in time").expect("it ends");
    let written = lines(docker, &spec.name, LogOptions::default()).await;
    docker.remove(&deployed.id).await.expect("removed");
    written
}

fn file(source: &str) -> FileMount {
    FileMount { source: source.into(), target: None, uid: None, gid: None, mode: None }
}

#[tokio::test]
async fn storage_is_what_the_specification_says_and_goes_with_the_stack() {
    let containers = Containers::start();
    let docker = containers.docker();
    let mount = |volume: Option<&str>, target: &str, read_only| VolumeMount {
        volume: volume.map(str::to_owned),
        target: target.into(),
        read_only,
        nocopy: false,
    };
    let mut main = service(
        "main",
        "echo x >/data/x; echo x >/anonymous/x; (echo x >/ro/y) 2>/dev/null || echo ro; cat /ro/x; \
         stat -f -c %T /memory; stat -c %a /memory; echo x >/shared/x; ls /external",
    );
    main.volumes = vec![
        mount(Some("data"), "/data", false),
        mount(Some("data"), "/ro", true),
        mount(None, "/anonymous", false),
        mount(Some("shared"), "/shared", false),
        mount(Some("external"), "/external", false),
    ];
    main.tmpfs = vec![Tmpfs { target: "/memory".into(), size: Some(1 << 20), mode: Some(0o750) }];
    let mut spec = stack("a", vec![main]);
    let shared = format!("shared-{}", containers.instance);
    let external = format!("external-{}", containers.instance);
    spec.volumes.insert("data".into(), VolumeSpec::default());
    spec.volumes.insert("unused".into(), VolumeSpec::default());
    spec.volumes.insert("shared".into(), VolumeSpec { name: Some(shared.clone()), ..VolumeSpec::default() });
    spec.volumes.insert("external".into(), VolumeSpec { external: Some(external.clone()), ..VolumeSpec::default() });

    let missing = docker.deploy(&spec).await.expect_err("there is no such volume");
    assert!(matches!(&missing, Error::NotFound { name, .. } if *name == external), "{missing:?}");
    let client = client().await;
    let request = bollard::models::VolumeCreateRequest { name: Some(external.clone()), ..Default::default() };
    client.create_volume(request).await.expect("a volume");

    let written = run(&docker, &spec).await;
    let mut left = containers.volumes().await;
    left.sort();
    for volume in [&external, &shared] {
        client.remove_volume(volume, None::<bollard::query_parameters::RemoveVolumeOptions>).await.expect("removed");
    }
    assert_eq!(written, ["ro", "x", "tmpfs", "750"]);
    assert_eq!(left, [external, shared], "what others may use stays");
    assert_eq!(containers.left().await, (0, 0));
}

#[tokio::test]
async fn files_are_readable_where_they_are_wanted_and_gone_afterwards() {
    let containers = Containers::start();
    let docker = containers.docker();
    let mut main = service(
        "main",
        "id -u; cat $ONDEMAND_SECRETS_DIR/token; echo; stat -c '%a %u' /run/secrets/token /etc/key; cat /settings; echo; \
         (echo x >/run/secrets/token) 2>/dev/null || echo ro",
    );
    main.user = Some(RunAs { uid: 1234, gid: 2345 });
    let key = FileMount { target: Some("/etc/key".into()), uid: Some("1234".into()), mode: Some(0o400), ..file("key") };
    main.secrets = vec![file("token"), key];
    main.configs = vec![file("settings")];
    let mut spec = stack("a", vec![main]);
    spec.secrets.insert("token".into(), SecretSpec::Content(Secret::new("one")));
    spec.secrets.insert("key".into(), SecretSpec::Content(Secret::new("two")));
    spec.configs.insert("settings".into(), ConfigSpec::Content("three".into()));
    assert_eq!(run(&docker, &spec).await, ["1234", "one", "444 0", "400 1234", "three", "ro"]);
    let files = containers.dir.path().join("stacks-files");
    assert_eq!(std::fs::read_dir(&files).expect("a directory").count(), 0);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&files).expect("a directory").permissions());
    assert_eq!(mode & 0o777, 0o700, "nobody else of this host comes near them");

    spec.services[0].command = vec!["/no/such/program".into()];
    docker.deploy(&spec).await.expect_err("it is missing");
    assert_eq!(std::fs::read_dir(&files).expect("a directory").count(), 0, "a failed deployment leaves none");
}

#[tokio::test]
async fn networks_separate_services() {
    let containers = Containers::start();
    let docker = containers.docker();
    let join = |network: &str, aliases: &[&str]| NetworkAttachment {
        network: network.into(),
        aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
    };
    let mut db = service("db", "exec sleep 1000");
    db.networks = vec![join("back", &["postgres"])];
    let mut api = service("api", "exec sleep 1000");
    api.networks = vec![join("front", &[]), join("back", &[])];
    let find = "for name in api db postgres; do getent hosts $name >/dev/null && echo $name; done; exec sleep 1000";
    let mut front = service("front", find);
    front.networks = vec![join("front", &[])];
    let mut back = service("back", &find.replace("exec sleep 1000", "echo back"));
    back.networks = vec![join("back", &[])];
    let mut spec = stack("a", vec![db, api, front, back]);
    spec.networks.insert("front".into(), NetworkSpec::default());
    spec.networks.insert("back".into(), NetworkSpec { internal: true, ..NetworkSpec::default() });
    spec.networks.insert("unused".into(), NetworkSpec::default());
    let deployed = docker.deploy(&spec).await.expect("deployed");
    let options =
        |service: &str| LogOptions { service: ServiceName::new(service).ok(), follow: true, ..LogOptions::default() };
    let back = docker.logs(&spec.name, options("back")).take(4).map_ok(|line| line.text).try_collect::<Vec<_>>();
    let back = tokio::time::timeout(Duration::from_secs(60), back).await.expect("in time").expect("lines");
    let front = docker.logs(&spec.name, options("front")).take(1).map_ok(|line| line.text).try_collect::<Vec<_>>();
    let front = tokio::time::timeout(Duration::from_secs(60), front).await.expect("in time").expect("lines");
    let counted = containers.left().await;
    docker.remove(&deployed.id).await.expect("removed");
    assert_eq!(back, ["api", "db", "postgres", "back"]);
    assert_eq!(front, ["api"]);
    assert_eq!(counted, (4, 2), "what no service names is not made");
    assert_eq!(containers.left().await, (0, 0));

    spec.networks.insert("front".into(), NetworkSpec { external: Some("no-such".into()), ..NetworkSpec::default() });
    let missing = docker.deploy(&spec).await.expect_err("there is no such network");
    assert!(matches!(missing, Error::InvalidInput { .. }), "{missing:?}");
    assert_eq!(containers.left().await, (0, 0));
}

#[tokio::test]
async fn options_of_containers_are_applied() {
    let containers = Containers::start();
    let docker = containers.docker();
    let mut main = service(
        "main",
        "hostname; id -un; ulimit -n; (echo x >/x) 2>/dev/null || echo ro; getent hosts other | cut -d' ' -f1; \
         cat /proc/sys/net/ipv4/ip_unprivileged_port_start; grep CapEff /proc/self/status | cut -f2; exec sleep 1000",
    );
    main.container = ContainerOptions {
        user: Some("postgres".into()),
        hostname: Some("somewhere".into()),
        read_only: true,
        extra_hosts: vec![("other".into(), "192.0.2.7".into())],
        ulimits: [("nofile".into(), Ulimit { soft: 123, hard: 456 })].into(),
        sysctls: [("net.ipv4.ip_unprivileged_port_start".into(), "99".into())].into(),
        cap_drop: vec!["ALL".into()],
        labels: [("test.own".into(), "1".into())].into(),
        ..ContainerOptions::default()
    };
    main.labels.insert("test.service".into(), "2".into());
    main.placement.limits = Resources { nano_cpus: Some(500_000_000), memory: Some(64 << 20), pids: Some(50) };
    main.placement.restart_policy =
        Some(RestartPolicy { condition: RestartCondition::Any, ..RestartPolicy::default() });
    let spec = stack("a", vec![main]);
    let deployed = docker.deploy(&spec).await.expect("deployed");
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let seven = docker.logs(&spec.name, follow).take(7).map_ok(|line| line.text).try_collect::<Vec<_>>();
    let seven = tokio::time::timeout(Duration::from_secs(60), seven).await.expect("in time").expect("lines");
    let container = client().await.inspect_container(&format!("ondemand-{}-a.main", containers.instance), None).await;
    docker.remove(&deployed.id).await.expect("removed");
    assert_eq!(seven, ["somewhere", "postgres", "123", "ro", "192.0.2.7", "99", "0000000000000000"]);
    let container = container.expect("a container");
    let labels = container.config.and_then(|config| config.labels).expect("labels");
    assert_eq!((labels["test.own"].as_str(), labels["test.service"].as_str()), ("1", "2"));
    let host = container.host_config.expect("a host configuration");
    assert_eq!((host.nano_cpus, host.memory, host.pids_limit), (Some(500_000_000), Some(64 << 20), Some(50)));
    let policy = host.restart_policy.and_then(|policy| policy.name);
    assert_eq!(policy, Some(bollard::models::RestartPolicyNameEnum::UNLESS_STOPPED));
}

#[tokio::test]
async fn the_engine_restarts_what_its_policy_says_and_what_sleeps_stays_asleep() {
    let containers = Containers::start();
    let docker = containers.docker();
    let restart = |condition, max_attempts| Some(RestartPolicy { condition, max_attempts, ..RestartPolicy::default() });
    let mut main = service("main", "exit 5");
    main.placement.restart_policy = restart(RestartCondition::OnFailure, Some(2));
    let spec = stack("a", vec![main]);
    let deployed = docker.deploy(&spec).await.expect("deployed");
    let given_up = async {
        loop {
            let seen = docker.get(&spec.name).await.expect("a stack").services.remove(0);
            if let ServiceState::Exited { status } = seen.state {
                return (status, seen.restarts, seen.error);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let given_up = tokio::time::timeout(Duration::from_secs(60), given_up).await.expect("in time");
    docker.remove(&deployed.id).await.expect("removed");
    assert_eq!(given_up, (Some(5), 2, Some("it ended with status 5".into())));

    let mut main = service("main", "exec sleep 1000");
    main.placement.restart_policy = restart(RestartCondition::Any, None);
    let spec = stack("b", vec![main]);
    let deployed = docker.deploy(&spec).await.expect("deployed");
    docker.set_running(&spec.name, false).await.expect("asleep");
    // Longer than the engine's first pause before a restart.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(docker.get(&spec.name).await.expect("a stack").services[0].state, ServiceState::Asleep);
    docker.remove(&deployed.id).await.expect("removed");
    assert_eq!(containers.left().await, (0, 0));
}

#[tokio::test]
async fn a_fixed_port_is_published_on_loopback() {
    let containers = Containers::start();
    let docker = containers.docker();
    let port = free_address().port();
    let publish = |name: &str| {
        let mut main = service("main", "exec sleep 1000");
        main.publish = vec![Publish { published: Some(port), ..Publish::anywhere(80) }];
        stack(name, vec![main])
    };
    let first = docker.deploy(&publish("a")).await.expect("deployed");
    assert_eq!(first.services[0].endpoints[0].address, format!("127.0.0.1:{port}"));
    let conflict = docker.deploy(&publish("b")).await.expect_err("the port is taken");
    assert!(matches!(conflict, Error::Conflict { .. }) && conflict.to_string().contains("port"), "{conflict:?}");
    docker.remove(&first.id).await.expect("removed");
    assert_eq!(containers.left().await, (0, 0));
}

#[tokio::test]
async fn a_health_check_that_no_one_has_is_told() {
    let containers = Containers::start();
    let docker = containers.docker();
    let mut main = service("main", "exec sleep 1000");
    // That of the image, which has none.
    main.healthcheck =
        Some(Healthcheck { test: Vec::new(), interval: None, timeout: None, start_period: None, retries: None });
    let mut front = service("front", "exec sleep 1000");
    front.depends_on = vec![Dependency { service: main.name.clone(), condition: Condition::Healthy }];
    match docker.deploy(&stack("a", vec![front, main])).await {
        Err(Error::ServiceFailed { service, reason, .. }) => {
            assert_eq!(service, "main");
            assert!(reason.contains("health check"), "{reason}");
        }
        other => panic!("expected that it has no health check, got {other:?}"),
    }
    assert_eq!(containers.left().await, (0, 0));
}

#[tokio::test]
async fn arguments_are_for_the_images_own_entry_point() {
    let containers = Containers::start();
    let docker = containers.docker();
    let mut main = service("main", "");
    // The image has no entry point, so they are the command.
    main.command = Vec::new();
    main.arguments = ["/bin/echo", "hello", "there"].map(str::to_owned).to_vec();
    assert_eq!(run(&docker, &stack("a", vec![main])).await, ["hello there"]);
}
