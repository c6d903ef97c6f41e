//! Certificates: which one a client is shown, and what is agreed on with it.

mod pair;
#[cfg(test)]
mod tests;
mod watch;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use self::pair::Pair;
use self::watch::Watcher;
use crate::config::CertificateFiles;
use crate::error::{Error, Result};

/// How often the files are looked at. Certificates are renewed weeks ahead; a person who puts one right waits for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The certificates of a proxy, as their files have them.
pub(super) struct Certificates {
    files: Vec<CertificateFiles>,
    resolver: Arc<Resolver>,
    config: Arc<ServerConfig>,
}

/// What chooses a certificate in a handshake.
struct Resolver {
    /// The lock is held while a pointer is copied or replaced, never while a file is read or a key parsed, and is written to
    /// once in weeks. Beside the signature that a handshake costs, a read lock is nothing.
    shown: RwLock<Arc<Shown>>,
}

/// Which certificate is for which name.
struct Shown {
    pairs: Vec<Pair>,
    /// Names in lower case, to indices of `pairs`.
    exact: HashMap<String, usize>,
    /// The same for wildcards, by what follows their `*.`.
    wildcard: HashMap<String, usize>,
}

impl Certificates {
    /// Reads certificates and their keys.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] with the file, and what is wrong with it.
    pub(super) fn load(files: &[CertificateFiles]) -> Result<Arc<Self>> {
        let pairs = files.iter().map(Pair::read).collect::<Result<Vec<_>>>()?;
        if pairs.is_empty() {
            return Err(Error::invalid("configuration", "there is no certificate: set proxy.certificates"));
        }
        for (pair, files) in pairs.iter().zip(files) {
            pair.warn(files);
        }
        let resolver = Arc::new(Resolver { shown: RwLock::new(Arc::new(Shown::new(pairs))) });
        let config = Arc::new(configure(Arc::clone(&resolver))?);
        Ok(Arc::new(Self { files: files.to_vec(), resolver, config }))
    }

    /// Returns how connections are secured. It is always the same, and follows the files.
    pub(super) fn server_config(self: &Arc<Self>) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Follows the files: shows what they change to, and what they had before while what they have cannot be used. Never ends.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut watcher = Watcher::new(&self);
        loop {
            // On a thread where it may block: a network file system may take its time.
            let look = tokio::task::spawn_blocking(move || {
                watcher.look();
                watcher
            });
            watcher = look.await.unwrap_or_else(|error| {
                tracing::error!(%error, "looking at the files of certificates failed");
                Watcher::new(&self)
            });
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Makes the configuration of TLS with its own cryptography, whatever the process's default is.
fn configure(resolver: Arc<Resolver>) -> Result<ServerConfig> {
    let failed = |e| Error::backend("tls", "preparing for connections", e);
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(failed)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A client resumes with what it was given, on whichever worker it arrives. The keys of tickets change every few hours.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(failed)?;
    Ok(config)
}

impl Resolver {
    fn shown(&self) -> Arc<Shown> {
        // All that is done under the lock is copying or replacing a pointer.
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn show(&self, shown: Shown) {
        let new = Arc::new(shown);
        let old = std::mem::replace(&mut *self.shown.write().unwrap_or_else(PoisonError::into_inner), new);
        // Not under the lock.
        drop(old);
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown().choose(hello.server_name())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("exact", &self.shown().exact.keys()).finish_non_exhaustive()
    }
}

impl Shown {
    fn new(pairs: Vec<Pair>) -> Self {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for (index, pair) in pairs.iter().enumerate() {
            for name in &pair.names {
                // Of two that are for the same name, the first is shown.
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.to_owned()).or_insert(index),
                    None => exact.entry(name.clone()).or_insert(index),
                };
            }
        }
        Self { pairs, exact, wildcard }
    }

    /// Returns the certificate for a name: one that has just this name before one with a wildcard in the place of its first
    /// label, and the first of all where none is for it.
    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let index = name.and_then(|name| {
            let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
                Cow::Owned(name.to_ascii_lowercase())
            } else {
                Cow::Borrowed(name)
            };
            let name = name.strip_suffix('.').unwrap_or(&name);
            let parent = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
            self.exact.get(name).or_else(parent).copied()
        });
        self.pairs.get(index.unwrap_or(0)).map(|pair| Arc::clone(&pair.certified))
    }
}
