//! Starting programs so that none runs unrecorded.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use super::BACKEND;
use super::identity::{Identity, Stat};
use super::spares::Spares;
use crate::cgroup::Group;
use crate::error::{Error, Result};
use crate::mark::Mark;
use crate::orchestrator::files::other_user;
use crate::orchestrator::{Mount, RunAs, ServiceSpec};
use crate::own;
use crate::sandbox::{Inside, Sandbox};

/// What a new process does when it has marked itself: it waits for a line. If the process that started it dies before the line is sent, the pipe is
/// closed and it ends.
const WAIT: &str = "; read -r _ || exit 125";
/// It becomes the program.
const BECOME: &str = r#"; exec "$@" </dev/null"#;
/// It stays, as what a sandbox ends with. What else comes on its standard input is the program's environment, see [`TAKE_ENVIRONMENT`].
const STAY: &str = r#"; "$@" 3<&0 </dev/null; exit $?"#;
/// A shell in the sandbox, as the program's user, takes the environment, goes to where the program starts, and becomes it. Given as arguments, everybody
/// could read the environment; and what makes the sandbox may be root, so nothing of the service's own environment is for it. Nor may it enter another
/// user's directories.
const TAKE_ENVIRONMENT: &str = r#"eval "$(cat <&3)"; exec 3<&-; [ "$ondemand_whole" = yes ] || exit 125; unset ondemand_whole; cd -- "$1" || exit 126; shift; exec "$@""#;
/// What comes last: without it, what feeds the pipe has died.
const WHOLE: &str = "ondemand_whole=yes\n";
/// It stays, as what a sandbox ends with, and nothing more comes on its standard input.
const NO_ENVIRONMENT: &str = r#"; "$@" </dev/null; exit $?"#;
/// How a script ends that does the same.
const END: &[u8] = b" </dev/null; exit $?; }\n";

/// Variables that are no secret, and change nothing but the service itself: one that is given no others is spared a shell.
const HARMLESS: &[&str] = &["LANG", "LC_MESSAGES", "NOTIFY_SOCKET"];

/// Where programs are looked for when this process has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variable that carries the stack's id into all its processes.
pub(super) const VARIABLE: &str = "ONDEMAND_STACK";

/// What a service's programs start with.
#[derive(Debug)]
pub(super) struct Setting {
    /// What this orchestrator tells it, as a part of its environment.
    pub(super) told: BTreeMap<String, String>,
    /// The rest of its environment, which the specification gives.
    pub(super) given: BTreeMap<String, String>,
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
    /// Returns a command that marks itself, does what `first` says, and then runs the program whose words follow, in a sandbox where it is to be. What
    /// [`input`](Self::input) returns must come on its standard input.
    fn command(&self, first: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        // A Ctrl-C on the terminal of this process is not meant for it.
        command.env_clear().envs(std::env::var_os("LANG").map(|lang| ("LANG", lang))).process_group(0);
        let script = |last: &str| format!("{}{first}{last}", self.mark.words());
        if let Some(words) = self.sandbox_words() {
            let is_plain = self.is_plain();
            command
                .args(["-c", &script(if is_plain { NO_ENVIRONMENT } else { STAY }), "ondemand-shim"])
                .args(words)
                // Not the service's own.
                .env("PATH", path_variable(&BTreeMap::new()))
                .env(VARIABLE, &self.variable)
                .current_dir("/");
            if !is_plain {
                command.args(["/bin/sh", "-c", TAKE_ENVIRONMENT, "ondemand-shim"]).arg(&self.dir);
            }
            return command;
        }
        command
            .args(["-c", &script(BECOME), "ondemand-shim"])
            .env("PATH", path_variable(&self.given))
            .envs(&self.told)
            .envs(&self.given)
            .env(VARIABLE, &self.variable)
            .current_dir(&self.dir);
        if let Some(user) = self.user.and_then(other_user) {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Returns the words that come before the program's own, where it is to be in a sandbox.
    fn sandbox_words(&self) -> Option<Vec<OsString>> {
        let (sandbox, mounts) = self.sandbox.as_ref()?;
        let inside = Inside { mounts, shm_size: self.shm_size, network: true };
        let is_plain = self.is_plain();
        let plain = self.given.iter().filter(|_| is_plain).chain(&self.told);
        let mut words = sandbox.words(inside, plain);
        words.extend(self.user.map(|user| sandbox.user_words(user)).unwrap_or_default());
        Some(words)
    }

    /// Returns what a shell that waits for a script does to run the program whose words follow, as [`command`](Self::command) does; what it writes
    /// is appended to `log`. None where it would take more than a script.
    fn script<'a>(&self, program: impl Iterator<Item = &'a OsStr>, log: &Path) -> Option<Vec<u8>> {
        let mut words = self.sandbox_words().filter(|_| self.is_plain())?;
        words.extend(program.map(OsStr::to_owned));
        // As one command, so that a part of it is none.
        let mut script = format!("{{ {}; export {VARIABLE}=", self.mark.words()).into_bytes();
        quote(&mut script, OsStr::new(&self.variable));
        script.extend_from_slice(b" PATH=");
        quote(&mut script, &path_variable(&BTreeMap::new()));
        script.extend_from_slice(b"; exec >>");
        quote(&mut script, log.as_os_str());
        script.extend_from_slice(b" 2>&1;");
        for word in words {
            script.push(b' ');
            quote(&mut script, &word);
        }
        script.extend_from_slice(END);
        Some(script)
    }

    /// Tells whether the program needs no shell in its sandbox.
    fn is_plain(&self) -> bool {
        self.dir == Path::new("/") && self.given.keys().all(|name| HARMLESS.contains(&name.as_str()))
    }

    /// Returns what the command reads once it goes on.
    fn input(&self) -> String {
        if self.sandbox.is_none() || self.is_plain() {
            return String::new();
        }
        let line = |(name, value): (&String, &String)| {
            // A shell may refuse to change what is its own, and goes on as this is no special command.
            format!("command export {name}='{}' 2>/dev/null\n", value.replace('\'', r"'\''"))
        };
        self.given.iter().map(line).chain([WHOLE.to_owned()]).collect()
    }

    /// Runs a program beside the service, as to see whether it is healthy. Says what is wrong if it does not succeed within `limit`.
    pub(super) async fn try_out(
        &self,
        words: &[String],
        limit: Duration,
        limits: &Group,
    ) -> Result<Result<(), String>> {
        let failed = |e| Error::io(BACKEND, "starting a health check", e);
        let mut command = self.command(WAIT);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let pipe = child.stdin.take();
        // Not reaped before it is waited for, so the number is still its own.
        let group = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = child.id() {
            enter(limits, pid).await.map_err(failed)?;
        }
        let input = format!("\n{}", self.input());
        let ended = async { tokio::join!(feed(pipe, input.as_bytes()), child.wait()).1 };
        if let Ok(status) = tokio::time::timeout(limit, ended).await {
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
    release: Vec<u8>,
}

/// The end of the pipe to a process that was not released yet.
#[derive(Debug)]
pub(super) struct Leash {
    pipe: Option<ChildStdin>,
    release: Vec<u8>,
}

impl Held {
    /// Starts the process of a service, or takes one that waits; what it writes is appended to `log`.
    pub(super) async fn start(
        service: &ServiceSpec,
        setting: &Setting,
        program: &Path,
        log: &Path,
        boot: &str,
        spares: &Spares,
    ) -> Result<Self> {
        let failed = |what: &str| {
            let operation = format!("{what} service {}", service.name);
            move |e| Error::io(BACKEND, operation, e)
        };
        let out = own::open_with(OpenOptions::new().append(true).create(true).mode(0o600), log);
        let out = out.map_err(failed("opening the log of"))?;
        let words = || [program.as_os_str()].into_iter().chain(service.command[1..].iter().map(OsStr::new));
        let script = setting.script(words(), log);
        let spare = if script.is_some() { spares.take().await } else { None };
        let (child, release) = if let Some(waiting) = spare.zip(script) {
            waiting
        } else {
            let err = out.try_clone().map_err(failed("opening the log of"))?;
            let mut command = setting.command(WAIT);
            command.args(words()).stdin(Stdio::piped()).stdout(out).stderr(err);
            (command.spawn().map_err(failed("starting"))?, format!("\n{}", setting.input()).into_bytes())
        };
        // It is not waited for before this, so the number is still its own.
        let identity = child
            .id()
            .and_then(|pid| Stat::read(pid).map(|stat| Identity { pid, start: stat.start, boot: boot.to_owned() }))
            .ok_or_else(|| failed("identifying")(std::io::Error::other("it has no entry in /proc")))?;
        Ok(Self { identity, sandboxed: setting.sandbox.is_some(), child, release })
    }

    /// Puts it into a control group. It has started nothing yet.
    pub(super) async fn enter(&self, group: &Group) -> Result<()> {
        let entered = enter(group, self.identity.pid).await;
        entered.map_err(|e| Error::io(BACKEND, "putting a process into its control group", e))
    }

    /// Returns what [`release`](Leash::release)s it. Dropped, it ends the process.
    pub(super) fn take_leash(&mut self) -> Leash {
        Leash { pipe: self.child.stdin.take(), release: std::mem::take(&mut self.release) }
    }

    /// Ends a process that was not released.
    pub(super) async fn discard(mut self) {
        drop(self.take_leash());
        self.wait().await;
    }

    /// Waits until it has ended. Returns its exit status, 128 + n for signal n.
    pub(super) async fn wait(&mut self) -> Option<i32> {
        // The library closes the pipe here if it was not taken.
        self.child.wait().await.ok().and_then(exit_status)
    }
}

/// Puts a process into a control group, which takes the kernel milliseconds.
async fn enter(group: &Group, pid: u32) -> std::io::Result<()> {
    if group.is_empty() {
        return Ok(());
    }
    let group = group.clone();
    tokio::task::spawn_blocking(move || group.put(pid)).await?
}

impl Leash {
    /// Lets the process at the other end become its program.
    pub(super) async fn release(self) -> Result<()> {
        let released = feed(self.pipe, &self.release).await;
        released.map_err(|e| Error::io(BACKEND, "starting a process", e))
    }
}

/// Writes all that a process reads. If it was killed meanwhile, waiting for it tells.
async fn feed(pipe: Option<ChildStdin>, input: &[u8]) -> std::io::Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    match pipe.write_all(input).await {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e),
        _ => Ok(()),
    }
}

/// Appends a word as a shell reads it.
fn quote(script: &mut Vec<u8>, word: &OsStr) {
    script.push(b'\'');
    for &byte in word.as_bytes() {
        if byte == b'\'' { script.extend_from_slice(br"'\''") } else { script.push(byte) }
    }
    script.push(b'\'');
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
            told: BTreeMap::new(),
            given: BTreeMap::new(),
            dir: "/".into(),
            user: None,
            variable: "variable".into(),
            mark: Mark::of("test"),
            sandbox: None,
            shm_size: None,
        };
        let (log, spares) = (dir.path().join("log"), Spares::default());
        let start = async || Held::start(&spec, &setting, program, &log, "boot", &spares).await.expect("a process");
        let mut held = start().await;
        drop(held.take_leash());
        assert_eq!(held.wait().await, Some(125));
        assert!(!ran.exists());

        let mut held = start().await;
        held.take_leash().release().await.expect("it waits");
        assert_eq!(held.wait().await, Some(0));
        assert!(ran.exists());
    }
}
