//! Versions of datasets that are being deleted, which takes minutes where copies are plain.

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
