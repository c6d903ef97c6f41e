//! Keeping two processes from working on one store.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::own;

/// A directory, whatever its path: its device and inode numbers.
type Place = (u64, u64);

/// What this process has claimed. It may open a store that it has open: its own handles it can keep apart by itself, another process's not.
static CLAIMED: Mutex<Option<HashMap<Place, Weak<File>>>> = Mutex::new(None);

/// The right of this process to work on a store. The system takes it back however the process ends.
///
/// It is a lock on the directory itself, so that nothing lies there that is neither a volume nor a snapshot.
#[derive(Debug)]
pub(super) struct Claim(#[expect(dead_code, reason = "it is held")] Arc<File>);

impl Claim {
    /// Claims a store for this process.
    ///
    /// # Errors
    /// [`Error::Conflict`] if another process has it open.
    pub(super) fn take(root: &Path, backend: &'static str) -> Result<Self> {
        let failed = |e: io::Error| Error::io(backend, format!("claiming {}", root.display()), e);
        let directory = own::open(root).map_err(failed)?;
        let metadata = directory.metadata().map_err(failed)?;
        let place = (metadata.dev(), metadata.ino());
        let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
        let claimed = claimed.get_or_insert_default();
        if let Some(held) = claimed.get(&place).and_then(Weak::upgrade) {
            return Ok(Self(held));
        }
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Conflict {
                    message: format!("another process has the store at {} open", root.display()),
                    hint: "give each data directory a store of its own; on one file system, mount a subvolume for each"
                        .into(),
                });
            }
            // Not every file system over a network can lock a directory. The data directory's lock is what is left there.
            Err(error) => {
                tracing::warn!(store = %root.display(), %error, "the store cannot be locked against other processes");
            }
        }
        let held = Arc::new(directory);
        claimed.retain(|_, held| held.strong_count() > 0);
        claimed.insert(place, Arc::downgrade(&held));
        Ok(Self(held))
    }
}
