//! Tablespaces: files of a cluster outside of its data directory. Clones would share them, and corrupt each other; a reset would not bring them back, nor a
//! deletion remove them. So a dataset has none, and its clones refuse to make one.

use std::io;
use std::path::Path;

use rustix::fs::{FileType, Mode};

use crate::error::{Error, Result};
use crate::tree::Tree;

/// The directory with a link to each.
pub(crate) const LINKS: &str = "pg_tblspc";

/// Keeps a cluster from making tablespaces, whose user may not write to the directory of links any more. Superusers can undo that by a program, and with it
/// they corrupt no data but that of the one tablespace. Blocking.
///
/// # Errors
/// [`Error::Backend`] if the mode cannot be set.
pub(crate) fn close(pgdata: &Path) -> Result<()> {
    let close = || match Tree::open(pgdata)?.below(LINKS)? {
        Some(links) => links.set_mode(Mode::RUSR | Mode::XUSR),
        None => Ok(()),
    };
    close().map_err(|e: io::Error| Error::io("postgres", "closing the directory of tablespaces", e))
}

/// Refuses a data directory that has some. Blocking, for two system calls.
///
/// # Errors
/// [`Error::Unsupported`]; [`Error::Backend`] if it cannot be read.
pub(crate) fn refuse(pgdata: &Path) -> Result<()> {
    let has_some = || -> io::Result<bool> {
        let tree = match Tree::open(pgdata) {
            // A volume in memory.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            tree => tree?,
        };
        let Some(links) = tree.below(LINKS)? else { return Ok(false) };
        for name in links.names()? {
            // One that was made in place is a directory.
            if links.kind(&name)?.is_some_and(|kind| kind != FileType::Directory) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match has_some() {
        Ok(false) => Ok(()),
        Ok(true) => Err(error()),
        Err(e) => Err(Error::io("postgres", "looking for tablespaces", e)),
    }
}

/// Makes the error for what has tablespaces.
pub(crate) fn error() -> Error {
    Error::Unsupported {
        message: "it has tablespaces, whose files lie outside of the data directory: all clones would share them"
            .into(),
        hint: "dump with pg_dump --no-tablespaces (or pg_dumpall --no-tablespaces), or move its tables to pg_default"
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn links_are_refused_and_what_is_in_place_is_not() {
        let dir = tempfile::tempdir().unwrap();
        refuse(&dir.path().join("none")).unwrap();
        refuse(dir.path()).unwrap();
        close(dir.path()).unwrap();
        std::fs::create_dir_all(dir.path().join("pg_tblspc/16384/PG_15_202209061")).unwrap();
        refuse(dir.path()).unwrap();
        symlink("/somewhere", dir.path().join("pg_tblspc/16385")).unwrap();
        assert!(matches!(refuse(dir.path()), Err(Error::Unsupported { .. })));
        close(dir.path()).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join(LINKS)).unwrap().mode() & 0o777, 0o500);
        // What leads elsewhere is not looked into.
        std::fs::rename(dir.path().join(LINKS), dir.path().join("aside")).unwrap();
        symlink(dir.path().join("aside"), dir.path().join(LINKS)).unwrap();
        assert!(matches!(refuse(dir.path()), Err(Error::Backend { .. })));
        assert!(close(dir.path()).is_err());
    }
}
