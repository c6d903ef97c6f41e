//! A pool that is full: said clearly, undone, and all well again once something is deleted.

use anyhow::{Context, Result, ensure};
use ondemand_tests::{Home, Inventory, Server, ServerOptions, eventually, query};
use serde_json::json;

/// The smallest pool that BTRFS makes.
fn tiny() -> ServerOptions {
    ServerOptions { arguments: vec!["--pool-size".into(), "256M".into()], ..ServerOptions::default() }
}

/// Text that compresses badly, a hundred megabytes of it and more; Postgres makes it while it imports.
const TOO_MUCH: &str =
    "CREATE TABLE big AS SELECT md5(n::text) || md5((n + 1)::text) AS word FROM generate_series(1, 2000000) n;";

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_fills_the_pool_is_undone() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &tiny()).await?;
    leave(&home.data().join("pool/ballast"), 100)?;
    let before = Inventory::take(&home, &home.data())?;
    let problem = server.refused(("POST", "/datasets/big"), TOO_MUCH, (507, "out_of_space")).await?;
    ensure!(problem["hint"].as_str().is_some_and(|hint| hint.contains("delete")), "{problem}");
    before.returns(&home, &home.data()).await?;
    // What was freed is free again after a moment.
    eventually(async || server.import("production", "CREATE TABLE t ();").await).await?;
    let database = server.create(json!({})).await?;
    ensure!(query(&database.url, "SELECT count(*) FROM t").await? == "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_fills_the_pool_can_be_deleted() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &tiny()).await?;
    server.import("production", "CREATE TABLE t AS SELECT 'dataset' AS word;").await?;
    let other = server.create(json!({})).await?;
    let before = Inventory::take(&home, &home.data())?;
    let big = server.create(json!({})).await?;
    // To the last byte, in the database's own volume; Postgres itself would take long for the last megabytes.
    let processes = home.servers()?;
    let volume =
        processes.iter().map(|(_, volume)| volume).find(|volume| volume.to_string_lossy().contains(&big.id[..12]));
    leave(&volume.context("a volume")?.join("ballast"), 0)?;
    let with_both = Inventory::take(&home, &home.data())?;
    let fill = "CREATE TABLE more AS SELECT md5(n::text) FROM generate_series(1, 100000) n";
    ensure!(query(&big.url, fill).await.is_err(), "there was room");
    let (status, answer) = server.send("POST", "/servers", "{}").await?;
    ensure!(status == 201 || answer["code"] == "out_of_space", "{status} {answer}");
    if status == 201 {
        server.delete(answer["Id"].as_str().context("an Id")?).await?;
    }
    with_both.returns(&home, &home.data()).await?;
    ensure!(query(&other.url, "SELECT word FROM t").await? == "dataset", "another database suffers");
    server.succeed("GET", "/pool", "").await?;

    server.delete(&big.id).await?;
    before.returns(&home, &home.data()).await?;
    let next = eventually(async || server.create(json!({})).await).await?;
    eventually(async || query(&next.url, "CREATE TABLE mine AS SELECT generate_series(1, 10000)").await).await?;
    server.reset(&other.id).await?;
    ensure!(query(&other.url, "SELECT word FROM t").await? == "dataset");
    Ok(())
}

/// The pool is full before anything is asked for, with what is no database.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_in_a_full_pool() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &tiny()).await?;
    server.import("production", "CREATE TABLE t AS SELECT 'dataset' AS word;").await?;
    let database = server.create(json!({})).await?;
    let ballast = home.data().join("pool/ballast");
    leave(&ballast, 0)?;
    let before = Inventory::take(&home, &home.data())?;
    let problem = server.refused(("POST", "/datasets/next"), "CREATE TABLE t ();", (507, "out_of_space")).await?;
    ensure!(problem["hint"].is_string(), "{problem}");
    before.returns(&home, &home.data()).await?;
    let (status, answer) = server.send("POST", "/servers", "{}").await?;
    ensure!(answer["code"] == "out_of_space" || status == 201, "{status} {answer}");
    if let Some(id) = answer["Id"].as_str() {
        server.delete(id).await?;
    }
    before.returns(&home, &home.data()).await?;
    std::fs::remove_file(ballast)?;
    let next = eventually(async || server.create(json!({})).await).await?;
    ensure!(query(&next.url, "SELECT word FROM t").await? == "dataset");
    ensure!(query(&database.url, "SELECT word FROM t").await? == "dataset");
    server.delete(&next.id).await?;
    Ok(())
}

/// Writes a file until no more than some megabytes are left. What is in a pool without being a volume is no concern of the server.
fn leave(path: &std::path::Path, megabytes: u64) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    for size in [1 << 20, 1 << 16, 1 << 12] {
        let piece = vec![0x5a; size];
        while file.write_all(&piece).and_then(|()| file.sync_data()).is_ok() {}
    }
    if megabytes > 0 {
        let length = file.metadata()?.len();
        file.set_len(length.checked_sub(megabytes << 20).context("the pool is too small")?)?;
        file.sync_all()?;
    }
    Ok(())
}
