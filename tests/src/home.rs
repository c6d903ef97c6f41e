//! A temporary data directory, with all that may have been left in it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A directory that other users may pass through, as Postgres must. When it is dropped, the processes that work in it are
/// ended, what is mounted in it is unmounted, and it is removed.
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

    /// Returns the processes of Postgres whose data directory is in it, as far as they are on the command line.
    ///
    /// # Errors
    /// If the processes of the machine cannot be listed.
    pub fn servers(&self) -> Result<Vec<(Pid, PathBuf)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path();
            let Some(pid) = path.file_name().and_then(|name| Pid::from_raw(name.to_str()?.parse().ok()?)) else {
                continue;
            };
            if let Some(data) = self.data_directory(pid) {
                found.push((pid, data));
            }
        }
        Ok(found)
    }

    /// Returns the data directory of a process, if it is a Postgres that works in this home.
    fn data_directory(&self, pid: Pid) -> Option<PathBuf> {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = command.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        let program = words.next()?;
        if !program.ends_with("/postgres") {
            return None;
        }
        words.map(|word| PathBuf::from(word.as_ref())).find(|path| path.starts_with(self.path()))
    }

    /// Ends one of its processes, as a crash would, and returns once it is gone.
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
        for (pid, _) in self.servers()? {
            // It may end by itself meanwhile.
            let _ = self.kill(pid, Signal::QUIT);
        }
        for mount in self.mounts()?.iter().rev() {
            // A process that is just ending may still have a file open.
            let deadline = Instant::now() + Duration::from_secs(10);
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
