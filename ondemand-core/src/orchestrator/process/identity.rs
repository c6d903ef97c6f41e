//! Telling a process from another that was given the same number later.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::own;

/// What identifies a process for good: a number may be given again, but not with the same start time in the same boot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub(super) struct Identity {
    /// Its number.
    pub(super) pid: u32,
    /// When it started, in clock ticks since the boot.
    pub(super) start: u64,
    /// Which boot.
    pub(super) boot: String,
}

impl Identity {
    /// Tells whether the process runs at this moment.
    pub(super) fn is_alive(&self, boot: &str) -> bool {
        self.boot == boot && Stat::read(self.pid).is_some_and(|stat| stat.start == self.start && !stat.has_ended())
    }

    /// Waits until the parent of a process that has ended has taken notice, or `limit` has passed: until then, whoever asks for the number
    /// alone takes it for a live one.
    pub(super) async fn reaped(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        // Nobody but the parent is told.
        while Stat::read(self.pid).is_some_and(|stat| stat.start == self.start) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) state: char,
    pub(super) parent: u32,
    pub(super) group: u32,
    pub(super) session: u32,
    pub(super) start: u64,
}

impl Stat {
    /// Reads it; `None` if there is no such process.
    pub(super) fn read(pid: u32) -> Option<Self> {
        Self::parse(&own::read(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &[u8]) -> Option<Self> {
        // The name, in parentheses, may hold anything, parentheses and line ends included: what counts is after the last one.
        let end = stat.iter().rposition(|&byte| byte == b')')?;
        let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }

    /// Tells whether it has ended, and only waits for its parent to take notice.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// A process that was seen to be the one meant. What is done through it can reach no other.
#[derive(Debug)]
pub(super) struct Handle {
    fd: OwnedFd,
    pub(super) identity: Identity,
    pub(super) stat: Stat,
}

impl Handle {
    /// Takes hold of a process; `None` if it has ended, whatever has its number now.
    pub(super) fn open(identity: &Identity, boot: &str) -> io::Result<Option<Self>> {
        if identity.boot != boot {
            return Ok(None);
        }
        let Some(pid) = i32::try_from(identity.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            // The last two: the number is now that of a thread, which is no process of ours.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // Only now: the number can no longer be given to another process without the descriptor telling the difference.
        match Stat::read(identity.pid) {
            Some(stat) if stat.start == identity.start && !stat.has_ended() => {
                Ok(Some(Self { fd, identity: identity.clone(), stat }))
            }
            _ => Ok(None),
        }
    }

    /// Sends a signal. That the process has ended meanwhile is no error.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until the process has ended. One at a time may wait on a handle.
    pub(super) async fn ended(&self) -> io::Result<()> {
        #[expect(
            deprecated,
            reason = "the replacement is an unsafe function, and what it asks for, a descriptor that stays open and the same, \
                      a borrowed one guarantees"
        )]
        let fd = AsyncFd::with_interest(self.fd.as_fd(), Interest::READABLE)?;
        fd.readable().await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes hold of whatever has this number now.
    fn handle(pid: u32, boot: &str) -> Handle {
        let stat = Stat::read(pid).expect("a process");
        let identity = Identity { pid, start: stat.start, boot: boot.to_owned() };
        Handle::open(&identity, boot).expect("readable").expect("it runs")
    }

    #[test]
    fn a_name_cannot_forge_the_fields() {
        let line = b"42 (a) Z 1 (\n) S 7 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 9\n";
        let stat = Stat::parse(line).expect("a stat line");
        assert_eq!(stat, Stat { state: 'S', parent: 7, group: 42, session: 40, start: 123_456 });
        for bad in [&b""[..], b"42", b"42 (a)", b"42 (a) S 1 2"] {
            assert_eq!(Stat::parse(bad), None);
        }
    }

    #[test]
    fn another_start_or_boot_is_another_process() {
        let boot = crate::proc::boot_id().expect("a boot id");
        let this = handle(std::process::id(), &boot).identity;
        assert!(Handle::open(&this, &boot).expect("readable").is_some());
        let later = Identity { start: this.start + 1, ..this.clone() };
        assert!(Handle::open(&later, &boot).expect("readable").is_none());
        assert!(Handle::open(&this, "another boot").expect("readable").is_none());
        assert!(Handle::open(&Identity { pid: 0, ..this.clone() }, &boot).expect("readable").is_none());
        assert!(Handle::open(&Identity { pid: u32::MAX, ..this }, &boot).expect("readable").is_none());
    }

    #[test]
    fn a_thread_is_no_process() {
        let boot = crate::proc::boot_id().expect("a boot id");
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || ended.recv());
        let threads = std::fs::read_dir("/proc/self/task").expect("threads").flatten();
        let threads = threads.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let others: Vec<_> = threads.filter(|id| *id != std::process::id()).collect();
        assert!(!others.is_empty());
        for pid in others {
            let start = Stat::read(pid).map_or(0, |stat| stat.start);
            let identity = Identity { pid, start, boot: boot.clone() };
            assert!(Handle::open(&identity, &boot).expect("no error").is_none());
        }
        drop(end);
        thread.join().expect("no panic").expect_err("nothing was sent");
    }

    #[tokio::test]
    async fn an_unreaped_child_has_ended() {
        let boot = crate::proc::boot_id().expect("a boot id");
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "read -r _"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        let handle = handle(child.id(), &boot);
        drop(child.stdin.take());
        handle.ended().await.expect("it can be waited for");
        let long = Duration::from_secs(600);
        let reaped = tokio::spawn({
            let identity = handle.identity.clone();
            async move { tokio::time::timeout(long / 2, identity.reaped(long)).await }
        });
        handle.identity.reaped(Duration::from_millis(30)).await;
        assert!(Stat::read(child.id()).is_some_and(|stat| stat.has_ended()), "it is reaped");
        assert!(!reaped.is_finished());
        assert!(Handle::open(&handle.identity, &boot).expect("readable").is_none());
        handle.signal(Signal::KILL).expect("signalling what has ended is no error");
        child.wait().expect("reaped");
        reaped.await.expect("no panic").expect("it is noticed");
    }
}
