//! A mark on a process that all it starts inherit and none takes off by accident.
//!
//! Whatever else tells where a process came from can be shed: its parent ends, it leaves its group and session, it clears its environment. A
//! resource limit stays, and an ordinary user cannot raise one again. The limit used here is that on the number of file locks, which Linux has not
//! enforced since 2.4; what counts is that no two marks are the same number. A cgroup or a namespace would serve as well, where one may make them:
//! not as an ordinary user, and not in most containers. A shell sets the limit of itself before it becomes the program: setting that of a process
//! of another user takes a privilege that root in a container does not have.

use rustix::process::Pid;
use sha2::{Digest, Sha256};

use crate::own;

/// What a marked process's limit is at least.
const LEAST: u64 = 1 << 61;

/// A mark of one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Mark {
    /// Returns the mark of something that has a name of its own, the same in every process.
    pub(crate) fn of(name: &str) -> Self {
        let number = Sha256::digest(name).iter().take(8).fold(0, |number, &byte| (number << 8) | u64::from(byte));
        Self(LEAST | (number % LEAST))
    }

    /// Returns the words with which a shell marks itself, and so what it becomes. Shells call the limit by one of two letters; where a lower limit
    /// is in force, nothing happens.
    pub(crate) fn words(self) -> String {
        format!("ulimit -w {0} 2>/dev/null || ulimit -x {0} 2>/dev/null", self.0)
    }

    /// Tells whether a process carries the mark.
    pub(crate) fn is_on(self, pid: Pid) -> bool {
        let limits = own::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).unwrap_or_default();
        hard_limit(&limits) == Some(self.0)
    }
}

fn hard_limit(limits: &str) -> Option<u64> {
    let values = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    values.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Tells whether a process has this line in its environment.
pub(crate) fn has_line(pid: Pid, line: &str) -> bool {
    let environment = own::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    environment.split(|&byte| byte == 0).any(|given| given == line.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn marks_differ_and_stay_the_same() {
        assert_eq!(Mark::of("a"), Mark::of("a"));
        assert_ne!(Mark::of("a"), Mark::of("b"));
        assert!(Mark::of("a").0 >= LEAST && Mark::of("a").0 < u64::MAX / 2);
    }

    #[test]
    fn the_hard_limit_is_what_counts() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max nice priority         0                    0                    \n\
                      Max file locks            5                    7                    locks     \n";
        assert_eq!(hard_limit(limits), Some(7));
        assert_eq!(hard_limit(&limits.replace('7', "unlimited")), None);
        assert_eq!(hard_limit(""), None);
    }

    #[test]
    fn it_is_inherited_and_not_shed() {
        for shell in [&["/bin/sh"][..], &["/bin/bash"], &["/bin/bash", "--posix"]] {
            let mark = Mark::of(&format!("the test of {}", std::process::id()));
            let script = format!("{}; read -r _; env -i setsid sh -c 'echo $$; read -r _'", mark.words());
            let mut child = Command::new(shell[0])
                .args(&shell[1..])
                .args(["-c", &script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("a shell");
            let pid = |pid: u32| Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
            let mut stdin = child.stdin.take().expect("a pipe");
            std::io::Write::write_all(&mut stdin, b"go\n").expect("it reads");
            let mut line = String::new();
            BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
            let stray = pid(line.trim().parse().expect("a pid"));
            assert!(mark.is_on(pid(child.id())) && mark.is_on(stray), "{shell:?}");
            assert!(!Mark::of("another").is_on(stray) && !mark.is_on(pid(std::process::id())));
            drop(stdin);
            child.wait().expect("it ends");
            assert!(!mark.is_on(pid(child.id())), "it has ended");
        }
    }
}
