//! Freeing the shared memory of a Postgres that was killed.
//!
//! While it runs, Postgres has a small segment of System V shared memory, by which a second one on the same files would notice it. Killed, it leaves
//! it, and its next start on the data directory frees it. Where the directory is deleted instead, nobody else would, until the next boot.

use std::path::Path;

use super::program;
use crate::orchestrator::RunAs;
use crate::own;
use crate::tree::Tree;

/// Postgres's own file about the server that runs on a data directory. It goes with the server, unless that was killed.
const PID_FILE: &str = "postmaster.pid";

/// A segment, by its number and by who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    id: u64,
    maker: u32,
}

/// Frees what a server of `user` on this data directory has left. To be called once it has ended, and before the directory is deleted; what cannot be
/// freed is a few dozen bytes, so it is no error.
pub(crate) async fn free(pgdata: &Path, user: RunAs) {
    let path = pgdata.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        // What the file says is its owner's word, and may name anything: what is freed must be the segment of that very process, unused.
        let segment = parse_pid_file(&Tree::open(&path).ok()?.read(PID_FILE, 4096).ok()??)?;
        let table = own::read_to_string("/proc/sysvipc/shm").ok()?;
        is_left(&table, segment, user.uid).then_some(segment)
    });
    let Ok(Some(segment)) = found.await else { return };
    // As that user, who may free nobody else's.
    let freed = program::command(Path::new("ipcrm"), user).arg("--shmem-id").arg(segment.id.to_string()).status().await;
    if !freed.as_ref().is_ok_and(std::process::ExitStatus::success) {
        tracing::warn!(id = segment.id, ?freed, "the shared memory of a Postgres that was killed could not be freed");
    }
}

/// Reads the first line, the process, and the seventh, the key and number of its segment.
fn parse_pid_file(text: &[u8]) -> Option<Segment> {
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    let maker = lines.next()?.trim().parse().ok()?;
    let id = lines.nth(5)?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Segment { id, maker })
}

/// Tells whether the kernel's table has that segment, as that user's, and nobody uses it.
fn is_left(table: &str, segment: Segment, user: u32) -> bool {
    // key, shmid, perms, size, cpid, lpid, nattch, uid, …
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().take(8).collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        (number(1), number(4), number(6), number(7))
            == (Some(segment.id), Some(segment.maker.into()), Some(0), Some(user.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "4242\n/data\n1795572666\n5433\n/run/a\n127.0.0.1\n      256     32769\nready   \n";
    const TABLE: &str = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
       256      32769   600                    56  4242  4250      0   105   110   105   110 1795572666 1795572667 1795572666                  4096                     0
       257      32770   600                    56  4300  4350      6   105   110   105   110 1795572666 1795572667 1795572666                  4096                     0
";

    #[test]
    fn a_pid_file_names_the_segment() {
        assert_eq!(parse_pid_file(FILE.as_bytes()), Some(Segment { id: 32769, maker: 4242 }));
        for bad in [
            "",
            "x",
            "4242\n",
            &FILE.replace("32769", "-1"),
            &FILE.replace("4242", "a"),
            &FILE.replace("     32769", ""),
        ] {
            assert_eq!(parse_pid_file(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse_pid_file(b"\xff"), None);
    }

    #[test]
    fn only_an_unused_segment_of_that_process_and_user_is_left() {
        let segment = Segment { id: 32769, maker: 4242 };
        assert!(is_left(TABLE, segment, 105));
        assert!(!is_left(TABLE, segment, 0), "another user's");
        assert!(!is_left(TABLE, Segment { maker: 4243, ..segment }, 105), "another process's");
        assert!(!is_left(TABLE, Segment { id: 1, ..segment }, 105), "none");
        assert!(!is_left(TABLE, Segment { id: 32770, maker: 4300 }, 105), "in use");
        assert!(!is_left("", segment, 105));
    }
}
