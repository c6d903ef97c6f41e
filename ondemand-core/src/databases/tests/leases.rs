//! Databases on leases.

use super::*;
use crate::databases::Lease;
use crate::name::LeaseId;

fn lease(digit: char) -> LeaseId {
    LeaseId::new(digit.to_string().repeat(32)).unwrap()
}

impl World {
    async fn create_on(&self, lease: &LeaseId) -> Result<Database> {
        self.databases.create(CreateOptions::default().with_lease(lease.clone())).await
    }

    /// Waits until nothing but `left` is there.
    async fn dwindles_to(&self, left: usize) {
        let dwindled = async {
            while self.volumes().await > left || self.databases.inner.is_busy() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), dwindled).await.expect("too much is left");
    }
}

#[tokio::test(start_paused = true)]
async fn databases_go_with_the_last_who_holds_their_lease() {
    let world = World::new().await;
    let (first, other) = (lease('a'), lease('b'));
    let holders: [Lease; 2] = [world.databases.hold(first.clone()), world.databases.hold(first.clone())];
    let stays = world.databases.hold(other.clone());
    world.create_on(&first).await.unwrap();
    world.create_on(&first).await.unwrap();
    let kept = world.create_on(&other).await.unwrap();
    let free = world.create().await.unwrap();
    let [one, two] = holders;
    drop(one);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.volumes().await, 4, "somebody holds it still");
    drop(two);
    world.dwindles_to(2).await;
    compare(&world, &Model::from([(kept.id, (kept.port, false)), (free.id, (free.port, false))])).await;
    drop(stays);
    world.dwindles_to(1).await;
    assert!(!world.databases.is_idle(), "one database is left");
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_back_at_once_has_lost_nothing() {
    let world = World::new().await;
    let lease = lease('a');
    let held = world.databases.hold(lease.clone());
    let database = world.create_on(&lease).await.unwrap();
    drop(held);
    tokio::time::sleep(Duration::from_millis(900)).await;
    let again = world.databases.hold(lease.clone());
    tokio::time::sleep(Duration::from_secs(60)).await;
    compare(&world, &Model::from([(database.id, (database.port, false))])).await;
    drop(again);
    world.dwindles_to(0).await;
    assert!(world.databases.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_holds_is_no_home() {
    let world = World::new().await;
    let error = world.create_on(&lease('a')).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
    assert!(error.hint().unwrap().contains("POST /leases"), "{error:?}");
    compare(&world, &Model::new()).await;
}

#[tokio::test(start_paused = true)]
async fn a_released_database_lives_until_it_expires() {
    let world = World::new().await;
    let lease = lease('a');
    let held = world.databases.hold(lease.clone());
    let database = world.create_on(&lease).await.unwrap();
    assert_eq!(database.lease, Some(lease));
    assert_eq!(world.databases.release(&database.id).await.unwrap().lease, None);
    drop(held);
    tokio::time::sleep(Duration::from_secs(60)).await;
    compare(&world, &Model::from([(database.id, (database.port, false))])).await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_leaves_a_database_on_its_lease() {
    let world = World::new().await;
    let lease = lease('a');
    let held = world.databases.hold(lease.clone());
    let database = world.create_on(&lease).await.unwrap();
    assert_eq!(world.databases.reset(&database.id).await.unwrap().lease, Some(lease));
    drop(held);
    world.dwindles_to(0).await;
}

/// The lease ends at every call of a create: whichever of both sees the other, nothing is left.
#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_during_a_create_leaves_nothing() {
    for number in 1.. {
        let world = World::new().await;
        let lease = lease('a');
        let held = world.databases.hold(lease.clone());
        world.plan.on(ANY, number, Fault::Delay(Duration::from_secs(5)));
        let create = tokio::spawn({
            let databases = world.databases.clone();
            let options = CreateOptions::default().with_lease(lease);
            async move { databases.create(options).await }
        });
        let reached = tokio::select! {
            _ = world.plan.reached(ANY, number) => true,
            () = async { while !create.is_finished() { tokio::time::sleep(Duration::from_millis(1)).await } } => false,
        };
        drop(held);
        if !reached {
            assert!(number > 3, "a create makes more calls than {number}");
            create.await.unwrap().unwrap();
            world.dwindles_to(0).await;
            return;
        }
        // A call that is given up, such as waiting for a server to stop, delays nothing: then it is made, and goes with its lease.
        if let Err(error) = create.await.unwrap() {
            assert_eq!(error.code(), Code::Cancelled);
        }
        world.dwindles_to(0).await;
        compare(&world, &Model::new()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_there_is_time_to_come_back() {
    let mut world = World::new().await;
    let (returns, stays_away) = (lease('a'), lease('b'));
    let held = [world.databases.hold(returns.clone()), world.databases.hold(stays_away.clone())];
    let database = world.create_on(&returns).await.unwrap();
    world.create_on(&stays_away).await.unwrap();
    // The process ends before its leases do.
    world.crash();
    std::mem::forget(held);
    world.reconcile().await;
    assert_eq!(world.volumes().await, 2);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.volumes().await, 2, "there are five seconds");
    let held = world.databases.hold(returns);
    world.dwindles_to(1).await;
    compare(&world, &Model::from([(database.id, (database.port, false))])).await;
    drop(held);
    world.dwindles_to(0).await;
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_deleted_then_is_by_the_janitor() {
    let world = World::new().await;
    let lease = lease('a');
    let held = world.databases.hold(lease.clone());
    let database = world.create_on(&lease).await.unwrap();
    let refused = || Error::backend("fake", "removing", "on purpose");
    world.plan.on("remove", world.plan.count("remove") + 1, Fault::fail_before(refused));
    drop(held);
    world.plan.performed("set_volume_labels", world.plan.count("set_volume_labels") + 1).await;
    let report = async {
        loop {
            let report = world.reconcile().await;
            if world.volumes().await == 0 {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), report).await.expect("it stays");
    assert_eq!(world.databases.get(&database.id).await.unwrap_err().code(), Code::NotFound);
}
