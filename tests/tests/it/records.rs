//! Records that cannot be read, or are replaced while they are listed: what they speak of is neither ended nor forgotten.
//!
//! Slow: each damage is met by two servers, and changes go on for three seconds beside a janitor.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ondemand_tests::{Database, Home, Server, ServerOptions, query};
use serde_json::{Value, json};

const T: &str = "CREATE TABLE t AS SELECT 'dataset'::text AS word;";

/// Returns the only record in a directory whose name begins like this.
fn record(directory: &Path, begins: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let paths: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    let is_meant = |path: &&PathBuf| {
        path.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with(begins))
            && path.extension().is_some_and(|extension| extension == "json")
    };
    let found: Vec<_> = paths.iter().filter(is_meant).collect();
    let [only] = found[..] else { bail!("expected one record {begins} among {paths:?}") };
    Ok(only.clone())
}

async fn reap(server: &Server) -> Result<Value> {
    server.succeed("POST", "/reap", "").await
}

async fn word(database: &Database) -> Result<String> {
    query(&database.url, "SELECT word FROM t").await
}

/// A round of the janitor that leaves a database alone and tells of its record.
async fn is_left_alone(server: &Server, database: &Database, record: &Path) -> Result<()> {
    let report = reap(server).await?;
    let told = report.to_string();
    for done in ["Reaped", "Restarted", "Removed"] {
        ensure!(report[done] == json!([]), "{told}");
    }
    let name = record.file_stem().context("a name")?.to_string_lossy();
    ensure!(report["Unknown"].to_string().contains(&*name) || report["Failed"].to_string().contains(&*name), "{told}");
    ensure!(word(database).await? == "written");
    Ok(())
}

/// Damages a record in one way after another. A server that knew the database before, and one that did not, leave both alone; with the record as it was,
/// everything is as it was.
async fn damaged(options: ServerOptions, find: impl Fn(&Path, &Database) -> Result<PathBuf>) -> Result<()> {
    let home = Home::new()?;
    let mut server = Server::start(&home.data(), &options).await?;
    server.import("production", T).await?;
    let database = server.create(json!({})).await?;
    query(&database.url, "UPDATE t SET word = 'written'; CHECKPOINT").await?;
    let record = find(&home.data(), &database)?;
    let aside = record.with_extension("aside");
    let servers = home.servers()?;
    for damage in ["half of it", "a directory", "a link to itself"] {
        fs::rename(&record, &aside)?;
        match damage {
            "half of it" => fs::write(&record, "{\"half")?,
            "a directory" => fs::create_dir(&record)?,
            _ => std::os::unix::fs::symlink(&record, &record)?,
        }
        is_left_alone(&server, &database, &record).await.context(damage)?;
        server.kill().await?;
        server = Server::start(&home.data(), &options).await?;
        is_left_alone(&server, &database, &record).await.context(damage)?;
        let other = server.create(json!({})).await?;
        ensure!(other.port != database.port, "{damage}: its port was given away");
        server.delete(&other.id).await?;
        let remove: fn(&Path) -> std::io::Result<()> =
            if damage == "a directory" { |path| fs::remove_dir(path) } else { |path| fs::remove_file(path) };
        remove(&record)?;
        fs::rename(&aside, &record)?;
        let report = reap(&server).await?;
        ensure!(report["Unknown"] == json!([]) && report["Restarted"] == json!([]), "{damage}: {report}");
        let found = server.get(&database.id).await?;
        ensure!(found.url == database.url && found.status == "Running", "{damage}: {found:?}");
        ensure!(home.servers()? == servers, "{damage}: its server was started again");
    }
    server.delete(&database.id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volumes_record_that_cannot_be_read_costs_nothing() -> Result<()> {
    damaged(ServerOptions::default(), |data, database| {
        record(&data.join("pool/volumes"), &format!("db-{}-", &database.id[..12]))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_copied_volume_that_cannot_be_read_costs_nothing() -> Result<()> {
    damaged(ServerOptions { store: "copy", ..ServerOptions::default() }, |data, database| {
        record(&data.join("store/volumes"), &format!("db-{}-", &database.id[..12]))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stacks_record_that_cannot_be_read_costs_nothing() -> Result<()> {
    damaged(ServerOptions::default(), |data, database| {
        record(&data.join("stacks"), &format!("pg-{}", &database.id[..12]))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_change_all_the_time_are_not_forgotten() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.import("production", T).await?;
    let mut databases = Vec::new();
    for _ in 0..12 {
        databases.push(server.create(json!({})).await?);
    }
    let until = Instant::now() + Duration::from_secs(3);
    // Each change replaces a record, beside a janitor that does nothing but list them.
    let extend = async |databases: &[Database]| -> Result<usize> {
        let mut count = 0;
        while Instant::now() < until {
            for database in databases {
                let path = format!("/servers/{}", database.id);
                server.succeed("PATCH", &path, json!({ "Ttl": "1h" }).to_string()).await?;
                count += 1;
            }
        }
        Ok(count)
    };
    let rounds = async {
        let mut count = 0;
        while Instant::now() < until {
            let report = reap(&server).await?;
            ensure!(report["Reaped"] == json!([]) && report["Removed"] == json!([]), "{report}");
            ensure!(report["Restarted"] == json!([]) && report["Failed"] == json!([]), "{report}");
            count += 1;
        }
        Ok(count)
    };
    let (a, b, c, d) = (extend(&databases), extend(&databases), extend(&databases), extend(&databases));
    let (a, b, c, d, rounds) = tokio::try_join!(a, b, c, d, rounds)?;
    ensure!(a + b + c + d > 100 && rounds > 10, "{} changes and {rounds} rounds are too few", a + b + c + d);
    let mut listed = server.list().await?;
    listed.sort();
    let mut expected: Vec<_> = databases.iter().map(|database| database.id.clone()).collect();
    expected.sort();
    ensure!(listed == expected, "{listed:?}");
    for database in &databases {
        ensure!(word(database).await? == "dataset");
        server.delete(&database.id).await?;
    }
    Ok(())
}
