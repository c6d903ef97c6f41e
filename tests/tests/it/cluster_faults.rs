//! Environments on a Swarm whose nodes die: one of their own, where they run one at a time.
//!
//! Slow: a node that died is missed after three heartbeats of a second, and takes seconds to start again.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ondemand_tests::cluster::{SmallDisk, variable};
use ondemand_tests::shop::visit;
use ondemand_tests::{Cluster, run};
use serde_json::json;

/// How long anything that is waited for may take; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(100);

/// Waits until an environment's back end answers, and returns where it runs then, as the proxy knows it.
async fn answers(cluster: &Cluster) -> Result<String> {
    let begun = Instant::now();
    loop {
        let seen = visit(&cluster.server, "demoapi.env.dev.internal", "/health").await;
        // It may be on its way elsewhere again already, and then leads nowhere for a moment.
        if matches!(seen, Ok((200, _)))
            && let Some(upstream) = upstream(cluster).await?
        {
            return Ok(upstream);
        }
        if begun.elapsed() >= PATIENCE {
            let tasks = "docker service ls --quiet | xargs docker service ps --no-trunc";
            let tasks = Command::new("sh")
                .args(["-c", tasks])
                .env("DOCKER_HOST", variable("ONDEMAND_TEST_SWARM_HOST")?)
                .output()?;
            bail!("{seen:?} from {:?}, of\n{}", upstream(cluster).await, String::from_utf8_lossy(&tasks.stdout));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn upstream(cluster: &Cluster) -> Result<Option<String>> {
    let route = cluster.server.succeed("GET", "/routes/demoapi.env.dev.internal", "").await?;
    Ok(route["upstreams"][0].as_str().map(ToOwned::to_owned))
}

/// Returns the number of the node that an address is of: they end with 11, 12 and 13.
fn node_of(address: &str) -> Result<usize> {
    let host = address.rsplit_once(':').context("a port")?.0;
    Ok(host[host.len() - 1..].parse()?)
}

/// Waits until the back end is on a worker, ends that, and waits until it answers from elsewhere.
async fn moves_away(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    let node = loop {
        let node = node_of(&answers(cluster).await?)?;
        if node != 1 {
            break node;
        }
        ensure!(begun.elapsed() < PATIENCE, "it stays on the manager");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    Cluster::node("kill", node).await?;
    let comes_back = async {
        let begun = Instant::now();
        while node_of(&answers(cluster).await?)? == node {
            ensure!(begun.elapsed() < PATIENCE, "it stays on the node that died");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    let came_back = comes_back.await;
    Cluster::node("revive", node).await?;
    came_back
}

#[tokio::test]
async fn an_environment_comes_back_when_its_node_dies() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    cluster.create("demo", &token).await?;
    // Not on the manager, which has to go on: until it is elsewhere, it is moved.
    let manager = run(&mut cluster.docker(&["node", "ls", "--quiet", "--filter", "role=manager"])?).await?;
    run(&mut cluster.docker(&["node", "update", "--availability", "drain", manager.trim()])?).await?;
    let came_back = moves_away(&cluster).await;
    run(&mut cluster.docker(&["node", "update", "--availability", "active", manager.trim()])?).await?;
    came_back?;
    cluster.delete("demo", &token).await?;
    cluster.nothing_is_left().await
}

#[tokio::test]
async fn a_route_follows_a_task_within_seconds() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    cluster.create("demo", &token).await?;
    let before = answers(&cluster).await?;
    let service = format!("{}_env-demo_back", cluster.instance()?);
    let words = ["service", "ps", "--no-trunc", "--filter", "desired-state=running", "--format"];
    let ids = run(&mut cluster.docker(&[&words[..], &["{{.ID}}", &service]].concat())?).await?;
    let old: Vec<_> = ids.lines().map(|id| format!("{id} Running")).collect();
    let running = [&words[..], &["{{.ID}} {{printf \"%.7s\" .CurrentState}}", &service]].concat();
    run(&mut cluster.docker(&["service", "update", "--detach", "--force", &service])?).await?;
    // From the moment that another task runs, as the manager says it, until the route leads there.
    let begun = Instant::now();
    let runs = loop {
        let tasks = run(&mut cluster.docker(&running)?).await?;
        if tasks.lines().any(|task| task.contains("Running") && !old.iter().any(|old| old == task)) {
            break Instant::now();
        }
        ensure!(begun.elapsed() < PATIENCE, "no new task: {tasks}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    while upstream(&cluster).await?.is_none_or(|now| now == before) {
        ensure!(runs.elapsed() < Duration::from_secs(20), "the route does not follow within 20 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    answers(&cluster).await?;
    cluster.delete("demo", &token).await?;
    cluster.nothing_is_left().await
}

#[tokio::test]
async fn the_managers_engine_is_restarted() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    cluster.create("demo", &token).await?;
    Cluster::node("kill", 1).await?;
    let (status, problem) =
        cluster.server.send("POST", "/envs", json!({ "github-token": token.expose() }).to_string()).await?;
    let revived = Cluster::node("revive", 1).await;
    ensure!(status == 503, "{status} {problem}");
    revived?;
    answers(&cluster).await?;
    let begun = Instant::now();
    while let (status @ 400.., problem) = cluster.server.send("GET", "/envs/demo", "").await? {
        ensure!(begun.elapsed() < PATIENCE, "{status} {problem}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.delete("demo", &token).await?;
    cluster.nothing_is_left().await
}

/// What a node with a full disk does not get an image or a container for is not made, and is as soon as there is room again.
#[tokio::test]
async fn a_full_disk_of_a_node_is_told_and_leaves_nothing() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    let body = || Cluster::body("demo", &token);
    cluster.run_where("node.hostname == node-3")?;
    let disk = SmallDisk::of(3, "128m").await?;
    let works = async || {
        cluster.create("demo", &token).await?;
        ensure!(node_of(&answers(&cluster).await?)? == 3, "it is not where it is to be");
        cluster.delete("demo", &token).await?;
        cluster.nothing_is_left().await
    };

    // The engine tells nobody why it could not pull an image; the registry tells that it has it.
    disk.fill()?;
    let refused = cluster.server.refused(("POST", "/envs"), body(), (409, "conflict")).await?;
    let (detail, image) = (refused["detail"].to_string(), variable("ONDEMAND_TEST_RUNNER_IMAGE")?);
    ensure!(detail.contains("node-3") && detail.contains(&image) && detail.contains("No such image"), "{refused}");
    ensure!(refused["hint"].to_string().contains("disk may be full"), "{refused}");
    cluster.nothing_is_left().await?;
    disk.make_room()?;
    works().await?;

    // Now it has the image.
    disk.fill()?;
    let refused = cluster.server.refused(("POST", "/envs"), body(), (507, "out_of_space")).await?;
    let detail = refused["detail"].to_string();
    ensure!(detail.contains("node-3") && detail.contains("no space left on device"), "{refused}");
    cluster.nothing_is_left().await?;
    disk.make_room()?;
    works().await
}
