//! The power fails. What was announced before is there afterwards, also when it is a second old.
//!
//! Slow: the server and four databases are started, and started again.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ondemand_tests::{Home, Server, ServerOptions, eventually, query, run};
use rustix::process::Signal;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_announced_survives_a_power_cut() -> Result<()> {
    let home = Home::new()?;
    let options = ServerOptions { arguments: vec!["--pool-size".into(), "512M".into()], ..ServerOptions::default() };
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", "CREATE TABLE t AS SELECT 'dataset' AS word;").await?;
    server.import("by-sql", "CREATE TABLE t AS SELECT 'dataset' AS word;").await?;
    forget_place_of_password(&home, "by-sql").await?;
    let production = json!({ "Dataset": "production" });
    let writer = server.create(production.clone()).await?;
    let writing = tokio::spawn(async move {
        query(&writer.url, "CREATE TABLE much (n int, word text)").await?;
        // Until its server is ended.
        while query(&writer.url, "INSERT INTO much SELECT n, 'x' FROM generate_series(1, 100) n").await.is_ok() {}
        anyhow::Ok(())
    });
    server.create(json!({ "Dataset": "by-sql" })).await?;
    let extended = server.create(production.clone()).await?;
    let (image, left) = (home.data().join("pool.btrfs"), home.path().join("left"));
    // The last one was announced just now, and the one before that extended.
    let longer = json!({ "Ttl": "9d" }).to_string();
    let answer = server.succeed("PATCH", &format!("/servers/{}", extended.id), longer).await?;
    server.create(production).await?;
    copy_as_a_cut_leaves_it(&image, &left).await?;
    let announced = server.list().await?;
    ensure!(announced.len() == 4, "{announced:?}");
    server.kill().await?;
    for (pid, _) in home.servers()? {
        home.kill(pid, Signal::QUIT)?;
    }
    writing.await??;
    // What Postgres had open is closed a moment after it has ended.
    let pool = home.data().join("pool");
    eventually(async || run(Command::new("umount").arg(&pool)).await).await?;
    std::fs::rename(&left, &image)?;

    let server = Server::start(&home.data(), &options).await?;
    ensure!(server.list().await? == announced, "{:?} of {announced:?}\n{}", server.list().await?, server.log());
    let found = server.get(&extended.id).await?;
    ensure!(answer["Expires_at"] == found.expires_at, "{answer}: {}", found.expires_at);
    for id in &announced {
        // The first round has tried to start each; one that it could not start is tried again.
        eventually(async || {
            let database = server.get(id).await?;
            let word = query(&database.url, "SELECT word FROM t").await?;
            ensure!(word == "dataset", "{word}");
            Ok(())
        })
        .await
        .with_context(|| server.log())?;
    }
    Ok(())
}

/// Makes the databases on a dataset be given their password by SQL, as those on a data directory with checksums are.
async fn forget_place_of_password(home: &Home, dataset: &str) -> Result<()> {
    let snapshots = std::fs::read_dir(home.data().join("pool/snapshots"))?.map(|entry| Ok(entry?.path()));
    let snapshots = snapshots.collect::<Result<Vec<_>>>()?;
    let is_its = |path: &&std::path::PathBuf| {
        path.is_dir() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(dataset))
    };
    let snapshot = snapshots.iter().find(is_its).context("a snapshot")?;
    let set = async |read_only: &str| {
        run(Command::new("btrfs").args(["property", "set", "-ts"]).arg(snapshot).args(["ro", read_only])).await
    };
    set("false").await?;
    std::fs::remove_file(snapshot.join("ondemand.password"))?;
    set("true").await?;
    Ok(())
}

/// Copies the file of a pool that is being written. While the superblock stays as it is, nothing that it leads to is written over.
async fn copy_as_a_cut_leaves_it(image: &Path, copy: &Path) -> Result<()> {
    let file = std::fs::File::open(image)?;
    let superblock = || -> Result<Vec<u8>> {
        let mut bytes = vec![0; 4096];
        file.read_exact_at(&mut bytes, 64 << 10)?;
        Ok(bytes)
    };
    eventually(async || {
        let before = superblock()?;
        run(Command::new("cp").arg("--sparse=always").arg(image).arg(copy)).await?;
        ensure!(superblock()? == before, "it was written to disk meanwhile");
        Ok(())
    })
    .await
}
