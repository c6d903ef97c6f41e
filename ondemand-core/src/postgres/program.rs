//! Running PostgreSQL's programs: as whom, with what environment, what they say, and how they end.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::listing::usable;
use crate::mark::Mark;
use crate::name::AttemptId;
use crate::orchestrator::{Mount, RunAs};
use crate::proc;
use crate::sandbox::{self, Inside, Sandbox};

mod strays;

/// Parts of the messages about a full disk. The last is all that Postgres says when it cannot write a file of its caches.
const DISK_FULL: [&str; 3] = ["No space left on device", "Disk quota exceeded", "could not write init file"];

/// Tells whether a line is such a message.
pub(crate) fn says_disk_full(line: &str) -> bool {
    DISK_FULL.iter().any(|words| line.contains(words))
}

/// Tells whether a server refused something as its disk is full.
pub(crate) fn is_disk_full(error: &tokio_postgres::Error) -> bool {
    let told = error.as_db_error().is_some_and(|error| says_disk_full(error.message()));
    told || error.code() == Some(&tokio_postgres::error::SqlState::DISK_FULL)
}

/// Makes the error for what a server refused.
pub(crate) fn sql_error(what: &str, error: tokio_postgres::Error) -> Error {
    if is_disk_full(&error) {
        return Error::OutOfSpace { message: format!("{what}: {}", error.as_db_error().map_or("", |db| db.message())) };
    }
    Error::backend("postgres", what, error)
}

/// How many of the last lines of a program are kept.
const KEPT_LINES: usize = 40;
/// How much of a line is kept, in bytes.
const KEPT_OF_LINE: usize = 1000;
/// The variable that carries an import's attempt into its programs, and what they start.
const VARIABLE: &str = "ONDEMAND_IMPORT";

/// Makes a command that runs as `user`, with nothing of this process's environment but a search path, in a group of its own so
/// that a Ctrl-C at the terminal does not reach it, and with messages in English so that they can be understood here.
pub(crate) fn command(program: &Path, user: RunAs) -> Command {
    let mut command = bare_command(program);
    if nix::unistd::geteuid().is_root() {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Makes a command as [`command`] does, that runs as this process's user.
fn bare_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Explains why a program could not be started.
pub(crate) fn spawn_error(program: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        return Error::Unsupported {
            message: format!("{} does not exist", program.display()),
            hint: "apt-get install postgresql postgresql-client, or set postgres.bin-dir".into(),
        };
    }
    Error::io("postgres", format!("starting {}", program.display()), error)
}

/// The programs that an import has running, so that they can be ended wherever it stops.
///
/// Each is held by a pid file descriptor: its number may be given to a stranger, the descriptor stays with the process.
///
/// A dump is a program that can start others. They are in the group of the program that reads it, or else known by the
/// [signs](Signs) that all of an import's programs carry. Where there are sandboxes, each program is in one of its own, and the kernel ends what it
/// started when it ends; a shell stays outside, as what the sandbox ends with.
#[derive(Debug, Clone)]
pub(crate) struct Processes {
    attempt: AttemptId,
    user: RunAs,
    sandbox: Option<Sandbox>,
    started: Arc<Mutex<Vec<Process>>>,
}

/// What the programs of an import are known by, and what they start: to a later process, too, which has nothing but the attempt's id.
#[derive(Debug, Clone)]
struct Signs {
    mark: Mark,
    /// A line of their environment, for where they could not be marked.
    line: String,
}

impl Signs {
    fn of(attempt: &AttemptId) -> Self {
        Self { mark: Mark::of(&format!("import {attempt}")), line: format!("{VARIABLE}={attempt}") }
    }
}

/// Kills what the programs of an import have started, and what still runs of themselves.
pub(crate) async fn end_strays(attempt: &AttemptId, user: RunAs) {
    // What makes a sandbox is this process's own user's.
    strays::end_signed(Signs::of(attempt), vec![nix::unistd::geteuid().as_raw(), user.uid]).await;
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    /// What asks it to end; a server must be asked, each kind in its own way, or it leaves shared memory behind. In a sandbox it has memory of its own.
    signal: Signal,
}

impl Processes {
    /// Begins the list of an attempt, whose programs run as `user`, and in sandboxes where there are any.
    pub(crate) fn new(attempt: AttemptId, user: RunAs, sandbox: Option<Sandbox>) -> Self {
        Self { attempt, user, sandbox, started: Arc::default() }
    }

    /// Makes a command as [`command`] does, whose process carries the signs of the attempt. In a sandbox it sees these mounts of the host, and has no
    /// network.
    pub(crate) fn command(&self, program: &Path, mounts: &[Mount]) -> Command {
        let Signs { mark, line: _ } = Signs::of(&self.attempt);
        let script = |last: &str| format!("{}; {last}", mark.words());
        let shell = Path::new("/bin/sh");
        let mut command = if let Some(sandbox) = &self.sandbox {
            let inside = Inside { mounts, shm_size: None, network: false };
            let mut command = bare_command(shell);
            command.args(["-c", &script(r#""$@"; exit $?"#), "ondemand-import"]);
            command.args(sandbox.words(inside, [])).args(sandbox.user_words(self.user));
            command
        } else {
            let mut command = command(shell, self.user);
            command.args(["-c", &script(r#"exec "$@""#), "ondemand-import"]);
            command
        };
        command.arg(program).env(VARIABLE, self.attempt.as_str());
        command
    }

    /// Returns the users that the programs, and what holds their sandboxes, run as.
    fn users(&self) -> Vec<u32> {
        let own = nix::unistd::geteuid();
        let outside = self.sandbox.is_some() || !own.is_root();
        outside.then_some(own.as_raw()).into_iter().chain(own.is_root().then_some(self.user.uid)).collect()
    }

    /// Starts a program and remembers it.
    pub(crate) fn spawn(&self, program: &Path, command: &mut Command) -> Result<Child> {
        self.start(program, command, Signal::KILL)
    }

    /// Starts a PostgreSQL server and remembers it.
    pub(crate) fn spawn_server(&self, program: &Path, command: &mut Command) -> Result<Child> {
        self.start(program, command, Signal::QUIT)
    }

    /// Starts PostgreSQL in single-user mode and remembers it.
    pub(crate) fn spawn_single(&self, program: &Path, command: &mut Command) -> Result<Child> {
        self.start(program, command, Signal::TERM)
    }

    fn start(&self, program: &Path, command: &mut Command, signal: Signal) -> Result<Child> {
        // The list is locked before the program starts: there is no moment in which it runs and is not listed.
        let mut started = self.lock();
        if !usable(program) {
            return Err(spawn_error(program, io::ErrorKind::NotFound.into()));
        }
        let mut child = command.spawn().map_err(|e| spawn_error(program, e))?;
        // Its number is its own until it is waited for, and nobody else waits for it.
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let pid = pid.ok_or(rustix::io::Errno::SRCH);
        match pid.and_then(|pid| Ok((pid, pidfd_open(pid, PidfdFlags::empty())?))) {
            Ok((pid, pidfd)) => {
                let signal = if self.sandbox.is_some() { Signal::KILL } else { signal };
                started.push(Process { pid, pidfd, signal });
            }
            Err(error) => {
                // It has only just started: nothing is lost by killing it.
                let _ = child.start_kill();
                return Err(Error::io("postgres", format!("watching {}", program.display()), error.into()));
            }
        }
        Ok(child)
    }

    /// Sends `signal` to the program of a child that has not been waited for.
    pub(crate) fn signal(&self, child: &Child, signal: Signal) -> io::Result<()> {
        // Not waited for, so its number is its own.
        let child = child.id().ok_or(rustix::io::Errno::SRCH)?;
        let program = || sandbox::program(proc::descendants(child));
        let found = if self.sandbox.is_some() { program() } else { Some(child) };
        let pid = found.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let pidfd = pidfd_open(pid.ok_or(rustix::io::Errno::SRCH)?, PidfdFlags::empty())?;
        // The sandbox waits for its program: only now can its number be no other process's.
        if self.sandbox.is_some() && program() != found {
            return Err(rustix::io::Errno::SRCH.into());
        }
        Ok(pidfd_send_signal(&pidfd, signal)?)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Process>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all that still run, the programs before the servers, and waits until they have ended. What came from them and
    /// survived them is killed.
    pub(crate) async fn end_all(&self) {
        let mut list = std::mem::take(&mut *self.lock());
        if list.is_empty() {
            return;
        }
        let users = self.users();
        list.sort_by_key(|process| process.signal == Signal::QUIT);
        for Process { pid, pidfd, signal } in list {
            let members = strays::group(pid, users.clone()).await;
            // If it has been waited for already, nobody knows whose its number was while the members were looked for.
            if end_if_there(pidfd, signal).await {
                strays::end_each(members).await;
            }
        }
        strays::end_signed(Signs::of(&self.attempt), users).await;
    }
}

/// Waits until a process has ended, for as long as `limit` at most: then its descriptor becomes readable. Blocking.
fn ended(pidfd: &OwnedFd, limit: Option<Duration>) -> bool {
    let limit = limit.and_then(|limit| rustix::event::Timespec::try_from(limit).ok());
    let mut fds = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut fds, limit.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready.is_ok_and(|ready| ready > 0),
        }
    }
}

/// Gives a process time to end by itself, and ends it then.
pub(crate) async fn let_end(pidfd: OwnedFd, time: Duration, signal: Signal) {
    let waiting = tokio::task::spawn_blocking(move || if ended(&pidfd, Some(time)) { None } else { Some(pidfd) });
    if let Ok(Some(pidfd)) = waiting.await {
        end(pidfd, signal).await;
    }
}

/// Sends `signal` to a process, and `SIGKILL` if it has not ended ten seconds later; returns when it has.
pub(crate) async fn end(pidfd: OwnedFd, signal: Signal) {
    end_if_there(pidfd, signal).await;
}

/// Does what [`end`] does, and returns whether there was a process to end: not if it had been waited for already.
async fn end_if_there(pidfd: OwnedFd, signal: Signal) -> bool {
    if pidfd_send_signal(&pidfd, signal).is_err() {
        return false;
    }
    let waiting = tokio::task::spawn_blocking(move || {
        if !ended(&pidfd, Some(Duration::from_secs(10))) {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            ended(&pidfd, None);
        }
    });
    // It fails only where the runtime is being shut down.
    let _ = waiting.await;
    true
}

/// What a program has said: its first error and its last lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    first_error: Option<String>,
    last: VecDeque<String>,
    disk_full: bool,
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the first line that reports an error.
    pub(crate) fn first_error(&self) -> Option<String> {
        self.lock().first_error.clone()
    }

    /// Returns the last lines.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.lock().last.iter().cloned().collect()
    }

    /// Tells whether it complained of a full disk.
    pub(crate) fn disk_full(&self) -> bool {
        self.lock().disk_full
    }

    /// Takes a line.
    pub(crate) fn push(&self, line: &str) {
        let line = mask_passwords(line.trim_end());
        let mut lines = self.lock();
        lines.disk_full |= says_disk_full(&line);
        if lines.first_error.is_none() && ["ERROR:", "FATAL:", "PANIC:", "error:"].iter().any(|m| line.contains(m)) {
            lines.first_error = Some(line.clone());
        }
        if lines.last.len() == KEPT_LINES {
            lines.last.pop_front();
        }
        lines.last.push_back(line);
    }

    /// Takes what `stream` says until it ends. Lines that `skip` returns true for are not kept.
    pub(crate) fn listen(
        &self,
        stream: impl AsyncRead + Unpin + Send + 'static,
        mut skip: impl FnMut(&str) -> bool + Send + 'static,
    ) -> JoinHandle<()> {
        let said = self.clone();
        tokio::spawn(async move {
            let mut take = |line: &[u8]| {
                let line = String::from_utf8_lossy(line);
                if !line.trim().is_empty() && !skip(&line) {
                    said.push(&line);
                }
            };
            let mut stream = stream;
            let mut buffer = [0; 8192];
            let mut line = Vec::new();
            // A line has no limit of its own: an error may quote a megabyte of data.
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                for &byte in &buffer[..read] {
                    if byte == b'\n' {
                        take(&line);
                        line.clear();
                    } else if line.len() < KEPT_OF_LINE {
                        line.push(byte);
                    }
                }
            }
            take(&line);
        })
    }
}

/// Hides what follows the word "password" in quotes: PostgreSQL quotes the statement it cannot understand.
pub(crate) fn mask_passwords(line: &str) -> String {
    let Some(at) = line.to_ascii_lowercase().find("password") else { return line.to_owned() };
    let Some(quote) = line[at..].find('\'').map(|i| at + i) else { return line.to_owned() };
    format!("{}'****'", &line[..quote])
}

/// Waits for a program that was started with [`command`], and returns whether it succeeded and what it said.
pub(crate) async fn finish(mut child: Child, listening: JoinHandle<()>) -> io::Result<std::process::ExitStatus> {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
        strays::end_group_after(pid).await?;
    }
    let status = child.wait().await?;
    // Its last words are in the pipe by now, and are read as soon as this waits. A grandchild may hold the pipe open for longer: it is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(2), listening).await;
    Ok(status)
}

/// As [`finish`], and kills the program once `stop` is set.
pub(crate) async fn finish_or_kill(
    child: Child,
    listening: JoinHandle<()>,
    stop: &CancellationToken,
) -> io::Result<std::process::ExitStatus> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    // It has not been waited for, so its number is its own.
    let pidfd = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())).transpose()?;
    let mut finished = std::pin::pin!(finish(child, listening));
    tokio::select! {
        status = &mut finished => return status,
        () = stop.cancelled() => {}
    }
    if let Some(pidfd) = pidfd {
        // It may have ended meanwhile.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
    finished.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden() {
        assert_eq!(
            mask_passwords("LINE 1: ALTER ROLE x PASSWORD 'hunter2' FOO;"),
            "LINE 1: ALTER ROLE x PASSWORD '****'"
        );
        assert_eq!(mask_passwords("password too long"), "password too long");
    }

    #[test]
    fn a_full_disk_has_several_words() {
        for line in [
            "FATAL:  could not write init file",
            "ERROR:  could not extend file \"base/1/2\": No space left on device",
            "PANIC:  could not write to file: Disk quota exceeded",
        ] {
            assert!(says_disk_full(line), "{line}");
        }
        assert!(!says_disk_full("FATAL:  could not open file \"base/1/2\": Permission denied"));
    }

    #[tokio::test]
    async fn the_first_error_and_the_end_are_kept() {
        let text = format!(
            "NOTICE: hi\nx: ERROR: first\nx: ERROR: second\n{}\n{}",
            "y".repeat(1 << 20),
            "could not extend file: No space left on device"
        );
        let said = Said::default();
        said.listen(std::io::Cursor::new(text.into_bytes()), |line| line.starts_with("NOTICE")).await.expect("the end");
        assert_eq!(said.first_error().as_deref(), Some("x: ERROR: first"));
        assert_eq!(said.tail().len(), 4);
        assert_eq!(said.tail()[2].len(), KEPT_OF_LINE);
        assert!(said.disk_full());
    }

    #[tokio::test]
    async fn what_runs_is_ended() {
        let user = RunAs { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        let processes = Processes::new(AttemptId::random().expect("randomness"), user, None);
        let program = Path::new("/bin/sleep");
        let mut child = processes.spawn(program, processes.command(program, &[]).arg("600")).expect("a process");
        processes.end_all().await;
        let status = child.wait().await.expect("a status");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        processes.end_all().await;
    }
}
