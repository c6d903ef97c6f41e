//! Finding PostgreSQL on this host.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::unistd::User;

use crate::error::{Error, Result};
use crate::listing::{usable_dir, usable_file};
use crate::orchestrator::{Mount, RunAs};
use crate::own;

/// The oldest major version that is used; those before keep settings elsewhere and cannot stop recycling WAL.
const OLDEST: u32 = 12;

/// The programs of one major version of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// The major version.
    pub major: u32,
    /// The whole version, as `postgres --version` says it: `15.18`, `18beta1`.
    pub version: String,
    /// Where `postgres`, `initdb`, `psql` and the others are.
    pub bin_dir: PathBuf,
}

impl Install {
    /// Returns the path of one of the programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}

/// Returns what a sandbox must see for Postgres's programs in `bin_dir`, unless it sees them anyhow: the programs, and what is installed beside them.
/// It sees them at their real path, so that is what `bin_dir` must be.
pub(crate) fn mounts(bin_dir: &Path) -> Vec<Mount> {
    let seen = ["/usr", "/bin", "/sbin", "/nix/store"].iter().any(|path| bin_dir.starts_with(path));
    let Some(installed) = bin_dir.parent().filter(|_| !seen) else { return Vec::new() };
    // Not all that is there: a data directory may be among it.
    let beside = ["lib", "lib64", "libexec", "share"].map(|name| installed.join(name));
    let there = beside.into_iter().filter(|path| usable_dir(path)).chain([bin_dir.to_owned()]);
    there.chain(bundled_libraries(installed)).map(|path| Mount::same(path, true)).collect()
}

/// Returns the libraries that came in a package of Python's with what is installed here: beside the package, in a directory that ends with `.libs`.
fn bundled_libraries(installed: &Path) -> Vec<PathBuf> {
    let above = installed
        .ancestors()
        .skip(1)
        .find(|path| path.file_name().is_some_and(|name| name == "site-packages" || name == "dist-packages"));
    let Some(Ok(entries)) = above.map(own::read_dir) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "libs") && usable_dir(path)).collect()
}

/// The versions of PostgreSQL that are installed, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installs(Vec<Install>);

impl Installs {
    /// Looks in `bin_dir` where it is given, then where Debian and Red Hat put PostgreSQL, then in `PATH`. The first
    /// place that has a major version is the one that is used for it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if there is none, or `bin_dir` has none.
    pub async fn discover(bin_dir: Option<&Path>) -> Result<Self> {
        let mut found: Vec<Install> = Vec::new();
        if let Some(dir) = bin_dir {
            let install = inspect(dir.to_owned()).await.ok_or_else(|| Error::Unsupported {
                message: format!("there is no PostgreSQL {OLDEST} or newer in {}", dir.display()),
                hint: "set postgres.bin-dir to the directory that has the programs `postgres` and `initdb`".into(),
            })?;
            found.push(install);
        }
        for dir in usual_places() {
            if let Some(install) = inspect(dir).await
                && !found.iter().any(|known| known.major == install.major)
            {
                found.push(install);
            }
        }
        if found.is_empty() {
            return Err(Error::Unsupported {
                message: format!("PostgreSQL {OLDEST} or newer is not installed"),
                hint: "apt-get install postgresql, or set postgres.bin-dir".into(),
            });
        }
        found.sort_by_key(|install| std::cmp::Reverse(install.major));
        Ok(Self(found))
    }

    /// Returns the programs of a major version.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it is not installed.
    pub fn get(&self, major: u32) -> Result<&Install> {
        self.0.iter().find(|install| install.major == major).ok_or_else(|| {
            let installed = match self.0.as_slice() {
                [] => "none is".to_owned(),
                all => all.iter().map(|i| i.version.as_str()).collect::<Vec<_>>().join(", "),
            };
            Error::Unsupported {
                message: format!("PostgreSQL {major} is needed, and not installed (installed: {installed})"),
                hint: format!("apt-get install postgresql-{major}, or set postgres.bin-dir"),
            }
        })
    }

    /// Returns the programs of the newest version.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if there is none.
    pub fn newest(&self) -> Result<&Install> {
        self.0.first().ok_or_else(|| Error::Unsupported {
            message: "PostgreSQL is not installed".into(),
            hint: "apt-get install postgresql, or set postgres.bin-dir".into(),
        })
    }

    /// Returns all versions, the newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Install> {
        self.0.iter()
    }
}

/// Returns whom PostgreSQL runs as: the current user, or, as it refuses root, the user `name` (`postgres` where there is
/// none) when this process is root.
///
/// # Errors
/// [`Error::Unsupported`] if there is no such user, or it is root.
pub fn os_user(name: Option<&str>) -> Result<RunAs> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(RunAs { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() });
    }
    let name = name.unwrap_or("postgres");
    let user = User::from_name(name)
        .map_err(|e| Error::io("users", format!("looking up the user {name:?}"), e.into()))?
        .filter(|user| !user.uid.is_root());
    match user {
        Some(user) => Ok(RunAs { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        None => Err(Error::Unsupported {
            message: format!("PostgreSQL cannot run as root, and there is no unprivileged user {name:?} to run it as"),
            hint: "apt-get install postgresql makes the user `postgres`; or set postgres.user".into(),
        }),
    }
}

/// Lists the directories that may hold PostgreSQL's programs.
fn usual_places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    for (parent, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        let Ok(entries) = own::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            let is_version = entry.file_name().to_str().is_some_and(|name| {
                name.strip_prefix(prefix).is_some_and(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()))
            });
            if is_version {
                places.push(entry.path().join("bin"));
            }
        }
    }
    places.sort();
    if let Some(path) = std::env::var_os("PATH") {
        places.extend(std::env::split_paths(&path).filter(|dir| dir.is_absolute()));
    }
    places
}

/// Asks the `postgres` in `dir` for its version.
async fn inspect(dir: PathBuf) -> Option<Install> {
    let postgres = dir.join("postgres");
    if !usable_file(&postgres) || !usable_file(&dir.join("initdb")) {
        return None;
    }
    let output = tokio::process::Command::new(&postgres)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .ok()
        .filter(|output| output.status.success())?;
    let (major, version) = parse_version(&String::from_utf8_lossy(&output.stdout))?;
    (major >= OLDEST).then_some(Install { major, version, bin_dir: dir })
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn parse_version(text: &str) -> Option<(u32, String)> {
    let version = text.split_once("(PostgreSQL)")?.1.split_whitespace().next()?;
    let digits = version.bytes().take_while(u8::is_ascii_digit).count();
    Some((version[..digits].parse().ok()?, version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_sees_what_belongs_to_the_programs_and_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let packages = dir.path().join("site-packages");
        for made in ["pg/install/bin", "pg/install/lib", "pg/install/data", "pg.libs", "other"] {
            std::fs::create_dir_all(packages.join(made)).expect("a directory");
        }
        let seen = |bin_dir: &Path| {
            let mut seen: Vec<_> = mounts(bin_dir).into_iter().map(|mount| (mount.target, mount.read_only)).collect();
            seen.sort();
            seen
        };
        let expected = ["pg/install/bin", "pg/install/lib", "pg.libs"].map(|path| (packages.join(path), true));
        assert_eq!(seen(&packages.join("pg/install/bin")), expected);
        assert_eq!(seen(Path::new("/usr/lib/postgresql/15/bin")), []);
    }

    #[test]
    fn versions() {
        let parse = |text| parse_version(text).map(|(major, _)| major);
        assert_eq!(parse("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(parse("postgres (PostgreSQL) 9.6.24"), Some(9));
        for bad in ["", "postgres", "postgres (PostgreSQL)", "postgres (PostgreSQL) devel"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_missing_version_names_what_is_there() {
        let installs = Installs(vec![Install {
            major: 15,
            version: "15.18".into(),
            bin_dir: "/usr/lib/postgresql/15/bin".into(),
        }]);
        assert_eq!(installs.get(15).map(|i| i.major).ok(), Some(15));
        let error = installs.get(16).expect_err("it is not there");
        assert_eq!(error.code(), crate::Code::Unsupported);
        assert_eq!(error.to_string(), "PostgreSQL 16 is needed, and not installed (installed: 15.18)");
        assert!(Installs::default().newest().is_err());
    }

    #[tokio::test]
    async fn a_directory_without_postgres_is_an_error() {
        let error = Installs::discover(Some(Path::new("/nonexistent"))).await.expect_err("there is nothing");
        assert_eq!(error.code(), crate::Code::Unsupported);
    }
}
