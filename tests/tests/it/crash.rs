//! The process that holds a data directory is killed at every call it makes of the store and the orchestrator. Afterwards every
//! database that was announced answers with its data, and nothing is left of what was not.
//!
//! Slow: a process is started and killed for each call that it makes, forty times and more.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ondemand_core::{
    CreateOptions, Database, DatabaseId, DatasetName, ImportOptions, Ondemand, Selector, Source, progress,
};
use ondemand_tests::{Home, crash_config, free_range, query};

/// Goes through the calls of an operation: before each, and after each. How many there are shows when an operation is not killed any more
/// before a call; a call that is given up before it answers, such as waiting for a server to stop, cannot be killed after it.
#[derive(Default)]
struct Steps {
    when: Option<&'static str>,
    number: usize,
    calls: usize,
}

impl Steps {
    /// Returns the next step, given whether the last one was killed.
    fn next(&mut self, killed: bool) -> Option<(&'static str, usize)> {
        match self.when {
            None => self.when = Some("before"),
            Some("before") if !killed => {
                self.calls = self.number - 1;
                self.when = Some("after");
                self.number = 0;
            }
            _ => {}
        }
        self.number += 1;
        let when = self.when?;
        (when == "before" || self.number <= self.calls).then_some((when, self.number))
    }
}

const MARK: &str = "CREATE TABLE mark AS SELECT 'written'::text AS word";

struct Laboratory {
    home: Home,
    data_dir: PathBuf,
    first_port: u16,
    /// The databases that were announced, and whether they were written to.
    announced: BTreeMap<DatabaseId, bool>,
}

impl Laboratory {
    async fn new() -> Result<Self> {
        let home = Home::new()?;
        let data_dir = home.path().join("data");
        let mut laboratory = Self { data_dir, home, first_port: free_range(100).0, announced: BTreeMap::new() };
        let dump = laboratory.home.path().join("dump.sql");
        std::fs::write(&dump, "CREATE TABLE numbers AS SELECT n FROM generate_series(1, 1000) n;")?;
        let ondemand = laboratory.open().await?;
        let dataset = DatasetName::new("production")?;
        ondemand.datasets.import(&dataset, Source::Path(dump), ImportOptions::default(), progress::silent()).await?;
        laboratory.create(&ondemand).await?;
        Ok(laboratory)
    }

    async fn open(&self) -> Result<Ondemand> {
        Ok(Ondemand::open(&crash_config(self.data_dir.clone(), self.first_port)).await?)
    }

    /// Announces a database that was written to.
    async fn create(&mut self, ondemand: &Ondemand) -> Result<Database> {
        let database = ondemand.databases.create(CreateOptions::default()).await?;
        query(&database.url(), MARK).await?;
        self.announced.insert(database.id.clone(), true);
        Ok(database)
    }

    /// Announces a database that was written to, in a process that ends then.
    async fn create_alone(&mut self) -> Result<DatabaseId> {
        let ondemand = self.open().await?;
        ondemand.janitor.run_once().await?;
        Ok(self.create(&ondemand).await?.id)
    }

    /// Deletes a database, in a process that ends then.
    async fn delete_alone(&mut self, id: &DatabaseId) -> Result<()> {
        let ondemand = self.open().await?;
        ondemand.janitor.run_once().await?;
        ondemand.databases.delete(id).await?;
        self.announced.remove(id);
        Ok(())
    }

    /// Runs an operation in a process that is killed at a call. Tells what killed it, or `None` if it ended before.
    async fn crash(&self, when: &str, number: usize, operation: &[&str]) -> Result<Option<String>> {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_crash-child"))
            .arg(&self.data_dir)
            .args([&self.first_port.to_string(), when, &number.to_string()])
            .args(operation)
            .output()
            .await?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.signal() == Some(9) {
            return Ok(Some(told));
        }
        ensure!(output.status.success(), "{operation:?} {when} call {number}: {}: {told}", output.status);
        Ok(None)
    }

    /// Opens the data directory as the next process would, and checks all there is. `unsure` may have been announced or not; `reset` may have
    /// been reset or not.
    async fn check(&mut self, unsure: bool, reset: Option<&DatabaseId>, datasets: &[&str]) -> Result<()> {
        let ondemand = self.open().await?;
        let report = ondemand.janitor.run_once().await?;
        ensure!(report.failed.is_empty() && report.unknown.is_empty(), "{report:?}");
        let again = ondemand.janitor.run_once().await?;
        ensure!(again == ondemand_core::Report::default(), "a second round still found work: {again:?}");

        let found = ondemand.databases.list().await?;
        for (id, written) in &self.announced {
            let database = found.iter().find(|d| d.id == *id).with_context(|| format!("database {id} is lost"))?;
            let numbers = query(&database.url(), "SELECT count(*) FROM numbers").await?;
            ensure!(numbers == "1000", "database {id} has {numbers} of its 1000 rows");
            let marks = query(&database.url(), "SELECT count(*) FROM pg_tables WHERE tablename = 'mark'").await?;
            let may_be_reset = reset == Some(id);
            ensure!(marks == if *written { "1" } else { "0" } || may_be_reset, "database {id} has {marks} marks");
        }
        let strangers: Vec<_> = found.iter().filter(|d| !self.announced.contains_key(&d.id)).collect();
        ensure!(strangers.len() <= usize::from(unsure), "databases nobody asked for: {strangers:?}");
        for database in &strangers {
            // It was announced before the kill, and nobody was told: it works, and would expire.
            query(&database.url(), "SELECT count(*) FROM numbers").await?;
            ondemand.databases.delete(&database.id).await?;
        }
        self.check_leftovers(&ondemand).await?;
        let names: Vec<_> = ondemand.datasets.list().await?.into_iter().map(|d| d.name.to_string()).collect();
        ensure!(names.iter().all(|name| datasets.contains(&name.as_str())), "datasets {names:?}");
        Ok(())
    }

    /// Compares volumes, processes and sockets with the databases that were announced.
    async fn check_leftovers(&self, ondemand: &Ondemand) -> Result<()> {
        let count = self.announced.len();
        let volumes = ondemand.store.volumes(&Selector::all()).await?.found;
        ensure!(volumes.len() == count && volumes.iter().all(|v| v.complete), "volumes {volumes:?}");
        let servers = self.home.servers()?;
        ensure!(servers.len() == count, "{count} databases, and these processes: {servers:?}");
        let in_pool = std::fs::read_dir(self.data_dir.join("pool/volumes"))?.count();
        ensure!(in_pool == 2 * count, "{in_pool} entries for {count} volumes and their records");
        for (directory, ending) in [("stacks", ".json"), ("logs", ".log")] {
            let names: Vec<_> = std::fs::read_dir(self.data_dir.join(directory))?
                .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
                .collect();
            let others = names.iter().filter(|name| !name.ends_with(ending) && *name != ".lock").count();
            ensure!(
                names.iter().filter(|n| n.ends_with(ending)).count() == count && others == 0,
                "{directory}: {names:?}"
            );
        }
        Ok(())
    }

    /// Ends all databases, so that the home can go.
    async fn close(self) -> Result<()> {
        let ondemand = self.open().await?;
        ondemand.janitor.run_once().await?;
        for id in self.announced.keys() {
            ondemand.databases.delete(id).await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_creating() -> Result<()> {
    let mut laboratory = Laboratory::new().await?;
    let (mut steps, mut killed) = (Steps::default(), true);
    while let Some((when, number)) = steps.next(killed) {
        let crashed = laboratory.crash(when, number, &["create"]).await?;
        let checked = laboratory.check(true, None, &["production"]).await;
        checked.with_context(|| format!("killed {when} call {number}: {crashed:?}"))?;
        killed = crashed.is_some();
    }
    ensure!(steps.calls >= 5, "a create makes more than {} calls", steps.calls);
    laboratory.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_resetting() -> Result<()> {
    let mut laboratory = Laboratory::new().await?;
    let (mut steps, mut killed) = (Steps::default(), true);
    while let Some((when, number)) = steps.next(killed) {
        let id = laboratory.create_alone().await?;
        let crashed = laboratory.crash(when, number, &["reset", id.as_str()]).await?;
        let checked = laboratory.check(false, Some(&id), &["production"]).await;
        checked.with_context(|| format!("killed {when} call {number}: {crashed:?}"))?;
        laboratory.delete_alone(&id).await?;
        killed = crashed.is_some();
    }
    ensure!(steps.calls >= 7, "a reset makes more than {} calls", steps.calls);
    laboratory.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_deleting() -> Result<()> {
    let mut laboratory = Laboratory::new().await?;
    let (mut steps, mut killed) = (Steps::default(), true);
    while let Some((when, number)) = steps.next(killed) {
        let id = laboratory.create_alone().await?;
        let crashed = laboratory.crash(when, number, &["delete", id.as_str()]).await?;
        laboratory.announced.remove(&id);
        // Before its first mark, the deletion has not begun, and the database lives on.
        let checked = laboratory.check(true, None, &["production"]).await;
        checked.with_context(|| format!("killed {when} call {number}: {crashed:?}"))?;
        killed = crashed.is_some();
    }
    ensure!(steps.calls >= 4, "a delete makes more than {} calls", steps.calls);
    laboratory.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_publishing() -> Result<()> {
    let mut laboratory = Laboratory::new().await?;
    let (mut steps, mut killed) = (Steps::default(), true);
    while let Some((when, number)) = steps.next(killed) {
        let id = laboratory.create_alone().await?;
        let crashed = laboratory.crash(when, number, &["publish", id.as_str()]).await?;
        laboratory.announced.remove(&id);
        // Before its volume is handed over, the database lives on; then it is gone, whether or not it was published.
        let checked = laboratory.check(true, None, &["production", "published"]).await;
        checked.with_context(|| format!("killed {when} call {number}: {crashed:?}"))?;
        killed = crashed.is_some();
    }
    ensure!(steps.calls >= 6, "publishing makes more than {} calls", steps.calls);
    laboratory.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_importing() -> Result<()> {
    let mut laboratory = Laboratory::new().await?;
    let dump = laboratory.home.path().join("dump.sql").to_string_lossy().into_owned();
    let (mut steps, mut killed) = (Steps::default(), true);
    while let Some((when, number)) = steps.next(killed) {
        let crashed = laboratory.crash(when, number, &["import", &dump]).await?;
        let checked = laboratory.check(false, None, &["production", "imported"]).await;
        checked.with_context(|| format!("killed {when} call {number}: {crashed:?}"))?;
        killed = crashed.is_some();
    }
    ensure!(steps.calls >= 3, "an import makes more than {} calls", steps.calls);
    laboratory.close().await
}
