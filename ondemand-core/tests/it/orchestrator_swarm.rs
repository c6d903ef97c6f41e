//! Services of a Docker Swarm: the contract, and what only they have to prove. `make test` starts the three nodes they need.
//!
//! Slow: a swarm takes a second to start a task and another to end it, and some tests do that thirty times.

#![expect(clippy::expect_used, reason = "these are tests")]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::laboratory::{
    Services, client, hosts, lines, run_on, service, service_name, stack, variable, with_volume, written,
};
use bollard::query_parameters::UpdateConfigOptions;
use futures_util::{StreamExt, TryStreamExt};
use ondemand_core::orchestrator::{
    Condition, ConfigSpec, Dependency, DeployMode, Endpoint, FileMount, Healthcheck, LogOptions, NetworkAttachment,
    NetworkSpec, Publish, PublishedPort, RestartCondition, RestartPolicy, RunAs, SecretSpec, ServiceSpec, ServiceState,
    Swarm, SwarmOptions, Tmpfs, Ulimit,
};
use ondemand_core::{Error, Kind, Labels, Orchestrator, Secret, Selector, StackName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long anything that is waited for may take; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

ondemand_core::orchestrator_conformance!(Services::start());

/// Runs the Docker CLI on a manager, and returns what it printed.
fn docker(arguments: &[&str]) -> String {
    run_on(&variable("ONDEMAND_TEST_SWARM_HOST"), arguments)
}

fn depends(on: &str, condition: Condition) -> Dependency {
    Dependency { service: service_name(on), condition }
}

/// A service that answers HTTP on port 8080 with the name of its container.
fn web(name: &str) -> ServiceSpec {
    let script = "mkdir /w; hostname >/w/index.html; exec httpd -f -p 8080 -h /w";
    ServiceSpec { publish: vec![Publish::anywhere(8080)], ..service(name, script) }
}

/// Asks an HTTP server for its first page, as long as it takes.
async fn page(address: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        match asked.await {
            Ok(answer) if answer.starts_with("HTTP/1.") => {
                return answer.rsplit("\r\n").next().unwrap_or_default().trim().to_owned();
            }
            other => assert!(Instant::now() < deadline, "{address} does not answer: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn only_endpoint(swarm: &Swarm, name: &StackName) -> String {
    let deployed = swarm.get(name).await.expect("a stack");
    match &deployed.services[0].endpoints[..] {
        [Endpoint { target: 8080, address }] => address.clone(),
        other => panic!("expected one endpoint, got {other:?} of {deployed:?}"),
    }
}

#[tokio::test]
async fn nothing_of_a_stack_is_left_in_the_swarm() {
    let services = Services::start();
    let swarm = services.swarm();
    let mut spec = stack("a", vec![service("one", "exec sleep 1000"), service("two", "exec sleep 1000")]);
    spec.secrets.insert("key".into(), SecretSpec::Content(Secret::new("x")));
    spec.configs.insert("conf".into(), ConfigSpec::Content("y".into()));
    spec.services[0].secrets = vec![file("key")];
    spec.services[0].configs = vec![file("conf")];
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    let mut left = services.left().await;
    left.sort();
    let own = |name: &str| format!("{}_a{name}", services.instance);
    assert_eq!(left, ["", "_conf", "_default", "_key", "_one", "_two"].map(own));
    swarm.remove(&deployed.id).await.expect("removed");
    assert_eq!(services.left().await, [""; 0]);

    spec.services[1].image = Some(format!("{}/no-such-image:1", variable("ONDEMAND_TEST_REGISTRY")));
    match swarm.deploy(&spec).await {
        Err(Error::NotFound { kind: Kind::Image, name }) => assert_eq!(Some(name), spec.services[1].image),
        other => panic!("expected that the image is not found, got {other:?}"),
    }
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn a_stack_whose_claim_cannot_be_read_is_left_alone() {
    let services = Services::start();
    let swarm = services.swarm();
    let mut spec = stack("a", vec![service("one", "exec sleep 1000")]);
    spec.services[0].stop_grace = Duration::from_millis(300);
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    let claim = format!("{}_a", services.instance);
    let relabel = async |labels: &str| {
        let client = client().await;
        let config = client.inspect_config(&claim).await.expect("the claim");
        let version = config.version.and_then(|version| version.index).expect("a version");
        let mut known = config.spec.expect("a specification");
        let before = known.labels.get_or_insert_default().insert("ondemand.labels".into(), labels.into());
        let changed = UpdateConfigOptions { version: i64::try_from(version).expect("a small number") };
        client.update_config(&claim, known, changed).await.expect("changed");
        before.expect("the stack's labels")
    };
    let labels = relabel("{").await;

    let listed = swarm.list(&Selector::all()).await.expect("a list");
    assert!(listed.found.is_empty(), "{listed:?}");
    assert_eq!(listed.unreadable.iter().map(|unreadable| &*unreadable.name).collect::<Vec<_>>(), ["a"]);
    let told = |error: Error| assert!(matches!(error, Error::Backend { .. }), "{error:?}");
    told(swarm.get(&spec.name).await.expect_err("it cannot be read"));
    told(swarm.set_running(&spec.name, false).await.expect_err("it cannot be read"));
    told(swarm.remove(&deployed.id).await.expect_err("it cannot be read"));
    match swarm.deploy(&spec).await {
        Err(Error::AlreadyExists { kind: Kind::Stack, .. }) => {}
        other => panic!("expected that the name is taken, got {other:?}"),
    }

    relabel(&labels).await;
    let kept = swarm.get(&spec.name).await.expect("a stack");
    assert_eq!((kept.id, kept.services[0].state), (deployed.id.clone(), ServiceState::Running));
    swarm.remove(&deployed.id).await.expect("removed");
    assert_eq!(services.left().await, [""; 0]);
}

fn file(source: &str) -> FileMount {
    FileMount { source: source.into(), target: None, uid: None, gid: None, mode: None }
}

#[tokio::test]
async fn the_docker_cli_knows_our_stacks() {
    let services = Services::start();
    let swarm = services.swarm();
    let mut spec = stack("a", vec![service("one", "exec sleep 1000"), service("two", "exec sleep 1000")]);
    spec.labels = Labels::new().with("test.colour", "red").expect("a label");
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    let namespace = format!("{}_a", services.instance);
    let listed = docker(&["stack", "ls", "--format", "{{.Name}} {{.Services}}"]);
    assert!(listed.lines().any(|line| line == format!("{namespace} 2")), "{listed}");
    let named = docker(&["stack", "services", &namespace, "--format", "{{.Name}} {{.Replicas}}"]);
    let mut named: Vec<_> = named.lines().collect();
    named.sort_unstable();
    assert_eq!(named, [format!("{namespace}_one 1/1"), format!("{namespace}_two 1/1")]);
    let tasks = docker(&["stack", "ps", &namespace, "--format", "{{.Name}} {{.DesiredState}}"]);
    assert_eq!(tasks.lines().filter(|line| line.ends_with(" Running")).count(), 2, "{tasks}");
    let red = docker(&["service", "ls", "--quiet", "--filter", "label=test.colour=red"]);
    assert!(red.lines().count() >= 2, "{red}");
    // Its images are pinned to what the registry has.
    let of = "{{.Spec.TaskTemplate.ContainerSpec.Image}}";
    let image = docker(&["service", "inspect", &format!("{namespace}_one"), "--format", of]);
    let (name, digest) = image.trim().split_once('@').expect("a digest");
    assert_eq!(name, variable("ONDEMAND_TEST_SWARM_IMAGE"));
    let hex = digest.strip_prefix("sha256:").expect("a digest");
    assert!(hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()), "{image}");

    docker(&["stack", "rm", &namespace]);
    match swarm.get(&spec.name).await {
        Err(Error::NotFound { kind: Kind::Stack, .. }) => {}
        other => panic!("expected that it is gone, got {other:?}"),
    }
    // Its tasks may take a moment yet.
    swarm.remove(&deployed.id).await.expect("removed");
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn a_secret_is_seen_by_its_service_alone() {
    const CONTENT: &str = "hunter2-not-to-be-seen";
    let services = Services::start();
    let swarm = services.swarm();
    let mut main =
        service("main", "cat /run/secrets/token; stat -c %a /run/secrets/token; cat /etc/given; exec sleep 1000");
    main.secrets = vec![FileMount { mode: Some(0o400), ..file("token") }];
    main.configs = vec![FileMount { target: Some("/etc/given".into()), ..file("conf") }];
    let mut spec = stack("a", vec![main]);
    spec.secrets.insert("token".into(), SecretSpec::Content(Secret::new(format!("{CONTENT}\n"))));
    spec.configs.insert("conf".into(), ConfigSpec::Content("a setting\n".into()));
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let written: Vec<_> =
        swarm.logs(&spec.name, follow).take(3).map_ok(|line| line.text).try_collect().await.expect("lines");
    assert_eq!(written, [CONTENT, "400", "a setting"]);

    let filter = format!("label=ondemand.instance={}", services.instance);
    let mut inspected = String::new();
    let service = docker(&["service", "ls", "--quiet", "--filter", &filter]);
    inspected += &docker(&["service", "inspect", service.trim()]);
    let task = docker(&["service", "ps", "--quiet", "--no-trunc", service.trim()]);
    inspected += &docker(&["inspect", task.trim()]);
    inspected += &docker(&["secret", "inspect", docker(&["secret", "ls", "--quiet", "--filter", &filter]).trim()]);
    for host in hosts() {
        let container = run_on(&host, &["ps", "--quiet", "--filter", &filter]);
        if !container.trim().is_empty() {
            inspected += &run_on(&host, &["inspect", container.trim()]);
        }
    }
    assert!(inspected.contains("NetworkSettings"), "the container was among them");
    assert!(!inspected.contains("hunter2"), "{inspected}");
    assert!(!format!("{deployed:?} {spec:?}").contains("hunter2"));
    swarm.remove(&deployed.id).await.expect("removed");
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn an_endpoint_leads_to_its_task_and_follows_it() {
    let services = Services::start();
    let swarm = services.swarm();
    let mut main = web("main");
    main.placement.restart_policy =
        Some(RestartPolicy { delay: Some(Duration::from_millis(100)), ..RestartPolicy::default() });
    let spec = stack("a", vec![main]);
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    let before = page(&only_endpoint(&swarm, &spec.name).await).await;
    let pid = deployed.services[0].pid.expect("a pid");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid"),
        rustix::process::Signal::KILL,
    )
    .expect("killed");
    let deadline = Instant::now() + PATIENCE;
    let again = loop {
        let stack = swarm.get(&spec.name).await.expect("a stack");
        if stack.is_running() && stack.services[0].pid != Some(pid) {
            break stack;
        }
        assert!(Instant::now() < deadline, "{stack:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(again.services[0].restarts, 1, "{again:?}");
    let after = page(&only_endpoint(&swarm, &spec.name).await).await;
    assert_ne!(before, after, "another container answers");
    swarm.remove(&deployed.id).await.expect("removed");
}

/// A container that has the next free port of its node's IPv4 addresses, and none of the IPv6 addresses, until this is dropped.
struct OnlyIpv4 {
    host: String,
    container: String,
}

impl OnlyIpv4 {
    fn on(host: &str) -> Self {
        let image = variable("ONDEMAND_TEST_SWARM_IMAGE");
        let container =
            run_on(host, &["run", "--detach", "--publish", "0.0.0.0::80", &image, "/bin/sh", "-c", "exec sleep 1000"]);
        Self { host: host.to_owned(), container: container.trim().to_owned() }
    }
}

impl Drop for OnlyIpv4 {
    fn drop(&mut self) {
        run_on(&self.host, &["rm", "--force", &self.container]);
    }
}

/// An engine counts the ports of the two kinds of addresses apart. As soon as one was taken of only one kind, a port that it publishes for both has two
/// numbers, and only one of them is that of the address by which the node is known.
#[tokio::test]
async fn every_replica_has_a_log_and_an_endpoint_of_the_kind_of_address_that_its_node_has() {
    let hosts = [variable("ONDEMAND_TEST_SWARM_HOST"), variable("ONDEMAND_TEST_SWARM_WORKERS")].join(",");
    // Several, as what others publish meanwhile may take the two numbers apart by one.
    let _taken: Vec<_> =
        hosts.split(',').flat_map(|host| [OnlyIpv4::on(host), OnlyIpv4::on(host), OnlyIpv4::on(host)]).collect();
    let services = Services::start();
    let swarm = services.swarm();
    let mut main = web("main");
    main.command[2] = format!("echo here; {}", main.command[2]);
    main.placement.mode = DeployMode::Replicated(3);
    main.placement.max_replicas_per_node = Some(1);
    let spec = stack("a", vec![main]);
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    let filter = format!("label=ondemand.instance={}", services.instance);
    for host in hosts.split(',') {
        let ports = run_on(host, &["ps", "--filter", &filter, "--format", "{{.Ports}}"]);
        let numbers: HashSet<_> =
            ports.split(", ").filter_map(|port| port.split("->").next()?.rsplit(':').next()).collect();
        assert_eq!(numbers.len(), 2, "the same port for both kinds of addresses of {host}: {ports}");
    }
    let endpoints = &deployed.services[0].endpoints;
    assert_eq!(endpoints.len(), 3, "{endpoints:?}");
    assert_eq!(&swarm.get(&spec.name).await.expect("a stack").services[0].endpoints, endpoints);
    let nodes: HashSet<_> = endpoints.iter().filter_map(|endpoint| endpoint.address.split(':').next()).collect();
    assert_eq!(nodes.len(), 3, "{endpoints:?}");
    let mut names = HashSet::new();
    for endpoint in endpoints {
        names.insert(page(&endpoint.address).await);
    }
    assert_eq!(names.len(), 3, "each answers for itself");
    written(&swarm, &spec.name, 3).await;
    assert_eq!(lines(&swarm, &spec.name, LogOptions::default()).await, ["here", "here", "here"]);
    assert_eq!(
        lines(&swarm, &spec.name, LogOptions { tail: Some(2), ..LogOptions::default() }).await,
        ["here", "here"]
    );
    swarm.remove(&deployed.id).await.expect("removed");
}

#[tokio::test]
async fn services_reach_each_other_by_name_and_alias() {
    let services = Services::start();
    let swarm = services.swarm();
    let mut db = web("db");
    db.publish.clear();
    let attach = |aliases: &[&str]| {
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        vec![NetworkAttachment { network: "inner".into(), aliases }]
    };
    db.networks = attach(&["database"]);
    let find =
        "for name in db database; do until wget -qO /dev/null http://$name:8080/; do sleep 0.1; done; echo $name; done";
    let mut main = service("main", find);
    main.networks = attach(&[]);
    let mut spec = stack("a", vec![main, db]);
    spec.networks.insert("inner".into(), NetworkSpec::default());
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    tokio::time::timeout(PATIENCE, swarm.wait_stopped(&spec.name)).await.expect("in time").expect("it ends");
    let of = LogOptions { service: Some(service_name("main")), ..LogOptions::default() };
    let found = lines(&swarm, &spec.name, of).await;
    assert_eq!(found.into_iter().filter(|line| !line.starts_with("wget")).collect::<Vec<_>>(), ["db", "database"]);
    swarm.remove(&deployed.id).await.expect("removed");
}

/// Healthy is what has a file.
fn has_file(path: &str) -> Healthcheck {
    Healthcheck {
        test: ["CMD", "test", "-e", path].map(str::to_owned).to_vec(),
        interval: Some(Duration::from_millis(300)),
        timeout: Some(Duration::from_secs(5)),
        start_period: None,
        retries: Some(30),
    }
}

#[tokio::test]
async fn services_start_in_the_order_of_what_they_depend_on() {
    let services = Services::start();
    let swarm = services.swarm();
    let mut last = service("last", "echo last; exec sleep 1000");
    last.depends_on = vec![depends("once", Condition::CompletedSuccessfully), depends("well", Condition::Healthy)];
    let mut once = service("once", "sleep 1; echo once");
    once.depends_on = vec![depends("well", Condition::Started)];
    let mut well = service("well", "sleep 1; touch /well; echo well; exec sleep 1000");
    well.healthcheck = Some(has_file("/well"));
    let spec = stack("a", vec![last, once, well]);
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    let states: Vec<_> = deployed.services.iter().map(|service| service.state).collect();
    assert_eq!(states, [ServiceState::Running, ServiceState::Exited { status: Some(0) }, ServiceState::Running]);
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let mut seen: Vec<_> = swarm.logs(&spec.name, follow).take(3).try_collect().await.expect("lines");
    seen.sort_by_key(|line| line.time);
    assert_eq!(seen.last().map(|line| line.text.as_str()), Some("last"), "{seen:?}");
    swarm.remove(&deployed.id).await.expect("removed");
}

/// Removes an image from the manager's engine.
struct Tagged(String);

impl Drop for Tagged {
    fn drop(&mut self) {
        docker(&["image", "rm", "--force", &self.0]);
    }
}

#[tokio::test]
async fn the_check_of_an_image_is_not_waited_for() {
    let services = Services::start();
    let swarm = services.swarm();
    let never = Tagged(format!("{}:never-healthy", services.instance));
    let container = docker(&["create", &variable("ONDEMAND_TEST_SWARM_IMAGE"), "true"]);
    docker(&["commit", "--change", "HEALTHCHECK CMD false", container.trim(), &never.0]);
    docker(&["rm", container.trim()]);
    let mut spec = stack("a", vec![service("checked", "exec sleep 1000"), service("other", "exec sleep 1000")]);
    spec.services[0].image = Some(never.0.clone());
    spec.services[0].placement.constraints = vec!["node.role == manager".into()];
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    let states: Vec<_> = deployed.services.iter().map(|service| service.state).collect();
    assert_eq!(states, [ServiceState::Starting, ServiceState::Running]);
    swarm.remove(&deployed.id).await.expect("removed");
}

#[tokio::test]
async fn a_dependency_that_fails_is_named_with_its_log() {
    let services = Services::start();
    let swarm = services.swarm();
    let mut main = service("main", "exec sleep 1000");
    main.depends_on = vec![depends("once", Condition::CompletedSuccessfully)];
    let spec = stack("a", vec![service("once", "echo no such table; exit 4"), main]);
    match swarm.deploy(&spec).await {
        Err(Error::ServiceFailed { service, reason, log }) => {
            assert_eq!(service, "once");
            assert!(reason.contains('4'), "{reason}");
            assert_eq!(log, ["no such table"]);
        }
        other => panic!("expected that the service fails, got {other:?}"),
    }
    assert_eq!(services.left().await, [""; 0]);
}

/// A swarm starts it again and again, and whoever waits for it would wait as long as he may.
#[tokio::test]
async fn a_dependency_that_ends_again_and_again_is_named_with_its_log() {
    for condition in [Condition::Healthy, Condition::CompletedSuccessfully] {
        let services = Services::start();
        let swarm = services.swarm();
        let mut once = service("once", "echo no such table; exit 4");
        // With the usual condition, what is to be done once is not started again.
        once.placement.restart_policy = Some(RestartPolicy {
            condition: RestartCondition::OnFailure,
            delay: Some(Duration::ZERO),
            ..RestartPolicy::default()
        });
        once.healthcheck = Some(has_file("/never"));
        let mut main = service("main", "exec sleep 1000");
        main.depends_on = vec![depends("once", condition)];
        match swarm.deploy(&stack("a", vec![once, main])).await {
            Err(Error::ServiceFailed { service, reason, log }) => {
                assert_eq!(service, "once");
                assert!(reason.starts_with("it ended by itself 3 times") && reason.contains("(4)"), "{reason}");
                assert!(log.iter().all(|line| line == "no such table") && !log.is_empty(), "{log:?}");
            }
            other => panic!("expected that the service fails, got {other:?}"),
        }
        assert_eq!(services.left().await, [""; 0]);
    }
}

#[tokio::test]
async fn what_depends_on_itself_or_on_nothing_is_refused() {
    let services = Services::start();
    let swarm = services.swarm();
    let on = |name: &str, other: &str| ServiceSpec {
        depends_on: vec![depends(other, Condition::Started)],
        ..service(name, "exit 0")
    };
    for wrong in [vec![on("a", "a")], vec![on("a", "b"), on("b", "a")], vec![on("a", "missing")]] {
        let refused = swarm.deploy(&stack("a", wrong)).await;
        assert!(matches!(refused, Err(Error::InvalidInput { .. })), "{refused:?}");
    }
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn a_removal_cuts_off_a_deployment_that_waits() {
    let services = Services::start();
    let swarm = services.swarm();
    let mut main = service("main", "exec sleep 1000");
    main.depends_on = vec![depends("once", Condition::CompletedSuccessfully)];
    let spec = stack("a", vec![service("once", "exec sleep 1000"), main]);
    let deploying = tokio::spawn({
        let (swarm, spec) = (swarm.clone(), spec.clone());
        async move { swarm.deploy(&spec).await }
    });
    while swarm.get(&spec.name).await.is_err() {
        tokio::task::yield_now().await;
    }
    let taken = swarm.deploy(&stack("a", vec![service("main", "exit 0")])).await;
    assert!(matches!(taken, Err(Error::AlreadyExists { .. })), "{taken:?}");
    tokio::time::timeout(PATIENCE, swarm.remove(&spec.id())).await.expect("in time").expect("removed");
    let cut = deploying.await.expect("no panic");
    assert!(matches!(cut, Err(Error::Cancelled)), "{cut:?}");
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn a_port_that_is_taken_everywhere_is_a_conflict() {
    let services = Services::start();
    let swarm = services.swarm();
    let publish = |name: &str, mode| {
        let mut main = service(name, "exec sleep 1000");
        let published = std::net::SocketAddr::from(([0, 0, 0, 0], 7654));
        main.ports = vec![PublishedPort { published, target: 5432 }];
        main.placement.mode = mode;
        // Without one, a swarm starts what it runs on every node again one after the other, and may begin on a node twice.
        main.placement.restart_policy = Some(RestartPolicy::default());
        stack(name, vec![main])
    };
    let first = swarm.deploy(&publish("a", DeployMode::Global)).await.expect("deployed");
    let conflict = swarm.deploy(&publish("b", DeployMode::default())).await.expect_err("the port is taken");
    assert!(matches!(&conflict, Error::Conflict { message, .. } if message.contains("port")), "{conflict:?}");
    swarm.set_running(&first.name, false).await.expect("asleep");
    let asleep = swarm.get(&first.name).await.expect("a stack");
    assert_eq!(asleep.services[0].state, ServiceState::Asleep, "one on every node sleeps too");
    let second = swarm.deploy(&publish("b", DeployMode::default())).await.expect("the port is free");
    swarm.remove(&second.id).await.expect("removed");
    swarm.set_running(&first.name, true).await.expect("awake");
    assert!(swarm.get(&first.name).await.expect("a stack").is_running());
    swarm.remove(&first.id).await.expect("removed");
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn an_engine_without_a_swarm_is_named_with_what_to_do() {
    let services = Services::start();
    let worker = variable("ONDEMAND_TEST_SWARM_WORKERS").split(',').next().map(str::to_owned);
    let swarm = Swarm::new(SwarmOptions { host: worker, ..services.options() }).expect("an orchestrator");
    let error = swarm.deploy(&stack("a", vec![service("main", "exit 0")])).await.expect_err("it is no manager");
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("docker swarm init")), "{error:?}");
}

#[tokio::test]
async fn two_instances_do_not_see_each_other() {
    let (one, two) = (Services::start(), Services::start());
    let spec = stack("a", vec![service("main", "exec sleep 1000")]);
    let mine = one.swarm().deploy(&spec).await.expect("deployed");
    assert_eq!(two.swarm().list(&Selector::all()).await.expect("a list").found, []);
    two.swarm().remove(&mine.id).await.expect("nothing to remove");
    assert!(one.swarm().get(&spec.name).await.expect("a stack").is_running());
    one.swarm().remove(&mine.id).await.expect("removed");
    assert_eq!(one.left().await, [""; 0]);
}

#[tokio::test]
async fn a_service_is_what_the_specification_says() {
    let services = Services::start();
    let swarm = services.swarm();
    let mut main = service(
        "main",
        "id -u; id -g; pwd; echo $GIVEN; hostname; ulimit -n; grep -c ' /scratch tmpfs' /proc/mounts; \
         grep given.internal /etc/hosts | cut -f1; df -k /dev/shm | tail -n1 | awk '{print $2}'; echo x >/kept/x; cat /kept/x; \
         (echo y >/y) 2>/dev/null || echo ro",
    );
    main.user = Some(RunAs { uid: 0, gid: 0 });
    main.env.insert("GIVEN".into(), "a value".into());
    main.working_dir = Some("/tmp".into());
    main.shm_size = Some(32 << 20);
    main.tmpfs = vec![Tmpfs { target: "/scratch".into(), size: Some(1 << 20), mode: None }];
    main.container.hostname = Some("given-host".into());
    main.container.ulimits.insert("nofile".into(), Ulimit { soft: 4321, hard: 4321 });
    main.container.extra_hosts = vec![("given.internal".into(), "192.0.2.7".into())];
    main.container.read_only = true;
    let mut spec = with_volume(stack("a", vec![main]));
    spec.services[0].placement.constraints = vec!["node.role == manager".into()];
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    let ended = swarm.wait_stopped(&spec.name).await.expect("it ends");
    assert_eq!(ended.services[0].state, ServiceState::Exited { status: Some(0) });
    let seen = lines(&swarm, &spec.name, LogOptions::default()).await;
    assert_eq!(seen, ["0", "0", "/tmp", "a value", "given-host", "4321", "1", "192.0.2.7", "32768", "x", "ro"]);
    let volumes =
        || docker(&["volume", "ls", "--quiet", "--filter", &format!("label=ondemand.instance={}", services.instance)]);
    assert!(volumes().starts_with(&format!("{}_a_kept_", services.instance)), "{}", volumes());
    swarm.remove(&deployed.id).await.expect("removed");
    assert_eq!(volumes(), "", "its volume went with it");
    let nothing = swarm.tidy().await.expect("the other nodes had none");
    assert_eq!(nothing.failed, [""; 0]);
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn jobs_are_done_once_and_go_with_their_stack() {
    let services = Services::start();
    let swarm = services.swarm();
    let job = |name: &str, script: &str, mode| {
        let mut job = service(name, script);
        job.placement.mode = mode;
        job.stop_grace = Duration::from_millis(300);
        job
    };
    let spec = stack(
        "a",
        vec![
            job("done", "echo done", DeployMode::ReplicatedJob(2)),
            job("everywhere", "echo everywhere", DeployMode::GlobalJob),
            // The first run fails; what it has written tells the next ones so.
            job("again", "test -e /all/x || { echo >/all/x; exit 3; }; echo again", DeployMode::ReplicatedJob(1)),
            job("busy", "exec sleep 1000", DeployMode::GlobalJob),
        ],
    );
    let mut spec = with_volume(spec);
    spec.services[2].volumes = std::mem::take(&mut spec.services[0].volumes);
    spec.services[2].volumes[0].target = "/all".into();
    spec.services[2].placement.constraints = vec!["node.role == manager".into()];
    spec.services[2].placement.restart_policy =
        Some(RestartPolicy { delay: Some(Duration::from_millis(200)), ..RestartPolicy::default() });
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    written(&swarm, &spec.name, 2 + 3 + 1).await;
    let state = async |name: &str| {
        let stack = swarm.get(&spec.name).await.expect("a stack");
        stack.services.iter().find(|service| service.name == service_name(name)).expect("a service").state
    };
    let until = async |name: &str, wanted: ServiceState| {
        let deadline = Instant::now() + PATIENCE;
        while state(name).await != wanted {
            assert!(Instant::now() < deadline, "{name}: {:?}", state(name).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    for name in ["done", "everywhere", "again"] {
        until(name, ServiceState::Exited { status: Some(0) }).await;
    }
    until("busy", ServiceState::Running).await;

    // What is done stays done.
    swarm.set_running(&spec.name, false).await.expect("asleep");
    assert_eq!(state("busy").await, ServiceState::Asleep);
    swarm.set_running(&spec.name, true).await.expect("awake");
    assert_eq!(state("done").await, ServiceState::Exited { status: Some(0) });
    until("busy", ServiceState::Running).await;

    let removed = tokio::time::timeout(PATIENCE, swarm.remove(&deployed.id)).await;
    removed.expect("in time").expect("removed");
    swarm.tidy().await.expect("tidied");
    // The engines take away the containers of what the manager has forgotten.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = services.containers();
        if left == [""; 0] {
            break;
        }
        assert!(Instant::now() < deadline, "{left:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(services.tasks().await, [""; 0]);
    assert_eq!(services.left().await, [""; 0]);
}
