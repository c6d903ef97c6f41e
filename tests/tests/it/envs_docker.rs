//! Environments as containers of one Docker Engine.
//!
//! Slow: a test has a server with an imported dataset, and containers that clone, build and start.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ondemand_tests::cluster::{push, variable};
use ondemand_tests::shop::visit;
use ondemand_tests::{Cluster, Home, Inventory, Server, ServerOptions, Shop, eventually, query, run};
use reqwest::Method;
use serde_json::{Value, json};

/// How long anything that is waited for may take; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(100);

/// Returns what the installation has in the engine.
async fn in_engine(cluster: &Cluster) -> Result<Vec<String>> {
    let host = variable("ONDEMAND_TEST_DOCKER_HOST")?;
    let filter = format!("label=ondemand.instance={}-env", cluster.instance()?);
    let mut found = Vec::new();
    for kind in [&["ps", "--all"][..], &["network", "ls"], &["volume", "ls"]] {
        let filters = ["--quiet", "--filter", &filter];
        let ids = run(Command::new("docker").args(["--host", &host]).args(kind).args(filters)).await?;
        found.extend(ids.lines().map(|id| format!("{} {id}", kind[0])));
    }
    Ok(found)
}

async fn nothing_is_left(cluster: &Cluster, before: &Inventory) -> Result<()> {
    eventually(async || {
        let left = in_engine(cluster).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    for path in ["/envs", "/servers", "/routes"] {
        let listed = cluster.server.succeed("GET", path, "").await?;
        ensure!(listed == json!([]), "{path}: {listed}");
    }
    before.returns(&cluster.home, &cluster.home.data()).await
}

/// Asks as somebody with a token, and returns the text of an answer that is good.
async fn ask(cluster: &Cluster, token: &ondemand_core::Secret, method: Method, path: &str) -> Result<String> {
    let answer = cluster.server.request(method, path).bearer_auth(token.expose()).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(status.is_success(), "{path}: {status}: {text}");
    Ok(text)
}

#[tokio::test]
async fn an_environment_lives_on_one_engine() -> Result<()> {
    let cluster = Cluster::on_one_engine().await?;
    let before = Inventory::take(&cluster.home, &cluster.home.data())?;
    let token = cluster.token("anna");
    let done = cluster.create("demo", &token).await?;
    assert_eq!(done["urls"], json!(["demoapi.env.dev.internal", "demoadmin.env.dev.internal"]));
    let (status, page) = visit(&cluster.server, "demo.env.dev.internal", "/").await?;
    ensure!(status == 200 && page.contains("<h1>Shop</h1>"), "{status} {page}");
    let (status, products) = visit(&cluster.server, "demoapi.env.dev.internal", "/products").await?;
    ensure!(status == 200 && products.contains("product 5"), "{status} {products}");
    let kinds = |found: &[String], kind: &str| found.iter().filter(|thing| thing.starts_with(kind)).count();
    let made = in_engine(&cluster).await?;
    ensure!((kinds(&made, "ps"), kinds(&made, "network")) == (2, 1), "{made:?}");

    // A new commit, at the same URLs, on the same data.
    let details = cluster.server.succeed("GET", "/envs/demo", "").await?;
    let database = details["database"].as_str().context("a database")?.to_owned();
    let url = cluster.server.succeed("GET", &format!("/servers/{database}"), "").await?;
    query(url["Url"].as_str().context("a URL")?, "DELETE FROM shop.products WHERE id > 1").await?;
    let commit = push(&cluster.forge, "shop/back-web", "master", &[("build.sh", "echo newer >version.txt\n")]).await?;
    ask(&cluster, &token, Method::POST, "/envs/demo/redeploy").await?;
    assert_eq!(visit(&cluster.server, "demoapi.env.dev.internal", "/version").await?, (200, "newer\n".into()));
    let products = visit(&cluster.server, "demoapi.env.dev.internal", "/products").await?.1;
    ensure!(products.contains("product 1") && !products.contains("product 2"), "{products}");
    let details: Value = cluster.server.succeed("GET", "/envs/demo", "").await?;
    ensure!(details["status"] == "ready" && details["back"]["commit"] == commit.trim(), "{details}");
    ensure!(details["database"] == database, "{details}");
    let made = in_engine(&cluster).await?;
    ensure!((kinds(&made, "ps"), kinds(&made, "network")) == (2, 1), "the old one is gone: {made:?}");

    let logs = ask(&cluster, &token, Method::GET, "/envs/demo/logs").await?;
    for part in ["back: [ondemand] cloning shop/back-web at", "front: [ondemand] cloning shop/front-web at"] {
        ensure!(logs.contains(part), "no {part}: {logs}");
    }
    cluster.delete("demo", &token).await?;
    ensure!(visit(&cluster.server, "demoapi.env.dev.internal", "/health").await?.0 == 404);
    nothing_is_left(&cluster, &before).await
}

#[tokio::test]
async fn a_failing_build_on_one_engine_leaves_nothing_and_says_why() -> Result<()> {
    let cluster = Cluster::on_one_engine().await?;
    let before = Inventory::take(&cluster.home, &cluster.home.data())?;
    let token = cluster.token("anna");
    push(&cluster.forge, "shop/front-web", "master", &[("build.sh", "echo the cause of it all; exit 7\n")]).await?;
    let body = Cluster::body("demo", &token);
    let refused = cluster.server.refused(("POST", "/envs"), body, (422, "service_failed")).await?;
    ensure!(refused["log"].to_string().contains("the cause of it all"), "{refused}");
    ensure!(refused["detail"].to_string().contains("front"), "{refused}");
    nothing_is_left(&cluster, &before).await
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
