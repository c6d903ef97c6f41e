//! The contract of [`SnapshotStore`] as tests.
//!
//! ```text
//! ondemand_core::store_conformance!(my_store, MyHarness::new().await);
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::error::{Code, Error};
use crate::label::{Labels, Selector};
use crate::name::{SnapshotName, VolumeName};
use crate::snapshot::{Snapshot, SnapshotStore, Volume};

mod directory;
mod files;
mod interruptions;

pub use directory::Directory;
pub use files::*;
pub use interruptions::*;

/// A store with nothing in it, and what only its maker can do with it.
#[async_trait]
pub trait Harness: Send + Sync {
    /// Returns the store. After [`Harness::reopen`] it is not used any more.
    fn store(&self) -> Arc<dyn SnapshotStore>;

    /// Opens the same state again, as the next process would.
    async fn reopen(&self) -> Arc<dyn SnapshotStore>;

    /// Writes a file in a volume.
    async fn write(&self, volume: &VolumeName, file: &str, content: &[u8]);

    /// Reads a file of a volume.
    async fn read(&self, volume: &VolumeName, file: &str) -> Option<Vec<u8>>;

    /// Reads a file of a snapshot.
    async fn read_snapshot(&self, snapshot: &SnapshotName, file: &str) -> Option<Vec<u8>>;

    /// Makes a volume look as if its maker had been killed before it was done.
    async fn interrupt_volume(&self, volume: &VolumeName);

    /// Makes a snapshot look as if its maker had been killed before it was done.
    async fn interrupt_snapshot(&self, snapshot: &SnapshotName);
}

/// Expands to a module with one test for each behaviour that any store has.
#[macro_export]
macro_rules! store_conformance {
    ($module:ident, $harness:expr) => {
        $crate::store_conformance! { @tests $module, $harness,
            a_new_volume_is_empty_and_listed
            volumes_are_listed_in_order_and_chosen_by_label
            snapshots_are_listed_in_order_and_chosen_by_label
            labels_are_replaced
            a_volume_is_found_by_its_name
            what_is_there_is_listed_while_it_is_changed
            a_taken_volume_name_is_refused_and_the_first_stays
            a_taken_snapshot_name_is_refused_and_the_first_stays
            of_racing_creations_one_wins
            a_clone_shares_contents_and_no_writes
            a_snapshot_does_not_follow_its_volume
            a_volume_outlives_its_snapshot
            a_snapshot_outlives_its_volume
            a_snapshot_keeps_its_record
            deleting_is_idempotent_and_lasts
            deleting_at_once_succeeds_for_all
            a_name_can_be_used_again
            what_is_unknown_is_not_found_and_leaves_nothing
            usage_lists_what_there_is
            many_clones_at_once
            all_is_there_after_reopening
            an_interrupted_volume_is_listed_as_incomplete
            an_interrupted_snapshot_is_gone_after_reopening
            a_dropped_creation_leaves_only_what_can_be_found_and_deleted
            a_dropped_snapshot_is_whole_or_absent
            a_deletion_after_a_dropped_creation_is_final
        }
    };
    (@tests $module:ident, $harness:expr, $($behaviour:ident)*) => {
        mod $module {
            #[allow(unused_imports, reason = "the harness may need none of them")]
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $behaviour() {
                    let harness = $harness;
                    $crate::conformance::store::$behaviour(&harness).await;
                }
            )*
        }
    };
}

/// Expands to a module with one test for each behaviour of stores whose volumes are real directories.
#[macro_export]
macro_rules! directory_store_conformance {
    ($module:ident, $harness:expr) => {
        $crate::store_conformance! { @tests $module, $harness,
            a_new_volume_is_its_owners_alone
            a_clone_keeps_owners_modes_times_and_links
            what_the_store_did_not_make_is_left_alone
            a_garbage_record_hides_nothing_else
            what_cannot_be_looked_at_is_not_absent
            a_record_without_data_is_incomplete
            a_deletion_that_was_cut_off_can_be_finished
        }
    };
}

/// Makes a volume's name.
pub(super) fn volume(name: &str) -> VolumeName {
    VolumeName::new(name).unwrap()
}

/// Makes a snapshot's name.
pub(super) fn snapshot(name: &str) -> SnapshotName {
    SnapshotName::new(name).unwrap()
}

/// Makes a set of one label.
pub(super) fn label(key: &str, value: &str) -> Labels {
    Labels::new().with(key, value).unwrap()
}

pub(super) async fn volumes(store: &dyn SnapshotStore) -> Vec<Volume> {
    store.volumes(&Selector::all()).await.unwrap().found
}

pub(super) async fn snapshots(store: &dyn SnapshotStore) -> Vec<Snapshot> {
    store.snapshots(&Selector::all()).await.unwrap().found
}

pub(super) fn volume_names(volumes: &[Volume]) -> Vec<&str> {
    volumes.iter().map(|v| v.name.as_str()).collect()
}

pub(super) fn snapshot_names(snapshots: &[Snapshot]) -> Vec<&str> {
    snapshots.iter().map(|s| s.name.as_str()).collect()
}

#[track_caller]
pub(super) fn assert_code<T: std::fmt::Debug>(result: Result<T, Error>, code: Code) {
    match result {
        Err(error) => assert_eq!(error.code(), code, "{error:?}"),
        Ok(value) => panic!("expected {code}, got {value:?}"),
    }
}

/// Makes the snapshot `data@1`, which holds `file` = `content`.
pub(super) async fn dataset(h: &dyn Harness) -> Snapshot {
    let store = h.store();
    store.create_volume(&volume("origin"), &Labels::new()).await.unwrap();
    h.write(&volume("origin"), "file", b"content").await;
    let made = store.snapshot(&volume("origin"), &snapshot("data@1"), &label("of", "origin")).await.unwrap();
    store.delete_volume(&volume("origin")).await.unwrap();
    made
}

/// A new volume is complete, empty, and listed as it was returned.
pub async fn a_new_volume_is_empty_and_listed(h: &dyn Harness) {
    let store = h.store();
    assert_eq!(volumes(&*store).await, []);
    let before = OffsetDateTime::now_utc();
    let made = store.create_volume(&volume("a"), &label("x", "1")).await.unwrap();
    assert_eq!((made.name.as_str(), &made.snapshot, made.complete), ("a", &None, true));
    assert_eq!(made.labels, label("x", "1"));
    assert!(made.path.is_absolute(), "{}", made.path.display());
    assert!(made.created >= before && made.created <= OffsetDateTime::now_utc(), "{}", made.created);
    assert_eq!(volumes(&*store).await, [made]);
    assert_eq!(h.read(&volume("a"), "file").await, None);
    assert_eq!(snapshots(&*store).await, []);
}

/// Volumes are listed in the order of their names; a selector narrows the list.
pub async fn volumes_are_listed_in_order_and_chosen_by_label(h: &dyn Harness) {
    let store = h.store();
    for (name, value) in [("b", "1"), ("c", "2"), ("a-1", "1"), ("a", "2")] {
        store.create_volume(&volume(name), &label("x", value).with("all", "yes").unwrap()).await.unwrap();
    }
    assert_eq!(volume_names(&volumes(&*store).await), ["a", "a-1", "b", "c"]);
    let chosen = async |selector: Selector| store.volumes(&selector).await.unwrap().found;
    assert_eq!(volume_names(&chosen(Selector::all().with("x", "1")).await), ["a-1", "b"]);
    assert_eq!(volume_names(&chosen(Selector::all().with("x", "2").with("all", "yes")).await), ["a", "c"]);
    assert_eq!(chosen(Selector::all().with("x", "2").with("all", "no")).await, []);
    assert_eq!(chosen(Selector::all().with("y", "")).await, []);
}

/// Snapshots are listed in the order of their names; a selector narrows the list.
pub async fn snapshots_are_listed_in_order_and_chosen_by_label(h: &dyn Harness) {
    let store = h.store();
    store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    for (name, value) in [("p@2", "1"), ("p@1", "2"), ("o@3", "1")] {
        store.snapshot(&volume("v"), &snapshot(name), &label("x", value)).await.unwrap();
    }
    assert_eq!(snapshot_names(&snapshots(&*store).await), ["o@3", "p@1", "p@2"]);
    let chosen = store.snapshots(&Selector::all().with("x", "1")).await.unwrap().found;
    assert_eq!(snapshot_names(&chosen), ["o@3", "p@2"]);
}

/// A volume is found by its name as it is listed, whether it is complete or not; no name but its own leads to it.
pub async fn a_volume_is_found_by_its_name(h: &dyn Harness) {
    let store = h.store();
    let made = store.create_volume(&volume("a"), &label("x", "1")).await.unwrap();
    store.create_volume(&volume("a-1"), &Labels::new()).await.unwrap();
    assert_eq!(store.volume(&volume("a")).await.unwrap(), Some(made.clone()));
    h.interrupt_volume(&volume("a")).await;
    let store = h.reopen().await;
    assert_eq!(store.volume(&volume("a")).await.unwrap(), Some(Volume { complete: false, ..made }));
    store.delete_volume(&volume("a")).await.unwrap();
    assert_eq!(store.volume(&volume("a")).await.unwrap(), None);
}

/// Every listing has all that is there while it is made, also what is being changed.
pub async fn what_is_there_is_listed_while_it_is_changed(h: &dyn Harness) {
    let names: Vec<_> = (0..12).map(|n| volume(&format!("v{n:02}"))).collect();
    for name in &names {
        h.store().create_volume(name, &Labels::new()).await.unwrap();
    }
    let (rounds, mut seen) = watch::channel(0_u64);
    let changing = {
        let (store, names) = (h.store(), names.clone());
        tokio::spawn(async move {
            // Until nobody looks any more.
            while !rounds.is_closed() {
                let labels = label("round", &rounds.borrow().to_string());
                for name in &names {
                    store.set_volume_labels(name, &labels).await.unwrap();
                }
                rounds.send_modify(|round| *round += 1);
            }
        })
    };
    seen.wait_for(|round| *round > 0).await.unwrap();
    // One listing in 25 lacked a name where BTRFS had its records replaced meanwhile.
    let mut listings = 0;
    while listings < 300 || *seen.borrow() < 10 {
        let found = h.store().volumes(&Selector::all()).await.unwrap();
        assert_eq!(volume_names(&found.found), names.iter().map(VolumeName::as_str).collect::<Vec<_>>());
        assert!(found.is_complete(), "{:?}", found.unreadable);
        listings += 1;
    }
    drop(seen);
    changing.await.unwrap();
}

/// New labels take the place of all old ones, at once and for the next process, and change nothing else.
pub async fn labels_are_replaced(h: &dyn Harness) {
    let store = h.store();
    let made = store.create_volume(&volume("a"), &label("old", "1").with("both", "1").unwrap()).await.unwrap();
    let other = store.create_volume(&volume("b"), &label("old", "1")).await.unwrap();
    let new = label("new", "é \"2\"\\").with("both", "2").unwrap();
    store.set_volume_labels(&volume("a"), &new).await.unwrap();
    let expected = [Volume { labels: new, ..made }, other];
    assert_eq!(volumes(&*store).await, expected);
    assert_code(store.set_volume_labels(&volume("c"), &Labels::new()).await, Code::NotFound);
    let [mut first, other] = expected;
    first.labels = label("newer", "3");
    store.set_volume_labels_soon(&volume("a"), &first.labels).await.unwrap();
    let expected = [first, other];
    assert_eq!(volumes(&*store).await, expected);
    assert_code(store.set_volume_labels_soon(&volume("c"), &Labels::new()).await, Code::NotFound);
    let epoch = store.epoch().await.ok();
    drop(store);
    let store = h.reopen().await;
    assert_eq!(volumes(&*store).await, expected);
    assert_eq!(store.epoch().await.ok(), epoch, "nothing was lost, as no power failed");
}

/// A second volume of a name is refused, however it is made; the first keeps its labels and its contents.
pub async fn a_taken_volume_name_is_refused_and_the_first_stays(h: &dyn Harness) {
    let store = h.store();
    dataset(h).await;
    let first = store.create_volume(&volume("a"), &label("who", "first")).await.unwrap();
    h.write(&volume("a"), "mine", b"first").await;
    assert_code(store.create_volume(&volume("a"), &label("who", "second")).await, Code::AlreadyExists);
    let clone = store.clone_snapshot(&snapshot("data@1"), &volume("a"), &label("who", "third")).await;
    assert_code(clone, Code::AlreadyExists);
    assert_eq!(volumes(&*store).await, [first]);
    assert_eq!(h.read(&volume("a"), "mine").await.as_deref(), Some(&b"first"[..]));
    assert_eq!(h.read(&volume("a"), "file").await, None);
}

/// A second snapshot of a name is refused; the first keeps its labels and its contents.
pub async fn a_taken_snapshot_name_is_refused_and_the_first_stays(h: &dyn Harness) {
    let store = h.store();
    let first = dataset(h).await;
    store.create_volume(&volume("a"), &Labels::new()).await.unwrap();
    h.write(&volume("a"), "file", b"other").await;
    let second = store.snapshot(&volume("a"), &snapshot("data@1"), &label("who", "second")).await;
    assert_code(second, Code::AlreadyExists);
    assert_eq!(snapshots(&*store).await, [first]);
    assert_eq!(h.read_snapshot(&snapshot("data@1"), "file").await.as_deref(), Some(&b"content"[..]));
}

/// Of many that make one volume at once, one succeeds, and what is there is what it made.
pub async fn of_racing_creations_one_wins(h: &dyn Harness) {
    dataset(h).await;
    let racers = (0..8).map(|i| {
        let store = h.store();
        tokio::spawn(async move {
            let labels = label("who", &i.to_string());
            if i % 2 == 0 {
                store.create_volume(&volume("a"), &labels).await
            } else {
                store.clone_snapshot(&snapshot("data@1"), &volume("a"), &labels).await
            }
        })
    });
    let mut won = Vec::new();
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.unwrap() {
            Ok(made) => won.push(made),
            Err(error) => assert_eq!(error.code(), Code::AlreadyExists, "{error:?}"),
        }
    }
    assert_eq!(won.len(), 1, "{won:?}");
    assert_eq!(volumes(&*h.store()).await, won);
    let cloned = won[0].snapshot.is_some();
    assert_eq!(h.read(&volume("a"), "file").await.is_some(), cloned);
}

/// A clone holds what the snapshot holds; what is written to it is seen neither in the snapshot nor in another clone.
pub async fn a_clone_shares_contents_and_no_writes(h: &dyn Harness) {
    let store = h.store();
    dataset(h).await;
    for name in ["a", "b"] {
        let clone = store.clone_snapshot(&snapshot("data@1"), &volume(name), &label("n", name)).await.unwrap();
        assert_eq!((clone.snapshot, clone.complete), (Some(snapshot("data@1")), true));
        assert_eq!(clone.labels, label("n", name));
        assert_eq!(h.read(&volume(name), "file").await.as_deref(), Some(&b"content"[..]));
    }
    h.write(&volume("a"), "file", b"changed").await;
    h.write(&volume("a"), "new", b"new").await;
    assert_eq!(h.read(&volume("b"), "file").await.as_deref(), Some(&b"content"[..]));
    assert_eq!(h.read(&volume("b"), "new").await, None);
    assert_eq!(h.read_snapshot(&snapshot("data@1"), "file").await.as_deref(), Some(&b"content"[..]));
    assert_eq!(h.read_snapshot(&snapshot("data@1"), "new").await, None);
    store.clone_snapshot(&snapshot("data@1"), &volume("c"), &Labels::new()).await.unwrap();
    assert_eq!(h.read(&volume("c"), "file").await.as_deref(), Some(&b"content"[..]));
}

/// What is written to a volume after its snapshot is not in the snapshot.
pub async fn a_snapshot_does_not_follow_its_volume(h: &dyn Harness) {
    let store = h.store();
    store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    h.write(&volume("v"), "file", b"one").await;
    store.snapshot(&volume("v"), &snapshot("s@1"), &Labels::new()).await.unwrap();
    h.write(&volume("v"), "file", b"two").await;
    store.snapshot(&volume("v"), &snapshot("s@2"), &Labels::new()).await.unwrap();
    assert_eq!(h.read_snapshot(&snapshot("s@1"), "file").await.as_deref(), Some(&b"one"[..]));
    assert_eq!(h.read_snapshot(&snapshot("s@2"), "file").await.as_deref(), Some(&b"two"[..]));
    assert_eq!(h.read(&volume("v"), "file").await.as_deref(), Some(&b"two"[..]));
}

/// A volume keeps its contents, and the name of its snapshot, when the snapshot is deleted.
pub async fn a_volume_outlives_its_snapshot(h: &dyn Harness) {
    let store = h.store();
    dataset(h).await;
    let clone = store.clone_snapshot(&snapshot("data@1"), &volume("a"), &Labels::new()).await.unwrap();
    store.delete_snapshot(&snapshot("data@1")).await.unwrap();
    assert_eq!(snapshots(&*store).await, []);
    assert_eq!(volumes(&*store).await, [clone]);
    assert_eq!(h.read(&volume("a"), "file").await.as_deref(), Some(&b"content"[..]));
    h.write(&volume("a"), "file", b"still writable").await;
    assert_eq!(h.read(&volume("a"), "file").await.as_deref(), Some(&b"still writable"[..]));
    let store = h.reopen().await;
    let late = store.clone_snapshot(&snapshot("data@1"), &volume("b"), &Labels::new()).await;
    assert_code(late, Code::NotFound);
}

/// A snapshot keeps its contents when the volume it was made of is deleted.
pub async fn a_snapshot_outlives_its_volume(h: &dyn Harness) {
    let made = dataset(h).await;
    let store = h.reopen().await;
    assert_eq!(volumes(&*store).await, []);
    assert_eq!(snapshots(&*store).await, [made]);
    assert_eq!(h.read_snapshot(&snapshot("data@1"), "file").await.as_deref(), Some(&b"content"[..]));
}

/// A snapshot is listed as it was returned, whatever becomes of its volume.
pub async fn a_snapshot_keeps_its_record(h: &dyn Harness) {
    let store = h.store();
    store.create_volume(&volume("v"), &label("x", "volume")).await.unwrap();
    let made = store.snapshot(&volume("v"), &snapshot("s@1"), &label("x", "snapshot")).await.unwrap();
    assert_eq!((made.name.as_str(), &made.labels), ("s@1", &label("x", "snapshot")));
    store.set_volume_labels(&volume("v"), &label("x", "changed")).await.unwrap();
    assert_eq!(snapshots(&*store).await, std::slice::from_ref(&made));
    assert_eq!(snapshots(&*h.reopen().await).await, [made]);
}

/// Deleting succeeds however often; what is deleted stays so for the next process, and nothing else is touched.
pub async fn deleting_is_idempotent_and_lasts(h: &dyn Harness) {
    let store = h.store();
    let kept = dataset(h).await;
    for name in ["a", "b"] {
        store.clone_snapshot(&snapshot("data@1"), &volume(name), &Labels::new()).await.unwrap();
    }
    store.snapshot(&volume("a"), &snapshot("data@2"), &Labels::new()).await.unwrap();
    for _ in 0..2 {
        store.delete_volume(&volume("a")).await.unwrap();
        store.delete_snapshot(&snapshot("data@2")).await.unwrap();
        store.delete_volume(&volume("never")).await.unwrap();
        store.delete_snapshot(&snapshot("never")).await.unwrap();
    }
    for store in [Arc::clone(&store), h.reopen().await] {
        assert_eq!(volume_names(&volumes(&*store).await), ["b"]);
        assert_eq!(snapshots(&*store).await, std::slice::from_ref(&kept));
    }
    assert_eq!(h.read(&volume("b"), "file").await.as_deref(), Some(&b"content"[..]));
}

/// All that delete one thing at once succeed.
pub async fn deleting_at_once_succeeds_for_all(h: &dyn Harness) {
    let store = h.store();
    dataset(h).await;
    store.clone_snapshot(&snapshot("data@1"), &volume("a"), &Labels::new()).await.unwrap();
    let deletions = (0..8).map(|_| {
        let store = h.store();
        tokio::spawn(async move {
            store.delete_volume(&volume("a")).await?;
            store.delete_snapshot(&snapshot("data@1")).await
        })
    });
    for deletion in deletions.collect::<Vec<_>>() {
        deletion.await.unwrap().unwrap();
    }
    assert_eq!(volumes(&*store).await, []);
    assert_eq!(snapshots(&*store).await, []);
}

/// A deleted thing's name is free, and its successor has nothing of it.
pub async fn a_name_can_be_used_again(h: &dyn Harness) {
    let store = h.store();
    store.create_volume(&volume("a"), &label("x", "1")).await.unwrap();
    h.write(&volume("a"), "file", b"old").await;
    store.snapshot(&volume("a"), &snapshot("s@1"), &label("x", "1")).await.unwrap();
    store.delete_volume(&volume("a")).await.unwrap();
    store.delete_snapshot(&snapshot("s@1")).await.unwrap();
    let again = store.create_volume(&volume("a"), &label("y", "2")).await.unwrap();
    let snap = store.snapshot(&volume("a"), &snapshot("s@1"), &label("y", "2")).await.unwrap();
    assert_eq!(volumes(&*store).await, [again]);
    assert_eq!(snapshots(&*store).await, [snap]);
    assert_eq!(h.read(&volume("a"), "file").await, None);
    assert_eq!(h.read_snapshot(&snapshot("s@1"), "file").await, None);
}

/// Cloning an unknown snapshot, or taking one of an unknown volume, fails and leaves no name behind.
pub async fn what_is_unknown_is_not_found_and_leaves_nothing(h: &dyn Harness) {
    let store = h.store();
    let clone = store.clone_snapshot(&snapshot("none@1"), &volume("a"), &Labels::new()).await;
    assert_code(clone, Code::NotFound);
    assert_code(store.snapshot(&volume("none"), &snapshot("s@1"), &Labels::new()).await, Code::NotFound);
    assert_eq!(volumes(&*store).await, []);
    assert_eq!(snapshots(&*store).await, []);
    store.create_volume(&volume("a"), &Labels::new()).await.unwrap();
    store.snapshot(&volume("a"), &snapshot("s@1"), &Labels::new()).await.unwrap();
}

/// Usage names every volume and snapshot, and its numbers fit together.
pub async fn usage_lists_what_there_is(h: &dyn Harness) {
    let store = h.store();
    dataset(h).await;
    for name in ["a", "b"] {
        store.clone_snapshot(&snapshot("data@1"), &volume(name), &Labels::new()).await.unwrap();
    }
    store.sync().await.unwrap();
    let usage = store.usage().await.unwrap();
    assert_eq!(usage.volumes.keys().map(VolumeName::as_str).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(usage.snapshots.keys().map(SnapshotName::as_str).collect::<Vec<_>>(), ["data@1"]);
    assert!(!usage.method.is_empty());
    assert!(usage.total > 0, "{usage:?}");
    assert!(usage.used <= usage.total && usage.free <= usage.total, "{usage:?}");
    for bytes in usage.volumes.values().chain(usage.snapshots.values()).flatten() {
        assert!(*bytes <= usage.total, "{usage:?}");
    }
}

/// Clones made at once are all there, each whole.
pub async fn many_clones_at_once(h: &dyn Harness) {
    let store = h.store();
    dataset(h).await;
    let clones = (0..32).map(|i| {
        let store = h.store();
        let name = volume(&format!("c{i:02}"));
        tokio::spawn(async move { store.clone_snapshot(&snapshot("data@1"), &name, &label("i", &i.to_string())).await })
    });
    let mut made = Vec::new();
    for clone in clones.collect::<Vec<_>>() {
        made.push(clone.await.unwrap().unwrap());
    }
    assert_eq!(volumes(&*store).await, made);
    let paths: std::collections::BTreeSet<PathBuf> = made.iter().map(|v| v.path.clone()).collect();
    assert_eq!(paths.len(), 32);
    for clone in &made {
        assert_eq!(h.read(&clone.name, "file").await.as_deref(), Some(&b"content"[..]), "{}", clone.name);
    }
    let deletions = made.into_iter().map(|clone| {
        let store = h.store();
        tokio::spawn(async move { store.delete_volume(&clone.name).await })
    });
    for deletion in deletions.collect::<Vec<_>>() {
        deletion.await.unwrap().unwrap();
    }
    assert_eq!(volumes(&*store).await, []);
}

/// Everything is the same for the next process.
pub async fn all_is_there_after_reopening(h: &dyn Harness) {
    let store = h.store();
    dataset(h).await;
    store.create_volume(&volume("a"), &label("x", "1")).await.unwrap();
    store.clone_snapshot(&snapshot("data@1"), &volume("b"), &label("x", "2")).await.unwrap();
    store.sync().await.unwrap();
    let before = (volumes(&*store).await, snapshots(&*store).await);
    let store = h.reopen().await;
    assert_eq!((volumes(&*store).await, snapshots(&*store).await), before);
    assert_eq!(h.read(&volume("b"), "file").await.as_deref(), Some(&b"content"[..]));
    assert_code(store.create_volume(&volume("a"), &Labels::new()).await, Code::AlreadyExists);
}
