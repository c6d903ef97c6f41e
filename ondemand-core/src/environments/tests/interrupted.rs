//! Every call that an operation makes goes wrong, one after the other.
//!
//! Slow: an operation is done once for each of some fifty calls and each of four mishaps.

use futures_util::FutureExt;

use super::*;

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    /// It fails.
    Before,
    /// It is done, and its answer is lost.
    After,
    /// It fails, and so does every later one.
    Down,
    /// It is done, its answer is lost, and every later one fails.
    DownAfter,
}

const MISHAPS: [Mishap; 4] = [Mishap::Before, Mishap::After, Mishap::Down, Mishap::DownAfter];
/// More calls than any operation makes.
const MANY: usize = 150;

impl Mishap {
    /// Lets the `number`-th call from now on go wrong.
    fn plan(self, world: &World, number: usize) -> usize {
        let plan = &world.data.plan;
        let at = plan.count(ANY) + number;
        let broken = || Error::backend("fake", "breaking", "on purpose");
        if matches!(self, Self::Down | Self::DownAfter) {
            for later in at + 1..at + MANY {
                plan.on(ANY, later, Fault::fail_before(broken));
            }
        }
        plan.on(
            ANY,
            at,
            match self {
                Self::Before | Self::Down => Fault::fail_before(broken),
                Self::After | Self::DownAfter => Fault::fail_after(broken),
            },
        );
        at
    }
}

/// Does something once for each call it makes, which goes wrong, and checks what is there after a round.
async fn at_every_call<T: std::fmt::Debug>(
    least: usize,
    prepare: impl AsyncFn(&World),
    operation: impl AsyncFn(&World) -> Result<T>,
    check: impl AsyncFn(&World, Result<T>),
) {
    for mishap in MISHAPS {
        for number in 1.. {
            let world = World::new().await;
            prepare(&world).await;
            let at = mishap.plan(&world, number);
            let result = operation(&world).await;
            let calls = world.data.plan.calls();
            world.data.plan.clear();
            let Some(call) = calls.get(at - 1) else {
                result.unwrap();
                assert!(number > least, "it makes more calls than {number}");
                break;
            };
            println!("{mishap:?} at call {number}, {} of {}: {:?}", call.method, call.subject, result.as_ref().err());
            world.rests().await;
            world.reconcile().await;
            check(&world, result).await;
        }
    }
}

#[tokio::test]
async fn a_create_that_fails_leaves_nothing_and_its_name_is_free() {
    let create = async |world: &World| world.create("demo").await;
    at_every_call(
        10,
        async |_| {},
        create,
        async |world, created| {
            if created.is_err() {
                world.check(&[]).await;
                world.create("demo").await.expect("its name is free");
            }
            world.check(&["demo"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_redeployment_that_fails_leaves_the_old_one() {
    let prepare = async |world: &World| {
        world.create("demo").await.unwrap();
        world.push("Sell more");
    };
    let redeploy = async |world: &World| world.redeploy("demo").await;
    at_every_call(10, prepare, redeploy, async |world, redeployed| {
        world.check(&["demo"]).await;
        let now = world.get("demo").await.unwrap();
        let generation = world.inner().ready(&now.name).await.unwrap().record.generation;
        match redeployed {
            Ok(after) => {
                assert_eq!(generation, 2);
                assert_eq!((now.back, now.expires, now.database), (after.back, after.expires, after.database));
            }
            Err(_) => assert_eq!(generation, 1, "the old one stays"),
        }
        let head = world.push("Look better");
        let again = world.redeploy("demo").await.expect("it can be redeployed");
        assert_eq!(again.back.unwrap().commit.as_str(), head);
        world.check(&["demo"]).await;
    })
    .await;
}

#[tokio::test]
async fn a_deletion_that_fails_is_finished_or_was_not_begun() {
    let prepare = async |world: &World| drop(world.create("demo").await.unwrap());
    at_every_call(
        5,
        prepare,
        async |world| world.delete("demo").await,
        async |world, deleted| {
            let there = world.get("demo").await.is_ok();
            assert!(deleted.is_err() || !there, "it was deleted, and is there");
            world.check(if there { &["demo"] } else { &[] }).await;
            if !there {
                world.create("demo").await.expect("its name is free");
            }
            world.check(&["demo"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn an_extension_that_fails_leaves_one_expiry_or_the_other() {
    // Longer, and shorter: either way the database has to live as long, which every check looks at.
    for (before, after) in [(1, 5), (5, 1)] {
        let extend = async |world: &World, days| {
            world.environments.extend(&"demo".parse().unwrap(), &Caller::admin(), days).await
        };
        let prepare = async |world: &World| {
            world.create("demo").await.unwrap();
            extend(world, before).await.unwrap();
        };
        at_every_call(
            3,
            prepare,
            async |world: &World| extend(world, after).await,
            async |world, extended| {
                world.check(&["demo"]).await;
                let now = world.get("demo").await.unwrap();
                let days = (now.expires - now.created).whole_days();
                assert!(
                    days == i64::from(after) || extended.is_err() && days == i64::from(before),
                    "it lives {days} days"
                );
            },
        )
        .await;
    }
}

/// Ends the process at each call of an operation, before it or after it, and checks what is there after the first round of the next.
async fn killed_at_every_call<T: std::fmt::Debug>(
    prepare: impl AsyncFn(&World),
    operation: impl AsyncFn(&World) -> Result<T>,
    check: impl AsyncFn(&World),
) {
    for after in [false, true] {
        for number in 1.. {
            let mut world = World::new().await;
            prepare(&world).await;
            let plan = world.data.plan.clone();
            let at = plan.count(ANY) + number;
            plan.on(ANY, at, if after { Fault::CutOff } else { Fault::Stall });
            let stuck = async { if after { plan.performed(ANY, at).await } else { plan.reached(ANY, at).await } };
            let ended = tokio::select! {
                biased;
                call = stuck => {
                    println!("killed {} call {number}, {} of {}", if after { "after" } else { "before" }, call.method, call.subject);
                    false
                }
                done = operation(&world) => { done.unwrap(); true }
            };
            // What the call had set free to run is given its turn, as in a process that is killed a moment later.
            tokio::task::yield_now().await;
            if ended {
                break;
            }
            world.crash();
            let report = world.reconcile().await;
            assert!(report.failed.is_empty() && report.unknown.is_empty(), "{report:?}");
            check(&world).await;
        }
    }
}

#[tokio::test]
async fn killed_while_creating_there_is_all_of_it_or_nothing() {
    let create = async |world: &World| world.create("demo").await;
    killed_at_every_call(
        async |_| {},
        create,
        async |world| {
            let there = world.get("demo").await.is_ok();
            world.check(if there { &["demo"] } else { &[] }).await;
            if !there {
                world.create("demo").await.expect("its name is free");
            }
            world.check(&["demo"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn killed_while_redeploying_there_is_the_old_one_or_the_new_one() {
    let prepare = async |world: &World| {
        world.create("demo").await.unwrap();
        world.push("Sell more");
    };
    killed_at_every_call(
        prepare,
        async |world| world.redeploy("demo").await,
        async |world| {
            world.check(&["demo"]).await;
            world.redeploy("demo").await.expect("it can be redeployed");
            world.check(&["demo"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn killed_while_deleting_there_is_all_of_it_or_nothing() {
    let prepare = async |world: &World| drop(world.create("demo").await.unwrap());
    killed_at_every_call(
        prepare,
        async |world| world.delete("demo").await,
        async |world| {
            let there = world.get("demo").await.is_ok();
            world.check(if there { &["demo"] } else { &[] }).await;
        },
    )
    .await;
}

const SLOW: Fault = Fault::Delay(Duration::from_millis(20));

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing() {
    for number in 1.. {
        let world = World::new().await;
        let at = world.data.plan.count(ANY) + number;
        world.data.plan.on(ANY, at, SLOW);
        let mut create = Box::pin(world.create("demo"));
        let finished = tokio::select! {
            _ = world.data.plan.reached(ANY, at) => false,
            result = &mut create => { result.unwrap(); true }
        };
        if finished {
            assert!(number > 10, "a create makes more calls than {number}");
            return;
        }
        drop(create);
        world.rests().await;
        world.check(&[]).await;
    }
}

#[tokio::test]
async fn an_environment_that_was_sent_and_not_taken_is_deleted() {
    let world = World::new().await;
    let creating = world.environments.begin(None, wanted("demo"), silent()).await.unwrap();
    world.rests().await;
    world.get("demo").await.expect("it was made");
    drop(creating);
    let gone = async {
        while !matches!(world.get("demo").await, Err(Error::NotFound { .. })) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("it was left");
    world.rests().await;
    world.check(&[]).await;
}

#[tokio::test]
async fn an_environment_that_nobody_waits_for_is_made_all_the_same() {
    let world = World::new().await;
    world.environments.begin(None, wanted("demo"), silent()).await.unwrap().detach();
    world.rests().await;
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn a_deletion_meanwhile_ends_a_create_at_any_call() {
    for number in 1.. {
        let world = World::new().await;
        let at = world.data.plan.count(ANY) + number;
        world.data.plan.on(ANY, at, SLOW);
        let delete = async {
            world.data.plan.reached(ANY, at).await;
            world.delete("demo").await
        };
        let mut delete = Box::pin(delete);
        let mut early = None;
        let mut create = Box::pin(world.create("demo"));
        let created = loop {
            tokio::select! {
                deleted = &mut delete, if early.is_none() => early = Some(deleted),
                created = &mut create => break created,
            }
        };
        if early.is_none() && world.data.plan.count(ANY) < at {
            created.unwrap();
            assert!(number > 10, "a create makes more calls than {number}");
            return;
        }
        let deleted = match early {
            Some(deleted) => deleted,
            None => delete.await,
        };
        match deleted {
            Ok(()) => world.check(&[]).await,
            // It was not there yet.
            Err(error) => {
                assert_eq!(error.code(), Code::NotFound, "call {number}");
                created.unwrap();
                world.check(&["demo"]).await;
            }
        }
    }
}

#[tokio::test]
async fn who_waits_for_an_environment_to_be_deleted_leaves_the_next_one_of_its_name() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    // Two calls later it is being deleted.
    let at = world.data.plan.count(ANY) + 3;
    world.data.plan.on(ANY, at, SLOW);
    let mut first = Box::pin(world.delete("demo"));
    tokio::select! {
        ended = &mut first => panic!("it ended before it was looked at: {ended:?}"),
        _ = world.data.plan.reached(ANY, at) => {}
    }
    let mut second = Box::pin(world.delete("demo"));
    assert!((&mut second).now_or_never().is_none(), "it waits for the first");
    first.await.unwrap();
    world.create("demo").await.unwrap();
    // What it was asked to delete is gone.
    second.await.unwrap();
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn a_deletion_meanwhile_ends_a_redeployment_at_any_call() {
    for number in 1.. {
        let world = World::new().await;
        world.create("demo").await.unwrap();
        let at = world.data.plan.count(ANY) + number;
        world.data.plan.on(ANY, at, SLOW);
        let mut redeployment = Box::pin(world.redeploy("demo"));
        let finished = tokio::select! {
            biased;
            _ = world.data.plan.reached(ANY, at) => false,
            redeployed = &mut redeployment => { redeployed.unwrap(); true }
        };
        if finished {
            assert!(number > 10, "a redeployment makes more calls than {number}");
            return;
        }
        let (_, deleted) = tokio::join!(redeployment, world.delete("demo"));
        deleted.unwrap();
        world.check(&[]).await;
    }
}
