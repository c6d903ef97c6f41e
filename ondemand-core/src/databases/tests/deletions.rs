//! Deletions that take long: of databases, and of versions of datasets, which takes minutes where copies are plain.

use super::*;

const OLDER: &str = "20261121-192300";
const NEWEST: &str = "20261122-192300";

fn version(version: &str) -> DatasetRef {
    format!("production@{version}").parse().unwrap()
}

async fn create(world: &World, dataset: &DatasetRef) -> Result<Database> {
    world.databases.create(CreateOptions { dataset: Some(dataset.clone()), ..CreateOptions::default() }).await
}

#[tokio::test]
async fn what_is_created_waits_for_no_deletion() {
    let world = World::new().await;
    add_version(&world.store, OLDER).await;
    let datasets = world.databases.inner.datasets.clone();
    // Two who delete the same, and one of them fails soon: the other goes on.
    world.plan.on("delete_snapshot", 1, Fault::fail_before(|| Error::backend("fake", "deleting", "on purpose")));
    world.plan.on("delete_snapshot", 2, Fault::Stall);
    let delete = || {
        let datasets = datasets.clone();
        tokio::spawn(async move { datasets.delete(&version(NEWEST)).await })
    };
    let (one, other) = (delete(), delete());
    world.plan.reached("delete_snapshot", 2).await;
    one.await.unwrap().unwrap_err();
    assert!(!other.is_finished());
    // The newest that is left.
    let made = world.create().await.unwrap();
    assert_eq!(made.version.to_string(), OLDER);
    let refused = create(&world, &version(NEWEST)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    // Whoever asked for it is gone, and it goes on.
    other.abort();
    assert!(other.await.unwrap_err().is_cancelled());
    assert_eq!(create(&world, &version(NEWEST)).await.unwrap_err().code(), Code::NotFound);
    datasets.delete(&version(NEWEST)).await.unwrap();
    assert_eq!(datasets.get(&version(NEWEST).dataset).await.unwrap().versions.len(), 1);
}

#[tokio::test]
async fn a_version_that_a_database_is_being_made_of_is_not_deleted() {
    let world = World::new().await;
    let datasets = world.databases.inner.datasets.clone();
    world.plan.on("clone_snapshot", 1, Fault::Delay(Duration::from_millis(50)));
    let (made, deleted) = tokio::join!(world.create(), async {
        world.plan.reached("clone_snapshot", 1).await;
        datasets.delete(&version(NEWEST)).await
    });
    assert_eq!(deleted.unwrap_err().code(), Code::Conflict);
    assert_eq!(made.unwrap().version.to_string(), NEWEST);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_hangs_keeps_nothing_else_waiting() {
    let world = World::new().await;
    for _ in 0..6 {
        let database = world.create().await.unwrap();
        expire(&world, &database.id).await;
    }
    world.plan.on("remove", world.plan.count("remove") + 1, Fault::Stall);
    let report = world.reconcile().await;
    assert_eq!((report.reaped.len(), report.failed.len()), (5, 1), "{report:?}");
    assert!(report.failed[0].contains("it goes on"), "{report:?}");
    // Later rounds do not wait for it again, and others are served.
    let begun = tokio::time::Instant::now();
    let other = world.create().await.unwrap();
    assert_eq!(world.reconcile().await, Report::default());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(world.databases.get(&other.id).await.unwrap().state, DatabaseState::Running);
}

/// What dead attempts left.
#[tokio::test(start_paused = true)]
async fn a_removal_that_hangs_keeps_nothing_else_waiting() {
    let mut world = World::new().await;
    for _ in 0..6 {
        let database = world.create().await.unwrap();
        let dead = Record { state: State::Deleting, ..world.record(&database.id) };
        world.databases.inner.write(&dead).await.unwrap();
    }
    world.crash();
    world.plan.on("remove", world.plan.count("remove") + 1, Fault::Stall);
    let report = world.reconcile().await;
    assert_eq!((report.removed.len(), report.failed.len()), (5, 1), "{report:?}");
    let begun = tokio::time::Instant::now();
    let (calls, report) = (world.plan.count("remove"), world.reconcile().await);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(report.failed.len() == 1 && report.failed[0].contains("has not ended"), "{report:?}");
    assert_eq!(world.plan.count("remove"), calls, "it was begun a second time");
}
