//! The server ends, the machine restarts, Postgres crashes: databases are there again, with their data, where they were.
//!
//! Slow: a test imports a dataset, and starts servers and databases two or three times.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ondemand_tests::{Database, Home, Inventory, Server, ServerOptions, eventually, query};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

const T: &str = "CREATE TABLE t AS SELECT 'dataset'::text AS word;";

/// A janitor that comes every second.
fn often(home: &Home, options: ServerOptions) -> Result<ServerOptions> {
    let file = home.file("ondemand.toml", "[databases]\nreap-interval = '1s'\n")?;
    Ok(options.with(["--config", file.to_str().context("a path")?]))
}

async fn create(server: &Server, body: Value) -> Result<Database> {
    let database = server.create(body).await?;
    query(&database.url, "UPDATE t SET word = 'written'; CHECKPOINT").await?;
    Ok(database)
}

async fn word(database: &Database) -> Result<String> {
    query(&database.url, "SELECT word FROM t").await
}

/// Returns the first process of a database's Postgres.
fn process_of(home: &Home, database: &Database) -> Result<Pid> {
    let servers = home.servers()?;
    let short = &database.id[..12];
    let found = servers.iter().find(|(_, data)| data.to_string_lossy().contains(short));
    Ok(found.with_context(|| format!("no process has {short} among {servers:?}"))?.0)
}

/// The server ends in good order or not, and another takes over; the databases answer all the while.
async fn server_again(options: ServerOptions) -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", T).await?;
    let empty = Inventory::take(&home, &home.data())?;
    let first = create(&server, json!({ "Durable": true })).await?;
    let second = create(&server, json!({ "Name": "mine" })).await?;
    let before = Inventory::take(&home, &home.data())?;
    // One connection through it all: nobody's work is cut off.
    let (client, connection) = tokio_postgres::connect(&first.url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);

    server.stop().await?;
    ensure!(word(&first).await? == "written" && word(&second).await? == "written");
    let server = Server::start(&home.data(), &options).await?;
    server.kill().await?;
    ensure!(word(&first).await? == "written" && word(&second).await? == "written");
    let server = Server::start(&home.data(), &options).await?;
    client.simple_query("SELECT word FROM t").await.context("the connection broke")?;
    before.returns(&home, &home.data()).await?;

    let mut listed = server.list().await?;
    listed.sort();
    let mut expected = vec![first.id.clone(), second.id.clone()];
    expected.sort();
    ensure!(listed == expected, "{listed:?}");
    for database in [&first, &second] {
        let found = server.get(&database.id).await?;
        ensure!(found.url == database.url && found.expires_at == database.expires_at, "{found:?}");
        ensure!(found.status == "Running" && found.name == database.name, "{found:?}");
    }
    server.reset(&first.id).await?;
    ensure!(word(&first).await? == "dataset" && word(&second).await? == "written");
    let third = server.create(json!({})).await?;
    ensure!(![&first.port, &second.port].contains(&&third.port), "port {} was given twice", third.port);
    for database in [&first, &second, &third] {
        server.delete(&database.id).await?;
    }
    empty.returns(&home, &home.data()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_starts_again_over_processes() -> Result<()> {
    server_again(ServerOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_starts_again_over_docker() -> Result<()> {
    server_again(ServerOptions::docker()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_starts_again_over_copies() -> Result<()> {
    server_again(ServerOptions { store: "copy", ..ServerOptions::default() }).await
}

/// Everything is stopped, and the data directory is somewhere else afterwards.
async fn moved(options: ServerOptions) -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", T).await?;
    let database = create(&server, json!({ "Durable": true })).await?;
    server.stop().await?;
    for (pid, _) in home.servers()? {
        home.kill(pid, Signal::QUIT)?;
    }
    for mount in home.mounts()? {
        // What Postgres had open is closed a moment after it has ended.
        eventually(async || ondemand_tests::run(std::process::Command::new("umount").arg(&mount)).await).await?;
    }
    let elsewhere = home.path().join("elsewhere");
    std::fs::rename(home.data(), &elsewhere)?;
    let server = Server::start(&elsewhere, &options).await?;
    let found = eventually(async || {
        let found = server.get(&database.id).await?;
        ensure!(found.status == "Running", "{found:?}");
        Ok(found)
    })
    .await?;
    ensure!(found.url == database.url, "{found:?}");
    ensure!(word(&database).await? == "written");
    server.reset(&database.id).await?;
    ensure!(word(&database).await? == "dataset");
    let other = server.create(json!({})).await?;
    ensure!(word(&other).await? == "dataset");
    for database in [database, other] {
        server.delete(&database.id).await?;
    }
    ensure!(home.servers()?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_with_a_pool_can_be_moved() -> Result<()> {
    moved(ServerOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_with_copies_can_be_moved() -> Result<()> {
    moved(ServerOptions { store: "copy", ..ServerOptions::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_can_be_moved_over_docker() -> Result<()> {
    moved(ServerOptions::docker()).await
}

/// After the machine has restarted, no process is left, nothing is mounted, and `/run` is empty.
async fn reboot(options: ServerOptions) -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", T).await?;
    let empty = Inventory::take(&home, &home.data())?;
    let durable = create(&server, json!({ "Durable": true })).await?;
    let throw_away = create(&server, json!({})).await?;
    let deleted = server.create(json!({})).await?;
    server.delete(&deleted.id).await?;
    server.kill().await?;
    for (pid, _) in home.servers()? {
        home.kill(pid, Signal::QUIT)?;
    }
    for directory in home.runtime_dirs() {
        std::fs::remove_dir_all(directory)?;
    }
    for mount in home.mounts()? {
        // What Postgres had open is closed a moment after it has ended.
        eventually(async || ondemand_tests::run(std::process::Command::new("umount").arg(&mount)).await).await?;
    }
    ensure!(word(&durable).await.is_err() && word(&throw_away).await.is_err(), "it is not down");

    let server = Server::start(&home.data(), &options).await?;
    for database in [&durable, &throw_away] {
        let found = server.get(&database.id).await?;
        ensure!(found.url == database.url && found.status == "Running", "{found:?}\n{}", server.log());
        ensure!(word(database).await? == "written", "{database:?}");
        server.reset(&database.id).await?;
        ensure!(word(database).await? == "dataset");
        server.delete(&database.id).await?;
    }
    ensure!(server.list().await?.is_empty());
    empty.returns(&home, &home.data()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_outlive_a_restart_of_the_machine() -> Result<()> {
    reboot(ServerOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_in_docker_outlive_a_restart_of_the_machine() -> Result<()> {
    reboot(ServerOptions::docker()).await
}

/// A Postgres that crashes is started again, and the others do not notice.
async fn crash(options: ServerOptions) -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &often(&home, options)?).await?;
    server.import("production", T).await?;
    let empty = Inventory::take(&home, &home.data())?;
    let database = create(&server, json!({ "Durable": true })).await?;
    let other = create(&server, json!({})).await?;
    let (client, connection) = tokio_postgres::connect(&other.url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    for signal in [Signal::QUIT, Signal::KILL] {
        let pid = process_of(&home, &database)?;
        home.kill(pid, signal)?;
        let found = eventually(async || {
            ensure!(process_of(&home, &database)? != pid, "it is still the old process");
            let word = word(&database).await?;
            Ok(word)
        })
        .await
        .with_context(|| server.log())?;
        ensure!(found == "written", "after {signal:?} it says {found}");
        eventually(async || {
            let status = server.get(&database.id).await?.status;
            ensure!(status == "Running", "{status}");
            Ok(())
        })
        .await?;
    }
    client.simple_query("SELECT word FROM t").await.context("the other database was disturbed")?;
    for database in [&database, &other] {
        server.delete(&database.id).await?;
    }
    empty.returns(&home, &home.data()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_postgres_is_started_again() -> Result<()> {
    crash(ServerOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_container_is_started_again() -> Result<()> {
    crash(ServerOptions::docker()).await
}

/// Somebody removes a container by hand; the database is made again from its volume.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_container_is_made_again() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::docker()).await?;
    server.import("production", T).await?;
    let empty = Inventory::take(&home, &home.data())?;
    let database = create(&server, json!({})).await?;
    let host = std::env::var("ONDEMAND_TEST_DOCKER_HOST")?;
    for id in home.containers()? {
        let mut docker = std::process::Command::new("docker");
        ondemand_tests::run(docker.args(["--host", &host, "rm", "--force", &id])).await?;
    }
    ensure!(word(&database).await.is_err());
    let report = server.succeed("POST", "/reap", "").await?;
    ensure!(report["Restarted"] == json!([database.id]) || word(&database).await.is_ok(), "{report}");
    ensure!(word(&database).await? == "written");
    server.delete(&database.id).await?;
    empty.returns(&home, &home.data()).await
}

/// A database whose time passed while nobody looked is not started again.
#[tokio::test(flavor = "multi_thread")]
async fn what_expired_meanwhile_is_reaped_at_the_start() -> Result<()> {
    let home = Home::new()?;
    let options = ServerOptions::default();
    // Its janitor comes by itself only after the test.
    let config = home.file("ondemand.toml", "[databases]\nreap-interval = '1h'\n")?;
    let rarely = ServerOptions::default().with(["--config", config.to_str().context("a path")?]);
    let server = Server::start(&home.data(), &rarely).await?;
    server.import("production", T).await?;
    let empty = Inventory::take(&home, &home.data())?;
    let database = create(&server, json!({ "Ttl": "2s" })).await?;
    server.kill().await?;
    let (pid, _) = home.servers()?.pop().context("a process")?;
    home.kill(pid, Signal::QUIT)?;
    let expires = Duration::from_secs(database.expires_at.parse()?);
    eventually(async || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        ensure!(now > expires + Duration::from_secs(1), "not yet");
        Ok(())
    })
    .await?;
    let server = Server::start(&home.data(), &options).await?;
    ensure!(server.list().await?.is_empty(), "{}", server.log());
    empty.returns(&home, &home.data()).await
}

/// The segments of shared memory that a process has made, lines of the kernel's table.
fn segments_of(pid: Pid) -> Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/sysvipc/shm")?;
    let maker = pid.to_string();
    let ours = |line: &&str| line.split_ascii_whitespace().nth(4) == Some(maker.as_str());
    Ok(table.lines().filter(ours).map(ToOwned::to_owned).collect())
}

/// A database that is deleted before its killed Postgres was started again takes along the shared memory that only a start would have freed.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postgres_leaves_no_shared_memory() -> Result<()> {
    let home = Home::new()?;
    // In a sandbox it has shared memory of its own, which goes with it.
    let config = home.file("ondemand.toml", "[databases]\nreap-interval = '1h'\nsandbox = 'off'\n")?;
    let options = ServerOptions::default().with(["--config", &config.display().to_string()]);
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", T).await?;
    let database = server.create(json!({})).await?;
    let pid = process_of(&home, &database)?;
    ensure!(segments_of(pid)?.len() == 1, "Postgres has no shared memory: {:?}", segments_of(pid)?);
    home.kill(pid, Signal::KILL)?;
    ensure!(segments_of(pid)?.len() == 1, "it frees its memory though it was killed");
    server.delete(&database.id).await?;
    ensure!(segments_of(pid)?.is_empty(), "{:?}", segments_of(pid)?);
    Ok(())
}
