//! Files of a database, which its superuser may replace by anything: this program, which may be root, is led nowhere by them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use ondemand_tests::{Home, Server, ServerOptions, query};
use serde_json::json;

/// Publishing reads `PG_VERSION` before the database is ended.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_planted_in_a_data_directory_is_neither_read_nor_waited_for() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.import("production", "CREATE TABLE t AS SELECT 'dataset'::text AS word;").await?;
    let database = server.create(json!({})).await?;
    let run = async |program: &str| {
        let program = program.replace('\'', "''");
        query(&database.url, &format!("COPY (SELECT 1) TO PROGRAM '{program}'")).await
    };
    let secret = home.file("secret", "SECRET, which is root's alone")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    run("mv PG_VERSION aside").await?;
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
        run(&planted).await?;
        let problem = server.refused(("POST", &path), body.clone(), (422, "invalid_dump")).await?;
        let told = problem.to_string();
        ensure!(told.contains("PG_VERSION") && !told.contains("SECRET"), "{planted}: {told}");
        ensure!(!server.log().contains("SECRET"), "{planted}: {}", server.log());
        run("rm -rf PG_VERSION").await?;
        ensure!(query(&database.url, "SELECT word FROM t").await? == "dataset", "{planted}");
    }
    let after = server.resident_bytes()?;
    ensure!(after < before + (64 << 20), "it takes {after} bytes, and took {before}");
    run("mv aside PG_VERSION").await?;
    server.succeed("POST", &path, body).await?;
    Ok(())
}
