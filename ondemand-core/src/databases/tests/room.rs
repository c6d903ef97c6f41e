//! A store that is short of space, or was.

use super::*;

#[tokio::test]
async fn new_work_is_refused_before_the_store_is_full() {
    let world = World::new().await;
    let database = world.create().await.unwrap();
    world.store.set_short(true);
    let calls = world.plan.count("clone_snapshot");
    for refused in [
        world.create().await.unwrap_err(),
        world.databases.reset(&database.id).await.unwrap_err(),
        publish(&world, &database.id).await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::OutOfSpace, "{refused:?}");
    }
    assert_eq!(world.plan.count("clone_snapshot"), calls, "something was begun");
    assert_eq!(world.databases.get(&database.id).await.unwrap().state, DatabaseState::Running);
    // What makes room, and what takes none, goes on.
    world.databases.extend(&database.id, "2d".parse().unwrap()).await.unwrap();
    world.reconcile().await;
    world.databases.delete(&database.id).await.unwrap();
    world.store.set_short(false);
    world.create().await.unwrap();
}

#[tokio::test]
async fn what_fails_while_the_store_is_short_failed_for_that() {
    let world = World::new().await;
    let database = world.create().await.unwrap();
    let failed = || Error::backend("postgres", "trying the password", "could not write init file");
    let fails = |short: bool| {
        let store = world.store.clone();
        let fault = Fault::fail_before(move || {
            store.set_short(short);
            failed()
        });
        world.plan.on("deploy", world.plan.count("deploy") + 1, fault);
    };
    fails(false);
    assert_eq!(world.create().await.unwrap_err().code(), Code::Backend);
    fails(true);
    assert_eq!(world.create().await.unwrap_err().code(), Code::OutOfSpace);
    world.store.set_short(false);
    fails(true);
    assert_eq!(world.databases.reset(&database.id).await.unwrap_err().code(), Code::OutOfSpace);
    world.store.set_short(false);
    assert_eq!(world.databases.get(&database.id).await.unwrap().state, DatabaseState::Running);
}

async fn publish(world: &World, id: &DatabaseId) -> Result<DatasetSnapshot> {
    let dataset = "next".parse().unwrap();
    world.databases.publish(id, &dataset, PublishOptions::default(), crate::progress::silent()).await
}

#[tokio::test]
async fn a_store_that_went_read_only_is_revived_and_its_databases_started() {
    let world = World::new().await;
    let databases = [world.create().await.unwrap(), world.create().await.unwrap()];
    world.store.set_read_only();
    let refused = world.create().await.unwrap_err();
    assert!(matches!(refused, Error::ReadOnly { .. }), "{refused:?}");
    let deployed = world.orchestrator.ever_deployed().len();
    let report = world.reconcile().await;
    assert_eq!(world.store.revivals(), 1);
    let mut restarted = report.restarted.clone();
    restarted.sort();
    let mut ids = databases.clone().map(|database| database.id.to_string());
    ids.sort();
    assert_eq!((restarted, report.removed.len(), report.failed.len()), (ids.to_vec(), 0, 0), "{report:?}");
    assert_eq!(world.orchestrator.ever_deployed().len(), deployed + 2, "a server that could write nothing ran on");
    for database in &databases {
        assert_eq!(world.databases.get(&database.id).await.unwrap(), *database);
    }
    assert_eq!(world.reconcile().await, Report::default());
    assert_eq!(world.store.revivals(), 1);
}

#[tokio::test]
async fn nothing_is_forgotten_while_a_store_cannot_be_revived() {
    let world = World::new().await;
    let database = world.create().await.unwrap();
    world.store.set_read_only();
    let in_use = || Error::Conflict { message: "it is in use".into(), hint: String::new() };
    world.plan.on("revive", world.plan.count("revive") + 1, Fault::fail_before(in_use));
    let mut report = Report::default();
    let failed = world.databases.reconcile(&mut report).await.unwrap_err();
    assert_eq!((failed.code(), report), (Code::Conflict, Report::default()));
    assert_eq!(world.databases.list().await.unwrap().len(), 1);
    world.reconcile().await;
    assert_eq!(world.databases.get(&database.id).await.unwrap(), database);
}

#[tokio::test]
async fn nothing_is_ended_where_the_store_stays_read_only() {
    let world = World::new().await;
    let database = world.create().await.unwrap();
    world.store.set_read_only_for_good();
    let failed = world.databases.reconcile(&mut Report::default()).await.unwrap_err();
    assert!(matches!(failed, Error::ReadOnly { .. }), "{failed:?}");
    assert_eq!((world.plan.count("remove"), world.plan.count("revive")), (0, 0));
    assert_eq!(world.databases.get(&database.id).await.unwrap(), database);
}
