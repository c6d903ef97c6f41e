//! What ordinary days bring: databases are made, used, reset, published, extended and deleted, dumps imported, while the server is killed, records are
//! damaged and the pool runs full. What was announced is there, with what was written to it; and in the end, nothing is left.
//!
//! Slow: it goes on for a minute, or for as many seconds as `ONDEMAND_SOAK_SECONDS` says; `make soak` has it go on for an hour.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use ondemand_tests::{Home, Inventory, Server, ServerOptions, eventually, query};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

const SECONDS: u64 = 60;
/// How many use databases at a time.
const USERS: u64 = 3;
/// What a user does between two things.
const PAUSE: Duration = Duration::from_millis(250);
const SHOP: &str = "CREATE TABLE t (n bigint); INSERT INTO t SELECT generate_series(1, 1000);";

/// Numbers that look random, and are the same for the same seed (xorshift).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// A server that is started again whenever it was killed.
struct Soak {
    home: Home,
    options: ServerOptions,
    server: Mutex<Arc<Server>>,
    until: Instant,
    /// How often the pool has begun or ceased to be full: odd while it is. Then commits fail, and a Postgres that ends may lose its last ones.
    fillings: AtomicU64,
}

/// How a request went.
#[derive(Debug)]
enum Outcome {
    Done(Value),
    /// It was refused, and nothing has changed.
    Refused(u16, Value),
    /// The server was killed meanwhile, and nobody knows.
    Unknown,
}

/// A database that was announced, and how many rows were written to it: exactly, unless a commit's answer was lost.
struct Own {
    id: String,
    url: String,
    rows: RangeInclusive<u64>,
    /// The fillings of the pool that its rows have seen.
    fillings: u64,
}

impl Soak {
    fn server(&self) -> Arc<Server> {
        Arc::clone(&self.server.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn fillings(&self) -> u64 {
        self.fillings.load(Ordering::SeqCst)
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Sends a request once.
    async fn ask(&self, method: &str, path: &str, body: &Value) -> Outcome {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        match self.server().send(method, path, body).await {
            Err(_) => Outcome::Unknown,
            Ok((200..300, answer)) => Outcome::Done(answer),
            Ok((status, problem)) => Outcome::Refused(status, problem),
        }
    }

    /// Sends a request until it is answered, and neither refused for want of room nor because something else is done to what it is about.
    async fn answer(&self, method: &str, path: &str) -> Result<Outcome> {
        eventually(async || match self.ask(method, path, &Value::Null).await {
            Outcome::Unknown => bail!("{method} {path}: no answer"),
            Outcome::Refused(409 | 503 | 507, problem) => bail!("{method} {path}: {problem}"),
            outcome => Ok(outcome),
        })
        .await
    }

    /// Deletes something, however often it takes; it may be gone already.
    async fn delete(&self, path: &str) -> Result<()> {
        match self.answer("DELETE", path).await? {
            Outcome::Done(_) | Outcome::Refused(404, _) => {}
            other => bail!("DELETE {path}: {other:?}"),
        }
        match self.answer("GET", path).await? {
            Outcome::Refused(404, _) => Ok(()),
            other => bail!("{path} was deleted, and is there: {other:?}"),
        }
    }

    /// Makes a database with a name of its own. Where nobody knows whether it was made, it is looked for by that name.
    async fn make(&self, name: &str) -> Result<Option<Own>> {
        self.clone_of(name, "production", &(0..=0)).await
    }

    /// Makes a database of a dataset that has so many rows more.
    async fn clone_of(&self, name: &str, dataset: &str, rows: &RangeInclusive<u64>) -> Result<Option<Own>> {
        let made = match self.ask("POST", "/servers", &json!({ "Name": name, "Dataset": dataset })).await {
            Outcome::Done(made) => made,
            Outcome::Refused(409 | 503 | 507, _) => return Ok(None),
            Outcome::Refused(status, problem) => bail!("POST /servers: {status} {problem}"),
            Outcome::Unknown => {
                let Outcome::Done(list) = self.answer("GET", "/servers").await? else { bail!("no list") };
                let list = list.as_array().context("a list")?;
                match list.iter().find(|item| item["Name"] == format!("/{name}")) {
                    Some(made) => made.clone(),
                    None => return Ok(None),
                }
            }
        };
        let id = made["Id"].as_str().context("an id")?.to_owned();
        let Outcome::Done(made) = self.answer("GET", &format!("/servers/{id}")).await? else {
            bail!("{id} was announced, and is not there");
        };
        let url = made["Url"].as_str().context("a URL")?.to_owned();
        let mut own = Own { id, url, rows: rows.clone(), fillings: self.fillings() };
        self.check(&mut own).await?;
        Ok(Some(own))
    }

    /// Checks that a database has the rows it must have. From then on it must have just these.
    async fn check(&self, own: &mut Own) -> Result<()> {
        let before = own.fillings;
        let all = eventually(async || query(&own.url, "SELECT count(*) FROM t").await)
            .await
            .with_context(|| format!("{} does not answer any more", own.id))?;
        own.fillings = self.fillings();
        let written = all.parse::<u64>()?.checked_sub(1000).with_context(|| format!("{} has lost its data", own.id))?;
        let least = if own.fillings == before && !is_full(before) { *own.rows.start() } else { 0 };
        ensure!(
            (least..=*own.rows.end()).contains(&written),
            "{}: it has {written} rows, and {:?} were written",
            own.id,
            own.rows
        );
        own.rows = written..=written;
        Ok(())
    }

    async fn write(&self, own: &mut Own) -> Result<()> {
        let (least, most) = own.rows.clone().into_inner();
        match query(&own.url, "INSERT INTO t VALUES (0)").await {
            Ok(_) => own.rows = least + 1..=most + 1,
            Err(_) if own.fillings != self.fillings() || is_full(own.fillings) => own.rows = least..=most + 1,
            Err(error) => return Err(error.context(format!("writing to {}", own.id))),
        }
        self.check(own).await
    }

    async fn reset(&self, own: &mut Own) -> Result<()> {
        let path = format!("/servers/{}/reset", own.id);
        match self.ask("POST", &path, &Value::Null).await {
            Outcome::Done(_) => own.rows = 0..=0,
            Outcome::Refused(409 | 503 | 507, _) => {}
            Outcome::Refused(status, problem) => bail!("POST {path}: {status} {problem}"),
            Outcome::Unknown => own.rows = 0..=*own.rows.end(),
        }
        let there = self.answer("GET", &format!("/servers/{}", own.id)).await?;
        ensure!(matches!(there, Outcome::Done(_)), "{} was announced, and is not there: {there:?}", own.id);
        self.check(own).await
    }

    /// Publishes a database as a dataset, clones that, and deletes both. Returns the database if it was not published.
    async fn publish(&self, mut own: Own, dataset: &str) -> Result<Option<Own>> {
        let path = format!("/servers/{}", own.id);
        let published = self.ask("POST", &format!("{path}/publish"), &json!({ "Dataset": dataset })).await;
        match published {
            Outcome::Done(_) => {
                // What was written to it is in the dataset.
                if let Some(clone) = self.clone_of(&format!("{dataset}-clone"), dataset, &own.rows).await? {
                    self.delete(&format!("/servers/{}", clone.id)).await?;
                }
                self.delete(&path).await?;
            }
            Outcome::Refused(409 | 503 | 507, _) => {
                // Refused before it began, the database is there; else it has become an import, which was undone.
                if let Outcome::Done(_) = self.answer("GET", &path).await? {
                    self.check(&mut own).await?;
                    return Ok(Some(own));
                }
            }
            Outcome::Refused(status, problem) => bail!("publishing {}: {status} {problem}", own.id),
            Outcome::Unknown => {
                if let Outcome::Done(_) = self.answer("GET", &path).await? {
                    self.check(&mut own).await?;
                    return Ok(Some(own));
                }
            }
        }
        self.delete(&format!("/datasets/{dataset}")).await?;
        Ok(None)
    }

    /// Uses databases, one at a time.
    async fn user(&self, number: u64, seed: u64) -> Result<u64> {
        let mut dice = Dice(seed.wrapping_mul(number + 1) | 1);
        let mut own: Option<Own> = None;
        let mut done = 0;
        while !self.is_over() {
            let name = format!("soak-{number}-{done}");
            done += 1;
            own = match own {
                None if dice.roll(6) == 0 => {
                    self.import(&name).await?;
                    None
                }
                None => self.make(&name).await?,
                Some(mut own) => match dice.roll(10) {
                    0..=3 => self.write(&mut own).await.map(|()| Some(own))?,
                    4 | 5 => self.reset(&mut own).await.map(|()| Some(own))?,
                    6 => self.extend(&mut own).await.map(|()| Some(own))?,
                    7 => self.publish(own, &name).await?,
                    _ => {
                        self.delete(&format!("/servers/{}", own.id)).await?;
                        None
                    }
                },
            };
            tokio::time::sleep(PAUSE).await;
        }
        if let Some(mut own) = own {
            self.check(&mut own).await?;
            self.delete(&format!("/servers/{}", own.id)).await?;
        }
        Ok(done)
    }

    async fn import(&self, dataset: &str) -> Result<()> {
        let path = format!("/datasets/{dataset}");
        match self.server().send("POST", &path, SHOP).await {
            Ok((200..300 | 409 | 503 | 507, _)) | Err(_) => {}
            Ok((status, problem)) => bail!("POST {path}: {status} {problem}"),
        }
        self.delete(&path).await
    }

    async fn extend(&self, own: &mut Own) -> Result<()> {
        match self.ask("PATCH", &format!("/servers/{}", own.id), &json!({ "Ttl": "2h" })).await {
            Outcome::Refused(status, problem) if ![409, 503, 507].contains(&status) => {
                bail!("extending {}: {status} {problem}", own.id)
            }
            _ => self.check(own).await,
        }
    }

    /// Kills the server, and starts it again.
    async fn kill(&self) -> Result<()> {
        let pid = self.server().pid()?;
        kill_process(pid, Signal::KILL)?;
        // Requests that were under way end; whoever still holds it is about to notice.
        eventually(async || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
            ensure!(state.is_empty() || state.contains(") Z "), "it still runs");
            Ok(())
        })
        .await?;
        let next = Arc::new(Server::start(&self.home.data(), &self.options).await?);
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Damages a record of a database, and mends it: meanwhile the database is left alone, by a new server, too.
    async fn damage(&self, own: &mut Own, dice: &mut Dice) -> Result<()> {
        let (directory, begins) = match dice.roll(2) {
            0 => ("pool/volumes", format!("db-{}-", &own.id[..12])),
            _ => ("stacks", format!("pg-{}", &own.id[..12])),
        };
        let record = record(&self.home.data().join(directory), &begins)?;
        let aside = record.with_extension("aside");
        std::fs::rename(&record, &aside)?;
        std::fs::write(&record, "{\"half")?;
        if dice.roll(2) == 0 {
            self.kill().await?;
        }
        self.server().succeed("POST", "/reap", "").await?;
        self.check(own).await.context("a database whose record is damaged")?;
        std::fs::rename(&aside, &record)?;
        self.server().succeed("POST", "/reap", "").await?;
        let Outcome::Done(found) = self.answer("GET", &format!("/servers/{}", own.id)).await? else {
            bail!("{} was forgotten while its record was damaged", own.id);
        };
        ensure!(found["Url"] == own.url, "{found}");
        self.check(own).await
    }

    /// Fills the pool, and makes room again.
    async fn fill(&self) -> Result<()> {
        let ballast = self.home.data().join("pool/ballast");
        // Names take room, too, and what was deleted before may not be room again yet.
        let file = eventually(async || anyhow::Ok(std::fs::File::create(&ballast)?)).await?;
        self.fillings.fetch_add(1, Ordering::SeqCst);
        let mut step: u64 = 256 << 20;
        let mut length = 0;
        // By steps that become smaller, until there is no room for a megabyte.
        while step >= 1 << 20 {
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), length, step) {
                Ok(()) => length += step,
                Err(rustix::io::Errno::NOSPC) => step /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        // Users go on for a while.
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(file);
        // BTRFS may have no room to take a name away while others write; a moment later it has.
        eventually(async || anyhow::Ok(std::fs::remove_file(&ballast)?)).await?;
        // What was deleted is free after a moment.
        let pool = self.home.data().join("pool");
        tokio::task::spawn_blocking(move || std::process::Command::new("sync").arg("--file-system").arg(pool).status())
            .await??;
        self.fillings.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn trouble(&self, seed: u64) -> Result<u64> {
        let mut dice = Dice(seed | 1);
        let mut own = eventually(async || self.make("victim").await?.context("no room yet")).await?;
        let mut done = 0;
        while !self.is_over() {
            match dice.roll(5) {
                0 | 1 => self.kill().await?,
                2 | 3 => self.damage(&mut own, &mut dice).await?,
                _ => self.fill().await?,
            }
            done += 1;
            // A while in which nothing is wrong.
            tokio::time::sleep(Duration::from_millis(300 + dice.roll(1500))).await;
        }
        self.check(&mut own).await?;
        self.delete(&format!("/servers/{}", own.id)).await?;
        Ok(done)
    }
}

/// Tells whether the pool is full, after so many changes of that.
fn is_full(fillings: u64) -> bool {
    fillings % 2 == 1
}

/// Returns the only record in a directory whose name begins like this.
fn record(directory: &Path, begins: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(directory)?.collect::<std::io::Result<Vec<_>>>()?;
    let is_meant = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "json")
            && path.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with(begins))
    };
    let mut found = entries.iter().map(std::fs::DirEntry::path).filter(is_meant);
    found.next().with_context(|| format!("there is no record {begins} in {}", directory.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_what_was_announced_is_there() -> Result<()> {
    let seconds = std::env::var("ONDEMAND_SOAK_SECONDS").ok().map(|text| text.parse()).transpose()?.unwrap_or(SECONDS);
    let seed = std::time::UNIX_EPOCH.elapsed()?.subsec_nanos().into();
    let home = Home::new()?;
    let options = ServerOptions { arguments: vec!["--pool-size".into(), "2G".into()], ..ServerOptions::default() };
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", SHOP).await?;
    let before = Inventory::take(&home, &home.data())?;
    let soak = Soak {
        home,
        options,
        server: Mutex::new(Arc::new(server)),
        until: Instant::now() + Duration::from_secs(seconds),
        fillings: AtomicU64::new(0),
    };
    let users = try_join_all((0..USERS).map(|number| soak.user(number, seed)));
    let (used, troubles) = tokio::try_join!(users, soak.trouble(seed))
        .with_context(|| format!("seed {seed}; the server's log:\n{}", soak.server().log()))?;
    println!("{used:?} things were done, and {troubles} went wrong");
    ensure!(used.iter().all(|done| *done > 0) && troubles > 0, "{used:?} {troubles}");
    before.returns(&soak.home, &soak.home.data()).await.with_context(|| format!("seed {seed}"))
}
