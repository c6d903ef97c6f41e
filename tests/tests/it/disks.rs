//! The disk beneath a pool is short, and then full: new work is refused before, and BTRFS goes read-only. Once there is room again, so is all that was announced.
//!
//! Slow: a disk is filled, a pool mounted again, and databases are started twice.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ondemand_tests::{Home, Server, ServerOptions, eventually, query, run};
use serde_json::json;

/// A disk in memory that holds the whole data directory. The home unmounts it.
async fn disk(home: &Home) -> Result<PathBuf> {
    std::fs::create_dir(home.data())?;
    let mut mount = Command::new("mount");
    run(mount.args(["-t", "tmpfs", "-o", "size=700m,mode=711", "tmpfs"]).arg(home.data())).await?;
    Ok(home.data().join("ballast"))
}

/// A pool that may become nearly as large as the disk.
fn options() -> ServerOptions {
    ServerOptions { arguments: vec!["--pool-size".into(), "600M".into()], ..ServerOptions::default() }
}

/// Leaves so many free bytes on the disk of a file.
fn fill(ballast: &Path, leave: u64) -> Result<()> {
    let mut file = File::create(ballast)?;
    let zeros = vec![0; 1 << 20];
    loop {
        let stat = rustix::fs::statvfs(ballast)?;
        let more = (stat.f_bavail * stat.f_frsize).saturating_sub(leave).min(1 << 20);
        if more == 0 {
            return Ok(());
        }
        match file.write(&zeros[..usize::try_from(more)?]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_read_only(path: &Path) -> Result<bool> {
    Ok(rustix::fs::statvfs(path)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

async fn status(home: &Home) -> Result<String> {
    let mut status = ondemand_tests::server::program();
    run(status.args(["pool", "status", "--path"]).arg(home.data().join("pool"))).await
}

async fn metrics(server: &Server) -> Result<String> {
    Ok(server.request(reqwest::Method::GET, "/metrics").send().await?.text().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn new_work_is_refused_before_the_disk_beneath_is_full() -> Result<()> {
    let home = Home::new()?;
    let ballast = disk(&home).await?;
    let server = Server::start(&home.data(), &options()).await?;
    server.import("production", "CREATE TABLE t AS SELECT 'dataset' AS word;").await?;
    let database = server.create(json!({})).await?;
    ensure!(metrics(&server).await?.contains("ondemand_store_accepts_new_work 1\n"));
    ensure!(server.succeed("GET", "/readyz", "").await?["Status"] == "ok");

    fill(&ballast, 20 << 20)?;
    let reset = format!("/servers/{}/reset", database.id);
    let publish = format!("/servers/{}/publish", database.id);
    for (path, body) in [
        ("/servers", "{}".to_owned()),
        ("/datasets/next", "CREATE TABLE t ();".to_owned()),
        (reset.as_str(), String::new()),
        (publish.as_str(), json!({ "Dataset": "next" }).to_string()),
    ] {
        let problem = server.refused(("POST", path), body, (507, "out_of_space")).await?;
        let said = problem["detail"].as_str().is_some_and(|detail| detail.contains(&*home.data().to_string_lossy()));
        ensure!(said && problem["hint"].is_string(), "{path}: {problem}");
    }
    // What is there works, and says what is wrong.
    ensure!(query(&database.url, "SELECT word FROM t").await? == "dataset");
    let ready = server.succeed("GET", "/readyz", "").await?;
    ensure!(ready["Status"] == "degraded" && ready["Trouble"]["Hint"].is_string(), "{ready}");
    let pool = server.succeed("GET", "/pool", "").await?;
    ensure!(pool["Trouble"] == ready["Trouble"] && pool["Beneath"]["Free"].as_u64().is_some(), "{pool}");
    let text = metrics(&server).await?;
    ensure!(
        text.contains("ondemand_store_accepts_new_work 0\n") && text.contains("ondemand_store_read_only 0\n"),
        "{text}"
    );
    let shown = status(&home).await?;
    ensure!(shown.contains("are refused: out of space") && shown.contains("hint: "), "{shown}");

    std::fs::remove_file(&ballast)?;
    ensure!(server.succeed("GET", "/readyz", "").await?["Status"] == "ok");
    server.create(json!({})).await?;
    server.reset(&database.id).await?;
    Ok(())
}

/// Fills the disk of a server, and has BTRFS notice.
async fn go_read_only(home: &Home, ballast: &Path) -> Result<()> {
    fill(ballast, 0)?;
    let pool = home.data().join("pool");
    eventually(async || {
        // What is to be written to disk has no place there. All of it fails, which is what is waited for.
        let _ = std::fs::write(pool.join("more"), vec![7; 1 << 20]);
        let _ = Command::new("sync").arg("--file-system").arg(&pool).output()?;
        ensure!(is_read_only(&pool)?, "it can still be written");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_went_read_only_comes_back_with_all_its_databases() -> Result<()> {
    let home = Home::new()?;
    let ballast = disk(&home).await?;
    let server = Server::start(&home.data(), &options()).await?;
    server.import("production", "CREATE TABLE t AS SELECT 'dataset' AS word;").await?;
    server.create(json!({})).await?;
    // The last one was announced just now.
    server.create(json!({})).await?;
    let announced = server.list().await?;
    go_read_only(&home, &ballast).await?;

    let problem = server.refused(("GET", "/readyz"), "", (503, "backend")).await?;
    ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains("read-only")), "{problem}");
    ensure!(problem["hint"].as_str().is_some_and(|hint| hint.contains("free space")), "{problem}");
    server.refused(("POST", "/servers"), "{}", (503, "backend")).await?;
    // There is no room yet: nothing is ended, deleted or forgotten.
    let problem = server.refused(("POST", "/reap"), "", (503, "backend")).await?;
    ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains("it takes")), "{problem}");
    ensure!(server.list().await? == announced);
    let text = metrics(&server).await?;
    ensure!(text.contains("ondemand_store_read_only 1\n") && text.contains("accepts_new_work 0\n"), "{text}");
    ensure!(status(&home).await?.contains("read-only"), "{}", status(&home).await?);

    std::fs::remove_file(&ballast)?;
    comes_back(&home, &server, &announced).await?;

    // The same, with a server that is started when it has happened.
    server.create(json!({})).await?;
    let announced = server.list().await?;
    go_read_only(&home, &ballast).await?;
    server.kill().await?;
    std::fs::remove_file(&ballast)?;
    let server = Server::start(&home.data(), &options()).await?;
    comes_back(&home, &server, &announced).await
}

async fn comes_back(home: &Home, server: &Server, announced: &[String]) -> Result<()> {
    // The server's own rounds do it too, fifteen seconds apart.
    eventually(async || server.succeed("POST", "/reap", "").await).await?;
    ensure!(!is_read_only(&home.data().join("pool"))?, "{}", server.log());
    ensure!(server.list().await? == announced, "{:?} of {announced:?}\n{}", server.list().await?, server.log());
    for id in announced {
        eventually(async || {
            let word = query(&server.get(id).await?.url, "SELECT word FROM t").await?;
            ensure!(word == "dataset", "{word}");
            Ok(())
        })
        .await
        .with_context(|| server.log())?;
    }
    ensure!(server.succeed("GET", "/readyz", "").await?["Status"] == "ok");
    let next = server.create(json!({})).await?;
    query(&next.url, "CREATE TABLE mine AS SELECT generate_series(1, 10000)").await?;
    server.delete(&next.id).await
}
