//! What every [`Orchestrator`] does: one function a behaviour.
//!
//! [`orchestrator_conformance!`](crate::orchestrator_conformance) makes a test of each:
//!
//! ```ignore
//! ondemand_core::orchestrator_conformance!(MyHarness::start());
//! ```

#![expect(clippy::expect_used, reason = "a behaviour that is not shown is to panic, with what was expected")]

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt, poll};
use tokio::io::AsyncBufReadExt;
use tokio::time::{Instant, sleep, timeout};

use crate::error::{Error, Kind};
use crate::label::{Labels, Selector};
use crate::name::{AttemptId, ServiceName, StackName};
use crate::orchestrator::{LogOptions, Orchestrator, ServiceSpec, ServiceState, Stack, StackId, StackSpec};

mod features;
mod program;

pub use features::*;
pub use program::Program;

/// How long anything that is waited for may take; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes what a behaviour is tried on: one orchestrator with nothing in it, that no other test uses.
pub trait Harness: Send + Sync {
    /// Returns a handle on the orchestrator, always on the same state: a second call is what a restart would make.
    fn open(&self) -> Arc<dyn Orchestrator>;

    /// Returns a service of this name that runs a program.
    fn service(&self, name: &str, program: Program) -> ServiceSpec;

    /// Tells whether a process that [`Service::pid`](crate::orchestrator::Service::pid) named runs.
    fn is_alive(&self, pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
    }

    /// Returns the line that whoever listens at an address says to one that connects; `None` if nobody does.
    fn ask<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Option<String>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await.ok()?;
            let mut lines = tokio::io::BufReader::new(stream).lines();
            timeout(PATIENCE, lines.next_line()).await.ok()?.ok()?
        })
    }

    /// Tells whether what a service wrote can still be read once its stack has been asleep.
    fn keeps_logs_asleep(&self) -> bool {
        true
    }

    /// Returns what whoever may look into the engine, or reads what the orchestrator remembers, learns about a stack.
    fn inspect<'a>(&'a self, stack: &'a StackName) -> BoxFuture<'a, String>;
}

/// Tries a behaviour, and afterwards removes what it left, whether it was shown or not.
pub async fn run(harness: &dyn Harness, behaviour: impl for<'a> FnOnce(&'a dyn Harness) -> BoxFuture<'a, ()>) {
    let outcome = AssertUnwindSafe(behaviour(harness)).catch_unwind().await;
    let orchestrator = harness.open();
    let left = orchestrator.list(&Selector::all()).await.expect("a list").found;
    for stack in &left {
        orchestrator.remove(&stack.id).await.expect("removed");
    }
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
    assert_eq!(left, [], "nothing is left behind");
}

/// Makes a test of every behaviour of an [`Orchestrator`](crate::Orchestrator).
///
/// It takes an expression that makes a [`Harness`](crate::conformance::orchestrator::Harness) with a fresh orchestrator.
#[macro_export]
macro_rules! orchestrator_conformance {
    ($harness:expr) => {
        $crate::orchestrator_conformance! { @tests $harness;
            a_stack_is_deployed_and_listed
            a_selector_chooses_stacks
            what_is_unknown_is_not_found
            a_stack_without_services_is_refused
            a_taken_name_is_refused
            of_racing_deployments_one_wins
            labels_are_replaced_without_a_restart
            a_removal_ends_the_processes
            a_stubborn_program_is_killed
            an_old_id_removes_no_new_stack
            waiting_tells_the_exit_status
            waiting_ends_with_the_removal
            a_stack_sleeps_and_wakes
            waking_starts_what_has_exited
            what_runs_outlives_its_handle
            another_handle_changes_and_removes
            logs_are_lines
            followed_logs_go_on_until_the_removal
            several_services_are_one_stack
            a_missing_program_leaves_nothing
            a_failing_service_undoes_the_others
            a_dropped_deployment_leaves_nothing
            a_published_port_is_told_and_reached
            siblings_find_each_other
            dependencies_are_honoured
            what_is_done_is_not_done_again
            a_dependency_that_fails_undoes_all
            a_dependency_that_is_never_healthy_undoes_all
            a_waiting_deployment_can_be_dropped
            a_waiting_deployment_can_be_removed
            a_secret_is_read_and_not_told
            a_directory_of_its_own_goes_with_the_stack
            what_a_stack_lacks_is_refused
        }
    };
    (@tests $harness:expr; $($behaviour:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                let harness = $harness;
                $crate::conformance::orchestrator::run(&harness, |harness| {
                    Box::pin($crate::conformance::orchestrator::$behaviour(harness))
                })
                .await;
            }
        )*
    };
}

fn name(text: &str) -> StackName {
    StackName::new(text).expect("a stack name")
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().fold(Labels::new(), |labels, (key, value)| labels.with(*key, *value).expect("a label"))
}

fn spec(stack: &str, services: Vec<ServiceSpec>) -> StackSpec {
    let attempt = AttemptId::random().expect("randomness");
    StackSpec { labels: labels(&[("test.stack", stack)]), ..StackSpec::new(name(stack), attempt, services) }
}

fn sleeper(harness: &dyn Harness, stack: &str) -> StackSpec {
    spec(stack, vec![harness.service("main", Program::Sleeps)])
}

async fn names(orchestrator: &dyn Orchestrator, selector: &Selector) -> Vec<String> {
    let stacks = orchestrator.list(selector).await.expect("a list").found;
    stacks.into_iter().map(|stack| stack.name.to_string()).collect()
}

async fn remove(orchestrator: &dyn Orchestrator, id: &StackId) {
    orchestrator.remove(id).await.expect("removed");
}

fn pids(stack: &Stack) -> Vec<u32> {
    stack.services.iter().map(|service| service.pid.expect("what runs here has a pid")).collect()
}

fn assert_not_found<T: Debug>(result: Result<T, Error>, kind: Kind) {
    match result {
        Err(Error::NotFound { kind: found, .. }) if found == kind => {}
        other => panic!("expected a {kind} that is not found, got {other:?}"),
    }
}

/// `deploy` starts a stack, `get` and `list` return it as it is.
pub async fn a_stack_is_deployed_and_listed(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let mut spec = sleeper(harness, "a");
    spec.labels = labels(&[("test.a", "1"), ("test.b/c", "with spaces, = and \"quotes\"")]);
    let before = time::OffsetDateTime::now_utc();
    let stack = orchestrator.deploy(&spec).await.expect("deployed");
    assert_eq!((&stack.name, &stack.attempt, &stack.labels), (&spec.name, &spec.attempt, &spec.labels));
    assert!(stack.is_running(), "{stack:?}");
    assert_eq!(stack.services[0].name.as_str(), "main");
    assert!(pids(&stack).into_iter().all(|pid| harness.is_alive(pid)), "{stack:?}");
    let minute = time::Duration::minutes(1);
    assert!(stack.created >= before - minute && stack.created <= before + minute, "{stack:?}");
    assert_eq!(orchestrator.get(&spec.name).await.expect("a stack"), stack);
    assert_eq!(orchestrator.list(&Selector::all()).await.expect("a list").found, std::slice::from_ref(&stack));
    remove(&*orchestrator, &stack.id).await;
}

/// `list` returns what the selector chooses, in the order of names.
pub async fn a_selector_chooses_stacks(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let mut ids = Vec::new();
    for (stack, colour) in [("c", "red"), ("a", "red"), ("b", "blue")] {
        let mut spec = sleeper(harness, stack);
        spec.labels = labels(&[("test.colour", colour), ("test.same", "yes")]);
        ids.push(orchestrator.deploy(&spec).await.expect("deployed").id);
    }
    let select = |pairs: &[(&str, &str)]| pairs.iter().fold(Selector::all(), |s, (key, value)| s.with(*key, *value));
    for (selector, chosen) in [
        (select(&[]), &["a", "b", "c"][..]),
        (select(&[("test.same", "yes")]), &["a", "b", "c"]),
        (select(&[("test.colour", "red")]), &["a", "c"]),
        (select(&[("test.colour", "blue"), ("test.same", "yes")]), &["b"]),
        (select(&[("test.colour", "blue"), ("test.same", "no")]), &[]),
        (select(&[("test.colour", "")]), &[]),
    ] {
        assert_eq!(names(&*orchestrator, &selector).await, chosen, "{selector}");
    }
    for id in &ids {
        remove(&*orchestrator, id).await;
    }
}

/// A stack that does not exist is `NotFound`, and removing it succeeds.
pub async fn what_is_unknown_is_not_found(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let nobody = name("nobody");
    assert_not_found(orchestrator.get(&nobody).await, Kind::Stack);
    assert_not_found(orchestrator.set_labels(&nobody, &Labels::new()).await, Kind::Stack);
    assert_not_found(orchestrator.set_running(&nobody, true).await, Kind::Stack);
    assert_not_found(orchestrator.set_running(&nobody, false).await, Kind::Stack);
    assert_not_found(orchestrator.wait_stopped(&nobody).await, Kind::Stack);
    for follow in [false, true] {
        let mut logs = orchestrator.logs(&nobody, LogOptions { follow, ..LogOptions::default() });
        assert_not_found(logs.next().await.expect("an error"), Kind::Stack);
        assert_eq!(logs.next().await.map(|line| line.is_ok()), None, "nothing comes after the error");
    }
    for id in [StackId("nobody".into()), StackId("nobody.0123456789abcdef".into()), StackId(String::new())] {
        remove(&*orchestrator, &id).await;
    }
}

/// A stack of nothing, or of two services with one name, is invalid input.
pub async fn a_stack_without_services_is_refused(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let service = harness.service("main", Program::Sleeps);
    for services in [vec![], vec![service.clone(), service]] {
        let refused = orchestrator.deploy(&spec("a", services)).await;
        assert!(matches!(refused, Err(Error::InvalidInput { .. })), "{refused:?}");
    }
    assert_eq!(names(&*orchestrator, &Selector::all()).await, [""; 0]);
}

/// Who comes second gets `AlreadyExists`, and who came first notices nothing.
pub async fn a_taken_name_is_refused(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let first = orchestrator.deploy(&sleeper(harness, "a")).await.expect("deployed");
    for _ in 0..2 {
        let second = sleeper(harness, "a");
        match orchestrator.deploy(&second).await {
            Err(Error::AlreadyExists { kind: Kind::Stack, name }) => assert_eq!(name, "a"),
            other => panic!("expected that the name is taken, got {other:?}"),
        }
        assert_eq!(orchestrator.get(&first.name).await.expect("the first"), first);
        assert!(pids(&first).into_iter().all(|pid| harness.is_alive(pid)));
    }
    remove(&*orchestrator, &first.id).await;
}

/// Of many deployments of one name at once, through two handles, exactly one wins and is whole.
pub async fn of_racing_deployments_one_wins(harness: &dyn Harness) {
    let handles = [harness.open(), harness.open()];
    for _ in 0..3 {
        let racers: Vec<_> = (0..6)
            .map(|n| {
                let orchestrator = Arc::clone(&handles[n % 2]);
                let spec = sleeper(harness, "a");
                tokio::spawn(async move { orchestrator.deploy(&spec).await })
            })
            .collect();
        let mut winners = Vec::new();
        for racer in racers {
            match racer.await.expect("no panic") {
                Ok(stack) => winners.push(stack),
                Err(Error::AlreadyExists { kind: Kind::Stack, .. }) => {}
                Err(other) => panic!("expected that the name is taken, got {other:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        for orchestrator in &handles {
            assert_eq!(orchestrator.list(&Selector::all()).await.expect("a list").found, winners);
        }
        assert!(pids(&winners[0]).into_iter().all(|pid| harness.is_alive(pid)));
        remove(&*handles[1], &winners[0].id).await;
    }
}

/// `set_labels` replaces all labels, and the processes stay the same.
pub async fn labels_are_replaced_without_a_restart(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let mut spec = sleeper(harness, "a");
    spec.labels = labels(&[("test.kept", "1"), ("test.gone", "1")]);
    let stack = orchestrator.deploy(&spec).await.expect("deployed");
    let new = labels(&[("test.kept", "2"), ("test.new", "3")]);
    orchestrator.set_labels(&spec.name, &new).await.expect("set");
    let changed = orchestrator.get(&spec.name).await.expect("a stack");
    assert_eq!(changed, Stack { labels: new, ..stack.clone() });
    let select = |key: &str| Selector::all().with(key, "1");
    assert_eq!(names(&*orchestrator, &select("test.gone")).await, [""; 0]);
    assert_eq!(names(&*orchestrator, &select("test.kept")).await, [""; 0]);
    assert_eq!(names(&*orchestrator, &Selector::all().with("test.new", "3")).await, ["a"]);
    orchestrator.set_labels(&spec.name, &Labels::new()).await.expect("set");
    assert_eq!(orchestrator.get(&spec.name).await.expect("a stack").labels, Labels::new());
    remove(&*orchestrator, &stack.id).await;
}

/// When `remove` returns, the processes have ended; removing again succeeds, and the name is free.
pub async fn a_removal_ends_the_processes(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let spec = sleeper(harness, "a");
    let stack = orchestrator.deploy(&spec).await.expect("deployed");
    remove(&*orchestrator, &stack.id).await;
    assert!(!pids(&stack).into_iter().any(|pid| harness.is_alive(pid)));
    assert_not_found(orchestrator.get(&spec.name).await, Kind::Stack);
    remove(&*orchestrator, &stack.id).await;
    let again = orchestrator.deploy(&sleeper(harness, "a")).await.expect("the name is free");
    assert_ne!(again.id, stack.id);
    // Two at once are as good as one after the other.
    let (one, two) = tokio::join!(orchestrator.remove(&again.id), orchestrator.remove(&again.id));
    one.expect("removed");
    two.expect("removed");
    assert!(!pids(&again).into_iter().any(|pid| harness.is_alive(pid)));
}

/// A program that ignores its signal is killed when its grace is over.
pub async fn a_stubborn_program_is_killed(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let stack = orchestrator.deploy(&spec("a", vec![harness.service("main", Program::Stubborn)])).await;
    let stack = stack.expect("deployed");
    timeout(PATIENCE, orchestrator.remove(&stack.id)).await.expect("in time").expect("removed");
    assert!(!pids(&stack).into_iter().any(|pid| harness.is_alive(pid)));
}

/// Removing an id leaves alone the stack that has its name now.
pub async fn an_old_id_removes_no_new_stack(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let old = orchestrator.deploy(&sleeper(harness, "a")).await.expect("deployed");
    remove(&*orchestrator, &old.id).await;
    let new = orchestrator.deploy(&sleeper(harness, "a")).await.expect("deployed");
    remove(&*orchestrator, &old.id).await;
    assert_eq!(orchestrator.get(&new.name).await.expect("the new one"), new);
    assert!(pids(&new).into_iter().all(|pid| harness.is_alive(pid)));
    remove(&*orchestrator, &new.id).await;
}

/// `wait_stopped` returns when a program ends, and then, how it did; and at once if it had ended before.
pub async fn waiting_tells_the_exit_status(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let spec = spec("a", vec![harness.service("main", Program::Exits)]);
    let stack = orchestrator.deploy(&spec).await.expect("deployed");
    for _ in 0..2 {
        let waited = timeout(PATIENCE, orchestrator.wait_stopped(&spec.name)).await.expect("in time").expect("a stack");
        assert_eq!(waited.id, stack.id);
        assert_eq!(waited.services[0].state, ServiceState::Exited { status: Some(3) });
        assert_eq!(waited.services[0].pid, None);
        assert!(!waited.is_running());
    }
    remove(&*orchestrator, &stack.id).await;
}

/// `wait_stopped` goes on while all runs, and is `NotFound` when the stack is removed.
pub async fn waiting_ends_with_the_removal(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let stack = orchestrator.deploy(&sleeper(harness, "a")).await.expect("deployed");
    let mut waiting = pin!(orchestrator.wait_stopped(&stack.name));
    assert!(timeout(Duration::from_millis(200), &mut waiting).await.is_err(), "nothing has stopped");
    let (waited, removed) = tokio::join!(timeout(PATIENCE, waiting), orchestrator.remove(&stack.id));
    removed.expect("removed");
    assert_not_found(waited.expect("in time"), Kind::Stack);
}

/// A stack that is put to sleep has no processes, and is the same one when it wakes.
pub async fn a_stack_sleeps_and_wakes(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let awake = orchestrator.deploy(&sleeper(harness, "a")).await.expect("deployed");
    for _ in 0..2 {
        orchestrator.set_running(&awake.name, false).await.expect("asleep");
        let asleep = orchestrator.get(&awake.name).await.expect("a stack");
        assert_eq!((&asleep.id, &asleep.labels), (&awake.id, &awake.labels));
        assert_eq!((asleep.services[0].state, asleep.services[0].pid), (ServiceState::Asleep, None));
        assert!(!pids(&awake).into_iter().any(|pid| harness.is_alive(pid)));
        let waited = timeout(PATIENCE, orchestrator.wait_stopped(&awake.name)).await.expect("in time");
        assert_eq!(waited.expect("a stack"), asleep);
    }
    let mut before = None;
    for _ in 0..2 {
        orchestrator.set_running(&awake.name, true).await.expect("awake");
        let again = orchestrator.get(&awake.name).await.expect("a stack");
        assert!(again.is_running() && again.id == awake.id, "{again:?}");
        assert!(pids(&again).into_iter().all(|pid| harness.is_alive(pid)));
        assert_eq!(before.get_or_insert_with(|| again.clone()), &again, "what runs is not started again");
    }
    remove(&*orchestrator, &awake.id).await;
    assert!(!pids(&before.expect("it woke")).into_iter().any(|pid| harness.is_alive(pid)));
}

/// `set_running(true)` starts again what ended by itself.
pub async fn waking_starts_what_has_exited(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let spec = spec("a", vec![harness.service("main", Program::Exits), harness.service("other", Program::Sleeps)]);
    let stack = orchestrator.deploy(&spec).await.expect("deployed");
    let other = stack.services[1].pid;
    for _ in 0..2 {
        let waited = timeout(PATIENCE, orchestrator.wait_stopped(&spec.name)).await.expect("in time").expect("a stack");
        assert_eq!(waited.services[0].state, ServiceState::Exited { status: Some(3) });
        assert_eq!((waited.services[1].state, waited.services[1].pid), (ServiceState::Running, other));
        orchestrator.set_running(&spec.name, true).await.expect("started again");
    }
    remove(&*orchestrator, &stack.id).await;
}

/// What runs goes on when nobody holds the orchestrator any more, and the next one lists it.
pub async fn what_runs_outlives_its_handle(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let stack = orchestrator.deploy(&sleeper(harness, "a")).await.expect("deployed");
    drop(orchestrator);
    let next = harness.open();
    assert_eq!(next.list(&Selector::all()).await.expect("a list").found, std::slice::from_ref(&stack));
    assert!(pids(&stack).into_iter().all(|pid| harness.is_alive(pid)));
    remove(&*next, &stack.id).await;
    assert!(!pids(&stack).into_iter().any(|pid| harness.is_alive(pid)));
}

/// A handle works on stacks that another one deployed as on its own.
pub async fn another_handle_changes_and_removes(harness: &dyn Harness) {
    let (one, two) = (harness.open(), harness.open());
    let stack = one.deploy(&sleeper(harness, "a")).await.expect("deployed");
    let new = labels(&[("test.new", "1")]);
    two.set_labels(&stack.name, &new).await.expect("set");
    assert_eq!(one.get(&stack.name).await.expect("a stack").labels, new);
    let taken = two.deploy(&sleeper(harness, "a")).await;
    assert!(matches!(taken, Err(Error::AlreadyExists { .. })), "{taken:?}");
    two.set_running(&stack.name, false).await.expect("asleep");
    // Its end is told to the handle that started it by a task of that handle.
    timeout(PATIENCE, one.wait_stopped(&stack.name)).await.expect("in time").expect("a stack");
    assert_eq!(one.get(&stack.name).await.expect("a stack").services[0].state, ServiceState::Asleep);
    two.set_running(&stack.name, true).await.expect("awake");
    let awake = one.get(&stack.name).await.expect("a stack");
    assert!(awake.is_running(), "{awake:?}");
    remove(&*one, &stack.id).await;
    assert_not_found(two.get(&stack.name).await, Kind::Stack);
    assert!(!pids(&awake).into_iter().any(|pid| harness.is_alive(pid)));
}

/// `logs` returns the lines that were written, or the last of them.
pub async fn logs_are_lines(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let spec = spec("a", vec![harness.service("main", Program::Prints)]);
    let stack = orchestrator.deploy(&spec).await.expect("deployed");
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let written = orchestrator.logs(&spec.name, follow).take(3).map_ok(|line| line.text).try_collect::<Vec<_>>();
    assert_eq!(timeout(PATIENCE, written).await.expect("in time").expect("lines"), ["one", "two", "three"]);
    let read = async |tail| {
        let lines = orchestrator.logs(&spec.name, LogOptions { tail, ..LogOptions::default() });
        lines.map_ok(|line| (line.service.to_string(), line.text)).try_collect::<Vec<_>>().await.expect("lines")
    };
    let lines = |texts: &[&str]| texts.iter().map(|text| ("main".to_owned(), (*text).to_owned())).collect::<Vec<_>>();
    assert_eq!(read(None).await, lines(&["one", "two", "three"]));
    assert_eq!(read(Some(2)).await, lines(&["two", "three"]));
    assert_eq!(read(Some(100)).await, lines(&["one", "two", "three"]));
    assert_eq!(read(Some(0)).await, lines(&[]));
    let of = |service: &str| LogOptions { service: ServiceName::new(service).ok(), ..LogOptions::default() };
    let only: Vec<_> = orchestrator.logs(&spec.name, of("main")).try_collect().await.expect("lines");
    assert_eq!(only.len(), 3);
    assert_not_found(orchestrator.logs(&spec.name, of("other")).try_collect::<Vec<_>>().await, Kind::Service);
    remove(&*orchestrator, &stack.id).await;
}

/// Followed logs bring lines as they are written, and end when the stack is removed.
pub async fn followed_logs_go_on_until_the_removal(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let spec = spec("a", vec![harness.service("main", Program::Ticks)]);
    let stack = orchestrator.deploy(&spec).await.expect("deployed");
    let mut logs = orchestrator.logs(&spec.name, LogOptions { follow: true, ..LogOptions::default() });
    for n in 0..5 {
        let line = timeout(PATIENCE, logs.next()).await.expect("in time").expect("a line").expect("no error");
        assert_eq!(line.text, format!("tick {n}"));
    }
    let rest = async { logs.map_ok(|line| line.text).try_collect::<Vec<_>>().await };
    let (rest, removed) = tokio::join!(timeout(PATIENCE, rest), orchestrator.remove(&stack.id));
    removed.expect("removed");
    for (n, line) in rest.expect("it ends").expect("no error").into_iter().enumerate() {
        assert_eq!(line, format!("tick {}", n + 5));
    }
}

/// Services of one stack live and end together, in the order of the specification.
pub async fn several_services_are_one_stack(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let services = ["web", "api", "db"].map(|service| harness.service(service, Program::Sleeps));
    let spec = spec("a", services.into());
    let stack = orchestrator.deploy(&spec).await.expect("deployed");
    let order: Vec<_> = stack.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(order, ["web", "api", "db"]);
    assert!(stack.is_running() && pids(&stack).into_iter().all(|pid| harness.is_alive(pid)), "{stack:?}");
    assert_eq!(harness.open().list(&Selector::all()).await.expect("a list").found, std::slice::from_ref(&stack));
    remove(&*orchestrator, &stack.id).await;
    assert!(!pids(&stack).into_iter().any(|pid| harness.is_alive(pid)));
}

/// What cannot be started because it does not exist is `NotFound`, and leaves neither a stack nor its name taken.
pub async fn a_missing_program_leaves_nothing(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let missing = orchestrator.deploy(&spec("a", vec![harness.service("main", Program::Missing)])).await;
    match missing {
        Err(error @ Error::NotFound { kind: Kind::Image | Kind::File, .. }) => assert!(error.hint().is_some()),
        other => panic!("expected that the image or the program is not found, got {other:?}"),
    }
    assert_eq!(names(&*orchestrator, &Selector::all()).await, [""; 0]);
    let stack = orchestrator.deploy(&sleeper(harness, "a")).await.expect("the name is free");
    remove(&*orchestrator, &stack.id).await;
}

/// If one service cannot be started, none is.
pub async fn a_failing_service_undoes_the_others(harness: &dyn Harness) {
    let orchestrator = harness.open();
    let services = vec![harness.service("first", Program::Sleeps), harness.service("second", Program::Missing)];
    let failed = orchestrator.deploy(&spec("a", services)).await;
    assert!(matches!(failed, Err(Error::NotFound { .. })), "{failed:?}");
    assert_eq!(names(&*orchestrator, &Selector::all()).await, [""; 0]);
    let stack = orchestrator.deploy(&sleeper(harness, "a")).await.expect("the name is free");
    remove(&*orchestrator, &stack.id).await;
}

/// A deployment whose future is dropped is undone, wherever it was.
pub async fn a_dropped_deployment_leaves_nothing(harness: &dyn Harness) {
    let orchestrator = harness.open();
    for polls in 1..=4 {
        let spec = sleeper(harness, "a");
        {
            let mut deployment = pin!(orchestrator.deploy(&spec));
            for _ in 0..polls {
                if let std::task::Poll::Ready(deployed) = poll!(&mut deployment) {
                    remove(&*orchestrator, &deployed.expect("deployed").id).await;
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        take_over(harness, &*orchestrator, &spec).await;
    }
    for milliseconds in [0, 1, 2, 5, 10, 20, 50, 100, 200, 400] {
        let spec = sleeper(harness, "a");
        if let Ok(deployed) = timeout(Duration::from_millis(milliseconds), orchestrator.deploy(&spec)).await {
            remove(&*orchestrator, &deployed.expect("deployed").id).await;
        }
        take_over(harness, &*orchestrator, &spec).await;
    }
}

/// Deploys a stack of the same name as soon as that is possible, and sees that the dropped one does not come back.
async fn take_over(harness: &dyn Harness, orchestrator: &dyn Orchestrator, dropped: &StackSpec) {
    let deadline = Instant::now() + PATIENCE;
    let next = sleeper(harness, dropped.name.as_str());
    let stack = loop {
        match orchestrator.deploy(&next).await {
            Ok(stack) => break stack,
            Err(Error::AlreadyExists { .. }) => {
                assert!(Instant::now() < deadline, "the dropped deployment still has the name");
                sleep(Duration::from_millis(5)).await;
            }
            Err(other) => panic!("expected to take over the name, got {other:?}"),
        }
    };
    assert_eq!(stack.attempt, next.attempt);
    assert!(pids(&stack).into_iter().all(|pid| harness.is_alive(pid)), "{stack:?}");
    remove(orchestrator, &stack.id).await;
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_behaviour_is_a_test() {
        let source = include_str!("orchestrator.rs");
        let (_, list) = source.split_once("@tests $harness;").expect("the list");
        let (list, _) = list.split_once('}').expect("its end");
        let listed: Vec<_> = list.split_whitespace().collect();
        let written: Vec<_> = source
            .lines()
            .chain(include_str!("orchestrator/features.rs").lines())
            .filter_map(|line| line.strip_prefix("pub async fn ")?.strip_suffix("(harness: &dyn Harness) {"))
            .collect();
        assert!(!written.is_empty());
        assert_eq!(listed, written);
    }
}
