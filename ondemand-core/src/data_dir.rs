//! The lock of a data directory.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::own;

/// A data directory that this process, and no other, has open, until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The system releases it however this process ends.
    _lock: File,
}

impl DataDir {
    /// Opens a data directory, and makes it if need be.
    ///
    /// # Errors
    /// [`InvalidInput`](Error::InvalidInput) unless the path is absolute; [`Conflict`](Error::Conflict) if another process has it open.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if !path.is_absolute() {
            return Err(Error::invalid("data directory", format!("{} is not an absolute path", path.display())));
        }
        // Others may pass through, not look: Postgres runs as another user, with its data below.
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&path)
            .map_err(|e| Error::io("data directory", format!("making {}", path.display()), e))?;
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Takes the lock of a data directory.
fn lock(data_dir: &Path) -> Result<File> {
    let path = data_dir.join("lock");
    let file = own::open_with(OpenOptions::new().create(true).truncate(false).write(true).mode(0o600), &path)
        .map_err(|e| Error::io("data directory", format!("opening {}", path.display()), e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(Error::Conflict {
            message: format!("another process has the data directory {} open", data_dir.display()),
            hint: "talk to that server by its URL, stop it, or choose another data directory".into(),
        }),
        Err(e) => Err(Error::io("data directory", format!("locking {}", path.display()), e.into())),
    }
}
