//! What is left when a maker is killed, or its future is dropped.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::{Harness, assert_code, dataset, label, snapshot, snapshots, volume, volume_names, volumes};
use crate::error::Code;
use crate::label::{Labels, Selector};

/// A volume whose maker was killed is listed with its labels as incomplete, is no source of snapshots, and can be deleted.
pub async fn an_interrupted_volume_is_listed_as_incomplete(h: &dyn Harness) {
    dataset(h).await;
    h.store().clone_snapshot(&snapshot("data@1"), &volume("a"), &label("attempt", "1")).await.unwrap();
    h.store().create_volume(&volume("b"), &label("attempt", "2")).await.unwrap();
    h.interrupt_volume(&volume("a")).await;
    let store = h.reopen().await;
    let listed = volumes(&*store).await;
    assert_eq!(volume_names(&listed), ["a", "b"]);
    assert_eq!(listed.iter().map(|v| v.complete).collect::<Vec<_>>(), [false, true]);
    assert_eq!(listed[0].labels, label("attempt", "1"));
    assert_eq!(store.volumes(&Selector::all().with("attempt", "1")).await.unwrap().found, listed[..1]);
    assert_code(store.create_volume(&volume("a"), &Labels::new()).await, Code::AlreadyExists);
    assert_code(store.snapshot(&volume("a"), &snapshot("s@1"), &Labels::new()).await, Code::NotFound);
    store.delete_volume(&volume("a")).await.unwrap();
    assert_eq!(volume_names(&volumes(&*store).await), ["b"]);
    store.create_volume(&volume("a"), &Labels::new()).await.unwrap();
    assert_eq!(h.read(&volume("a"), "file").await, None);
}

/// A snapshot whose maker was killed is not there for the next process, and its name is free.
pub async fn an_interrupted_snapshot_is_gone_after_reopening(h: &dyn Harness) {
    let kept = dataset(h).await;
    let store = h.store();
    store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    store.snapshot(&volume("v"), &snapshot("data@2"), &Labels::new()).await.unwrap();
    h.interrupt_snapshot(&snapshot("data@2")).await;
    assert_eq!(snapshots(&*store).await, std::slice::from_ref(&kept));
    let store = h.reopen().await;
    assert_eq!(snapshots(&*store).await, [kept]);
    let clone = store.clone_snapshot(&snapshot("data@2"), &volume("a"), &Labels::new()).await;
    assert_code(clone, Code::NotFound);
    store.snapshot(&volume("v"), &snapshot("data@2"), &Labels::new()).await.unwrap();
}

/// Polls a future a number of times, waiting a little in between, and drops it. Tells whether it was done.
async fn drop_after(future: impl Future, polls: u32) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        if std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await {
            return true;
        }
        // The moment at which it is dropped should fall anywhere; nothing is waited for.
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    false
}

/// However early a creation is dropped, what it leaves carries its labels and can be deleted, and nothing comes back.
pub async fn a_dropped_creation_leaves_only_what_can_be_found_and_deleted(h: &dyn Harness) {
    let store = h.store();
    dataset(h).await;
    let mine = store.create_volume(&volume("mine"), &label("who", "me")).await.unwrap();
    for polls in 0..24 {
        let name = volume(&format!("a{polls}"));
        let labels = label("attempt", "dropped");
        let done = drop_after(store.clone_snapshot(&snapshot("data@1"), &name, &labels), polls).await;
        let left = volumes(&*store).await;
        assert!(!done || left.iter().any(|v| v.name == name && v.complete), "it was done, and is not there");
        for volume in left.iter().filter(|v| **v != mine) {
            assert_eq!((&volume.name, &volume.labels), (&name, &labels));
        }
        store.delete_volume(&name).await.unwrap();
        assert_eq!(volumes(&*store).await, std::slice::from_ref(&mine));
    }
    assert_eq!(volumes(&*h.reopen().await).await, [mine]);
}

/// However early the making of a snapshot is dropped, either it is whole, or it is not there and its name is free.
pub async fn a_dropped_snapshot_is_whole_or_absent(h: &dyn Harness) {
    let store = h.store();
    store.create_volume(&volume("v"), &Labels::new()).await.unwrap();
    h.write(&volume("v"), "file", b"content").await;
    for polls in 0..16 {
        let name = snapshot(&format!("s@{polls}"));
        drop_after(store.snapshot(&volume("v"), &name, &Labels::new()), polls).await;
        // A deletion of the same name waits for what may still be going on.
        if let Some(made) = snapshots(&*store).await.into_iter().find(|s| s.name == name) {
            assert_eq!(h.read_snapshot(&made.name, "file").await.as_deref(), Some(&b"content"[..]));
        }
        store.delete_snapshot(&name).await.unwrap();
        assert_eq!(snapshots(&*store).await, []);
        store.snapshot(&volume("v"), &name, &Labels::new()).await.unwrap();
        store.delete_snapshot(&name).await.unwrap();
    }
    assert_eq!(snapshots(&*h.reopen().await).await, []);
}

/// A volume deleted right after its creation was dropped does not come back when that creation's work ends.
pub async fn a_deletion_after_a_dropped_creation_is_final(h: &dyn Harness) {
    let store = h.store();
    dataset(h).await;
    let names: Vec<_> = (0..32).map(|i| volume(&format!("a{i}"))).collect();
    for name in &names {
        drop_after(store.clone_snapshot(&snapshot("data@1"), name, &Labels::new()), 1).await;
        store.delete_volume(name).await.unwrap();
    }
    // A second deletion of each takes its turn after everything that was begun on the name.
    for name in &names {
        store.delete_volume(name).await.unwrap();
    }
    assert_eq!(volumes(&*store).await, []);
    assert_eq!(volumes(&*h.reopen().await).await, []);
}
