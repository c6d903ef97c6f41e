//! Imports with real PostgreSQL: every format, what is wrong with dumps, and what an import leaves behind.

mod bad_input;
mod formats;
mod neutral;
mod server;
mod store;
mod undo;

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ondemand_core::postgres::{Installs, os_user};
use ondemand_core::progress::silent;
use ondemand_core::{
    DatasetName, DatasetSnapshot, Datasets, DatasetsOptions, ImportOptions, Result, Selector, SnapshotStore, Source,
};
use server::TestServer;
use store::Dirs;

/// A store and the datasets in it, in a directory of their own.
struct Setup {
    dir: tempfile::TempDir,
    store: Arc<Dirs>,
    datasets: Datasets,
}

impl Setup {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        open_dir(dir.path());
        let store = Arc::new(Dirs::new(&dir.path().join("store")));
        let installs = Installs::discover(None).await.unwrap();
        let options = DatasetsOptions::new(installs, os_user(None).unwrap(), dir.path().join("run"), "test");
        let datasets = Datasets::new(store.clone(), options);
        Self { dir, store, datasets }
    }

    async fn import(&self, name: &str, source: Source, options: ImportOptions) -> Result<DatasetSnapshot> {
        self.datasets.import(&dataset(name), source, options, silent()).await
    }

    /// A directory that the user `postgres` owns.
    fn postgres_dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let user = os_user(None).unwrap();
        chown(&dir, Some(user.uid), Some(user.gid)).unwrap();
        dir
    }

    /// Starts a server on a copy of a snapshot.
    async fn look(&self, snapshot: &DatasetSnapshot) -> TestServer {
        let found = self.store.snapshots(&Selector::all()).await.unwrap();
        let from = &found.iter().find(|s| s.name == snapshot.name).unwrap().path;
        let dir = self.postgres_dir(&format!("look-{}", snapshot.name));
        let status = std::process::Command::new("cp").arg("-a").arg(from).arg(dir.join("data")).status().unwrap();
        assert!(status.success());
        TestServer::on(&dir.join("data"), &dir)
    }

    /// Fails if an import has left a volume, a process or a socket directory.
    async fn assert_clean(&self) {
        let volumes = self.store.volumes(&Selector::all()).await.unwrap();
        assert!(volumes.is_empty(), "{volumes:?}");
        let left = processes_in(self.dir.path());
        assert!(left.is_empty(), "{left:?}");
        let run = self.dir.path().join("run");
        assert_eq!(std::fs::read_dir(run).map_or(0, Iterator::count), 0, "socket directories are left");
        assert!(self.datasets.reconcile().await.unwrap().is_empty());
    }
}

fn open_dir(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn dataset(name: &str) -> DatasetName {
    name.parse().unwrap()
}

fn stream(bytes: impl Into<Vec<u8>>) -> Source {
    let bytes = bytes.into();
    Source::Stream { total: Some(bytes.len() as u64), reader: Box::pin(std::io::Cursor::new(bytes)) }
}

/// Lists the processes that work below `dir` or were started with it, by their command lines.
fn processes_in(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        let cwd = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let command = String::from_utf8_lossy(&std::fs::read(entry.path().join("cmdline")).unwrap_or_default())
            .replace('\0', " ");
        if cwd.starts_with(dir) || command.contains(dir.to_str().unwrap()) {
            found.push(format!("{pid}: {command}"));
        }
    }
    found
}
