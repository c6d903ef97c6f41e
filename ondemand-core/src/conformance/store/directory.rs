//! The harness of stores that keep a record beside each directory.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::Harness;
use crate::name::{SnapshotName, VolumeName};
use crate::snapshot::SnapshotStore;

type Open = Box<dyn Fn(PathBuf) -> BoxFuture<'static, Arc<dyn SnapshotStore>> + Send + Sync>;

/// Runs the contract on a store whose volumes are directories.
pub struct Directory {
    root: PathBuf,
    store: Arc<dyn SnapshotStore>,
    open: Open,
    /// What must live as long as the store: a temporary directory, a pool.
    _keep: Box<dyn Send + Sync>,
}

impl Directory {
    /// Opens a store at `root`. What is given to `keep` is dropped with the harness.
    pub async fn new<S, F>(
        root: &Path,
        open: impl Fn(PathBuf) -> F + Send + Sync + 'static,
        keep: impl Send + Sync + 'static,
    ) -> Self
    where
        S: SnapshotStore,
        F: Future<Output = crate::Result<S>> + Send + 'static,
    {
        let open: Open = Box::new(move |root| {
            let opening = open(root);
            Box::pin(async move { Arc::new(opening.await.unwrap()) as Arc<dyn SnapshotStore> })
        });
        Self { root: root.to_owned(), store: open(root.to_owned()).await, open, _keep: Box::new(keep) }
    }

    /// Returns where the store is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn record(&self, kind: &str, name: &str) -> PathBuf {
        self.root.join(kind).join(format!("{name}.json"))
    }

    fn interrupt(&self, kind: &str, name: &str) {
        let path = self.record(kind, name);
        let text = fs::read_to_string(&path).unwrap();
        let changed = text.replace("\"complete\":true", "\"complete\":false");
        assert_ne!(text, changed, "the record does not say that it is complete");
        fs::write(path, changed).unwrap();
    }
}

impl Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("root", &self.root).finish_non_exhaustive()
    }
}

#[async_trait]
impl Harness for Directory {
    fn store(&self) -> Arc<dyn SnapshotStore> {
        Arc::clone(&self.store)
    }

    async fn reopen(&self) -> Arc<dyn SnapshotStore> {
        (self.open)(self.root.clone()).await
    }

    async fn write(&self, volume: &VolumeName, file: &str, content: &[u8]) {
        fs::write(self.root.join("volumes").join(volume.as_str()).join(file), content).unwrap();
    }

    async fn read(&self, volume: &VolumeName, file: &str) -> Option<Vec<u8>> {
        fs::read(self.root.join("volumes").join(volume.as_str()).join(file)).ok()
    }

    async fn read_snapshot(&self, snapshot: &SnapshotName, file: &str) -> Option<Vec<u8>> {
        fs::read(self.root.join("snapshots").join(snapshot.as_str()).join(file)).ok()
    }

    async fn interrupt_volume(&self, volume: &VolumeName) {
        self.interrupt("volumes", volume.as_str());
    }

    async fn interrupt_snapshot(&self, snapshot: &SnapshotName) {
        self.interrupt("snapshots", snapshot.as_str());
    }
}
