//! A Docker Engine of a test's own, which it may stop and kill.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::{Home, run};

/// The script that starts and stops engines.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/setup/docker.sh");

/// An engine in a home, beside the one that all tests share. It is taken down when it is dropped.
#[derive(Debug)]
pub struct Engine {
    directory: PathBuf,
    /// What the daemon was started with.
    command: Vec<String>,
    /// The daemon, where this started it.
    child: Option<std::process::Child>,
}

impl Engine {
    /// Starts one, with the image of Postgres that the tests' engine has.
    ///
    /// # Errors
    /// If it does not start, or there is no engine to take the image from.
    pub async fn start(home: &Home) -> Result<Self> {
        let directory = home.path().join("engine");
        let mut engine = Self { directory, command: Vec::new(), child: None };
        run(Command::new(SCRIPT).arg("start").arg(&engine.directory)).await?;
        let arguments = std::fs::read(format!("/proc/{}/cmdline", engine.pid()?))?;
        let arguments = arguments.split(|&byte| byte == 0).filter(|word| !word.is_empty());
        engine.command = arguments.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let (host, image) = (std::env::var("ONDEMAND_TEST_DOCKER_HOST")?, std::env::var("ONDEMAND_TEST_IMAGE")?);
        let copy = r#"set -o pipefail; docker --host "$1" save "$2" | docker --host "$3" load"#;
        run(Command::new("bash").args(["-c", copy, "copy", &host, &image, &engine.host()])).await?;
        Ok(engine)
    }

    /// Returns where it listens.
    pub fn host(&self) -> String {
        format!("unix://{}", self.directory.join("docker.sock").display())
    }

    /// Returns a command of the engine's client.
    fn docker(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.host()]).args(words);
        command
    }

    /// Returns the ids of all its containers.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn containers(&self) -> Result<Vec<String>> {
        let ids = run(&mut self.docker(&["ps", "--all", "--quiet", "--no-trunc"])).await?;
        Ok(ids.lines().map(ToOwned::to_owned).collect())
    }

    /// Watches for what happens to containers from now on: `create`, `start`, `die`, `destroy`.
    ///
    /// # Errors
    /// If the clock or the client does not work.
    pub fn watch(&self) -> Result<Events> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        // Said again from that moment on, so nothing is missed before the client is connected.
        let since = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let command =
            self.docker(&["events", "--since", &since, "--filter", "type=container", "--format", "{{.Action}}"]);
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        Ok(Events { lines, _child: child })
    }

    fn pid(&self) -> Result<Pid> {
        let file = self.directory.join("docker.pid");
        let pid = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Pid::from_raw(pid.trim().parse()?).context("a pid")
    }

    /// Ends the daemon with a signal, and returns once it is gone. Its containerd runs on, as it does where an operator stops the one.
    ///
    /// # Errors
    /// If it does not end within a minute.
    pub async fn end(&mut self, signal: Signal) -> Result<()> {
        let pid = self.pid()?;
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        let ours = self.directory.display().to_string();
        ensure!(String::from_utf8_lossy(&command).contains(&ours), "process {pid} is not the daemon");
        pidfd_send_signal(&handle, signal)?;
        tokio::task::spawn_blocking(move || {
            let mut poll = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
            let limit = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
            ensure!(rustix::event::poll(&mut poll, Some(&limit))? == 1, "the daemon did not end");
            Ok(())
        })
        .await??;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        // Where the machine's first process is slow to notice that a process has ended, Docker takes what this names for a live one.
        match std::fs::remove_file(self.directory.join("dockerd.pid")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Starts the daemon again as it was, and returns once it answers.
    ///
    /// # Errors
    /// If it does not within a minute, with the end of its log.
    pub async fn again(&mut self) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let log = self.directory.join("docker.log");
        let file = std::fs::OpenOptions::new().append(true).open(&log)?;
        let (program, arguments) = self.command.split_first().context("it was never started")?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()?;
        std::fs::write(self.directory.join("docker.pid"), child.id().to_string())?;
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(60);
        while run(&mut self.docker(&["version"])).await.is_err() {
            let ended = self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            ensure!(!ended && Instant::now() < deadline, "the daemon does not start again:\n{}", said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let stopped = Command::new(SCRIPT).arg("stop").arg(&self.directory).stdin(Stdio::null()).output();
        let waited = self.child.take().map_or(Ok(()), |mut child| child.wait().map(drop));
        let stopped = stopped.and_then(|output| {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() { Ok(()) } else { Err(io::Error::other(said)) }
        });
        if let Err(error) = stopped.and(waited) {
            eprintln!("the engine in {} could not be taken down: {error}", self.directory.display());
        }
    }
}

/// What happens to containers, as it happens.
#[derive(Debug)]
pub struct Events {
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    _child: Child,
}

impl Events {
    /// Waits until something happens that begins with these words.
    ///
    /// # Errors
    /// If it does not within a minute.
    pub async fn until(&mut self, action: &str) -> Result<()> {
        let seen = async {
            while let Some(line) = self.lines.next_line().await? {
                if line.starts_with(action) {
                    return Ok(());
                }
            }
            anyhow::bail!("the engine has nothing more to say")
        };
        tokio::time::timeout(Duration::from_secs(60), seen).await.with_context(|| format!("no {action}"))?
    }
}
