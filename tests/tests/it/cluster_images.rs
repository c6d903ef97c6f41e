//! Images that nodes of a Swarm cannot get: what is told then, and that nothing is left.
//!
//! Slow: a test has a server with an imported dataset, and containers that clone, build and start on a swarm.
#![expect(clippy::print_stderr, reason = "a tag that cannot be taken back must be seen")]

use std::process::Command;

use anyhow::{Result, ensure};
use ondemand_tests::cluster::variable;
use ondemand_tests::shop::visit;
use ondemand_tests::{Cluster, Home, Registry, ports, run};

/// A name that an image has on some nodes, until this is dropped.
struct Tag {
    engines: Vec<String>,
    name: String,
}

impl Tag {
    async fn new(engines: &[String], name: String) -> Result<Self> {
        let mut tag = Self { engines: Vec::new(), name };
        let image = variable("ONDEMAND_TEST_RUNNER_IMAGE")?;
        for engine in engines {
            tag.engines.push(engine.clone());
            for words in [&["pull", "--quiet", &image][..], &["tag", &image, &tag.name]] {
                run(Command::new("docker").args(["--host", engine]).args(words)).await?;
            }
        }
        Ok(tag)
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        for engine in &self.engines {
            let removed = Command::new("docker").args(["--host", engine, "rmi", &self.name]).output();
            if !removed.as_ref().is_ok_and(|output| output.status.success()) {
                eprintln!("{} is still on {engine}: {removed:?}", self.name);
            }
        }
    }
}

#[tokio::test]
async fn an_image_that_no_registry_has_is_named() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    cluster.use_image(&format!("{}/no/such-image:7", variable("ONDEMAND_TEST_REGISTRY")?))?;
    let body = Cluster::body("demo", &token);
    let refused = cluster.server.refused(("POST", "/envs"), body, (404, "not_found")).await?;
    ensure!(refused["detail"].to_string().contains("no/such-image:7"), "{refused}");
    cluster.nothing_is_left().await
}

#[tokio::test]
async fn an_image_that_one_node_lacks_is_named_with_the_node() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    // Its registry is gone: nobody listens there.
    let image = format!("{}:{}/shop/runner:1", variable("ONDEMAND_TEST_SWARM_BRIDGE")?, ports::free_port());
    let _tag = Tag::new(&Cluster::engines()?[..2], image.clone()).await?;
    cluster.use_image(&image)?;
    cluster.run_where("node.hostname == node-3")?;
    let body = Cluster::body("demo", &token);
    let refused = cluster.server.refused(("POST", "/envs"), body, (409, "conflict")).await?;
    let detail = refused["detail"].to_string();
    for part in ["node-3", &image, "connection refused"] {
        ensure!(detail.contains(part), "no {part}: {refused}");
    }
    ensure!(refused["hint"].to_string().contains("load it on every node"), "{refused}");
    cluster.nothing_is_left().await?;

    // Where it is there, nobody needs the registry.
    cluster.run_where("node.hostname != node-3")?;
    cluster.create("demo", &token).await?;
    ensure!(visit(&cluster.server, "demoapi.env.dev.internal", "/health").await?.0 == 200);
    cluster.delete("demo", &token).await?;
    cluster.nothing_is_left().await
}

#[tokio::test]
async fn a_registry_that_wants_a_login_gets_it_and_nobody_sees_it() -> Result<()> {
    let home = Home::new()?;
    let registry = Registry::start(&home).await?;
    let manager = variable("ONDEMAND_TEST_SWARM_HOST")?;
    registry.push(&home, &manager, &variable("ONDEMAND_TEST_RUNNER_IMAGE")?, "shop/runner:1").await?;
    // It is read whenever an image is asked for.
    let file = home.file("registries.json", "{}")?;
    let cluster = Cluster::configured(&format!("registry-auth = '{}'\n", file.display())).await?;
    let token = cluster.token("anna");
    cluster.use_image(&registry.image("shop/runner:1"))?;
    cluster.run_where("node.role == worker")?;
    let mut seen = String::new();
    for (config, why) in [("{}".to_owned(), "wants a login"), (registry.client_config(false), "the credentials")] {
        home.file("registries.json", config)?;
        let body = Cluster::body("demo", &token);
        let refused = cluster.server.refused(("POST", "/envs"), body, (409, "conflict")).await?;
        let detail = refused["detail"].to_string();
        for part in ["node-", &registry.image("shop/runner:1"), why] {
            ensure!(detail.contains(part), "no {part}: {refused}");
        }
        ensure!(refused["hint"].to_string().contains("swarm.registry-auth"), "{refused}");
        cluster.nothing_is_left().await?;
        seen += &refused.to_string();
    }

    home.file("registries.json", registry.client_config(true))?;
    seen += &cluster.create("demo", &token).await?.to_string();
    ensure!(visit(&cluster.server, "demoapi.env.dev.internal", "/health").await?.0 == 200);
    // Also when something is changed or started again, with the credentials that it was made with.
    let service = format!("{}_env-demo_back", cluster.instance()?);
    run(&mut cluster.docker(&["service", "update", "--force", "--quiet", &service])?).await?;
    seen += &cluster.shown().await?;
    seen += &cluster.server.succeed("GET", "/envs/demo", "").await?.to_string();
    seen += &cluster.server.log();
    ensure!(seen.contains(&registry.image("shop/runner:1@sha256:")), "not everything was looked at");
    for secret in registry.secrets() {
        ensure!(!seen.contains(&secret), "the registry's credential is to be seen as {secret}");
    }
    cluster.delete("demo", &token).await?;
    cluster.nothing_is_left().await
}
