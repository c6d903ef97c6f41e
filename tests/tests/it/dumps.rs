//! Dumps that cannot be restored, or do not arrive: the reason is told, and nothing is left.
//!
//! Slow: a test imports a dump that is cut at several places, a second each.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use ondemand_tests::{Home, Inventory, Server, ServerOptions, eventually, query, run};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// A dump of some size, so that it can be cut in the middle of a table.
const SHOP: &str = "CREATE TABLE goods AS SELECT n AS id, md5(n::text) AS name FROM generate_series(1, 20000) n;
                    ALTER TABLE goods ADD PRIMARY KEY (id);";

/// Imports, dumps what was imported in a format, and returns the dump's bytes.
async fn dump(home: &Home, server: &Server, format: &str) -> Result<Vec<u8>> {
    server.import("source", SHOP).await?;
    let database = server.create(json!({ "Dataset": "source" })).await?;
    let path = home.path().join("dump");
    let mut pg_dump = Command::new("pg_dump");
    run(pg_dump.arg(format).arg("--file").arg(&path).arg(&database.url)).await?;
    server.delete(&database.id).await?;
    server.succeed("DELETE", "/datasets/source", "").await?;
    let bytes = std::fs::read(&path)?;
    std::fs::remove_file(path)?;
    Ok(bytes)
}

/// Uploads what cannot be restored, and returns the problem; nothing is left of it.
async fn refused(home: &Home, server: &Server, bytes: Vec<u8>) -> Result<Value> {
    let before = Inventory::take(home, &home.data())?;
    let problem = server.refused(("POST", "/datasets/broken"), bytes, (422, "invalid_dump")).await?;
    ensure!(problem["hint"].is_string(), "{problem}");
    before.returns(home, &home.data()).await?;
    server.refused(("GET", "/datasets/broken"), "", (404, "not_found")).await?;
    Ok(problem)
}

fn says(problem: &Value, words: &[&str]) -> Result<()> {
    let detail = problem["detail"].as_str().unwrap_or_default();
    ensure!(words.iter().any(|word| detail.contains(word)), "{words:?} are not in {problem}");
    Ok(())
}

async fn start() -> Result<(Home, Server)> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    Ok((home, server))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_dump() -> Result<()> {
    let (home, server) = start().await?;
    for (bytes, word) in [
        (&b""[..], "empty"),
        (b"\0\x01\x02\x03", "neither"),
        (b"PK\x03\x04zip", "zip"),
        (b"PGDMP", "truncated"),
        (b"<html>not a dump</html>", "syntax error"),
        (b"CREATE TABLE t (n int);\nINSERT INTO t VALUES ('x');", "line 2"),
        (b"CREATE TABLE t (n int);\nCREATE TABLE t (n int);", "already exists"),
    ] {
        says(&refused(&home, &server, bytes.to_vec()).await?, &[word])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_dump_that_is_cut_or_damaged() -> Result<()> {
    let (home, server) = start().await?;
    let whole = dump(&home, &server, "--format=plain").await?;
    let text = String::from_utf8(whole.clone())?;
    // In the middle of the table's data, at the end of a line; and within one.
    let middle = text[..whole.len() / 2].rfind('\n').context("a line")? + 1;
    for length in [middle, middle + 5] {
        refused(&home, &server, whole[..length].to_vec()).await?;
    }
    let mut damaged = whole.clone();
    damaged[middle..middle + 40].fill(b'x');
    refused(&home, &server, damaged).await?;
    server.import("whole", whole).await?;
    let database = server.create(json!({ "Dataset": "whole" })).await?;
    ensure!(query(&database.url, "SELECT count(*) FROM goods").await? == "20000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_dump_that_is_cut_or_damaged() -> Result<()> {
    let (home, server) = start().await?;
    let plain = home.file("plain.sql", dump(&home, &server, "--format=plain").await?)?;
    for (program, ending) in [("gzip", "gz"), ("zstd", "zst")] {
        let file = home.path().join(format!("plain.sql.{ending}"));
        run(Command::new(program).args(["-k", "-q"]).arg(&plain)).await?;
        let whole = std::fs::read(&file)?;
        let problem = refused(&home, &server, whole[..whole.len() / 2].to_vec()).await?;
        says(&problem, &["truncated"])?;
        let mut damaged = whole.clone();
        let middle = whole.len() / 2;
        damaged[middle..middle + 200].fill(0x55);
        says(&refused(&home, &server, damaged).await?, &["its compressed data is corrupt: "])?;
        server.import(ending, whole).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_dump_that_is_cut_or_damaged() -> Result<()> {
    let (home, server) = start().await?;
    let whole = dump(&home, &server, "--format=custom").await?;
    for length in [20, whole.len() / 2, whole.len() - 3] {
        refused(&home, &server, whole[..length].to_vec()).await.with_context(|| format!("{length} bytes"))?;
    }
    let mut damaged = whole.clone();
    let middle = whole.len() / 2;
    damaged[middle..middle + 2000].fill(0x55);
    refused(&home, &server, damaged).await?;
    // Byte 6 is the minor version of the format: one that only a later pg_dump writes.
    let mut newer = whole.clone();
    newer[6] = 99;
    let problem = refused(&home, &server, newer).await?;
    ensure!(problem["hint"].as_str().is_some_and(|hint| hint.contains("newer")), "{problem}");
    server.import("whole", whole).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_needs_what_is_not_there() -> Result<()> {
    let (home, server) = start().await?;
    let owned = "CREATE TABLE t (); ALTER TABLE t OWNER TO shopkeeper;";
    let problem = refused(&home, &server, owned.into()).await?;
    says(&problem, &["shopkeeper"])?;
    ensure!(problem["hint"].as_str().is_some_and(|hint| hint.contains("--role shopkeeper")), "{problem}");
    server.succeed("POST", "/datasets/owned?role=shopkeeper", owned).await?;
    let problem = refused(&home, &server, "CREATE EXTENSION nosuch_extension;".into()).await?;
    says(&problem, &["nosuch_extension"])?;
    ensure!(problem["hint"].as_str().is_some_and(|hint| hint.contains("postgresql-15-nosuch-extension")), "{problem}");
    Ok(())
}

/// An upload whose pieces the test sends when it likes.
fn slow_body() -> (mpsc::Sender<Vec<u8>>, reqwest::Body) {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>(1);
    let pieces = stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((Ok::<_, std::io::Error>(piece), receiver))
    });
    (sender, reqwest::Body::wrap_stream(pieces))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_imports_into_one_dataset_at_once() -> Result<()> {
    let (home, server) = start().await?;
    let before = Inventory::take(&home, &home.data())?;
    let (sender, body) = slow_body();
    let first = server.request(reqwest::Method::POST, "/datasets/production").body(body).send();
    let second = async {
        // More than what is looked at to tell what it is.
        sender.send([SHOP.as_bytes(), &b"-- and so on\n".repeat(10_000)].concat()).await?;
        before.grows(&home, &home.data()).await?;
        let refused = server.refused(("POST", "/datasets/production"), SHOP, (409, "conflict")).await?;
        says(&refused, &["production"])?;
        server.import("other", SHOP).await?;
        sender.send(b"SELECT 1;".to_vec()).await?;
        drop(sender);
        anyhow::Ok(())
    };
    let (first, second) = tokio::join!(first, second);
    second?;
    ensure!(first?.status() == 201);
    ensure!(server.succeed("GET", "/datasets", "").await?.as_array().is_some_and(|all| all.len() == 2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_during_an_upload_leaves_nothing() -> Result<()> {
    let (home, server) = start().await?;
    let before = Inventory::take(&home, &home.data())?;
    let custom = dump(&home, &server, "--format=custom").await?;
    before.returns(&home, &home.data()).await?;
    let sql = [SHOP.as_bytes(), &b"SELECT pg_sleep(0.001);\n".repeat(3_000)].concat();
    for piece in [sql, custom[..custom.len() / 2].to_vec()] {
        let (sender, body) = slow_body();
        let upload = server.request(reqwest::Method::POST, "/datasets/production").body(body).send();
        let gone = async {
            sender.send(piece).await?;
            before.grows(&home, &home.data()).await?;
            // Not a wait for something: a moment in the middle of it.
            tokio::time::sleep(Duration::from_millis(300)).await;
            anyhow::Ok(())
        };
        tokio::select! {
            answer = upload => anyhow::bail!("it was answered: {answer:?}"),
            gone = gone => gone?,
        }
        // The dataset is given back last.
        eventually(async || server.refused(("POST", "/datasets/production"), "", (422, "invalid_dump")).await).await?;
        before.returns(&home, &home.data()).await.with_context(|| server.log())?;
    }
    server.import("production", SHOP).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_beyond_the_limit_is_refused() -> Result<()> {
    let home = Home::new()?;
    let config = home.file("ondemand.toml", "[http]\nmax-upload = '200K'\n")?;
    let options = ServerOptions::default().with(["--config", &config.display().to_string()]);
    let server = Server::start(&home.data(), &options).await?;
    let before = Inventory::take(&home, &home.data())?;
    // Both where the length is said at once, and where it shows.
    let said = server.refused(("POST", "/datasets/a"), "-- x\n".repeat(100_000), (413, "quota_exceeded")).await?;
    ensure!(said["hint"].as_str().is_some_and(|hint| hint.contains("max-upload")), "{said}");
    let (sender, body) = slow_body();
    let feed = async {
        while sender.send(b"SELECT 1;\n".repeat(1_000)).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        problem = server.refused(("POST", "/datasets/a"), body, (413, "quota_exceeded")) => problem?,
        () = feed => unreachable!("it goes on for ever"),
    };
    before.returns(&home, &home.data()).await?;
    server.import("small", SHOP).await?;
    Ok(())
}
