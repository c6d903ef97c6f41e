//! The programs and kernel parts that pools are made with.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BACKEND, mounts, requests};
use crate::error::{Error, Result};
use crate::listing::{usable, usable_file, what_is_at};
use crate::own;

/// What a pool is mounted with: what needs a copy needs no access times, an owner may delete their own subvolumes, and what is
/// deleted gives its room back to the disk.
const OPTIONS: &str = "noatime,user_subvol_rm_allowed,discard=async";

/// Tells whether pools can be made here, or else what is missing.
///
/// # Errors
/// [`Unsupported`](Error::Unsupported), with what to install or to do.
pub fn supported() -> Result<()> {
    let missing = |message: &str, hint: &str| Err(Error::Unsupported { message: message.into(), hint: hint.into() });
    if !rustix::process::geteuid().is_root() {
        return missing("making and mounting a pool needs root", "run it as root, for instance with sudo");
    }
    if program("mkfs.btrfs").is_none() {
        return missing("mkfs.btrfs is not installed", "install it: apt-get install btrfs-progs");
    }
    if ["mount", "umount", "losetup"].into_iter().any(|name| program(name).is_none()) {
        return missing("mount, umount or losetup is not installed", "install them: apt-get install mount");
    }
    if !knows_btrfs() {
        load("btrfs");
        if !knows_btrfs() {
            return missing("this kernel has no BTRFS", "use another kernel, or the store `copy`");
        }
    }
    let loops = Path::new("/dev/loop-control");
    if !usable(loops) {
        load("loop");
        if !usable(loops) {
            return missing(
                "there are no loop devices here",
                "in a container, run it privileged with /dev, or use the store `copy`",
            );
        }
    }
    Ok(())
}

fn knows_btrfs() -> bool {
    let systems = own::read_to_string("/proc/filesystems").unwrap_or_default();
    systems.lines().any(|line| line.split_whitespace().last() == Some("btrfs"))
}

/// Loads a kernel module if that can be done; what counts is whether it is there afterwards.
fn load(module: &str) {
    if let Some(modprobe) = program("modprobe") {
        let loaded = Command::new(modprobe).arg("-q").arg(module).output();
        tracing::debug!(module, ?loaded, "loading a kernel module");
    }
}

/// Mounts the file system in `image` at `path`; the loop device goes away with the mount.
pub(super) fn mount_image(image: &Path, path: &Path) -> Result<()> {
    let losetup = program("losetup").unwrap_or_else(|| "losetup".into());
    // One that an earlier call left behind, which was killed, is taken.
    let attached = run(&losetup, &["--nooverlap", "--find", "--show", "--"], &[image])?;
    let device = Path::new(attached.trim());
    let opening = |e| Error::io(BACKEND, format!("opening {}", device.display()), e);
    let held = own::open(device).map_err(opening);
    // A device in use goes away with its last use: from here on, that is this process or the mount.
    run(&losetup, &["--detach"], &[device])?;
    let held = held?;
    // Mounting writes already. Who opens the store finds out how much room there is.
    if let Some(Err(error)) = block(device).map(|block| requests::limit(&block, true)) {
        tracing::warn!(%error, "what a pool's device writes at once cannot be limited: the pool is damaged if its disk fills");
    }
    let mount = program("mount").unwrap_or_else(|| "mount".into());
    let mounted = run(&mount, &["-t", "btrfs", "-o", OPTIONS, "--"], &[device, path]).map(drop);
    drop(held);
    if mounted.is_err() {
        lift_limit(device);
    }
    mounted
}

/// Lets a device write as much at once as it did before it held a pool: it is somebody else's next, and the kernel keeps what it was told.
fn lift_limit(device: &Path) {
    let Some(block) = block(device) else { return };
    // Another mount namespace may have the pool still, or somebody has the device already.
    if matches!(what_is_at(&block.join("loop"), BACKEND), Ok(None))
        && let Err(error) = requests::limit(&block, false)
    {
        tracing::debug!(%error, "lifting a device's limit of what it writes at once");
    }
}

/// Returns the directory of a device below `/sys`.
fn block(device: &Path) -> Option<PathBuf> {
    Some(Path::new("/sys/block").join(device.file_name()?))
}

/// Unmounts what is mounted at `path`.
pub(super) fn unmount(path: &Path) -> Result<()> {
    use rustix::io::Errno;
    let device = mounts::at(path)?.and_then(|mounted| mounted.device);
    match rustix::mount::unmount(path, rustix::mount::UnmountFlags::empty()) {
        Ok(()) => {
            if let Some(device) = device {
                lift_limit(&device);
            }
            Ok(())
        }
        Err(Errno::BUSY) => Err(Error::Conflict {
            message: format!("the pool at {} is in use", path.display()),
            hint: "stop what works in it: databases, shells, the server".into(),
        }),
        Err(e) => Err(Error::io(BACKEND, format!("unmounting {}", path.display()), e.into())),
    }
}

/// Has a loop device look how large its file is.
pub(super) fn resize_loop(device: &Path) -> Result<()> {
    let losetup = program("losetup").unwrap_or_else(|| "losetup".into());
    run(&losetup, &["--set-capacity"], &[device]).map(drop)
}

/// Returns what the kernel says of the file behind a loop device: its inode, and the numbers of its device.
pub(super) fn backing_of(device: &Path) -> Result<String> {
    let losetup = program("losetup").unwrap_or_else(|| "losetup".into());
    let columns = ["--list", "--noheadings", "--raw", "--output", "BACK-INO,BACK-MAJ:MIN"];
    // It pads the numbers, and escapes what it pads them with.
    let said = run(&losetup, &columns, &[device])?.replace("\\x20", " ");
    Ok(said.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Returns the first of the usual places that has the program: those of root are not in everybody's `PATH`.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|p| p.is_absolute() && usable_file(p))
}

/// Runs a program to its end, and returns its output; what it says beside that is the error's cause.
pub(super) fn run(program: &Path, options: &[&str], paths: &[&Path]) -> Result<String> {
    let operation = || format!("running {}", program.display());
    let output = Command::new(program)
        .args(options)
        .args(paths)
        .env("LC_ALL", "C")
        .output()
        .map_err(|e| Error::io(BACKEND, operation(), e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = if said.trim().is_empty() { output.status.to_string() } else { said.trim().to_owned() };
    Err(Error::backend(BACKEND, operation(), said))
}
