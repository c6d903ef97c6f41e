//! Whether a store has room for new work.
//!
//! New work is refused before anything is short: what is there already writes on, and must not find the disk full.

use std::path::PathBuf;

use super::{SnapshotStore, Usage};
use crate::error::{Error, Result};
use crate::notation::Size;

/// The space that new work leaves to the databases and versions that exist: data, metadata, and the disk beneath.
/// A small store or disk reserves a part of its size instead.
const DATA_RESERVE: u64 = 256 << 20;
const METADATA_RESERVE: u64 = 64 << 20;
const BENEATH_RESERVE: u64 = 1 << 30;

/// The disk that holds the file of a pool.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Beneath {
    /// The directory of the file.
    pub path: PathBuf,
    /// The bytes of that disk.
    pub total: u64,
    /// Its free bytes.
    pub free: u64,
    /// How many more bytes the file may take: it is sparse.
    pub growth: u64,
}

impl Beneath {
    /// Returns how much is to stay free.
    pub fn reserve(&self) -> u64 {
        BENEATH_RESERVE.min(self.total / 20)
    }

    /// Tells whether the file may soon want more than there is.
    pub fn is_short(&self) -> bool {
        self.free < self.growth && self.free < self.reserve()
    }
}

/// Says what a store is short of, if it is and that can be told.
pub(crate) async fn shortage(store: &dyn SnapshotStore) -> Option<Error> {
    let space = store.space().await.and_then(|space| space.check_room());
    space.err().filter(|error| matches!(error, Error::OutOfSpace { .. } | Error::ReadOnly { .. }))
}

/// Returns why something failed: while a store is short, what failed did so for that, and not every program says what it lacked.
pub(crate) async fn cause(store: &dyn SnapshotStore, error: Error) -> Error {
    match error {
        Error::Backend { .. } | Error::NotReady { .. } => match shortage(store).await {
            Some(short) => {
                tracing::warn!(error = error.with_causes(), "something failed while the store is short");
                short
            }
            None => error,
        },
        error => error,
    }
}

impl Usage {
    /// Checks that there is room for new work: a database, a version of a dataset.
    ///
    /// # Errors
    /// [`ReadOnly`](Error::ReadOnly) for a store that cannot be written; [`OutOfSpace`](Error::OutOfSpace) where something is short, with what it is.
    pub fn check_room(&self) -> Result<()> {
        if self.read_only {
            return Err(self.read_only_error());
        }
        if let Some(beneath) = self.beneath.as_ref().filter(|beneath| beneath.is_short()) {
            let Beneath { path, free, growth, .. } = beneath;
            return Err(short(format!(
                "{} are free in {}, where the pool's file may take {} more; new work needs {}",
                Size(*free),
                path.display(),
                Size(*growth),
                Size(beneath.reserve())
            )));
        }
        let data = DATA_RESERVE.min(self.total / 20);
        if self.free < data {
            return Err(short(format!("{} are free in the store; new work needs {}", Size(self.free), Size(data))));
        }
        if let (Some(metadata), Some(unallocated)) = (self.metadata_free, self.unallocated) {
            let (left, needed) = (metadata.saturating_add(unallocated), METADATA_RESERVE.min(self.total / 64));
            if left < needed {
                return Err(short(format!(
                    "{} are left for the pool's metadata, whatever is free for data; new work needs {}",
                    Size(left),
                    Size(needed)
                )));
            }
        }
        Ok(())
    }

    fn read_only_error(&self) -> Error {
        let short = self.beneath.as_ref().filter(|beneath| beneath.is_short());
        let why = short.map_or_else(String::new, |beneath| {
            let Beneath { path, free, .. } = beneath;
            format!(": {} are free in {}, and it takes {}", Size(*free), path.display(), Size(beneath.reserve()))
        });
        Error::ReadOnly { message: format!("the store is read-only{why}") }
    }
}

fn short(message: String) -> Error {
    Error::OutOfSpace { message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const GIB: u64 = 1 << 30;

    fn roomy() -> Usage {
        Usage {
            total: 100 * GIB,
            free: 50 * GIB,
            unallocated: Some(40 * GIB),
            metadata_free: Some(0),
            beneath: Some(Beneath { path: "/data".into(), total: 200 * GIB, free: 10 * GIB, growth: 50 * GIB }),
            ..Usage::default()
        }
    }

    fn code(usage: &Usage) -> Option<Code> {
        usage.check_room().err().map(|error| error.code())
    }

    #[test]
    fn where_all_is_well_there_is_room() {
        assert_eq!(code(&roomy()), None);
        // What the file system does not tell is not short.
        assert_eq!(code(&Usage { unallocated: None, metadata_free: None, beneath: None, ..roomy() }), None);
    }

    #[test]
    fn each_of_them_may_be_short() {
        let beneath = |free, growth| Some(Beneath { path: "/data".into(), total: 200 * GIB, free, growth });
        let full = roomy();
        for (short, word) in [
            (Usage { beneath: beneath(GIB - 1, 50 * GIB), ..full.clone() }, "/data"),
            (Usage { free: DATA_RESERVE - 1, ..full.clone() }, "store"),
            (Usage { unallocated: Some(0), metadata_free: Some(METADATA_RESERVE - 1), ..full.clone() }, "metadata"),
        ] {
            let error = short.check_room().expect_err(word);
            assert_eq!(error.code(), Code::OutOfSpace, "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
        // A file that is as large as it becomes takes nothing more of the disk.
        assert_eq!(code(&Usage { beneath: beneath(0, 0), ..full.clone() }), None);
        assert_eq!(code(&Usage { unallocated: Some(0), metadata_free: Some(METADATA_RESERVE), ..full }), None);
    }

    #[test]
    fn a_small_store_keeps_a_part_back() {
        let small = |free| Usage { total: 256 << 20, free, ..Usage::default() };
        assert_eq!(code(&small(13 << 20)), None);
        assert_eq!(code(&small(12 << 20)), Some(Code::OutOfSpace));
    }

    #[test]
    fn a_store_that_is_read_only_says_so() {
        let mut usage = Usage { read_only: true, ..roomy() };
        let error = usage.check_room().expect_err("read-only");
        assert_eq!(error.to_string(), "the store is read-only");
        assert!(error.is_transient() && error.hint().is_some_and(|hint| hint.contains("reap")), "{error:?}");
        usage.beneath = Some(Beneath { path: "/data".into(), total: GIB, free: 0, growth: GIB });
        assert_eq!(
            usage.check_room().expect_err("short").to_string(),
            "the store is read-only: 0 B are free in /data, and it takes 51.2 MiB"
        );
    }
}
