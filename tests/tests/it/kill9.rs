//! A server under load that is killed again and again: what it has announced stays, and nothing else does.
//!
//! Slow: a server is killed and started again a dozen times, while others use it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use ondemand_tests::{Database, Home, Inventory, Server, ServerOptions, eventually, query};
use serde_json::json;

const ROUNDS: usize = 15;
const CLIENTS: usize = 3;

/// A sequence that looks random and is the same every time (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What a client knows of a database that it was told of.
#[derive(Debug, Clone)]
struct Known {
    database: Database,
    /// What it holds; more than one where an answer did not come.
    words: Vec<&'static str>,
    /// Whether a deletion was asked for that was not answered.
    may_be_gone: bool,
}

type Ledger = Arc<Mutex<BTreeMap<String, Known>>>;

fn change<T>(ledger: &Ledger, work: impl FnOnce(&mut BTreeMap<String, Known>) -> T) -> T {
    work(&mut ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

fn note(ledger: &Ledger, database: &Database, work: impl FnOnce(&mut Known)) {
    change(ledger, |ledger| {
        if let Some(known) = ledger.get_mut(&database.id) {
            work(known);
        }
    });
}

/// Creates, resets and deletes until the server is gone, and writes down what it is told.
async fn client(server: &Server, ledger: &Ledger, mut chance: Chance) -> Result<()> {
    loop {
        let created: Result<Database> = server.create(json!({ "Durable": chance.below(2) == 0 })).await;
        let database = created?;
        let known = Known { database: database.clone(), words: vec!["dataset", "written"], may_be_gone: false };
        change(ledger, |ledger| ledger.insert(database.id.clone(), known));
        query(&database.url, "UPDATE t SET word = 'written'").await?;
        note(ledger, &database, |known| known.words = vec!["written"]);
        if chance.below(2) == 0 {
            note(ledger, &database, |known| known.words.push("dataset"));
            server.reset(&database.id).await?;
            note(ledger, &database, |known| known.words = vec!["dataset"]);
        }
        if chance.below(3) != 0 {
            note(ledger, &database, |known| known.may_be_gone = true);
            server.delete(&database.id).await?;
            change(ledger, |ledger| ledger.remove(&database.id));
        }
    }
}

/// Compares what there is with what was announced, and forgets what is rightly gone.
async fn check(server: &Server, home: &Home, ledger: &Ledger) -> Result<()> {
    let listed = server.list().await?;
    let mut known = change(ledger, |ledger| ledger.clone());
    for (id, known) in &known {
        if !listed.contains(id) {
            ensure!(known.may_be_gone, "database {id} is lost");
            change(ledger, |ledger| ledger.remove(id));
            continue;
        }
        let word = query(&known.database.url, "SELECT word FROM t").await.with_context(|| format!("database {id}"))?;
        ensure!(known.words.contains(&word.as_str()), "database {id} says {word}, not {:?}", known.words);
    }
    known.retain(|id, _| listed.contains(id));
    for id in listed.iter().filter(|id| !known.contains_key(*id)) {
        // It was announced, but the answer did not arrive: it works, and somebody deletes it.
        let database = server.get(id).await?;
        ensure!(query(&database.url, "SELECT word FROM t").await? == "dataset", "database {id}");
        server.delete(id).await?;
    }
    let processes = home.servers()?;
    ensure!(processes.len() == known.len(), "{} databases, and these processes: {processes:?}", known.len());
    // So that the next rounds do not only wait for what earlier ones left.
    for (id, _) in known.iter().take(known.len().saturating_sub(4)) {
        server.delete(id).await?;
        change(ledger, |ledger| ledger.remove(id));
    }
    Ok(())
}

async fn rounds(home: &Home, options: &ServerOptions, rounds: usize, seed: u64) -> Result<()> {
    let mut chance = Chance(seed);
    let ledger = Ledger::default();
    let server = Server::start(&home.data(), options).await?;
    server.import("production", "CREATE TABLE t AS SELECT 'dataset'::text AS word;").await?;
    let empty = Inventory::take(home, &home.data())?;
    let mut server = Arc::new(server);
    for round in 0..rounds {
        let clients = (0..CLIENTS as u64).map(|number| {
            let (server, ledger) = (Arc::clone(&server), Arc::clone(&ledger));
            let chance = Chance(seed ^ (round as u64 * 31 + number + 1));
            async move { client(&server, &ledger, chance).await }
        });
        let clients = tokio::spawn(join_all(clients));
        // The moment of the kill is what this test is about.
        tokio::time::sleep(Duration::from_millis(20 + chance.below(600))).await;
        rustix::process::kill_process(server.pid()?, rustix::process::Signal::KILL)?;
        for ended in clients.await? {
            let error = ended.err().context("a client ended by itself")?;
            // That the server is gone is all that may go wrong.
            ensure!(error.is::<reqwest::Error>(), "round {round}, seed {seed}: {error:#}");
        }
        drop(server);
        server = Arc::new(Server::start(&home.data(), options).await?);
        let checked = check(&server, home, &ledger).await;
        checked.with_context(|| format!("round {round}, seed {seed}:\n{}", server.log()))?;
    }
    for id in server.list().await? {
        server.delete(&id).await?;
    }
    empty.returns(home, &home.data()).await?;
    let report = eventually(async || server.succeed("POST", "/reap", "").await).await?;
    for what in ["Removed", "Unknown", "Failed"] {
        ensure!(report[what] == json!([]), "{report}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_under_load_loses_and_leaves_nothing() -> Result<()> {
    let home = Home::new()?;
    rounds(&home, &ServerOptions::default(), ROUNDS, 0x5eed_0001).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_over_docker_loses_and_leaves_nothing() -> Result<()> {
    let home = Home::new()?;
    rounds(&home, &ServerOptions::docker(), 4, 0x5eed_0002).await
}
