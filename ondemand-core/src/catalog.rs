//! A directory of small records, one JSON file each.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::marker::PhantomData;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{BoxError, Error, Result};
use crate::listing::{Listing, Unreadable};
use crate::own;

const SUFFIX: &str = ".json";
/// What temporary files end in. They start with a dot, as no name does.
const TEMPORARY: &str = ".tmp";
/// The attribute that holds the contents of a record whose file a power cut left empty.
const TWIN: &str = "user.ondemand.record";
/// The most bytes that a record has.
const LARGEST: u64 = 64 << 20;
/// How many of them a new one leaves for what is added to it later.
const KEPT_FREE: u64 = 1 << 20;

/// One directory of records and what they describe.
///
/// `NAME.json` describes what has that name. Records are always whole: they come into being by a link and are replaced by
/// a rename, so a reader, or the next process after a crash, sees the old one or the new one. After a power cut too: a name may reach
/// the disk before the contents of its file do, so the contents are also kept with the file as an attribute, which file systems
/// write in one order with names. That is much quicker than waiting for the disk.
///
/// All records are kept by this. It reports a file that it cannot read, or that a later version wrote, and never takes it for absent.
#[derive(Debug)]
pub(crate) struct Catalog<T> {
    dir: PathBuf,
    backend: &'static str,
    /// Whether what it describes ends with the machine, and its records need not outlive it.
    volatile: bool,
    record: PhantomData<fn() -> T>,
    /// Tells the temporary files of concurrent writers apart.
    counter: AtomicU64,
    /// How many have asked for [`Self::sync`].
    asked: AtomicU64,
    /// How many of them have been served.
    served: Mutex<u64>,
    /// Held alone while the names are listed: BTRFS leaves a name out that is renamed over meanwhile.
    names: RwLock<()>,
}

impl<T: Serialize + DeserializeOwned> Catalog<T> {
    /// Opens the directory, makes it if need be, and removes the temporary files of a process that died.
    pub(crate) fn open(dir: PathBuf, mode: u32, backend: &'static str) -> Result<Self> {
        let failed = |e| Error::io(backend, format!("making {}", dir.display()), e);
        match fs::DirBuilder::new().mode(mode).create(&dir) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(failed(e)),
            _ => {}
        }
        if dir.metadata().map_err(failed)?.permissions().mode() & 0o777 != mode {
            own::set_permissions(&dir, fs::Permissions::from_mode(mode)).map_err(failed)?;
        }
        let catalog = Self::at(dir, backend);
        catalog.remove_temporary()?;
        Ok(catalog)
    }

    /// Removes the temporary files of processes that died; what lives writes none meanwhile.
    pub(crate) fn remove_temporary(&self) -> Result<()> {
        for name in self.file_names()? {
            if name.starts_with('.') && name.ends_with(TEMPORARY) {
                let path = self.dir.join(&name);
                if path.symlink_metadata().is_ok_and(|m| m.is_file()) {
                    self.ignore_missing(own::remove_file(&path), "removing a temporary file")?;
                }
            }
        }
        Ok(())
    }

    /// Takes a directory as it is, and changes nothing in it: the temporary files may be those of a process that lives.
    pub(crate) fn at(dir: PathBuf, backend: &'static str) -> Self {
        Self {
            dir,
            backend,
            volatile: false,
            record: PhantomData,
            counter: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            served: Mutex::new(0),
            names: RwLock::new(()),
        }
    }

    /// Makes it one of records that speak of what a power cut ends: one that it left empty counts as none.
    pub(crate) fn volatile(self) -> Self {
        Self { volatile: true, ..self }
    }

    /// Returns where the data of `name` is.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Tells whether there is a record, readable or not.
    pub(crate) fn exists(&self, name: &str) -> Result<bool> {
        self.record(name).try_exists().map_err(|e| self.error("looking for a record", e))
    }

    /// Writes the first record of `name`, unless there is one. Of all who try at once, one gets `true`.
    pub(crate) fn create(&self, name: &str, record: &T) -> Result<bool> {
        let temporary = self.write_temporary(name, record, LARGEST - KEPT_FREE)?;
        if self.volatile && fs::metadata(self.record(name)).is_ok_and(|metadata| metadata.len() == 0) {
            self.remove(name)?;
        }
        let linked = {
            let _names = self.change_names();
            let linked = own::hard_link(&temporary, self.record(name));
            self.ignore_missing(own::remove_file(&temporary), "removing a temporary file")?;
            linked
        };
        match linked {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(self.error("writing a record", e)),
        }
    }

    /// Replaces the record of `name`; if `durable`, so that it survives a power cut.
    pub(crate) fn replace(&self, name: &str, record: &T, durable: bool) -> Result<()> {
        let temporary = self.write_temporary(name, record, LARGEST)?;
        let renamed = {
            let _names = self.change_names();
            own::rename(&temporary, self.record(name))
        };
        if let Err(e) = renamed {
            // The rename's error is the one to tell; a file that stays is removed at the next start.
            let _ = own::remove_file(&temporary);
            return Err(self.error("replacing a record", e));
        }
        if durable { self.sync() } else { Ok(()) }
    }

    /// Reads the record of `name`.
    pub(crate) fn read(&self, name: &str) -> Result<Option<T>> {
        let file = match own::open(self.record(name)) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.error(&format!("opening the record of {name}"), e)),
        };
        let mut text = Vec::with_capacity(1024);
        let mut read = || {
            let length = (&file).take(LARGEST + 1).read_to_end(&mut text)?;
            if length as u64 > LARGEST {
                return Err(std::io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {LARGEST} bytes")));
            }
            if text.is_empty() && !self.volatile {
                text = read_twin(&file)?;
            }
            Ok(())
        };
        read().map_err(|e| self.error(&format!("reading the record of {name}"), e))?;
        if text.is_empty() && self.volatile {
            return Ok(None);
        }
        parse(&text)
            .map(Some)
            .map_err(|e| Error::backend(self.backend, format!("reading {}", self.record(name).display()), e))
    }

    /// Removes the record of `name`. Succeeds if there is none.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        self.ignore_missing(own::remove_file(self.record(name)), "removing a record")
    }

    /// Returns the records in the order of their names. What a process that has the directory changes while it is listed, is found; so one that only looks
    /// at another's may miss what is replaced at that moment.
    pub(crate) fn list<N>(&self) -> Result<Listing<(N, T)>>
    where
        N: Ord + AsRef<str> + FromStr,
    {
        let Listing { mut found, mut unreadable } = Listing::default();
        for file_name in self.file_names()? {
            // What is not a name of ours was made by somebody else.
            let Some(Ok(name)) = file_name.strip_suffix(SUFFIX).map(str::parse::<N>) else { continue };
            match self.read(name.as_ref()) {
                Ok(Some(record)) => found.push((name, record)),
                // It was deleted since the directory was read.
                Ok(None) => {}
                Err(error) => unreadable.push(Unreadable::new(name.as_ref(), &error)),
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        unreadable.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Listing { found, unreadable })
    }

    /// Returns once the names in this directory survive a power cut, and with them the records. Those who ask while the disk is busy
    /// with another one wait for the next turn together.
    pub(crate) fn sync(&self) -> Result<()> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if *served >= number {
            return Ok(());
        }
        // Whoever has asked by now has changed what is to be changed.
        let all = self.asked.load(Ordering::SeqCst);
        own::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| self.error("writing a directory to disk", e))?;
        *served = all;
        Ok(())
    }

    fn record(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{SUFFIX}"))
    }

    /// Returns what keeps the names from being listed until one is changed.
    fn change_names(&self) -> RwLockReadGuard<'_, ()> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn file_names(&self) -> Result<Vec<String>> {
        let _names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let entries = own::read_dir(&self.dir).map_err(|e| self.error("reading a directory", e))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| self.error("reading a directory", e))?;
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn write_temporary(&self, name: &str, record: &T, most: u64) -> Result<PathBuf> {
        let text = serde_json::to_vec(record).map_err(|e| Error::backend(self.backend, "writing a record", e))?;
        if text.len() as u64 > most {
            let reason = format!("its record has {} bytes, and {most} is the most", text.len());
            return Err(Error::invalid(name, reason));
        }
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!(".{name}.{number}{TEMPORARY}"));
        // One of this name was left by a process that died, which had the directory too. It may be a second link to the record itself: it goes, and is not written to.
        self.ignore_missing(own::remove_file(&path), "removing a temporary file")?;
        let written = write_new(&path, &text, !self.volatile);
        if let Err(e) = written {
            let _ = own::remove_file(&path);
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

/// The format of the records that this version reads, where they say one. A later version that writes what earlier ones would misunderstand gives its records a
/// higher number, `"format": 2`; those that say none are of the first.
const FORMAT: u32 = 1;

/// Reads a record.
///
/// # Errors
/// If it is none, or one of a later version: what that added would be lost with the next change.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, BoxError> {
    #[derive(serde::Deserialize)]
    struct Format {
        #[serde(default)]
        format: u32,
    }
    // The position only: the content may be secret, and the reason is shown to operators.
    let damaged =
        |e: serde_json::Error| BoxError::from(format!("it is damaged at line {}, column {}", e.line(), e.column()));
    // What is no object, as in tests, says none.
    if text.trim_ascii_start().starts_with(b"{") {
        let Format { format } = serde_json::from_slice(text).map_err(damaged)?;
        check_format(format)?;
    }
    serde_json::from_slice(text).map_err(damaged)
}

/// Checks that this version reads a format.
///
/// # Errors
/// As [`parse`].
pub(crate) fn check_format(format: u32) -> Result<(), BoxError> {
    if format <= FORMAT {
        return Ok(());
    }
    Err(format!("a later version of this program wrote it (format {format}); use that one").into())
}

fn write_new(path: &Path, text: &[u8], with_twin: bool) -> std::io::Result<()> {
    let mut file = own::open_with(OpenOptions::new().write(true).create_new(true).mode(0o600), path)?;
    file.write_all(text)?;
    // Where there is no room or no support for the attribute, the disk has to be waited for after all.
    if with_twin && rustix::fs::fsetxattr(&file, TWIN, text, XattrFlags::empty()).is_err() {
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
    use super::*;

    #[test]
    fn what_is_wrong_with_a_record_is_told_without_what_is_in_it() {
        for text in [r#"{"n":"secret"}"#, r#"{"n":1,"format":"secret"}"#, r#""secret""#, r#"{"n": secret}"#] {
            let error = parse::<std::collections::BTreeMap<String, u32>>(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains("line 1, column") && !error.contains("secret"), "{error}");
        }
    }
}
