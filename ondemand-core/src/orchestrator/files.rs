//! Files and directories that are made for services, and removed whatever a service made of them.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{FileMount, RunAs};
use crate::error::{Error, Result};
use crate::own;

/// Returns where the files of stacks are whose records are in `state_dir`: beside it.
pub(super) fn beside(state_dir: &Path, backend: &'static str) -> Result<PathBuf> {
    let failed = |e| Error::io(backend, format!("finding {}", state_dir.display()), e);
    let absolute = std::path::absolute(state_dir).map_err(failed)?;
    // Without a `/` at its end, after which the name would be that of a file below it.
    let mut root = absolute.components().collect::<PathBuf>().into_os_string();
    root.push("-files");
    Ok(root.into())
}

/// Returns the user of this process.
pub(super) fn own_user() -> RunAs {
    RunAs { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

/// Returns the user unless it is this process's own.
pub(super) fn other_user(user: RunAs) -> Option<RunAs> {
    (user != own_user()).then_some(user)
}

/// Returns whom a file of a service is to belong to: whom it says, else whom such files usually belong to.
pub(super) fn owner(mount: &FileMount, usual: RunAs) -> Result<RunAs> {
    let number = |given: &Option<String>, usual: u32| {
        given.as_ref().map_or(Ok(usual), |text| {
            let wrong = |_| Error::invalid(format!("owner of {:?}", mount.source), "it is not a number");
            text.parse().map_err(wrong)
        })
    };
    let owner = RunAs { uid: number(&mount.uid, usual.uid)?, gid: number(&mount.gid, usual.gid)? };
    if other_user(owner).is_some() && !rustix::process::geteuid().is_root() {
        return Err(Error::Unsupported {
            message: format!("{:?} is to belong to another user, and only root may do that", mount.source),
            hint: "run as root, or leave its owner out".into(),
        });
    }
    Ok(owner)
}

/// Writes a new file that has this owner and mode from the moment it has content.
pub(super) fn write(path: &Path, content: &str, owner: RunAs, mode: u32) -> io::Result<()> {
    let mut out = own::open_with(OpenOptions::new().write(true).create_new(true).mode(0o600), path)?;
    out.write_all(content.as_bytes())?;
    if let Some(owner) = other_user(owner) {
        fchown(&out, Some(owner.uid), Some(owner.gid))?;
    }
    // Last: the owner and the mask of this process take bits away.
    out.set_permissions(Permissions::from_mode(mode))
}

/// Removes a directory with all in it; follows no link out of it. Succeeds if there is none.
pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    match gone(own::remove_dir_all(dir)) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_up(dir)?;
            gone(own::remove_dir_all(dir))
        }
        result => result,
    }
}

/// Gives this process every right to the directories below one that a program may have taken away.
fn open_up(dir: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // By a handle, so that nothing put in the directory's place in the meantime is changed.
    let handle = match rustix::fs::open(dir, flags, Mode::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let path = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
    let mode = fs::metadata(&path)?.permissions().mode();
    if mode & 0o700 != 0o700 {
        own::set_permissions(&path, Permissions::from_mode(mode | 0o700))?;
    }
    for entry in own::read_dir(&path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_beside_the_records() {
        for state_dir in ["/data/stacks", "/data/stacks/", "/data//stacks/."] {
            assert_eq!(beside(Path::new(state_dir), "test").expect("a path"), Path::new("/data/stacks-files"));
        }
        assert!(beside(Path::new("stacks"), "test").expect("a path").is_absolute());
    }

    #[test]
    fn a_tree_is_removed_and_nothing_it_links_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let (outside, tree) = (dir.path().join("outside"), dir.path().join("tree"));
        fs::create_dir_all(outside.join("kept")).expect("a directory");
        fs::create_dir_all(tree.join("a/b/c")).expect("a directory");
        fs::write(tree.join("a/b/file"), "x").expect("a file");
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).expect("a link");
        fs::set_permissions(&outside, Permissions::from_mode(0o500)).expect("shut");
        for shut in ["a/b/c", "a/b", "a"] {
            fs::set_permissions(tree.join(shut), Permissions::from_mode(0o000)).expect("shut");
        }
        open_up(&tree).expect("opened");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&tree.join("a/b/c")), 0o700);
        assert_eq!(mode(&outside), 0o500, "it was reached through a link only");
        remove_tree(&tree).expect("removed");
        remove_tree(&tree).expect("removing is idempotent");
        assert!(!tree.exists() && outside.join("kept").exists());
        std::os::unix::fs::symlink(&outside, &tree).expect("a link");
        let _ = remove_tree(&tree);
        assert!(outside.join("kept").exists(), "a link in its place is not followed");
    }
}
