//! A pool that is full: said clearly, undone, and all well again once something is deleted.
//!
//! Slow: a pool is written full, and BTRFS takes seconds to give room back.

use anyhow::{Context, Result, ensure};
use ondemand_tests::{Database, Home, Inventory, Server, ServerOptions, eventually, query};
use serde_json::json;

/// The smallest pool that BTRFS makes.
fn tiny() -> ServerOptions {
    ServerOptions { arguments: vec!["--pool-size".into(), "256M".into()], ..ServerOptions::default() }
}

/// What begins like an archive of `pg_dump -Fc`, which is kept in the pool while it is received, and is larger than the pool.
fn too_much() -> Vec<u8> {
    let mut dump = b"PGDMP\x01\x0e\0\x04\x08\x01".to_vec();
    // Nothing that a pool could compress (xorshift).
    let mut word = 0x5eed_u64;
    while dump.len() < 300 << 20 {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        dump.extend_from_slice(&word.to_le_bytes());
    }
    dump
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_fills_the_pool_is_undone() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &tiny()).await?;
    let before = Inventory::take(&home, &home.data())?;
    let problem = server.refused(("POST", "/datasets/big"), too_much(), (507, "out_of_space")).await?;
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
    let processes = home.servers()?;
    let volume =
        processes.iter().map(|(_, volume)| volume).find(|volume| volume.to_string_lossy().contains(&big.id[..12]));
    fill(&volume.context("a volume")?.join("ballast"))?;
    let with_both = Inventory::take(&home, &home.data())?;
    let sql = "CREATE TABLE more AS SELECT md5(n::text) FROM generate_series(1, 100000) n";
    ensure!(query(&big.url, sql).await.is_err(), "there was room");
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
async fn a_full_pool_refuses_datasets_and_makes_only_databases_that_work() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &tiny()).await?;
    server.import("production", "CREATE TABLE t AS SELECT 'dataset' AS word;").await?;
    let database = server.create(json!({})).await?;
    let ballast = home.data().join("pool/ballast");
    fill(&ballast)?;
    let before = Inventory::take(&home, &home.data())?;
    let problem = server.refused(("POST", "/datasets/next"), "CREATE TABLE t ();", (507, "out_of_space")).await?;
    ensure!(problem["hint"].is_string(), "{problem}");
    before.returns(&home, &home.data()).await?;
    let (status, answer) = server.send("POST", "/servers", "{}").await?;
    if status == 201 {
        // A clone takes next to no room: it may find what the pool keeps back for itself.
        let made: Database = serde_json::from_value(answer)?;
        ensure!(query(&made.url, "SELECT word FROM t").await? == "dataset");
        server.delete(&made.id).await?;
    } else {
        ensure!(status == 507 && answer["code"] == "out_of_space", "{status} {answer}");
    }
    before.returns(&home, &home.data()).await?;
    std::fs::remove_file(ballast)?;
    let next = eventually(async || server.create(json!({})).await).await?;
    ensure!(query(&next.url, "SELECT word FROM t").await? == "dataset");
    ensure!(query(&database.url, "SELECT word FROM t").await? == "dataset");
    server.delete(&next.id).await?;
    Ok(())
}

/// Takes all the room there is, for a file that need not be written for that.
fn fill(path: &std::path::Path) -> Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let file = std::fs::File::create(path)?;
    let mut length = 0;
    for size in [16 << 20, 1 << 20, 64 << 10, 4 << 10] {
        while fallocate(&file, FallocateFlags::empty(), length, size).is_ok() {
            length += size;
        }
    }
    file.sync_all()?;
    Ok(())
}
