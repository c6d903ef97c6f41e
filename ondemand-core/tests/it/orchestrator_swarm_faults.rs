//! Services of a Docker Swarm whose nodes die: one of their own, where they run one at a time.
//!
//! Slow: a node that died is missed after three heartbeats of a second, and takes seconds to start again.

#![expect(clippy::expect_used, reason = "these are tests")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::laboratory::{Services, hosts, lines, run_on, service, stack, variable, with_volume, written};
use ondemand_core::orchestrator::{
    Condition, Dependency, DeployMode, LogOptions, Publish, RestartPolicy, ServiceSpec, ServiceState, Stack, Swarm,
    Tidied,
};
use ondemand_core::{Error, Orchestrator, Selector, StackName};

/// How long anything that is waited for may take; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends or starts a node. What was ended is started again when this goes, whatever became of the test.
struct Killed(usize);

impl Killed {
    fn now(node: usize) -> Self {
        laboratory("kill", node);
        Self(node)
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        laboratory("revive", self.0);
    }
}

fn laboratory(what: &str, node: usize) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/setup/swarm.sh");
    let done = Command::new(script).args([what, &variable("ONDEMAND_TEST_SWARM_DIR"), &node.to_string()]).status();
    assert!(done.expect("the script").success(), "{what} {node}");
}

/// Returns the number of the node that an endpoint is on: their addresses end with 11, 12 and 13.
fn node_of(stack: &Stack) -> usize {
    let address = &stack.services[0].endpoints.first().expect("an endpoint").address;
    let (host, _) = address.rsplit_once(':').expect("a port");
    host.rsplit('1').next().and_then(|last| last.parse().ok()).unwrap_or(1)
}

async fn until(swarm: &Swarm, name: &StackName, what: impl Fn(&Stack) -> bool) -> Stack {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match swarm.get(name).await {
            Ok(stack) if what(&stack) => return stack,
            Err(error) if !error.is_transient() => panic!("{error:?}"),
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn web() -> ServiceSpec {
    let mut main = service("main", "echo here; mkdir /w; exec httpd -f -p 8080 -h /w");
    main.publish = vec![Publish::anywhere(8080)];
    main.placement.restart_policy = Some(RestartPolicy::default());
    main.placement.constraints = vec!["node.role == worker".into()];
    main
}

#[tokio::test]
async fn an_endpoint_follows_its_task_to_another_node() {
    let services = Services::start();
    let swarm = services.swarm();
    let spec = stack("a", vec![web()]);
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    let dead = node_of(&deployed);
    assert!([2, 3].contains(&dead), "{deployed:?}");
    let killed = Killed::now(dead);
    let begun = Instant::now();
    let moved = until(&swarm, &spec.name, |stack| stack.is_running() && node_of(stack) != dead).await;
    let took = begun.elapsed();
    assert_eq!(moved.services[0].endpoints.len(), 1, "none leads to the dead node: {moved:?}");
    assert!(took < PATIENCE, "{took:?}");
    written(&swarm, &spec.name, 1).await;
    assert_eq!(lines(&swarm, &spec.name, LogOptions::default()).await, ["here"], "the living node's log is read");
    let removed = tokio::time::timeout(PATIENCE, swarm.remove(&deployed.id)).await;
    removed.expect("in time, though the dead node cannot say that its task is gone").expect("removed");
    assert_eq!(services.left().await, [""; 0]);
    drop(killed);
}

#[tokio::test]
async fn a_manager_that_starts_again_has_our_stacks() {
    let services = Services::start();
    let swarm = services.swarm();
    let spec = stack("a", vec![web()]);
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    let killed = Killed::now(1);
    let error = swarm.get(&spec.name).await.expect_err("the manager is gone");
    assert!(error.is_transient(), "{error:?}");
    let error = swarm.deploy(&stack("b", vec![web()])).await.expect_err("the manager is gone");
    assert!(error.is_transient(), "{error:?}");
    drop(killed);
    let again = until(&swarm, &spec.name, Stack::is_running).await;
    assert_eq!((&again.id, &again.labels, again.created), (&deployed.id, &deployed.labels, deployed.created));
    let listed = swarm.list(&Selector::all()).await.expect("a list").found;
    assert_eq!(listed.len(), 1, "{listed:?}");
    swarm.remove(&deployed.id).await.expect("removed");
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn volumes_on_a_node_that_is_away_go_when_it_is_back() {
    let services = Services::start();
    let swarm = services.swarm();
    let mut main = service("main", "exec sleep 1000");
    main.placement.mode = DeployMode::Global;
    let spec = with_volume(stack("a", vec![main]));
    let deployed = swarm.deploy(&spec).await.expect("deployed");
    let [_, second, third] = hosts();
    let on = |host: &str| {
        let filter = format!("label=ondemand.instance={}", services.instance);
        run_on(host, &["volume", "ls", "--quiet", "--filter", &filter]).lines().count()
    };

    let killed = Killed::now(3);
    // Drained nodes get no job, as they get no tasks.
    let drained = Drained::now("node-2");
    let removed = tokio::time::timeout(PATIENCE, swarm.remove(&deployed.id)).await;
    removed.expect("in time").expect("removed");
    until_down(3).await;
    assert_eq!(swarm.tidy().await.expect("nothing can be done"), Tidied::default());
    assert_eq!(on(&second), 1);

    drop(drained);
    assert_eq!(swarm.tidy().await.expect("one of two"), Tidied::default());
    assert_eq!(on(&second), 0);
    let noted = services.left().await;
    assert_eq!(noted.len(), 1, "the other one is not forgotten: {noted:?}");

    drop(killed);
    // Another process goes on with what this one has begun.
    let other = services.swarm();
    let deadline = Instant::now() + PATIENCE;
    let done = loop {
        let tidied = other.tidy().await.expect("tidied");
        if tidied != Tidied::default() {
            break tidied;
        }
        assert!(Instant::now() < deadline, "the node does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(done, Tidied { removed: vec!["volumes of stack a".into()], failed: Vec::new() });
    assert_eq!(on(&third), 0);
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn nodes_that_never_had_a_task_are_not_waited_for() {
    let services = Services::start();
    let swarm = services.swarm();
    let _active = Drained::now("node-3");
    let mut main = service("main", "exec sleep 1000");
    main.placement.constraints = vec!["node.hostname == node-2".into()];
    let deployed = swarm.deploy(&with_volume(stack("a", vec![main]))).await.expect("deployed");
    swarm.remove(&deployed.id).await.expect("removed");
    let done = Tidied { removed: vec!["volumes of stack a".into()], failed: Vec::new() };
    assert_eq!(swarm.tidy().await.expect("tidied"), done);
    assert_eq!(services.left().await, [""; 0]);
}

/// A node that takes no tasks until this goes.
struct Drained(&'static str);

impl Drained {
    fn now(node: &'static str) -> Self {
        run_on(&hosts()[0], &["node", "update", "--availability", "drain", node]);
        Self(node)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        run_on(&hosts()[0], &["node", "update", "--availability", "active", self.0]);
    }
}

/// Waits until the manager misses a node.
async fn until_down(node: usize) {
    let deadline = Instant::now() + PATIENCE;
    let inspect = ["node", "inspect", "--format", "{{.Status.State}}", &format!("node-{node}")];
    while run_on(&hosts()[0], &inspect).trim() != "down" {
        assert!(Instant::now() < deadline, "node {node} is not missed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn what_a_killed_process_was_deploying_is_listed_and_removed() {
    let services = Services::start();
    let swarm = services.swarm();
    let mut waits = service("waits", "exec sleep 1000");
    let once = service("once", "exec sleep 1000");
    waits.depends_on = vec![Dependency { service: once.name.clone(), condition: Condition::CompletedSuccessfully }];
    let spec = stack("a", vec![once, waits]);
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let doomed = runtime();
    doomed.spawn({
        let (swarm, spec) = (swarm.clone(), spec.clone());
        async move { swarm.deploy(&spec).await }
    });
    let next = runtime();
    let other = services.swarm();
    next.block_on(until_made(&other, &spec.name));
    // Nothing that it had begun goes on, as if it were killed.
    doomed.shutdown_background();
    next.block_on(async {
        let listed = other.list(&Selector::all()).await.expect("a list").found;
        assert_eq!(listed.iter().map(|stack| &stack.id).collect::<Vec<_>>(), [&spec.id()]);
        let states: Vec<_> = listed[0].services.iter().map(|service| service.state).collect();
        assert_eq!(states, [ServiceState::Running, ServiceState::Exited { status: None }]);
        other.remove(&spec.id()).await.expect("removed");
        assert_eq!(services.left().await, [""; 0]);
    });
}

/// Waits until the first service of a stack that is being deployed runs.
async fn until_made(swarm: &Swarm, name: &StackName) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match swarm.get(name).await {
            Ok(stack) if stack.services[0].state == ServiceState::Running => return,
            Ok(_) | Err(Error::NotFound { .. }) => assert!(Instant::now() < deadline, "it is not made"),
            Err(error) => panic!("{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
