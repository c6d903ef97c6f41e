//! Where the script is run, and how it ends.

use std::collections::BTreeMap;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use ondemand_core::Secret;
use ondemand_tests::{Forge, eventually};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// The script.
pub(crate) const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ondemand-core/runner/run.sh");
/// What it clones.
pub(crate) const REPOSITORY: &str = "shop/back-web";
/// The shells of Debian and of Alpine.
pub(crate) const SHELLS: [&[&str]; 2] = [&["dash"], &["busybox", "sh"]];

/// A container's worth of files, in which the script is started, perhaps again and again.
pub(crate) struct Place {
    shell: &'static [&'static str],
    pub(crate) directory: tempfile::TempDir,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) arguments: Vec<String>,
}

/// How it ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) output: String,
    pub(crate) log: String,
}

/// What has not ended yet.
pub(crate) struct Running {
    child: tokio::process::Child,
    pub(crate) pid: Pid,
}

impl Place {
    pub(crate) fn new(
        shell: &'static [&'static str],
        forge: &Forge,
        commit: &str,
        token: Option<&Secret>,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut place = Self { shell, directory, env: BTreeMap::new(), arguments: Vec::new() };
        place.set("ONDEMAND_REPOSITORY_URL", format!("{}/{REPOSITORY}.git", forge.url()));
        place.set("ONDEMAND_COMMIT", commit);
        place.set("ONDEMAND_BRANCH", "main");
        if let Some(token) = token {
            std::fs::write(place.path("token"), format!("{}\n", token.expose()))?;
            place.set("ONDEMAND_TOKEN_FILE", place.path("token").display());
        }
        Ok(place)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn set(&mut self, name: &str, value: impl std::fmt::Display) {
        self.env.insert(name.into(), value.to_string());
    }

    pub(crate) fn start(&self) -> Result<Running> {
        let mut command = std::process::Command::new(self.shell[0]);
        command.args(&self.shell[1..]).arg(SCRIPT).args(&self.arguments).current_dir(self.directory.path());
        command.env_clear().env("PATH", std::env::var("PATH")?).env("HOME", self.directory.path()).envs(&self.env);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).context("it has no number")?;
        Ok(Running { child, pid })
    }

    pub(crate) async fn run(&self) -> Result<Ended> {
        self.start()?.end().await
    }

    /// Waits until a file is there.
    pub(crate) async fn sees(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        eventually(async || if path.exists() { Ok(()) } else { Err(format!("{name} is not there")) }).await
    }
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }

    pub(crate) async fn end(self) -> Result<Ended> {
        let pid = self.pid;
        let output = tokio::time::timeout(std::time::Duration::from_secs(60), self.child.wait_with_output()).await;
        if output.is_err() {
            kill_process_group(pid, Signal::KILL)?;
        }
        let output = output.context("it does not end")??;
        Ok(Ended {
            code: output.status.code(),
            signal: output.status.signal(),
            output: String::from_utf8(output.stdout)?,
            log: String::from_utf8(output.stderr)?,
        })
    }
}
