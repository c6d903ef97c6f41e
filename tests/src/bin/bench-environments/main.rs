//! Measures environments on the laboratory's Swarm against `docker stack deploy` of the same file, in turn, in the same run.
//!
//! `bench-environments [--rounds N] [--live N]`, as root; `make bench ONLY=environments` builds what it needs and starts the laboratory.
#![expect(clippy::print_stderr, reason = "a program that shows figures to a person")]

mod stack;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use ondemand_core::Secret;
use ondemand_tests::Cluster;
use ondemand_tests::cluster::variable;
use ondemand_tests::report::{Report, Samples};
use ondemand_tests::shop::visit;
use serde_json::{Value, json};

/// One service of a ready-made image, on a database of its own.
const TEMPLATE: &str = r"
x-ondemand:
  routes: [{ suffix: '', service: web, port: 8080, status: 200 }]
  database: { dump: production }
services:
  web:
    image: @IMAGE@
    command: [/bin/sh, -c, 'mkdir -p /www && echo hello >/www/index.html && exec httpd -f -p 8080 -h /www']
    stop_grace_period: 1s
    ports: [{ target: 8080, mode: host }]
    deploy: { endpoint_mode: dnsrr }
";

struct Arguments {
    rounds: usize,
    live: usize,
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments { rounds: 7, live: 50 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--rounds" => arguments.rounds = value.parse()?,
            "--live" => arguments.live = value.parse()?,
            _ => bail!("unknown option {word}; there are --rounds and --live"),
        }
    }
    Ok(arguments)
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = arguments()?;
    let mut report = Report::default();
    let cluster = Cluster::start().await?;
    let template = TEMPLATE.replace("@IMAGE@", &variable("ONDEMAND_TEST_SWARM_IMAGE")?);
    std::fs::write(cluster.home.path().join("templates/plain.yml"), template)?;
    let token = cluster.token("bench");

    let plan = body("plan", &token);
    let plan = cluster.server.succeed("POST", "/envs?plan=true", plan).await?;
    let compose = cluster.home.file("compose.yml", plan["compose"].as_str().context("a compose file")?)?;
    let engine = stack::Manager::new()?;

    let [mut created, mut deployed, mut deleted, mut ended] = [const { Samples::new() }; 4];
    for round in 0..=arguments.rounds {
        // The first of each is not counted: whatever is made once is made then.
        let kept = round > 0;
        let name = format!("bench-{round}");
        deployed.add(kept, engine.deploy(&cluster, &name, &compose).await?);
        engine.remove(&cluster, &name).await?;
        created.add(kept, create(&cluster, &name, &token).await?);
        let (answered, tasks) = tokio::try_join!(delete(&cluster, &name, &token), engine.tasks_end(&cluster, &name))?;
        deleted.add(kept, answered);
        ended.add(kept, tasks);
        eprintln!("round {round} of {}", arguments.rounds);
    }
    report.ratio("create until the URL answers / docker stack deploy", created.median(), deployed.median(), 1.15);
    report.ratio("delete / until its tasks have ended", deleted.median(), ended.median(), 1.1);

    let (mut first, mut last) = (Samples::new(), Samples::new());
    for live in 0..arguments.live {
        let took = create(&cluster, &format!("live-{live}"), &token).await?;
        first.add(live < 5, took);
        last.add(live + 5 >= arguments.live, took);
        eprintln!("{} of {} live, the last after {took:?}", live + 1, arguments.live);
    }
    report.ratio(
        &format!("the last of {} environments / the first", arguments.live),
        last.median(),
        first.median(),
        1.2,
    );
    let names: Vec<_> = (0..arguments.live).map(|live| format!("live-{live}")).collect();
    try_join_all(names.iter().map(|name| delete(&cluster, name, &token))).await?;
    cluster.nothing_is_left().await?;
    report.print("median / median of the peer or the first five, measured in turn in this run");
    Ok(())
}

fn body(name: &str, token: &Secret) -> String {
    json!({ "name": name, "template": "plain", "github-token": token.expose() }).to_string()
}

/// Creates an environment, and returns how long it took until it was said to be there; it is, then.
async fn create(cluster: &Cluster, name: &str, token: &Secret) -> Result<Duration> {
    let begun = Instant::now();
    let done: Value = cluster.server.succeed("POST", "/envs", body(name, token)).await?;
    let took = begun.elapsed();
    let host = done["urls"][0].as_str().context("a URL")?;
    let (status, text) = visit(&cluster.server, host, "/").await?;
    ensure!(status == 200 && text == "hello\n", "{status} {text}");
    Ok(took)
}

async fn delete(cluster: &Cluster, name: &str, token: &Secret) -> Result<Duration> {
    let begun = Instant::now();
    cluster.delete(name, token).await?;
    Ok(begun.elapsed())
}
