//! The server under test, spoken to as a client would.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_postgres::NoTls;

/// A server in a data directory of its own, on a pool of its own.
pub(crate) struct Server {
    binary: PathBuf,
    data_dir: PathBuf,
    child: Child,
    url: String,
    client: reqwest::Client,
}

/// A database it made.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Database {
    pub(crate) id: String,
    pub(crate) url: String,
    pub(crate) port: String,
    pub(crate) password: String,
}

impl Database {
    /// Connects as a user would, and asks for something.
    pub(crate) async fn first_query(&self) -> Result<()> {
        query(&self.url).await
    }
}

/// Connects and asks for something.
pub(crate) async fn query(url: &str) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let connection = tokio::spawn(connection);
    let row = client.query_one("SELECT count(*) FROM pg_class", &[]).await?;
    ensure!(row.get::<_, i64>(0) > 0, "there are no tables");
    drop(client);
    connection.await??;
    Ok(())
}

/// Returns a port that is free now.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Server {
    pub(crate) async fn start(binary: &Path, data_dir: &Path, orchestrator: &str) -> Result<Self> {
        // The temporary directory is closed to others, and Postgres is another user.
        if let Some(parent) = data_dir.parent() {
            std::fs::set_permissions(parent, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        }
        let listen = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(binary);
        command
            .args(["serve", "--listen", &listen, "--store", "auto", "--orchestrator", orchestrator, "--ports", "21000-21999"])
            .arg("--data-dir")
            .arg(data_dir)
            .stderr(Stdio::piped());
        if let (Ok(host), Ok(image)) = (std::env::var("ONDEMAND_TEST_DOCKER_HOST"), std::env::var("ONDEMAND_TEST_IMAGE")) {
            command.env("ONDEMAND_DOCKER_HOST", host).env("ONDEMAND_DOCKER_IMAGE", image);
        }
        let mut child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let log = tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("  server: {line}");
            }
        });
        drop(log);
        let server = Self {
            binary: binary.to_owned(),
            data_dir: data_dir.to_owned(),
            child,
            url: format!("http://{listen}"),
            client: reqwest::Client::new(),
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(answer) = server.client.get(format!("{}/readyz", server.url)).send().await
                && answer.status().is_success()
            {
                return Ok(server);
            }
            ensure!(tokio::time::Instant::now() < deadline, "the server was not ready within a minute");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Imports a dataset of about `bytes`, which the server fills by itself.
    pub(crate) async fn import(&self, name: &str, bytes: u64) -> Result<()> {
        // A row takes about 1 kB, most of it text that does not compress.
        let rows = bytes / 1100;
        let text = (0..31).map(|part| format!("md5((n * 31 + {part})::text)")).collect::<Vec<_>>().join(" || ");
        let sql = format!(
            "CREATE TABLE facts (id bigint, body text);
             ALTER TABLE facts ALTER COLUMN body SET STORAGE PLAIN;
             INSERT INTO facts SELECT n, {text} FROM generate_series(1, {rows}) n;
             ALTER TABLE facts ADD PRIMARY KEY (id);"
        );
        let answer = self.client.post(format!("{}/datasets/{name}", self.url)).body(sql).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "the import failed: {text}");
        eprintln!("imported {name}: {text}");
        Ok(())
    }

    pub(crate) async fn create(&self, dataset: &str) -> Result<Database> {
        let body = serde_json::json!({ "Dataset": dataset });
        let answer = self.client.post(format!("{}/servers", self.url)).json(&body).send().await?;
        if !answer.status().is_success() {
            bail!("the create failed: {}", answer.text().await?);
        }
        Ok(answer.json().await?)
    }

    pub(crate) async fn delete(&self, database: &Database) -> Result<()> {
        let answer = self.client.delete(format!("{}/servers/{}", self.url, database.id)).send().await?;
        ensure!(answer.status().is_success(), "the delete failed: {}", answer.text().await?);
        Ok(())
    }

    /// Returns the resident bytes of the server's own process.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let pid = self.child.id().context("the server has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("there is no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes * 1024)
    }

    /// Returns where its pool is mounted.
    pub(crate) fn pool(&self) -> PathBuf {
        self.data_dir.join("pool")
    }

    /// Ends the server by its pid, and removes its pool.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
        rustix::process::kill_process(pid.context("the server has ended")?, rustix::process::Signal::TERM)?;
        self.child.wait().await?;
        let removed = Command::new(&self.binary).args(["pool", "delete", "--force", "--path"]).arg(self.pool()).status().await?;
        ensure!(removed.success(), "the pool could not be removed");
        Ok(())
    }
}
