//! The place in a snapshot where a clone's password goes.
//!
//! Setting a password takes a connection and an `ALTER ROLE`: a dozen milliseconds on a server that has just been started, a quarter of what a
//! database takes in all. So an import sets one that nobody knows, and notes where its verifier came to stand in `pg_authid`. A SCRAM verifier
//! with a salt of 16 bytes always has the same length, so a clone's can take its place before the server is started. Postgres keeps a text of
//! this length as it is, neither compressed nor elsewhere; a cleanly shut down cluster has no log that would change it back.
//!
//! Sources: <https://www.postgresql.org/docs/current/storage-page-layout.html>, <https://www.postgresql.org/docs/current/catalog-pg-authid.html>,
//! RFC 5803 for the verifier.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::OFlags;

use crate::error::{Error, Result};
use crate::orchestrator::RunAs;
use crate::tree::Tree;

/// The file in a data directory that says where the verifier is.
const NOTE: &str = "ondemand.password";

/// The largest file of a catalog that is looked at.
const CATALOG_LIMIT: u64 = 64 << 20;

/// What every verifier begins with.
const BEGINNING: &[u8] = b"SCRAM-SHA-256$4096:";

/// The length of a verifier: its beginning, a salt of 24 characters, and two keys of 44, with a mark between each two.
const LENGTH: usize = BEGINNING.len() + 24 + 1 + 44 + 1 + 44;

/// Notes where `verifier` is in a data directory that was shut down cleanly. Notes nothing, so that clones are given their password by
/// SQL, if it is not found exactly once. Blocking.
///
/// # Errors
/// [`Error::Backend`] if a file cannot be read, or the note not written.
pub(crate) fn note(pgdata: &Path, verifier: &str, user: RunAs) -> Result<()> {
    let failed = |e| Error::io("postgres", "looking for the place of the password", e);
    let top = Tree::open(pgdata).map_err(failed)?;
    let global = top.below("global").and_then(|global| global.ok_or(ErrorKind::NotFound.into())).map_err(failed)?;
    let mut places = Vec::new();
    for name in global.names().map_err(failed)? {
        // Only a relation's main fork has a number alone for a name.
        let Some(name) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else { continue };
        // Roles fill no more; a catalog that does is another one, or this is not worth the while.
        let Ok(Some(content)) = global.read(name, CATALOG_LIMIT) else { continue };
        let found = content.windows(verifier.len()).enumerate().filter(|(_, window)| *window == verifier.as_bytes());
        places.extend(found.map(|(offset, _)| format!("{name} {offset}\n")));
    }
    if let [place] = places.as_slice() {
        return top.write(NOTE, place, user).map_err(failed);
    }
    tracing::debug!(places = places.len(), "clones of this snapshot are given their password by SQL");
    Ok(())
}

/// Writes `verifier` where the note of a clone says, and returns the file that it is in, which is not on disk yet. Without a note, or where something else
/// stands, nothing is written. To be called before a server is started on the clone. Blocking, for microseconds.
///
/// # Errors
/// [`Error::OutOfSpace`], or [`Error::Backend`] if it cannot be written.
pub(crate) fn fill(pgdata: &Path, verifier: &str) -> Result<Option<File>> {
    let failed = |e| Error::io("postgres", "writing the password", e);
    let top = match Tree::open(pgdata) {
        // A volume in memory has no directory.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        top => top.map_err(failed)?,
    };
    let Some(note) = top.read(NOTE, 64).map_err(failed)? else { return Ok(None) };
    let Some((name, offset)) = std::str::from_utf8(&note).ok().and_then(parse) else { return Ok(None) };
    if verifier.len() != LENGTH {
        return Ok(None);
    }
    let file = top.file(format!("global/{name}"), OFlags::RDWR).map_err(failed)?;
    let mut there = [0; LENGTH];
    file.read_exact_at(&mut there, offset).map_err(failed)?;
    let is_verifier = there.starts_with(BEGINNING) && there.iter().all(u8::is_ascii_graphic);
    if !is_verifier {
        return Ok(None);
    }
    file.write_all_at(verifier.as_bytes(), offset).map_err(failed)?;
    Ok(Some(file))
}

/// Returns once what a server has committed with `synchronous_commit` survives a power cut: its log, and the file that says that the log is to be read. A server
/// of a throw-away database itself waits for no disk. Blocking.
///
/// # Errors
/// [`Error::Backend`] if a file cannot be read or written to disk.
pub(crate) fn flush(pgdata: &Path) -> Result<()> {
    let failed = |e| Error::io("postgres", "writing the log of a server to disk", e);
    let top = match Tree::open(pgdata) {
        // A volume in memory has no directory.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        top => top.map_err(failed)?,
    };
    let mut files = vec!["global/pg_control".to_owned()];
    if let Some(log) = top.below("pg_wal").map_err(failed)? {
        let names = log.names().map_err(failed)?.into_iter().filter_map(|name| name.into_string().ok());
        let segments = names.filter(|name| name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit()));
        files.extend(segments.map(|name| format!("pg_wal/{name}")));
    }
    for name in files {
        match top.file(name, OFlags::RDONLY).and_then(|file| file.sync_all()) {
            // The server has made another name of it, or removed it.
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
    }
    Ok(())
}

/// Reads a note: the name of a relation's file, and where in it.
fn parse(note: &str) -> Option<(&str, u64)> {
    let (name, offset) = note.trim_end().split_once(' ')?;
    let is_number = |text: &str| !text.is_empty() && text.len() <= 10 && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(name) && is_number(offset)).then_some(())?;
    Some((name, offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> RunAs {
        RunAs { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    fn verifier(password: &str) -> String {
        postgres_protocol::password::scram_sha_256(password.as_bytes())
    }

    fn pgdata(content: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("global")).unwrap();
        std::fs::write(dir.path().join("global/1260"), content).unwrap();
        std::fs::write(dir.path().join("global/1260_vm"), content).unwrap();
        dir
    }

    #[test]
    fn verifiers_have_one_length() {
        for password in ["", "a", &"long".repeat(50)] {
            assert_eq!(verifier(password).len(), LENGTH);
        }
    }

    #[test]
    fn a_verifier_takes_the_place_of_the_one_that_was_noted() {
        let (old, new) = (verifier("old"), verifier("new"));
        let dir = pgdata(&[b"\0\0page", old.as_bytes(), b"rest\0"].concat());
        note(dir.path(), &old, me()).unwrap();
        assert!(fill(dir.path(), &new).unwrap().is_some());
        let content = std::fs::read(dir.path().join("global/1260")).unwrap();
        assert_eq!(content, [b"\0\0page", new.as_bytes(), b"rest\0"].concat());
        assert!(fill(dir.path(), &old).unwrap().is_some(), "and again, as after a reset that was rolled back");
    }

    #[test]
    fn nothing_is_noted_unless_there_is_exactly_one() {
        let old = verifier("old");
        for content in [b"".to_vec(), [old.as_bytes(), b" ", old.as_bytes()].concat()] {
            let dir = pgdata(&content);
            note(dir.path(), &old, me()).unwrap();
            assert!(!dir.path().join(NOTE).exists());
            assert!(fill(dir.path(), &old).unwrap().is_none());
            assert_eq!(std::fs::read(dir.path().join("global/1260")).unwrap(), content);
        }
    }

    #[test]
    fn a_note_that_lies_changes_nothing() {
        let (old, new) = (verifier("old"), verifier("new"));
        let content = [b"0123456789", old.as_bytes()].concat();
        for note in
            ["", "1260", "1260 0", "1260 9", "1260 11x", "../1260 10", "1260/../1260 10", "99999999999 10", "1260 -1"]
        {
            let dir = pgdata(&content);
            std::fs::write(dir.path().join(NOTE), note).unwrap();
            assert!(fill(dir.path(), &new).unwrap_or_default().is_none(), "{note:?}");
            assert_eq!(std::fs::read(dir.path().join("global/1260")).unwrap(), content, "{note:?}");
        }
    }

    #[test]
    fn no_link_is_followed() {
        let (old, new) = (verifier("old"), verifier("new"));
        let dir = pgdata(b"");
        let outside = dir.path().join("outside");
        std::fs::write(&outside, &old).unwrap();
        std::os::unix::fs::symlink(&outside, dir.path().join("global/1")).unwrap();
        std::fs::write(dir.path().join(NOTE), "1 0").unwrap();
        assert!(fill(dir.path(), &new).is_err());
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), old);
    }
}
