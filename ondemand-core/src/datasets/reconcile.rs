//! Removing what imports left behind whose process was killed.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::Inner;
use super::import::{IMPORT, private_dir};
use crate::error::{Error, Result};
use crate::janitor::Report;
use crate::label::{Selector, keys};
use crate::name::AttemptId;
use crate::own;
use crate::postgres::{memory, program};
use crate::snapshot::Volume;

/// The programs that an import runs.
const PROGRAMS: [&str; 5] = ["postgres", "initdb", "psql", "pg_restore", "pg_controldata"];
/// How long they may take to end.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn reconcile(inner: &Inner, report: &mut Report) -> Result<()> {
    let ours = Selector::all().with(keys::KIND, IMPORT).with(keys::INSTANCE, &inner.options.instance);
    // What cannot be read is told of by whoever looks after all volumes.
    for volume in inner.store.volumes(&ours).await?.found {
        let Some(attempt) = volume.labels.get(keys::ATTEMPT).and_then(|id| id.parse::<AttemptId>().ok()) else {
            continue;
        };
        // The list of live attempts is asked after the volumes were listed: an attempt enters it before it makes one.
        if inner.live.lock().unwrap_or_else(PoisonError::into_inner).attempts.contains(&attempt) {
            continue;
        }
        match remove_dead(inner, &volume, &attempt).await {
            Ok(()) => report.removed.push(format!("volume {}", volume.name)),
            Err(error) => {
                tracing::warn!(volume = %volume.name, %error, "what a dead import left could not be removed");
                report.failed.push(format!("volume {}: {error}", volume.name));
            }
        }
    }
    Ok(())
}

async fn remove_dead(inner: &Inner, volume: &Volume, attempt: &AttemptId) -> Result<()> {
    let private = private_dir(&inner.options.runtime_dir, attempt);
    end_holders(vec![volume.path.clone(), private.clone()]).await?;
    program::end_strays(attempt, inner.options.user).await;
    memory::free(&volume.path, inner.options.user).await;
    remove_private(&private)?;
    inner.store.delete_volume(&volume.name).await
}

/// Removes the socket directory of an import.
pub(super) fn remove_private(dir: &Path) -> Result<()> {
    match own::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("import", format!("removing {}", dir.display()), e))
        }
        _ => Ok(()),
    }
}

/// Ends every program of PostgreSQL that works in one of `dirs`, or was told of it: its clients first, then servers, then who is left.
///
/// A program that another process had started, and that is not known by a handle any more, is recognised by what it is and where it
/// works, never by its number alone.
pub(super) async fn end_holders(dirs: Vec<PathBuf>) -> Result<()> {
    let started = Instant::now();
    loop {
        let dirs = dirs.clone();
        let found = tokio::task::spawn_blocking(move || holders(&dirs)).await;
        let mut found = found.map_err(|e| Error::backend("import", "looking for processes", e))?;
        if found.is_empty() {
            return Ok(());
        }
        if started.elapsed() > LIMIT {
            return Err(Error::NotReady {
                waited: started.elapsed(),
                last: format!("{} programs of PostgreSQL do not end", found.len()),
                log: Vec::new(),
            });
        }
        // One kind at a time: the end of one is the end of others.
        found.sort_by_key(|holder| holder.role);
        let first = found[0].role;
        for Holder { pidfd, role } in found.into_iter().take_while(|holder| holder.role == first) {
            match role {
                Role::Program => program::end(pidfd, Signal::KILL).await,
                Role::Server => program::end(pidfd, Signal::QUIT).await,
                Role::Part => program::let_end(pidfd, Duration::from_secs(3), Signal::TERM).await,
            }
        }
    }
}

struct Holder {
    pidfd: OwnedFd,
    role: Role,
}

/// What a program is, in the order in which they are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// `initdb`, `psql` and such.
    Program,
    /// A server. It takes its processes with it, and frees their shared memory.
    Server,
    /// A process of a server, or the PostgreSQL that `initdb` feeds with commands. It notices that the other has ended; killed, it would leave
    /// shared memory behind.
    Part,
}

fn holders(dirs: &[PathBuf]) -> Vec<Holder> {
    let dirs: Vec<PathBuf> =
        dirs.iter().flat_map(|dir| [dir.canonicalize().ok(), Some(dir.clone())]).flatten().collect();
    let Ok(processes) = own::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
        .filter_map(|pid| holder(pid, &dirs))
        .collect()
}

fn holder(pid: Pid, dirs: &[PathBuf]) -> Option<Holder> {
    let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    // It is opened before it is looked at: should its number be given to another meanwhile, this still is the one that has ended.
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let exe = fs::read_link(proc.join("exe")).ok()?;
    let name = exe.file_name()?.to_str()?.trim_end_matches(" (deleted)").to_owned();
    if !PROGRAMS.contains(&name.as_str()) {
        return None;
    }
    let below = |path: &Path| dirs.iter().any(|dir| path.starts_with(dir));
    let arguments = own::read(proc.join("cmdline")).unwrap_or_default();
    let told = arguments.split(|&b| b == 0).any(|argument| {
        use std::os::unix::ffi::OsStrExt;
        below(Path::new(std::ffi::OsStr::from_bytes(argument)))
    });
    let works_there = fs::read_link(proc.join("cwd")).is_ok_and(|cwd| {
        below(&cwd)
            || cwd.to_str().and_then(|cwd| cwd.strip_suffix(" (deleted)")).is_some_and(|cwd| below(Path::new(cwd)))
    });
    let role = match name.as_str() {
        // Of a server's processes, only the first still has the arguments it was started with.
        "postgres" if told && !arguments.split(|&b| b == 0).any(|argument| argument == b"--single") => Role::Server,
        "postgres" => Role::Part,
        _ => Role::Program,
    };
    (told || works_there).then_some(Holder { pidfd, role })
}
