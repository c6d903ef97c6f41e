//! What holds only where volumes are directories.

use std::fs::{self, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Directory, Harness, assert_code, dataset, label, snapshot, snapshot_names, snapshots};
use super::{volume, volume_names, volumes};
use crate::error::Code;
use crate::label::{Labels, Selector};
use crate::listing::Listing;

/// A new volume can be entered by its owner alone.
pub async fn a_new_volume_is_its_owners_alone(h: &Directory) {
    let made = h.store().create_volume(&volume("a"), &Labels::new()).await.unwrap();
    assert_eq!(fs::metadata(&made.path).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(made.path, h.root().canonicalize().unwrap().join("volumes/a"));
}

/// What a clone must keep of a file.
#[derive(Debug, PartialEq)]
struct Kept {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    length: Option<u64>,
    link: Option<std::path::PathBuf>,
}

fn kept(path: &Path) -> Kept {
    let metadata = path.symlink_metadata().unwrap();
    Kept {
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        length: metadata.is_file().then_some(metadata.len()),
        link: fs::read_link(path).ok(),
    }
}

/// A clone keeps owners (as root), modes, times to the nanosecond, and symbolic links wherever they lead; a hole stays one.
pub async fn a_clone_keeps_owners_modes_times_and_links(h: &Directory) {
    let store = h.store();
    let source = store.create_volume(&volume("v"), &Labels::new()).await.unwrap().path;
    fs::create_dir_all(source.join("dir/inner")).unwrap();
    for (file, mode) in
        [("private", 0o600), ("group", 0o640), ("locked", 0o400), ("dir/run", 0o755), ("dir/inner/x", 0o644)]
    {
        fs::write(source.join(file), file).unwrap();
        fs::set_permissions(source.join(file), Permissions::from_mode(mode)).unwrap();
    }
    let hole = fs::File::create(source.join("hole")).unwrap();
    hole.set_len(16 << 20).unwrap();
    symlink("private", source.join("link")).unwrap();
    symlink("/nowhere/at/all", source.join("dangling")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    drop(socket);
    if rustix::process::geteuid().is_root() {
        for file in ["private", "dir", "link", "."] {
            std::os::unix::fs::lchown(source.join(file), Some(65534), Some(65533)).unwrap();
        }
    }
    let names =
        ["private", "group", "locked", "dir/run", "dir/inner/x", "hole", "link", "dangling", "dir/inner", "dir", "."];
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_464_266_476, 123_456_789);
    for (name, seconds) in names.iter().zip(0..).filter(|(name, _)| !source.join(name).is_symlink()) {
        let file = fs::File::open(source.join(name)).unwrap();
        file.set_times(FileTimes::new().set_modified(time + Duration::from_secs(seconds))).unwrap();
    }
    fs::set_permissions(source.join("dir/inner"), Permissions::from_mode(0o500)).unwrap();
    let expected: Vec<_> = names.iter().map(|name| kept(&source.join(name))).collect();

    let frozen = store.snapshot(&volume("v"), &snapshot("s@1"), &Labels::new()).await.unwrap();
    let clone = store.clone_snapshot(&snapshot("s@1"), &volume("a"), &Labels::new()).await.unwrap();
    for path in [&frozen.path, &clone.path] {
        for (name, expected) in names.iter().zip(&expected) {
            assert_eq!(kept(&path.join(name)), *expected, "{name}");
        }
        assert!(fs::metadata(path.join("hole")).unwrap().blocks() * 512 < 1 << 20, "the hole was filled");
        assert_eq!(fs::read(path.join("dir/inner/x")).unwrap(), b"dir/inner/x");
    }
    fs::write(clone.path.join("dir/new"), "a clone is writable").unwrap();
    // What its owner may not change is deleted all the same.
    store.delete_volume(&volume("a")).await.unwrap();
    assert!(!clone.path.exists());
}

/// Directories and files without a record are neither listed, cloned nor deleted, and a name they occupy is taken.
pub async fn what_the_store_did_not_make_is_left_alone(h: &Directory) {
    let store = h.store();
    let (foreign, frozen) = (h.root().join("volumes/foreign"), h.root().join("snapshots/foreign@1"));
    for dir in [&foreign, &frozen] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("precious"), "x").unwrap();
    }
    fs::write(h.root().join("volumes/NOTES.json"), "not a record").unwrap();
    fs::write(h.root().join("README"), "x").unwrap();
    fs::create_dir(h.root().join("volumes/.hidden.json")).unwrap();
    assert_eq!(volumes(&*store).await, []);
    assert_eq!(snapshots(&*store).await, []);
    assert_code(store.create_volume(&volume("foreign"), &Labels::new()).await, Code::AlreadyExists);
    assert_code(store.clone_snapshot(&snapshot("foreign@1"), &volume("a"), &Labels::new()).await, Code::NotFound);
    assert_code(store.snapshot(&volume("foreign"), &snapshot("s@1"), &Labels::new()).await, Code::NotFound);
    assert_code(store.set_volume_labels(&volume("foreign"), &Labels::new()).await, Code::NotFound);
    store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    assert_code(store.snapshot(&volume("v"), &snapshot("foreign@1"), &Labels::new()).await, Code::AlreadyExists);
    let store = h.reopen().await;
    store.delete_volume(&volume("foreign")).await.unwrap();
    store.delete_snapshot(&snapshot("foreign@1")).await.unwrap();
    for dir in [&foreign, &frozen] {
        assert_eq!(fs::read(dir.join("precious")).unwrap(), b"x");
    }
    for file in ["volumes/NOTES.json", "volumes/.hidden.json", "README"] {
        assert!(h.root().join(file).exists(), "{file}");
    }
    assert_eq!(volume_names(&volumes(&*store).await), ["v"]);
}

/// A record that cannot be read does not keep the others from being listed; what it belongs to can be deleted.
pub async fn a_garbage_record_hides_nothing_else(h: &Directory) {
    dataset(h).await;
    let bad = h.store().create_volume(&volume("bad"), &Labels::new()).await.unwrap();
    h.store().create_volume(&volume("good"), &Labels::new()).await.unwrap();
    h.store().snapshot(&volume("good"), &snapshot("bad@1"), &Labels::new()).await.unwrap();
    let records = [h.record("volumes", "bad"), h.record("snapshots", "bad@1")];
    let whole = records.each_ref().map(|record| fs::read_to_string(record).unwrap());
    // A new file each time: an old one may have kept its contents in other ways.
    let write = |texts: &[String; 2]| {
        for (record, text) in records.iter().zip(texts) {
            fs::remove_file(record).unwrap();
            fs::write(record, text).unwrap();
        }
    };
    // What a later version wrote, it understands better.
    let later = whole.each_ref().map(|text| text.replacen('{', "{\"format\":2,", 1));
    let garbage =
        ["", "{", "[]", "{\"labels\":{\"A\":\"\"}}", "\u{0}\u{0}\u{0}"].map(|same| [same.to_owned(), same.to_owned()]);
    for garbage in garbage.into_iter().chain([later]) {
        write(&garbage);
        let store = h.reopen().await;
        // Whoever asks is told that there is something, whatever is asked for.
        let all = store.volumes(&Selector::all().with("x", "1")).await.unwrap();
        assert_eq!(unreadable_names(&all), ["bad"], "{garbage:?}");
        assert_code(store.volume(&volume("bad")).await, Code::Backend);
        let told = store.usage().await.unwrap().unreadable;
        assert_eq!(told.iter().map(|what| what.name.as_str()).collect::<Vec<_>>(), ["bad", "bad@1"], "{garbage:?}");
        let frozen = store.snapshots(&Selector::all()).await.unwrap();
        assert_eq!(unreadable_names(&frozen), ["bad@1"], "{garbage:?}");
        assert_eq!(volume_names(&volumes(&*store).await), ["good"], "{garbage:?}");
        assert_eq!(snapshot_names(&frozen.found), ["data@1"], "{garbage:?}");
        assert_code(store.create_volume(&volume("bad"), &Labels::new()).await, Code::AlreadyExists);
        assert_code(store.set_volume_labels(&volume("bad"), &Labels::new()).await, Code::Backend);
        assert!(bad.path.exists(), "data was deleted because of a garbage record");
    }
    write(&whole);
    let store = h.reopen().await;
    assert_eq!(volume_names(&volumes(&*store).await), ["bad", "good"], "as they were");
    assert_eq!(snapshot_names(&snapshots(&*store).await), ["bad@1", "data@1"], "as they were");
    write(&["{".to_owned(), "{".to_owned()]);
    let store = h.reopen().await;
    store.delete_volume(&volume("bad")).await.unwrap();
    store.delete_snapshot(&snapshot("bad@1")).await.unwrap();
    assert!(!bad.path.exists() && !h.record("volumes", "bad").exists());
    store.create_volume(&volume("bad"), &Labels::new()).await.unwrap();
}

fn unreadable_names<T>(listing: &Listing<T>) -> Vec<&str> {
    listing.unreadable.iter().map(|unreadable| unreadable.name.as_str()).collect()
}

/// Data that cannot be looked at, or is not what it was, is told to be there: it is neither incomplete nor removed by whoever opens the store.
pub async fn what_cannot_be_looked_at_is_not_absent(h: &Directory) {
    let made = dataset(h).await;
    h.store().create_volume(&volume("a"), &Labels::new()).await.unwrap();
    let aside = |path: &Path| path.with_file_name(".moved-away");
    for path in [h.root().join("volumes/a"), made.path.clone()] {
        fs::rename(&path, aside(&path)).unwrap();
        // Its kind is another one, and it cannot be followed.
        std::os::unix::fs::symlink(&path, &path).unwrap();
    }
    let store = h.reopen().await;
    let listed = store.volumes(&Selector::all()).await.unwrap();
    assert_eq!((listed.found.len(), unreadable_names(&listed)), (0, vec!["a"]));
    assert_code(store.volume(&volume("a")).await, Code::Backend);
    let frozen = store.snapshots(&Selector::all()).await.unwrap();
    assert_eq!((frozen.found.len(), unreadable_names(&frozen)), (0, vec!["data@1"]));
    assert_code(store.clone_snapshot(&snapshot("data@1"), &volume("b"), &Labels::new()).await, Code::Backend);
    for path in [h.root().join("volumes/a"), made.path.clone()] {
        fs::remove_file(&path).unwrap();
        fs::rename(aside(&path), &path).unwrap();
    }
    let store = h.reopen().await;
    assert_eq!(volume_names(&volumes(&*store).await), ["a"]);
    assert_eq!(snapshots(&*store).await, [made]);
}

/// A volume whose directory is gone is listed as incomplete, so that it is deleted; a snapshot is gone with its directory.
pub async fn a_record_without_data_is_incomplete(h: &Directory) {
    let made = dataset(h).await;
    h.store().create_volume(&volume("a"), &label("x", "1")).await.unwrap();
    // Renaming leaves what no record belongs to, whatever a directory is here.
    fs::rename(h.root().join("volumes/a"), h.root().join("taken-away")).unwrap();
    fs::rename(made.path, h.root().join("snapshots/.taken-away")).unwrap();
    let store = h.reopen().await;
    let listed = volumes(&*store).await;
    assert_eq!(listed.iter().map(|v| (v.name.as_str(), v.complete)).collect::<Vec<_>>(), [("a", false)]);
    assert_eq!(snapshots(&*store).await, []);
    let clone = store.clone_snapshot(&snapshot("data@1"), &volume("b"), &Labels::new()).await;
    assert_code(clone, Code::NotFound);
    store.delete_volume(&volume("a")).await.unwrap();
    assert_eq!(volumes(&*store).await, []);
    assert!(h.root().join("taken-away").exists());
}

/// Whatever a killed deletion had got to, the next one finishes it.
pub async fn a_deletion_that_was_cut_off_can_be_finished(h: &Directory) {
    dataset(h).await;
    let made = h.store().clone_snapshot(&snapshot("data@1"), &volume("a"), &label("x", "1")).await.unwrap();
    // Marked, and half of its files gone.
    h.interrupt_volume(&volume("a")).await;
    fs::remove_file(made.path.join("file")).unwrap();
    let store = h.reopen().await;
    assert!(!volumes(&*store).await[0].complete);
    store.delete_volume(&volume("a")).await.unwrap();
    assert_eq!(volumes(&*store).await, []);
    assert!(!made.path.exists() && !h.record("volumes", "a").exists());
}
