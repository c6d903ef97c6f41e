//! What an operator would do without this program: `docker stack deploy`, and wait until it answers.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ondemand_tests::cluster::variable;
use ondemand_tests::{Cluster, run};
use serde_json::Value;

/// How often it is looked whether something has come.
const PAUSE: Duration = Duration::from_millis(10);
/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The API of the manager's engine.
pub(crate) struct Manager {
    http: reqwest::Client,
    web: reqwest::Client,
}

impl Manager {
    pub(crate) fn new() -> Result<Self> {
        let host = variable("ONDEMAND_TEST_SWARM_HOST")?;
        let socket = host.strip_prefix("unix://").context("a socket")?.to_owned();
        let http = reqwest::Client::builder().unix_socket(socket).build()?;
        Ok(Self { http, web: reqwest::Client::builder().no_proxy().build()? })
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let text = self.http.get(format!("http://docker{path}")).send().await?.error_for_status()?.text().await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Returns the tasks of the stack of this name.
    async fn tasks(&self, stack: &str) -> Result<Vec<Value>> {
        let filter = format!("%7B%22label%22%3A%5B%22com.docker.stack.namespace%3D{stack}%22%5D%7D");
        Ok(self.get(&format!("/tasks?filters={filter}")).await?.as_array().cloned().unwrap_or_default())
    }

    /// Deploys a stack, and returns how long it took until its service answered where it runs.
    pub(crate) async fn deploy(&self, cluster: &Cluster, name: &str, compose: &Path) -> Result<Duration> {
        let nodes = self.get("/nodes").await?;
        let address = |task: &Value| {
            let node = nodes.as_array()?.iter().find(|node| node["ID"] == task["NodeID"])?;
            let port = task["Status"]["PortStatus"]["Ports"][0]["PublishedPort"].as_u64()?;
            Some(format!("{}:{port}", node["Status"]["Addr"].as_str()?))
        };
        let file = compose.to_str().context("a path")?;
        let begun = Instant::now();
        run(&mut cluster.docker(&["stack", "deploy", "--compose-file", file, &format!("peer-{name}")])?).await?;
        loop {
            let tasks = self.tasks(&format!("peer-{name}")).await?;
            let running = tasks.iter().find(|task| task["Status"]["State"] == "running");
            if let Some(address) = running.and_then(address)
                && let Ok(answer) = self.web.get(format!("http://{address}/")).send().await
                && answer.status().is_success()
            {
                return Ok(begun.elapsed());
            }
            ensure!(begun.elapsed() < PATIENCE, "it does not answer: {tasks:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Removes a stack, and returns once its tasks have ended and its network is gone.
    pub(crate) async fn remove(&self, cluster: &Cluster, name: &str) -> Result<()> {
        run(&mut cluster.docker(&["stack", "rm", &format!("peer-{name}")])?).await?;
        let begun = Instant::now();
        while !self.tasks(&format!("peer-{name}")).await?.is_empty() {
            ensure!(begun.elapsed() < PATIENCE, "its tasks do not end");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Returns how long it takes until an environment's tasks have ended.
    pub(crate) async fn tasks_end(&self, cluster: &Cluster, name: &str) -> Result<Duration> {
        let begun = Instant::now();
        let stack = format!("{}_env-{name}", cluster.instance()?);
        while !self.tasks(&stack).await?.is_empty() {
            ensure!(begun.elapsed() < PATIENCE, "its tasks do not end");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(begun.elapsed())
    }
}
