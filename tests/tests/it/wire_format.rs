//! The transcript of the wire format that users rely on, run with `curl` and `psql` as it is printed.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use ondemand_tests::{Home, Inventory, Server, ServerOptions, run};
use serde_json::{Map, Value};

/// Runs `curl` with words as a shell would split them.
async fn curl(words: &[&str]) -> Result<String> {
    // `--no-progress-meter` only keeps errors readable: what is sent and printed is the same.
    run(Command::new("curl").arg("--no-progress-meter").args(words)).await
}

async fn psql(server: &Map<String, Value>, sql: &str) -> Result<String> {
    let word = |key: &str| server[key].as_str().with_context(|| format!("{key} is no text"));
    let mut command = Command::new("psql");
    command.args(["-h", word("Host")?, "-p", word("Port")?, "-U", "postgres", "-Atqc", sql]);
    run(command.env("PGPASSWORD", word("Password")?).env("PGCONNECT_TIMEOUT", "10")).await
}

fn object(text: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(text).with_context(|| format!("not an object: {text}"))
}

fn digits(value: &Value) -> Result<u64> {
    let text = value.as_str().with_context(|| format!("{value} is no text"))?;
    ensure!(!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()), "{text:?} has more than digits");
    Ok(text.parse()?)
}

/// The keys that the wire format has, in its order.
const KEYS: [&str; 6] = ["Id", "Name", "Expires_at", "Host", "Port", "Status"];

async fn transcript(options: ServerOptions) -> Result<()> {
    let home = Home::new()?;
    let options = ServerOptions { store: "btrfs", ..options }.with(["--host", "localhost"]);
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", "CREATE TABLE people AS SELECT 'Ada' AS name;").await?;
    let before = Inventory::take(&home, &home.data())?;
    let servers = format!("{}/servers", server.url());

    // $ curl -XPOST -d'{}' http://pg.dev.internal/servers
    let created = curl(&["-XPOST", "-d{}", &servers]).await?;
    ensure!(created.starts_with("{\"Id\":\""), "the first key is Id: {created}");
    let created = object(&created)?;
    let id = created["Id"].as_str().context("Id is no text")?.to_owned();
    ensure!(id.len() == 64 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "Id {id}");
    let other = object(&curl(&["-XPOST", "-d{}", &servers]).await?)?["Id"].as_str().context("Id")?.to_owned();

    // $ curl -XGET http://pg.dev.internal/servers
    let listed = curl(&["-XGET", &servers]).await?;
    let listed: Vec<Map<String, Value>> = serde_json::from_str(&listed).with_context(|| listed.clone())?;
    let mut ids: Vec<_> = listed.iter().map(|server| server["Id"].as_str().unwrap_or_default()).collect();
    ids.sort_unstable();
    let mut expected = [id.as_str(), other.as_str()];
    expected.sort_unstable();
    ensure!(ids == expected, "{ids:?} are listed, {expected:?} were created");
    ensure!(listed.iter().all(|server| !server.contains_key("Password")), "a list shows a password");

    // $ curl -XGET http://pg.dev.internal/servers/30c8e143…
    let text = curl(&["-XGET", &format!("{servers}/{id}")]).await?;
    let shown = object(&text)?;
    let places: Vec<_> = KEYS.iter().map(|key| text.find(&format!("\"{key}\":"))).collect();
    ensure!(places.iter().all(Option::is_some) && places.is_sorted(), "{KEYS:?} in this order: {text}");
    ensure!(shown["Id"] == id.as_str(), "{text}");
    let port = digits(&shown["Port"])?;
    ensure!((u64::from(options.ports.0)..=u64::from(options.ports.1)).contains(&port), "port {port}");
    ensure!(shown["Name"] == format!("/pgondemand_{port}"), "{text}");
    ensure!(shown["Host"] == "localhost" && shown["Status"] == "Running", "{text}");
    let left = digits(&shown["Expires_at"])?.saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    ensure!((86_000..=86_400).contains(&left), "it expires in a day, not in {left} seconds");
    for key in shown.keys() {
        ensure!(key.starts_with(|c: char| c.is_ascii_uppercase()), "{key} is not PascalCase");
    }
    ensure!(created == shown, "what a create answers is what a get shows: {created:?}");

    // $ psql -h pg.dev.internal -p 5433 -U postgres -W
    ensure!(psql(&shown, "SELECT name FROM people").await?.trim() == "Ada");
    ensure!(psql(&shown, "CREATE TABLE mine (); SELECT count(*) FROM mine").await?.trim() == "0");
    // The URL is one that psql takes as it is.
    let url = shown["Url"].as_str().context("Url is no text")?;
    ensure!(run(Command::new("psql").args([url, "-Atqc", "SELECT current_user"])).await?.trim() == "postgres");

    // $ curl -XDELETE http://pg.dev.internal/servers/30c8e143…
    for id in [&id, &other] {
        let deleted = curl(&["-XDELETE", &format!("{servers}/{id}")]).await?;
        ensure!(deleted.trim_end() == format!("{{\"Id\":\"{id}\"}}"), "{deleted}");
    }
    ensure!(curl(&["-XGET", &servers]).await?.trim_end() == "[]");
    ensure!(psql(&shown, "SELECT 1").await.is_err(), "a deleted database still answers");
    before.returns(&home, &home.data()).await?;
    server.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transcript_on_processes_and_btrfs() -> Result<()> {
    transcript(ServerOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transcript_on_docker_and_btrfs() -> Result<()> {
    // Slow: a dataset is imported, and containers start and end.
    transcript(ServerOptions::docker()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_json_whatever_their_type_says() -> Result<()> {
    // Slow: a dataset is imported, and each request makes something.
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.import("production", "CREATE TABLE people ();").await?;
    server.import("fixtures", "CREATE TABLE things ();").await?;
    let servers = format!("{}/servers", server.url());
    for (number, header) in
        ["Content-Type: text/plain", "Content-Type: application/json", "Content-Type:"].iter().enumerate()
    {
        let body = format!("-d{{\"Dataset\":\"fixtures\",\"Name\":\"db{number}\",\"Ttl\":\"1h\"}}");
        let created = object(&curl(&["-XPOST", "-H", header, &body, &servers]).await?)?;
        ensure!(created["Name"] == format!("/db{number}") && created["Dataset"] == "fixtures", "{created:?}");
    }
    // Ids may be shortened, and names used in their place.
    let first = server.list().await?.remove(0);
    ensure!(server.get(&first[..12]).await?.id == first);
    ensure!(server.get("db1").await?.name == "/db1");
    // No body is `{}`, and then the dataset must be clear.
    let problem = server.refused(("POST", "/servers"), "", (400, "invalid_input")).await?;
    ensure!(
        problem["detail"].as_str().is_some_and(|d| d.contains("fixtures") && d.contains("production")),
        "{problem}"
    );
    Ok(())
}
