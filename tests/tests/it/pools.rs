//! Who works on a store, and who only looks at one.

use std::process::Command;

use anyhow::{Result, ensure};
use ondemand_tests::{Home, Inventory, Server, ServerOptions, eventually, query, run};
use serde_json::json;

/// Two data directories over one pool: the second server would take what the first one is making for what a dead one left.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_has_one_server_at_a_time() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    let database = server.create(json!({})).await?;
    let before = Inventory::take(&home, &home.data())?;

    let other = home.path().join("other");
    std::fs::create_dir(&other)?;
    std::fs::create_dir(other.join("pool"))?;
    run(Command::new("mount").arg("--bind").arg(home.data().join("pool")).arg(other.join("pool"))).await?;
    let options = ServerOptions { store: "btrfs", ..ServerOptions::default() };
    let (status, said) = Server::spawn(&other, &options)?.wait().await?;
    ensure!(status == Some(5), "conflict is 5, not {status:?}: {said}");
    ensure!(said.contains(&other.join("pool").display().to_string()) && said.contains("hint: "), "{said}");
    before.returns(&home, &home.data()).await?;
    ensure!(query(&database.url, "SELECT count(*) FROM t").await? == "0");

    // One after the other they may, and the databases of the first are none of the second's business.
    server.stop().await?;
    let second = Server::start(&other, &options).await?;
    ensure!(second.list().await?.is_empty());
    let report = second.succeed("POST", "/reap", "").await?;
    ensure!(report["Removed"] == json!([]) && report["Restarted"] == json!([]), "{report}");
    second.stop().await?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    ensure!(server.list().await? == [database.id.as_str()]);
    ensure!(query(&database.url, "SELECT count(*) FROM t").await? == "0");
    Ok(())
}

/// A pool that is lost is missed: an empty one in its place would look as if all data were gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_was_there_and_is_not_is_an_error() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    server.stop().await?;
    let (image, pool) = (home.data().join("pool.btrfs"), home.data().join("pool"));
    run(Command::new("umount").arg(&pool)).await?;
    let aside = home.path().join("aside");
    std::fs::rename(&image, &aside)?;
    for store in ["auto", "btrfs"] {
        let options = ServerOptions { store, ..ServerOptions::default() };
        let (status, said) = Server::spawn(&home.data(), &options)?.wait().await?;
        ensure!(status == Some(5), "conflict is 5, not {status:?}: {said}");
        ensure!(said.contains("pool.btrfs") && said.contains("pool delete --path"), "{said}");
        ensure!(!image.exists() && std::fs::read_dir(&pool)?.next().is_none(), "something was made in its place");
    }
    std::fs::rename(&aside, &image)?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.create(json!({})).await?;
    server.stop().await?;

    // What the hint says is what it takes to begin anew.
    for (pid, _) in home.servers()? {
        home.kill(pid, rustix::process::Signal::QUIT)?;
    }
    // What Postgres had open is closed a moment after it has ended.
    eventually(async || run(Command::new("umount").arg(&pool)).await).await?;
    std::fs::remove_file(&image)?;
    let mut delete = ondemand_tests::server::program();
    run(delete.args(["pool", "delete", "--path"]).arg(&pool)).await?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    ensure!(server.list().await?.is_empty());
    Ok(())
}

/// `pool status --path` may be asked while a server is writing.
#[tokio::test(flavor = "multi_thread")]
async fn looking_at_a_pool_changes_nothing_in_it() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    let pool = home.data().join("pool");
    // As a record is called in the moment in which it is written.
    let half = pool.join("volumes/.pg-1.7.tmp");
    std::fs::write(&half, "{")?;
    let mut status = ondemand_tests::server::program();
    let shown = run(status.args(["pool", "status", "--path"]).arg(&pool)).await?;
    ensure!(shown.contains("production@") && shown.contains("unallocated"), "{shown}");
    ensure!(half.exists(), "it removed what a server is writing");
    Ok(())
}

/// A pool becomes larger under a server, and its databases, that know nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_grows_under_a_server() -> Result<()> {
    let home = Home::new()?;
    let options = ServerOptions { arguments: vec!["--pool-size".into(), "256M".into()], ..ServerOptions::default() };
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    let database = server.create(json!({})).await?;
    let mut grow = ondemand_tests::server::program();
    grow.args(["pool", "grow", "1G"]).env("ONDEMAND_DATA_DIR", home.data());
    let said = run(&mut grow).await?;
    ensure!(said.contains("1.0 GiB (before: 256.0 MiB)"), "{said}");
    let pool = server.succeed("GET", "/pool", "").await?;
    ensure!(pool["Total"].as_u64() == Some(1 << 30), "{pool}");
    // More than the pool had.
    query(&database.url, "CREATE TABLE large AS SELECT repeat('x', 1900) AS word FROM generate_series(1, 140000)")
        .await?;
    ensure!(query(&database.url, "SELECT pg_total_relation_size('large') > 256 << 20").await? == "t");
    let mut shrink = ondemand_tests::server::program();
    let refused = run(shrink.args(["pool", "grow", "512M", "--path"]).arg(home.data().join("pool"))).await;
    let refused = refused.map_or_else(|error| error.to_string(), |said| format!("it succeeded: {said}"));
    ensure!(refused.contains("less than the pool"), "{refused}");
    Ok(())
}
