//! Ports: strangers' are skipped, and nobody gets another's.

use std::collections::BTreeSet;
use std::net::TcpListener;

use anyhow::{Result, ensure};
use futures_util::future::{join_all, try_join_all};
use ondemand_tests::{Home, Inventory, Server, ServerOptions, free_range, query};
use serde_json::json;

async fn start(home: &Home, options: &ServerOptions) -> Result<Server> {
    let server = Server::start(&home.data(), options).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    Ok(server)
}

fn port(database: &ondemand_tests::Database) -> Result<u16> {
    Ok(database.port.parse()?)
}

async fn strangers_are_skipped(options: ServerOptions) -> Result<()> {
    let home = Home::new()?;
    let (first, _) = options.ports;
    let stranger = TcpListener::bind(("127.0.0.1", first))?;
    let second_stranger = TcpListener::bind(("127.0.0.1", first + 2))?;
    let server = start(&home, &options).await?;
    for expected in [first + 1, first + 3] {
        let database = server.create(json!({})).await?;
        ensure!(port(&database)? == expected, "{} instead of {expected}", database.port);
        ensure!(database.name == format!("/pgondemand_{expected}"));
        ensure!(query(&database.url, "SELECT count(*) FROM t").await? == "0");
    }
    drop((stranger, second_stranger));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_skipped_by_processes() -> Result<()> {
    strangers_are_skipped(ServerOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_skipped_by_docker() -> Result<()> {
    strangers_are_skipped(ServerOptions::docker()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_free_port_the_range_is_named() -> Result<()> {
    let home = Home::new()?;
    let (first, _) = free_range(20);
    let options = ServerOptions { ports: (first, first + 1), ..ServerOptions::default() };
    let server = start(&home, &options).await?;
    let stranger = TcpListener::bind(("127.0.0.1", first))?;
    let database = server.create(json!({})).await?;
    let before = Inventory::take(&home, &home.data())?;
    let problem = server.refused(("POST", "/servers"), "{}", (429, "quota_exceeded")).await?;
    let detail = problem["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains(&first.to_string()) && detail.contains(&(first + 1).to_string()), "{problem}");
    ensure!(problem["hint"].as_str().is_some_and(|hint| hint.contains("range")), "{problem}");
    before.returns(&home, &home.data()).await?;
    // The stranger leaves, and its port can be had.
    drop(stranger);
    ensure!(port(&server.create(json!({})).await?)? == first);
    ensure!(query(&database.url, "SELECT count(*) FROM t").await? == "0");
    Ok(())
}

/// A stranger that the probe cannot see: it listens on the port the moment a server is to be started. A wrapper of `postgres` plays it, which takes
/// the port itself before it starts the real one.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_after_the_probe_costs_another_try() -> Result<()> {
    let home = Home::new()?;
    let options = ServerOptions::default();
    let (first, _) = options.ports;
    let real = std::fs::canonicalize("/usr/lib/postgresql/15/bin")?;
    let programs = home.path().join("bin");
    std::fs::create_dir(&programs)?;
    for entry in std::fs::read_dir(&real)? {
        let entry = entry?;
        if entry.file_name() != "postgres" {
            std::os::unix::fs::symlink(entry.path(), programs.join(entry.file_name()))?;
        }
    }
    // The stranger lives as long as the file that it makes is there; Postgres is told the truth about the port.
    let stranger = home.file("stranger", "")?;
    let script = format!(
        r"#!/usr/bin/perl
use IO::Socket::INET;
if (grep {{ $_ eq 'port={first}' }} @ARGV) {{
    unlink '{stranger}' or exec '{real}/postgres', @ARGV;
    my $held = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => {first}, Listen => 1, ReuseAddr => 1) or die;
    exit(system('{real}/postgres', @ARGV) >> 8);
}}
exec '{real}/postgres', @ARGV;
",
        stranger = stranger.display(),
        real = real.display(),
    );
    let program = programs.join("postgres");
    std::fs::write(&program, script)?;
    for (path, mode) in [(&program, 0o755), (&home.path().to_path_buf(), 0o777)] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    }
    // In a sandbox it would not see the stranger's file.
    let config = home.file("ondemand.toml", "[databases]\nsandbox = 'off'\n")?;
    let arguments = ["--postgres-bin-dir", &programs.display().to_string(), "--config", &config.display().to_string()];
    let options = options.with(arguments);
    let server = start(&home, &options).await?;
    let before = Inventory::take(&home, &home.data())?;
    let database = server.create(json!({})).await?;
    ensure!(!stranger.exists(), "the stranger never came");
    ensure!(port(&database)? == first + 1, "it is at {}", database.port);
    ensure!(database.name == format!("/pgondemand_{}", first + 1), "{database:?}");
    ensure!(query(&database.url, "SELECT count(*) FROM t").await? == "0");
    server.delete(&database.id).await?;
    before.returns(&home, &home.data()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_just_freed_is_not_handed_out_next() -> Result<()> {
    let home = Home::new()?;
    let (first, _) = free_range(20);
    let options = ServerOptions { ports: (first, first + 2), ..ServerOptions::default() };
    let server = start(&home, &options).await?;
    let mut last = None;
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        let database = server.create(json!({})).await?;
        let port = port(&database)?;
        ensure!(last != Some(port), "port {port} was free for no moment");
        seen.insert(port);
        last = Some(port);
        server.delete(&database.id).await?;
    }
    ensure!(seen.len() == 3, "only {seen:?} of three were used");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_at_once_get_different_ports() -> Result<()> {
    let home = Home::new()?;
    let server = start(&home, &ServerOptions::default()).await?;
    let before = Inventory::take(&home, &home.data())?;
    let databases = try_join_all((0..16).map(|_| server.create(json!({})))).await?;
    let ports: BTreeSet<_> = databases.iter().map(|database| database.port.clone()).collect();
    ensure!(ports.len() == 16, "{ports:?}");
    for answer in join_all(databases.iter().map(|database| query(&database.url, "SHOW port"))).await {
        ensure!(ports.contains(&answer?));
    }
    try_join_all(databases.iter().map(|database| server.delete(&database.id))).await?;
    before.returns(&home, &home.data()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_for_one_name_or_the_last_port() -> Result<()> {
    let home = Home::new()?;
    let (first, _) = free_range(20);
    let server = start(&home, &ServerOptions { ports: (first, first + 1), ..ServerOptions::default() }).await?;
    let tries = join_all((0..4).map(|_| server.send("POST", "/servers", r#"{"Name":"mine"}"#))).await;
    let tries: Vec<_> = tries.into_iter().collect::<Result<_>>()?;
    ensure!(tries.iter().filter(|(status, _)| *status == 201).count() == 1, "{tries:?}");
    ensure!(tries.iter().filter(|(_, problem)| problem["code"] == "already_exists").count() == 3, "{tries:?}");
    let tries = join_all((0..4).map(|_| server.send("POST", "/servers", "{}"))).await;
    let tries: Vec<_> = tries.into_iter().collect::<Result<_>>()?;
    ensure!(tries.iter().filter(|(status, _)| *status == 201).count() == 1, "{tries:?}");
    ensure!(tries.iter().filter(|(_, problem)| problem["code"] == "quota_exceeded").count() == 3, "{tries:?}");
    ensure!(server.list().await?.len() == 2);
    Ok(())
}
