//! A real server, started as an operator would and spoken to as a client would.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How a server is started.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// `process` or `docker`.
    pub orchestrator: &'static str,
    /// `auto`, `btrfs` or `copy`.
    pub store: &'static str,
    /// The ports its databases may have.
    pub ports: (u16, u16),
    /// More arguments.
    pub arguments: Vec<String>,
    /// Environment variables besides those of the tests.
    pub environment: BTreeMap<String, String>,
    /// The user and group to run it as.
    pub user: Option<(u32, u32)>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            orchestrator: "process",
            store: "auto",
            ports: free_range(100),
            arguments: vec!["--pool-size".into(), "2G".into()],
            environment: BTreeMap::new(),
            user: None,
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    url: String,
    log: Arc<Mutex<Vec<String>>>,
    client: reqwest::Client,
}

/// A database, as the wire format shows it.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "the wire format documents them")]
pub struct Database {
    pub id: String,
    pub name: String,
    pub url: String,
    pub host: String,
    pub port: String,
    pub password: String,
    pub status: String,
    #[serde(rename = "Expires_at")]
    pub expires_at: String,
}

/// Returns the program under test: the one that was built beside the tests, unless `ONDEMAND_TEST_BINARY` names another.
///
/// # Panics
/// If there is none.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("ONDEMAND_TEST_BINARY") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test has a path");
    let found = test.ancestors().map(|directory| directory.join("ondemand")).find(|path| path.is_file());
    found.expect("`ondemand` is not built; use `make test`, or `cargo build` first")
}

/// Returns a port of loopback that is free now.
///
/// # Panics
/// If loopback has none.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Returns a range of ports below those that the system hands out by itself. Tests run side by side, each with its own range.
pub fn free_range(count: u16) -> (u16, u16) {
    const FIRST: u16 = 12_000;
    const LAST: u16 = 32_000;
    let slots = (LAST - FIRST) / count;
    #[expect(clippy::cast_possible_truncation, reason = "it is below the number of slots")]
    let slot = (std::process::id() % u32::from(slots)) as u16;
    let start = FIRST + slot * count;
    (start, start + count - 1)
}

impl Server {
    /// Starts a server over a data directory, and returns once it is ready.
    ///
    /// # Errors
    /// If it ends, or is not ready within a minute; with what it wrote.
    pub async fn start(data_dir: &Path, options: &ServerOptions) -> Result<Self> {
        let mut server = Self::spawn(data_dir, options)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(answer) = server.client.get(format!("{}/readyz", server.url)).send().await
                && answer.status().is_success()
            {
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("the server ended with {status}:\n{}", server.log());
            }
            ensure!(Instant::now() < deadline, "the server was not ready within a minute:\n{}", server.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a server, and does not wait for it.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn spawn(data_dir: &Path, options: &ServerOptions) -> Result<Self> {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut command = std::process::Command::new(binary());
        command
            .args(["serve", "--listen", &listen, "--orchestrator", options.orchestrator, "--store", options.store])
            .args(["--ports", &format!("{}-{}", options.ports.0, options.ports.1)])
            .args(&options.arguments)
            .arg("--data-dir")
            .arg(data_dir)
            .envs(&options.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let (Ok(host), Ok(image)) =
            (std::env::var("ONDEMAND_TEST_DOCKER_HOST"), std::env::var("ONDEMAND_TEST_IMAGE"))
        {
            command.env("ONDEMAND_DOCKER_HOST", host).env("ONDEMAND_DOCKER_IMAGE", image);
        }
        if let Some((uid, gid)) = options.user {
            command.uid(uid).gid(gid);
        }
        let mut command = Command::from(command);
        let mut child =
            command.kill_on_drop(true).spawn().with_context(|| format!("starting {}", binary().display()))?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        tokio::spawn(async move {
            let mut reader = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                if let Ok(mut lines) = lines.lock() {
                    lines.push(line);
                }
            }
        });
        Ok(Self { child, url: format!("http://{listen}"), log, client: reqwest::Client::new() })
    }

    /// Returns where it answers.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns what it has written so far.
    pub fn log(&self) -> String {
        self.log.lock().map(|lines| lines.join("\n")).unwrap_or_default()
    }

    /// Sends a request, and returns the status and the JSON of the answer.
    ///
    /// # Errors
    /// If there is no answer, or it is not JSON.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<(u16, serde_json::Value)> {
        let method = method.parse::<reqwest::Method>()?;
        let answer = self.client.request(method, format!("{}{path}", self.url)).body(body).send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        let json = serde_json::from_str(&text).with_context(|| format!("status {status}, not JSON: {text}"))?;
        Ok((status, json))
    }

    async fn succeed(&self, method: &str, path: &str, body: impl Into<reqwest::Body>) -> Result<serde_json::Value> {
        let (status, json) = self.send(method, path, body).await?;
        ensure!((200..300).contains(&status), "{method} {path}: status {status}: {json}");
        Ok(json)
    }

    /// Imports SQL text as a dataset.
    ///
    /// # Errors
    /// If the server refuses it.
    pub async fn import(&self, dataset: &str, sql: impl Into<reqwest::Body>) -> Result<serde_json::Value> {
        self.succeed("POST", &format!("/datasets/{dataset}"), sql).await
    }

    /// Creates a database.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn create(&self, body: serde_json::Value) -> Result<Database> {
        Ok(serde_json::from_value(self.succeed("POST", "/servers", body.to_string()).await?)?)
    }

    /// Returns a database.
    ///
    /// # Errors
    /// If there is none.
    pub async fn get(&self, id: &str) -> Result<Database> {
        Ok(serde_json::from_value(self.succeed("GET", &format!("/servers/{id}"), "").await?)?)
    }

    /// Returns the ids of all databases.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn list(&self) -> Result<Vec<String>> {
        let list = self.succeed("GET", "/servers", "").await?;
        let ids = list.as_array().context("a list")?.iter().map(|item| item["Id"].as_str().map(ToOwned::to_owned));
        ids.collect::<Option<_>>().context("each has an Id")
    }

    /// Takes a database back to its snapshot.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn reset(&self, id: &str) -> Result<Database> {
        Ok(serde_json::from_value(self.succeed("POST", &format!("/servers/{id}/reset"), "").await?)?)
    }

    /// Deletes a database.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn delete(&self, id: &str) -> Result<()> {
        self.succeed("DELETE", &format!("/servers/{id}"), "").await.map(drop)
    }

    /// Returns the resident bytes of the server's own process.
    ///
    /// # Errors
    /// If it has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("there is no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes * 1024)
    }

    /// Returns its process.
    ///
    /// # Errors
    /// If it has ended.
    pub fn pid(&self) -> Result<Pid> {
        let pid = self.child.id().context("the server has ended")?;
        Pid::from_raw(i32::try_from(pid)?).context("a pid")
    }

    /// Ends it as an operator would, and returns what it wrote.
    ///
    /// # Errors
    /// If it does not end well within half a minute.
    pub async fn stop(mut self) -> Result<String> {
        kill_process(self.pid()?, Signal::TERM)?;
        let status = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await??;
        ensure!(status.success(), "the server ended with {status}:\n{}", self.log());
        Ok(self.log())
    }

    /// Kills it with `SIGKILL`.
    ///
    /// # Errors
    /// If it has ended before.
    pub async fn kill(mut self) -> Result<()> {
        kill_process(self.pid()?, Signal::KILL)?;
        self.child.wait().await?;
        Ok(())
    }
}
