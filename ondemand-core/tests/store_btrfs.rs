//! `Btrfs` on a real file system: a loop-file pool that this program makes and removes. Needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ondemand_core::snapshot::{Btrfs, SnapshotStore, pool};
use ondemand_core::{Labels, Selector, Size, SnapshotName, VolumeName};

/// A pool for one test, gone when it is dropped.
struct TestPool {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl TestPool {
    async fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests mount file systems: run them as root");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pool");
        pool::create(pool::PoolSpec::new(&path, Size(512 << 20))).await.expect("a pool");
        Self { dir, path }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TestPool {
    fn drop(&mut self) {
        // Lazily, as a test that panics may have files open; the loop device is freed with the last of them.
        let _ = rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH);
        let _ = fs::remove_file(self.dir.path().join("pool.btrfs"));
    }
}

fn volume(name: &str) -> VolumeName {
    VolumeName::new(name).expect("a name")
}

fn snapshot(name: &str) -> SnapshotName {
    SnapshotName::new(name).expect("a name")
}

#[tokio::test]
async fn a_clone_costs_nothing_until_it_is_written() {
    let pool = TestPool::new().await;
    let store = Btrfs::open(pool.path()).await.expect("a store");
    let source = store.create_volume(&volume("source"), &Labels::new()).await.expect("a volume");
    fs::write(source.path.join("data"), vec![7; 20 << 20]).expect("written");
    store.snapshot(&volume("source"), &snapshot("data@1"), &Labels::new()).await.expect("a snapshot");
    store.delete_volume(&volume("source")).await.expect("deleted");
    let clone = store.clone_snapshot(&snapshot("data@1"), &volume("clone"), &Labels::new()).await.expect("a clone");
    store.sync().await.expect("synced");
    let usage = store.usage().await.expect("a usage");
    let fresh = usage.volumes[&volume("clone")].expect("counted");
    assert!(fresh < 256 << 10, "a fresh clone has {fresh} bytes of its own");
    assert!(usage.snapshots[&snapshot("data@1")].expect("counted") >= 20 << 20, "{usage:?}");
    assert!(usage.unallocated.is_some_and(|free| free > 0 && free < usage.total), "{usage:?}");
    fs::write(clone.path.join("more"), vec![8; 8 << 20]).expect("written");
    store.sync().await.expect("synced");
    let written = store.usage().await.expect("a usage").volumes[&volume("clone")].expect("counted");
    assert!((8 << 20..10 << 20).contains(&written), "{written}");
    let mut times = Vec::new();
    for i in 0..20 {
        let start = Instant::now();
        store.clone_snapshot(&snapshot("data@1"), &volume(&format!("c{i}")), &Labels::new()).await.expect("a clone");
        let ours = start.elapsed();
        let start = Instant::now();
        libbtrfsutil::CreateSnapshotOptions::new()
            .create(pool.path().join("snapshots/data@1"), pool.path().join(format!("bare{i}")))
            .expect("x");
        times.push((ours, start.elapsed()));
    }
    println!("{times:?}");
    assert_eq!(store.volumes(&Selector::all()).await.expect("a list").len(), 21);
    drop(store);
}
