//! How long databases live, and who ends them.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use ondemand_tests::server::program;
use ondemand_tests::{Home, Inventory, Server, ServerOptions, eventually, query};
use serde_json::json;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Options with a configuration file.
fn configured(home: &Home, config: &str) -> Result<ServerOptions> {
    let file = home.file("ondemand.toml", config)?;
    Ok(ServerOptions::default().with(["--config", file.to_str().context("a path")?]))
}

/// A janitor that comes by itself only after the test.
const RARELY: &str = "[databases]\nreap-interval = '1h'\n";

#[tokio::test(flavor = "multi_thread")]
async fn reap_deletes_what_has_expired_and_nothing_else() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &configured(&home, RARELY)?).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    let stays = server.create(json!({ "Ttl": "1h" })).await?;
    let before = Inventory::take(&home, &home.data())?;
    let goes = server.create(json!({ "Ttl": 1 })).await?;
    let reaped = eventually(async || {
        let (_, report) = server.send("POST", "/reap", "").await?;
        ensure!(report["Reaped"] != json!([]), "{report}");
        anyhow::Ok(report)
    })
    .await?;
    ensure!(reaped["Reaped"] == json!([goes.id]) && reaped["Failed"] == json!([]), "{reaped}");
    server.refused(("GET", &format!("/servers/{}", goes.id)), "", (404, "not_found")).await?;
    ensure!(query(&goes.url, "SELECT 1").await.is_err(), "it still answers");
    ensure!(query(&stays.url, "SELECT count(*) FROM t").await? == "0");
    before.returns(&home, &home.data()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_janitor_reaps_in_the_background() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &configured(&home, "[databases]\nreap-interval = '1s'\n")?).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    let before = Inventory::take(&home, &home.data())?;
    server.create(json!({ "Ttl": "1s" })).await?;
    before.returns(&home, &home.data()).await?;
    ensure!(server.list().await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_is_extended_and_shortened_within_the_limit() -> Result<()> {
    let home = Home::new()?;
    let options = configured(&home, RARELY)?.with(["--default-ttl", "1h", "--max-ttl", "2d"]);
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    let left = |text: &str| text.parse::<u64>().map(|at| at.saturating_sub(now()));
    let database = server.create(json!({})).await?;
    ensure!((3_500..=3_600).contains(&left(&database.expires_at)?), "{database:?}");
    let path = format!("/servers/{}", database.id);
    for (wanted, seconds) in [
        (json!({ "Ttl": "2d" }), 172_800),
        (json!({ "Ttl": "90s" }), 90),
        (json!({ "Ttl": 7200 }), 7_200),
        (json!({ "Expires_at": (now() + 5_000).to_string() }), 5_000),
        (json!({ "Expires_at": now() + 6_000 }), 6_000),
    ] {
        let shown = server.succeed("PATCH", &path, wanted.to_string()).await?;
        let found = left(shown["Expires_at"].as_str().context("Expires_at")?)?;
        ensure!((seconds - 20..=seconds).contains(&found), "{wanted}: {found} seconds");
    }
    let kept = server.get(&database.id).await?.expires_at;
    for wanted in
        [json!({ "Ttl": "3d" }), json!({ "Expires_at": now() + 300_000 }), json!({ "Expires_at": "5" }), json!({})]
    {
        server.refused(("PATCH", &path), wanted.to_string(), (400, "invalid_input")).await?;
    }
    let problem =
        server.refused(("POST", "/servers"), json!({ "Ttl": "3d" }).to_string(), (400, "invalid_input")).await?;
    ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains("of 2d")), "{problem}");
    ensure!(server.get(&database.id).await?.expires_at == kept, "a refusal changed the expiry");
    // It lasts longer than the server.
    server.stop().await?;
    let server = Server::start(&home.data(), &options).await?;
    ensure!(server.get(&database.id).await?.expires_at == kept);
    Ok(())
}

/// Runs `ondemand reap` on a data directory.
fn reap(data: &Path, options: &ServerOptions) -> Result<Output> {
    let mut command = program();
    command.args(["reap", "--json", "--data-dir"]).arg(data);
    for (name, value) in &options.environment {
        command.env(name, value);
    }
    Ok(command.output()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn reap_works_without_a_server_and_leaves_a_running_one_alone() -> Result<()> {
    let home = Home::new()?;
    let options = ServerOptions::default();
    let server = Server::start(&home.data(), &configured(&home, RARELY)?).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    let stays = server.create(json!({})).await?;
    let before = Inventory::take(&home, &home.data())?;
    let goes = server.create(json!({ "Ttl": "2s" })).await?;

    let refused = reap(&home.data(), &options)?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(refused.status.code() == Some(5), "conflict is 5, not {}: {said}", refused.status);
    let problem: serde_json::Value = serde_json::from_str(&said)?;
    let detail = problem["detail"].as_str().context("a detail")?;
    ensure!(problem["code"] == "conflict" && detail.contains(home.data().to_str().context("a path")?), "{said}");
    ensure!(problem["hint"].is_string(), "{said}");
    ensure!(refused.stdout.is_empty(), "{}", String::from_utf8_lossy(&refused.stdout));

    server.stop().await?;
    let report = eventually(async || {
        let output = reap(&home.data(), &options)?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.success(), "{}: {said}", output.status);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        ensure!(report["Reaped"] != json!([]), "{report}");
        Ok(report)
    })
    .await?;
    ensure!(report["Reaped"] == json!([goes.id]) && report["Restarted"] == json!([]), "{report}");
    ensure!(query(&stays.url, "SELECT count(*) FROM t").await? == "0");
    before.returns(&home, &home.data()).await?;

    // Also through a server, which is asked by its URL.
    let server = Server::start(&home.data(), &options).await?;
    let output =
        Command::new(ondemand_tests::server::binary()).args(["--url", server.url(), "--json", "reap"]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(serde_json::from_slice::<serde_json::Value>(&output.stdout)?["Failed"] == json!([]));
    Ok(())
}

/// Whoever reaps by hand may forget to say what runs the databases; a second Postgres on the same files would destroy them.
#[tokio::test(flavor = "multi_thread")]
async fn reap_does_not_start_databases_of_docker_as_processes() -> Result<()> {
    let home = Home::new()?;
    let options = ServerOptions::docker();
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    let database = server.create(json!({})).await?;
    server.stop().await?;
    let before = Inventory::take(&home, &home.data())?;
    let output = reap(&home.data(), &options)?;
    let said = String::from_utf8(output.stderr)?;
    if output.status.success() {
        bail!("it went on: {}{said}", String::from_utf8_lossy(&output.stdout));
    }
    ensure!(said.contains("docker"), "{said}");
    before.returns(&home, &home.data()).await?;
    ensure!(query(&database.url, "SELECT count(*) FROM t").await? == "0");

    // Told, it works.
    let environment = [
        ("ONDEMAND_ORCHESTRATOR", "docker".to_owned()),
        ("ONDEMAND_DOCKER_HOST", std::env::var("ONDEMAND_TEST_DOCKER_HOST")?),
        ("ONDEMAND_DOCKER_IMAGE", std::env::var("ONDEMAND_TEST_IMAGE")?),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
    let output = reap(&home.data(), &ServerOptions { environment, ..options })?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    before.returns(&home, &home.data()).await
}
