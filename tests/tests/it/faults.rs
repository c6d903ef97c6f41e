//! Requests that cannot be served, and machines that lack something: a clear error, and nothing left.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ondemand_tests::{Home, Inventory, Server, ServerOptions, eventually, query};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};

async fn start(home: &Home, options: &ServerOptions) -> Result<Server> {
    let server = Server::start(&home.data(), options).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    Ok(server)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named() -> Result<()> {
    let home = Home::new()?;
    let server = start(&home, &ServerOptions::default()).await?;
    let nobody = "f".repeat(64);
    let not_found = (404, "not_found");
    for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/reset"), ("GET", "/logs")]
        .map(|(m, p)| (m, format!("/servers/{nobody}{p}")))
    {
        server.refused((method, &path), "", not_found).await?;
    }
    server.refused(("PATCH", &format!("/servers/{nobody}")), r#"{"Ttl":"1h"}"#, not_found).await?;
    for reference in ["nosuch", "production@19990101-000000"] {
        let body = json!({ "Dataset": reference }).to_string();
        let problem = server.refused(("POST", "/servers"), body, not_found).await?;
        ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains(reference)), "{problem}");
        server.refused(("GET", &format!("/datasets/{reference}")), "", not_found).await?;
        server.refused(("DELETE", &format!("/datasets/{reference}")), "", not_found).await?;
    }
    server.refused(("GET", "/nowhere"), "", (404, "unsupported")).await?;
    server.refused(("PUT", "/servers"), "", (405, "unsupported")).await?;
    ensure!(server.succeed("GET", "/datasets", "").await?.as_array().is_some_and(|all| all.len() == 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_before_anything_is_made() -> Result<()> {
    let home = Home::new()?;
    let server = start(&home, &ServerOptions::default()).await?;
    let before = Inventory::take(&home, &home.data())?;
    let long = "x".repeat(1_000_000);
    for name in ["", "../../etc", "a\0b", "Mine", "a b", "-a", "é", "pgondemand_5433", "'; DROP TABLE t; --", &long] {
        let problem =
            server.refused(("POST", "/servers"), json!({ "Name": name }).to_string(), (400, "invalid_name")).await?;
        ensure!(problem.to_string().len() < 1_000, "the answer repeats what a stranger sent");
        let body = json!({ "Dataset": name }).to_string();
        if name != "pgondemand_5433" {
            server.refused(("POST", "/servers"), body, (400, "invalid_name")).await?;
        }
    }
    for ttl in
        [json!("0"), json!(0), json!(-1), json!("1x"), json!(""), json!(0.5), json!("100y"), json!([1]), json!(&long)]
    {
        let problem =
            server.refused(("POST", "/servers"), json!({ "Ttl": ttl }).to_string(), (400, "invalid_input")).await?;
        ensure!(problem.to_string().len() < 1_000, "the answer repeats what a stranger sent");
    }
    for body in [
        &b"{"[..],
        b"[]",
        b"null",
        b"1",
        b"{} {}",
        b"\xff\xfe",
        br#"{"Nmae":"x"}"#,
        br#"{"Durable":"yes"}"#,
        br#"{"Name":1}"#,
    ] {
        server.refused(("POST", "/servers"), body.to_vec(), (400, "invalid_input")).await?;
    }
    for (name, value) in [
        ("port", "1"),
        ("hba_file", "/tmp/hba"),
        ("listen_addresses", "*"),
        ("", "1"),
        ("a=b", "1"),
        ("work_mem -c hba_file", "/tmp/hba"),
        ("Port", "1"),
        ("../x", "1"),
        ("work_mem", "1MB\0"),
        ("work_mem", "1MB\nhba_file = '/tmp/hba'"),
        (&long, "1"),
        ("work_mem", &long),
    ] {
        let body = json!({ "Settings": { name: value } }).to_string();
        let problem = server.refused(("POST", "/servers"), body, (400, "invalid_input")).await?;
        ensure!(problem.to_string().len() < 1_000, "the answer repeats what a stranger sent");
    }
    for path in ["/datasets/..%2F..%2Fetc", "/datasets/a%00b", "/datasets/UPPER", "/datasets/a@1", "/datasets/%FF"] {
        let (status, problem) = server.send("POST", path, "SELECT 1;").await?;
        ensure!(
            status == 400 && problem["code"].as_str().is_some_and(|c| c.starts_with("invalid_")),
            "{path}: {problem}"
        );
    }
    for query in ["nosuch=1", "dbname=a&dbname=b", "no_owner=perhaps", "on_error=later", "postgres=new"] {
        let path = format!("/datasets/other?{query}");
        server.refused(("POST", &path), "SELECT 1;", (400, "invalid_input")).await?;
    }
    before.returns(&home, &home.data()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_postgres_does_not_take_are_explained() -> Result<()> {
    let home = Home::new()?;
    let server = start(&home, &ServerOptions::default()).await?;
    let before = Inventory::take(&home, &home.data())?;
    for (name, value) in [
        ("no_such_setting", "1"),
        ("work_mem", "'1MB' -c fsync=on"),
        ("work_mem", "a lot"),
        ("max_connections", "-1"),
        ("shared_preload_libraries", "../../../tmp/evil"),
    ] {
        let body = json!({ "Settings": { name: value } }).to_string();
        let problem = server.refused(("POST", "/servers"), body, (400, "invalid_input")).await?;
        let word = if name == "shared_preload_libraries" { value } else { name };
        ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains(word)), "{problem}");
    }
    before.returns(&home, &home.data()).await?;
    // Quotes are only characters of a value.
    let database = server.create(json!({ "Settings": { "search_path": "\"it's\", public" } })).await?;
    ensure!(query(&database.url, "SHOW search_path").await? == "\"it's\", public");
    Ok(())
}

/// Reads one answer of a connection: its status and its body.
async fn answer(stream: &mut TcpStream) -> Result<(u16, String)> {
    let mut text = Vec::new();
    let (head, length) = loop {
        ensure!(stream.read_buf(&mut text).await? > 0, "the connection ends: {}", String::from_utf8_lossy(&text));
        let so_far = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, _)) = so_far.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            break (head.to_owned(), length.unwrap_or(0_usize));
        }
    };
    while text.len() < head.len() + 4 + length {
        ensure!(stream.read_buf(&mut text).await? > 0, "the body ends early");
    }
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, String::from_utf8_lossy(&text[head.len() + 4..]).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_too_large_is_refused_and_the_connection_goes_on() -> Result<()> {
    let home = Home::new()?;
    let server = start(&home, &ServerOptions::default()).await?;
    let address = server.url().strip_prefix("http://").context("an address")?.to_owned();
    let mut stream = TcpStream::connect(&address).await?;
    let body = format!("{{\"Name\":\"{}\"}}", "x".repeat(2 << 20));
    let head = format!("POST /servers HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let (status, problem) = answer(&mut stream).await?;
    let problem: Value = serde_json::from_str(&problem)?;
    ensure!(status == 413 && problem["hint"].as_str().is_some_and(|hint| hint.contains("max-body")), "{problem}");
    stream.write_all(b"GET /servers HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    let (status, list) = answer(&mut stream).await?;
    ensure!(status == 200 && list.trim() == "[]", "{status} {list}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_during_a_create_leaves_nothing() -> Result<()> {
    let home = Home::new()?;
    let server = start(&home, &ServerOptions::default()).await?;
    let before = Inventory::take(&home, &home.data())?;
    let address = server.url().strip_prefix("http://").context("an address")?.to_owned();
    for milliseconds in [0, 1, 3, 10, 20, 30] {
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(b"POST /servers HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}").await?;
        // Not a wait for something: a moment in the middle of it.
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        drop(stream);
    }
    before.returns(&home, &home.data()).await.with_context(|| server.log())?;
    // However fast or slow the machine is, one goes away when its database has been begun.
    for round in 1.. {
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(b"POST /servers HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}").await?;
        before.grows(&home, &home.data()).await?;
        let answered = stream.try_read(&mut [0; 1]).is_ok();
        drop(stream);
        if !answered {
            break;
        }
        // This looked too late.
        ensure!(round < 10, "a create is always over when it is seen to have begun");
        for id in server.list().await? {
            server.delete(&id).await?;
        }
    }
    before.returns(&home, &home.data()).await.with_context(|| server.log())?;
    ensure!(server.list().await?.is_empty());
    Ok(())
}

/// Starts a server that is to fail, and returns its exit status and what it said.
async fn fails(home: &Home, options: &ServerOptions) -> Result<(Option<i32>, String)> {
    Server::spawn(&home.data(), options)?.wait().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_data_is_refused() -> Result<()> {
    let home = Home::new()?;
    let options = ServerOptions::default();
    let server = start(&home, &options).await?;
    let database = server.create(json!({})).await?;
    let before = Inventory::take(&home, &home.data())?;
    let (status, said) = fails(&home, &options).await?;
    ensure!(status == Some(5), "conflict is 5, not {status:?}: {said}");
    ensure!(said.contains(&home.data().display().to_string()) && said.contains("hint: "), "{said}");
    before.returns(&home, &home.data()).await?;
    ensure!(query(&database.url, "SELECT count(*) FROM t").await? == "0" && server.list().await? == [database.id]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_postgres_cannot_reach_is_named() -> Result<()> {
    let home = Home::new()?;
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    for store in ["copy", "auto"] {
        let (status, said) = fails(&home, &ServerOptions { store, ..ServerOptions::default() }).await?;
        ensure!(status == Some(14), "unsupported is 14, not {status:?}: {said}");
        let closed = format!("{} is closed", home.path().display());
        ensure!(said.contains(&closed) && said.contains("chmod o+x"), "{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_postgres_is_named() -> Result<()> {
    let home = Home::new()?;
    let options = ServerOptions::default();
    let empty = home.path().join("empty");
    std::fs::create_dir(&empty)?;
    let missing = options.clone().with(["--postgres-bin-dir", &empty.display().to_string()]);
    let (status, said) = fails(&home, &missing).await?;
    ensure!(
        status == Some(14) && said.contains(&empty.display().to_string()) && said.contains("hint: "),
        "{status:?} {said}"
    );

    let server = start(&home, &options).await?;
    let problem = server.refused(("POST", "/datasets/next?postgres=99"), "SELECT 1;", (501, "unsupported")).await?;
    ensure!(problem["detail"].as_str().is_some_and(|d| d.contains("PostgreSQL 99") && d.contains("15.")), "{problem}");
    ensure!(problem["hint"].as_str().is_some_and(|hint| hint.contains("postgresql-99")), "{problem}");

    // A dataset that another machine's newer Postgres wrote.
    server.stop().await?;
    let mut changed = 0;
    for entry in std::fs::read_dir(home.data().join("pool/snapshots"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let record = std::fs::read_to_string(&path)?;
            let newer = record
                .replace("postgres\":\"15\"", "postgres\":\"99\"")
                .replace("postgres\": \"15\"", "postgres\": \"99\"");
            changed += usize::from(newer != record);
            std::fs::write(&path, newer)?;
        }
    }
    ensure!(changed == 1, "no record has a version to change");
    let server = Server::start(&home.data(), &options).await?;
    let before = Inventory::take(&home, &home.data())?;
    let problem = server.refused(("POST", "/servers"), "{}", (501, "unsupported")).await?;
    ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains("99")), "{problem}");
    before.returns(&home, &home.data()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_is_named() -> Result<()> {
    let home = Home::new()?;
    let options = ServerOptions::docker().with(["--docker-image", "nosuch-postgres:{major}"]);
    let server = start(&home, &options).await?;
    let before = Inventory::take(&home, &home.data())?;
    let problem = server.refused(("POST", "/servers"), "{}", (404, "not_found")).await?;
    ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains("nosuch-postgres:15")), "{problem}");
    ensure!(problem["hint"].as_str().is_some_and(|hint| hint.contains("pull")), "{problem}");
    before.returns(&home, &home.data()).await
}

/// Stands between a server and the Docker Engine, so that the engine can be out of reach.
struct Wire {
    path: std::path::PathBuf,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Wire {
    fn new(home: &Home) -> Self {
        Self { path: home.path().join("docker.sock"), task: None }
    }

    fn connect(&mut self) -> Result<()> {
        let engine = std::env::var("ONDEMAND_TEST_DOCKER_HOST")?;
        let engine = engine.strip_prefix("unix://").context("a socket")?.to_owned();
        let listener = UnixListener::bind(&self.path)?;
        self.task = Some(tokio::spawn(async move {
            // They end with this task.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut here, _)) = listener.accept().await {
                let engine = engine.clone();
                connections.spawn(async move {
                    if let Ok(mut there) = UnixStream::connect(&engine).await {
                        let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                    }
                });
            }
        }));
        Ok(())
    }

    async fn cut(&mut self) -> Result<()> {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
        Ok(std::fs::remove_file(&self.path)?)
    }
}

/// The server starts without the engine, and says in `/readyz` and its log what it waits for; once the engine is there, it works.
#[tokio::test(flavor = "multi_thread")]
async fn without_docker_the_server_waits_and_says_so() -> Result<()> {
    // Slow: the engine goes and comes back, and each is noticed with a round of the janitor.
    let home = Home::new()?;
    let mut wire = Wire::new(&home);
    let config = home.file("ondemand.toml", "[databases]\nreap-interval = '1s'\n")?;
    let options = ServerOptions::docker()
        .with(["--config", &config.display().to_string()])
        .with(["--docker-host", &format!("unix://{}", wire.path.display())]);
    let server = Server::spawn(&home.data(), &options)?;
    let problem = eventually(async || {
        let (status, problem) = server.send("GET", "/readyz", "").await?;
        ensure!(status == 503 && problem["detail"].as_str().is_some_and(|d| d.contains("docker")), "{problem}");
        Ok(problem)
    })
    .await
    .with_context(|| server.log())?;
    ensure!(problem["hint"].as_str().is_some_and(|hint| hint.contains("Docker Engine")), "{problem}");
    server.succeed("GET", "/healthz", "").await?;
    ensure!(server.log().contains("docker"), "{}", server.log());

    wire.connect()?;
    eventually(async || server.succeed("GET", "/readyz", "").await).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    let before = Inventory::take(&home, &home.data())?;
    let database = server.create(json!({})).await?;

    // The engine goes away under way. Databases go on; what needs the engine is refused, and says why.
    let with_one = Inventory::take(&home, &home.data())?;
    wire.cut().await?;
    let problem = server.refused(("POST", "/servers"), "{}", (503, "backend")).await?;
    ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains("docker")), "{problem}");
    ensure!(problem["hint"].as_str().is_some_and(|hint| hint.contains("Docker Engine")), "{problem}");
    ensure!(query(&database.url, "SELECT count(*) FROM t").await? == "0");
    wire.connect()?;
    with_one.returns(&home, &home.data()).await.with_context(|| server.log())?;
    eventually(async || server.reset(&database.id).await).await?;
    server.delete(&database.id).await?;
    before.returns(&home, &home.data()).await
}
