//! Databases against a plain map, through failures at every call, crashes, and reconciliation.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Create,
    Delete(usize),
    Reset(usize),
    Extend(usize),
    /// Writes to a database.
    Mark(usize),
    /// Postgres ends by itself.
    Exit(usize),
    /// A database's time passes.
    Expire(usize),
    /// The record of a database cannot be read for a while.
    Damage(usize),
    /// The record of a database's server cannot be read for a while.
    Hide(usize),
    /// Listings lack the volume of a database for a while.
    Overlook(usize),
    Reconcile,
}

#[derive(Debug, Clone, Copy)]
enum Mishap {
    None,
    FailBefore(usize),
    FailAfter(usize),
    /// The store and the orchestrator fail from this call on, as a disk does.
    FailFrom(usize),
    CrashBefore(usize),
    CrashAfter(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Create),
        2 => any::<usize>().prop_map(Step::Delete),
        3 => any::<usize>().prop_map(Step::Reset),
        1 => any::<usize>().prop_map(Step::Extend),
        2 => any::<usize>().prop_map(Step::Mark),
        1 => any::<usize>().prop_map(Step::Exit),
        1 => any::<usize>().prop_map(Step::Expire),
        1 => any::<usize>().prop_map(Step::Damage),
        1 => any::<usize>().prop_map(Step::Hide),
        1 => any::<usize>().prop_map(Step::Overlook),
        1 => Just(Step::Reconcile),
    ]
}

fn mishap() -> impl Strategy<Value = Mishap> {
    prop_oneof![
        3 => Just(Mishap::None),
        1 => (1..12_usize).prop_map(Mishap::FailBefore),
        1 => (1..12_usize).prop_map(Mishap::FailAfter),
        1 => (1..12_usize).prop_map(Mishap::FailFrom),
        1 => (1..12_usize).prop_map(Mishap::CrashBefore),
        1 => (1..12_usize).prop_map(Mishap::CrashAfter),
    ]
}

fn nth(model: &Model, index: usize) -> Option<DatabaseId> {
    (!model.is_empty()).then(|| model.keys().nth(index % model.len()).cloned()).flatten()
}

/// Does a step, and keeps the model. Where the step did not end well, the model takes either outcome from what is there.
async fn apply(world: &mut World, model: &mut Model, step: Step, mishap: Mishap) {
    let base = world.plan.count(ANY);
    let broken = || Error::backend("fake", "breaking", "on purpose");
    match mishap {
        Mishap::None => {}
        Mishap::FailBefore(n) => world.plan.on(ANY, base + n, Fault::fail_before(broken)),
        Mishap::FailAfter(n) => world.plan.on(ANY, base + n, Fault::fail_after(broken)),
        Mishap::FailFrom(n) => (n..n + 200).for_each(|n| world.plan.on(ANY, base + n, Fault::fail_before(broken))),
        Mishap::CrashBefore(n) => world.plan.on(ANY, base + n, Fault::Stall),
        Mishap::CrashAfter(n) => world.plan.on(ANY, base + n, Fault::CutOff),
    }
    let (databases, plan) = (world.databases.clone(), world.plan.clone());
    let work = async {
        match &step {
            Step::Create => databases.create(CreateOptions::default()).await.map(Some),
            Step::Delete(i) => match nth(model, *i) {
                Some(id) => databases.delete(&id).await.map(|()| None),
                None => Ok(None),
            },
            Step::Reset(i) => match nth(model, *i) {
                Some(id) => databases.reset(&id).await.map(Some),
                None => Ok(None),
            },
            Step::Extend(i) => match nth(model, *i) {
                Some(id) => databases.extend(&id, "2d".parse().unwrap()).await.map(Some),
                None => Ok(None),
            },
            Step::Reconcile => databases.reconcile(&mut Report::default()).await.map(|()| None),
            Step::Mark(_) | Step::Exit(_) | Step::Expire(_) | Step::Damage(_) | Step::Hide(_) | Step::Overlook(_) => {
                Ok(None)
            }
        }
    };
    let stuck = async {
        match mishap {
            Mishap::CrashBefore(n) => drop(plan.reached(ANY, base + n).await),
            Mishap::CrashAfter(n) => drop(plan.performed(ANY, base + n).await),
            _ => std::future::pending().await,
        }
        // What the call had set free to run, such as an undo that was waiting, is given its turn.
        tokio::task::yield_now().await;
    };
    let outcome = tokio::select! {
        biased;
        () = stuck => None,
        outcome = work => Some(outcome),
    };
    let well = matches!(outcome, Some(Ok(_)));
    if outcome.is_none() {
        world.crash();
    }
    world.plan.clear();
    world.reconcile().await;
    follow(world, model, &step, outcome, well).await;
}

async fn follow(
    world: &mut World,
    model: &mut Model,
    step: &Step,
    outcome: Option<Result<Option<Database>>>,
    well: bool,
) {
    let there: BTreeMap<_, _> = world.databases.list().await.unwrap().into_iter().map(|d| (d.id.clone(), d)).collect();
    match step {
        Step::Create => {
            if let Some(Ok(Some(database))) = outcome {
                model.insert(database.id.clone(), (database.port, false));
            } else if outcome.is_none() {
                // A create that was cut off after its last write may have announced a database.
                let new: Vec<_> = there.values().filter(|d| !model.contains_key(&d.id)).collect();
                assert!(new.len() <= 1, "one create announced {new:?}");
                for database in new {
                    model.insert(database.id.clone(), (database.port, false));
                }
            }
        }
        Step::Delete(i) => {
            if let Some(id) = nth(model, *i)
                && (well || !there.contains_key(&id))
            {
                model.remove(&id);
            }
        }
        Step::Reset(i) => {
            if let Some(id) = nth(model, *i) {
                let now = world.is_marked(&id);
                let entry = model.get_mut(&id).unwrap();
                if well {
                    entry.1 = false;
                } else {
                    assert!(!now || entry.1, "a reset that failed wrote a mark");
                    entry.1 = now;
                }
            }
        }
        Step::Mark(i) => {
            if let Some(id) = nth(model, *i) {
                world.mark(&id);
                model.get_mut(&id).unwrap().1 = true;
            }
        }
        Step::Exit(i) => {
            if let Some(id) = nth(model, *i) {
                assert_eq!(world.orchestrator.exit(&world.record(&id).stack(), 1), 1);
                assert_eq!(world.reconcile().await.restarted, [id.to_string()]);
            }
        }
        Step::Expire(i) => {
            if let Some(id) = nth(model, *i) {
                expire(world, &id).await;
                assert_eq!(world.reconcile().await.reaped, [id.to_string()]);
                model.remove(&id);
            }
        }
        Step::Hide(i) => {
            if let Some(id) = nth(model, *i) {
                let stack = world.record(&id).stack();
                let before = world.orchestrator.get(&stack).await.unwrap();
                world.orchestrator.damage(&stack, true);
                world.reconcile().await;
                world.crash();
                world.reconcile().await;
                world.orchestrator.damage(&stack, false);
                assert_eq!(world.orchestrator.get(&stack).await.unwrap(), before, "its server was touched");
                world.reconcile().await;
            }
        }
        Step::Damage(i) | Step::Overlook(i) => {
            if let Some(id) = nth(model, *i) {
                let volume = world.record(&id).volume();
                let store = world.store.clone();
                let hide = |is_hidden| match step {
                    Step::Damage(_) => store.damage(&volume, is_hidden),
                    _ => store.overlook(&volume, is_hidden),
                };
                let stack = world.record(&id).stack();
                let before = world.orchestrator.get(&stack).await.unwrap();
                hide(true);
                world.reconcile().await;
                world.crash();
                world.reconcile().await;
                assert_eq!(world.orchestrator.get(&stack).await.unwrap(), before, "its server was touched");
                hide(false);
                world.reconcile().await;
            }
        }
        Step::Extend(_) | Step::Reconcile => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_books_are_right(steps in prop::collection::vec((step(), mishap()), 1..25)) {
        // With one thread, nothing happens between the moment of a crash and the end of its process.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            let mut model = Model::new();
            for (step, mishap) in steps {
                apply(&mut world, &mut model, step, mishap).await;
                compare(&world, &model).await;
            }
            for id in model.keys() {
                world.databases.delete(id).await.unwrap();
            }
            compare(&world, &Model::new()).await;
        });
    }
}
