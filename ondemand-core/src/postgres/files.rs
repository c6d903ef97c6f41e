//! The configuration files of servers: the same for all, and never a dataset's own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use super::ADMIN_ROLE;
use crate::error::{Error, Result};
use crate::own;

/// What every server is started with; the rest comes as arguments.
///
/// `default_text_search_config` is what `initdb` chooses for most: without it, searches would mean something else here
/// than where the data comes from.
const CONFIG: &str = "# Written by ondemand, and overwritten by it. Settings come as arguments.
default_text_search_config = 'pg_catalog.english'
";

/// `pg_hba.conf`: only the role of this library comes in without a password, and only as the user that runs this library.
fn hba() -> String {
    format!(
        "# Written by ondemand, and overwritten by it.
local all {ADMIN_ROLE} peer map=ondemand
local all all scram-sha-256
host all all all scram-sha-256
"
    )
}

/// The three files that a server is told to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticFiles {
    /// `postgresql.conf`.
    pub config: PathBuf,
    /// `pg_hba.conf`.
    pub hba: PathBuf,
    /// `pg_ident.conf`.
    pub ident: PathBuf,
}

impl StaticFiles {
    /// Writes the files into `dir`, each in one step, and lets the user that runs this process in as
    /// [`ADMIN_ROLE`]. They hold no secrets, and everyone may read them.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`], [`Error::Backend`] where `dir` cannot be written.
    pub fn write(dir: &Path) -> Result<Self> {
        Self::write_for(dir, &[Uid::effective().as_raw()])
    }

    /// Writes the files into `dir`, and lets the users with these numbers in as [`ADMIN_ROLE`].
    pub(crate) fn write_for(dir: &Path, uids: &[u32]) -> Result<Self> {
        use std::fmt::Write;
        let mut ident = String::from("# Written by ondemand, and overwritten by it.\n");
        let mut seen = Vec::new();
        for &uid in uids {
            let name = user_name(uid)?;
            if !seen.contains(&name) {
                // Writing to a String cannot fail.
                let _ = writeln!(ident, "ondemand \"{name}\" {ADMIN_ROLE}");
                seen.push(name);
            }
        }
        let files = Self {
            config: dir.join("postgresql.conf"),
            hba: dir.join("pg_hba.conf"),
            ident: dir.join("pg_ident.conf"),
        };
        replace(&files.config, CONFIG)?;
        replace(&files.hba, &hba())?;
        replace(&files.ident, &ident)?;
        Ok(files)
    }

    /// Returns the arguments that make `postgres` read these files.
    pub fn arguments(&self) -> Vec<String> {
        [("config_file", &self.config), ("hba_file", &self.hba), ("ident_file", &self.ident)]
            .into_iter()
            .flat_map(|(name, path)| ["-c".to_owned(), format!("{name}={}", path.display())])
            .collect()
    }
}

/// Returns the name by which PostgreSQL knows a user of this host.
fn user_name(uid: u32) -> Result<String> {
    let user = User::from_uid(Uid::from_raw(uid))
        .map_err(|e| Error::io("users", format!("looking up the user {uid}"), e.into()))?;
    // A quote could end the name in the file, and a leading slash would make it a pattern.
    user.map(|user| user.name)
        .filter(|name| !name.starts_with('/') && !name.contains(['"', '\n', '\r', '\0']))
        .ok_or_else(|| Error::Unsupported {
            message: format!("the user {uid} has no name on this host, and PostgreSQL knows users by name"),
            hint: "add the user to /etc/passwd".into(),
        })
}

/// Writes a file beside the old one, and puts it in its place.
fn replace(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = own::open_with(fs::OpenOptions::new().write(true).create(true).truncate(true), &temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        own::rename(&temporary, path)
    };
    write().map_err(|e| Error::io("postgres", format!("writing {}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_readable_and_let_this_user_in() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = StaticFiles::write(dir.path()).expect("files");
        let again = StaticFiles::write(dir.path()).expect("files again");
        assert_eq!(files, again);
        let mode = fs::metadata(&files.hba).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        let me = user_name(Uid::effective().as_raw()).expect("a name");
        let ident = fs::read_to_string(&files.ident).expect("text");
        assert!(ident.contains(&format!("ondemand \"{me}\" ondemand_admin\n")), "{ident}");
        assert_eq!(fs::read_dir(dir.path()).expect("a listing").count(), 3, "no temporary file is left");
    }
}
