//! One small JSON file a stack: what an orchestrator must remember and its engine cannot.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::catalog::Catalog;
use crate::error::{Error, Kind, Result};
use crate::listing::Listing;
use crate::name::StackName;
use crate::own;

/// The file whose lock is held by whoever writes; names cannot start with a dot, so no record has this name.
const LOCK: &str = ".lock";

/// A directory of records, one a stack, as `<stack>.json`.
///
/// Writers exclude each other by a file lock, held for the microseconds that a small file takes, so that two handles over one directory, in one process
/// or two, lose none of each other's changes. Nothing is flushed to disk: the programs that records speak of do not survive a power cut either.
#[derive(Debug)]
pub(crate) struct Records<T> {
    catalog: Catalog<T>,
    lock: PathBuf,
    backend: &'static str,
}

impl<T: Serialize + DeserializeOwned> Records<T> {
    /// Opens a directory, makes it if need be, and removes what killed writers left in it.
    pub(crate) fn open(dir: PathBuf, backend: &'static str) -> Result<Self> {
        make_private_dir(&dir, backend)?;
        let records = Self { lock: dir.join(LOCK), catalog: Catalog::at(dir, backend).volatile(), backend };
        let _lock = records.lock()?;
        records.catalog.remove_temporary()?;
        Ok(records)
    }

    /// Writes the first record of a name.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if the name is taken.
    pub(crate) fn create(&self, name: &StackName, record: &T) -> Result<()> {
        let _lock = self.lock()?;
        if self.catalog.create(name.as_str(), record)? { Ok(()) } else { Err(Error::already_exists(Kind::Stack, name)) }
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`Error::Backend`] that names the file, if it is no record.
    pub(crate) fn read(&self, name: &StackName) -> Result<Option<T>> {
        self.catalog.read(name.as_str())
    }

    /// Changes a record, and returns what `change` returned; `None` if there is no such record, or `change` returned `None` and
    /// so left it as it is.
    pub(crate) fn update<R>(&self, name: &StackName, change: impl FnOnce(&mut T) -> Option<R>) -> Result<Option<R>> {
        self.update_among(name, |record, _| change(record))
    }

    /// As [`Records::update`]; `change` may look at all records, which nobody changes meanwhile, by what it is given. [`Records::list`] would wait for ever.
    pub(crate) fn update_among<R>(
        &self,
        name: &StackName,
        change: impl FnOnce(&mut T, &dyn Fn() -> Result<Listing<T>>) -> Option<R>,
    ) -> Result<Option<R>> {
        let lock = self.lock()?;
        let Some(mut record) = self.read(name)? else { return Ok(None) };
        let Some(result) = change(&mut record, &|| self.list_locked(&lock)) else { return Ok(None) };
        self.catalog.replace(name.as_str(), &record, false)?;
        Ok(Some(result))
    }

    /// Deletes a record if it is the one that is meant. Succeeds if there is none.
    pub(crate) fn delete(&self, name: &StackName, is_meant: impl FnOnce(&T) -> bool) -> Result<()> {
        let _lock = self.lock()?;
        match self.read(name)? {
            Some(record) if is_meant(&record) => self.catalog.remove(name.as_str()),
            _ => Ok(()),
        }
    }

    /// Reads all records in the order of their names.
    pub(crate) fn list(&self) -> Result<Listing<T>> {
        self.list_locked(&self.lock()?)
    }

    /// While nobody changes a record, in another process neither: BTRFS leaves a name out of a listing that is renamed over meanwhile.
    fn list_locked(&self, _lock: &File) -> Result<Listing<T>> {
        Ok(self.catalog.list::<StackName>()?.map(|(_, record)| record))
    }

    fn lock(&self) -> Result<File> {
        own::open_with(OpenOptions::new().write(true).create(true).truncate(false).mode(0o600), &self.lock)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|e| Error::io(self.backend, format!("locking {}", self.lock.display()), e))
    }
}

/// Makes a directory that only this user may enter, unless it is there.
pub(crate) fn make_private_dir(dir: &Path, backend: &'static str) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Error::io(backend, format!("making the directory {}", dir.display()), e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::*;

    fn name(text: &str) -> StackName {
        StackName::new(text).expect("a stack name")
    }

    fn records(dir: &Path) -> Records<Vec<u32>> {
        Records::open(dir.to_owned(), "test").expect("a directory of records")
    }

    #[expect(clippy::unnecessary_wraps, reason = "this is what `update` wants")]
    fn push(record: &mut Vec<u32>, n: u32) -> Option<()> {
        record.push(n);
        Some(())
    }

    #[test]
    fn a_record_is_created_once_changed_and_deleted() {
        let dir = tempfile::tempdir().expect("a directory");
        let records = records(dir.path());
        let a = name("a");
        assert_eq!(records.read(&a).expect("readable"), None);
        records.create(&a, &vec![1]).expect("a new record");
        let again = records.create(&a, &vec![2]).expect_err("the name is taken");
        assert!(matches!(again, Error::AlreadyExists { kind: Kind::Stack, .. }), "{again:?}");
        let mode = fs::metadata(dir.path().join("a.json")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let kept: Option<()> = records.update(&a, |_| None).expect("readable");
        assert_eq!((kept, records.read(&a).expect("readable")), (None, Some(vec![1])));
        let changed = records.update(&a, |record| push(record, 2)).expect("writable");
        assert_eq!((changed, records.read(&a).expect("readable")), (Some(()), Some(vec![1, 2])));

        records.delete(&a, Vec::is_empty).expect("nothing to do");
        assert_eq!(records.list().expect("a list").found, [vec![1, 2]]);
        records.delete(&a, |_| true).expect("deleted");
        records.delete(&a, |_| true).expect("deleting is idempotent");
        assert_eq!(records.list().expect("a list"), Listing::default());
    }

    #[test]
    fn of_many_creators_one_wins() {
        let dir = tempfile::tempdir().expect("a directory");
        let records = Arc::new(records(dir.path()));
        let racers: Vec<_> = (0..16)
            .map(|n| {
                let records = Arc::clone(&records);
                std::thread::spawn(move || records.create(&name("a"), &vec![n]).is_ok().then_some(n))
            })
            .collect();
        let winners: Vec<u32> = racers.into_iter().filter_map(|racer| racer.join().expect("no panic")).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(records.read(&name("a")).expect("readable"), Some(winners));
    }

    #[test]
    fn no_change_is_lost_between_two_handles() {
        let dir = tempfile::tempdir().expect("a directory");
        records(dir.path()).create(&name("a"), &vec![]).expect("a new record");
        let writers: Vec<_> = (0..4)
            .map(|n| {
                let records = records(dir.path());
                std::thread::spawn(move || {
                    for _ in 0..50 {
                        records.update(&name("a"), |record| push(record, n)).expect("writable");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("no panic");
        }
        assert_eq!(records(dir.path()).read(&name("a")).expect("readable").map(|r| r.len()), Some(200));
    }

    #[test]
    fn garbage_is_named_and_hides_no_other_record() {
        let dir = tempfile::tempdir().expect("a directory");
        let records = records(dir.path());
        records.create(&name("good"), &vec![1]).expect("a new record");
        fs::write(dir.path().join("bad.json"), "{").expect("written");
        fs::write(dir.path().join("NOT A NAME.json"), "{").expect("written");
        let listed = records.list().expect("a list");
        assert_eq!(listed.found, [vec![1]]);
        assert_eq!(listed.unreadable.len(), 1, "{listed:?}");
        assert_eq!(listed.unreadable[0].name, "bad");
        let error = records.read(&name("bad")).expect_err("garbage");
        assert!(error.to_string().contains("bad.json"), "{error}");
        records.create(&name("bad"), &vec![2]).expect_err("garbage still holds the name");
    }

    #[test]
    fn what_killed_writers_and_power_cuts_leave_is_cleaned() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(".a.0.tmp"), "[1").expect("written");
        fs::write(dir.path().join("a.json"), "").expect("written");
        let records = records(dir.path());
        assert!(!dir.path().join(".a.0.tmp").exists());
        assert_eq!(records.list().expect("a list"), Listing::default());
        records.create(&name("a"), &vec![1]).expect("an empty record holds no name");
        assert_eq!(records.read(&name("a")).expect("readable"), Some(vec![1]));
    }

    #[test]
    fn a_writer_killed_between_link_and_unlink_harms_no_record() {
        let dir = tempfile::tempdir().expect("a directory");
        let records = records(dir.path());
        records.create(&name("a"), &vec![1]).expect("a new record");
        // Whatever number the next one gets.
        for number in 0..4 {
            fs::hard_link(dir.path().join("a.json"), dir.path().join(format!(".a.{number}.tmp"))).expect("linked");
        }
        records.create(&name("a"), &vec![2]).expect_err("the name is taken");
        assert_eq!(records.read(&name("a")).expect("readable"), Some(vec![1]));
    }
}
