//! Databases that live only as long as whoever asked for them, and databases that become datasets.
//!
//! Slow: a test imports a dataset, and waits until processes that died are missed.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use ondemand_tests::{Home, Inventory, Server, ServerOptions, query};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const LEASE: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

/// A program that holds a lease, and is told to by nothing but its end to let go.
struct Holder {
    child: Child,
    /// Read for as long as it holds: with a reader that went away it would end.
    _lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Holder {
    /// Returns once the lease is held.
    async fn start(server: &Server, lease: &str) -> Result<Self> {
        let body = json!({ "Id": lease }).to_string();
        let mut child = Command::new("curl")
            .args(["-sSN", "--noproxy", "*", "-X", "POST", "-d", &body, &format!("{}/leases", server.url())])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("output")?).lines();
        let first = lines.next_line().await?.context("it holds nothing")?;
        ensure!(first == "event: held", "{first}");
        ensure!(lines.next_line().await?.as_deref() == Some(&format!("data: {body}")), "it says what it holds");
        Ok(Self { child, _lines: lines })
    }

    /// Ends it as nothing but the kernel can.
    async fn kill(mut self) -> Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).context("a process")?;
        kill_process(pid, Signal::KILL)?;
        ensure!(self.child.wait().await?.signal() == Some(9));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_go_with_the_process_that_asked() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    let stays = server.create(json!({})).await?;
    let before = Inventory::take(&home, &home.data())?;
    let on_it = json!({ "Lease": LEASE }).to_string();
    let problem = server.refused(("POST", "/servers"), on_it.clone(), (409, "conflict")).await?;
    ensure!(problem["hint"].as_str().is_some_and(|hint| hint.contains("POST /leases")), "{problem}");
    server.refused(("POST", "/leases"), json!({ "Id": "short" }).to_string(), (400, "invalid_name")).await?;

    let holders = [Holder::start(&server, LEASE).await?, Holder::start(&server, LEASE).await?];
    for _ in 0..2 {
        let created = server.succeed("POST", "/servers", on_it.clone()).await?;
        ensure!(created["Leased"] == json!(true), "{created}");
        ensure!(!created.to_string().contains(LEASE), "whoever knows a lease can hold it: {created}");
    }
    let [first, second] = holders;
    first.kill().await?;
    // The second has it still: a heartbeat later as much as now.
    server.succeed("POST", "/servers", on_it).await?;
    ensure!(server.list().await?.len() == 4);
    let killed = std::time::Instant::now();
    second.kill().await?;
    before.returns(&home, &home.data()).await?;
    ensure!(killed.elapsed().as_secs() < 5, "it took {:?}", killed.elapsed());
    ensure!(query(&stays.url, "SELECT count(*) FROM t").await? == "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_outlives_a_server_that_is_killed_if_its_holder_comes_back() -> Result<()> {
    let home = Home::new()?;
    let options = ServerOptions::default();
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    let before = Inventory::files(&home, &home.data())?;
    let holders = [Holder::start(&server, LEASE).await?, Holder::start(&server, OTHER).await?];
    let comes_back = server.create(json!({ "Lease": LEASE })).await?;
    let stays_away = server.create(json!({ "Lease": OTHER })).await?;
    let released = server.create(json!({ "Lease": OTHER })).await?;
    let shown = server.succeed("PATCH", &format!("/servers/{}", released.id), r#"{"Lease":null}"#).await?;
    ensure!(shown["Leased"] == json!(false), "{shown}");
    server.kill().await?;
    drop(holders);

    let server = Server::start(&home.data(), &options).await?;
    let holder = Holder::start(&server, LEASE).await?;
    ondemand_tests::eventually(async || {
        let left = server.list().await?;
        ensure!(!left.contains(&stays_away.id), "{left:?}");
        anyhow::Ok(())
    })
    .await?;
    ensure!(query(&comes_back.url, "SELECT count(*) FROM t").await? == "0");
    ensure!(query(&released.url, "SELECT count(*) FROM t").await? == "0");
    server.succeed("DELETE", &format!("/servers/{}", released.id), "").await?;
    holder.kill().await?;
    ondemand_tests::eventually(async || {
        ensure!(server.list().await?.is_empty());
        let now = Inventory::files(&home, &home.data())?;
        ensure!(now == before, "{now:?} is not {before:?}");
        anyhow::Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_built_becomes_a_dataset() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    let empty = server.succeed("POST", "/datasets/empty?empty=true", "").await?;
    ensure!(empty["Dataset"] == "empty" && empty["Dbname"] == "postgres", "{empty}");
    server.refused(("POST", "/datasets/empty?empty=true&new=true"), "", (409, "already_exists")).await?;
    let built = server.create(json!({ "Dataset": "empty", "Settings": { "work_mem": "9MB" } })).await?;
    for sql in [
        "CREATE TABLE people(name text)",
        "INSERT INTO people SELECT 'person ' || n FROM generate_series(1, 10000) n",
        "ALTER SYSTEM SET archive_command = 'echo mine'",
        "CREATE ROLE app LOGIN PASSWORD 'known'",
        // Half-way through something when the server ends: as good as never begun.
        "SELECT pg_advisory_lock(1)",
    ] {
        query(&built.url, sql).await?;
    }
    let path = format!("/servers/{}/publish", built.id);
    server.refused(("POST", &path), json!({ "Dataset": "No" }).to_string(), (400, "invalid_name")).await?;
    let published = server.succeed("POST", &path, json!({ "Dataset": "people" }).to_string()).await?;
    ensure!(published["Dataset"] == "people" && published["Dbname"] == built.dbname.as_str(), "{published}");
    server.refused(("GET", &format!("/servers/{}", built.id)), "", (404, "not_found")).await?;
    ensure!(query(&built.url, "SELECT 1").await.is_err(), "it still answers");

    let copy = server.create(json!({ "Dataset": "people" })).await?;
    ensure!(query(&copy.url, "SELECT count(*) FROM people").await? == "10000");
    ensure!(query(&copy.url, "SHOW work_mem").await? != "9MB", "settings were the server's own");
    ensure!(query(&copy.url, "SHOW archive_command").await? != "echo mine", "what acts on the outside is gone");
    let passwords = query(&copy.url, "SELECT count(*) FROM pg_authid WHERE rolname = 'app' AND rolpassword IS NULL");
    ensure!(passwords.await? == "1", "passwords are not handed on");
    // What it was made from is as it was.
    let again = server.create(json!({ "Dataset": "empty" })).await?;
    ensure!(query(&again.url, "SELECT count(*) FROM pg_tables WHERE tablename = 'people'").await? == "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn by_products_are_used_by_name_alone() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.succeed("POST", "/datasets/people", "CREATE TABLE people()").await?;
    let made = server.succeed("POST", "/datasets/one?derived=true&new=true", "CREATE TABLE one()").await?;
    ensure!(made["Derived"] == true, "{made}");
    let built = server.create(json!({ "Dataset": "one" })).await?;
    let path = format!("/servers/{}/publish", built.id);
    let wanted = json!({ "Dataset": "two", "Derived": true }).to_string();
    ensure!(server.succeed("POST", &path, wanted).await?["Derived"] == true);

    let unnamed = server.succeed("POST", "/servers", "{}").await?;
    ensure!(unnamed["Dataset"].as_str().is_some_and(|dataset| dataset.starts_with("people")), "{unnamed}");
    let listed = server.succeed("GET", "/datasets", "").await?;
    let listed = listed.as_array().context("an array")?;
    let derived: Vec<_> = listed.iter().map(|each| (&each["Name"], each["Versions"][0].get("Derived"))).collect();
    ensure!(
        derived == [(&json!("one"), Some(&json!(true))), (&json!("people"), None), (&json!("two"), Some(&json!(true)))]
    );

    // A second one that is none has to be told from the first.
    server.succeed("POST", "/datasets/more", "SELECT 1").await?;
    server.refused(("POST", "/servers"), "{}", (400, "invalid_input")).await?;
    let id = unnamed["Id"].as_str().context("an id")?;
    server.succeed("DELETE", &format!("/servers/{id}"), "").await?;
    for dataset in ["people", "more"] {
        server.succeed("DELETE", &format!("/datasets/{dataset}"), "").await?;
    }
    server.refused(("POST", "/servers"), "{}", (404, "not_found")).await?;
    Ok(())
}
