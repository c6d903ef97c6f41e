//! Giving a database its password.

use std::path::Path;

use tokio::task::JoinHandle;

use super::inner::Inner;
use super::record::Record;
use crate::error::{Error, Result};
use crate::postgres::{slot, tablespaces};

/// A password that may stand in its place already.
pub(super) struct Password {
    verifier: String,
    /// Where it stands in its place: the writing of that to disk, beside the start of the server.
    in_place: Option<JoinHandle<std::io::Result<()>>>,
}

impl Inner {
    /// Hashes a database's password, on another thread: it takes as long as cloning does.
    pub(super) fn hash_password(&self, record: &Record) -> tokio::task::JoinHandle<String> {
        let password = self.instance.password(&record.id);
        tokio::task::spawn_blocking(move || postgres_protocol::password::scram_sha_256(password.expose().as_bytes()))
    }

    /// Puts a password into a volume, before a server is started on it, where the snapshot has a place for it.
    pub(super) async fn place_password(
        &self,
        data: &Path,
        hashing: tokio::task::JoinHandle<String>,
    ) -> Result<Password> {
        let verifier = hashing.await.map_err(|e| Error::backend("task", "hashing a password", e))?;
        // An earlier version made datasets with tablespaces, whose clones share them.
        tablespaces::refuse(data)?;
        let in_place = slot::fill(data, &verifier)?.map(|file| tokio::task::spawn_blocking(move || file.sync_data()));
        Ok(Password { verifier, in_place })
    }

    /// Makes sure that the server, which has been started on `data`, wants the database's password, also after a power cut.
    ///
    /// That the place was the right one is tried once for each snapshot: what holds for one clone of it holds for all.
    pub(super) async fn ensure_password(&self, record: &Record, data: &Path, password: Password) -> Result<()> {
        let (endpoint, snapshot) = (self.endpoint(record), record.snapshot());
        if let Some(writing) = password.in_place {
            let written = writing.await.map_err(|e| Error::backend("task", "writing a password", e))?;
            written.map_err(|e| Error::io("postgres", "writing the password to disk", e))?;
            if self.is_proved(&snapshot) {
                return Ok(());
            }
            if self.engine.accepts(&endpoint, &self.instance.password(&record.id)).await? {
                self.prove(snapshot);
                return Ok(());
            }
            tracing::warn!(%snapshot, "the place of the password is wrong; it is set by SQL");
        }
        self.engine.set_password(&endpoint, &password.verifier).await?;
        let data = data.to_owned();
        let flushed = tokio::task::spawn_blocking(move || slot::flush(&data)).await;
        flushed.map_err(|e| Error::backend("task", "writing a password", e))?
    }
}
