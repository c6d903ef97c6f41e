//! A data directory that an earlier version has written is taken over whole, and what a later one has written is left alone.
//!
//! Slow: a dataset is imported, and three servers are started.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ondemand_tests::{Home, Server, ServerOptions, eventually, query, run};
use serde_json::json;

// What 0.1.0 wrote, before databases had epochs: with the key, the id's password is the one below. PORT, VERSION (of Postgres), DATA (the data
// directory) and BIN (Postgres's programs) stand for what differs from machine to machine.
const KEY: [u8; 32] = [
    0x8f, 0x18, 0xa2, 0x34, 0x32, 0x11, 0xe7, 0x27, 0x4f, 0x01, 0x6f, 0xc1, 0x2c, 0x8d, 0x87, 0x1d, 0x65, 0x32, 0xcd,
    0x00, 0x02, 0xea, 0x8b, 0x07, 0x19, 0xfb, 0xae, 0x20, 0xe2, 0x84, 0xa5, 0x52,
];
const ID: &str = "2f9958aaa8b2000c6e701c5680ff5d8c317cf0eaa94b19c8d54e20c1f92cde3c";
const PASSWORD: &str = "ehoEMk7pjW8ai2juTVAx8dnfE8TekCBL";
const SNAPSHOT: &str = r#"{"labels":{"ondemand.attempt":"1d8565e340740e20","ondemand.created":"2026-11-30T15:13:32.484597407Z","ondemand.data-bytes":"40374245","ondemand.dataset":"production","ondemand.dbname":"postgres","ondemand.dump-bytes":"44","ondemand.instance":"e223df43","ondemand.kind":"dataset","ondemand.postgres":"VERSION","ondemand.version":"20261130-151332"},"created":"2026-11-30T15:13:32.484637431Z","complete":true}"#;
const VOLUME: &str = r#"{"labels":{"ondemand.attempt":"2d6426ee8ec0f0d4","ondemand.created":"2026-11-30T15:13:32.689947041Z","ondemand.dataset":"production","ondemand.dbname":"postgres","ondemand.durable":"false","ondemand.expires":"2126-12-01T15:13:32.689684962Z","ondemand.generation":"0","ondemand.id":"2f9958aaa8b2000c6e701c5680ff5d8c317cf0eaa94b19c8d54e20c1f92cde3c","ondemand.instance":"e223df43","ondemand.kind":"database","ondemand.name":"mine","ondemand.port":"PORT","ondemand.postgres":"VERSION","ondemand.settings":"{\"work_mem\":\"8MB\"}","ondemand.state":"announced","ondemand.version":"20261130-151332"},"snapshot":"production@20261130-151332","created":"2026-11-30T15:13:32.690003988Z","complete":true}"#;
const STACK: &str = r#"{"id":"pg-2f9958aaa8b2.a1665ee9e70d8a08","spec":{"name":"pg-2f9958aaa8b2","attempt":"a1665ee9e70d8a08","labels":{"ondemand.attempt":"2d6426ee8ec0f0d4","ondemand.dataset":"production","ondemand.id":"2f9958aaa8b2000c6e701c5680ff5d8c317cf0eaa94b19c8d54e20c1f92cde3c","ondemand.instance":"e223df43","ondemand.kind":"database","ondemand.name":"mine","ondemand.path":"DATA/store/volumes/db-2f9958aaa8b2-2d6426ee8ec0f0d4","ondemand.version":"20261130-151332","ondemand.volume":"db-2f9958aaa8b2-2d6426ee8ec0f0d4"},"services":[{"name":"postgres","image":null,"command":["BIN/postgres","-D","DATA/store/volumes/db-2f9958aaa8b2-2d6426ee8ec0f0d4","-c","fsync=off","-c","work_mem=8MB","-c","config_file=DATA/postgres/postgresql.conf","-c","hba_file=DATA/postgres/pg_hba.conf","-c","ident_file=DATA/postgres/pg_ident.conf","-c","listen_addresses=127.0.0.1","-c","port=PORT","-c","unix_socket_directories=/run/ondemand-e223df43/2f9958aaa8b2","-c","unix_socket_permissions=0700"],"arguments":[],"env":{"LC_MESSAGES":"C","NOTIFY_SOCKET":"/run/ondemand-e223df43/2f9958aaa8b2.ready"},"user":{"uid":UID,"gid":GID},"working_dir":null,"mounts":[],"ports":[{"published":"127.0.0.1:PORT","target":PORT}],"publish":[],"depends_on":[],"healthcheck":null,"volumes":[],"tmpfs":[],"networks":[],"secrets":[],"configs":[],"labels":{},"own_directory":false,"container":{"user":null,"hostname":null,"init":null,"cap_add":[],"cap_drop":[],"read_only":false,"extra_hosts":[],"ulimits":{},"sysctls":{},"logging":null,"labels":{}},"placement":{"mode":{"replicated":1},"limits":{"nano_cpus":null,"memory":null,"pids":null},"reservations":{"nano_cpus":null,"memory":null,"pids":null},"constraints":[],"spread":[],"max_replicas_per_node":null,"restart_policy":null,"update":null,"rollback":null,"endpoint_mode":null},"stop_signal":"Quit","stop_grace":{"secs":10,"nanos":0},"shm_size":1073741824}],"networks":{},"volumes":{},"configs":{}},"created":"2026-11-30T15:13:32.747417308Z","asleep":false,"removing":false,"processes":[{"identity":{"pid":1,"start":4168437,"boot":"00000000-0000-0000-0000-000000000000"},"exit":null,"restarts":0}],"ports":[]}"#;
const ROUTE: &str = r#"{"host":"a.localhost","upstreams":["127.0.0.1:9"],"protocol":"http1","pending":false}"#;

/// Copies a directory with its owners and modes.
async fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).await.map(drop)
}

/// Writes the data directory of the earlier version, on the data of a dataset that was just imported.
async fn earlier(home: &Home, data: &Path, port: u16) -> Result<()> {
    let options = ServerOptions { store: "copy", ..ServerOptions::default() };
    let source = home.path().join("source");
    let server = Server::start(&source, &options).await?;
    let imported = server.import("any", "CREATE TABLE t AS SELECT 'dataset' AS word;").await?;
    server.stop().await?;
    let snapshot = source.join("store/snapshots").join(imported["Name"].as_str().context("a name")?);
    let owner = fs::metadata(snapshot.join("PG_VERSION"))?;
    let postgres = std::env::var("ONDEMAND_TEST_POSTGRES").context("use `make test`")?;
    let fill = |text: &str| {
        use std::os::unix::fs::MetadataExt;
        text.replace("PORT", &port.to_string())
            .replace("VERSION", &imported["Postgres"].to_string())
            .replace("DATA", &data.display().to_string())
            .replace("BIN", &postgres)
            .replace("UID", &owner.uid().to_string())
            .replace("GID", &owner.gid().to_string())
    };
    let (store, volume) = (data.join("store"), "db-2f9958aaa8b2-2d6426ee8ec0f0d4");
    for directory in ["store/snapshots", "store/volumes", "stacks", "routes"] {
        fs::create_dir_all(data.join(directory))?;
    }
    let open = std::os::unix::fs::PermissionsExt::from_mode;
    for directory in [data.to_owned(), store.clone(), store.join("volumes")] {
        fs::set_permissions(directory, open(0o711))?;
    }
    fs::write(data.join("instance.key"), KEY)?;
    fs::set_permissions(data.join("instance.key"), open(0o600))?;
    copy(&snapshot, &store.join("snapshots/production@20261130-151332")).await?;
    copy(&snapshot, &store.join("volumes").join(volume)).await?;
    fs::write(store.join("snapshots/production@20261130-151332.json"), fill(SNAPSHOT))?;
    fs::write(store.join("volumes").join(format!("{volume}.json")), fill(VOLUME))?;
    fs::write(data.join("stacks/pg-2f9958aaa8b2.json"), fill(STACK))?;
    Ok(fs::write(data.join("routes/a.localhost.json"), ROUTE)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_wrote_is_taken_over_and_what_a_later_one_wrote_is_left_alone() -> Result<()> {
    let home = Home::new()?;
    let options = ServerOptions { store: "copy", ..ServerOptions::default() };
    let (data, port) = (home.data(), options.ports.0);
    earlier(&home, &data, port).await?;
    let server = Server::start(&data, &options).await?;
    ensure!(server.list().await? == [ID], "{}", server.log());
    // Its data here is a bare copy of the dataset's, without its password.
    server.reset(ID).await.with_context(|| server.log())?;
    let url = format!("postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres");
    let database = eventually(async || {
        let word = query(&url, "UPDATE t SET word = 'written'; SELECT word FROM t").await?;
        ensure!(word == "written", "{word}");
        server.get(ID).await
    })
    .await
    .with_context(|| server.log())?;
    ensure!((&*database.url, &*database.name) == (url.as_str(), "/mine"), "{database:?}");
    let settings = server.succeed("GET", &format!("/servers/{ID}"), "").await?["Settings"].clone();
    ensure!(settings == json!({ "work_mem": "8MB" }) && query(&url, "SHOW work_mem").await? == "8MB", "{settings}");
    ensure!(server.succeed("GET", "/routes/a.localhost", "").await?["upstreams"] == json!(["127.0.0.1:9"]));
    let other = server.create(json!({ "Dataset": "production" })).await?;
    server.reset(&other.id).await?;
    server.delete(&other.id).await?;

    // A later version gives what this one would misunderstand a higher number.
    let records =
        fs::read_dir(data.join("store/volumes"))?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_record = |path: &&std::path::PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let record = records.iter().find(is_record).context("a record")?;
    let written = fs::read_to_string(record)?;
    fs::write(record, written.replacen('{', r#"{"format":2,"#, 1))?;
    server.kill().await?;
    let server = Server::start(&data, &options).await?;
    ensure!(server.list().await?.is_empty());
    let report = server.succeed("POST", "/reap", "").await?;
    ensure!(report["Unknown"].to_string().contains("a later version"), "{report}");
    ensure!(report["Removed"] == json!([]) && query(&url, "SELECT word FROM t").await? == "written", "{report}");
    let next = server.create(json!({ "Dataset": "production" })).await?;
    ensure!(next.port != port.to_string(), "its port was given away");
    server.delete(&next.id).await?;
    fs::write(record, written)?;
    server.succeed("POST", "/reap", "").await?;
    ensure!(server.list().await? == [ID]);
    server.delete(ID).await
}
