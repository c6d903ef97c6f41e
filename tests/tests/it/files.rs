//! Files of a database, which its superuser may replace by anything: this program, which may be root, is led nowhere by them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Result, ensure};
use ondemand_tests::{Database, Home, Server, ServerOptions, query, run};
use serde_json::json;

/// Runs a program as a database's superuser may.
async fn shell(database: &Database, program: &str) -> Result<String> {
    // What does not read its input ends too early for Postgres.
    let program = format!("cat >/dev/null; {program}").replace('\'', "''");
    query(&database.url, &format!("COPY (SELECT 1) TO PROGRAM '{program}'")).await
}

/// A tablespace of one database is no other's, nor a dataset's: its files would be shared.
#[tokio::test(flavor = "multi_thread")]
async fn a_clone_makes_no_tablespace_outside_of_its_volume() -> Result<()> {
    let home = Home::new()?;
    // In a sandbox, there is no outside.
    let config = home.file("ondemand.toml", "[databases]\nsandbox = 'off'\n")?;
    let options = ServerOptions::default().with(["--config", &config.display().to_string()]);
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", "CREATE TABLE t AS SELECT 'dataset'::text AS word;").await?;
    let database = server.create(json!({})).await?;
    let location = home.path().join("tablespace");
    run(Command::new("install").args(["-d", "-o", "postgres"]).arg(&location)).await?;
    let create = format!("CREATE TABLESPACE big LOCATION '{}'", location.display());
    let error = query(&database.url, &create).await.expect_err("it is outside");
    ensure!(format!("{error:?}").contains("Permission denied"), "{error:?}");
    // A superuser has it his way; but no dataset is made of that.
    shell(&database, &format!("chmod 700 pg_tblspc; rm -r {}/*", location.display())).await?;
    query(&database.url, &create).await?;
    let path = format!("/servers/{}/publish", database.id);
    let body = json!({ "Dataset": "published" }).to_string();
    let problem = server.refused(("POST", &path), body.clone(), (501, "unsupported")).await?;
    ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains("tablespaces")), "{problem}");
    ensure!(query(&database.url, "SELECT word FROM t").await? == "dataset");
    query(&database.url, "DROP TABLESPACE big").await?;
    server.succeed("POST", &path, body).await?;
    let copy = server.create(json!({ "Dataset": "published" })).await?;
    query(&copy.url, &create).await.expect_err("it is outside");
    Ok(())
}

/// Publishing reads `PG_VERSION` before the database is ended.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_planted_in_a_data_directory_is_neither_read_nor_waited_for() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.import("production", "CREATE TABLE t AS SELECT 'dataset'::text AS word;").await?;
    let database = server.create(json!({})).await?;
    let secret = home.file("secret", "SECRET, which is root's alone")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    shell(&database, "mv PG_VERSION aside").await?;
    let before = server.resident_bytes()?;
    let path = format!("/servers/{}/publish", database.id);
    let body = json!({ "Dataset": "published" }).to_string();
    for planted in [
        format!("ln -s {} PG_VERSION", secret.display()),
        "ln -s /dev/zero PG_VERSION".into(),
        "mkfifo PG_VERSION".into(),
        "mkdir PG_VERSION".into(),
        "truncate --size 1G PG_VERSION".into(),
        "echo SECRET >PG_VERSION".into(),
        "true".into(),
    ] {
        shell(&database, &planted).await?;
        let problem = server.refused(("POST", &path), body.clone(), (422, "invalid_dump")).await?;
        let told = problem.to_string();
        ensure!(told.contains("PG_VERSION") && !told.contains("SECRET"), "{planted}: {told}");
        ensure!(!server.log().contains("SECRET"), "{planted}: {}", server.log());
        shell(&database, "rm -rf PG_VERSION").await?;
        ensure!(query(&database.url, "SELECT word FROM t").await? == "dataset", "{planted}");
    }
    let after = server.resident_bytes()?;
    ensure!(after < before + (64 << 20), "it takes {after} bytes, and took {before}");
    shell(&database, "mv aside PG_VERSION").await?;
    server.succeed("POST", &path, body).await?;
    Ok(())
}
