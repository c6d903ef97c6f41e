//! Imports with real PostgreSQL: every format, what is wrong with dumps, and what an import leaves behind.
//!
//! Slow: each import makes a cluster, starts it and shuts it down, in one to two seconds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod formats;
mod neutral;
mod people;
mod server;
mod undo;

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use crate::fixtures::pool::TestPool;
use ondemand_core::label::keys;
use ondemand_core::postgres::{Installs, os_user};
use ondemand_core::progress::silent;
use ondemand_core::snapshot::Btrfs;
use ondemand_core::{
    DatasetName, DatasetSnapshot, Datasets, DatasetsOptions, ImportOptions, Labels, Result, Sandbox, Selector,
    SnapshotStore, Source,
};
use server::TestServer;
use tokio::sync::Mutex;

/// A store and the datasets in it, in a directory of their own.
struct Setup {
    dir: tempfile::TempDir,
    store: Arc<Btrfs>,
    datasets: Datasets,
    /// Where the store is.
    root: PathBuf,
    _pool: Arc<TestPool>,
}

/// Returns the pool that tests share which run at the same time.
async fn shared_pool() -> Arc<TestPool> {
    static SHARED: Mutex<Weak<TestPool>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(pool) = shared.upgrade() {
        return pool;
    }
    let pool = Arc::new(TestPool::new(8 << 10).await);
    *shared = Arc::downgrade(&pool);
    pool
}

impl Setup {
    async fn new() -> Self {
        Self::on(shared_pool().await).await
    }

    async fn on(pool: Arc<TestPool>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        open_dir(dir.path());
        // PostgreSQL's user passes through it.
        open_dir(pool.path().parent().unwrap());
        let root = pool.subdirectory();
        let store = Arc::new(Btrfs::open(&root).await.unwrap());
        let datasets = Datasets::new(store.clone(), Self::options(dir.path()).await);
        Self { dir, store, datasets, root, _pool: pool }
    }

    async fn options(dir: &Path) -> DatasetsOptions {
        let programs = std::env::var_os("ONDEMAND_TEST_POSTGRES").map(PathBuf::from);
        let installs = Installs::discover(programs.as_deref()).await.unwrap();
        let user = os_user(None).unwrap();
        let sandbox = Sandbox::find(&dir.join("sandbox"), user).await.unwrap();
        let mut options = DatasetsOptions::new(installs, user, dir.join("run"), "test");
        options.sandbox = Some(sandbox);
        options
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

    /// Starts a server on a clone of a snapshot.
    async fn look(&self, snapshot: &DatasetSnapshot) -> TestServer {
        let name = format!("look-{}", snapshot.name).replace('@', "-");
        let volume = self.store.clone_snapshot(&snapshot.name, &name.parse().unwrap(), &Labels::new()).await.unwrap();
        TestServer::on(&volume.path, &self.postgres_dir(&name))
    }

    /// Fails if an import has left a volume, a process or a socket directory.
    async fn assert_clean(&self) {
        let volumes = self.store.volumes(&Selector::all().with(keys::KIND, "import")).await.unwrap().found;
        assert!(volumes.is_empty(), "{volumes:?}");
        let mut left = processes_in(&self.dir.path().join("run"));
        left.extend(processes_in(&self.root).into_iter().filter(|process| !process.contains("/look-")));
        assert!(left.is_empty(), "{left:?}");
        let run = self.dir.path().join("run");
        assert_eq!(std::fs::read_dir(run).map_or(0, Iterator::count), 0, "socket directories are left");
        assert!(self.datasets.reconcile().await.unwrap().removed.is_empty());
    }

    /// Fails if there is a dataset.
    async fn assert_nothing_published(&self) {
        assert_eq!(self.datasets.list().await.unwrap(), []);
        assert_eq!(self.store.snapshots(&Selector::all()).await.unwrap().found, []);
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
        // Those of a server have titles for arguments, and are known by where they work.
        let command = String::from_utf8_lossy(&std::fs::read(entry.path().join("cmdline")).unwrap_or_default())
            .replace('\0', " ");
        if cwd.starts_with(dir) || command.contains(dir.to_str().unwrap()) {
            found.push(format!("{pid} in {}: {}", cwd.display(), command.trim_end()));
        }
    }
    found
}
