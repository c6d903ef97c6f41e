//! Files that a document names: read from its directory, and from nowhere else.

use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use super::Document;
use super::field::Field;
use super::problem::Read;
use crate::error::shorten;
use crate::listing::usable_file;
use crate::own;

/// The largest file that may be named.
const LARGEST: u64 = 1 << 20;

/// Reads a file as text; nothing if it does not exist.
pub(super) fn read(document: &Document, name: &str, field: &Field<'_>) -> Read<Option<String>> {
    let Some(path) = within(document.directory.as_deref(), name).map_err(|reason| field.problem(reason))? else {
        return Ok(None);
    };
    let failed = |e: &dyn std::fmt::Display| field.problem(format!("{:?} cannot be read: {e}", shorten(name)));
    // Opening a pipe would wait for someone to write to it.
    if !usable_file(&path) {
        return Err(failed(&"it is not a file"));
    }
    let file = own::open(&path).map_err(|e| failed(&e))?;
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(|e| failed(&e))?;
    if text.len() as u64 > LARGEST {
        return Err(failed(&format!("it has more than {} KiB", LARGEST >> 10)));
    }
    Ok(Some(text))
}

/// Returns the path of an existing file in a directory, links followed; nothing if there is none.
pub(crate) fn within(directory: Option<&Path>, name: &str) -> Result<Option<PathBuf>, String> {
    let quoted = shorten(name);
    let directory = directory.ok_or_else(|| format!("{quoted:?} cannot be read: the document has no directory"))?;
    let relative = Path::new(name);
    if name.is_empty() || name.contains('\0') || relative.is_absolute() || leaves(relative) {
        return Err(format!("{quoted:?} must be a path within the directory of the file that names it"));
    }
    let missing = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    let root = directory.canonicalize().map_err(|e| format!("{} cannot be read: {e}", directory.display()))?;
    match root.join(relative).canonicalize() {
        Ok(path) if path.starts_with(&root) => Ok(Some(path)),
        Ok(_) => Err(format!("{quoted:?} is a link that leaves the directory of the file that names it")),
        Err(e) if missing(&e) => Ok(None),
        Err(e) => Err(format!("{quoted:?} cannot be read: {e}")),
    }
}

/// Tells whether a relative path goes up anywhere.
fn leaves(path: &Path) -> bool {
    path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Returns the absolute path that a relative one means, without asking the file system.
pub(super) fn resolve(document: &Document, name: &str) -> Result<PathBuf, String> {
    let relative = Path::new(name);
    let Some(directory) = &document.directory else {
        return Err(format!("{:?} must be an absolute path: the document has no directory", shorten(name)));
    };
    if leaves(relative) {
        return Err(format!("{:?} leaves the directory of the document", shorten(name)));
    }
    let directory = std::path::absolute(directory).map_err(|e| e.to_string())?;
    Ok(directory.components().chain(relative.components()).filter(|part| *part != Component::CurDir).collect())
}
