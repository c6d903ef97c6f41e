//! Volumes of a Docker Swarm, which are on the nodes where tasks ran.
//!
//! Slow: a swarm takes a second to start a task and another to end it, and some tests do that thirty times.

use std::time::{Duration, Instant};

use crate::laboratory::{
    Services, hosts, lines, remove_volume, run_on, service, stack, variable, with_volume, written,
};
use ondemand_core::Orchestrator;
use ondemand_core::orchestrator::{DeployMode, LogOptions, ServiceSpec, StackSpec, Swarm, SwarmOptions, Tidied};

/// How long anything that is waited for may take; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A stack that writes into a volume on every node.
fn everywhere(name: &str) -> StackSpec {
    let mut main = service("main", "echo x >/kept/x; echo written; exec sleep 1000");
    main.placement.mode = DeployMode::Global;
    with_volume(stack(name, vec![main]))
}

/// A stack with a volume on the second node, whose service runs a script.
fn on_a_worker(name: &str, script: &str) -> StackSpec {
    let mut main: ServiceSpec = service("main", script);
    main.placement.constraints = vec!["node.hostname == node-2".into()];
    with_volume(stack(name, vec![main]))
}

/// Makes a container that uses a volume, and returns its id.
fn hold(host: &str, volume: &str) -> String {
    let container = ["create", "--volume", &format!("{volume}:/v"), &variable("ONDEMAND_TEST_SWARM_IMAGE")];
    run_on(host, &container).trim().to_owned()
}

fn removed(name: &str) -> Tidied {
    Tidied { removed: vec![format!("volumes of stack {name}")], failed: Vec::new() }
}

#[tokio::test]
async fn volumes_go_from_all_nodes() {
    let services = Services::start();
    let swarm = services.swarm();
    let (gone, awake, asleep) = (everywhere("gone"), everywhere("awake"), everywhere("asleep"));
    let mut ids = Vec::new();
    for spec in [&gone, &awake, &asleep] {
        ids.push(swarm.deploy(spec).await.expect("deployed").id);
        written(&swarm, &spec.name, 3).await;
    }
    swarm.set_running(&asleep.name, false).await.expect("asleep");
    assert_eq!(services.volumes().map(|volumes| volumes.len()), [3, 3, 3]);

    swarm.remove(&ids[0]).await.expect("removed");
    let at_once = services.volumes().map(|volumes| volumes.len());
    assert_eq!(at_once, [2, 3, 3], "the manager's own is gone");
    assert_eq!(swarm.tidy().await.expect("tidied"), removed("gone"));
    let left = services.volumes();
    for volumes in &left {
        assert_eq!(volumes.len(), 2, "{left:?}");
        assert!(!volumes.iter().any(|volume| volume.contains("_gone_")), "{left:?}");
    }
    assert_eq!(swarm.tidy().await.expect("nothing to do"), Tidied::default());

    // What is in them is there as well.
    let volume = left[1].iter().find(|volume| volume.contains("_asleep_")).expect("a volume");
    let show =
        ["run", "--rm", "--volume", &format!("{volume}:/v"), &variable("ONDEMAND_TEST_SWARM_IMAGE"), "cat", "/v/x"];
    assert_eq!(run_on(&hosts()[1], &show), "x\n");
    for id in &ids[1..] {
        swarm.remove(id).await.expect("removed");
    }
    let both = ["asleep", "awake"].map(|name| format!("volumes of stack {name}"));
    assert_eq!(swarm.tidy().await.expect("tidied"), Tidied { removed: both.into(), failed: Vec::new() });
    assert_eq!(services.volumes(), [[""; 0]; 3]);
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn the_next_stack_of_a_name_does_not_find_what_the_last_one_wrote() {
    let services = Services::start();
    let swarm = services.swarm();
    for secret in ["mine", "yours"] {
        let spec = on_a_worker("a", &format!("ls /kept; echo it >/kept/{secret}; echo done; exec sleep 1000"));
        let deployed = swarm.deploy(&spec).await.expect("deployed");
        written(&swarm, &spec.name, 1).await;
        assert_eq!(lines(&swarm, &spec.name, LogOptions::default()).await, ["done"]);
        swarm.remove(&deployed.id).await.expect("removed");
    }
    let both = Tidied { removed: vec!["volumes of stack a".into(); 2], failed: Vec::new() };
    assert_eq!(swarm.tidy().await.expect("tidied"), both);
    assert_eq!(services.volumes(), [[""; 0]; 3]);
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn a_stack_without_volumes_or_with_others_leaves_nothing_to_do() {
    let services = Services::start();
    let swarm = services.swarm();
    let mut named = on_a_worker("named", "exec sleep 1000");
    let shared = format!("{}-shared", services.instance);
    named.volumes.get_mut("kept").expect("a volume").name = Some(shared.clone());
    for spec in [stack("plain", vec![service("main", "exec sleep 1000")]), named] {
        let deployed = swarm.deploy(&spec).await.expect("deployed");
        swarm.remove(&deployed.id).await.expect("removed");
        assert_eq!(services.left().await, [""; 0]);
    }
    assert_eq!(swarm.tidy().await.expect("nothing to do"), Tidied::default());
    // It outlives its stack.
    remove_volume(&hosts()[1], &shared).await;
}

#[tokio::test]
async fn an_image_that_nodes_cannot_get_is_named_and_not_asked_for_again_at_once() {
    let services = Services::start();
    let missing = format!("{}/no-such-image:1", variable("ONDEMAND_TEST_REGISTRY"));
    let with =
        |volume_cleaner| Swarm::new(SwarmOptions { volume_cleaner, ..services.options() }).expect("an orchestrator");
    let swarm = with(Some(missing));
    let deployed = swarm.deploy(&on_a_worker("a", "exec sleep 1000")).await.expect("deployed");
    swarm.remove(&deployed.id).await.expect("it does not keep the stack from going");
    let begun = Instant::now();
    let Tidied { removed: gone, failed } = swarm.tidy().await.expect("tidied");
    let tried = begun.elapsed();
    assert_eq!(gone, [""; 0]);
    for (node, failed) in ["node-2", "node-3"].into_iter().zip(&failed) {
        assert!(failed.starts_with(&format!("volumes on node {node}: ")), "{failed}");
        assert!(failed.contains("swarm.volume-cleaner"), "it says what to do: {failed}");
    }
    assert_eq!(failed.len(), 2, "{failed:?}");
    // Told until it is done, and not tried again at once.
    let begun = Instant::now();
    assert_eq!(swarm.tidy().await.expect("not yet"), Tidied { removed: Vec::new(), failed });
    assert!(begun.elapsed() < tried, "{:?} after {tried:?}", begun.elapsed());
    // Nothing is forgotten: neither by those who have no image at all nor by those who have the right one.
    assert_eq!(with(None).tidy().await.expect("nobody does it"), Tidied::default());
    assert_eq!(services.volumes().map(|volumes| volumes.len()), [0, 1, 0]);
    assert_eq!(services.swarm().tidy().await.expect("tidied"), removed("a"));
    assert_eq!(services.volumes(), [[""; 0]; 3]);
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn volumes_stay_where_nobody_is_to_remove_them() {
    let services = Services::start();
    let swarm = Swarm::new(SwarmOptions { volume_cleaner: None, ..services.options() }).expect("an orchestrator");
    let deployed = swarm.deploy(&on_a_worker("a", "exec sleep 1000")).await.expect("deployed");
    swarm.remove(&deployed.id).await.expect("removed");
    assert_eq!(services.left().await, [""; 0]);
    let volumes = services.volumes();
    remove_volume(&hosts()[1], &volumes[1][0]).await;
    assert_eq!(services.volumes(), [[""; 0]; 3]);
}

#[tokio::test]
async fn what_is_cut_off_is_finished_by_the_next_one() {
    let services = Services::start();
    let deployed = services.swarm().deploy(&everywhere("a")).await.expect("deployed");
    services.swarm().remove(&deployed.id).await.expect("removed");
    let swarm = services.swarm();
    let cut_off = tokio::select! {
        tidied = swarm.tidy() => Some(tidied),
        () = until_there(&services) => None,
    };
    assert!(cut_off.is_none(), "it was over before its job was seen: {cut_off:?}");
    assert_eq!(services.swarm().tidy().await.expect("tidied"), removed("a"));
    assert_eq!(services.volumes(), [[""; 0]; 3]);
    assert_eq!(services.left().await, [""; 0]);
}

/// Waits until the job is there.
async fn until_there(services: &Services) {
    let begun = Instant::now();
    while !services.left().await.iter().any(|name| name.ends_with("_volume-cleaner")) {
        assert!(begun.elapsed() < PATIENCE, "there is no job");
    }
}

#[tokio::test]
async fn a_volume_that_is_still_used_is_removed_a_moment_later() {
    let services = Services::start();
    let swarm = services.swarm();
    let deployed = swarm.deploy(&on_a_worker("a", "exec sleep 1000")).await.expect("deployed");
    let volume = services.volumes()[1][0].clone();
    // As the container of a task does that its node has not taken away yet.
    let host = hosts()[1].clone();
    let user = hold(&host, &volume);
    swarm.remove(&deployed.id).await.expect("removed");
    let tidying = tokio::spawn(async move { swarm.tidy().await });
    // The job has begun, and the volume is used.
    let begun = Instant::now();
    let running = ["ps", "--quiet", "--filter", &format!("label=ondemand.instance={}", services.instance)];
    while run_on(&host, &running).is_empty() {
        assert!(begun.elapsed() < PATIENCE && !tidying.is_finished(), "there is no job on the node");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(services.volumes()[1], [volume.as_str()]);
    run_on(&host, &["rm", &user]);
    assert_eq!(tidying.await.expect("it does not panic").expect("tidied"), removed("a"));
    assert_eq!(services.volumes(), [[""; 0]; 3]);
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn a_volume_that_stays_used_keeps_no_other_one() {
    let services = Services::start();
    let swarm = services.swarm();
    let host = hosts()[1].clone();
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(swarm.deploy(&on_a_worker(name, "exec sleep 1000")).await.expect("deployed").id);
    }
    let volumes = services.volumes();
    let stays = volumes[1].iter().find(|volume| volume.contains("_a_kept_")).expect("a volume");
    let user = hold(&host, stays);
    for id in &ids {
        swarm.remove(id).await.expect("removed");
    }
    let Tidied { removed: gone, failed } = swarm.tidy().await.expect("tidied");
    assert_eq!(gone, ["volumes of stack b", "volumes of stack c"]);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].starts_with("volumes on node node-2: ") && failed[0].contains("in use"), "{failed:?}");
    assert_eq!(services.volumes()[1], [stays.as_str()]);

    // Nor does it keep those of stacks that go while it rests, and it is told until it is done.
    let later = swarm.deploy(&on_a_worker("later", "exec sleep 1000")).await.expect("deployed");
    swarm.remove(&later.id).await.expect("removed");
    let next = swarm.tidy().await.expect("tidied");
    assert_eq!(next, Tidied { removed: vec!["volumes of stack later".into()], failed });
    assert_eq!(services.volumes()[1], [stays.as_str()]);
    run_on(&host, &["rm", &user]);
    assert_eq!(services.swarm().tidy().await.expect("tidied"), removed("a"));
    assert_eq!(services.volumes(), [[""; 0]; 3]);
    assert_eq!(services.left().await, [""; 0]);
}

#[tokio::test]
async fn what_is_noted_meanwhile_is_done_by_the_next_one() {
    let services = Services::start();
    let swarm = services.swarm();
    let host = hosts()[1].clone();
    let (one, two) = (on_a_worker("one", "exec sleep 1000"), on_a_worker("two", "exec sleep 1000"));
    let first = swarm.deploy(&one).await.expect("deployed").id;
    let volume = services.volumes()[1][0].clone();
    let second = swarm.deploy(&two).await.expect("deployed").id;
    // It keeps the first round from ending.
    let user = hold(&host, &volume);
    swarm.remove(&first).await.expect("removed");
    let tidy = |swarm: &Swarm| {
        let swarm = swarm.clone();
        tokio::spawn(async move { swarm.tidy().await })
    };
    let rounds = tidy(&swarm);
    until_there(&services).await;
    swarm.remove(&second).await.expect("removed");
    let next = tidy(&swarm);
    run_on(&host, &["rm", &user]);
    assert_eq!(rounds.await.expect("it does not panic").expect("tidied"), removed("one"));
    // The tasks of the one before, which did this well, are there yet.
    assert_eq!(next.await.expect("it does not panic").expect("tidied"), removed("two"));
    assert_eq!(services.volumes(), [[""; 0]; 3]);
    assert_eq!(services.left().await, [""; 0]);
}
