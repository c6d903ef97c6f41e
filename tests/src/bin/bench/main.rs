//! Measures databases as ratios to a floor: a bare program that makes the same system calls and starts the same Postgres, in the same
//! run, on the same pool, one after the other with the thing measured.
//!
//! `bench [--size BYTES_OF_THE_LARGE_DATASET] [--rounds N] [--live N]`, as root; `make bench` builds what it needs.

mod docker;
mod floor;
mod report;
mod server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;

use floor::Floor;
use report::{Report, Samples, milliseconds};
use server::{Database, Server};

struct Arguments {
    large: u64,
    rounds: usize,
    live: usize,
}

const MIB: u64 = 1 << 20;

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments { large: 5 << 30, rounds: 20, live: 200 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--size" => arguments.large = value.parse::<ondemand_core::Size>()?.0,
            "--rounds" => arguments.rounds = value.parse()?,
            "--live" => arguments.live = value.parse()?,
            _ => bail!("unknown option {word}; there are --size, --rounds and --live"),
        }
    }
    Ok(arguments)
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = arguments()?;
    let binary = std::env::var_os("ONDEMAND_BENCH_BINARY").map_or_else(|| PathBuf::from("target/release/ondemand"), PathBuf::from);
    // Below /var/tmp, which is on a disk where /tmp may be memory.
    let home = tempfile::Builder::new().prefix("ondemand-bench-").tempdir_in("/var/tmp")?;
    let mut report = Report::default();

    let server = Server::start(&binary, &home.path().join("process"), "process").await?;
    server.import("small", 100 * MIB).await?;
    server.import("large", arguments.large).await?;
    let measured = databases(&server, &arguments, &mut report).await;
    server.stop().await?;
    measured?;

    match docker::Engine::from_environment() {
        Some(engine) => {
            let server = Server::start(&binary, &home.path().join("docker"), "docker").await?;
            server.import("small", 100 * MIB).await?;
            let measured = in_containers(&server, &engine, &arguments, &mut report).await;
            server.stop().await?;
            measured?;
        }
        None => report.note("Docker: not measured; ONDEMAND_TEST_DOCKER_HOST and ONDEMAND_TEST_IMAGE are not set"),
    }
    report.print();
    Ok(())
}

/// Measures child processes on BTRFS.
async fn databases(server: &Server, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let floor = Floor::prepare(server, "small").await?;
    let (mut bare, mut created, mut small, mut large) = <(Samples, Samples, Samples, Samples)>::default();
    // One of each in turn, so that whatever else the machine does meets all alike; the first round warms up.
    for round in 0..=arguments.rounds {
        let kept = round > 0;
        bare.add(kept, floor.once().await?);
        created.add(kept, once(server, "small").await?);
        small.add(kept, once(server, "small").await?);
        large.add(kept, once(server, "large").await?);
    }
    report.ratio("create by HTTP until the first query / floor", created.median(), bare.median(), 1.15);
    report.ratio("5 GB dataset / 100 MB dataset", large.median(), small.median(), 1.10);

    let (mut bare, mut created) = <(Samples, Samples)>::default();
    for round in 0..=3 {
        let kept = round > 0;
        bare.add(kept, floor.many(16).await?);
        created.add(kept, many(server, 16).await?);
    }
    report.ratio("sixteen at once / the floor's sixteen at once", created.median(), bare.median(), 1.20);

    live(server, arguments, report).await
}

/// Measures how the first creates compare with those among many that live.
async fn live(server: &Server, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let mut living: Vec<Database> = Vec::with_capacity(arguments.live);
    let (mut first, mut last) = <(Samples, Samples)>::default();
    let edge = 10.min(arguments.live / 2);
    let outcome = async {
        for number in 0..arguments.live {
            let begun = Instant::now();
            let database = server.create("small").await?;
            database.first_query().await?;
            let took = begun.elapsed();
            first.add(number < edge, took);
            last.add(number >= arguments.live - edge, took);
            living.push(database);
        }
        anyhow::Ok(())
    }
    .await;
    let resident = server.resident_bytes();
    for database in &living {
        server.delete(database).await?;
    }
    outcome?;
    report.ratio(&format!("create number {} / the first", arguments.live), last.median(), first.median(), 1.20);
    report.bytes(&format!("server, resident, with {} databases", arguments.live), resident?, 30 * 1_000_000);
    Ok(())
}

/// Measures containers on BTRFS.
async fn in_containers(server: &Server, engine: &docker::Engine, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let floor = Floor::prepare(server, "small").await?;
    let (mut bare, mut created) = <(Samples, Samples)>::default();
    for round in 0..=arguments.rounds {
        let kept = round > 0;
        bare.add(kept, engine.once(&floor).await?);
        created.add(kept, once(server, "small").await?);
    }
    report.ratio("Docker: create until the first query / snapshot + docker run", created.median(), bare.median(), 1.15);
    Ok(())
}

/// Creates a database, asks it once, and deletes it. Returns the time until it had answered.
async fn once(server: &Server, dataset: &str) -> Result<Duration> {
    let begun = Instant::now();
    let database = server.create(dataset).await?;
    database.first_query().await?;
    let took = begun.elapsed();
    server.delete(&database).await?;
    Ok(took)
}

/// Creates many at once. Returns the time until the last had answered.
async fn many(server: &Server, count: usize) -> Result<Duration> {
    let begun = Instant::now();
    let databases = try_join_all((0..count).map(|_| async {
        let database = server.create("small").await?;
        database.first_query().await?;
        anyhow::Ok(database)
    }))
    .await?;
    let took = begun.elapsed();
    for database in &databases {
        server.delete(database).await?;
    }
    eprintln!("sixteen at once: {}", milliseconds(took));
    Ok(took)
}
