//! What is the same for every store whose volumes and snapshots are directories.

/// Implements [`SnapshotStore`](super::SnapshotStore) for a struct whose field `directories` does the work.
macro_rules! store_over_directories {
    ($store:ty) => {
        #[async_trait::async_trait]
        impl crate::snapshot::SnapshotStore for $store {
            async fn create_volume(&self, name: &VolumeName, labels: &Labels) -> Result<Volume> {
                self.directories.create_volume(name, labels).await
            }
            async fn clone_snapshot(&self, from: &SnapshotName, name: &VolumeName, labels: &Labels) -> Result<Volume> {
                self.directories.clone_snapshot(from, name, labels).await
            }
            async fn snapshot(&self, volume: &VolumeName, name: &SnapshotName, labels: &Labels) -> Result<Snapshot> {
                self.directories.snapshot(volume, name, labels).await
            }
            async fn volumes(&self, selector: &Selector) -> Result<Listing<Volume>> {
                self.directories.volumes(selector).await
            }
            async fn volume(&self, name: &VolumeName) -> Result<Option<Volume>> {
                self.directories.volume(name).await
            }
            async fn snapshots(&self, selector: &Selector) -> Result<Listing<Snapshot>> {
                self.directories.snapshots(selector).await
            }
            async fn set_volume_labels(&self, name: &VolumeName, labels: &Labels) -> Result<()> {
                self.directories.set_volume_labels(name, labels).await
            }
            async fn set_volume_labels_soon(&self, name: &VolumeName, labels: &Labels) -> Result<()> {
                self.directories.set_volume_labels_soon(name, labels).await
            }
            async fn epoch(&self) -> Result<String> {
                self.directories.epoch().await
            }
            async fn sync(&self) -> Result<()> {
                self.directories.sync().await
            }
            async fn usage(&self) -> Result<Usage> {
                self.directories.usage().await
            }
            async fn space(&self) -> Result<Usage> {
                self.directories.space().await
            }
            async fn revive(&self) -> Result<()> {
                self.directories.revive().await
            }
            async fn delete_volume(&self, name: &VolumeName) -> Result<()> {
                self.directories.delete_volume(name).await
            }
            async fn delete_snapshot(&self, name: &SnapshotName) -> Result<()> {
                self.directories.delete_snapshot(name).await
            }
        }
    };
}

pub(super) use store_over_directories;
