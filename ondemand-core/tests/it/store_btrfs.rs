//! `Btrfs` on a real file system: loop-file pools that this program makes and removes. Needs root.
#![cfg(feature = "btrfs")]
#![expect(clippy::unwrap_used, reason = "what fails must fail the test")]

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::fixtures::pool::TestPool;
use crate::fixtures::{killed, test_name};
use ondemand_core::conformance::store::{Directory, Harness};
use ondemand_core::snapshot::{Btrfs, FsKind, SnapshotStore, kind_of};
use ondemand_core::{Code, Error, Labels, Selector, SnapshotName, VolumeName};

async fn btrfs() -> Directory {
    let pool = TestPool::shared().await;
    Directory::new(&pool.subdirectory(), Btrfs::open, pool).await
}

ondemand_core::store_conformance!(contract, btrfs().await);
ondemand_core::directory_store_conformance!(contract_in_directories, btrfs().await);

fn volume(name: &str) -> VolumeName {
    VolumeName::new(name).unwrap()
}

fn snapshot(name: &str) -> SnapshotName {
    SnapshotName::new(name).unwrap()
}

/// What [`an_ordinary_user_may_keep_a_store`] tells itself when it runs again as that user: the directory to use.
const AS_USER: &str = "ONDEMAND_TEST_AS_USER";
/// The user and group that own nothing.
const NOBODY: u32 = 65534;

/// Runs the test of that name again, as an ordinary user, over `root`.
fn run_as_nobody(test: &str, root: &Path) {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The user may not be allowed to where this program is.
    let program = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into(), "--".into()];
    let mut command = std::process::Command::new("setpriv");
    command.args(ids).arg(&program).args(["--exact", test]).env(AS_USER, root).current_dir(dir.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

/// Writes random bytes, which nothing can make smaller.
fn fill(path: &Path, bytes: usize) -> std::io::Result<()> {
    let mut random = fs::File::open("/dev/urandom")?;
    let mut file = fs::File::create(path)?;
    std::io::copy(&mut std::io::Read::take(&mut random, bytes as u64), &mut file)?;
    file.flush()?;
    file.sync_all()
}

#[tokio::test]
async fn another_file_system_is_unsupported() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let error = Btrfs::open(dir.path()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unsupported, "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("pool create")), "{error:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_ne!(kind_of(dir.path()).unwrap(), FsKind::Btrfs);
    let pool = TestPool::shared().await;
    assert_eq!(kind_of(&pool.path().join("not/there/yet")).unwrap(), FsKind::Btrfs);
}

#[tokio::test]
async fn a_clone_costs_nothing_until_it_is_written() {
    let pool = TestPool::new(512).await;
    let store = Btrfs::open(pool.path()).await.unwrap();
    let source = store.create_volume(&volume("source"), &Labels::new()).await.unwrap();
    fill(&source.path.join("data"), 20 << 20).unwrap();
    store.snapshot(&volume("source"), &snapshot("data@1"), &Labels::new()).await.unwrap();
    let own = async |name: &str| {
        store.sync().await.unwrap();
        store.usage().await.unwrap().volumes[&volume(name)].expect("counted")
    };
    assert!(own("source").await >= 20 << 20);
    assert!(store.usage().await.unwrap().snapshots[&snapshot("data@1")].expect("counted") < 1 << 20);
    store.delete_volume(&volume("source")).await.unwrap();
    let clone = store.clone_snapshot(&snapshot("data@1"), &volume("clone"), &Labels::new()).await.unwrap();
    let fresh = own("clone").await;
    assert!(fresh < 256 << 10, "a fresh clone has {fresh} bytes of its own");
    fill(&clone.path.join("more"), 8 << 20).unwrap();
    let written = own("clone").await;
    assert!((8 << 20..10 << 20).contains(&written), "{written}");

    let usage = store.usage().await.unwrap();
    assert_eq!((usage.method.as_str(), usage.copy_on_write), ("BTRFS snapshots", true));
    // The snapshot answers for what its deleted volume had written.
    assert!(usage.snapshots[&snapshot("data@1")].expect("counted") >= 20 << 20, "{usage:?}");
    assert_eq!(usage.total, 512 << 20);
    assert!(usage.unallocated.is_some_and(|free| free > 0 && free < usage.total), "{usage:?}");
    assert!(usage.used >= 28 << 20, "{usage:?}");
}

#[tokio::test]
async fn without_quotas_own_bytes_are_not_known() {
    use std::os::fd::AsFd;
    let pool = TestPool::new(256).await;
    btrfs_uapi::quota::quota_disable(fs::File::open(pool.path()).unwrap().as_fd()).unwrap();
    let store = Btrfs::open(pool.path()).await.unwrap();
    store.create_volume(&volume("a"), &Labels::new()).await.unwrap();
    let usage = store.usage().await.unwrap();
    assert_eq!(usage.volumes[&volume("a")], None);
    assert!(usage.unallocated.is_some());
}

#[tokio::test]
async fn subvolumes_within_a_volume_are_deleted_with_it() {
    let h = btrfs().await;
    let store = h.store();
    let made = store.create_volume(&volume("a"), &Labels::new()).await.unwrap();
    fs::create_dir(made.path.join("dir")).unwrap();
    for nested in ["nested", "nested/inner", "dir/nested"] {
        libbtrfsutil::create_subvolume(made.path.join(nested)).unwrap();
        fs::write(made.path.join(nested).join("file"), "x").unwrap();
    }
    let frozen = store.snapshot(&volume("a"), &snapshot("s@1"), &Labels::new()).await.unwrap();
    assert_eq!(fs::read_dir(frozen.path.join("nested")).unwrap().count(), 0);
    store.delete_volume(&volume("a")).await.unwrap();
    assert!(!made.path.exists());
    store.delete_snapshot(&snapshot("s@1")).await.unwrap();
    assert!(!frozen.path.exists());
}

/// A volume's owner may put anything anywhere in it while it is deleted, so root does not walk through it.
#[tokio::test]
async fn root_does_not_empty_what_cannot_be_deleted_at_once() {
    let h = btrfs().await;
    let store = h.store();
    let made = store.create_volume(&volume("a"), &Labels::new()).await.unwrap();
    let (kept, nested) = (made.path.join("file"), made.path.join("nested"));
    fs::write(&kept, "x").unwrap();
    libbtrfsutil::create_subvolume(&nested).unwrap();
    libbtrfsutil::create_subvolume(nested.join("inner")).unwrap();
    libbtrfsutil::set_subvolume_read_only(&nested, true).unwrap();
    let error = store.delete_volume(&volume("a")).await.unwrap_err();
    assert!(matches!(error, Error::Backend { .. }), "{error:?}");
    assert!(kept.exists() && nested.join("inner").exists());
    let listed = store.volumes(&Selector::all()).await.unwrap().found;
    assert_eq!(listed.len(), 1, "it is listed, so that it is tried again");
    libbtrfsutil::set_subvolume_read_only(&nested, false).unwrap();
    store.delete_volume(&volume("a")).await.unwrap();
    assert!(!made.path.exists());
}

#[tokio::test]
async fn an_ordinary_user_may_keep_a_store() {
    let Some(root) = std::env::var_os(AS_USER) else {
        let pool = TestPool::new(256).await;
        let root = pool.path().join("store");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::chown(&root, Some(NOBODY), Some(NOBODY)).unwrap();
        run_as_nobody(&test_name(module_path!(), "an_ordinary_user_may_keep_a_store"), &root);
        // Again where a user may not delete subvolumes as such.
        rustix::mount::unmount(pool.path(), rustix::mount::UnmountFlags::empty()).unwrap();
        let mut mount = std::process::Command::new("mount");
        assert!(mount.args(["-o", "loop"]).arg(pool.image()).arg(pool.path()).status().unwrap().success());
        run_as_nobody(&test_name(module_path!(), "an_ordinary_user_may_keep_a_store"), &root);
        return;
    };
    assert!(!rustix::process::geteuid().is_root());
    let store = Btrfs::open(Path::new(&root)).await.unwrap();
    let made = store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    fs::create_dir_all(made.path.join("dir/locked")).unwrap();
    fs::write(made.path.join("dir/locked/file"), vec![7; 1 << 20]).unwrap();
    fs::set_permissions(made.path.join("dir/locked"), fs::Permissions::from_mode(0o500)).unwrap();
    store.snapshot(&volume("v"), &snapshot("s@1"), &Labels::new()).await.unwrap();
    let clone = store.clone_snapshot(&snapshot("s@1"), &volume("c"), &Labels::new()).await.unwrap();
    assert_eq!(fs::read(clone.path.join("dir/locked/file")).unwrap().len(), 1 << 20);
    libbtrfsutil::create_subvolume(clone.path.join("nested")).unwrap();
    fs::write(clone.path.join("nested/file"), "x").unwrap();
    store.sync().await.unwrap();
    let usage = store.usage().await.unwrap();
    assert!(usage.volumes.values().all(Option::is_some) && usage.unallocated.is_some(), "{usage:?}");
    for name in ["v", "c"] {
        store.delete_volume(&volume(name)).await.unwrap();
    }
    store.delete_snapshot(&snapshot("s@1")).await.unwrap();
    let left = |dir: &str| fs::read_dir(Path::new(&root).join(dir)).unwrap().count();
    assert_eq!((left("volumes"), left("snapshots")), (0, 0));
}

#[tokio::test]
async fn a_snapshot_survives_a_power_cut() {
    let pool = TestPool::new(256).await;
    let store = Btrfs::open(pool.path()).await.unwrap();
    let source = store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    fs::write(source.path.join("file"), vec![7; 3 << 20]).unwrap();
    let labels = Labels::new().with("x", "1").unwrap();
    let made = store.snapshot(&volume("v"), &snapshot("s@1"), &labels).await.unwrap();
    drop(store);
    pool.cut_power().await;
    let store = Btrfs::open(pool.path()).await.unwrap();
    assert_eq!(store.snapshots(&Selector::all()).await.unwrap().found, std::slice::from_ref(&made));
    assert_eq!(fs::read(made.path.join("file")).unwrap(), vec![7; 3 << 20]);
}

#[tokio::test]
async fn what_a_power_cut_leaves_of_volumes_can_be_found() {
    let pool = TestPool::new(256).await;
    let store = Btrfs::open(pool.path()).await.unwrap();
    // One record that fits beside its name, one that has blocks of its own.
    let labels = ["1".to_owned(), "2".repeat(4000)].map(|value| Labels::new().with("x", value).unwrap());
    let old = [volume("old-1"), volume("old-2")];
    let new = [volume("new-1"), volume("new-2")];
    store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    for (name, labels) in old.iter().zip(&labels) {
        store.create_volume(name, labels).await.unwrap();
    }
    // From here on these are there for good, with these labels or later ones.
    store.sync().await.unwrap();
    for (name, labels) in old.iter().zip(labels.iter().rev()) {
        store.set_volume_labels(name, labels).await.unwrap();
    }
    store.snapshot(&volume("v"), &snapshot("s@1"), &Labels::new()).await.unwrap();
    for (name, labels) in new.iter().zip(&labels) {
        store.clone_snapshot(&snapshot("s@1"), name, labels).await.unwrap();
    }
    for (name, labels) in old.iter().zip(&labels) {
        store.set_volume_labels(name, labels).await.unwrap();
    }
    drop(store);
    pool.cut_power().await;

    let store = Btrfs::open(pool.path()).await.unwrap();
    let listed = store.volumes(&Selector::all()).await.unwrap().found;
    for name in &old {
        let found = listed.iter().find(|v| v.name == *name).expect("it was synced");
        assert!(found.complete && labels.contains(&found.labels), "{found:?}");
    }
    for found in listed.iter().filter(|v| new.contains(&v.name)) {
        assert!(labels.contains(&found.labels), "{found:?}");
    }
    // There is nothing that is not listed.
    let directories = fs::read_dir(pool.path().join("volumes")).unwrap();
    let directories = directories.filter(|entry| entry.as_ref().unwrap().metadata().unwrap().is_dir()).count();
    assert_eq!(directories, listed.iter().filter(|v| v.path.exists()).count());
}

#[tokio::test]
async fn a_snapshot_cannot_be_written_to() {
    let h = btrfs().await;
    let store = h.store();
    store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    let frozen = store.snapshot(&volume("v"), &snapshot("s@1"), &Labels::new()).await.unwrap();
    let error = fs::write(frozen.path.join("file"), "x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    // Each is a subvolume beside the others, none within another.
    for path in [h.root().join("volumes/v"), frozen.path] {
        assert!(libbtrfsutil::is_subvolume(path).unwrap());
    }
}

#[tokio::test]
async fn a_full_pool_is_out_of_space_and_can_be_emptied() {
    // Slow: a pool is written full, and BTRFS takes seconds to give room back.
    let pool = TestPool::new(256).await;
    let store = Btrfs::open(pool.path()).await.unwrap();
    let source = store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    fill(&source.path.join("data"), 8 << 20).unwrap();
    store.snapshot(&volume("v"), &snapshot("s@1"), &Labels::new()).await.unwrap();
    let clog = source.path.join("clog");
    fs::create_dir(&clog).unwrap();
    let error = fill(&source.path.join("fill"), 512 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    // Metadata is full last: small files take the room that is left to it.
    let clogged = (0..2_000_000).find_map(|i| fs::write(clog.join(format!("{i}")), [7; 2000]).err()).unwrap();
    assert_eq!(clogged.kind(), ErrorKind::StorageFull);

    // Whether there is room for one more clone is for BTRFS to say; what it says must be told right.
    let mut refused = false;
    for i in 0..100 {
        match store.clone_snapshot(&snapshot("s@1"), &volume(&format!("c{i}")), &Labels::new()).await {
            Ok(made) => assert!(made.complete),
            Err(Error::OutOfSpace { .. }) => refused = true,
            Err(other) => panic!("{other:?}"),
        }
    }
    let listed = store.volumes(&Selector::all()).await.unwrap().found;
    assert!(listed.iter().all(|v| v.complete), "{listed:?}");
    assert!(refused, "a full pool took 100 clones");

    for volume in listed {
        store.delete_volume(&volume.name).await.unwrap();
    }
    assert_eq!(store.volumes(&Selector::all()).await.unwrap().found, []);
    // Room comes back in the background; there is no event for it but asking.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        store.sync().await.unwrap();
        match store.clone_snapshot(&snapshot("s@1"), &volume("again"), &Labels::new()).await {
            Ok(made) => break assert!(made.path.join("data").exists()),
            Err(Error::OutOfSpace { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_killed_process_leaves_nothing_unlisted() {
    killed::work_if_to_be_killed(Btrfs::open).await;
    let pool = TestPool::new(256).await;
    let root = pool.path().join("store");
    killed::kill_and_look(&test_name(module_path!(), "a_killed_process_leaves_nothing_unlisted"), &root, Btrfs::open)
        .await;
}
