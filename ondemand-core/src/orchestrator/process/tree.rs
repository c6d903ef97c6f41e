//! Ending a process and all that came from it.

use std::io;
use std::time::Duration;

use rustix::process::{Pid, Signal, test_kill_process_group};
use tokio::time::{Instant, timeout, timeout_at};

use super::identity::{Handle, Identity, Stat};
use crate::mark::{Mark, has_line};
use crate::{proc, sandbox};

/// How long killed processes may take to be gone; longer than any disk needs to answer one that waits for it.
const KILLED_WITHIN: Duration = Duration::from_secs(30);

/// The root of what is to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root<'a> {
    /// The process itself, the leader of its group.
    pub(super) main: &'a Identity,
    /// Whether its program runs in a sandbox, which ends with the process itself.
    pub(super) sandboxed: bool,
    /// This boot.
    pub(super) boot: &'a str,
    /// What all carry that came from it.
    pub(super) mark: Mark,
    /// The line of the environment that all of the stack start with.
    pub(super) line: &'a str,
}

impl Root<'_> {
    /// Asks the process to end, kills it if it hasn't after `grace`, and then kills whatever came from it and survived: its
    /// descendants, the members of its group, and whoever carries its mark. Returns when all are gone.
    pub(super) async fn end(self, signal: Signal, grace: Duration) -> io::Result<()> {
        let mut known = Vec::new();
        let mut session = None;
        if let Some(main) = Handle::open(self.main, self.boot)? {
            session = Some(main.stat.session);
            // Before the signal: the children of a process that has ended are nobody's.
            known = self.descendants(&main)?;
            if self.sandboxed {
                self.signal_inside(&known, &main, signal)?;
            } else {
                main.signal(signal)?;
            }
            if let Ok(ended) = timeout(grace, main.ended()).await {
                ended?;
            } else {
                for found in self.descendants(&main)? {
                    if !known.contains(&found) {
                        known.push(found);
                    }
                }
                main.signal(Signal::KILL)?;
                timeout(KILLED_WITHIN, main.ended()).await.map_err(|_| does_not_end(self.main.pid))??;
            }
        }
        self.kill_survivors(known, session).await
    }

    /// Asks the program in a sandbox to end. Where there is none yet, nothing is lost by killing what makes the sandbox.
    fn signal_inside(self, known: &[Identity], main: &Handle, signal: Signal) -> io::Result<()> {
        let program = sandbox::program(known.iter().map(|identity| identity.pid));
        let program = known.iter().find(|identity| Some(identity.pid) == program);
        match program.map(|program| Handle::open(program, self.boot)).transpose()?.flatten() {
            Some(program) => program.signal(signal),
            None => main.signal(Signal::KILL),
        }
    }

    async fn kill_survivors(self, mut known: Vec<Identity>, session: Option<u32>) -> io::Result<()> {
        let deadline = Instant::now() + KILLED_WITHIN;
        loop {
            let mut alive = Vec::new();
            let mut found = Vec::new();
            for identity in &known {
                if let Some(handle) = Handle::open(identity, self.boot)? {
                    found.extend(self.descendants(&handle)?);
                    alive.push(handle);
                }
            }
            found.extend(self.group_members(session)?);
            found.extend(self.marked().await?);
            for identity in found {
                if !known.contains(&identity) {
                    if let Some(handle) = Handle::open(&identity, self.boot)? {
                        alive.push(handle);
                    }
                    known.push(identity);
                }
            }
            if alive.is_empty() {
                return Ok(());
            }
            for handle in &alive {
                handle.signal(Signal::KILL)?;
            }
            for handle in &alive {
                let ended = timeout_at(deadline, handle.ended()).await;
                ended.map_err(|_| does_not_end(handle.identity.pid))??;
            }
            // Again: one of them may have had a child while it was killed.
        }
    }

    /// Returns the descendants of a process that is alive.
    fn descendants(self, ancestor: &Handle) -> io::Result<Vec<Identity>> {
        let mut found: Vec<Identity> = Vec::new();
        let mut parents = vec![ancestor.identity.clone()];
        let mut by_parent = None;
        while let Some(parent) = parents.pop() {
            let pids = match proc::children(parent.pid) {
                Some(pids) => pids,
                None => by_parent.get_or_insert_with(proc::by_parent).get(&parent.pid).cloned().unwrap_or_default(),
            };
            let mut read = Vec::new();
            for pid in pids {
                // The parent is read with the start time: a number given again meanwhile has another parent.
                if let Some(stat) = Stat::read(pid).filter(|stat| stat.parent == parent.pid) {
                    read.push(Identity { pid, start: stat.start, boot: self.boot.to_owned() });
                }
            }
            // Only now is it certain that these are its children, and not those of a later owner of its number.
            if Handle::open(&parent, self.boot)?.is_some() {
                read.retain(|child| !found.contains(child));
                parents.extend(read.iter().cloned());
                found.append(&mut read);
            }
        }
        Ok(found)
    }

    /// Returns the members of the process group that its leader left behind.
    fn group_members(self, session: Option<u32>) -> io::Result<Vec<Identity>> {
        let main = self.main;
        let Some(group) = to_pid(main.pid) else { return Ok(Vec::new()) };
        if main.boot != self.boot || test_kill_process_group(group) == Err(rustix::io::Errno::SRCH) {
            return Ok(Vec::new());
        }
        if Stat::read(main.pid).is_some_and(|stat| stat.start != main.start) {
            // The number has a new owner, so the group is the owner's: a number is not given again while its group has members.
            return Ok(Vec::new());
        }
        let members = proc::pids()?.into_iter().filter_map(|pid| Stat::read(pid).map(|stat| (pid, stat)));
        Ok(members
            .filter(|(_, stat)| stat.group == main.pid && stat.start >= main.start && !stat.has_ended())
            // The group's number alone does not prove that it is the same group.
            .filter(|(pid, stat)| {
                session == Some(stat.session) || to_pid(*pid).is_some_and(|pid| has_line(pid, self.line))
            })
            .map(|(pid, stat)| Identity { pid, start: stat.start, boot: self.boot.to_owned() })
            .collect())
    }

    /// Returns whoever carries the mark, wherever it went.
    async fn marked(self) -> io::Result<Vec<Identity>> {
        if self.main.boot != self.boot {
            return Ok(Vec::new());
        }
        let (mark, boot) = (self.mark, self.boot.to_owned());
        let looking = tokio::task::spawn_blocking(move || {
            let marked = proc::pids()?.into_iter().filter(|pid| to_pid(*pid).is_some_and(|pid| mark.is_on(pid)));
            let running = marked.filter_map(|pid| Some((pid, Stat::read(pid).filter(|stat| !stat.has_ended())?)));
            Ok(running.map(|(pid, stat)| Identity { pid, start: stat.start, boot: boot.clone() }).collect())
        });
        looking.await.map_err(io::Error::other)?
    }
}

fn does_not_end(pid: u32) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("process {pid} was killed and has not ended"))
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}
