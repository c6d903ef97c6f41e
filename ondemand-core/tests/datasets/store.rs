//! A store of plain directories, for tests that are about datasets and not about stores.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use async_trait::async_trait;
use ondemand_core::snapshot::{Snapshot, Usage, Volume};
use ondemand_core::{Error, Kind, Labels, Result, Selector, SnapshotName, SnapshotStore, VolumeName};
use time::OffsetDateTime;

#[derive(Debug)]
pub(crate) struct Dirs {
    root: PathBuf,
    state: Mutex<(BTreeMap<VolumeName, Volume>, BTreeMap<SnapshotName, Snapshot>)>,
}

impl Dirs {
    pub(crate) fn new(root: &Path) -> Self {
        std::fs::create_dir_all(root).unwrap();
        Self { root: root.to_owned(), state: Mutex::default() }
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg("--").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[async_trait]
impl SnapshotStore for Dirs {
    async fn create_volume(&self, name: &VolumeName, labels: &Labels) -> Result<Volume> {
        let path = self.root.join(format!("v-{name}"));
        std::fs::create_dir(&path).map_err(|_| Error::already_exists(Kind::Volume, name))?;
        let volume = Volume {
            name: name.clone(),
            labels: labels.clone(),
            path,
            snapshot: None,
            created: OffsetDateTime::now_utc(),
            complete: true,
        };
        self.state.lock().unwrap().0.insert(name.clone(), volume.clone());
        Ok(volume)
    }

    async fn clone_snapshot(&self, snapshot: &SnapshotName, name: &VolumeName, labels: &Labels) -> Result<Volume> {
        let mut state = self.state.lock().unwrap();
        let from = state.1.get(snapshot).ok_or_else(|| Error::not_found(Kind::Snapshot, snapshot))?.path.clone();
        let path = self.root.join(format!("v-{name}"));
        copy(&from, &path);
        let volume = Volume {
            name: name.clone(),
            labels: labels.clone(),
            path,
            snapshot: Some(snapshot.clone()),
            created: OffsetDateTime::now_utc(),
            complete: true,
        };
        state.0.insert(name.clone(), volume.clone());
        Ok(volume)
    }

    async fn snapshot(&self, volume: &VolumeName, name: &SnapshotName, labels: &Labels) -> Result<Snapshot> {
        let mut state = self.state.lock().unwrap();
        let from = state.0.get(volume).ok_or_else(|| Error::not_found(Kind::Volume, volume))?.path.clone();
        let path = self.root.join(format!("s-{name}"));
        copy(&from, &path);
        let snapshot =
            Snapshot { name: name.clone(), labels: labels.clone(), path, created: OffsetDateTime::now_utc() };
        state.1.insert(name.clone(), snapshot.clone());
        Ok(snapshot)
    }

    async fn volumes(&self, selector: &Selector) -> Result<Vec<Volume>> {
        Ok(self.state.lock().unwrap().0.values().filter(|v| selector.matches(&v.labels)).cloned().collect())
    }

    async fn snapshots(&self, selector: &Selector) -> Result<Vec<Snapshot>> {
        Ok(self.state.lock().unwrap().1.values().filter(|s| selector.matches(&s.labels)).cloned().collect())
    }

    async fn set_volume_labels(&self, name: &VolumeName, labels: &Labels) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        state.0.get_mut(name).ok_or_else(|| Error::not_found(Kind::Volume, name))?.labels = labels.clone();
        Ok(())
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }

    async fn usage(&self) -> Result<Usage> {
        Ok(Usage { method: "plain copies".into(), total: 1 << 40, free: 1 << 40, ..Usage::default() })
    }

    async fn delete_volume(&self, name: &VolumeName) -> Result<()> {
        if let Some(volume) = self.state.lock().unwrap().0.remove(name) {
            std::fs::remove_dir_all(volume.path).unwrap();
        }
        Ok(())
    }

    async fn delete_snapshot(&self, name: &SnapshotName) -> Result<()> {
        if let Some(snapshot) = self.state.lock().unwrap().1.remove(name) {
            std::fs::remove_dir_all(snapshot.path).unwrap();
        }
        Ok(())
    }
}
