//! The identity of a data directory: its key, and where its sockets are.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::data_dir::DataDir;
use crate::error::{Error, Result};
use crate::name::{DatabaseId, hex, random};
use crate::orchestrator::RunAs;
use crate::own;
use crate::secret::Secret;

/// A data directory that this process, and no other, has open.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    /// Marks what belongs to this data directory: eight hexadecimal digits.
    pub(crate) id: String,
    /// A short directory for sockets, whose paths may have 107 bytes at most.
    pub(crate) runtime_dir: PathBuf,
    key: Arc<Key>,
    /// Held for as long as anything works on the data directory.
    _hold: Arc<Hold>,
}

/// What is given back when nothing works on the data directory any more.
#[derive(Debug)]
struct Hold {
    runtime_dir: PathBuf,
    _data_dir: DataDir,
}

impl Drop for Hold {
    fn drop(&mut self) {
        remove_if_empty(&self.runtime_dir);
    }
}

/// Removes a runtime directory that nobody needs: databases that live on have their sockets in it.
fn remove_if_empty(runtime_dir: &Path) {
    // It fails where anything is in it.
    let _ = own::remove_dir(runtime_dir);
}

impl Instance {
    /// Opens a data directory, and makes it if need be.
    pub(crate) fn open(data_dir: &Path) -> Result<Self> {
        let locked = DataDir::open(data_dir)?;
        let key = Key::load_or_make(&data_dir.join("instance.key"))?;
        let id = hex(&key.mac(b"instance id")[..4]);
        let runtime_dir = runtime_dir(&id)?;
        point_to(&data_dir.join("run"), &runtime_dir)?;
        let hold = Hold { runtime_dir: runtime_dir.clone(), _data_dir: locked };
        Ok(Self { id, runtime_dir, key: Arc::new(key), _hold: Arc::new(hold) })
    }

    /// Gives back what only a running process needs, though others may still hold this.
    pub(crate) fn close(&self) {
        remove_if_empty(&self.runtime_dir);
    }

    /// Returns a key for a purpose of its own.
    #[cfg(feature = "git")]
    pub(crate) fn key_for(&self, purpose: &str) -> Secret {
        Secret::new(hex(&self.key.mac(format!("key for {purpose}").as_bytes())))
    }

    /// Returns the password of a database. It is derived, so it is stored nowhere.
    pub(crate) fn password(&self, id: &DatabaseId) -> Secret {
        let mac = self.key.mac(format!("password of {id}").as_bytes());
        // 24 bytes are 192 bits, in 32 characters that need no escaping in a URL.
        Secret::new(URL_SAFE_NO_PAD.encode(&mac[..24]))
    }
}

/// Makes the directory for sockets: below `/run` for root, else below `/tmp`, where nobody else may have made it before.
fn runtime_dir(id: &str) -> Result<PathBuf> {
    let uid = rustix::process::geteuid();
    let path = if uid.is_root() {
        PathBuf::from(format!("/run/ondemand-{id}"))
    } else {
        PathBuf::from(format!("/tmp/ondemand-{}-{id}", uid.as_raw()))
    };
    let failed = |e| Error::io("runtime directory", format!("making {}", path.display()), e);
    match DirBuilder::new().mode(0o711).create(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    let metadata = path.symlink_metadata().map_err(failed)?;
    if !metadata.is_dir() || metadata.uid() != uid.as_raw() {
        return Err(Error::Conflict {
            message: format!("{} is not a directory of this user", path.display()),
            hint: "remove it; it may be a trap".into(),
        });
    }
    own::set_permissions(&path, std::fs::Permissions::from_mode(0o711)).map_err(failed)?;
    Ok(path)
}

/// Makes a symbolic link, in place of one that is there: it tells people, and scripts that clean up, where the sockets are.
fn point_to(link: &Path, target: &Path) -> Result<()> {
    if std::fs::read_link(link).is_ok_and(|known| known == target) {
        return Ok(());
    }
    let failed = |e| Error::io("data directory", format!("making {}", link.display()), e);
    let new = link.with_extension("new");
    match own::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &new).and_then(|()| own::rename(&new, link)).map_err(failed)
}

/// The secret that passwords are derived from.
struct Key([u8; 32]);

impl Key {
    fn load_or_make(path: &Path) -> Result<Self> {
        let failed = |what: &str, e| Error::io("instance key", format!("{what} {}", path.display()), e);
        match own::open(path) {
            Ok(file) => {
                let mut bytes = Vec::with_capacity(33);
                file.take(33).read_to_end(&mut bytes).map_err(|e| failed("reading", e))?;
                let key = <[u8; 32]>::try_from(bytes).map_err(|bytes| {
                    let found = format!("{} has {} bytes instead of 32", path.display(), bytes.len());
                    Error::backend("instance key", "reading the key that passwords are derived from", found)
                })?;
                Ok(Self(key))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let mut key = [0; 32];
                random(&mut key)?;
                // Written beside and renamed, so that a crash leaves no half key; flushed, as no password can be told without it.
                let temporary = path.with_extension("new");
                let mut file =
                    own::open_with(OpenOptions::new().create(true).truncate(true).write(true).mode(0o600), &temporary)
                        .map_err(|e| failed("making", e))?;
                file.write_all(&key).and_then(|()| file.sync_all()).map_err(|e| failed("writing", e))?;
                own::rename(&temporary, path).map_err(|e| failed("naming", e))?;
                let directory = own::open(path.parent().unwrap_or(Path::new("/")));
                directory.and_then(|directory| directory.sync_all()).map_err(|e| failed("flushing", e))?;
                Ok(Self(key))
            }
            Err(e) => Err(failed("opening", e)),
        }
    }

    /// Returns HMAC-SHA-256 of a message.
    fn mac(&self, message: &[u8]) -> [u8; 32] {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key");
        mac.update(message);
        mac.finalize().into_bytes().into()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(****)")
    }
}

/// Checks that a user can pass through every directory above `path`, as Postgres must to reach its data.
pub(crate) fn check_reachable(path: &Path, user: RunAs) -> Result<()> {
    for directory in path.ancestors().skip(1) {
        let metadata = directory
            .metadata()
            .map_err(|e| Error::io("data directory", format!("looking at {}", directory.display()), e))?;
        let shift = if metadata.uid() == user.uid {
            6
        } else if metadata.gid() == user.gid {
            3
        } else {
            0
        };
        if user.uid != 0 && metadata.mode() >> shift & 1 == 0 {
            return Err(Error::Unsupported {
                message: format!(
                    "the user that runs Postgres (uid {}) cannot reach {}: {} is closed to it",
                    user.uid,
                    path.display(),
                    directory.display()
                ),
                hint: format!("choose another data directory, or allow passing: chmod o+x {}", directory.display()),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Instance::open(dir.path()).unwrap();
        let error = Instance::open(dir.path()).unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
        let (id, runtime_dir) = (first.id.clone(), first.runtime_dir.clone());
        assert!(runtime_dir.is_dir());
        assert_eq!(std::fs::read_link(dir.path().join("run")).unwrap(), runtime_dir);
        drop(first);
        assert!(!runtime_dir.exists(), "an empty runtime directory goes");
        assert_eq!(Instance::open(dir.path()).unwrap().id, id, "the identity outlives the process");
    }

    #[test]
    fn passwords_differ_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::open(dir.path()).unwrap();
        let (a, b) = (DatabaseId::random().unwrap(), DatabaseId::random().unwrap());
        let password = instance.password(&a);
        assert_ne!(password, instance.password(&b));
        assert_eq!(password.expose().len(), 32);
        drop(instance);
        assert_eq!(Instance::open(dir.path()).unwrap().password(&a), password);
        assert_eq!(dir.path().join("instance.key").metadata().unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_key_is_an_error_not_a_new_key() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("instance.key"), b"short").unwrap();
        assert!(Instance::open(dir.path()).is_err());
        assert_eq!(std::fs::read(dir.path().join("instance.key")).unwrap(), b"short");
    }

    #[test]
    fn a_closed_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let error = check_reachable(&dir.path().join("volumes"), RunAs { uid: 4321, gid: 4321 }).unwrap_err();
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        check_reachable(&dir.path().join("volumes"), RunAs { uid: 4321, gid: 4321 }).unwrap();
    }
}
