//! What notices that the files of certificates change.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::pair::Pair;
use super::{Certificates, Resolver, Shown};
use crate::config::CertificateFiles;

/// Looks at the files whenever it is told to. Notifications would not come for what another machine does on a network file system, for
/// some bind mounts, and for a link further up that is swapped; asking for a few files' metadata works everywhere.
pub(super) struct Watcher {
    resolver: Arc<Resolver>,
    pairs: Vec<Watched>,
}

struct Watched {
    files: CertificateFiles,
    /// What the files were before they were last read; none before the first time.
    stamps: Option<[Option<Stamp>; 2]>,
    /// Whether they were read once more after that.
    settled: bool,
}

/// What changes about a file when it is written to, or when another takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Changes with the mode and owner too: what could not be read is tried again.
    changed: (i64, i64),
}

impl Watcher {
    pub(super) fn new(certificates: &Certificates) -> Self {
        // What was loaded may have changed since, so that everything is read at the first look.
        let watched = |files: &CertificateFiles| Watched { files: files.clone(), stamps: None, settled: false };
        Self { resolver: Arc::clone(&certificates.resolver), pairs: certificates.files.iter().map(watched).collect() }
    }

    /// Reads what changed since the last time, and shows what can be used of it.
    pub(super) fn look(&mut self) {
        let mut pairs = self.resolver.shown().pairs.clone();
        let mut changed = false;
        for (watched, shown) in self.pairs.iter_mut().zip(&mut pairs) {
            if let Some(new) = watched.look(shown) {
                *shown = new;
                changed = true;
            }
        }
        if changed {
            self.resolver.show(Shown::new(pairs));
        }
    }
}

impl Watched {
    /// Returns what takes the place of what is shown.
    fn look(&mut self, shown: &Pair) -> Option<Pair> {
        let stamps = Some([Stamp::of(&self.files.certificate), Stamp::of(&self.files.key)]);
        let first = stamps != self.stamps;
        if !first && self.settled {
            return None;
        }
        // What has just changed is read twice, a look apart. It may be written to again within one tick of the file system's clock, which
        // no stamp shows. And a key that is written after its certificate is no reason to worry anybody.
        self.stamps = stamps;
        self.settled = !first;
        let certificate = self.files.certificate.display();
        match Pair::read(&self.files) {
            Ok(new) if new.same(shown) => None,
            Ok(new) => {
                tracing::info!(path = %certificate, names = ?new.names, "a certificate was replaced");
                new.warn(&self.files);
                Some(new)
            }
            Err(error) if first => {
                tracing::debug!(path = %certificate, %error, "a certificate changed and cannot be used yet");
                None
            }
            Err(error) => {
                tracing::warn!(path = %certificate, %error, "a certificate cannot be used; the one from before is kept");
                None
            }
        }
    }
}

impl Stamp {
    /// Returns a file's stamp, links followed; none where there is no file to be seen.
    fn of(path: &Path) -> Option<Self> {
        let metadata = path.metadata().ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
impl Watcher {
    /// Makes it believe that the files are as old as they were at the last look.
    pub(super) fn pretend_unchanged(&mut self) {
        for watched in &mut self.pairs {
            watched.stamps = Some([Stamp::of(&watched.files.certificate), Stamp::of(&watched.files.key)]);
        }
    }
}
