//! A Docker Engine that is stopped, or killed, in the middle of a create, and started again: a clear error, nothing lost, nothing left.
//!
//! Slow: a test starts and ends a Docker Engine, and the image is loaded into it.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ondemand_tests::engine::{Engine, Events};
use ondemand_tests::{Database, Home, Inventory, Server, ServerOptions, eventually, query, run};
use rustix::process::Signal;
use serde_json::{Value, json};

/// How far a create has come when its engine goes away.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Its volume or its record is there.
    Begun,
    /// Its container is there.
    Created,
    /// Its container runs.
    Started,
}

/// How many ports there are: one for the database that is kept, one for another, and one that the engine may keep for itself for each moment. One that goes
/// away while it publishes a port may leave its proxy behind, or publish the port for nobody when it is there again.
const PORTS: u16 = 5;

struct Setup {
    server: Server,
    engine: Engine,
    home: Home,
    /// What is there without the databases that come and go.
    before: Inventory,
    /// The same without processes and containers, which do not outlive their engine.
    files: BTreeSet<String>,
    /// A database that was announced before.
    kept: Database,
    /// The first and the last port for databases.
    ports: (u16, u16),
}

impl Setup {
    async fn new() -> Result<Self> {
        let home = Home::new()?;
        let engine = Engine::start(&home).await?;
        let config = home.file("ondemand.toml", "[databases]\nreap-interval = '1s'\n")?;
        let options = ServerOptions { ports: ondemand_tests::free_range(PORTS), ..ServerOptions::docker() }.with([
            "--config",
            &config.display().to_string(),
            "--docker-host",
            &engine.host(),
        ]);
        let server = Server::start(&home.data(), &options).await?;
        server.import("production", "CREATE TABLE t AS SELECT 'dataset'::text AS word;").await?;
        let kept = server.create(json!({})).await?;
        query(&kept.url, "UPDATE t SET word = 'written'").await?;
        let before = Inventory::take(&home, &home.data())?;
        let files = Inventory::files(&home, &home.data())?;
        Ok(Self { server, engine, home, before, files, kept, ports: options.ports })
    }

    /// Waits until the database that was announced before is all that is there.
    async fn nothing_else_is_left(&self) -> Result<()> {
        eventually(async || {
            let (files, processes) = (Inventory::files(&self.home, &self.home.data())?, self.home.servers()?);
            let containers = self.engine.containers().await?;
            let other: Vec<_> = files.symmetric_difference(&self.files).collect();
            ensure!(other.is_empty(), "{other:?}");
            ensure!(processes.len() == 1 && containers.len() == 1, "{processes:?}, {containers:?}");
            Ok(())
        })
        .await
    }

    /// Creates a database whose engine goes away at that moment, and returns the answer.
    async fn interrupted(&mut self, moment: Moment, signal: Signal) -> Result<(u16, Value)> {
        let Self { server, engine, home, before, .. } = self;
        let mut events: Events = engine.watch()?;
        let goes = async {
            match moment {
                Moment::Begun => before.grows(home, &home.data()).await?,
                Moment::Created => events.until("create").await?,
                Moment::Started => events.until("start").await?,
            }
            engine.end(signal).await
        };
        let (answer, gone) = tokio::join!(server.send("POST", "/servers", "{}"), goes);
        gone?;
        answer
    }

    /// Goes through it once.
    async fn goes_away(&mut self, moment: Moment, signal: Signal) -> Result<()> {
        // However fast or slow the machine is, the engine goes away before a create is over.
        for round in 1.. {
            let (status, answer) = self.interrupted(moment, signal).await?;
            if status != 201 && status != 200 {
                ensure!(status == 503 && answer["code"] == "backend", "{status} {answer}");
                ensure!(answer["detail"].as_str().is_some_and(|detail| detail.contains("docker")), "{answer}");
                ensure!(answer["hint"].as_str().is_some_and(|hint| hint.contains("Docker Engine")), "{answer}");
                break;
            }
            ensure!(round < 10, "a create is always over when its engine goes away");
            self.engine.again().await?;
            let id = answer["Id"].as_str().context("an id")?.to_owned();
            eventually(async || self.server.delete(&id).await).await?;
        }
        // While it is away, that is said, and nothing more is begun.
        let problem = self.server.refused(("POST", "/servers"), "{}", (503, "backend")).await?;
        ensure!(problem["hint"].as_str().is_some_and(|hint| hint.contains("Docker Engine")), "{problem}");
        self.server.refused(("GET", "/servers"), "", (503, "backend")).await?;

        self.engine.again().await?;
        // The engine has ended its containers; what was announced comes back with its data.
        let word = eventually(async || query(&self.kept.url, "SELECT word FROM t").await).await;
        ensure!(word.with_context(|| self.server.log())? == "written");
        self.nothing_else_is_left().await?;
        eventually(async || {
            let listed = self.server.list().await?;
            ensure!(listed == [self.kept.id.as_str()], "{listed:?}");
            Ok(())
        })
        .await?;
        let database = self.create().await?;
        ensure!(query(&database.url, "SELECT word FROM t").await? == "dataset");
        self.server.delete(&database.id).await?;
        self.nothing_else_is_left().await?;
        // A create looks for what it adds to what is there now.
        self.before = Inventory::take(&self.home, &self.home.data())?;
        Ok(())
    }

    /// Creates a database.
    async fn create(&self) -> Result<Database> {
        let (status, answer) = self.server.send("POST", "/servers", "{}").await?;
        ensure!(status == 201 || status == 200, "{status} {answer}");
        Ok(serde_json::from_value(answer)?)
    }

    /// Creates databases until there is no port for another: all ports are given back but those that the engine itself listens on.
    async fn every_port_is_given_back(&self) -> Result<()> {
        let mut databases = vec![self.kept.id.clone()];
        let problem = loop {
            let (status, answer) = self.server.send("POST", "/servers", "{}").await?;
            match (status, answer["Id"].as_str()) {
                (200 | 201, Some(id)) => databases.push(id.to_owned()),
                (429, _) => break answer,
                _ => bail!("{status} {answer}"),
            }
        };
        let detail = problem["detail"].as_str().context("a detail")?;
        let strangers = detail.split_once("other programs have ").and_then(|(_, rest)| rest.split_once(' '));
        let strangers = strangers.map_or(Ok(0), |(count, _)| count.parse::<usize>())?;
        let listening = run(Command::new("ss").args(["--listening", "--tcp", "--numeric", "--processes"])).await?;
        ensure!(databases.len() + strangers == usize::from(PORTS), "{databases:?}\n{problem}\n{listening}");
        let (first, last) = self.ports;
        let of_the_engine = listening.lines().filter(|line| {
            let port = line.split_whitespace().nth(3).and_then(|address| address.rsplit_once(':'));
            let port = port.and_then(|(_, port)| port.parse().ok());
            port.is_some_and(|port| (first..=last).contains(&port)) && line.contains("docker-proxy")
        });
        // Each database has one of its own.
        ensure!(of_the_engine.count() == usize::from(PORTS), "{listening}");
        for id in databases.iter().skip(1) {
            self.server.delete(id).await?;
        }
        self.nothing_else_is_left().await
    }

    async fn at_each_moment(signal: Signal) -> Result<()> {
        let mut setup = Self::new().await?;
        for moment in [Moment::Begun, Moment::Created, Moment::Started] {
            let gone = setup.goes_away(moment, signal).await;
            gone.with_context(|| format!("{moment:?}, {signal:?}:\n{}", setup.server.log()))?;
        }
        setup.every_port_is_given_back().await?;
        setup.server.delete(&setup.kept.id).await?;
        ensure!(setup.engine.containers().await?.is_empty());
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_stopped_during_a_create() -> Result<()> {
    Setup::at_each_moment(Signal::TERM).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_during_a_create() -> Result<()> {
    Setup::at_each_moment(Signal::KILL).await
}
