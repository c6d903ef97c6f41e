//! Environments against a plain map, through failures at every call, crashes, and reconciliation.

use std::collections::BTreeMap;

use proptest::prelude::*;
use time::OffsetDateTime;

use super::record::Record;
use super::*;

/// Names of which some have a host name in common.
const NAMES: [&str; 3] = ["foo", "fooapi", "bar"];

#[derive(Debug, Clone, Copy)]
enum Step {
    Create(usize),
    Delete(usize),
    Redeploy(usize),
    Extend(usize),
    /// Its time passes.
    Expire(usize),
    /// Its services end by themselves.
    Fall(usize),
    /// Its services are started elsewhere.
    Move(usize),
    /// Somebody removes its stack.
    Remove(usize),
    Follow,
    Reconcile,
}

#[derive(Debug, Clone, Copy)]
enum Mishap {
    None,
    FailBefore(usize),
    FailAfter(usize),
    Down(usize),
    CrashBefore(usize),
    CrashAfter(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    prop_oneof![
        5 => name().prop_map(Step::Create),
        2 => name().prop_map(Step::Delete),
        3 => name().prop_map(Step::Redeploy),
        1 => name().prop_map(Step::Extend),
        1 => name().prop_map(Step::Expire),
        1 => name().prop_map(Step::Fall),
        1 => name().prop_map(Step::Move),
        1 => name().prop_map(Step::Remove),
        1 => Just(Step::Follow),
        1 => Just(Step::Reconcile),
    ]
}

fn mishap() -> impl Strategy<Value = Mishap> {
    let call = || 1..60_usize;
    prop_oneof![
        3 => Just(Mishap::None),
        1 => call().prop_map(Mishap::FailBefore),
        1 => call().prop_map(Mishap::FailAfter),
        1 => call().prop_map(Mishap::Down),
        1 => call().prop_map(Mishap::CrashBefore),
        1 => call().prop_map(Mishap::CrashAfter),
    ]
}

/// What ought to be there, by name: which deployment it is.
type Model = BTreeMap<&'static str, u32>;

async fn perform(world: &World, step: Step) -> Result<()> {
    match step {
        Step::Create(n) => world.create(NAMES[n]).await.map(drop),
        Step::Delete(n) => world.delete(NAMES[n]).await,
        Step::Redeploy(n) => world.redeploy(NAMES[n]).await.map(drop),
        Step::Extend(n) => {
            let name = NAMES[n].parse().unwrap();
            world.environments.extend(&name, &Caller::admin(), 3).await.map(drop)
        }
        Step::Follow | Step::Fall(_) | Step::Move(_) => follow::look(world.inner(), &mut BTreeMap::new()).await,
        Step::Reconcile | Step::Expire(_) | Step::Remove(_) => {
            world.environments.reconcile(&mut Report::default()).await
        }
    }
}

/// Does to an environment what happens to it.
async fn suffer(world: &World, model: &mut Model, step: Step) {
    let (Step::Expire(n) | Step::Fall(n) | Step::Move(n) | Step::Remove(n)) = step else { return };
    let Ok(Deployed { record, stack }) = world.inner().ready(&NAMES[n].parse().unwrap()).await else { return };
    match step {
        Step::Expire(_) => {
            let past = Record { expires: OffsetDateTime::now_utc() - Duration::from_secs(1), ..record };
            let labels = past.labels(&world.data.instance.id).unwrap();
            Orchestrator::set_labels(&world.orchestrator, &stack.name, &labels).await.unwrap();
            model.remove(NAMES[n]);
        }
        Step::Fall(_) => assert_eq!(world.orchestrator.exit(&stack.name, 1), 2),
        Step::Move(_) => world.orchestrator.move_ports(&stack.name),
        _ => {
            Orchestrator::remove(&world.orchestrator, &stack.id).await.unwrap();
            model.remove(NAMES[n]);
        }
    }
}

/// Does a step, and keeps the model. Where the process was ended on the way, the model takes either outcome from what is there.
async fn apply(world: &mut World, model: &mut Model, step: Step, mishap: Mishap) {
    suffer(world, model, step).await;
    let plan = world.data.plan.clone();
    let base = plan.count(ANY);
    let broken = || Error::backend("fake", "breaking", "on purpose");
    match mishap {
        Mishap::None => {}
        Mishap::FailBefore(n) => plan.on(ANY, base + n, Fault::fail_before(broken)),
        Mishap::FailAfter(n) => plan.on(ANY, base + n, Fault::fail_after(broken)),
        Mishap::Down(n) => (n..n + 150).for_each(|n| plan.on(ANY, base + n, Fault::fail_before(broken))),
        Mishap::CrashBefore(n) => plan.on(ANY, base + n, Fault::Stall),
        Mishap::CrashAfter(n) => plan.on(ANY, base + n, Fault::CutOff),
    }
    let stuck = async {
        match mishap {
            Mishap::CrashBefore(n) => drop(plan.reached(ANY, base + n).await),
            Mishap::CrashAfter(n) => drop(plan.performed(ANY, base + n).await),
            _ => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        biased;
        () = stuck => None,
        outcome = perform(world, step) => Some(outcome),
    };
    tokio::task::yield_now().await;
    if outcome.is_none() {
        world.crash();
    }
    world.data.plan.clear();
    if outcome.is_some() {
        world.rests().await;
    }
    world.reconcile().await;
    settle(world).await;
    follow_outcome(world, model, step, outcome).await;
}

/// Lets what has fallen or moved be found and mended.
async fn settle(world: &World) {
    for _ in 0..2 {
        let mut fallen = BTreeMap::new();
        follow::look(world.inner(), &mut fallen).await.unwrap();
        while fallen.values().any(follow::Fallen::is_starting) {
            tokio::task::yield_now().await;
        }
    }
}

async fn follow_outcome(world: &World, model: &mut Model, step: Step, outcome: Option<Result<()>>) {
    let (Step::Create(n) | Step::Delete(n) | Step::Redeploy(n)) = step else { return };
    let name = NAMES[n];
    let there = world.inner().ready(&name.parse().unwrap()).await.ok().map(|deployed| deployed.record.generation);
    match (step, outcome) {
        (Step::Create(_), Some(Ok(()))) => assert_eq!(model.insert(name, 1), None, "{name} was there"),
        (Step::Redeploy(_), Some(Ok(()))) => {
            let before = model.insert(name, there.expect("what was redeployed is there"));
            assert!(before < model.get(name).copied(), "it is a newer one");
        }
        (Step::Delete(_), Some(Ok(()))) => assert!(model.remove(name).is_some(), "{name} was not there"),
        // One that was begun is finished by the janitor.
        (Step::Delete(_), Some(Err(_))) if there.is_none() => drop(model.remove(name)),
        // What failed has changed nothing.
        (_, Some(Err(_))) => {}
        // It was cut off: what is there counts.
        _ => {
            model.remove(name);
            model.extend(there.map(|generation| (name, generation)));
        }
    }
}

async fn compare(world: &World, model: &Model) {
    world.check(&model.keys().copied().collect::<Vec<_>>()).await;
    for (name, generation) in model {
        let deployed = world.inner().ready(&name.parse().unwrap()).await.unwrap();
        assert_eq!(deployed.record.generation, *generation, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_books_are_right(steps in prop::collection::vec((step(), mishap()), 1..20)) {
        // Slow: many random histories are played, of up to twenty steps each.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            let mut model = Model::new();
            for (step, mishap) in steps {
                println!("{step:?} with {mishap:?}");
                let applied = apply(&mut world, &mut model, step, mishap);
                tokio::time::timeout(Duration::from_secs(20), applied).await.expect("it comes to an end");
                compare(&world, &model).await;
            }
        });
    }
}
