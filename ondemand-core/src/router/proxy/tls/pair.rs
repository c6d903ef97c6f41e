//! A certificate with its key, read from files.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use memchr::memmem;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use webpki::{EndEntityCert, KeyUsage};

use crate::config::CertificateFiles;
use crate::error::{Error, Result};
use crate::own;

/// More than any certificate with its chain has: who names a device or a log by mistake is told so.
const LONGEST: u64 = 1 << 20;

/// The bits of a file's mode that let everybody read it.
const READABLE_BY_ALL: u32 = 0o004;

/// A certificate with the key that it is for.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) certified: Arc<CertifiedKey>,
    /// The hosts it is for, in lower case.
    pub(super) names: Vec<String>,
    /// Whether everybody on this machine can read the key.
    exposed: bool,
}

/// What one file is to hold.
#[derive(Clone, Copy)]
struct Source<'a> {
    what: &'static str,
    path: &'a Path,
}

impl Pair {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] unless the two belong together, with the file, and what is wrong with it.
    pub(super) fn read(files: &CertificateFiles) -> Result<Self> {
        let certificate = Source { what: "certificate", path: &files.certificate };
        let key = Source { what: "private key", path: &files.key };

        let chain = certificate.chain()?;
        let names = {
            let leaf = chain.first().ok_or_else(|| certificate.invalid("holds no certificate"))?;
            let leaf = EndEntityCert::try_from(leaf)
                .map_err(|e| certificate.invalid(format!("does not hold a certificate of a server: {e}")))?;
            leaf.valid_dns_names().map(str::to_ascii_lowercase).collect()
        };
        let (der, exposed) = key.key()?;
        let signing = aws_lc_rs::default_provider()
            .key_provider
            .load_private_key(der)
            .map_err(|_| key.invalid("holds a private key of a kind that is not known; use ECDSA, Ed25519 or RSA"))?;
        let certified = CertifiedKey::new(chain, signing);
        // Both are read before either is used: of a renewal only one may be in place yet.
        certified.keys_match().map_err(|_| {
            let certificate = files.certificate.display();
            key.invalid(format!("does not belong to {certificate}: the key does not match its first certificate"))
        })?;
        Ok(Self { certified: Arc::new(certified), names, exposed })
    }

    /// Tells whether both are shown as the same.
    pub(super) fn same(&self, other: &Self) -> bool {
        // Equal certificates have equal keys, as each was compared with its own.
        self.certified.cert == other.certified.cert
    }

    /// Says what is questionable about a pair that is used all the same.
    pub(super) fn warn(&self, files: &CertificateFiles) {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        if self.exposed {
            tracing::warn!(path = %key, "everybody on this machine can read this private key: chmod o-r");
        }
        if self.names.is_empty() {
            tracing::warn!(path = %certificate, "this certificate names no host, so browsers will refuse it");
        }
        match self.expiry(UnixTime::now()) {
            Some(webpki::Error::CertExpired { not_after, .. }) => {
                tracing::warn!(path = %certificate, since = %date(not_after), "this certificate has expired");
            }
            Some(webpki::Error::CertNotValidYet { not_before, .. }) => {
                tracing::warn!(path = %certificate, from = %date(not_before), "this certificate is not valid yet");
            }
            _ => {}
        }
    }

    /// Returns what is wrong with the certificate at a time, were it not for who issued it.
    fn expiry(&self, at: UnixTime) -> Option<webpki::Error> {
        let leaf = EndEntityCert::try_from(self.certified.cert.first()?).ok()?;
        // Without authorities it always fails; but the time is what it looks at first.
        leaf.verify_for_usage(&[], &[], &[], at, KeyUsage::server_auth(), None, None).err()
    }
}

impl Source<'_> {
    fn invalid(self, reason: impl AsRef<str>) -> Error {
        Error::invalid(self.what, format!("{} {}", self.path.display(), reason.as_ref()))
    }

    fn chain(self) -> Result<Vec<CertificateDer<'static>>> {
        let (bytes, _) = self.bytes()?;
        let chain = self.sections(&bytes, CertificateDer::from_pem)?;
        if chain.is_empty() {
            return Err(self.invalid("holds no certificate"));
        }
        Ok(chain)
    }

    /// Returns the key, and whether everybody can read it.
    fn key(self) -> Result<(PrivateKeyDer<'static>, bool)> {
        let (bytes, mode) = self.bytes()?;
        let encrypted = ["-----BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"];
        if encrypted.iter().any(|mark| memmem::find(&bytes, mark.as_bytes()).is_some()) {
            return Err(self.invalid("is encrypted; store it without a passphrase, readable by its owner only"));
        }
        let key = self.sections(&bytes, PrivateKeyDer::from_pem)?.into_iter().next();
        Ok((key.ok_or_else(|| self.invalid("holds no private key"))?, mode & READABLE_BY_ALL != 0))
    }

    /// Returns what the file holds, and its mode.
    fn bytes(self) -> Result<(Vec<u8>, u32)> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => self.invalid("does not exist"),
            io::ErrorKind::PermissionDenied => self.invalid("may not be read by the user that the proxy runs as"),
            _ => self.invalid(format!("cannot be read: {e}")),
        };
        let file = own::open(self.path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > LONGEST {
            return Err(self.invalid("is too large to be one"));
        }
        Ok((bytes, metadata.mode()))
    }

    /// Returns the sections of a PEM file that are of one kind. What is wrong with one is said without its text, which may be
    /// a key's.
    fn sections<T>(self, bytes: &[u8], kind: impl Fn(SectionKind, Vec<u8>) -> Option<T>) -> Result<Vec<T>> {
        if memmem::find(bytes, b"-----BEGIN ").is_none() {
            return Err(self.invalid(if bytes.is_empty() { "is empty" } else { "is not PEM" }));
        }
        let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes);
        let sections = sections.filter_map(|section| match section {
            Ok((found, der)) => kind(found, der).map(Ok),
            Err(pem::Error::MissingSectionEnd { .. }) => Some(Err(self.invalid("is cut off: an END line is missing"))),
            Err(_) => Some(Err(self.invalid("is not PEM: a section is malformed"))),
        });
        sections.collect()
    }
}

fn date(at: UnixTime) -> String {
    let at = i64::try_from(at.as_secs()).ok().and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok());
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}
