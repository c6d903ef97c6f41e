//! The wrapper that fails on purpose does what its plan says, and nothing else.
#![expect(clippy::unwrap_used, reason = "what fails must fail the test")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use ondemand_core::fakes::{ANY, FakeStore, Fault, FaultPlan, Faulty};
use ondemand_core::orchestrator::{LogLine, LogOptions, Stack, StackId, StackSpec};
use ondemand_core::router::{Route, Table, Upstream};
use ondemand_core::{
    Code, Error, Hostname, Labels, Listing, Orchestrator, Result, Router, Selector, ServiceName, SnapshotStore,
    StackName, VolumeName,
};

fn store() -> (FakeStore, Arc<dyn SnapshotStore>, FaultPlan) {
    let (inner, plan) = (FakeStore::new(), FaultPlan::new());
    let wrapped: Arc<dyn SnapshotStore> = Arc::new(inner.clone());
    (inner, Arc::new(Faulty::new(wrapped, plan.clone())), plan)
}

fn volume(name: &str) -> VolumeName {
    VolumeName::new(name).unwrap()
}

fn broken() -> Error {
    Error::backend("fake", "working", "broken on purpose")
}

async fn names(store: &FakeStore) -> Vec<String> {
    store.volumes(&Selector::all()).await.unwrap().found.into_iter().map(|v| v.name.to_string()).collect()
}

/// Shows that a future does not end: time stands still but for the timer, so nothing is really waited for.
async fn assert_never_ends(future: impl Future) {
    assert!(tokio::time::timeout(Duration::from_secs(3600), future).await.is_err(), "it ended");
}

#[tokio::test]
async fn only_the_planned_call_fails_and_nothing_is_done() {
    let (inner, store, plan) = store();
    plan.on("create_volume", 2, Fault::fail_before(broken));
    store.create_volume(&volume("a"), &Labels::new()).await.unwrap();
    assert_eq!(store.volumes(&Selector::all()).await.unwrap().found.len(), 1);
    assert_eq!(store.create_volume(&volume("b"), &Labels::new()).await.unwrap_err().code(), Code::Backend);
    store.create_volume(&volume("c"), &Labels::new()).await.unwrap();
    assert_eq!(names(&inner).await, ["a", "c"]);
    let calls = plan.calls();
    let log: Vec<_> = calls.iter().map(|c| (c.method, c.subject.as_str(), c.number, c.performed)).collect();
    let expected = [
        ("create_volume", "a", 1, true),
        ("volumes", "", 1, true),
        ("create_volume", "b", 2, false),
        ("create_volume", "c", 3, true),
    ];
    assert_eq!(log, expected);
}

#[tokio::test]
async fn a_lost_answer_is_of_something_done() {
    let (inner, store, plan) = store();
    plan.on("create_volume", 1, Fault::fail_after(broken));
    plan.on("create_volume", 2, Fault::fail_after(broken));
    assert_eq!(store.create_volume(&volume("a"), &Labels::new()).await.unwrap_err().code(), Code::Backend);
    assert_eq!(names(&inner).await, ["a"]);
    // What could not be done says why.
    assert_eq!(store.create_volume(&volume("a"), &Labels::new()).await.unwrap_err().code(), Code::AlreadyExists);
}

#[tokio::test(start_paused = true)]
async fn what_is_cut_off_is_done_and_what_stalls_is_not() {
    let (inner, store, plan) = store();
    plan.on("create_volume", 1, Fault::CutOff);
    plan.on("create_volume", 2, Fault::Stall);
    assert_never_ends(store.create_volume(&volume("a"), &Labels::new())).await;
    assert_never_ends(store.create_volume(&volume("b"), &Labels::new())).await;
    assert_eq!(names(&inner).await, ["a"]);
    assert_eq!(plan.calls().iter().map(|c| c.performed).collect::<Vec<_>>(), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_delay_only_delays() {
    let (inner, store, plan) = store();
    plan.on_every("create_volume", Fault::Delay(Duration::from_secs(5)));
    let start = tokio::time::Instant::now();
    store.create_volume(&volume("a"), &Labels::new()).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    store.delete_volume(&volume("a")).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert_eq!(names(&inner).await, Vec::<String>::new());
}

#[tokio::test]
async fn every_call_of_any_method_can_be_chosen() {
    let (inner, store, plan) = store();
    plan.on(ANY, 2, Fault::fail_before(broken));
    store.create_volume(&volume("a"), &Labels::new()).await.unwrap();
    assert!(store.sync().await.is_err());
    store.sync().await.unwrap();
    assert_eq!(inner.syncs(), 1);
    plan.on_every(ANY, Fault::fail_before(broken));
    assert!(store.usage().await.is_err());
    assert!(store.delete_volume(&volume("a")).await.is_err());
    plan.clear();
    store.delete_volume(&volume("a")).await.unwrap();
    assert_eq!((plan.count(ANY), plan.count("sync"), plan.count("snapshot")), (6, 2, 0));
    // The last plan for a call is the one that counts.
    plan.on_every("sync", Fault::Stall);
    plan.on("sync", 3, Fault::fail_before(broken));
    assert!(store.sync().await.is_err());
}

#[tokio::test]
async fn what_is_passed_over_is_done_and_not_counted() {
    let (inner, store, plan) = store();
    plan.pass_over("create_volume", 1);
    plan.on_every("create_volume", Fault::fail_before(broken));
    store.create_volume(&volume("a"), &Labels::new()).await.unwrap_err();
    store.create_volume(&volume("b"), &Labels::new()).await.unwrap();
    plan.on(ANY, 2, Fault::fail_before(broken));
    store.create_volume(&volume("c"), &Labels::new()).await.unwrap();
    assert_eq!(store.delete_volume(&volume("b")).await.unwrap_err().code(), Code::Backend);
    assert_eq!((names(&inner).await, plan.count(ANY)), (vec!["b".to_owned(), "c".to_owned()], 2));
}

#[tokio::test]
async fn a_call_can_be_waited_for() {
    let (inner, store, plan) = store();
    plan.on("create_volume", 2, Fault::CutOff);
    let creating = tokio::spawn(async move {
        for name in ["a", "b"] {
            store.create_volume(&volume(name), &Labels::new()).await.unwrap();
        }
    });
    assert_eq!(plan.reached("create_volume", 1).await.subject, "a");
    assert_eq!(plan.performed("create_volume", 2).await.subject, "b");
    assert_eq!(plan.performed(ANY, 2).await.number, 2);
    assert!(!creating.is_finished());
    creating.abort();
    assert!(creating.await.unwrap_err().is_cancelled());
    assert_eq!(names(&inner).await, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_made_is_waited_for_without_end() {
    let (_, store, plan) = store();
    plan.on("sync", 1, Fault::Stall);
    assert_never_ends(plan.reached("sync", 1)).await;
    assert_never_ends(store.sync()).await;
    plan.reached("sync", 1).await;
    assert_never_ends(plan.performed("sync", 1)).await;
}

#[tokio::test]
async fn routers_are_wrapped() {
    let (inner, plan) = (Arc::new(Table::new()), FaultPlan::new());
    let router: Arc<dyn Router> = Arc::new(Faulty::new(Arc::clone(&inner) as Arc<dyn Router>, plan.clone()));
    let host = Hostname::new("a.example").unwrap();
    let route = Route::new(host.clone(), [Upstream::new("10.0.0.1:80").unwrap()]);
    plan.on("set", 1, Fault::fail_before(broken));
    plan.on("remove", 1, Fault::fail_after(broken));
    assert!(router.set(&route).await.is_err());
    assert_eq!(inner.list().await.unwrap(), []);
    router.set(&route).await.unwrap();
    assert_eq!(router.list().await.unwrap(), [route]);
    assert!(router.remove(&host).await.is_err());
    assert_eq!(inner.list().await.unwrap(), []);
    assert_eq!(plan.calls().iter().map(|c| c.method).collect::<Vec<_>>(), ["set", "set", "list", "remove"]);
}

ondemand_core::router_conformance!(wrapped_table, Arc::new(Faulty::new(Arc::new(Table::new()), FaultPlan::new())));

/// An orchestrator that knows nothing but two lines of log.
#[derive(Debug)]
struct Lines;

#[async_trait]
impl Orchestrator for Lines {
    async fn deploy(&self, _: &StackSpec) -> Result<Stack> {
        Err(broken())
    }
    async fn get(&self, _: &StackName) -> Result<Stack> {
        Err(broken())
    }
    async fn list(&self, _: &Selector) -> Result<Listing<Stack>> {
        Ok(Listing::default())
    }
    async fn set_labels(&self, _: &StackName, _: &Labels) -> Result<()> {
        Ok(())
    }
    async fn set_running(&self, _: &StackName, _: bool) -> Result<()> {
        Ok(())
    }
    async fn remove(&self, _: &StackId) -> Result<()> {
        Ok(())
    }
    async fn wait_stopped(&self, _: &StackName) -> Result<Stack> {
        Err(broken())
    }
    fn logs(&self, _: &StackName, _: LogOptions) -> BoxStream<'static, Result<LogLine>> {
        let line = |text: &str| LogLine { service: ServiceName::new("db").unwrap(), time: None, text: text.into() };
        stream::iter([Ok(line("one")), Ok(line("two"))]).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn orchestrators_are_wrapped_and_their_logs_too() {
    let plan = FaultPlan::new();
    let orchestrator: Arc<dyn Orchestrator> =
        Arc::new(Faulty::new(Arc::new(Lines) as Arc<dyn Orchestrator>, plan.clone()));
    let name = StackName::new("a").unwrap();
    let read = async |mut lines: BoxStream<'static, Result<LogLine>>| {
        let mut read = Vec::new();
        loop {
            match tokio::time::timeout(Duration::from_secs(60), lines.next()).await {
                Ok(Some(Ok(line))) => read.push(line.text),
                Ok(Some(Err(error))) => read.push(error.code().to_string()),
                Ok(None) => return (read.join(" "), "end"),
                Err(_) => return (read.join(" "), "silence"),
            }
        }
    };
    let logs = || orchestrator.logs(&name, LogOptions::default());
    assert_eq!(read(logs()).await, ("one two".into(), "end"));
    let expected = [
        (Fault::fail_before(broken), ("backend", "end")),
        (Fault::fail_after(broken), ("one two backend", "end")),
        (Fault::Delay(Duration::from_secs(5)), ("one two", "end")),
        (Fault::CutOff, ("one two", "silence")),
        (Fault::Stall, ("", "silence")),
    ];
    for (number, (fault, (text, end))) in expected.into_iter().enumerate() {
        plan.on("logs", number + 2, fault.clone());
        assert_eq!(read(logs()).await, (text.to_owned(), end), "{fault:?}");
    }
    plan.on("remove", 1, Fault::Stall);
    assert_never_ends(orchestrator.remove(&StackId("1".into()))).await;
    assert_eq!(orchestrator.list(&Selector::all()).await.unwrap().found, []);
    orchestrator.set_running(&name, false).await.unwrap();
    assert!(
        orchestrator.deploy(&StackSpec::new(name, ondemand_core::AttemptId::random().unwrap(), vec![])).await.is_err()
    );
    assert_eq!(plan.count("deploy"), 1);
}
