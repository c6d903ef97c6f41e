//! What a stack can be asked for beside running: ports, dependencies, secrets.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use tokio::time::{Instant, sleep, timeout};

use super::{Harness, PATIENCE, Program, assert_not_found, name, names, pids, remove, sleeper, spec};
use crate::error::{Error, Kind};
use crate::label::Selector;
use crate::name::{ServiceName, StackName};
use crate::orchestrator::{
    Condition, Dependency, FileMount, Healthcheck, LogOptions, NetworkAttachment, Orchestrator, Publish,
    RestartCondition, RestartPolicy, SecretSpec, ServiceSpec, ServiceState, StackSpec, VolumeMount,
};
use crate::secret::Secret;

/// Where [`Program::Listens`] listens, unless `PORT` says otherwise.
pub const PORT: u16 = 8080;

/// A service that does its work once.
fn once(harness: &dyn Harness, name: &str, program: Program) -> ServiceSpec {
    let mut service = harness.service(name, program);
    let condition = RestartCondition::None;
    service.placement.restart_policy = Some(RestartPolicy { condition, ..RestartPolicy::default() });
    service
}

/// A service that is started again whenever it ends, as compose files have it where they say nothing.
fn again(harness: &dyn Harness, name: &str, program: Program) -> ServiceSpec {
    let mut service = harness.service(name, program);
    service.placement.restart_policy = Some(RestartPolicy::default());
    service
}

fn after(mut service: ServiceSpec, other: &str, condition: Condition) -> ServiceSpec {
    let other = ServiceName::new(other).expect("a service name");
    service.depends_on.push(Dependency { service: other, condition });
    service
}

fn check(line: &str, retries: u32) -> Healthcheck {
    Healthcheck {
        test: vec!["CMD-SHELL".into(), line.into()],
        interval: Some(Duration::from_millis(200)),
        timeout: Some(Duration::from_secs(10)),
        start_period: None,
        retries: Some(retries),
    }
}

/// Waits for the first line that a service writes, from a stack that may not be there yet.
async fn first_line(orchestrator: &dyn Orchestrator, stack: &StackName, service: &str) -> String {
    let options = LogOptions { service: ServiceName::new(service).ok(), follow: true, ..LogOptions::default() };
    let line = async {
        loop {
            match orchestrator.logs(stack, options.clone()).next().await {
                Some(Ok(line)) => return line.text,
                Some(Err(Error::NotFound { .. })) | None => sleep(Duration::from_millis(20)).await,
                Some(Err(other)) => panic!("expected a line, got {other:?}"),
            }
        }
    };
    timeout(PATIENCE, line).await.expect("it writes in time")
}

/// Waits until a service's published port answers, and returns its address.
async fn answering(harness: &dyn Harness, orchestrator: &dyn Orchestrator, stack: &StackName) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = orchestrator.get(stack).await.expect("a stack");
        for endpoint in &seen.services[0].endpoints {
            assert_eq!(endpoint.target, PORT);
            if harness.ask(&endpoint.address).await.as_deref() == Some("hello") {
                return endpoint.address.clone();
            }
        }
        assert!(Instant::now() < deadline, "no port answers: {seen:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A port whose number is left to the orchestrator is told by [`Service::endpoints`](crate::orchestrator::Service::endpoints) and reached there, again
/// when the stack wakes, and no more when it is gone.
pub async fn a_published_port_is_told_and_reached(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let listener =
        || ServiceSpec { publish: vec![Publish::anywhere(PORT)], ..harness.service("web-server", Program::Listens) };
    let one = orchestrator.deploy(&spec("a", vec![listener()])).await.expect("deployed");
    let two = orchestrator.deploy(&spec("b", vec![listener()])).await.expect("deployed beside it");
    let (first, second) =
        (answering(harness, &*orchestrator, &one.name).await, answering(harness, &*orchestrator, &two.name).await);
    assert_ne!(first, second);
    orchestrator.set_running(&one.name, false).await.expect("asleep");
    assert_eq!(orchestrator.get(&one.name).await.expect("a stack").services[0].endpoints, []);
    assert_eq!(harness.ask(&first).await, None);
    orchestrator.set_running(&one.name, true).await.expect("awake");
    let again = answering(harness, &*orchestrator, &one.name).await;
    remove(&*orchestrator, &one.id).await;
    assert_eq!(harness.ask(&again).await, None);
    assert_eq!(harness.ask(&second).await.as_deref(), Some("hello"));
    remove(&*orchestrator, &two.id).await;
    assert_eq!(harness.ask(&second).await, None);
}

/// A service finds another of its stack by the variable `ONDEMAND_SERVICE_…`, whatever the order in which they are written.
pub async fn siblings_find_each_other(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let listener =
        ServiceSpec { publish: vec![Publish::anywhere(PORT)], ..harness.service("web-server", Program::Listens) };
    let spec = spec("a", vec![harness.service("finder", Program::Finds), listener]);
    let stack = orchestrator.deploy(&spec).await.expect("deployed");
    assert_eq!(first_line(&*orchestrator, &spec.name, "finder").await, "found: hello");
    remove(&*orchestrator, &stack.id).await;
}

/// Services start in the order of their dependencies: after another has done its work, and after another is healthy.
pub async fn dependencies_are_honoured(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let api = ServiceSpec {
        publish: vec![Publish::anywhere(PORT)],
        healthcheck: Some(check(Program::ANSWERS, 100)),
        ..harness.service("web-server", Program::Listens)
    };
    let services = vec![
        after(once(harness, "front", Program::FindsAtOnce), "web-server", Condition::Healthy),
        after(api, "migrate", Condition::CompletedSuccessfully),
        after(harness.service("side", Program::Sleeps), "front", Condition::Started),
        once(harness, "migrate", Program::Completes),
    ];
    let spec = spec("a", services);
    let stack = timeout(PATIENCE, orchestrator.deploy(&spec)).await.expect("in time").expect("deployed");
    let order: Vec<_> = stack.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(order, ["front", "web-server", "side", "migrate"], "they are told in the order of the specification");
    assert_eq!(stack.services[3].state, ServiceState::Exited { status: Some(0) }, "it was waited for: {stack:?}");
    assert_eq!(first_line(&*orchestrator, &spec.name, "front").await, "found: hello");
    remove(&*orchestrator, &stack.id).await;
}

/// What has done its work is not started again when the stack wakes.
pub async fn what_is_done_is_not_done_again(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let services = vec![
        again(harness, "migrate", Program::Completes),
        after(harness.service("main", Program::Sleeps), "migrate", Condition::CompletedSuccessfully),
    ];
    let spec = spec("a", services);
    let stack = timeout(PATIENCE, orchestrator.deploy(&spec)).await.expect("in time").expect("deployed");
    orchestrator.set_running(&spec.name, true).await.expect("nothing to do");
    orchestrator.set_running(&spec.name, false).await.expect("asleep");
    orchestrator.set_running(&spec.name, true).await.expect("awake");
    let awake = orchestrator.get(&spec.name).await.expect("a stack");
    assert_eq!(awake.services[1].state, ServiceState::Running);
    assert_eq!(awake.services[0].state, ServiceState::Exited { status: Some(0) });
    let service = ServiceName::new("migrate").ok();
    let lines = orchestrator.logs(&spec.name, LogOptions { service, ..LogOptions::default() });
    let lines: Vec<_> = lines.map_ok(|line| line.text).try_collect().await.expect("a log");
    assert_eq!(lines, ["done"], "it ran once");
    remove(&*orchestrator, &stack.id).await;
}

/// Asserts that a deployment fails because of its service `bad`, and leaves nothing.
async fn assert_service_fails(harness: &dyn Harness, services: Vec<ServiceSpec>) -> (String, Vec<String>) {
    let orchestrator = harness.open();
    let deployed = timeout(PATIENCE, orchestrator.deploy(&spec("a", services))).await.expect("in time");
    let (reason, log) = match deployed {
        Err(Error::ServiceFailed { service, reason, log }) if service == "bad" => (reason, log),
        other => panic!("expected that a service fails, got {other:?}"),
    };
    assert_eq!(names(&*orchestrator, &Selector::all()).await, [""; 0]);
    let stack = orchestrator.deploy(&sleeper(harness, "a")).await.expect("the name is free");
    remove(&*orchestrator, &stack.id).await;
    (reason, log)
}

/// If a service that others wait for fails, the error says which, how and its last lines, and all are undone.
pub async fn a_dependency_that_fails_undoes_all(harness: &dyn Harness) {
    for bad in [once(harness, "bad", Program::Fails), again(harness, "bad", Program::Fails)] {
        let services = vec![
            harness.service("side", Program::Sleeps),
            after(harness.service("main", Program::Sleeps), "bad", Condition::CompletedSuccessfully),
            bad,
        ];
        let (reason, log) = assert_service_fails(harness, services).await;
        assert!(reason.contains('3'), "it tells the exit status: {reason}");
        assert_eq!(log, ["no such table"]);
    }
}

/// If a service that is to be healthy never is, or ends, the same happens.
pub async fn a_dependency_that_is_never_healthy_undoes_all(harness: &dyn Harness) {
    for program in [Program::Sleeps, Program::Fails] {
        let bad = ServiceSpec { healthcheck: Some(check("exit 1", 2)), ..once(harness, "bad", program) };
        let services = vec![bad, after(harness.service("main", Program::Sleeps), "bad", Condition::Healthy)];
        assert_service_fails(harness, services).await;
    }
}

/// A stack whose second service waits for the first in vain; the first writes `one`.
fn endless(harness: &dyn Harness, stack: &str) -> StackSpec {
    let services = vec![
        harness.service("first", Program::Prints),
        after(harness.service("main", Program::Sleeps), "first", Condition::CompletedSuccessfully),
    ];
    spec(stack, services)
}

/// A deployment that waits for a service is undone when its future is dropped.
pub async fn a_waiting_deployment_can_be_dropped(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let spec = endless(harness, "a");
    {
        let deploying = orchestrator.deploy(&spec).fuse();
        let seen = async {
            assert_eq!(first_line(&*orchestrator, &spec.name, "first").await, "one");
            orchestrator.get(&spec.name).await.expect("a stack")
        };
        tokio::select! {
            deployed = deploying => panic!("it waits for what never ends, but got {deployed:?}"),
            seen = seen => assert_eq!(seen.services[1].state, ServiceState::Starting),
        }
    }
    let gone = async {
        while !orchestrator.list(&Selector::all()).await.expect("a list").found.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("undone in time");
    assert_not_found(orchestrator.get(&spec.name).await, Kind::Stack);
}

/// A stack whose deployment waits for a service is removed, by another handle too, and the deployment fails.
pub async fn a_waiting_deployment_can_be_removed(harness: &dyn Harness) {
    let removed = [("same", false), ("other", true)].map(|(stack, other)| async move {
        let orchestrator = harness.open();
        let remover = if other { harness.open() } else { orchestrator.clone() };
        let spec = endless(harness, stack);
        let deploying = tokio::spawn({
            let (orchestrator, spec) = (orchestrator.clone(), spec.clone());
            async move { orchestrator.deploy(&spec).await }
        });
        assert_eq!(first_line(&*orchestrator, &spec.name, "first").await, "one");
        let gone = timeout(PATIENCE, remover.remove(&spec.id())).await;
        gone.expect("in time").expect("removed");
        assert_not_found(remover.get(&spec.name).await, Kind::Stack);
        let deployed = timeout(PATIENCE, deploying).await.expect("in time").expect("no panic");
        assert!(deployed.is_err(), "{deployed:?}");
    });
    join_all(removed).await;
    assert_eq!(names(&*harness.open(), &Selector::all()).await, [""; 0]);
}

/// A service reads a secret as a file, and nothing tells it that can be told of the stack.
pub async fn a_secret_is_read_and_not_told(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let content = crate::name::AttemptId::random().expect("randomness").to_string();
    let mut reader = harness.service("main", Program::ReadsSecret);
    let file = orchestrator.secrets_dir(&name("a")).join("token");
    reader.env.insert("SECRET_FILE".into(), file.display().to_string());
    reader.secrets = vec![FileMount { source: "token".into(), target: None, uid: None, gid: None, mode: None }];
    let mut spec = spec("a", vec![reader]);
    spec.secrets.insert("token".into(), SecretSpec::Content(Secret::new(content.clone())));
    let stack = orchestrator.deploy(&spec).await.expect("deployed");
    assert_eq!(first_line(&*orchestrator, &spec.name, "main").await, content);
    let told = format!("{spec:?} {stack:?} {orchestrator:?} {}", serde_json::to_string(&spec).expect("JSON"));
    assert!(!told.contains(&content), "{told}");
    let inspected = harness.inspect(&spec.name).await;
    assert!(!inspected.contains(&content), "{inspected}");
    // It is there after a restart of the orchestrator, too.
    let next = harness.open();
    next.set_running(&spec.name, false).await.expect("asleep");
    next.set_running(&spec.name, true).await.expect("awake");
    let times = if harness.keeps_logs_asleep() { 2 } else { 1 };
    let written = async {
        loop {
            let lines = next.logs(&spec.name, LogOptions::default()).map_ok(|line| line.text);
            let lines: Vec<_> = lines.try_collect().await.expect("a log");
            if lines.len() >= times {
                return lines;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(timeout(PATIENCE, written).await.expect("in time"), vec![content.as_str(); times]);
    assert!(pids(&next.get(&spec.name).await.expect("a stack")).into_iter().all(|pid| harness.is_alive(pid)));
    remove(&*next, &stack.id).await;
}

/// What one deployment left in a directory of a service's own, the next one of its name does not find.
pub async fn a_directory_of_its_own_goes_with_the_stack(harness: &dyn Harness) {
    let orchestrator = harness.open();
    for _ in 0..2 {
        let main = ServiceSpec { own_directory: true, ..harness.service("main", Program::Litters) };
        let stack = orchestrator.deploy(&spec("a", vec![main])).await.expect("deployed");
        assert_eq!(first_line(&*orchestrator, &stack.name, "main").await, "clean");
        remove(&*orchestrator, &stack.id).await;
    }
}

/// What names something that the stack does not have, or waits for itself, is invalid input.
pub async fn what_a_stack_lacks_is_refused(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let file = || vec![FileMount { source: "no".into(), target: None, uid: None, gid: None, mode: None }];
    let main = harness.service("main", Program::Sleeps);
    let volume = VolumeMount { volume: Some("no".into()), target: "/x".into(), read_only: false, nocopy: false };
    let network = NetworkAttachment { network: "no".into(), aliases: Vec::new() };
    for wrong in [
        ServiceSpec { secrets: file(), ..main.clone() },
        ServiceSpec { configs: file(), ..main.clone() },
        ServiceSpec { volumes: vec![volume], ..main.clone() },
        ServiceSpec { networks: vec![network], ..main.clone() },
        after(main.clone(), "nobody", Condition::Started),
        after(main.clone(), "main", Condition::Started),
        after(main, "other", Condition::Healthy),
    ] {
        let services = vec![wrong, harness.service("other", Program::Sleeps)];
        let refused = orchestrator.deploy(&spec("a", services)).await;
        assert!(matches!(refused, Err(Error::InvalidInput { .. })), "{refused:?}");
    }
    assert_eq!(names(&*orchestrator, &Selector::all()).await, [""; 0]);
}
