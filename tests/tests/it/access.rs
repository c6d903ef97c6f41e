//! Who may ask, and where secrets are not.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use ondemand_tests::{Home, Server, ServerOptions, query, run};
use serde_json::json;

const TOKEN: &str = "a-token-that-nobody-may-see";

fn guarded(options: ServerOptions) -> ServerOptions {
    let environment = [("ONDEMAND_TOKEN".to_owned(), TOKEN.to_owned())].into();
    ServerOptions { environment, ..options }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_a_token_is_needed() -> Result<()> {
    let home = Home::new()?;
    let program = |listen: &str| {
        let mut command = ondemand_tests::server::program();
        command.args(["serve", "--store", "copy", "--no-proxy", "--listen", listen, "--data-dir"]).arg(home.data());
        command
    };
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let output = program(listen).output()?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(9), "forbidden is 9, not {}: {said}", output.status);
        ensure!(said.contains("ONDEMAND_TOKEN") && said.contains("--allow-anonymous"), "{said}");
        ensure!(!home.data().exists(), "it made its data directory before it looked");
    }
    let output = program("127.0.0.1:0").env("ONDEMAND_TOKEN", " ").output()?;
    ensure!(output.status.code() == Some(7), "an empty token is none: {}", output.status);

    // In a network namespace of its own, where no other machine is: with a token, or told to, it listens everywhere.
    for (name, value) in [("ONDEMAND_TOKEN", TOKEN), ("ONDEMAND_ALLOW_ANONYMOUS", "true")] {
        let script = format!(
            "ip link set lo up || exit 3
             '{}' serve --store copy --listen 0.0.0.0:8080 --data-dir '{}' 2>'{}' &
             for i in $(seq 200); do curl -sf http://127.0.0.1:8080/readyz && break; sleep 0.05; done
             kill $!; wait $!",
            ondemand_tests::server::binary().display(),
            home.data().display(),
            home.path().join("log").display(),
        );
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "sh", "-c", &script]).env(name, value);
        let answered = run(&mut unshare).await?;
        ensure!(
            answered.contains("\"ok\""),
            "{name}: {answered} {}",
            std::fs::read_to_string(home.path().join("log"))?
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_nothing_is_told() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &guarded(ServerOptions::default())).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    let database = server.create(json!({ "Name": "mine" })).await?;
    let client = reqwest::Client::new();
    let paths = [
        "/servers",
        "/servers/mine",
        "/servers/nosuch",
        "/servers/mine/logs",
        "/datasets",
        "/datasets/production",
        "/pool",
    ];
    for path in paths {
        for header in ["", "Bearer", "Bearer wrong", &format!("Basic {TOKEN}"), &format!("Bearer {TOKEN}x")] {
            let request = client.get(format!("{}{path}", server.url())).header("Authorization", header);
            let answer = request.send().await?;
            ensure!(answer.status() == 401, "{path} with {header:?}: {}", answer.status());
            ensure!(
                answer.headers().get("www-authenticate").is_some_and(|value| value.as_bytes().starts_with(b"Bearer"))
            );
            let text = answer.text().await?;
            ensure!(
                text.contains("unauthenticated") && !text.contains(&database.id) && !text.contains(TOKEN),
                "{text}"
            );
        }
    }
    for (method, path) in
        [("POST", "/servers"), ("POST", "/reap"), ("POST", "/datasets/x"), ("DELETE", "/servers/mine")]
    {
        let answer = client.request(method.parse()?, format!("{}{path}", server.url())).body("{}").send().await?;
        ensure!(answer.status() == 401, "{method} {path}: {}", answer.status());
    }
    ensure!(server.list().await? == [database.id.as_str()], "with the token it works");
    // Probes need no token.
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        ensure!(client.get(format!("{}{path}", server.url())).send().await?.status() == 200, "{path}");
    }
    // The command line takes it from the environment, and says what is missing.
    let ondemand = |token: &str| {
        let mut command = ondemand_tests::server::program();
        command.args(["--url", server.url(), "pg", "list"]).env("ONDEMAND_TOKEN", token);
        command
    };
    ensure!(run(&mut ondemand(TOKEN)).await?.contains("mine"));
    let output = ondemand("wrong").output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(10) && said.contains("ONDEMAND_TOKEN"), "{}: {said}", output.status);
    Ok(())
}

/// Everything of a process that others may see, and its environment.
fn seen_of_processes(home: &Home) -> Result<String> {
    let mut seen = String::new();
    for (pid, command) in home.processes()? {
        seen.push_str(&command);
        if !command.contains("ondemand serve") && !command.contains("/ondemand ") {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            seen.push_str(&String::from_utf8_lossy(&environment));
        }
        seen.push('\n');
    }
    Ok(seen)
}

/// All records, logs and configuration files, but not the databases' own data.
fn seen_in_files(directory: &std::path::Path, depth: usize) -> Result<String> {
    let mut seen = String::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && depth > 0 {
            seen.push_str(&seen_in_files(&path, depth - 1)?);
        } else if path.is_file() && path.metadata()?.len() < 10 << 20 {
            seen.push_str(&String::from_utf8_lossy(&std::fs::read(&path)?));
        }
    }
    Ok(seen)
}

async fn secrets_stay_secret(options: ServerOptions) -> Result<()> {
    let home = Home::new()?;
    let mut options = guarded(options);
    options.environment.insert("RUST_LOG".into(), "trace".into());
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", "CREATE ROLE app LOGIN PASSWORD 'production-secret'; CREATE TABLE t ();").await?;
    let database = server.create(json!({})).await?;
    ensure!(query(&database.url, "SELECT count(*) FROM t").await? == "0");
    server.reset(&database.id).await?;
    // What goes wrong is logged, and is where secrets slip out.
    let wrong = database.url.replace(&database.password, "not-the-password");
    ensure!(query(&wrong, "SELECT 1").await.is_err());
    server.send("POST", "/servers", r#"{"Dataset":"nosuch"}"#).await?;
    server.send("POST", "/servers", r#"{"Settings":{"nosuch":"1"}}"#).await?;
    let logs =
        server.request(reqwest::Method::GET, &format!("/servers/{}/logs", database.id)).send().await?.text().await?;
    ensure!(logs.contains("authentication failed"), "the log is not what it should be: {logs}");

    let mut seen = vec![
        ("the server's log", server.log()),
        ("a database's log", logs),
        ("processes", seen_of_processes(&home)?),
        // Three levels down are the pool's volumes, which are the databases' own.
        ("files", seen_in_files(&home.data(), 2)?),
        ("the list", server.succeed("GET", "/servers", "").await?.to_string()),
    ];
    ensure!(seen[2].1.contains("/postgres"), "no process is seen");
    ensure!(seen[3].1.contains(&database.id), "no record is seen");
    for id in home.containers()? {
        let host = std::env::var("ONDEMAND_TEST_DOCKER_HOST")?;
        let inspected = run(Command::new("docker").args(["--host", &host, "inspect", &id])).await?;
        ensure!(inspected.contains(&database.id), "it is not the database's container");
        seen.push(("docker inspect", inspected));
        let logs = run(Command::new("docker").args(["--host", &host, "logs", &id])).await?;
        seen.push(("docker logs", logs));
    }
    for (place, text) in &seen {
        for (what, secret) in
            [("token", TOKEN), ("password", &database.password), ("production's password", "production-secret")]
        {
            ensure!(!text.contains(secret), "the {what} is in {place}: {:?}", around(text, secret));
        }
    }
    // Whoever may read the key can derive the passwords.
    let mode = std::os::unix::fs::MetadataExt::mode(&home.data().join("instance.key").metadata()?);
    ensure!(mode & 0o077 == 0, "instance.key has mode {mode:o}");
    let shown = run(ondemand_tests::server::program()
        .args(["config", "show"])
        .env("ONDEMAND_TOKEN", TOKEN)
        .current_dir(home.path()))
    .await?;
    ensure!(shown.contains("token") && !shown.contains(TOKEN), "{shown}");
    Ok(())
}

/// Returns where something is, for people.
fn around(text: &str, part: &str) -> String {
    let at = text.find(part).unwrap_or_default();
    let line = text[..at].rfind('\n').map_or(0, |start| start + 1);
    text[line..].lines().next().unwrap_or_default().chars().take(400).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_stay_secret_with_processes() -> Result<()> {
    secrets_stay_secret(ServerOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_stay_secret_with_docker() -> Result<()> {
    secrets_stay_secret(ServerOptions::docker()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_from_elsewhere_may_not_ask() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions { store: "copy", ..ServerOptions::default() }).await?;
    let ask = async |origin: &str| -> Result<u16> {
        let request = server.request(reqwest::Method::POST, "/reap").header("Origin", origin);
        Ok(request.send().await.context("an answer")?.status().as_u16())
    };
    ensure!(ask("http://evil.example").await? == 403);
    ensure!(ask("http://localhost:3000").await? == 200);
    Ok(())
}
