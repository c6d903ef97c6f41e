//! A temporary data directory, with all that may have been left in it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A directory that other users may pass through, as Postgres must. When it is dropped, the processes and containers that work in it
/// are ended, what is mounted in it is unmounted, and it is removed, with the runtime directories of the data directories in it.
#[derive(Debug)]
pub struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    /// Makes one, in `TMPDIR`. Where that is not set it is on a disk, since `/tmp` may be memory.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self> {
        let place = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let directory = tempfile::Builder::new().prefix("ondemand-test-").tempdir_in(place)?;
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o711))?;
        Ok(Self { directory })
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the data directory that most tests use.
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Writes a file in it, and returns its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::write(&path, contents)?;
        Ok(path)
    }

    /// Returns the processes of Postgres whose data directory is in it, as far as they are on the command line.
    ///
    /// # Errors
    /// If the processes of the machine cannot be listed.
    pub fn servers(&self) -> Result<Vec<(Pid, PathBuf)>> {
        let found: Vec<_> = pids()?.into_iter().filter_map(|pid| Some((pid, self.data_directory(pid)?))).collect();
        // A process that a server has just started has the server's command line until it has a title of its own.
        // One that has ended meanwhile is neither.
        let is_server = |pid: &Pid| parent(*pid).is_some_and(|parent| found.iter().all(|(other, _)| *other != parent));
        Ok(found.iter().filter(|(pid, _)| is_server(pid)).cloned().collect())
    }

    /// Returns the data directory of a process, if it is a Postgres that works in this home.
    fn data_directory(&self, pid: Pid) -> Option<PathBuf> {
        let words = command_line(pid)?;
        // In a container, the first process has Postgres's command line after its own name; it is not Postgres.
        if !words.first()?.ends_with("/postgres") {
            return None;
        }
        words.into_iter().map(PathBuf::from).find(|path| path.starts_with(self.path()))
    }

    /// Ends one of its Postgres processes, as a crash would, and returns once it is gone.
    ///
    /// # Errors
    /// If it is not one of its processes, or does not end.
    pub fn kill(&self, pid: Pid, signal: Signal) -> Result<()> {
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        ensure!(self.data_directory(pid).is_some(), "process {pid} does not work in {}", self.path().display());
        pidfd_send_signal(&handle, signal)?;
        let mut poll = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
        ensure!(rustix::event::poll(&mut poll, Some(&limit))? == 1, "process {pid} did not end");
        Ok(())
    }

    /// Returns every process that works in it or names it on its command line, with that command line.
    ///
    /// # Errors
    /// If the processes of the machine cannot be listed.
    pub fn processes(&self) -> Result<Vec<(Pid, String)>> {
        let here = |path: &Path| path.starts_with(self.path());
        let mut found = Vec::new();
        for pid in pids()? {
            let words = command_line(pid).unwrap_or_default();
            let works_here = std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| here(&cwd));
            let names_it = words.iter().any(|word| here(Path::new(word)));
            if (works_here || names_it) && pid != rustix::process::getpid() {
                found.push((pid, words.join(" ")));
            }
        }
        Ok(found)
    }

    /// Returns the runtime directories of the data directories in it.
    pub fn runtime_dirs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path()).into_iter().flatten().flatten();
        let links = entries.filter_map(|entry| std::fs::read_link(entry.path().join("run")).ok());
        // Whatever a test may have put there, only such a directory is removed.
        links
            .filter(|path| path.starts_with("/run") || path.starts_with("/tmp"))
            .filter(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ondemand-")) && path.is_dir()
            })
            .collect()
    }

    /// Returns the ids of the containers that have something of it mounted.
    ///
    /// # Errors
    /// If the engine of the tests does not answer.
    pub fn containers(&self) -> Result<Vec<String>> {
        let Ok(host) = std::env::var("ONDEMAND_TEST_DOCKER_HOST") else { return Ok(Vec::new()) };
        let docker = |arguments: &[&str]| -> Result<String> {
            let output = Command::new("docker").arg("--host").arg(&host).args(arguments).output()?;
            // A container that goes while it is looked at is an error of the command, and none of ours.
            let gone = String::from_utf8_lossy(&output.stderr).contains("No such");
            ensure!(
                output.status.success() || gone,
                "docker {arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(String::from_utf8(output.stdout)?)
        };
        let ids = docker(&["ps", "--all", "--quiet", "--no-trunc"])?;
        let mut arguments = vec!["inspect", "--format", "{{.Id}}{{range .Mounts}} {{.Source}}{{end}}"];
        arguments.extend(ids.lines());
        if arguments.len() == 3 {
            return Ok(Vec::new());
        }
        let described = docker(&arguments)?;
        let ours = |line: &&str| line.split(' ').skip(1).any(|path| Path::new(path).starts_with(self.path()));
        let ids = described.lines().filter(ours).filter_map(|line| line.split(' ').next());
        Ok(ids.map(ToOwned::to_owned).collect())
    }

    /// Returns what is mounted in it.
    ///
    /// # Errors
    /// If the kernel does not tell its mounts.
    pub fn mounts(&self) -> Result<Vec<PathBuf>> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
        Ok(places.filter(|place| place.starts_with(self.path())).collect())
    }

    fn clean(&self) -> Result<()> {
        // Servers first: Postgres takes its own processes with it, and frees what they share.
        for (pid, _) in self.servers()? {
            // It may end by itself meanwhile.
            let _ = self.kill(pid, Signal::QUIT);
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Some((pid, command)) = self.processes()?.into_iter().next() {
            ensure!(Instant::now() < deadline, "process {pid} does not end: {command}");
            if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
                && self.processes()?.iter().any(|(other, _)| *other == pid)
            {
                let _ = pidfd_send_signal(&handle, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Ok(host) = std::env::var("ONDEMAND_TEST_DOCKER_HOST") {
            for id in self.containers()? {
                Command::new("docker").args(["--host", &host, "rm", "--force", "--volumes", &id]).output()?;
            }
        }
        for directory in self.runtime_dirs() {
            // Both are called by the id of the installation.
            let name = directory.file_name().unwrap_or_default().to_string_lossy();
            for group in control_groups(name.trim_start_matches("ondemand-"))? {
                std::fs::remove_dir(&group).with_context(|| group.display().to_string())?;
                // Others may have theirs beside it.
                let _ = group.parent().filter(|above| above.ends_with("ondemand")).map(std::fs::remove_dir);
            }
            std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
        }
        for mount in self.mounts()?.iter().rev() {
            // A process that is just ending may still have a file open.
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                let output = Command::new("umount").arg(mount).output().context("running umount")?;
                if output.status.success() {
                    break;
                }
                let why = String::from_utf8_lossy(&output.stderr);
                ensure!(Instant::now() < deadline, "{} cannot be unmounted: {why}", mount.display());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = self.clean() {
            eprintln!("{} could not be cleaned: {error:#}", self.path().display());
        }
    }
}

/// Returns the control groups of an installation, inner ones first.
///
/// # Errors
/// If those of the machine cannot be listed.
pub fn control_groups(instance: &str) -> Result<Vec<PathBuf>> {
    let mut find = Command::new("find");
    find.args(["/sys/fs/cgroup", "-depth", "-type", "d", "-path", &format!("*/ondemand/{instance}*")]);
    let output = find.output().context("running find")?;
    Ok(String::from_utf8(output.stdout)?.lines().map(PathBuf::from).collect())
}

/// Returns the processes of this machine that have not ended; one that waits for its parent to notice has.
fn pids() -> Result<Vec<Pid>> {
    let entries = std::fs::read_dir("/proc")?.flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    Ok(pids.collect())
}

fn parent(pid: Pid) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Pid::from_raw(status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?)
}

fn command_line(pid: Pid) -> Option<Vec<String>> {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = command.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    Some(words.filter(|word| !word.is_empty()).collect())
}

/// Returns the processes with this command line.
///
/// # Errors
/// If the processes of the machine cannot be listed.
pub fn processes_with(words: &[&str]) -> Result<Vec<Pid>> {
    Ok(pids()?.into_iter().filter(|pid| command_line(*pid).is_some_and(|found| found == words)).collect())
}

/// Returns the owner of a file.
///
/// # Errors
/// If there is no such file.
pub fn owner(path: &Path) -> Result<u32> {
    Ok(path.metadata()?.uid())
}
