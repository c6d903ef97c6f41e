//! `Copy`: plain copies where this program's temporary files are, reflinks on BTRFS. Needs root for the latter.
#![expect(clippy::unwrap_used, reason = "what fails must fail the test")]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use crate::fixtures::pool::TestPool;
use crate::fixtures::{killed, test_name};
use ondemand_core::conformance::store::{Directory, Harness};
use ondemand_core::snapshot::{Copy, CopyMethod, FsKind, SnapshotStore, kind_of};
use ondemand_core::{Code, Labels, Selector, SnapshotName, VolumeName};

async fn plain() -> Directory {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    Directory::new(&root, Copy::open, dir).await
}

async fn reflink() -> Directory {
    let pool = TestPool::shared().await;
    Directory::new(&pool.subdirectory(), Copy::open, pool).await
}

ondemand_core::store_conformance!(plain_copies, plain().await);
ondemand_core::directory_store_conformance!(plain_copies_in_directories, plain().await);
ondemand_core::store_conformance!(reflinks, reflink().await);
ondemand_core::directory_store_conformance!(reflinks_in_directories, reflink().await);

fn volume(name: &str) -> VolumeName {
    VolumeName::new(name).unwrap()
}

fn snapshot(name: &str) -> SnapshotName {
    SnapshotName::new(name).unwrap()
}

/// A file system of so many MiB in memory, gone when it is dropped.
struct Memory(tempfile::TempDir);

impl Memory {
    fn new(mebibytes: u64) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts a file system: run it as root");
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={mebibytes}m")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(options.as_c_str())).unwrap();
        Self(dir)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn it_says_what_a_clone_costs() {
    let pool = TestPool::shared().await;
    let store = Copy::open(pool.subdirectory()).await.unwrap();
    assert_eq!(store.method(), CopyMethod::Reflink);
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.method.as_str(), usage.copy_on_write), ("reflinks", true));

    let memory = Memory::new(16);
    assert_eq!(kind_of(&memory.0.path().join("not/there/yet")).unwrap(), FsKind::Other);
    let store = Copy::open(memory.0.path()).await.unwrap();
    assert_eq!(store.method(), CopyMethod::Copy);
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.method.as_str(), usage.copy_on_write), ("plain copies", false));
    assert_eq!((usage.total, usage.unallocated), (16 << 20, None));
}

#[tokio::test]
async fn reflinks_share_their_blocks() {
    let pool = TestPool::new(256).await;
    let store = Copy::open(pool.path().join("store")).await.unwrap();
    let source = store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    fs::write(source.path.join("file"), vec![7; 40 << 20]).unwrap();
    store.snapshot(&volume("v"), &snapshot("s@1"), &Labels::new()).await.unwrap();
    // Together they would be larger than the pool.
    for i in 0..10 {
        store.clone_snapshot(&snapshot("s@1"), &volume(&format!("c{i}")), &Labels::new()).await.unwrap();
    }
    store.sync().await.unwrap();
    let usage = store.usage().await.unwrap();
    assert!(usage.used < 100 << 20, "{usage:?}");
    assert_eq!(usage.volumes[&volume("c0")], None);
}

#[tokio::test]
async fn plain_copies_cost_their_size() {
    let h = plain().await;
    let store = h.store();
    store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    h.write(&volume("v"), "file", &vec![7; 3 << 20]).await;
    store.snapshot(&volume("v"), &snapshot("s@1"), &Labels::new()).await.unwrap();
    store.clone_snapshot(&snapshot("s@1"), &volume("c"), &Labels::new()).await.unwrap();
    store.sync().await.unwrap();
    let usage = store.usage().await.unwrap();
    for bytes in [usage.volumes[&volume("c")], usage.snapshots[&snapshot("s@1")]] {
        assert!(bytes.is_some_and(|bytes| (3 << 20..4 << 20).contains(&bytes)), "{usage:?}");
    }
}

#[tokio::test]
async fn a_full_disk_is_out_of_space_and_leaves_nothing() {
    let memory = Memory::new(16);
    let store = Copy::open(memory.0.path()).await.unwrap();
    let source = store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    for i in 0..5 {
        fs::write(source.path.join(format!("file{i}")), vec![7; 1 << 20]).unwrap();
    }
    store.snapshot(&volume("v"), &snapshot("s@1"), &Labels::new()).await.unwrap();
    store.clone_snapshot(&snapshot("s@1"), &volume("a"), &Labels::new()).await.unwrap();
    let used = store.usage().await.unwrap().used;
    let error = store.clone_snapshot(&snapshot("s@1"), &volume("b"), &Labels::new()).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfSpace, "{error:?}");
    let error = store.snapshot(&volume("v"), &snapshot("s@2"), &Labels::new()).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfSpace, "{error:?}");
    assert_eq!(store.volumes(&Selector::all()).await.unwrap().found.len(), 2);
    assert_eq!(store.snapshots(&Selector::all()).await.unwrap().found.len(), 1);
    assert_eq!(store.usage().await.unwrap().used, used);
    let left = |dir: &str| fs::read_dir(memory.0.path().join(dir)).unwrap().count();
    assert_eq!((left("volumes"), left("snapshots")), (4, 2));
    // A disk without a single free block does not keep anything from being deleted.
    let filler = fs::write(memory.0.path().join("filler"), vec![7; 16 << 20]).unwrap_err();
    assert_eq!(filler.kind(), std::io::ErrorKind::StorageFull);
    let error = store.create_volume(&volume("c"), &Labels::new()).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfSpace, "{error:?}");
    store.delete_volume(&volume("a")).await.unwrap();
    store.create_volume(&volume("c"), &Labels::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_copy_stops_before_its_end() {
    let h = plain().await;
    let store = h.store();
    store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    for i in 0..24 {
        h.write(&volume("v"), &format!("file{i}"), &vec![7; 16 << 20]).await;
    }
    store.snapshot(&volume("v"), &snapshot("s@1"), &Labels::new()).await.unwrap();
    let copying = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.clone_snapshot(&snapshot("s@1"), &volume("c"), &Labels::new()).await })
    };
    // There is no event for "the first file was begun"; the deadline is that of the whole test.
    while fs::read_dir(h.root().join("volumes/c")).map_or(0, Iterator::count) == 0 {
        assert!(!copying.is_finished(), "it was done before it could be dropped");
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    let listed = store.volumes(&Selector::all()).await.unwrap().found;
    assert!(!listed.iter().any(|v| v.name == volume("c") && v.complete), "{listed:?}");
    copying.abort();
    assert!(copying.await.unwrap_err().is_cancelled(), "it was done before it could be dropped");
    // This takes its turn when the copy has stopped: a finished one would be there.
    let late = store.set_volume_labels(&volume("c"), &Labels::new()).await;
    assert_eq!(late.unwrap_err().code(), Code::NotFound);
    assert!(!h.root().join("volumes/c").exists());
    assert!(!h.root().join("volumes/c.json").exists());
}

#[tokio::test]
async fn a_killed_process_leaves_nothing_unlisted() {
    killed::work_if_to_be_killed(Copy::open).await;
    let dir = tempfile::tempdir().unwrap();
    killed::kill_and_look(
        &test_name(module_path!(), "a_killed_process_leaves_nothing_unlisted"),
        &dir.path().join("store"),
        Copy::open,
    )
    .await;
}
