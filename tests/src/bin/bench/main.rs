//! Measures databases as ratios to a floor: a bare program that makes the same system calls and starts the same Postgres, in the same
//! run, on the same pool, one after the other with the thing measured.
//!
//! `bench [--size BYTES_OF_THE_LARGE_DATASET] [--rounds N] [--live N]`, as root; `make bench` builds what it needs.
#![expect(clippy::print_stderr, reason = "a program that shows figures to a person")]

mod docker;
mod floor;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;

use floor::Floor;
use ondemand_tests::report::{Report, Samples, milliseconds};
use ondemand_tests::{Database, Home, Server, ServerOptions, query};

struct Arguments {
    large: u64,
    rounds: usize,
    live: usize,
}

/// How long a database took.
struct Times {
    /// Until it was said to be ready.
    ready: Duration,
    /// Until it had answered its first query.
    whole: Duration,
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
    let mut report = Report::default();

    let home = Home::new()?;
    let server = Server::start(home.path(), &options("process", arguments.large)).await?;
    import(&server, "small", 100 * MIB).await?;
    import(&server, "large", arguments.large).await?;
    databases(&server, home.path(), &arguments, &mut report).await?;
    server.stop().await?;
    drop(home);

    match docker::Engine::from_environment() {
        Some(engine) => {
            let home = Home::new()?;
            let server = Server::start(home.path(), &options("docker", arguments.large)).await?;
            import(&server, "small", 100 * MIB).await?;
            in_containers(&server, home.path(), &engine, &arguments, &mut report).await?;
            server.stop().await?;
        }
        None => report.note("Docker: not measured; ONDEMAND_TEST_DOCKER_HOST and ONDEMAND_TEST_IMAGE are not set"),
    }
    report.print("median / median of the floor, measured in turn in this run");
    Ok(())
}

fn options(orchestrator: &'static str, large: u64) -> ServerOptions {
    let size = format!("{}G", 8 + 3 * (large >> 30));
    ServerOptions {
        orchestrator,
        ports: (21_000, 21_999),
        arguments: vec!["--pool-size".into(), size],
        ..ServerOptions::default()
    }
}

/// Imports a dataset of about `bytes`, which Postgres fills by itself.
async fn import(server: &Server, name: &str, bytes: u64) -> Result<()> {
    // A row takes about 1 kB, nearly all of it one text.
    let rows = bytes / 1100;
    let text = (0..31).map(|part| format!("md5((n * 31 + {part})::text)")).collect::<Vec<_>>().join(" || ");
    let sql = format!(
        "CREATE TABLE facts (id bigint, body text);
         ALTER TABLE facts ALTER COLUMN body SET STORAGE PLAIN;
         INSERT INTO facts SELECT n, {text} FROM generate_series(1, {rows}) n;
         ALTER TABLE facts ADD PRIMARY KEY (id);"
    );
    let imported = server.import(name, sql).await?;
    eprintln!("imported {name}: {imported}");
    Ok(())
}

async fn create(server: &Server, dataset: &str) -> Result<Database> {
    let database = server.create(serde_json::json!({ "Dataset": dataset })).await?;
    first_query(&database.url).await?;
    Ok(database)
}

/// Connects as a user would, and asks for something.
async fn first_query(url: &str) -> Result<()> {
    ensure!(query(url, "SELECT count(*) > 0 FROM pg_class").await? == "t", "there are no tables");
    Ok(())
}

/// Measures child processes on BTRFS.
async fn databases(server: &Server, home: &Path, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let floor = Floor::prepare(server, home, "small").await?;
    let (mut bare, mut created, mut small, mut large) = <(Samples, Samples, Samples, Samples)>::default();
    let (mut bare_ready, mut created_ready) = <(Samples, Samples)>::default();
    // One of each in turn, so that whatever else the machine does meets all alike; the first round warms up.
    for round in 0..=arguments.rounds {
        let kept = round > 0;
        let times = floor.once().await?;
        bare.add(kept, times.whole);
        bare_ready.add(kept, times.ready);
        let times = once(server, "small").await?;
        created.add(kept, times.whole);
        created_ready.add(kept, times.ready);
        small.add(kept, once(server, "small").await?.whole);
        large.add(kept, once(server, "large").await?.whole);
    }
    report.ratio("create by HTTP until the first query / floor", created.median(), bare.median(), 1.15);
    report.compare(
        "  of that, until the answer / until the floor's READY=1",
        created_ready.median(),
        bare_ready.median(),
    );
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
            let database = create(server, "small").await?;
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
        server.delete(&database.id).await?;
    }
    outcome?;
    // With all of them gone again: were the machine busier now than at the beginning, that would show here as much as above.
    for _ in 0..edge {
        first.add(true, once(server, "small").await?.whole);
    }
    report.ratio(&format!("create number {} / the first", arguments.live), last.median(), first.median(), 1.20);
    report.bytes(&format!("server, resident, with {} databases", arguments.live), resident?, 30 * 1_000_000);
    Ok(())
}

/// Measures containers on BTRFS.
async fn in_containers(
    server: &Server,
    home: &Path,
    engine: &docker::Engine,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let floor = Floor::prepare(server, home, "small").await?;
    let (mut bare, mut created) = <(Samples, Samples)>::default();
    for round in 0..=arguments.rounds {
        let kept = round > 0;
        bare.add(kept, engine.once(&floor).await?);
        created.add(kept, once(server, "small").await?.whole);
    }
    report.ratio("Docker: create until the first query / snapshot + docker run", created.median(), bare.median(), 1.15);
    Ok(())
}

/// Creates a database, asks it once, and deletes it. Returns the time until it had answered.
async fn once(server: &Server, dataset: &str) -> Result<Times> {
    let begun = Instant::now();
    let database = server.create(serde_json::json!({ "Dataset": dataset })).await?;
    let ready = begun.elapsed();
    first_query(&database.url).await?;
    let whole = begun.elapsed();
    server.delete(&database.id).await?;
    Ok(Times { ready, whole })
}

/// Creates many at once. Returns the time until the last had answered.
async fn many(server: &Server, count: usize) -> Result<Duration> {
    let begun = Instant::now();
    let databases = try_join_all((0..count).map(|_| create(server, "small"))).await?;
    let took = begun.elapsed();
    for database in &databases {
        server.delete(&database.id).await?;
    }
    eprintln!("sixteen at once: {}", milliseconds(took));
    Ok(took)
}
