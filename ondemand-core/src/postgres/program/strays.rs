//! What the programs of an import have started, and left behind.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Signs;
use crate::mark::has_line;
use crate::own;

/// How long processes that start others while they are killed are run after.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process that was seen to be one of those meant. What is done through its descriptor can reach no other.
#[derive(Debug)]
pub(super) struct Stray {
    pidfd: OwnedFd,
    /// Whether it is a PostgreSQL: it notices that what started it has ended; killed, it would leave shared memory behind.
    postgres: bool,
}

/// Waits until a child that leads a group has ended, and kills the rest of the group. The child is to be waited for then.
pub(super) async fn end_group_after(leader: Pid) -> io::Result<()> {
    // The child has not been waited for, so the number is its own.
    let pidfd = pidfd_open(leader, PidfdFlags::empty())?;
    #[expect(deprecated, reason = "the replacement is an unsafe function, and this descriptor is owned")]
    let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
    drop(pidfd.readable().await?);
    // Nor has it been now, and the number still cannot be another group's. That nobody is left in it is no error.
    let _ = kill_process_group(leader, Signal::KILL);
    Ok(())
}

/// Returns the members of a group but its leader.
pub(super) async fn group(leader: Pid, users: Vec<u32>) -> Vec<Stray> {
    find(users, move |pid| pid != leader && group_of(pid) == Some(leader)).await
}

/// Kills all processes that are known by their signs, and those that they start meanwhile.
pub(super) async fn end_signed(signs: Signs, users: Vec<u32>) {
    let begun = Instant::now();
    loop {
        let Signs { mark, line } = signs.clone();
        let signed = move |pid| group_of(pid).is_some() && (mark.is_on(pid) || has_line(pid, &line));
        let found = find(users.clone(), signed).await;
        if found.is_empty() {
            return;
        }
        if begun.elapsed() > PATIENCE {
            tracing::warn!(count = found.len(), "programs that an import started cannot be ended");
            return;
        }
        end_each(found).await;
    }
}

/// Ends processes, and returns when they have ended.
pub(super) async fn end_each(strays: Vec<Stray>) {
    for Stray { pidfd, postgres } in strays {
        if postgres {
            super::let_end(pidfd, Duration::from_secs(3), Signal::TERM).await;
        } else {
            super::end(pidfd, Signal::KILL).await;
        }
    }
}

/// Returns the processes of these users that are meant.
async fn find(users: Vec<u32>, is_meant: impl Fn(Pid) -> bool + Send + 'static) -> Vec<Stray> {
    let finding = tokio::task::spawn_blocking(move || {
        let Ok(processes) = own::read_dir("/proc") else { return Vec::new() };
        let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(Pid::from_raw)
            .filter(|&pid| user_of(pid).is_some_and(|user| users.contains(&user)))
            .filter_map(|pid| {
                // It is opened before it is looked at: should its number be given to another meanwhile, this still is the one that has ended.
                let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
                let of_user = user_of(pid).is_some_and(|user| users.contains(&user));
                let exe = std::fs::read_link(proc(pid, "exe")).unwrap_or_default();
                let postgres = exe.file_name().is_some_and(|name| name == "postgres");
                (of_user && is_meant(pid)).then_some(Stray { pidfd, postgres })
            })
            .collect()
    });
    // It fails only where the runtime is being shut down.
    finding.await.unwrap_or_default()
}

fn proc(pid: Pid, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{file}", pid.as_raw_nonzero()))
}

/// Returns the user that a process runs as; `None` if it has ended.
fn user_of(pid: Pid) -> Option<u32> {
    let status = own::read(proc(pid, "status")).ok()?;
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    // Its real user, and then its effective one.
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Returns the group of a process that runs; `None` if it has ended.
fn group_of(pid: Pid) -> Option<Pid> {
    let stat = own::read(proc(pid, "stat")).ok()?;
    // The name, in parentheses, may hold anything: what counts is after the last one.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = std::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok().and_then(Pid::from_raw)?;
    (!matches!(state, "Z" | "X")).then_some(group)
}
