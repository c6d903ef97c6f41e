//! Starting programs so that none runs unrecorded.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use super::BACKEND;
use super::identity::{Identity, Stat};
use crate::error::{Error, Result};
use crate::mark::Mark;
use crate::orchestrator::files::other_user;
use crate::orchestrator::{Mount, RunAs, ServiceSpec};
use crate::sandbox::{Inside, Sandbox};

/// What a new process does when it has marked itself: it waits for a line. If the process that started it dies before the line is sent, the pipe is
/// closed and it ends.
const WAIT: &str = "; read -r _ || exit 125";
/// It becomes the program.
const BECOME: &str = r#"; exec "$@" </dev/null"#;
/// It stays, as what a sandbox ends with.
const STAY: &str = r#"; "$@" </dev/null; exit $?"#;

/// Where programs are looked for when this process has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variable that carries the stack's id into all its processes.
pub(super) const VARIABLE: &str = "ONDEMAND_STACK";

/// What a service's programs start with.
#[derive(Debug)]
pub(super) struct Setting {
    /// Its environment: what the specification says, and what this orchestrator tells it.
    pub(super) env: BTreeMap<String, String>,
    /// Where it starts.
    pub(super) dir: PathBuf,
    /// Whom it runs as.
    pub(super) user: Option<RunAs>,
    /// What identifies its stack, for [`VARIABLE`].
    pub(super) variable: String,
    /// What all carry that comes from it.
    pub(super) mark: Mark,
    /// What they are put in, and what they see there.
    pub(super) sandbox: Option<(Sandbox, Vec<Mount>)>,
    /// The size of their shared memory, where they have one of their own.
    pub(super) shm_size: Option<u64>,
}

impl Setting {
    /// Returns a command that marks itself, does what `first` says, and then runs the program whose words follow, in a sandbox where it is to be.
    fn command(&self, first: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        // A Ctrl-C on the terminal of this process is not meant for it.
        command.env_clear().envs(std::env::var_os("LANG").map(|lang| ("LANG", lang))).process_group(0);
        let script = |last: &str| format!("{}{first}{last}", self.mark.words());
        if let Some((sandbox, mounts)) = &self.sandbox {
            let inside = Inside { mounts, shm_size: self.shm_size, dir: &self.dir };
            command
                .args(["-c", &script(STAY), "ondemand-shim"])
                .args(sandbox.words(inside, &self.env))
                .args(self.user.map(|user| sandbox.user_words(user)).unwrap_or_default())
                // It may be root: nothing of the service's own environment is for it.
                .env("PATH", DEFAULT_PATH)
                .env(VARIABLE, &self.variable)
                .current_dir("/");
            return command;
        }
        command
            .args(["-c", &script(BECOME), "ondemand-shim"])
            .env("PATH", path_variable(&self.env))
            .envs(&self.env)
            .env(VARIABLE, &self.variable)
            .current_dir(&self.dir);
        if let Some(user) = self.user.and_then(other_user) {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Runs a program beside the service, as to see whether it is healthy. Says what is wrong if it does not succeed within `limit`.
    pub(super) async fn try_out(&self, words: &[String], limit: Duration) -> Result<Result<(), String>> {
        let failed = |e| Error::io(BACKEND, "starting a health check", e);
        let mut command = self.command("");
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        // Not reaped before it is waited for, so the number is still its own.
        let group = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Ok(status) = tokio::time::timeout(limit, child.wait()).await {
            return Ok(match exit_status(status.map_err(failed)?) {
                Some(0) => Ok(()),
                Some(status) => Err(format!("its health check ends with status {status}")),
                None => Err("its health check ends, and its status is not known".into()),
            });
        }
        if let Some(group) = group {
            // What it started is in its group; that all have ended meanwhile is no error.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        child.wait().await.map_err(failed)?;
        Ok(Err(format!("its health check takes more than {:.1} s", limit.as_secs_f64())))
    }
}

/// Returns where programs are looked for by one with this environment.
pub(super) fn path_variable(env: &BTreeMap<String, String>) -> OsString {
    let given = env.get("PATH").map(Into::into);
    given.or_else(|| std::env::var_os("PATH")).unwrap_or_else(|| DEFAULT_PATH.into())
}

/// A process that has not become its program yet. Dropped, it ends without having done anything.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) identity: Identity,
    /// Whether its program is in a sandbox, which ends with it.
    pub(super) sandboxed: bool,
    child: Child,
}

impl Held {
    /// Starts the process of a service; what it writes is appended to `log`.
    pub(super) fn spawn(
        service: &ServiceSpec,
        setting: &Setting,
        program: &Path,
        log: &Path,
        boot: &str,
    ) -> Result<Self> {
        let failed = |what: &str| {
            let operation = format!("{what} service {}", service.name);
            move |e| Error::io(BACKEND, operation, e)
        };
        let out = OpenOptions::new().append(true).create(true).mode(0o600).open(log);
        let out = out.map_err(failed("opening the log of"))?;
        let err = out.try_clone().map_err(failed("opening the log of"))?;
        let mut command = setting.command(WAIT);
        command.arg(program).args(&service.command[1..]).stdin(Stdio::piped()).stdout(out).stderr(err);
        let child = command.spawn().map_err(failed("starting"))?;
        // It is not waited for before this, so the number is still its own.
        let identity = child
            .id()
            .and_then(|pid| Stat::read(pid).map(|stat| Identity { pid, start: stat.start, boot: boot.to_owned() }))
            .ok_or_else(|| failed("identifying")(std::io::Error::other("it has no entry in /proc")))?;
        Ok(Self { identity, sandboxed: setting.sandbox.is_some(), child })
    }

    /// Returns the end of the pipe that [`release`] writes to. Dropped, it ends the process.
    pub(super) fn take_pipe(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Ends a process that was not released.
    pub(super) async fn discard(mut self) {
        drop(self.take_pipe());
        self.wait().await;
    }

    /// Waits until it has ended. Returns its exit status, 128 + n for signal n.
    pub(super) async fn wait(&mut self) -> Option<i32> {
        // The library closes the pipe here if it was not taken.
        self.child.wait().await.ok().and_then(exit_status)
    }
}

/// Lets the process at the other end become its program.
pub(super) async fn release(pipe: Option<ChildStdin>) -> Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    match pipe.write_all(b"\n").await {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io(BACKEND, "starting a process", e)),
        // If it was killed meanwhile, waiting for it tells.
        _ => Ok(()),
    }
}

fn exit_status(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ServiceName;

    fn service(command: &[&str]) -> ServiceSpec {
        ServiceSpec::new(
            ServiceName::new("main").expect("a name"),
            command.iter().map(|&word| word.to_owned()).collect(),
        )
    }

    #[tokio::test]
    async fn what_is_not_released_never_runs() {
        let dir = tempfile::tempdir().expect("a directory");
        let ran = dir.path().join("ran");
        let spec = service(&["touch", ran.to_str().expect("UTF-8")]);
        let program = Path::new("touch");
        let setting = Setting {
            env: BTreeMap::new(),
            dir: "/".into(),
            user: None,
            variable: "variable".into(),
            mark: Mark::of("test"),
            sandbox: None,
            shm_size: None,
        };
        let spawn = || Held::spawn(&spec, &setting, program, &dir.path().join("log"), "boot").expect("a process");
        let mut held = spawn();
        drop(held.take_pipe());
        assert_eq!(held.wait().await, Some(125));
        assert!(!ran.exists());

        let mut held = spawn();
        release(held.take_pipe()).await.expect("it waits");
        assert_eq!(held.wait().await, Some(0));
        assert!(ran.exists());
    }
}
