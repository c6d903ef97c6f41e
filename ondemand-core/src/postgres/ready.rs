//! Readiness as the service manager's protocol tells it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixDatagram;

use crate::error::{Error, Result};
use crate::own;

/// A socket on which a program says `READY=1`, as `sd_notify(3)` describes. Postgres does so where it was built with systemd
/// support, the moment it accepts connections; so nothing needs to be polled.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Notify {
    /// Opens the socket. Its directory must be this process's own: in one of the program's user, a link could take the socket's place before
    /// its mode is changed.
    ///
    /// # Errors
    /// [`Error::Backend`] if it cannot be made, such as for a path of more than 107 bytes.
    pub fn bind(path: PathBuf) -> Result<Self> {
        let failed = |e| Error::io("readiness", format!("opening {}", path.display()), e);
        match own::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path).map_err(failed)?;
        own::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(Self { socket, path })
    }

    /// Returns the value for `NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for `READY=1`. What else is said is passed over.
    ///
    /// # Errors
    /// [`Error::Backend`] if the socket fails.
    pub async fn ready(&self) -> Result<()> {
        let mut message = [0; 4096];
        loop {
            let length = self
                .socket
                .recv(&mut message)
                .await
                .map_err(|e| Error::io("readiness", format!("reading {}", self.path.display()), e))?;
            if message[..length].split(|&b| b == b'\n').any(|line| line == b"READY=1") {
                return Ok(());
            }
        }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        // One that stays is replaced by the next of its name.
        let _ = own::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_ready_is_ready() {
        let dir = tempfile::tempdir().unwrap();
        let notify = Notify::bind(dir.path().join("notify")).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        for noise in [&b"STATUS=starting\nMAINPID=1"[..], b"", b"READY=10", b"\xff\xfe"] {
            client.send_to(noise, notify.path()).await.unwrap();
        }
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), notify.ready()).await;
        assert!(early.is_err(), "noise is not readiness");
        client.send_to(b"STATUS=up\nREADY=1\n", notify.path()).await.unwrap();
        notify.ready().await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_left_by_a_crash_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("notify"), b"").unwrap();
        Notify::bind(dir.path().join("notify")).unwrap();
    }
}
