//! The process that makes environments is killed at every call by which it changes something. After a round of the next one, an environment is there
//! with all that belongs to it, or nothing of it is.
//!
//! Slow: a process is started and killed for each call that it makes, forty times and more.

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use ondemand_core::environments::{Caller, CreateEnvironment, Environment, Status};
use ondemand_core::fakes::FaultPlan;
use ondemand_core::{Config, ImportOptions, Report, Source, progress};
use ondemand_tests::embedded::{self, Embedded};
use ondemand_tests::{Home, Inventory, Shop, free_range, query};

/// An environment that nothing is done to.
const BYSTANDER: &str = "bystander";
/// The one that something is done to.
const NAME: &str = "demo";

struct Laboratory {
    home: Home,
    config: Config,
    first_port: u16,
    /// All there is while there is only the bystander.
    before: Inventory,
    _shop: Shop,
}

impl Laboratory {
    async fn new() -> Result<Self> {
        let home = Home::new()?;
        let shop = Shop::new(&home).await?;
        embedded::write_template(home.path())?;
        let first_port = free_range(100).0;
        let config = embedded::config(home.path(), first_port);
        let place = Embedded::open(&config, &FaultPlan::new()).await?;
        place.ondemand.janitor.run_once().await?;
        let dump = home.file("dump.sql", "CREATE TABLE numbers AS SELECT n FROM generate_series(1, 10) n;")?;
        let (dataset, silent) = ("production".parse()?, progress::silent());
        place.ondemand.datasets.import(&dataset, Source::Path(dump), ImportOptions::default(), silent).await?;
        create(&place, BYSTANDER).await?;
        drop(place);
        let before = Inventory::take(&home, &config.data_dir)?;
        Ok(Self { home, config, first_port, before, _shop: shop })
    }

    async fn open(&self) -> Result<Embedded> {
        let place = Embedded::open(&self.config, &FaultPlan::new()).await?;
        let report = place.ondemand.janitor.run_once().await?;
        ensure!(report.failed.is_empty() && report.unknown.is_empty(), "{report:?}");
        let again = place.ondemand.janitor.run_once().await?;
        ensure!(again == Report::default(), "a second round still found work: {again:?}");
        Ok(place)
    }

    /// Runs an operation in a process that is killed at a call. Tells whether it was, or ended before.
    async fn crash(&self, when: &str, method: &str, number: usize, operation: &str) -> Result<bool> {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_crash-env-child"))
            .arg(self.home.path())
            .args([&self.first_port.to_string(), when, method, &number.to_string(), operation, NAME])
            .output()
            .await?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.signal() == Some(9) {
            return Ok(true);
        }
        ensure!(output.status.success(), "{}: {told}", output.status);
        Ok(false)
    }

    /// Kills an operation before and after each call of these methods, on what is prepared anew each time, and checks what is there then.
    async fn kill(&self, operation: &str, there_before: bool, calls: &[(&str, usize)]) -> Result<()> {
        for (method, least) in calls {
            for when in ["before", "after"] {
                for number in 1.. {
                    if there_before {
                        let place = self.open().await?;
                        create(&place, NAME).await?;
                    }
                    let killed = self.crash(when, method, number, operation).await;
                    let checked = async { self.check(operation == "redeploy").await.map(|()| killed) };
                    let killed = checked.await.and_then(|killed| killed);
                    if !killed.with_context(|| format!("killed {when} call {number} of {method}"))? {
                        ensure!(number > *least, "{operation} makes more than {} calls of {method}", number - 1);
                        break;
                    }
                }
            }
        }
        let place = self.open().await?;
        delete(&place, BYSTANDER).await
    }

    /// Opens the data directory as the next process would, and checks that what is there is whole, and that there is nothing else.
    async fn check(&self, must_be_there: bool) -> Result<()> {
        let place = self.open().await?;
        let names: Vec<_> = place.environments.list().await?.iter().map(ToString::to_string).collect();
        let is_there = names == [BYSTANDER, NAME];
        ensure!(is_there || !must_be_there && names == [BYSTANDER], "there are {names:?}");
        for name in &names {
            whole(&place, &place.environments.get(&name.parse()?).await?).await.with_context(|| name.clone())?;
        }
        if is_there {
            delete(&place, NAME).await?;
        } else {
            let (status, _) = place.visit(&format!("{NAME}.localhost")).await?;
            ensure!(status == 404, "nothing is there, and its name is answered with {status}");
        }
        self.before.returns(&self.home, &self.config.data_dir).await
    }
}

async fn create(place: &Embedded, name: &str) -> Result<Environment> {
    let wanted = CreateEnvironment { name: Some(name.parse()?), ..CreateEnvironment::default() };
    Ok(place.environments.create(None, wanted, Arc::new(|_| {})).await?)
}

async fn delete(place: &Embedded, name: &str) -> Result<()> {
    Ok(place.environments.delete(&name.parse()?, &Caller::admin()).await?)
}

/// Checks that an environment answers under all its names, and has its database with the data in it.
async fn whole(place: &Embedded, environment: &Environment) -> Result<()> {
    ensure!(environment.status == Status::Ready, "{environment:?}");
    let commit = environment.back.as_ref().context("a back end")?.commit.to_string();
    for host in &environment.urls {
        let answer = place.visit(host.as_str()).await?;
        ensure!(answer == (200, commit.clone()), "{host} is answered with {answer:?}");
    }
    let id = environment.database.as_ref().context("a database")?;
    let database = place.ondemand.databases.get(id).await?;
    let numbers = query(&database.url(), "SELECT count(*) FROM numbers").await?;
    ensure!(numbers == "10", "its database has {numbers} of its 10 rows");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_creating() -> Result<()> {
    let calls = [("clone_snapshot", 1), ("deploy", 2), ("set_volume_labels", 1), ("set", 4), ("set_labels", 1)];
    Laboratory::new().await?.kill("create", false, &calls).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_redeploying() -> Result<()> {
    Laboratory::new()
        .await?
        .kill("redeploy", true, &[("deploy", 1), ("set", 2), ("set_labels", 1), ("remove", 1)])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_deleting() -> Result<()> {
    // Both routes, the stack, and its database's.
    Laboratory::new().await?.kill("delete", true, &[("set_labels", 1), ("remove", 4), ("delete_volume", 1)]).await
}
