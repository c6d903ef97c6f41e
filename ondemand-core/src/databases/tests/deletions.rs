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
    world.plan.on("delete_snapshot", 1, Fault::Stall);
    let newest = version(NEWEST);
    let mut deletion = Box::pin(datasets.delete(&newest));
    tokio::select! {
        _ = world.plan.reached("delete_snapshot", 1) => {}
        deleted = &mut deletion => panic!("{deleted:?}"),
    }
    // The newest that is left.
    let made = world.create().await.unwrap();
    assert_eq!(made.version.to_string(), OLDER);
    let refused = create(&world, &version(NEWEST)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    // It is given up: the version is there, whole, and can be used and deleted.
    drop(deletion);
    let again = create(&world, &version(NEWEST)).await.unwrap();
    assert_eq!(datasets.delete(&version(NEWEST)).await.unwrap_err().code(), Code::Conflict);
    world.databases.delete(&again.id).await.unwrap();
    datasets.delete(&version(NEWEST)).await.unwrap();
    assert_eq!(create(&world, &version(NEWEST)).await.unwrap_err().code(), Code::NotFound);
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
