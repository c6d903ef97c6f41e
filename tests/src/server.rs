//! A real server, started as an operator would and spoken to as a client would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::ports::{free_port, free_range};

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

/// How a proxy that stands alone is started.
#[derive(Debug, Clone, Default)]
pub struct ProxyOptions {
    /// More arguments.
    pub arguments: Vec<String>,
    /// Environment variables besides those of the tests.
    pub environment: BTreeMap<String, String>,
    /// The user and group to run it as.
    pub user: Option<(u32, u32)>,
}

/// Returns the program under test, ready for arguments, with no configuration of the machine or the user.
///
/// # Panics
/// If it is not built.
pub fn program() -> std::process::Command {
    let mut command = std::process::Command::new(binary());
    for (name, _) in std::env::vars_os() {
        // What the tests are told is not for the program; but for the mark by which its processes are found.
        if name.to_string_lossy().starts_with("ONDEMAND_") && name != "ONDEMAND_TEST_RUN" {
            command.env_remove(name);
        }
    }
    command
}

impl ServerOptions {
    /// The options of a server over the Docker Engine of the tests.
    ///
    /// # Panics
    /// If there is no such engine.
    pub fn docker() -> Self {
        for name in ["ONDEMAND_TEST_DOCKER_HOST", "ONDEMAND_TEST_IMAGE"] {
            assert!(
                std::env::var_os(name).is_some(),
                "{name} is not set: this test needs a Docker Engine; use `make test`"
            );
        }
        Self { orchestrator: "docker", ..Self::default() }
    }

    /// Adds arguments.
    #[must_use]
    pub fn with<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    reader: Option<tokio::task::JoinHandle<()>>,
    url: String,
    log: Arc<Mutex<Vec<String>>>,
    client: reqwest::Client,
    token: Option<String>,
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
    pub dbname: String,
    pub snapshot: String,
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

impl Server {
    /// Starts a server over a data directory, and returns once it is ready.
    ///
    /// # Errors
    /// If it ends, or is not ready within a minute; with what it wrote.
    pub async fn start(data_dir: &Path, options: &ServerOptions) -> Result<Self> {
        Self::spawn(data_dir, options)?.until_ready().await
    }

    /// Starts a proxy that stands alone over a data directory, and returns once it is ready.
    ///
    /// # Errors
    /// If it ends, or is not ready within a minute; with what it wrote.
    pub async fn start_proxy(data_dir: &Path, options: &ProxyOptions) -> Result<Self> {
        Self::spawn_proxy(data_dir, options)?.until_ready().await
    }

    async fn until_ready(self) -> Result<Self> {
        let mut server = self;
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
        let mut command = program();
        command
            .args(["serve", "--orchestrator", options.orchestrator, "--store", options.store])
            .args(["--ports", &format!("{}-{}", options.ports.0, options.ports.1)])
            .args(&options.arguments);
        if let (Ok(host), Ok(image)) =
            (std::env::var("ONDEMAND_TEST_DOCKER_HOST"), std::env::var("ONDEMAND_TEST_IMAGE"))
        {
            command.env("ONDEMAND_DOCKER_HOST", host).env("ONDEMAND_DOCKER_IMAGE", image);
        }
        if let Some(programs) = std::env::var_os("ONDEMAND_TEST_POSTGRES") {
            command.env("ONDEMAND_POSTGRES_BIN_DIR", programs);
        }
        Self::run(command, data_dir, &options.environment, options.user)
    }

    /// Starts a proxy that stands alone, and does not wait for it.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn spawn_proxy(data_dir: &Path, options: &ProxyOptions) -> Result<Self> {
        let mut command = program();
        command.arg("proxy").args(&options.arguments);
        Self::run(command, data_dir, &options.environment, options.user)
    }

    /// Starts a program that serves: its API at a port that is free, its proxy at one that it chooses, unless it was told.
    fn run(
        mut command: std::process::Command,
        data_dir: &Path,
        environment: &BTreeMap<String, String>,
        user: Option<(u32, u32)>,
    ) -> Result<Self> {
        let listen = format!("127.0.0.1:{}", free_port());
        if !command.get_args().any(|argument| argument == "--proxy-listen" || argument == "--no-proxy") {
            command.args(["--proxy-listen", "127.0.0.1:0"]);
        }
        command
            .args(["--listen", &listen, "--data-dir"])
            .arg(data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.envs(environment);
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        let mut command = Command::from(command);
        let mut child =
            command.kill_on_drop(true).spawn().with_context(|| format!("starting {}", binary().display()))?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let reader = tokio::spawn(async move {
            let mut reader = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                if let Ok(mut lines) = lines.lock() {
                    lines.push(line);
                }
            }
        });
        let token = environment.get("ONDEMAND_TOKEN").cloned();
        Ok(Self {
            child,
            reader: Some(reader),
            url: format!("http://{listen}"),
            log,
            client: reqwest::Client::new(),
            token,
        })
    }

    /// Waits until it ends by itself, and returns its exit status and what it wrote.
    ///
    /// # Errors
    /// If it still runs after half a minute.
    pub async fn wait(mut self) -> Result<(Option<i32>, String)> {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        let status = ended.with_context(|| format!("it does not end:\n{}", self.log()))??;
        // What it wrote last may still be on its way.
        if let Some(reader) = self.reader.take() {
            reader.await?;
        }
        Ok((status.code(), self.log()))
    }

    /// Returns where it answers.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns where its proxy answers, as it says itself.
    ///
    /// # Errors
    /// If it has not said it.
    pub fn proxy(&self) -> Result<SocketAddr> {
        let log = self.log();
        let said = log.lines().find_map(|line| line.strip_prefix("proxy ready at http://"));
        let said = said.with_context(|| format!("it does not say where its proxy is:\n{log}"))?;
        Ok(said.split(|c: char| " ;".contains(c)).next().unwrap_or_default().parse()?)
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
        let answer = self.request(method, path).body(body).send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        let json = serde_json::from_str(&text).with_context(|| format!("status {status}, not JSON: {text}"))?;
        Ok((status, json))
    }

    /// Begins a request that carries the server's token, if it has one.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request that is to succeed, and returns the JSON of the answer.
    ///
    /// # Errors
    /// If it does not succeed.
    pub async fn succeed(&self, method: &str, path: &str, body: impl Into<reqwest::Body>) -> Result<serde_json::Value> {
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

    /// Sends a request that is to be refused, and returns the problem.
    ///
    /// # Errors
    /// If it is not refused with this status and code, or the problem does not say all it must.
    pub async fn refused(
        &self,
        (method, path): (&str, &str),
        body: impl Into<reqwest::Body>,
        (status, code): (u16, &str),
    ) -> Result<serde_json::Value> {
        let what = format!("{method} {}", path.chars().take(80).collect::<String>());
        let answer = self.request(method.parse()?, path).body(body).send().await.with_context(|| what.clone())?;
        let found = answer.status().as_u16();
        let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).map(ToOwned::to_owned);
        let problem: serde_json::Value = answer.json().await.with_context(|| what.clone())?;
        ensure!(found == status && problem["code"] == code, "{what}: {found}, not {status} {code}: {problem}");
        ensure!(kind.as_deref() == Some("application/problem+json"), "{what}: content type {kind:?}");
        ensure!(problem["status"] == status, "{what}: {problem}");
        ensure!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}: {problem}");
        Ok(problem)
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
