//! The whole job as an ordinary user, who may neither mount nor change to another user.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::{Context, Result, ensure};
use ondemand_tests::{Home, Inventory, Server, ServerOptions, eventually, query, run};
use rustix::process::Signal;
use serde_json::json;

/// `nobody` and `nogroup`, which every Debian has.
const NOBODY: u32 = 65_534;

fn ordinary(options: ServerOptions) -> ServerOptions {
    ServerOptions { user: Some((NOBODY, NOBODY)), ..options }
}

/// A home whose data directory belongs to the ordinary user.
fn home() -> Result<Home> {
    let home = Home::new()?;
    std::fs::create_dir(home.data())?;
    std::os::unix::fs::chown(home.data(), Some(NOBODY), Some(NOBODY))?;
    Ok(home)
}

/// Imports, creates, writes, resets, restarts, crashes, deletes; nothing is left, and nothing belongs to another user.
async fn the_whole_job(home: &Home, options: &ServerOptions) -> Result<()> {
    // Where the machine's first process is slow to notice that a process has ended, Postgres takes it for a live one, and is started
    // in a later round.
    let config = "[databases]\nreap-interval = '1s'\n[databases.limits]\nmemory = '1G'\n";
    let config = home.file("ondemand.toml", config)?;
    let options = &options.clone().with(["--config", &config.display().to_string()]);
    let server = Server::start(&home.data(), options).await?;
    // Only root makes control groups.
    ensure!(server.log().contains("databases.limits means nothing here"), "{}", server.log());
    server.import("production", "CREATE TABLE t AS SELECT 'dataset'::text AS word;").await?;
    let empty = Inventory::take(home, &home.data())?;
    let first = server.create(json!({ "Durable": true })).await?;
    let second = server.create(json!({})).await?;
    for database in [&first, &second] {
        query(&database.url, "UPDATE t SET word = 'written'").await?;
    }
    for (pid, data) in home.servers()? {
        ensure!(std::fs::metadata(format!("/proc/{pid}"))?.uid() == NOBODY, "a Postgres of another user");
        ensure!(
            data.metadata()?.uid() == NOBODY && data.metadata()?.mode().trailing_zeros() >= 6,
            "{}",
            data.display()
        );
    }
    for directory in home.runtime_dirs() {
        ensure!(directory.starts_with("/tmp") && directory.metadata()?.uid() == NOBODY, "{}", directory.display());
    }
    server.reset(&second.id).await?;
    ensure!(query(&second.url, "SELECT word FROM t").await? == "dataset");
    server.kill().await?;
    if let Some((pid, _)) = home.servers()?.pop() {
        home.kill(pid, Signal::KILL)?;
    }
    let server = Server::start(&home.data(), options).await?;
    for database in [&first, &second] {
        eventually(async || query(&database.url, "SELECT 1").await).await.with_context(|| server.log())?;
    }
    ensure!(query(&first.url, "SELECT word FROM t").await? == "written");
    ensure!(query(&second.url, "SELECT word FROM t").await? == "dataset");
    for database in [&first, &second] {
        server.delete(&database.id).await?;
    }
    empty.returns(home, &home.data()).await?;
    server.succeed("DELETE", "/datasets/production", "").await?;
    server.stop().await?;
    ensure!(home.runtime_dirs().is_empty(), "an empty runtime directory stays");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_copies() -> Result<()> {
    let home = home()?;
    the_whole_job(&home, &ordinary(ServerOptions { store: "copy", ..ServerOptions::default() })).await
}

/// Without being told, it copies too, and says why and what that costs.
#[tokio::test(flavor = "multi_thread")]
async fn with_what_it_finds() -> Result<()> {
    let home = home()?;
    let server = Server::start(&home.data(), &ordinary(ServerOptions::default())).await?;
    let log = server.log();
    ensure!(log.contains("not using BTRFS") && log.contains("copies"), "{log}");
    server.import("production", "CREATE TABLE t ();").await?;
    let database = server.create(json!({})).await?;
    ensure!(query(&database.url, "SELECT count(*) FROM t").await? == "0");
    Ok(())
}

/// A pool that root has made for the user.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_pool_that_root_made() -> Result<()> {
    let home = home()?;
    let pool = home.data().join("pool");
    let mut create = ondemand_tests::server::program();
    create.args(["pool", "create", "--size", "1G", "--owner", "nobody", "--path"]).arg(&pool);
    ensure!(run(&mut create).await?.trim() == pool.display().to_string());
    ensure!(pool.metadata()?.uid() == NOBODY, "the pool is not the user's");
    let options = ordinary(ServerOptions { store: "btrfs", ..ServerOptions::default() });
    the_whole_job(&home, &options).await
}

/// A data directory that is not the user's is no place for one.
#[tokio::test(flavor = "multi_thread")]
async fn in_somebody_elses_directory() -> Result<()> {
    let home = Home::new()?;
    std::fs::create_dir(home.data())?;
    std::fs::set_permissions(home.data(), PermissionsExt::from_mode(0o755))?;
    let (status, said) = Server::spawn(&home.data(), &ordinary(ServerOptions::default()))?.wait().await?;
    ensure!(status.is_some_and(|status| status != 0), "it started: {said}");
    ensure!(said.contains(&home.data().display().to_string()) && said.contains("denied"), "{said}");
    Ok(())
}
