//! A program under measurement, and what the kernel says of it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ondemand_tests::Home;
use rustix::process::{Pid, Signal, kill_process};

/// The processor time of each of a program's threads. It is no sum, since the time of a thread that ends would be missing from the next one.
#[derive(Debug)]
pub(crate) struct ProcessorTime(HashMap<PathBuf, Duration>);

impl ProcessorTime {
    /// Returns how much was taken since an earlier moment.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        let took = |(thread, &time): (&PathBuf, &Duration)| {
            time.saturating_sub(earlier.0.get(thread).copied().unwrap_or_default())
        };
        self.0.iter().map(took).sum()
    }
}

/// A running program with the processes it made. It is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a directory of its own, where it also writes what it has to say. Should this process be killed, it ends too.
    pub(crate) fn start(home: &Home, name: &str, command: &Command) -> Result<Self> {
        let path = home.path().join(format!("{name}.log"));
        let log = std::fs::File::create(&path)?;
        let mut launcher = Command::new("/usr/bin/setpriv");
        launcher
            .args(["--pdeathsig", "KILL"])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(home.path())
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => launcher.env(name, value),
                None => launcher.env_remove(name),
            };
        }
        let child = launcher.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { child, log: path })
    }

    /// Returns what it has written so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the processes: the one that was started, and its children.
    fn pids(&self) -> Vec<u32> {
        let first = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap_or_default();
        std::iter::once(first).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }

    /// Returns the pid of the one that does the work: nginx's has a master that does none.
    pub(crate) fn worker(&self) -> u32 {
        self.pids().last().copied().unwrap_or_default()
    }

    /// Returns the processor time that each of its threads took so far, to the nanosecond.
    pub(crate) fn processor_time(&self) -> Result<ProcessorTime> {
        let mut threads = HashMap::new();
        for pid in self.pids() {
            for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                let path = thread?.path();
                // A thread that ends meanwhile has no more to say.
                let Ok(text) = std::fs::read_to_string(path.join("schedstat")) else { continue };
                let ran = text.split_whitespace().next().context("an empty schedstat")?;
                threads.insert(path, Duration::from_nanos(ran.parse()?));
            }
        }
        Ok(ProcessorTime(threads))
    }

    /// Returns how often its threads went to sleep.
    pub(crate) fn switches(&self) -> Result<u64> {
        let mut switches = 0;
        for pid in self.pids() {
            for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                let Ok(text) = std::fs::read_to_string(thread?.path().join("status")) else { continue };
                switches += field(&text, "voluntary_ctxt_switches:").unwrap_or_default();
            }
        }
        Ok(switches)
    }

    /// Returns its resident bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// Returns the most resident bytes it had since [`Self::forget_peak`].
    pub(crate) fn peak(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    /// Makes what is resident now the most that ever was.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        for pid in self.pids() {
            std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        }
        Ok(())
    }

    fn memory(&self, name: &str) -> Result<u64> {
        let mut kilobytes = 0;
        for pid in self.pids() {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            kilobytes += field(&status, name).with_context(|| format!("process {pid} has no {name}"))?;
        }
        Ok(kilobytes * 1024)
    }
}

/// Returns the number that stands behind a name at the beginning of a line.
fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().trim_end_matches("kB").trim().parse().ok()
}

impl Drop for Process {
    fn drop(&mut self) {
        let signal = |signal| {
            if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, signal);
            }
        };
        signal(Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(2);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // What nginx's master leaves behind then, the home finds.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Returns how many processes wanted a processor in the last 1, 5 and 15 minutes.
pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
