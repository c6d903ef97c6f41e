//! What each key means.

use super::*;
use crate::orchestrator::RestartPolicy;

fn keys(text: &str) -> ServiceSpec {
    service(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn commands_and_entry_points_are_what_the_image_runs() {
    for (text, command, arguments) in [
        ("command: run --fast 'a b'", &[][..], &["run", "--fast", "a b"][..]),
        ("command: [run, \"a b\", 1, true]", &[], &["run", "a b", "1", "true"]),
        ("entrypoint: sh -c", &["sh", "-c"], &[]),
        ("entrypoint: [sh, -c]\ncommand: 'a'", &["sh", "-c", "a"], &[]),
        ("entrypoint: []\ncommand: [a]", &["a"], &[]),
        ("command:", &[], &[]),
        ("command: []", &[], &[]),
    ] {
        let spec = keys(text);
        assert_eq!((spec.command, spec.arguments), (words(command), words(arguments)), "{text}");
    }
}

#[test]
fn environment_is_a_map_or_a_list() {
    let expected = map(&[("A", "1"), ("B", "x=y"), ("C", ""), ("TAG", "1.2"), ("D", "true")]);
    assert_eq!(keys("environment: {A: 1, B: x=y, C: '', TAG: , D: true, NONE: }").env, expected);
    assert_eq!(keys("environment: [A=1, B=x=y, C=, TAG, D=true, NONE]").env, expected);
}

#[test]
fn environment_files_are_read_beside_the_document() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("a.env"), "# comment\nA=1\nB='$TAG'\nexport C=\"${TAG}\"\nTAG\nE=$C.0 # x\n")
        .expect("written");
    std::fs::write(directory.path().join("b.env"), "A=2\nF=file\n").expect("written");
    let text = "services: {back: {image: x, env_file: [a.env, {path: ./b.env}, {path: none, required: false}], environment: {F: own}}}";
    let stack = stack_of(&document_in(text, Some(directory.path())).expect("read")).expect("translated");
    let expected = [("A", "2"), ("B", "$TAG"), ("C", "1.2"), ("TAG", "1.2"), ("E", "1.2.0"), ("F", "own")];
    assert_eq!(stack.services[0].env, map(&expected));
}

#[test]
fn labels_of_the_container_and_of_the_service_are_apart() {
    let spec = keys("labels: [a=1, b]\ndeploy: {labels: {c: 2}}");
    assert_eq!(spec.container.labels, map(&[("a", "1"), ("b", "")]));
    assert_eq!(spec.labels, map(&[("c", "2")]));
}

#[test]
fn ports_have_a_short_and_a_long_form() {
    let port = |target, published| Publish { target, published, transport: Transport::Tcp, mode: PublishMode::Ingress };
    for (text, expected) in [
        ("[80]", vec![port(80, None)]),
        ("['8080:80']", vec![port(80, Some(8080))]),
        ("['8000-8001:80-81']", vec![port(80, Some(8000)), port(81, Some(8001))]),
        ("['53:53/udp']", vec![Publish { transport: Transport::Udp, ..port(53, Some(53)) }]),
        ("['80-81']", vec![port(80, None), port(81, None)]),
        ("[{target: 80}]", vec![port(80, None)]),
        (
            "[{target: '80', published: '8080', protocol: udp, mode: host}]",
            vec![Publish { target: 80, published: Some(8080), transport: Transport::Udp, mode: PublishMode::Host }],
        ),
        // The same port of the host, once for each protocol.
        (
            "['53:53', '53:53/udp']",
            vec![port(53, Some(53)), Publish { transport: Transport::Udp, ..port(53, Some(53)) }],
        ),
    ] {
        assert_eq!(keys(&format!("ports: {text}")).publish, expected, "{text}");
    }
    // Nothing to do: what is exposed can be reached.
    assert_eq!(keys("expose: [80, '81-82/tcp']"), keys(""));
}

#[test]
fn networks_have_aliases() {
    let network = |name: &str, aliases: &[&str]| NetworkAttachment { network: name.into(), aliases: words(aliases) };
    assert_eq!(keys("networks: [front, back]").networks, [network("front", &[]), network("back", &[])]);
    assert_eq!(
        keys("networks: {front: {aliases: [api, www]}, back: }").networks,
        [network("front", &["api", "www"]), network("back", &[])]
    );
}

#[test]
fn the_default_network_is_shared_by_those_that_name_none() {
    let stack = stack("services: {a: {image: x}, b: {image: x, networks: [default, front]}}\nnetworks: {front: {}}")
        .expect("translated");
    assert_eq!(stack.services[0].networks, [NetworkAttachment { network: "default".into(), aliases: vec![] }]);
    assert_eq!(stack.networks.keys().collect::<Vec<_>>(), ["default", "front"]);
    assert_eq!(keys("").networks, [], "no service speaks of it, so the orchestrator's own will do");
}

#[test]
fn volumes_have_a_short_and_a_long_form() {
    let spec = keys(
        "volumes:\n- /anonymous\n- data:/data:ro,nocopy\n- /host:/inside:ro\n\
         - {type: volume, source: data, target: /more, read_only: true, volume: {nocopy: true}}\n\
         - {type: bind, source: /etc, target: /etc2}\n- {type: tmpfs, target: /t, tmpfs: {size: 64M, mode: 01777}}\n\
         - {type: volume, target: /anonymous2}",
    );
    let volume = |volume: Option<&str>, target: &str, set: bool| crate::orchestrator::VolumeMount {
        volume: volume.map(str::to_owned),
        target: target.into(),
        read_only: set,
        nocopy: set,
    };
    assert_eq!(
        spec.volumes,
        [
            volume(None, "/anonymous", false),
            volume(Some("data"), "/data", true),
            volume(Some("data"), "/more", true),
            volume(None, "/anonymous2", false),
        ]
    );
    let bind = |source: &str, target: &str, read_only| crate::orchestrator::Mount {
        source: source.into(),
        target: target.into(),
        read_only,
    };
    assert_eq!(spec.mounts, [bind("/host", "/inside", true), bind("/etc", "/etc2", false)]);
    assert_eq!(
        spec.tmpfs,
        [crate::orchestrator::Tmpfs { target: "/t".into(), size: Some(64 << 20), mode: Some(0o1777) }]
    );
}

#[test]
fn a_directory_of_the_host_may_be_named_from_the_document() {
    let text = "services: {back: {image: x, volumes: ['./conf/a:/a', {type: bind, source: ., target: /b}]}}";
    let stack = stack_of(&document_in(text, Some(Path::new("/srv/templates"))).expect("read")).expect("translated");
    let sources: Vec<_> = stack.services[0].mounts.iter().map(|mount| mount.source.clone()).collect();
    assert_eq!(sources, [PathBuf::from("/srv/templates/conf/a"), PathBuf::from("/srv/templates")]);
}

#[test]
fn memory_is_text_or_a_list() {
    let tmpfs = |target: &str, size, mode| crate::orchestrator::Tmpfs { target: target.into(), size, mode };
    assert_eq!(keys("tmpfs: /run").tmpfs, [tmpfs("/run", None, None)]);
    assert_eq!(
        keys("tmpfs: ['/run:size=64m,mode=700', /tmp]").tmpfs,
        [tmpfs("/run", Some(64 << 20), Some(0o700)), tmpfs("/tmp", None, None)]
    );
}

#[test]
fn secrets_and_configs_have_a_short_and_a_long_form() {
    let spec = keys(
        "secrets: [token, {source: token, target: t, uid: '1000', gid: 0, mode: 0440}]\nconfigs: [{source: conf, target: /etc/c, mode: '0444'}]",
    );
    let short =
        crate::orchestrator::FileMount { source: "token".into(), target: None, uid: None, gid: None, mode: None };
    let long = crate::orchestrator::FileMount {
        target: Some("t".into()),
        uid: Some("1000".into()),
        gid: Some("0".into()),
        mode: Some(0o440),
        ..short.clone()
    };
    assert_eq!(spec.secrets, [short.clone(), long]);
    let config = crate::orchestrator::FileMount {
        source: "conf".into(),
        target: Some("/etc/c".into()),
        mode: Some(0o444),
        ..short
    };
    assert_eq!(spec.configs, [config]);
}

#[test]
fn health_is_a_line_or_a_list_or_nothing() {
    let health = |text: &str| keys(&format!("healthcheck: {text}")).healthcheck.expect("a health check");
    let full =
        health("{test: curl -f http://localhost, interval: 1m30s, timeout: 10s, start_period: 40s, retries: '3'}");
    assert_eq!(full.test, words(&["CMD-SHELL", "curl -f http://localhost"]));
    let times = (full.interval, full.timeout, full.start_period, full.retries);
    let seconds = |n| Some(Duration::from_secs(n));
    assert_eq!(times, (seconds(90), seconds(10), seconds(40), Some(3)));
    assert_eq!(health("{test: [CMD, a, b]}").test, words(&["CMD", "a", "b"]));
    assert_eq!(health("{test: [NONE]}").test, words(&["NONE"]));
    assert_eq!(health("{disable: true}").test, words(&["NONE"]));
    assert_eq!(health("{interval: 5s}").test, words(&[]));
}

#[test]
fn services_start_after_those_they_depend_on() {
    let stack = stack(
        "services:\n  web: {image: x, depends_on: [api]}\n  free: {image: x}\n  \
         api: {image: x, depends_on: {db: {condition: service_healthy}, init: {condition: service_completed_successfully, required: true}, gone: {required: false}}}\n  \
         init: {image: x, depends_on: {db: {condition: service_started, restart: false}}}\n  db: {image: x}",
    )
    .expect("translated");
    let names: Vec<_> = stack.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["free", "db", "init", "api", "web"]);
    let conditions: Vec<_> = stack.services[3].depends_on.iter().map(|d| (d.service.as_str(), d.condition)).collect();
    assert_eq!(conditions, [("db", Condition::Healthy), ("init", Condition::CompletedSuccessfully)]);
}

#[test]
fn deploy_says_how_many_and_where() {
    let spec = keys(
        "deploy:\n  mode: replicated\n  replicas: ${COUNT}\n  endpoint_mode: dnsrr\n  \
         placement: {constraints: [node.role == worker], preferences: [{spread: node.labels.zone}], max_replicas_per_node: 2}\n  \
         resources: {limits: {cpus: '0.50', memory: 512M, pids: 100}, reservations: {cpus: 0.25, memory: 64m}}\n  \
         restart_policy: {condition: on-failure, delay: 5s, max_attempts: 3, window: 2m}\n  \
         update_config: {parallelism: 2, delay: 10s, failure_action: rollback, monitor: 1m, max_failure_ratio: 0.1, order: start-first}\n  \
         rollback_config: {parallelism: 0, failure_action: pause, order: stop-first}",
    );
    let placement = spec.placement;
    assert_eq!(placement.mode, DeployMode::Replicated(3));
    assert_eq!(placement.endpoint_mode, Some(EndpointMode::Dnsrr));
    assert_eq!(placement.constraints, ["node.role == worker"]);
    assert_eq!(placement.spread, ["node.labels.zone"]);
    assert_eq!(placement.max_replicas_per_node, Some(2));
    let limits = (placement.limits.nano_cpus, placement.limits.memory, placement.limits.pids);
    assert_eq!(limits, (Some(500_000_000), Some(512 << 20), Some(100)));
    let reserved = (placement.reservations.nano_cpus, placement.reservations.memory);
    assert_eq!(reserved, (Some(250_000_000), Some(64 << 20)));
    let restart = placement.restart_policy.expect("a policy");
    assert_eq!(restart.condition, RestartCondition::OnFailure);
    assert_eq!((restart.delay, restart.max_attempts), (Some(Duration::from_secs(5)), Some(3)));
    assert_eq!(restart.window, Some(Duration::from_secs(120)));
    let update = placement.update.expect("how to update");
    assert_eq!((update.parallelism, update.delay), (Some(2), Some(Duration::from_secs(10))));
    assert_eq!((update.failure_action, update.order), (Some(FailureAction::Rollback), Some(Order::StartFirst)));
    assert_eq!((update.monitor, update.max_failure_ratio), (Some(Duration::from_secs(60)), Some(0.1)));
    let rollback = placement.rollback.expect("how to take it back");
    assert_eq!((rollback.parallelism, rollback.failure_action), (Some(0), Some(FailureAction::Pause)));
}

#[test]
fn deploy_has_four_modes() {
    for (text, mode) in [
        ("{}", DeployMode::Replicated(1)),
        ("{mode: global}", DeployMode::Global),
        ("{mode: global-job}", DeployMode::GlobalJob),
        ("{mode: replicated-job}", DeployMode::ReplicatedJob(1)),
        ("{mode: replicated-job, replicas: '4'}", DeployMode::ReplicatedJob(4)),
        ("{replicas: 0}", DeployMode::Replicated(0)),
    ] {
        assert_eq!(keys(&format!("deploy: {text}")).placement.mode, mode, "{text}");
    }
}

#[test]
fn restart_is_a_policy_where_deploy_has_none() {
    for (text, condition, attempts) in [
        ("restart: no", RestartCondition::None, None),
        ("restart: 'no'", RestartCondition::None, None),
        ("restart: false", RestartCondition::None, None),
        ("restart: always", RestartCondition::Any, None),
        ("restart: unless-stopped", RestartCondition::Any, None),
        ("restart: on-failure:5", RestartCondition::OnFailure, Some(5)),
        ("restart: always\ndeploy: {restart_policy: {condition: none}}", RestartCondition::None, None),
    ] {
        let policy = keys(text).placement.restart_policy.expect(text);
        assert_eq!((policy.condition, policy.max_attempts), (condition, attempts), "{text}");
    }
    assert_eq!(keys("").placement.restart_policy, Some(RestartPolicy::default()), "as a Swarm has it");
    assert_eq!(keys("deploy: {mode: replicated-job}").placement.restart_policy, None);
}

#[test]
fn containers_have_options() {
    let spec = keys(
        "stop_grace_period: 1m30s\nstop_signal: SIGQUIT\nuser: '1000:1001'\nworking_dir: /srv\ninit: true\ncap_add: [NET_ADMIN]\n\
         cap_drop: [ALL]\nread_only: 'yes'\nhostname: api\nshm_size: 64M\nsysctls: {net.core.somaxconn: 1024}\n\
         extra_hosts: ['a:10.0.0.1', 'b=10.0.0.2', 'c:::1', 'd=[::2]']\nulimits: {nproc: 65535, nofile: {soft: 20000, hard: '40000'}}\n\
         logging: {driver: syslog, options: {tag: x, max-file: 3}}\nx-note: ignored",
    );
    assert_eq!(spec.stop_grace, Duration::from_secs(90));
    assert_eq!(spec.stop_signal, StopSignal::Quit);
    assert_eq!(spec.user, Some(RunAs { uid: 1000, gid: 1001 }));
    assert_eq!(spec.working_dir, Some("/srv".into()));
    assert_eq!(spec.shm_size, Some(64 << 20));
    let container = spec.container;
    assert_eq!((container.init, container.read_only), (Some(true), true));
    assert_eq!((container.cap_add, container.cap_drop), (words(&["NET_ADMIN"]), words(&["ALL"])));
    assert_eq!(container.hostname.as_deref(), Some("api"));
    assert_eq!(container.sysctls, map(&[("net.core.somaxconn", "1024")]));
    let hosts = [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "::1"), ("d", "::2")];
    assert_eq!(container.extra_hosts, hosts.map(|(host, address)| (host.to_owned(), address.to_owned())));
    assert_eq!(container.ulimits["nproc"], Ulimit { soft: 65535, hard: 65535 });
    assert_eq!(container.ulimits["nofile"], Ulimit { soft: 20000, hard: 40000 });
    let logging = container.logging.expect("logging");
    assert_eq!((logging.driver.as_str(), logging.options), ("syslog", map(&[("tag", "x"), ("max-file", "3")])));
    assert_eq!(keys("user: postgres").container.user.as_deref(), Some("postgres"));
    assert_eq!(keys("user: '70'").container.user.as_deref(), Some("70"));
    assert_eq!(keys("extra_hosts: {a: 10.0.0.1}").container.extra_hosts, [("a".to_owned(), "10.0.0.1".to_owned())]);
    assert_eq!(keys("sysctls: [a.b=1]").container.sysctls, map(&[("a.b", "1")]));
}

#[test]
fn what_services_share_is_declared_at_the_top() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("secret"), "from a file").expect("written");
    let text = "version: '3.8'\nname: ignored\nx-any: {thing: 1}\nservices: {back: {image: x}}\n\
        networks:\n  own: {driver: overlay, driver_opts: {encrypted: ''}, attachable: 'true', internal: true, labels: [a=1], name: n}\n  \
          shared: {external: true, name: traefik}\n  old: {external: {name: older}}\n  same: {external: true}\n  empty:\n\
        volumes:\n  nfs: {driver: local, driver_opts: {type: nfs, o: 'addr=10.0.0.1,rw'}, labels: {a: 1}, name: v}\n  out: {external: true}\n  plain:\n\
        secrets:\n  file: {file: ./secret}\n  variable: {environment: TAG}\n  content: {content: c}\n  out: {external: true, name: other}\n\
        configs:\n  content: {content: \"a ${TAG} $${TAG}\"}\n  out: {external: true}\n";
    let stack = stack_of(&document_in(text, Some(directory.path())).expect("read")).expect("translated");
    let own = &stack.networks["own"];
    assert_eq!(
        (own.driver.as_deref(), own.name.as_deref(), own.external.as_deref()),
        (Some("overlay"), Some("n"), None)
    );
    assert_eq!((own.attachable, own.internal), (true, true));
    assert_eq!((own.driver_opts.clone(), own.labels.clone()), (map(&[("encrypted", "")]), map(&[("a", "1")])));
    let external = |name: &str| stack.networks[name].external.as_deref();
    assert_eq!((external("shared"), external("old"), external("same")), (Some("traefik"), Some("older"), Some("same")));
    assert_eq!(stack.networks["empty"], crate::orchestrator::NetworkSpec::default());
    let nfs = &stack.volumes["nfs"];
    assert_eq!((nfs.driver.as_deref(), nfs.name.as_deref()), (Some("local"), Some("v")));
    assert_eq!(nfs.driver_opts, map(&[("type", "nfs"), ("o", "addr=10.0.0.1,rw")]));
    assert_eq!(stack.volumes["out"].external.as_deref(), Some("out"));
    let content = |name: &str| match &stack.secrets[name] {
        SecretSpec::Content(secret) => secret.expose().to_owned(),
        SecretSpec::External(name) => format!("external {name}"),
    };
    assert_eq!(["file", "variable", "content", "out"].map(content), ["from a file", "1.2", "c", "external other"]);
    assert_eq!(stack.configs["content"], ConfigSpec::Content("a 1.2 ${TAG}".into()));
    assert_eq!(stack.configs["out"], ConfigSpec::External("out".into()));
}

#[test]
fn anchors_and_merges_are_resolved() {
    let text = "x-base: &base {image: base, user: root, deploy: {replicas: 1}}\nx-more: &more {user: more, hostname: h}\n\
        services:\n  a: {<<: *base, image: own}\n  b: {hostname: mine, <<: [*more, *base]}\n  c:\n    <<: *base\n    deploy: {replicas: 5}\n";
    let stack = stack(text).expect("translated");
    let [a, b, c] = &stack.services[..] else { panic!("three services") };
    assert_eq!((a.image.as_deref(), a.container.user.as_deref()), (Some("own"), Some("root")));
    assert_eq!((b.image.as_deref(), b.container.user.as_deref()), (Some("base"), Some("more")));
    assert_eq!(b.container.hostname.as_deref(), Some("mine"));
    assert_eq!(c.placement.mode, DeployMode::Replicated(5));
}

#[test]
fn services_can_be_left_out() {
    let text = "services:\n  a: {image: x, depends_on: [b, c]}\n  b: {image: x}\n  c: {image: x, depends_on: {b: {condition: service_started}}}\n  \
                d: {image: x, depends_on: {b: {condition: service_healthy, required: false}}}\n";
    let without = document(text).expect("read").without_services(&["b", "unknown"]).expect("nothing waits for it");
    assert_eq!(without.services(), ["a", "c", "d"]);
    let stack = stack_of(&without).expect("translated");
    let dependencies: Vec<_> = stack.services.iter().map(|s| (s.name.as_str(), s.depends_on.len())).collect();
    assert_eq!(dependencies, [("c", 0), ("a", 1), ("d", 0)]);

    let text =
        "services:\n  a:\n    image: x\n    depends_on:\n      b: {condition: service_healthy}\n  b: {image: x}\n";
    let (line, reason) = refusal(document(text).expect("read").without_services(&["b"]));
    assert_eq!(
        (line, reason.as_str()),
        (5, "services.a.depends_on.b: it waits for the service \"b\", which is left out")
    );
}
