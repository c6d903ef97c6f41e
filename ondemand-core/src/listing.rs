//! What a look at everything found, and what it could not read.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::path::Path;

use crate::error::{Error, Result};

/// What was found, and what is there and cannot be read: who asks what there is, and is not told of the second, takes it for absent.
///
/// A selector chooses among what was found only. What cannot be read is always told, as nobody knows what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Listing<T> {
    /// What was found.
    pub found: Vec<T>,
    /// What is there and cannot be read.
    pub unreadable: Vec<Unreadable>,
}

/// Something that is there and cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unreadable {
    /// Its name.
    pub name: String,
    /// Why it cannot be read, with causes.
    pub reason: String,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self { found: Vec::new(), unreadable: Vec::new() }
    }
}

impl<T> From<Vec<T>> for Listing<T> {
    fn from(found: Vec<T>) -> Self {
        Self { found, unreadable: Vec::new() }
    }
}

impl<T> Listing<T> {
    /// Tells whether all that is there was found.
    pub fn is_complete(&self) -> bool {
        self.unreadable.is_empty()
    }

    /// Keeps what is chosen of what was found.
    pub(crate) fn retain(&mut self, is_chosen: impl FnMut(&T) -> bool) {
        self.found.retain(is_chosen);
    }

    /// Replaces what was found by something made of it.
    pub(crate) fn map<U>(self, make: impl FnMut(T) -> U) -> Listing<U> {
        Listing { found: self.found.into_iter().map(make).collect(), unreadable: self.unreadable }
    }
}

impl Unreadable {
    /// Notes an error that was met while something was read.
    pub fn new(name: impl Into<String>, error: &Error) -> Self {
        Self { name: name.into(), reason: error.with_causes() }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be read: {}", self.name, self.reason)
    }
}

/// Returns what has a name. Only where the system says that nothing has it, nothing does.
///
/// # Errors
/// [`Error::Backend`] if that cannot be found out.
pub(crate) fn what_is_at(path: &Path, backend: &'static str) -> Result<Option<Metadata>> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(backend, format!("looking for {}", path.display()), e)),
    }
}

/// Tells whether there is a file that can be used. One that cannot be looked at can't be used either; where that is not as good as none, this is
/// not what to ask.
#[allow(clippy::disallowed_methods, reason = "this is where it is asked so; tests may ask anyhow")]
pub(crate) fn usable_file(path: &Path) -> bool {
    path.is_file()
}

/// As [`usable_file`], of a directory.
#[allow(clippy::disallowed_methods, reason = "this is where it is asked so; tests may ask anyhow")]
pub(crate) fn usable_dir(path: &Path) -> bool {
    path.is_dir()
}

/// As [`usable_file`], of whatever it is.
#[allow(clippy::disallowed_methods, reason = "this is where it is asked so; tests may ask anyhow")]
pub(crate) fn usable(path: &Path) -> bool {
    path.exists()
}

/// Tells whether there is a directory.
///
/// # Errors
/// [`Error::Backend`] if that cannot be found out, or something else has the name.
pub(crate) fn is_directory(path: &Path, backend: &'static str) -> Result<bool> {
    match what_is_at(path, backend)? {
        None => Ok(false),
        Some(metadata) if metadata.is_dir() => Ok(true),
        Some(_) => Err(Error::io(backend, format!("opening {}", path.display()), io::ErrorKind::NotADirectory.into())),
    }
}
