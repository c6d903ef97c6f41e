//! What the store knows about a volume or a snapshot: one file beside it.
//!
//! `volumes/NAME.json` describes `volumes/NAME`. Records are always whole: they come into being by a link and are replaced by
//! a rename, so a reader, or the next process after a crash, sees the old one or the new one. After a power cut too: a name may reach
//! the disk before the contents of its file do, so the contents are also kept with the file as an attribute, which file systems
//! write in one order with names. That is much quicker than waiting for the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::label::Labels;
use crate::name::SnapshotName;

const SUFFIX: &str = ".json";
/// What temporary files end in. They start with a dot, as no name does.
const TEMPORARY: &str = ".tmp";
/// The attribute that holds the contents of a record whose file a power cut left empty.
const TWIN: &str = "user.ondemand.record";
/// No record of ours comes near this; more is garbage.
const LARGEST: u64 = 4 << 20;

/// What is remembered about one volume or snapshot.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Record {
    pub(super) labels: Labels,
    /// What a volume was cloned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) snapshot: Option<SnapshotName>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) created: OffsetDateTime,
    pub(super) complete: bool,
    /// The number the file system gave to the volume a snapshot was made of: the one its data is counted under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<u64>,
}

impl Record {
    /// Makes the record of something that is about to be made.
    pub(super) fn begun(labels: &Labels, snapshot: Option<SnapshotName>) -> Self {
        Self { labels: labels.clone(), snapshot, created: OffsetDateTime::now_utc(), complete: false, origin: None }
    }
}

/// The mode of the directory of volumes: others must get through to the volumes they own, and need not see what else there is.
pub(super) const VOLUMES: u32 = 0o711;

/// The mode of the directory of snapshots. Nobody else gets in: a snapshot belongs to the user it was made as, and on BTRFS an owner may make it
/// writable again.
pub(super) const SNAPSHOTS: u32 = 0o700;

/// One directory of records and what they describe.
#[derive(Debug)]
pub(super) struct Catalog {
    dir: PathBuf,
    backend: &'static str,
    /// Tells the temporary files of concurrent writers apart.
    counter: AtomicU64,
}

impl Catalog {
    /// Opens the directory, makes it if need be, and removes the temporary files of a process that died.
    pub(super) fn open(dir: PathBuf, mode: u32, backend: &'static str) -> Result<Self> {
        let failed = |e| Error::io(backend, format!("making {}", dir.display()), e);
        match fs::DirBuilder::new().mode(mode).create(&dir) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(failed(e)),
            _ => {}
        }
        if dir.metadata().map_err(failed)?.permissions().mode() & 0o777 != mode {
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).map_err(failed)?;
        }
        let catalog = Self { dir, backend, counter: AtomicU64::new(0) };
        for name in catalog.file_names()? {
            if name.starts_with('.') && name.ends_with(TEMPORARY) {
                let path = catalog.dir.join(&name);
                if path.symlink_metadata().is_ok_and(|m| m.is_file()) {
                    catalog.ignore_missing(fs::remove_file(&path), "removing a temporary file")?;
                }
            }
        }
        Ok(catalog)
    }

    /// Returns where the data of `name` is.
    pub(super) fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Tells whether there is a record, readable or not.
    pub(super) fn exists(&self, name: &str) -> Result<bool> {
        self.record(name).try_exists().map_err(|e| self.error("looking for a record", e))
    }

    /// Writes the first record of `name`, unless there is one. Of all who try at once, one gets `true`.
    pub(super) fn create(&self, name: &str, record: &Record) -> Result<bool> {
        let temporary = self.write_temporary(name, record, false)?;
        let linked = fs::hard_link(&temporary, self.record(name));
        self.ignore_missing(fs::remove_file(&temporary), "removing a temporary file")?;
        match linked {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(self.error("writing a record", e)),
        }
    }

    /// Replaces the record of `name`; if `durable`, so that it survives a power cut.
    pub(super) fn replace(&self, name: &str, record: &Record, durable: bool) -> Result<()> {
        let temporary = self.write_temporary(name, record, durable)?;
        if let Err(e) = fs::rename(&temporary, self.record(name)) {
            // The rename's error is the one to tell; a file that stays is removed at the next start.
            let _ = fs::remove_file(&temporary);
            return Err(self.error("replacing a record", e));
        }
        if durable { self.sync() } else { Ok(()) }
    }

    /// Reads the record of `name`.
    pub(super) fn read(&self, name: &str) -> Result<Option<Record>> {
        let file = match File::open(self.record(name)) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.error(&format!("opening the record of {name}"), e)),
        };
        let mut text = Vec::with_capacity(1024);
        let mut read = || {
            (&file).take(LARGEST).read_to_end(&mut text)?;
            if text.is_empty() {
                text = read_twin(&file)?;
            }
            Ok(())
        };
        read().map_err(|e| self.error(&format!("reading the record of {name}"), e))?;
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| Error::backend(self.backend, format!("reading {}", self.record(name).display()), e))
    }

    /// Removes the record of `name`. Succeeds if there is none.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        self.ignore_missing(fs::remove_file(self.record(name)), "removing a record")
    }

    /// Returns the readable records in the order of their names; what cannot be read is reported and passed over.
    pub(super) fn list<N>(&self) -> Result<Vec<(N, Record)>>
    where
        N: Ord + AsRef<str> + FromStr,
    {
        let mut found = Vec::new();
        for file_name in self.file_names()? {
            // What is not a name of ours was made by somebody else.
            let Some(Ok(name)) = file_name.strip_suffix(SUFFIX).map(str::parse::<N>) else { continue };
            match self.read(name.as_ref()) {
                Ok(Some(record)) => found.push((name, record)),
                // It was deleted since the directory was read.
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    record = %self.dir.join(&file_name).display(),
                    error = error.to_string(),
                    cause = std::error::Error::source(&error).map(ToString::to_string),
                    "passing over a record that cannot be read; delete what it belongs to, or restore it"
                ),
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// Returns once the names in this directory survive a power cut.
    pub(super) fn sync(&self) -> Result<()> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(|e| self.error("writing a directory to disk", e))
    }

    fn record(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{SUFFIX}"))
    }

    fn file_names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.dir).map_err(|e| self.error("reading a directory", e))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| self.error("reading a directory", e))?;
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn write_temporary(&self, name: &str, record: &Record, durable: bool) -> Result<PathBuf> {
        let text = serde_json::to_vec(record).map_err(|e| Error::backend(self.backend, "writing a record", e))?;
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!(".{name}.{number}{TEMPORARY}"));
        let written = write_new(&path, &text, durable);
        if let Err(e) = written {
            let _ = fs::remove_file(&path);
            return Err(self.error(&format!("writing the record of {name}"), e));
        }
        Ok(path)
    }

    fn ignore_missing(&self, result: std::io::Result<()>, operation: &str) -> Result<()> {
        match result {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(self.error(operation, e)),
            _ => Ok(()),
        }
    }

    fn error(&self, operation: &str, source: std::io::Error) -> Error {
        Error::io(self.backend, format!("{operation} in {}", self.dir.display()), source)
    }
}

fn write_new(path: &Path, text: &[u8], durable: bool) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    // Where there is no room or no support for the attribute, the disk has to be waited for after all.
    if durable || rustix::fs::fsetxattr(&file, TWIN, text, XattrFlags::empty()).is_err() {
        file.sync_all()?;
    }
    Ok(())
}

/// Reads the attribute with a file's contents; nothing if it has none.
fn read_twin(file: &File) -> std::io::Result<Vec<u8>> {
    // The kernel's limit for any attribute.
    let mut text = vec![0; 64 << 10];
    match rustix::fs::fgetxattr(file, TWIN, text.as_mut_slice()) {
        Ok(length) => text.truncate(length),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => text.clear(),
        Err(e) => return Err(e.into()),
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::name::VolumeName;

    fn open(dir: &Path) -> Catalog {
        Catalog::open(dir.join("volumes"), VOLUMES, "test").expect("a catalogue")
    }

    fn record(value: &str) -> Record {
        Record::begun(&Labels::new().with("who", value).expect("a label"), None)
    }

    fn names(catalog: &Catalog) -> Vec<String> {
        let listed = catalog.list::<VolumeName>().expect("a list");
        listed.into_iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn of_many_racers_one_wins_and_its_record_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let catalog = open(dir.path());
        let barrier = Barrier::new(8);
        let winners = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|i| {
                    let (catalog, barrier) = (&catalog, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        catalog.create("a", &record(&i.to_string())).expect("an answer").then_some(i)
                    })
                })
                .collect();
            racers.into_iter().filter_map(|racer| racer.join().expect("no panic")).collect::<Vec<_>>()
        });
        assert_eq!(winners.len(), 1);
        let kept = catalog.read("a").expect("readable").expect("there");
        assert_eq!(kept.labels.get("who"), Some(winners[0].to_string().as_str()));
        assert_eq!(
            fs::read_dir(dir.path().join("volumes")).expect("a directory").count(),
            1,
            "a temporary file is left"
        );
    }

    #[test]
    fn a_record_survives_being_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let catalog = open(dir.path());
        let mut record = record("é \"quoted\" \\");
        record.snapshot = Some(SnapshotName::new("production@1").expect("a name"));
        assert!(catalog.create("a", &record).expect("created"));
        assert_eq!(catalog.read("a").expect("readable"), Some(record.clone()));
        record.complete = true;
        catalog.replace("a", &record, true).expect("replaced");
        assert_eq!(catalog.read("a").expect("readable"), Some(record));
    }

    #[test]
    fn a_record_that_a_power_cut_left_empty_is_read_from_its_attribute() {
        let dir = tempfile::tempdir().expect("a directory");
        let catalog = open(dir.path());
        let mut record = record("x");
        // Too large for the attribute on many file systems: it is on disk instead, which no test can see.
        record.labels.set("large", "y".repeat(4096)).expect("a label");
        assert!(catalog.create("large", &record).expect("created"));
        record.labels.unset("large");
        assert!(catalog.create("a", &record).expect("created"));
        File::create(dir.path().join("volumes/a.json")).expect("emptied");
        assert_eq!(catalog.read("a").expect("readable"), Some(record));
        assert!(catalog.read("large").expect("readable").is_some());
    }

    #[test]
    fn garbage_is_passed_over_and_temporary_files_are_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = open(dir.path());
        assert!(first.create("good", &record("x")).expect("created"));
        let volumes = dir.path().join("volumes");
        for (name, text) in
            [("bad.json", "{"), ("empty.json", ""), ("old.json", "{\"labels\":{}}"), (".good.7.tmp", "half")]
        {
            fs::write(volumes.join(name), text).expect("written");
        }
        fs::create_dir(volumes.join("dir.json")).expect("a directory");
        fs::create_dir(volumes.join(".theirs.tmp")).expect("a directory");
        assert_eq!(names(&first), ["good"]);
        let again = open(dir.path());
        assert_eq!(names(&again), ["good"]);
        assert!(!volumes.join(".good.7.tmp").exists());
        assert!(volumes.join(".theirs.tmp").exists());
        assert!(again.exists("bad").expect("an answer"));
        assert!(again.read("bad").is_err());
    }
}
