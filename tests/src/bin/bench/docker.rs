//! The floor with containers: a snapshot and `docker run` of the same image.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::first_query;
use crate::floor::Floor;

/// A Docker Engine and the image to run on it.
pub(crate) struct Engine {
    host: String,
    image: String,
}

impl Engine {
    /// Returns the engine that the test machinery announces.
    pub(crate) fn from_environment() -> Option<Self> {
        Some(Self {
            host: std::env::var("ONDEMAND_TEST_DOCKER_HOST").ok()?,
            image: std::env::var("ONDEMAND_TEST_IMAGE").ok()?,
        })
    }

    /// Returns the time from nothing to the first answer.
    pub(crate) async fn once(&self, floor: &Floor) -> Result<Duration> {
        let begun = Instant::now();
        let (volume, port) = tokio::task::block_in_place(|| floor.clone_volume())?;
        let run_dir = tempfile::Builder::new().prefix("odf").tempdir_in("/tmp")?;
        std::os::unix::fs::chown(run_dir.path(), Some(floor.user.0), Some(floor.user.1))?;
        let command = floor.command(&volume, 5432, run_dir.path());
        let files = command
            .iter()
            .find_map(|argument| argument.strip_prefix("config_file="))
            .and_then(|path| std::path::Path::new(path).parent())
            .context("it was started without config_file")?;
        let mount = |path: &std::path::Path| format!("{0}:{0}", path.display());
        let output = Command::new("docker")
            .args(["-H", &self.host, "run", "--detach", "--init", "--shm-size", "1g"])
            .args(["--user", &format!("{}:{}", floor.user.0, floor.user.1)])
            .args(["--publish", &format!("127.0.0.1:{port}:5432")])
            .args(["--volume", &mount(&volume), "--volume", &mount(run_dir.path()), "--volume", &mount(files)])
            .arg(&self.image)
            .args(&command)
            .output()
            .await?;
        ensure!(output.status.success(), "docker run: {}", String::from_utf8_lossy(&output.stderr));
        let container = String::from_utf8(output.stdout)?.trim().to_owned();
        let answered = self.answered(&floor.url(port)).await;
        let took = begun.elapsed();
        let removed = Command::new("docker").args(["-H", &self.host, "rm", "--force", &container]).output().await?;
        ensure!(removed.status.success(), "docker rm: {}", String::from_utf8_lossy(&removed.stderr));
        libbtrfsutil::delete_subvolume(&volume)?;
        answered?;
        Ok(took)
    }

    /// Asks until there is an answer, as a script around `docker run` would, at short intervals.
    async fn answered(&self, url: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match first_query(url).await {
                Ok(()) => return Ok(()),
                Err(error) => ensure!(Instant::now() < deadline, "no answer within 30 s: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
