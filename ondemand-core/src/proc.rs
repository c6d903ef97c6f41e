//! What `/proc` says of this boot, and of which process started which.

use std::collections::HashMap;
use std::io;

use crate::own;

/// Reads the children that the kernel lists; `None` if it is built without such lists, or there is no such process.
pub(crate) fn children(pid: u32) -> Option<Vec<u32>> {
    let mut pids = Vec::new();
    for thread in own::read_dir(format!("/proc/{pid}/task")).ok()? {
        let list = own::read_to_string(thread.ok()?.path().join("children")).ok()?;
        pids.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Some(pids)
}

/// Reads the parents of all processes, and returns the children of each.
pub(crate) fn by_parent() -> HashMap<u32, Vec<u32>> {
    let mut by_parent: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in pids().unwrap_or_default() {
        if let Some(parent) = parent(pid) {
            by_parent.entry(parent).or_default().push(pid);
        }
    }
    by_parent
}

/// Returns the descendants of a process, as they are at this moment: a number may be another process's by the time it is used.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut parents = vec![pid];
    let mut all = None;
    while let Some(parent) = parents.pop() {
        let listed = children(parent);
        let children =
            listed.unwrap_or_else(|| all.get_or_insert_with(by_parent).get(&parent).cloned().unwrap_or_default());
        let new: Vec<u32> = children.into_iter().filter(|pid| !found.contains(pid)).collect();
        found.extend(&new);
        parents.extend(new);
    }
    found
}

/// Lists all processes.
pub(crate) fn pids() -> io::Result<Vec<u32>> {
    let names = own::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// Reads what tells this boot from others.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(own::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn parent(pid: u32) -> Option<u32> {
    let stat = own::read(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything: what counts is after the last one.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    std::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grandchild_is_found_both_ways() {
        // The shell says its child's number, and waits for it.
        let mut shell = std::process::Command::new("/bin/sh")
            .args(["-c", "sh -c 'sleep 600 & echo $!; wait' & wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let stdout = shell.stdout.take().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
        let sleep: u32 = line.trim().parse().expect("a number");
        let below = descendants(shell.id());
        let all = by_parent();
        // Parents go first: a shell that waits ends by itself with its child, and its number is nobody's then.
        shell.kill().expect("it runs");
        for &pid in &below {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
        }
        shell.wait().expect("it ends");
        assert_eq!(below.len(), 2, "{below:?}");
        assert_eq!(below.last(), Some(&sleep));
        assert_eq!(all.get(&below[0]), Some(&vec![sleep]));
        assert!(descendants(std::process::id()).iter().all(|pid| !below.contains(pid)));
    }
}
