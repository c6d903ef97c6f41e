//! Containers of a Docker Engine: the contract, and what only they have to prove. `make test` starts the engine they need.
//!
//! Slow: a container takes half a second to start and as long to end, and some tests do that twenty times.

#![expect(clippy::expect_used, reason = "these are tests")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, NetworkCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, ListContainersOptions, ListNetworksOptions, RemoveContainerOptions,
};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use ondemand_core::conformance::orchestrator::{Harness, Program};
use ondemand_core::orchestrator::{
    Docker, DockerOptions, LogOptions, Mount, PublishedPort, RunAs, ServiceSpec, ServiceState, StackId, StackSpec,
};
use ondemand_core::{AttemptId, Error, Labels, Orchestrator, Selector, ServiceName, StackName};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod features;

/// A directory of records, and the engine that the environment names.
struct Containers {
    dir: tempfile::TempDir,
    instance: String,
}

impl Containers {
    fn start() -> Self {
        let instance = AttemptId::random().expect("randomness").to_string();
        Self { dir: tempfile::tempdir().expect("a directory"), instance }
    }

    fn docker(&self) -> Docker {
        let host = Some(variable("ONDEMAND_TEST_DOCKER_HOST"));
        let state_dir = self.dir.path().join("stacks");
        Docker::new(DockerOptions { host, state_dir, instance: self.instance.clone() }).expect("an orchestrator")
    }

    /// Returns how many containers and networks of this instance there are.
    async fn left(&self) -> (usize, usize) {
        let client = client().await;
        let filters = HashMap::from([("label".to_owned(), vec![format!("ondemand.instance={}", self.instance)])]);
        let options =
            ListContainersOptions { all: true, filters: Some(filters.clone()), ..ListContainersOptions::default() };
        let containers = client.list_containers(Some(options)).await.expect("containers");
        let networks = client.list_networks(Some(ListNetworksOptions { filters: Some(filters) })).await;
        (containers.len(), networks.expect("networks").len())
    }
}

/// Removes what a failing test left; the others left nothing.
impl Drop for Containers {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let docker = self.docker();
        // The test's own runtime does not wait for anything any more.
        let removing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                for stack in docker.list(&Selector::all()).await.unwrap_or_default().found {
                    let _ = docker.remove(&stack.id).await;
                }
            });
        });
        let _ = removing.join();
    }
}

impl Harness for Containers {
    fn open(&self) -> Arc<dyn Orchestrator> {
        Arc::new(self.docker())
    }

    fn service(&self, name: &str, program: Program) -> ServiceSpec {
        let mut service = service(name, program.script());
        if program == Program::Stubborn {
            service.stop_grace = Duration::from_millis(300);
        }
        if program == Program::Missing {
            service.image = Some("ondemand-test/no-such-image:1".into());
        }
        service
    }

    fn inspect<'a>(&'a self, stack: &'a StackName) -> BoxFuture<'a, String> {
        Box::pin(async move {
            let record = self.dir.path().join("stacks").join(format!("{stack}.json"));
            let record = std::fs::read_to_string(record).expect("a record");
            let client = client().await;
            let filters = HashMap::from([("label".to_owned(), vec![format!("ondemand.instance={}", self.instance)])]);
            let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
            let mut seen = record;
            for container in client.list_containers(Some(options)).await.expect("containers") {
                let id = container.id.expect("an id");
                let inspected = client.inspect_container(&id, None).await.expect("a container");
                seen += &serde_json::to_string(&inspected).expect("JSON");
            }
            seen
        })
    }
}

ondemand_core::orchestrator_conformance!(Containers::start());

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`, which sets it"))
}

async fn client() -> bollard::Docker {
    let client = bollard::Docker::connect_with_host(&variable("ONDEMAND_TEST_DOCKER_HOST")).expect("an address");
    client.negotiate_version().await.expect("an engine")
}

fn service(name: &str, script: &str) -> ServiceSpec {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ServiceSpec {
        image: Some(variable("ONDEMAND_TEST_IMAGE")),
        ..ServiceSpec::new(ServiceName::new(name).expect("a service name"), command)
    }
}

fn stack(name: &str, services: Vec<ServiceSpec>) -> StackSpec {
    StackSpec::new(StackName::new(name).expect("a stack name"), AttemptId::random().expect("randomness"), services)
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

async fn lines(docker: &Docker, name: &StackName, options: LogOptions) -> Vec<String> {
    docker.logs(name, options).map_ok(|line| line.text).try_collect().await.expect("a log")
}

#[tokio::test]
async fn nothing_of_a_stack_is_left_in_the_engine() {
    let containers = Containers::start();
    let docker = containers.docker();
    let spec = stack("a", vec![service("one", "exec sleep 1000"), service("two", "exec sleep 1000")]);
    let deployed = docker.deploy(&spec).await.expect("deployed");
    assert_eq!(containers.left().await, (2, 1));
    docker.remove(&deployed.id).await.expect("removed");
    assert_eq!(containers.left().await, (0, 0));

    let mut missing = stack("a", vec![service("one", "exec sleep 1000"), service("two", "exec sleep 1000")]);
    missing.services[1].command = vec!["/no/such/program".into()];
    match docker.deploy(&missing).await {
        Err(Error::NotFound { name, .. }) => assert_eq!(name, "/no/such/program"),
        other => panic!("expected that the program is not found, got {other:?}"),
    }
    missing.services[1].image = Some("ondemand-test/no-such-image:1".into());
    match docker.deploy(&missing).await {
        Err(Error::NotFound { name, .. }) => assert_eq!(name, "ondemand-test/no-such-image:1"),
        other => panic!("expected that the image is not found, got {other:?}"),
    }
    assert_eq!(containers.left().await, (0, 0));
}

#[tokio::test]
async fn a_container_is_what_the_specification_says() {
    let containers = Containers::start();
    let docker = containers.docker();
    let data = containers.dir.path().join("data");
    std::fs::create_dir(&data).expect("a directory");
    std::os::unix::fs::chown(&data, Some(1234), Some(2345)).expect("chown");
    let mut main =
        service("main", "id -u; id -g; pwd; echo $GIVEN; echo x > written; (echo y > /ro/x) 2>/dev/null || echo ro");
    main.user = Some(RunAs { uid: 1234, gid: 2345 });
    main.env.insert("GIVEN".into(), "a value".into());
    main.working_dir = Some(data.clone());
    main.mounts =
        vec![Mount::same(&data, false), Mount { source: data.clone(), target: "/ro".into(), read_only: true }];
    let spec = stack("a", vec![main]);
    let deployed = docker.deploy(&spec).await.expect("deployed");
    let ended = docker.wait_stopped(&spec.name).await.expect("it ends");
    assert_eq!(ended.services[0].state, ServiceState::Exited { status: Some(0) });
    let written = lines(&docker, &spec.name, LogOptions::default()).await;
    assert_eq!(written, ["1234", "2345", data.to_str().expect("UTF-8"), "a value", "ro"]);
    assert_eq!(std::fs::read_to_string(data.join("written")).expect("written"), "x\n");
    docker.remove(&deployed.id).await.expect("removed");
}

#[tokio::test]
async fn a_missing_mount_is_named_and_not_made() {
    let containers = Containers::start();
    let docker = containers.docker();
    let missing = containers.dir.path().join("missing");
    let mut main = service("main", "exec sleep 1000");
    main.mounts = vec![Mount::same(&missing, false)];
    match docker.deploy(&stack("a", vec![main])).await {
        Err(Error::NotFound { name, .. }) => assert_eq!(Path::new(&name), missing),
        other => panic!("expected that the mount is not found, got {other:?}"),
    }
    assert!(!missing.exists());
    assert_eq!(containers.left().await, (0, 0));
}

#[tokio::test]
async fn a_port_is_published_once() {
    let containers = Containers::start();
    let docker = containers.docker();
    let address = free_address();
    let publish = |name: &str| {
        let mut main = service("main", "exec sleep 1000");
        main.ports = vec![PublishedPort { published: address, target: 5432 }];
        stack(name, vec![main])
    };
    let first = docker.deploy(&publish("a")).await.expect("deployed");
    let taken = TcpListener::bind(address).expect_err("the engine listens");
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    let conflict = docker.deploy(&publish("b")).await.expect_err("the port is taken");
    assert!(matches!(conflict, Error::Conflict { .. }), "{conflict:?}");
    assert_eq!(containers.left().await, (1, 0));
    docker.remove(&first.id).await.expect("removed");
    let stranger = TcpListener::bind(address).expect("the port is free");
    let conflict = docker.deploy(&publish("b")).await.expect_err("the port is a stranger's");
    assert!(matches!(conflict, Error::Conflict { .. }), "{conflict:?}");
    drop(stranger);
    assert_eq!(containers.left().await, (0, 0));
}

#[tokio::test]
async fn services_reach_each_other_by_name() {
    let containers = Containers::start();
    let docker = containers.docker();
    let find = "until grep -q . /etc/hosts && ping -c1 -W5 db >/dev/null 2>&1 || getent hosts db >/dev/null 2>&1; do sleep 0.1; done; echo found";
    let spec = stack("a", vec![service("db", "exec sleep 1000"), service("web", find)]);
    let deployed = docker.deploy(&spec).await.expect("deployed");
    let ended = tokio::time::timeout(Duration::from_secs(30), docker.wait_stopped(&spec.name)).await;
    ended.expect("in time").expect("it ends");
    assert_eq!(lines(&docker, &spec.name, LogOptions::default()).await, ["found"]);
    docker.remove(&deployed.id).await.expect("removed");
}

#[tokio::test]
async fn what_is_not_ours_is_never_touched() {
    let containers = Containers::start();
    let docker = containers.docker();
    let spec = stack("a", vec![service("main", "exec sleep 1000"), service("other", "exec sleep 1000")]);
    let client = client().await;
    let name = |service: &str| format!("ondemand-{}-a.{service}", containers.instance);
    let body = ContainerCreateBody {
        image: Some(variable("ONDEMAND_TEST_IMAGE")),
        entrypoint: Some(vec!["/bin/sh".into()]),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptions { name: Some(name("other")), ..CreateContainerOptions::default() };
    let stranger = client.create_container(Some(options), body).await.expect("a container").id;
    let network = NetworkCreateRequest { name: format!("ondemand-{}-a", containers.instance), ..Default::default() };
    let network = client.create_network(network).await.expect("a network").id;

    let taken = docker.deploy(&spec).await;
    let found = (docker.list(&Selector::all()).await, docker.get(&spec.name).await);
    docker.remove(&spec.id()).await.expect("nothing to remove");
    let survived = client.inspect_container(&stranger, None).await.is_ok();
    let network_survived = client.inspect_network(&network, None).await.is_ok();
    client.remove_network(&network).await.expect("removed");
    let force = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
    client.remove_container(&stranger, Some(force)).await.expect("removed");

    assert!(matches!(taken, Err(Error::AlreadyExists { .. })), "{taken:?}");
    assert!(matches!(&found, (Ok(list), Err(Error::NotFound { .. })) if list.found.is_empty()), "{found:?}");
    assert!(survived && network_survived);
    assert_eq!(containers.left().await, (0, 0));
}

#[tokio::test]
async fn two_instances_do_not_see_each_other() {
    let (one, two) = (Containers::start(), Containers::start());
    let spec = stack("a", vec![service("main", "exec sleep 1000")]);
    let mine = one.docker().deploy(&spec).await.expect("deployed");
    assert_eq!(two.docker().list(&Selector::all()).await.expect("a list").found, []);
    two.docker().remove(&mine.id).await.expect("nothing to remove");
    let other = two.docker().deploy(&spec).await.expect("the name is free there");
    assert!(one.docker().get(&spec.name).await.expect("a stack").is_running());
    one.docker().remove(&mine.id).await.expect("removed");
    assert!(two.docker().get(&spec.name).await.expect("a stack").is_running());
    two.docker().remove(&other.id).await.expect("removed");
    assert_eq!((one.left().await, two.left().await), ((0, 0), (0, 0)));
}

#[tokio::test]
async fn a_stack_whose_record_was_lost_is_listed_and_removed() {
    let containers = Containers::start();
    let docker = containers.docker();
    let mut spec = stack("a", vec![service("main", "exec sleep 1000"), service("other", "exec sleep 1000")]);
    spec.labels = Labels::new().with("test.a", "1").expect("a label");
    let deployed = docker.deploy(&spec).await.expect("deployed");
    std::fs::remove_file(containers.dir.path().join("stacks/a.json")).expect("lost");
    let listed = docker.list(&Selector::all().with("test.a", "1")).await.expect("a list").found;
    assert_eq!(listed.iter().map(|stack| &stack.id).collect::<Vec<_>>(), [&deployed.id]);
    assert!(listed[0].is_running() && listed[0].services.len() == 2, "{listed:?}");
    assert_eq!(docker.get(&spec.name).await.expect("a stack"), listed[0]);
    docker.remove(&listed[0].id).await.expect("removed");
    assert_eq!(containers.left().await, (0, 0));
}

#[tokio::test]
async fn a_deployment_that_died_half_way_is_listed_and_removed() {
    let containers = Containers::start();
    let docker = containers.docker();
    let spec = stack("a", vec![service("main", "exec sleep 1000")]);
    let deployed = docker.deploy(&spec).await.expect("deployed");
    let client = client().await;
    let force = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
    let container = format!("ondemand-{}-a.main", containers.instance);
    client.remove_container(&container, Some(force)).await.expect("removed");
    let listed = docker.list(&Selector::all()).await.expect("a list").found;
    assert_eq!(listed[0].services[0].state, ServiceState::Exited { status: None });
    docker.set_running(&spec.name, true).await.expect("started again");
    assert!(docker.get(&spec.name).await.expect("a stack").is_running());
    docker.remove(&deployed.id).await.expect("removed");
    assert_eq!(docker.list(&Selector::all()).await.expect("a list").found, []);
}

#[tokio::test]
async fn log_lines_have_times() {
    let containers = Containers::start();
    let docker = containers.docker();
    let long = "i=0; while [ $i -lt 3000 ]; do printf 0123456789; i=$((i + 1)); done; echo";
    let spec = stack("a", vec![service("main", &format!("echo one; {long}; sleep 1.2; echo two >&2"))]);
    let deployed = docker.deploy(&spec).await.expect("deployed");
    docker.wait_stopped(&spec.name).await.expect("it ends");
    let all: Vec<_> = docker.logs(&spec.name, LogOptions::default()).try_collect().await.expect("a log");
    let lengths: Vec<_> = all.iter().map(|line| line.text.len()).collect();
    assert_eq!(lengths, [3, 30_000, 3], "a long line stays one");
    let last = all[2].time.expect("a time");
    assert!(all[0].time.expect("a time") < last && last <= OffsetDateTime::now_utc());
    let since = LogOptions { since: Some(last), ..LogOptions::default() };
    assert_eq!(lines(&docker, &spec.name, since).await, ["two"]);
    docker.remove(&deployed.id).await.expect("removed");
}

#[tokio::test]
async fn followed_logs_go_on_when_a_stack_wakes() {
    let containers = Containers::start();
    let docker = containers.docker();
    let spec = stack("a", vec![service("main", "echo hello; exec sleep 1000")]);
    let deployed = docker.deploy(&spec).await.expect("deployed");
    let mut logs = docker.logs(&spec.name, LogOptions { follow: true, ..LogOptions::default() });
    assert_eq!(logs.next().await.expect("a line").expect("no error").text, "hello");
    docker.set_running(&spec.name, false).await.expect("asleep");
    docker.set_running(&spec.name, true).await.expect("awake");
    assert_eq!(logs.next().await.expect("a line").expect("no error").text, "hello");
    docker.remove(&deployed.id).await.expect("removed");
    assert!(logs.next().await.is_none());
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_a_transient_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let host = Some(format!("unix://{}/docker.sock", dir.path().display()));
    let docker = Docker::new(DockerOptions { host, state_dir: dir.path().join("stacks"), instance: "test".into() });
    let docker = docker.expect("an orchestrator");
    let error = docker.deploy(&stack("a", vec![service("main", "exit 0")])).await.expect_err("no engine");
    assert!(matches!(error, Error::Backend { backend: "docker", transient: true, .. }), "{error:?}");
    assert!(docker.remove(&StackId("a.0123456789abcdef".into())).await.expect_err("no engine").is_transient());
    assert!(docker.list(&Selector::all()).await.expect_err("no engine").is_transient());
    assert!(!dir.path().join("stacks/a.json").exists(), "the name is not taken");
}

/// Says which version it speaks, as an engine does, and then hangs up on whatever it is asked.
async fn half_an_engine(socket: std::path::PathBuf) {
    let listener = tokio::net::UnixListener::bind(socket).expect("a socket");
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(async move {
            let mut request = [0; 4096];
            let read = stream.read(&mut request).await.expect("a request");
            if request[..read].starts_with(b"GET /version") {
                let body = r#"{"ApiVersion":"1.41"}"#;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:";
                let answer = format!("{head} {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.expect("an answer");
                // The next request on this connection gets no answer.
                let _ = stream.read(&mut request).await;
            }
        });
    }
}

#[tokio::test]
async fn an_engine_that_stops_in_between_is_a_transient_error_that_can_be_undone_later() {
    let containers = Containers::start();
    let socket = containers.dir.path().join("docker.sock");
    let engine = tokio::spawn(half_an_engine(socket.clone()));
    while !socket.exists() {
        tokio::task::yield_now().await;
    }
    let options = DockerOptions {
        host: Some(format!("unix://{}", socket.display())),
        state_dir: containers.dir.path().join("stacks"),
        instance: containers.instance.clone(),
    };
    let spec = stack("a", vec![service("main", "exit 0")]);
    let error = Docker::new(options).expect("an orchestrator").deploy(&spec).await.expect_err("it hangs up");
    assert!(matches!(error, Error::Backend { backend: "docker", transient: true, .. }), "{error:?}");
    engine.abort();

    // Whether the engine did what it was asked is unknown, so the attempt is remembered until that is certain.
    let docker = containers.docker();
    let listed = docker.list(&Selector::all()).await.expect("a list").found;
    assert_eq!((&listed[0].id, listed[0].services[0].state), (&spec.id(), ServiceState::Exited { status: None }));
    docker.remove(&spec.id()).await.expect("removed");
    assert_eq!(docker.list(&Selector::all()).await.expect("a list").found, []);
}
