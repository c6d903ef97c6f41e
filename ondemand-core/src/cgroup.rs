//! Control groups: what all programs of a service may take together.
//!
//! The kernel has them in two versions, and a controller belongs to one of both: <https://docs.kernel.org/admin-guide/cgroup-v2.html>,
//! <https://docs.kernel.org/admin-guide/cgroup-v1/index.html>. In version 1 groups are made below that of this process, whose limits go on holding. In version 2
//! they are made below the root, as Docker does it: a group that has processes of its own lends its controllers to none.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use crate::orchestrator::Resources;
use crate::own;

/// The directory of all groups that are made here.
const TOP: &str = "ondemand";
/// How long processes that were ended may take to leave their group, and how long before that is looked at again: nothing tells.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);
/// The time within which processor time is counted, in microseconds: the kernel's default.
const PERIOD: i64 = 100_000;

/// Makes control groups on this host.
#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchies: Arc<[Hierarchy]>,
    /// Held while what all groups are in is made or removed.
    changing: Arc<Mutex<()>>,
}

impl PartialEq for Cgroups {
    fn eq(&self, other: &Self) -> bool {
        self.hierarchies == other.hierarchies
    }
}

impl Eq for Cgroups {}

/// A file of a group, what is written to it, and whether it may be missing.
#[derive(Debug, PartialEq, Eq)]
struct LimitFile {
    file: &'static str,
    value: String,
    optional: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Cpu,
    Memory,
    Pids,
}

const CONTROLLERS: [Controller; 3] = [Controller::Cpu, Controller::Memory, Controller::Pids];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where groups are made that have these controllers.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    controllers: Vec<Controller>,
    /// The group that is there already.
    base: PathBuf,
    /// The group below it that has all of one installation.
    dir: PathBuf,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }

    /// Returns the files that say the limit, in the order in which they are written. As for the engines of containers, nothing below 1 is a limit.
    fn settings(self, version: Version, limits: &Resources) -> Vec<LimitFile> {
        let limit = |limit: Option<i64>| limit.filter(|&limit| limit > 0);
        let needed = |file, value| LimitFile { file, value, optional: false };
        // Where the kernel counts no swap, there is none, or it is not limited.
        let swap = |file, value| LimitFile { file, value, optional: true };
        match (self, version) {
            (Self::Cpu, version) => {
                let quota =
                    limit(limits.nano_cpus).map(|cpus| (cpus.saturating_mul(PERIOD) / 1_000_000_000).max(1_000));
                let setting = quota.map(|quota| match version {
                    Version::One => needed("cpu.cfs_quota_us", quota.to_string()),
                    Version::Two => needed("cpu.max", format!("{quota} {PERIOD}")),
                });
                setting.into_iter().collect()
            }
            (Self::Memory, Version::One) => limit(limits.memory).map_or_else(Vec::new, |bytes| {
                // Memory and swap together, which must never be less than memory alone.
                let both = "memory.memsw.limit_in_bytes";
                vec![
                    swap(both, "-1".to_owned()),
                    needed("memory.limit_in_bytes", bytes.to_string()),
                    swap(both, bytes.to_string()),
                ]
            }),
            (Self::Memory, Version::Two) => limit(limits.memory).map_or_else(Vec::new, |bytes| {
                vec![needed("memory.max", bytes.to_string()), swap("memory.swap.max", "0".to_owned())]
            }),
            (Self::Pids, _) => {
                limit(limits.pids).map(|pids| needed("pids.max", pids.to_string())).into_iter().collect()
            }
        }
    }
}

impl Cgroups {
    /// Looks for the groups of this host, and makes the one of an installation.
    ///
    /// # Errors
    /// Why there can be none, in words for a user. `Ok` is proof that one could be made, with a limit of each kind.
    pub fn find(instance: &str) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("control groups are made by root".into());
        }
        let read = |path: &str| own::read_to_string(path).map_err(|e| format!("reading {path}: {e}"));
        let (mounts, own) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for controller in CONTROLLERS {
            let (version, base) = locate(controller, &mounts, &own)
                .ok_or_else(|| format!("no control groups for {} are mounted", controller.name()))?;
            if let Some(hierarchy) = hierarchies.iter_mut().find(|hierarchy| hierarchy.base == base) {
                hierarchy.controllers.push(controller);
                continue;
            }
            let dir = base.join(TOP).join(instance);
            hierarchies.push(Hierarchy { version, controllers: vec![controller], base, dir });
        }
        let cgroups = Self { hierarchies: hierarchies.into(), changing: Arc::default() };
        let most = Resources { nano_cpus: Some(1_000_000_000), memory: Some(1 << 30), pids: Some(100) };
        let trial = format!("trial-{}", std::process::id());
        let tried = cgroups.make(&trial, &most);
        cgroups.hierarchies.iter().for_each(|hierarchy| drop(own::remove_dir(hierarchy.dir.join(&trial))));
        cgroups.tidy();
        tried.map_err(|e| e.to_string())?;
        Ok(cgroups)
    }

    /// Makes a group with these limits, or changes the one of this name to them.
    ///
    /// # Errors
    /// What the kernel says, with the file.
    pub(crate) fn make(&self, name: &str, limits: &Resources) -> io::Result<Group> {
        let _changing = self.changing();
        let mut members = Vec::new();
        for hierarchy in &*self.hierarchies {
            let settings: Vec<_> = hierarchy
                .controllers
                .iter()
                .flat_map(|controller| controller.settings(hierarchy.version, limits))
                .collect();
            if settings.is_empty() {
                continue;
            }
            let dir = hierarchy.dir.join(name);
            hierarchy.make(&dir)?;
            for LimitFile { file, value, optional } in settings {
                match write(&dir.join(file), &value) {
                    Err(e) if optional && e.kind() == ErrorKind::NotFound => {}
                    written => written?,
                }
            }
            members.push(dir.join("cgroup.procs"));
        }
        Ok(Group { members })
    }

    /// Removes a group whose processes have ended. Succeeds if there is none.
    ///
    /// # Errors
    /// What the kernel says, with the directory: processes are still there after seconds.
    pub(crate) async fn remove(&self, name: &str) -> io::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for hierarchy in &*self.hierarchies {
            let dir = hierarchy.dir.join(name);
            loop {
                match own::remove_dir(&dir) {
                    Err(e)
                        if e.raw_os_error() == Some(Errno::BUSY.raw_os_error())
                            && tokio::time::Instant::now() < deadline => {}
                    Err(e) if e.kind() != ErrorKind::NotFound => return Err(at("removing", &dir, &e)),
                    _ => break,
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        self.tidy();
        Ok(())
    }

    /// Lets a group's processes have all of the processors: what is limited takes long to end.
    pub(crate) fn lift_cpu_limit(&self, name: &str) {
        for hierarchy in self.hierarchies.iter().filter(|hierarchy| hierarchy.controllers.contains(&Controller::Cpu)) {
            let (file, all) = match hierarchy.version {
                Version::One => ("cpu.cfs_quota_us", "-1"),
                Version::Two => ("cpu.max", "max"),
            };
            match write(&hierarchy.dir.join(name).join(file), all) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::debug!(%error, "lifting the limit of what is ended");
                }
                _ => {}
            }
        }
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        // It protects no data.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what all groups are in, where none is left.
    fn tidy(&self) {
        let _changing = self.changing();
        for hierarchy in &*self.hierarchies {
            if own::remove_dir(&hierarchy.dir).is_ok() {
                // Other installations have theirs there.
                let _ = own::remove_dir(hierarchy.base.join(TOP));
            }
        }
    }
}

impl Hierarchy {
    fn make(&self, dir: &Path) -> io::Result<()> {
        self.prepare()?;
        make_if_missing(dir)
    }

    /// Makes what all groups are in, or finishes it: a process may have been killed half way.
    fn prepare(&self) -> io::Result<()> {
        let top = self.base.join(TOP);
        make_if_missing(&top)?;
        make_if_missing(&self.dir)?;
        if self.version == Version::Two {
            let lent: Vec<_> = self.controllers.iter().map(|controller| format!("+{}", controller.name())).collect();
            for dir in [&self.base, &top, &self.dir] {
                write(&dir.join("cgroup.subtree_control"), &lent.join(" "))?;
            }
        }
        Ok(())
    }
}

/// A group that was made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    /// The files that take the processes of each hierarchy.
    members: Vec<PathBuf>,
}

impl Group {
    /// Puts a process in, and so all that it starts from now on.
    ///
    /// # Errors
    /// What the kernel says, with the file.
    pub(crate) fn put(&self, pid: u32) -> io::Result<()> {
        self.members.iter().try_for_each(|members| write(members, &pid.to_string()))
    }

    /// Tells whether it limits nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

fn make_if_missing(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(at("making", dir, &e)),
        _ => Ok(()),
    }
}

fn write(file: &Path, value: &str) -> io::Result<()> {
    // Not created: a file that is not there is a limit that does not exist.
    let opened = own::open_with(fs::OpenOptions::new().write(true), file);
    opened.and_then(|mut open| io::Write::write_all(&mut open, value.as_bytes())).map_err(|e| at("writing", file, &e))
}

fn at(operation: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{operation} {}: {error}", path.display()))
}

/// Returns where a controller is mounted, and the group that others are made below.
fn locate(controller: Controller, mounts: &str, own: &str) -> Option<(Version, PathBuf)> {
    let has = |list: &str| list.split(',').any(|name| name == controller.name());
    // `36 35 0:30 ROOT PATH OPTIONS … - TYPE SOURCE OPTIONS`
    let parsed = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split(' ').collect();
        let after: Vec<&str> = after.split(' ').collect();
        Some((*before.get(3)?, PathBuf::from(*before.get(4)?), *after.first()?, *after.get(2)?))
    });
    let mut second = None;
    for (root, path, kind, options) in parsed {
        match kind {
            "cgroup" if has(options) => {
                // `4:memory:/path`
                let own = own.lines().find_map(|line| {
                    let mut fields = line.splitn(3, ':').skip(1);
                    fields.next().filter(|names| has(names))?;
                    fields.next()
                });
                // In a container its own group is the root of what is mounted, whatever it is called outside.
                let below = own.and_then(|own| Path::new(own).strip_prefix(root).ok()).unwrap_or(Path::new(""));
                return Some((Version::One, path.join(below)));
            }
            "cgroup2" if second.is_none() => {
                let there = own::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
                if there.split_whitespace().any(|name| name == controller.name()) {
                    second = Some((Version::Two, path));
                }
            }
            _ => {}
        }
    }
    second
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Resources = Resources { nano_cpus: Some(1_500_000_000), memory: Some(1 << 30), pids: Some(64) };

    #[test]
    fn limits_are_written_as_each_version_reads_them() {
        let settings = |version, limits: &Resources| -> Vec<_> {
            let all = CONTROLLERS.iter().flat_map(|controller| controller.settings(version, limits));
            all.map(|setting| (setting.file, setting.value)).collect()
        };
        let said = |pairs: &[(&'static str, &str)]| -> Vec<_> {
            pairs.iter().map(|&(file, value)| (file, value.to_owned())).collect()
        };
        let both = "memory.memsw.limit_in_bytes";
        assert_eq!(
            settings(Version::One, &LIMITS),
            said(&[
                ("cpu.cfs_quota_us", "150000"),
                (both, "-1"),
                ("memory.limit_in_bytes", "1073741824"),
                (both, "1073741824"),
                ("pids.max", "64"),
            ])
        );
        assert_eq!(
            settings(Version::Two, &LIMITS),
            said(&[
                ("cpu.max", "150000 100000"),
                ("memory.max", "1073741824"),
                ("memory.swap.max", "0"),
                ("pids.max", "64"),
            ])
        );
        let nothing = Resources { nano_cpus: Some(0), memory: Some(0), pids: Some(-1) };
        for unlimited in [Resources::default(), nothing] {
            assert_eq!(settings(Version::Two, &unlimited), said(&[]));
            assert_eq!(settings(Version::One, &unlimited), said(&[]));
        }
    }

    #[test]
    fn a_controller_is_where_it_is_mounted() {
        let mounts = "30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                      31 29 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 29 0:28 /docker/abc /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n";
        let own = "4:memory:/system.slice/a\n3:cpu,cpuacct:/\n2:pids:/docker/abc/sub\n0::/";
        let found = |controller| locate(controller, mounts, own);
        assert_eq!(found(Controller::Cpu), Some((Version::One, "/sys/fs/cgroup/cpu,cpuacct".into())));
        assert_eq!(found(Controller::Memory), Some((Version::One, "/sys/fs/cgroup/memory/system.slice/a".into())));
        assert_eq!(found(Controller::Pids), Some((Version::One, "/sys/fs/cgroup/pids/sub".into())));
        assert_eq!(locate(Controller::Pids, "31 29 0:27 / /sys rw - sysfs sysfs rw", own), None);
        // Version 2 says in a file which controllers it has.
        let dir = tempfile::tempdir().expect("directory");
        fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu memory\n").expect("controllers");
        let mounts = format!("30 29 0:26 / {} rw - cgroup2 cgroup2 rw,nsdelegate", dir.path().display());
        assert_eq!(locate(Controller::Memory, &mounts, "0::/a"), Some((Version::Two, dir.path().to_owned())));
        assert_eq!(locate(Controller::Pids, &mounts, "0::/a"), None);
    }

    #[test]
    fn in_version_two_each_group_lends_its_controllers() {
        // As far as a directory can stand in for the kernel: that makes the files.
        let base = tempfile::tempdir().expect("directory");
        let dir = base.path().join(TOP).join("instance");
        fs::create_dir_all(&dir).expect("directory");
        for lends in [base.path(), dir.parent().expect("above"), &dir] {
            fs::write(lends.join("cgroup.subtree_control"), "").expect("a file");
        }
        let hierarchy = Hierarchy {
            version: Version::Two,
            controllers: CONTROLLERS.to_vec(),
            base: base.path().to_owned(),
            dir: dir.clone(),
        };
        hierarchy.prepare().expect("prepared");
        for lends in [base.path(), dir.parent().expect("above"), &dir] {
            let said = fs::read_to_string(lends.join("cgroup.subtree_control")).expect("said");
            assert_eq!(said, "+cpu +memory +pids", "{}", lends.display());
        }
    }
}
