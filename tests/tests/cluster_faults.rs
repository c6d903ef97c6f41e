//! Environments on a Swarm whose nodes die. Nothing else may use the laboratory meanwhile, which the test runner is told.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ondemand_tests::cluster::variable;
use ondemand_tests::shop::visit;
use ondemand_tests::{Cluster, Home, Server, ServerOptions, Shop, run};
use serde_json::{Value, json};

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
        ensure!(begun.elapsed() < PATIENCE, "it does not answer again: {seen:?}");
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

async fn create(cluster: &Cluster, token: &ondemand_core::Secret) -> Result<()> {
    let body = json!({ "name": "demo", "github-token": token.expose() }).to_string();
    cluster.server.succeed("POST", "/envs", body).await.map(drop)
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
    create(&cluster, &token).await?;
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
    create(&cluster, &token).await?;
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
        ensure!(runs.elapsed() < Duration::from_secs(5), "the route does not follow within 5 s");
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
    create(&cluster, &token).await?;
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

#[tokio::test]
async fn an_image_that_no_registry_has_is_named() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    let template = cluster.home.path().join("templates/shop.yml");
    let text = std::fs::read_to_string(&template)?;
    let missing = format!("{}/no/such-image:7", variable("ONDEMAND_TEST_REGISTRY")?);
    std::fs::write(&template, text.replace(&variable("ONDEMAND_TEST_RUNNER_IMAGE")?, &missing))?;
    let body = json!({ "name": "demo", "github-token": token.expose() }).to_string();
    let refused = cluster.server.refused(("POST", "/envs"), body, (404, "not_found")).await?;
    ensure!(refused["detail"].to_string().contains("no/such-image:7"), "{refused}");
    cluster.nothing_is_left().await
}

/// An engine that is no swarm says what to do, and nothing is made.
#[tokio::test]
async fn a_swarm_that_was_not_initialised_is_told() -> Result<()> {
    let home = Home::new()?;
    let shop = Shop::new(&home).await?;
    let host = variable("ONDEMAND_TEST_DOCKER_HOST")?;
    let options =
        shop.options(ServerOptions::default()).with(["--environments-orchestrator", "swarm", "--swarm-host", &host]);
    let server = Server::spawn(&home.data(), &options)?;
    let begun = Instant::now();
    let told = loop {
        if let Ok((status, answer)) = server.send("GET", "/readyz", "").await {
            let text: Value = answer;
            if text.to_string().contains("swarm") {
                break (status, text);
            }
        }
        ensure!(begun.elapsed() < PATIENCE, "it says nothing of the swarm:\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    ensure!(told.1.to_string().contains("docker swarm init"), "{told:?}");
    Ok(())
}
