//! Loop-file pools, made and removed for real. Needs root.
#![cfg(feature = "btrfs")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails must fail the test")]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::fixtures::pool::TestPool;
use ondemand_core::orchestrator::RunAs;
use ondemand_core::snapshot::pool::{self, PoolSpec};
use ondemand_core::snapshot::{Btrfs, FsKind, SnapshotStore, kind_of};
use ondemand_core::{Code, Error, Labels, Size, VolumeName};

const SIZE: Size = Size(256 << 20);

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> Code {
    result.expect_err("it succeeded").code()
}

/// Returns the loop devices that hold a file of `dir`, below `/sys`.
fn loops(dir: &Path) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").unwrap().map(|device| device.unwrap().path());
    let holds = |device: &PathBuf| {
        fs::read_to_string(device.join("loop/backing_file")).is_ok_and(|file| Path::new(&file).starts_with(dir))
    };
    devices.filter(holds).collect()
}

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_pool_is_made_mounted_and_deleted() {
    pool::supported().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a pool");
    let owner = Some(RunAs { uid: 65534, gid: 65533 });
    let made = pool::create(PoolSpec { owner, ..PoolSpec::new(&path, SIZE) }).await.unwrap();
    assert_eq!((&made.path, &made.image), (&path, &dir.path().join("a pool.btrfs")));
    assert_eq!(made.notices, Vec::<String>::new());
    assert!(pool::is_mounted(&path).unwrap());
    assert!(!pool::is_mounted(dir.path()).unwrap());
    assert!(!pool::is_mounted(&path.join("not-there")).unwrap());
    assert_eq!(kind_of(&path).unwrap(), FsKind::Btrfs);
    let root = fs::metadata(&path).unwrap();
    assert_eq!((root.uid(), root.gid()), (65534, 65533));
    let image = fs::metadata(&made.image).unwrap();
    assert_eq!((image.len(), image.mode() & 0o777), (SIZE.0, 0o600));
    assert!(image.blocks() * 512 < 32 << 20, "the image is not sparse: {} blocks", image.blocks());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let options = mounts.lines().find(|line| line.contains("a\\040pool ")).unwrap();
    for option in ["noatime", "user_subvol_rm_allowed", "discard=async"] {
        assert!(options.contains(option), "{options}");
    }
    pool::delete(&path, false).await.unwrap();
    assert_eq!(entries(dir.path()), Vec::<String>::new());
    assert_eq!(loops(dir.path()), Vec::<PathBuf>::new());
    pool::delete(&path, false).await.unwrap();
}

#[tokio::test]
async fn a_pool_is_mounted_again_after_a_reboot() {
    let fixture = TestPool::new(256).await;
    let (path, image) = (fixture.path().to_owned(), fixture.image());
    let store = Btrfs::open(&path).await.unwrap();
    let made = store.create_volume(&VolumeName::new("a").unwrap(), &Labels::new()).await.unwrap();
    drop(store);
    // It is mounted: nothing to do.
    assert_eq!(pool::mount(&image, &path).await.unwrap().path, path);
    assert_eq!(loops(path.parent().unwrap()).len(), 1);
    // Nowhere else, and nothing else here.
    let elsewhere = path.with_file_name("elsewhere");
    assert_eq!(code(pool::mount(&image, &elsewhere).await), Code::Conflict);
    assert!(!elsewhere.exists());
    let other = path.with_file_name("other.btrfs");
    fs::write(&other, "x").unwrap();
    assert_eq!(code(pool::mount(&other, &path).await), Code::Conflict);
    assert_eq!(code(pool::mount(path.with_file_name("none"), &path).await), Code::NotFound);

    rustix::mount::unmount(&path, rustix::mount::UnmountFlags::empty()).unwrap();
    fs::remove_dir(&path).unwrap();
    assert_eq!(code(pool::mount(&other, &path).await), Code::Backend);
    assert!(!path.exists(), "the mount point of a mount that failed is left");
    pool::mount(&image, &path).await.unwrap();
    pool::mount(&image, &path).await.unwrap();
    assert!(made.path.is_dir());
    let store = Btrfs::open(&path).await.unwrap();
    assert!(store.usage().await.unwrap().volumes[&made.name].is_some(), "quotas are off after mounting again");
}

#[tokio::test]
async fn a_pool_that_holds_something_is_deleted_by_force_alone() {
    let fixture = TestPool::new(256).await;
    let path = fixture.path();
    let store = Btrfs::open(path).await.unwrap();
    let name = VolumeName::new("a").unwrap();
    let made = store.create_volume(&name, &Labels::new()).await.unwrap();
    let error = pool::delete(path, false).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
    assert!(error.to_string().contains("volumes/a"), "{error}");
    // A store that is open is in use.
    assert_eq!(code(pool::delete(path, true).await), Code::Conflict);
    assert!(pool::is_mounted(path).unwrap() && fixture.image().exists());
    drop(store);
    // Unmounted, it still holds what it holds.
    rustix::mount::unmount(path, rustix::mount::UnmountFlags::empty()).unwrap();
    assert_eq!(code(pool::delete(path, false).await), Code::Conflict);
    assert!(made.path.is_dir());
    // What is in use is not deleted, by force or not.
    let open = fs::File::create(made.path.join("open")).unwrap();
    assert_eq!(code(pool::delete(path, true).await), Code::Conflict);
    assert!(pool::is_mounted(path).unwrap() && fixture.image().exists());
    drop(open);
    let store = Btrfs::open(path).await.unwrap();
    store.delete_volume(&name).await.unwrap();
    fs::write(path.join("mine"), "x").unwrap();
    assert_eq!(code(pool::delete(path, false).await), Code::Conflict);
    fs::remove_file(path.join("mine")).unwrap();
    store.create_volume(&name, &Labels::new()).await.unwrap();
    drop(store);
    pool::delete(path, true).await.unwrap();
    assert_eq!(entries(path.parent().unwrap()), Vec::<String>::new());
}

#[tokio::test]
async fn what_was_not_made_here_is_not_deleted() {
    // A pool without its mark, as anybody's loop mount would be.
    let fixture = TestPool::new(256).await;
    fs::remove_file(fixture.path().join(".ondemand-pool")).unwrap();
    assert_eq!(code(pool::delete(fixture.path(), true).await), Code::Conflict);
    assert!(pool::is_mounted(fixture.path()).unwrap() && fixture.image().exists());
    // A directory that never was one.
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "precious").unwrap();
    for path in [directory.path().to_owned(), directory.path().join("file")] {
        assert_eq!(code(pool::delete(&path, true).await), Code::Conflict, "{}", path.display());
    }
    assert_eq!(entries(directory.path()), ["file"]);
    // Some other file system, with the mark.
    let memory = tempfile::tempdir().unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", memory.path(), "tmpfs", flags, Some(c"size=1m")).unwrap();
    let marked = fs::write(memory.path().join(".ondemand-pool"), "");
    let deleted = pool::delete(memory.path(), true).await;
    rustix::mount::unmount(memory.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    marked.unwrap();
    assert_eq!(code(deleted), Code::Conflict);
}

#[tokio::test]
async fn bad_wishes_are_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool");
    let create = async |spec: PoolSpec| pool::create(spec).await;
    for size in [0, (256 << 20) - 1, 1 << 60, u64::MAX] {
        assert_eq!(code(create(PoolSpec::new(&path, Size(size))).await), Code::InvalidInput, "{size}");
    }
    for path in ["pool", "./pool", "/", "", "/tmp/../tmp/pool", "/tmp/line\nbreak", "/tmp/nul\0"] {
        assert_eq!(code(create(PoolSpec::new(path, SIZE)).await), Code::InvalidInput, "{path:?}");
    }
    let elsewhere = PoolSpec { image: Some(dir.path().join("none/image")), ..PoolSpec::new(&path, SIZE) };
    assert_eq!(code(create(elsewhere).await), Code::NotFound);
    let relative = PoolSpec { image: Some("image".into()), ..PoolSpec::new(&path, SIZE) };
    assert_eq!(code(create(relative).await), Code::InvalidInput);
    let deep = PoolSpec { image: Some(dir.path().join("image")), ..PoolSpec::new(dir.path().join("none/pool"), SIZE) };
    assert_eq!(code(create(deep).await), Code::NotFound);
    assert_eq!(entries(dir.path()), Vec::<String>::new());

    // The image exists: it stays, and the directory made before it was looked at does not.
    fs::write(dir.path().join("pool.btrfs"), "precious").unwrap();
    assert_eq!(code(create(PoolSpec::new(&path, SIZE)).await), Code::AlreadyExists);
    assert_eq!(fs::read(dir.path().join("pool.btrfs")).unwrap(), b"precious");
    assert_eq!(entries(dir.path()), ["pool.btrfs"]);
    fs::remove_file(dir.path().join("pool.btrfs")).unwrap();
    // The directory holds something, or is a file.
    fs::create_dir(&path).unwrap();
    fs::write(path.join("file"), "precious").unwrap();
    assert_eq!(code(create(PoolSpec::new(&path, SIZE)).await), Code::AlreadyExists);
    assert_eq!(code(create(PoolSpec::new(path.join("file"), SIZE)).await), Code::AlreadyExists);
    assert_eq!(fs::read(path.join("file")).unwrap(), b"precious");
    assert_eq!((entries(dir.path()), entries(&path)), (vec!["pool".to_owned()], vec!["file".to_owned()]));
}

#[tokio::test]
async fn a_pool_is_not_made_where_something_is_mounted() {
    let fixture = TestPool::new(256).await;
    let spec = PoolSpec { image: Some(fixture.path().with_file_name("second")), ..PoolSpec::new(fixture.path(), SIZE) };
    assert_eq!(code(pool::create(spec).await), Code::Conflict);
    assert_eq!(entries(fixture.path().parent().unwrap()), ["pool", "pool.btrfs"]);
}

#[tokio::test]
async fn a_failure_on_the_way_is_undone() {
    // A disk that is large enough by its size, and too full to make a file system on.
    let memory = tempfile::tempdir().unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", memory.path(), "tmpfs", flags, Some(c"size=260m")).unwrap();
    fs::write(memory.path().join("filler"), vec![7; (260 << 20) - (64 << 10)]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool");
    let image = memory.path().join("image");
    let made = pool::create(PoolSpec { image: Some(image.clone()), ..PoolSpec::new(&path, SIZE) }).await;
    let left = (path.exists(), image.exists(), loops(memory.path()));
    rustix::mount::unmount(memory.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    let error = made.unwrap_err();
    assert_eq!(left, (false, false, Vec::new()), "{error:?}");
    assert!(matches!(error.code(), Code::Backend | Code::OutOfSpace), "{error:?}");
}

#[tokio::test]
async fn the_default_size_fits_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let size = pool::default_size(dir.path()).unwrap();
    assert!(size > SIZE, "{size}: the disk of the temporary directory is too full for these tests");
    assert_eq!(pool::default_image(Path::new("/srv/pool")), Path::new("/srv/pool.btrfs"));
}

/// Reserves room in the pool, which need not be written for that.
fn reserve(path: &Path, bytes: u64) -> std::io::Result<()> {
    let file = fs::File::create(path)?;
    Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?)
}

const LARGER: Size = Size(512 << 20);

#[tokio::test]
async fn a_pool_grows_while_it_is_used() {
    let fixture = TestPool::new(256).await;
    let (path, image) = (fixture.path(), fixture.image());
    let store = Btrfs::open(path).await.unwrap();
    let volume = store.create_volume(&VolumeName::new("a").unwrap(), &Labels::new()).await.unwrap();
    let large = volume.path.join("large");
    reserve(&large, 300 << 20).unwrap_err();
    let grown = pool::grow(path, LARGER, false).await.unwrap();
    assert_eq!((&grown.path, &grown.image, grown.before, grown.after), (&path.to_owned(), &image, SIZE, LARGER));
    assert_eq!(grown.notices, Vec::<String>::new());
    assert_eq!(fs::metadata(&image).unwrap().len(), LARGER.0);
    assert!(store.usage().await.unwrap().total > SIZE.0);
    reserve(&large, 300 << 20).unwrap();
    // It is that large: nothing to do.
    let again = pool::grow(path, LARGER, false).await.unwrap();
    assert_eq!((again.before, again.after), (LARGER, LARGER));
    drop(store);
    fixture.cut_power().await;
    assert_eq!(fs::metadata(&large).unwrap().len(), 300 << 20);
}

#[tokio::test]
async fn a_pool_that_was_left_half_grown_is_finished() {
    let fixture = TestPool::new(256).await;
    let grow_file = |size: Size| {
        fs::OpenOptions::new().write(true).open(fixture.image()).unwrap().set_len(size.0).unwrap();
    };
    // After the first step.
    grow_file(LARGER);
    assert_eq!(pool::grow(fixture.path(), LARGER, false).await.unwrap().before, SIZE);
    // After the first step and a reboot, where the loop device is as large as its file.
    let largest = Size(600 << 20);
    grow_file(largest);
    fixture.cut_power().await;
    let grown = pool::grow(fixture.path(), largest, false).await.unwrap();
    assert_eq!((grown.before, grown.after), (LARGER, largest));
    reserve(&fixture.path().join("large"), 400 << 20).unwrap();
}

#[tokio::test]
async fn what_cannot_be_grown_is_said() {
    let fixture = TestPool::new(256).await;
    let (path, image) = (fixture.path(), fixture.image());
    for size in [0, 1, SIZE.0 - 1] {
        let error = pool::grow(path, Size(size), true).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidInput, "{size}: {error}");
    }
    // More than any disk has.
    let error = pool::grow(path, Size(1 << 50), false).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
    assert!(error.to_string().contains("free in") && error.hint().unwrap().contains("--overcommit"), "{error:?}");
    assert_eq!(fs::metadata(&image).unwrap().len(), SIZE.0);
    assert_eq!(code(pool::grow("pool", LARGER, false).await), Code::InvalidInput);
    for nothing in [path.with_file_name("none"), path.parent().unwrap().to_owned(), "/".into()] {
        let error = pool::grow(&nothing, LARGER, false).await.unwrap_err();
        assert!(matches!(error.code(), Code::Conflict | Code::InvalidInput), "{}: {error}", nothing.display());
    }
    fs::remove_file(path.join(".ondemand-pool")).unwrap();
    assert_eq!(code(pool::grow(path, LARGER, false).await), Code::Conflict);
    assert_eq!(fs::metadata(&image).unwrap().len(), SIZE.0);
}

#[tokio::test]
async fn a_pool_grows_beyond_its_disk_where_that_is_wanted_alone() {
    let memory = SmallDisk::new(c"size=300m");
    let path = memory.path().join("pool");
    pool::create(PoolSpec::new(&path, SIZE)).await.unwrap();
    assert_eq!(code(pool::grow(&path, LARGER, false).await), Code::Conflict);
    let grown = pool::grow(&path, LARGER, true).await.unwrap();
    assert_eq!((grown.after, grown.notices.len()), (LARGER, 1));
    assert!(grown.notices[0].contains("stops working"), "{grown:?}");
}

/// Where a pool's directory is somebody else's, they may put any file in the place of the pool's.
#[tokio::test]
async fn a_file_in_the_place_of_the_pools_is_left_alone() {
    let memory = SmallDisk::new(c"size=600m");
    let (path, dir) = (memory.path().join("pool"), memory.path().join("files"));
    fs::create_dir(&dir).unwrap();
    let image = dir.join("image");
    pool::create(PoolSpec { image: Some(image.clone()), ..PoolSpec::new(&path, SIZE) }).await.unwrap();
    // The kernel still calls the pool's file by this path.
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &dir, "tmpfs", flags, Some(c"size=1m")).unwrap();
    fs::write(&image, "precious").unwrap();
    let replaced = pool::grow(&path, LARGER, true).await;
    fs::rename(&image, dir.join("other")).unwrap();
    std::os::unix::fs::symlink(dir.join("other"), &image).unwrap();
    let linked = pool::grow(&path, LARGER, true).await;
    let contents = fs::read(dir.join("other"));
    rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(code(replaced), Code::Conflict);
    linked.unwrap_err();
    assert_eq!(contents.unwrap(), b"precious");
    pool::grow(&path, LARGER, true).await.unwrap();
}

/// A loop device that writes more than a page at once reports as written what its disk had no room for.
#[tokio::test]
async fn what_a_full_disk_did_not_take_is_not_called_written() {
    let memory = SmallDisk::new(c"size=300m");
    let path = memory.path().join("pool");
    pool::create(PoolSpec::new(&path, SIZE)).await.unwrap();
    let block = loops(memory.path()).pop().unwrap();
    // As the system mounts it.
    let at_once = block.join("queue/max_sectors_kb");
    fs::write(&at_once, "1280").unwrap();
    let store = Btrfs::open(&path).await.unwrap();
    crate::proxy::lab::eventually("it writes single pages", || match fs::read_to_string(&at_once).unwrap() {
        said if said == "4\n" => Ok(()),
        said => Err(said),
    })
    .await;
    // Without the cache in between, which writes when it likes.
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap();
    let device = Path::new("/dev").join(block.file_name().unwrap());
    let device = fs::OpenOptions::new().write(true).custom_flags(direct).open(device).unwrap();
    let image = fs::File::open(pool::default_image(&path)).unwrap();
    let buffer = vec![7; (64 << 10) + 4096];
    let contents = &buffer[buffer.as_ptr().align_offset(4096)..][..64 << 10];
    // Beyond all that BTRFS uses. What it discards meanwhile is room.
    let refused = (1..50).any(|megabyte| {
        let at = SIZE.0 - (megabyte << 20);
        let stat = rustix::fs::statvfs(memory.path()).unwrap();
        let room = stat.f_bavail * stat.f_frsize;
        reserve(&memory.path().join(megabyte.to_string()), room.saturating_sub(20 << 10).max(4096)).unwrap();
        let written = device.write_all_at(contents, at);
        let mut there = vec![0; contents.len()];
        image.read_exact_at(&mut there, at).unwrap();
        assert!(written.is_err() || there == contents, "what was reported as written is not there");
        written.is_err()
    });
    assert!(refused, "the disk was never full");
    drop((device, store));
    // The device is the system's, and another's next.
    pool::delete(&path, true).await.unwrap();
    assert_eq!(fs::read_to_string(&at_once).unwrap(), "1280\n");
}

/// A disk in memory, which is gone when it is dropped, with the pool in it.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(options: &std::ffi::CStr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(options)).unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        for path in [self.path().join("pool"), self.path().to_owned()] {
            // Lazily, as a test that panics may have files open; the loop device is freed with the last of them.
            let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
        }
    }
}
