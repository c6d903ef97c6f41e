//! A sandbox for programs of the host: namespaces of their own, made by bubblewrap (`bwrap`).
//!
//! A program in a sandbox sees of the host its mounts, the system's programs and libraries (`/usr`), and a few files of `/etc`. Other processes, their
//! files, sockets and shared memory do not exist there. The kernel ends all that runs in the sandbox when its first process ends, whatever those
//! programs did to hide; and that process ends with the one that started it, until the host starts again.
//!
//! As root, the first process stays root's, without capabilities, and the program becomes another user: so nothing in the sandbox can touch the first
//! process. As another user it takes user namespaces.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::listing::{usable, usable_dir, usable_file};
use crate::orchestrator::{Mount, RunAs};
use crate::own;

/// Where programs of a sandbox, and those that make one, are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where names come from in a sandbox: no service of the host that knows others can be asked there, and looking for them takes time.
const NSSWITCH: &[u8] =
    b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n";
/// Its name in `/etc`.
const NSSWITCH_NAME: &str = "nsswitch.conf";

/// The devices that a sandbox without terminals gets. Each takes a mount, and so a tenth of a millisecond.
const DEVICES: &[&str] = &["null", "zero", "urandom"];
/// The links of `/dev`, and where they lead.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// The files of `/etc` that a sandbox gets: the C library, OpenSSL and Postgres read them.
const ETC: &[&str] = &[
    "passwd",
    "group",
    NSSWITCH_NAME,
    "localtime",
    "timezone",
    "hosts",
    "host.conf",
    "resolv.conf",
    "gai.conf",
    "services",
    "protocols",
    "ld.so.cache",
    "ssl/openssl.cnf",
];
/// The largest of these files that is taken.
const ETC_LIMIT: u64 = 4 << 20;

/// Directories with programs and libraries: where they are links into `/usr`, as links.
const SYSTEM: &[&str] =
    &["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/var/cache/postgresql"];

/// How long trying a sandbox may take, on a busy machine.
const TRIED_WITHIN: Duration = Duration::from_secs(30);

/// What makes sandboxes on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    tools: Arc<Tools>,
}

#[derive(Debug, PartialEq, Eq)]
struct Tools {
    bwrap: PathBuf,
    /// What becomes another user in the sandbox; only where this process is root. Of the programs that do, it is the one that starts fastest.
    unshare: Option<PathBuf>,
    /// What all sandboxes see.
    system: Vec<OsString>,
    /// What they see beside it.
    more: Vec<OsString>,
}

/// What one sandbox holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inside<'a> {
    /// Directories and files of the host that it sees, at their places.
    pub(crate) mounts: &'a [Mount],
    /// The size of its shared memory in bytes; half of the machine's where it is not given.
    pub(crate) shm_size: Option<u64>,
    /// Whether it shares the host's network; without, it has none.
    pub(crate) network: bool,
}

impl Sandbox {
    /// Looks for what a sandbox needs, writes what it shows of `/etc` below `dir`, and tries one as `user`.
    ///
    /// # Errors
    /// Why there is none, in words for a user. `Ok` is proof that one could be made.
    pub async fn find(dir: &Path, user: RunAs) -> Result<Self, String> {
        let sandbox = Self::with(dir, rustix::process::geteuid().is_root(), None)?;
        sandbox.try_out(user).await.map(|()| sandbox)
    }

    /// As [`find`](Self::find), for programs that may want terminals, with more directories of the host that every sandbox shows, read-only and where
    /// there are any. They are absolute, and what is below `/etc` comes beside the few files of it.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn find_showing(dir: &Path, user: RunAs, more: &[PathBuf]) -> Result<Self, String> {
        let sandbox = Self::with(dir, rustix::process::geteuid().is_root(), Some(more))?;
        sandbox.try_out(user).await.map(|()| sandbox)
    }

    fn with(dir: &Path, as_root: bool, more: Option<&[PathBuf]>) -> Result<Self, String> {
        let needed = |name: &str, package: &str| {
            find_program(name).ok_or_else(|| format!("{name} is not installed (apt-get install {package})"))
        };
        let bwrap = needed("bwrap", "bubblewrap")?;
        let unshare = as_root.then(|| needed("unshare", "util-linux")).transpose()?;
        let etc = dir.join("etc");
        let failed = |e| format!("writing {}: {e}", etc.display());
        copy_etc(&etc).map_err(failed)?;
        let devices = more.map_or_else(few_devices, |_| ["--dev", "/dev"].map(OsString::from).into());
        let more: Vec<&PathBuf> = more.unwrap_or_default().iter().filter(|path| usable_dir(path)).collect();
        for below in more.iter().filter_map(|path| path.strip_prefix("/etc").ok()) {
            // Each on the way to it, whatever this process's umask is.
            let mut dirs: Vec<&Path> = below.ancestors().collect();
            dirs.reverse();
            dirs.into_iter().try_for_each(|dir| make_readable(&etc.join(dir))).map_err(failed)?;
        }
        Ok(Self { tools: Arc::new(Tools { bwrap, unshare, system: system(&etc, devices), more: shown(&more) }) })
    }

    async fn try_out(&self, user: RunAs) -> Result<(), String> {
        let inside = Inside { mounts: &[], shm_size: None, network: false };
        let words = self.words(inside, []);
        let mut command = tokio::process::Command::new(&words[0]);
        command.args(&words[1..]).args(self.user_words(user)).args(["/bin/sh", "-c", ":"]);
        command.env_clear().env("PATH", PATH).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let tried = tokio::time::timeout(TRIED_WITHIN, command.output()).await;
        let output = tried.map_err(|_| "bwrap does not end".to_owned())?.map_err(|e| format!("starting bwrap: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said.lines().next_back().map_or_else(|| format!("bwrap: {}", output.status), str::to_owned))
    }

    /// Tells whether its programs must be started as root, and become another user inside.
    pub(crate) fn starts_as_root(&self) -> bool {
        self.tools.unshare.is_some()
    }

    /// Returns the words that a program's own come after, for it to run in a sandbox, in its root directory, with these variables beside those that the sandbox is made
    /// with. Everybody on the host can read both: no secrets.
    pub(crate) fn words<'a>(
        &self,
        inside: Inside<'_>,
        env: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![self.tools.bwrap.clone().into()];
        let mut add = |more: &[&str]| words.extend(more.iter().map(OsString::from));
        add(&["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]);
        if !inside.network {
            add(&["--unshare-net"]);
        }
        // No way to the terminal of whoever started this; and the end of what started it ends it.
        add(&["--new-session", "--die-with-parent"]);
        if self.starts_as_root() {
            add(&["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]);
        } else {
            add(&["--unshare-user", "--disable-userns"]);
        }
        words.extend(self.tools.system.iter().cloned());
        let mut add = |more: &[&str]| words.extend(more.iter().map(OsString::from));
        add(&["--perms", "1777"]);
        if let Some(size) = inside.shm_size {
            add(&["--size", &size.to_string()]);
        }
        // The root is a file system in memory already.
        add(&["--tmpfs", "/dev/shm", "--perms", "1777", "--dir", "/tmp"]);
        words.extend(self.tools.more.iter().cloned());
        words.extend(parents(inside.mounts.iter().map(|mount| mount.target.as_path())));
        let mut mounts: Vec<&Mount> = inside.mounts.iter().collect();
        // One may lie in another: the outer one first, or it would hide the inner one.
        mounts.sort_by_key(|mount| mount.target.components().count());
        for mount in mounts {
            words.push(if mount.read_only { "--ro-bind" } else { "--bind" }.into());
            words.push(mount.source.clone().into());
            words.push(mount.target.clone().into());
        }
        for (key, value) in env {
            words.extend(["--setenv", key, value].map(OsString::from));
        }
        words.extend(["--chdir", "/", "--"].map(OsString::from));
        words
    }

    /// Returns the words that come right before a program's own, for it to run as `user`.
    pub(crate) fn user_words(&self, user: RunAs) -> Vec<OsString> {
        let Some(unshare) = &self.tools.unshare else { return Vec::new() };
        let mut words: Vec<OsString> = vec![unshare.clone().into()];
        // It leaves all groups; and with its user, its capabilities. `bwrap` has seen to it that no program gets any by being started.
        words.extend(
            [format!("--setuid={}", user.uid), format!("--setgid={}", user.gid), "--".into()].map(OsString::from),
        );
        words
    }
}

/// Returns the process that is the program of a sandbox, among the descendants of what it was started with.
pub(crate) fn program(descendants: impl IntoIterator<Item = u32>) -> Option<u32> {
    // The first process of the sandbox has number 1 in it, and the program is the next. Sandboxes in the sandbox have longer lists.
    let numbers = |pid: u32| {
        let status = own::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let numbers: Vec<u32> = numbers.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
        (numbers.len() > 1 && numbers.last() == Some(&2)).then_some((numbers.len(), pid))
    };
    descendants.into_iter().filter_map(numbers).min().map(|(_, pid)| pid)
}

/// Returns the arguments for the directories above these, which everybody may pass through. Those that are there stay as they are: `bwrap` would make
/// missing ones for root alone.
fn parents<'a>(paths: impl Iterator<Item = &'a Path>) -> Vec<OsString> {
    let above = paths.flat_map(|path| path.ancestors().skip(1).filter(|path| path.parent().is_some()));
    let above: BTreeSet<&Path> = above.collect();
    above.into_iter().flat_map(|path| ["--perms".into(), "0755".into(), "--dir".into(), path.into()]).collect()
}

/// Returns the arguments for what all sandboxes see.
fn system(etc: &Path, devices: Vec<OsString>) -> Vec<OsString> {
    let there = SYSTEM.iter().map(Path::new).filter(|path| usable(path));
    let mut words = parents(there);
    words.extend(["--ro-bind", "/usr", "/usr"].map(OsString::from));
    for path in SYSTEM {
        match fs::read_link(path) {
            Ok(target) => words.extend(["--symlink".into(), target.into(), path.into()]),
            Err(_) if usable_dir(Path::new(path)) => words.extend(["--ro-bind".into(), path.into(), path.into()]),
            Err(_) => {}
        }
    }
    words.extend(["--proc", "/proc"].map(OsString::from));
    words.extend(devices);
    words.extend(["--ro-bind".into(), etc.into(), "/etc".into()]);
    words
}

/// Returns the arguments for what programs without terminals need of `/dev`.
fn few_devices() -> Vec<OsString> {
    let mut words = ["--perms", "0755", "--dir", "/dev"].map(OsString::from).to_vec();
    for device in DEVICES.iter().map(|name| format!("/dev/{name}")) {
        words.extend(["--dev-bind", &device, &device].map(OsString::from));
    }
    for (name, target) in DEVICE_LINKS {
        words.extend(["--symlink".into(), target.into(), format!("/dev/{name}").into()]);
    }
    words
}

/// Returns the arguments for more directories of the host.
fn shown(paths: &[&PathBuf]) -> Vec<OsString> {
    // What is below `/etc` has its place there; another place is made.
    let made = paths.iter().map(|path| path.as_path()).filter(|path| !path.starts_with("/etc"));
    let shown = paths.iter().flat_map(|&path| ["--ro-bind".into(), path.into(), path.into()]);
    parents(made).into_iter().chain(shown).collect()
}

/// Writes copies of the files that are taken of `/etc`, each in one step: sandboxes that run see them change.
fn copy_etc(etc: &Path) -> io::Result<()> {
    make_readable(etc)?;
    for name in ETC {
        let to = etc.join(name);
        let content = match *name {
            NSSWITCH_NAME => Ok(NSSWITCH.to_vec()),
            name => read_regular(&Path::new("/etc").join(name)),
        };
        match content {
            Ok(content) => {
                if let Some(parent) = to.parent() {
                    make_readable(parent)?;
                }
                let new = to.with_extension("new");
                // A link there is removed and not followed.
                remove_if_there(&new)?;
                own::open_with(fs::OpenOptions::new().write(true).create_new(true), &new)?.write_all(&content)?;
                own::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
                own::rename(&new, &to)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => remove_if_there(&to)?,
            Err(e) => return Err(io::Error::new(e.kind(), format!("/etc/{name}: {e}"))),
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match own::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes a directory that everybody may read, whatever this process's umask is.
fn make_readable(path: &Path) -> io::Result<()> {
    own::create_dir_all(path)?;
    own::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut content = Vec::new();
    file.take(ETC_LIMIT).read_to_end(&mut content)?;
    Ok(content)
}

fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(PATH).map(|dir| dir.join(name)).find(|path| usable_file(path))
}
