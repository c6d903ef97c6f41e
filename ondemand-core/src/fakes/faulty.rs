//! A wrapper that fails, delays or cuts off any chosen call.

use std::fmt;
use std::future::{Future, pending};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::label::{Labels, Selector};
use crate::listing::{Listing, Unreadable};
use crate::name::{Hostname, SnapshotName, StackName, VolumeName};
use crate::orchestrator::{Expected, LogLine, LogOptions, Orchestrator, Stack, StackId, StackSpec, Tidied};
use crate::router::{Route, Router};
use crate::snapshot::{Snapshot, SnapshotStore, Usage, Volume};

/// Stands for every method, where calls of all of them are counted together.
pub const ANY: &str = "*";

type MakeError = Arc<dyn Fn() -> Error + Send + Sync>;

/// What goes wrong with a call.
#[derive(Clone)]
pub enum Fault {
    /// Nothing is done, and this is the answer.
    FailBefore(MakeError),
    /// It is done, and this is the answer: the one that got lost. If it could not be done, the answer is why.
    FailAfter(MakeError),
    /// It is done after this time.
    Delay(Duration),
    /// It is done, and there is never an answer.
    CutOff,
    /// Nothing is done, and there is never an answer.
    Stall,
}

impl Fault {
    /// Makes a [`Fault::FailBefore`].
    pub fn fail_before(error: impl Fn() -> Error + Send + Sync + 'static) -> Self {
        Self::FailBefore(Arc::new(error))
    }

    /// Makes a [`Fault::FailAfter`].
    pub fn fail_after(error: impl Fn() -> Error + Send + Sync + 'static) -> Self {
        Self::FailAfter(Arc::new(error))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailBefore(error) => f.debug_tuple("FailBefore").field(&error()).finish(),
            Self::FailAfter(error) => f.debug_tuple("FailAfter").field(&error()).finish(),
            Self::Delay(time) => f.debug_tuple("Delay").field(time).finish(),
            Self::CutOff => f.write_str("CutOff"),
            Self::Stall => f.write_str("Stall"),
        }
    }
}

/// One call, as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The name of the trait's method: `deploy`, `clone_snapshot`, `set`, …
    pub method: &'static str,
    /// What it was called for: a name or an id.
    pub subject: String,
    /// Which call of this method it was, from 1.
    pub number: usize,
    /// Whether the wrapped implementation has answered it.
    pub performed: bool,
}

/// Says which calls go wrong, and remembers which were made. Clones share what they say and remember.
///
/// ```
/// # use ondemand_core::{Error, fakes::{Fault, FaultPlan}};
/// let plan = FaultPlan::new();
/// plan.on("deploy", 2, Fault::fail_before(|| Error::backend("docker", "starting a container", "no route to host")));
/// plan.on_every("remove", Fault::CutOff);
/// ```
#[derive(Debug, Clone)]
pub struct FaultPlan {
    state: Arc<Mutex<State>>,
    /// Told of every call that begins or is performed.
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    faults: Vec<(&'static str, Option<usize>, Fault)>,
    calls: Vec<Call>,
    /// What is passed over after so many calls.
    passed_over: Vec<(&'static str, usize)>,
}

impl Default for FaultPlan {
    fn default() -> Self {
        Self { state: Arc::default(), changes: watch::Sender::new(()) }
    }
}

impl FaultPlan {
    /// Makes a plan by which nothing goes wrong.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the `number`-th call of `method` go wrong, counted from 1 since the plan was made. With [`ANY`], calls of all methods count.
    pub fn on(&self, method: &'static str, number: usize, fault: Fault) {
        assert!(number > 0, "calls are counted from 1");
        self.lock().faults.push((method, Some(number), fault));
    }

    /// Makes every call of `method` from now on go wrong, or with [`ANY`] every call.
    pub fn on_every(&self, method: &'static str, fault: Fault) {
        self.lock().faults.push((method, None, fault));
    }

    /// Passes over the calls of `method` after the first `kept`: they are performed, do not go wrong, and are neither counted nor remembered. For what is
    /// asked again and again while something goes on, so that the number of calls would be a measure of time.
    pub fn pass_over(&self, method: &'static str, kept: usize) {
        self.lock().passed_over.push((method, kept));
    }

    /// Lets everything go well again. Calls that never get an answer stay so; the count and the log go on.
    pub fn clear(&self) {
        self.lock().faults.clear();
    }

    /// Returns the calls made so far, in their order.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// Returns how many calls of `method` were made, or with [`ANY`] how many at all.
    pub fn count(&self, method: &str) -> usize {
        self.lock().calls.iter().filter(|call| method == ANY || call.method == method).count()
    }

    /// Waits until the `number`-th call of `method` has been made, and returns it.
    pub async fn reached(&self, method: &str, number: usize) -> Call {
        self.wait_for(method, number, |_| true).await
    }

    /// Waits until the wrapped implementation has answered the `number`-th call of `method`, and returns it.
    pub async fn performed(&self, method: &str, number: usize) -> Call {
        self.wait_for(method, number, |call| call.performed).await
    }

    async fn wait_for(&self, method: &str, number: usize, condition: impl Fn(&Call) -> bool) -> Call {
        let mut changes = self.changes.subscribe();
        loop {
            let calls = self.calls();
            let mut matching = calls.into_iter().filter(|call| method == ANY || call.method == method);
            if let Some(call) = matching.nth(number.saturating_sub(1)).filter(&condition) {
                return call;
            }
            // `self` holds the sender, so there is a next change or there is none for ever.
            if changes.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// Notes a call, and returns its place in the log and what goes wrong with it; nothing of one that is passed over. The fault that was planned last
    /// counts.
    fn enter(&self, method: &'static str, subject: &dyn fmt::Display) -> Option<(usize, Option<Fault>)> {
        let mut state = self.lock();
        let index = state.calls.len();
        let number = state.calls.iter().filter(|call| call.method == method).count() + 1;
        if state.passed_over.iter().any(|(passed_over, kept)| *passed_over == method && number > *kept) {
            return None;
        }
        state.calls.push(Call { method, subject: subject.to_string(), number, performed: false });
        let matches = |(planned, nth, _): &&(&'static str, Option<usize>, Fault)| match *planned {
            ANY => nth.is_none_or(|nth| nth == index + 1),
            planned => planned == method && nth.is_none_or(|nth| nth == number),
        };
        let fault = state.faults.iter().rfind(matches).map(|(_, _, fault)| fault.clone());
        drop(state);
        self.changes.send_replace(());
        Some((index, fault))
    }

    fn mark_performed(&self, index: usize) {
        self.lock().calls[index].performed = true;
        self.changes.send_replace(());
    }

    async fn run<T>(
        &self,
        method: &'static str,
        subject: &(dyn fmt::Display + Sync),
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let Some((index, fault)) = self.enter(method, subject) else { return call.await };
        match &fault {
            Some(Fault::FailBefore(error)) => return Err(error()),
            Some(Fault::Stall) => return pending().await,
            Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
            Some(Fault::FailAfter(_) | Fault::CutOff) | None => {}
        }
        let result = call.await;
        self.mark_performed(index);
        match fault {
            Some(Fault::FailAfter(error)) => result.and_then(|_| Err(error())),
            Some(Fault::CutOff) => pending().await,
            _ => result,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is a single push or assignment, so the state is whole even if a holder panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An implementation whose calls go wrong as a [`FaultPlan`] says.
#[derive(Debug)]
pub struct Faulty<T: ?Sized> {
    inner: Arc<T>,
    plan: FaultPlan,
}

impl<T: ?Sized> Faulty<T> {
    /// Wraps an implementation.
    pub fn new(inner: Arc<T>, plan: FaultPlan) -> Self {
        Self { inner, plan }
    }
}

#[async_trait]
impl<T: SnapshotStore + ?Sized> SnapshotStore for Faulty<T> {
    async fn create_volume(&self, name: &VolumeName, labels: &Labels) -> Result<Volume> {
        self.plan.run("create_volume", name, self.inner.create_volume(name, labels)).await
    }

    async fn clone_snapshot(&self, snapshot: &SnapshotName, name: &VolumeName, labels: &Labels) -> Result<Volume> {
        self.plan.run("clone_snapshot", name, self.inner.clone_snapshot(snapshot, name, labels)).await
    }

    async fn snapshot(&self, volume: &VolumeName, name: &SnapshotName, labels: &Labels) -> Result<Snapshot> {
        self.plan.run("snapshot", name, self.inner.snapshot(volume, name, labels)).await
    }

    async fn volumes(&self, selector: &Selector) -> Result<Listing<Volume>> {
        self.plan.run("volumes", selector, self.inner.volumes(selector)).await
    }

    async fn volume(&self, name: &VolumeName) -> Result<Option<Volume>> {
        self.plan.run("volume", name, self.inner.volume(name)).await
    }

    async fn snapshots(&self, selector: &Selector) -> Result<Listing<Snapshot>> {
        self.plan.run("snapshots", selector, self.inner.snapshots(selector)).await
    }

    async fn set_volume_labels(&self, name: &VolumeName, labels: &Labels) -> Result<()> {
        self.plan.run("set_volume_labels", name, self.inner.set_volume_labels(name, labels)).await
    }

    async fn set_volume_labels_soon(&self, name: &VolumeName, labels: &Labels) -> Result<()> {
        self.plan.run("set_volume_labels_soon", name, self.inner.set_volume_labels_soon(name, labels)).await
    }

    async fn epoch(&self) -> Result<String> {
        self.plan.run("epoch", &"", self.inner.epoch()).await
    }

    async fn sync(&self) -> Result<()> {
        self.plan.run("sync", &"", self.inner.sync()).await
    }

    async fn usage(&self) -> Result<Usage> {
        self.plan.run("usage", &"", self.inner.usage()).await
    }

    async fn space(&self) -> Result<Usage> {
        self.plan.run("space", &"", self.inner.space()).await
    }

    async fn revive(&self) -> Result<()> {
        self.plan.run("revive", &"", self.inner.revive()).await
    }

    async fn delete_volume(&self, name: &VolumeName) -> Result<()> {
        self.plan.run("delete_volume", name, self.inner.delete_volume(name)).await
    }

    async fn delete_snapshot(&self, name: &SnapshotName) -> Result<()> {
        self.plan.run("delete_snapshot", name, self.inner.delete_snapshot(name)).await
    }
}

#[async_trait]
impl<T: Orchestrator + ?Sized> Orchestrator for Faulty<T> {
    fn expect_deploy(&self) -> Expected {
        self.inner.expect_deploy()
    }

    async fn deploy(&self, stack: &StackSpec) -> Result<Stack> {
        self.plan.run("deploy", &stack.name, self.inner.deploy(stack)).await
    }

    async fn get(&self, name: &StackName) -> Result<Stack> {
        self.plan.run("get", name, self.inner.get(name)).await
    }

    async fn list(&self, selector: &Selector) -> Result<Listing<Stack>> {
        self.plan.run("list", selector, self.inner.list(selector)).await
    }

    async fn set_labels(&self, name: &StackName, labels: &Labels) -> Result<()> {
        self.plan.run("set_labels", name, self.inner.set_labels(name, labels)).await
    }

    async fn set_running(&self, name: &StackName, running: bool) -> Result<()> {
        self.plan.run("set_running", name, self.inner.set_running(name, running)).await
    }

    async fn remove(&self, id: &StackId) -> Result<()> {
        self.plan.run("remove", id, self.inner.remove(id)).await
    }

    async fn tidy(&self) -> Result<Tidied> {
        self.plan.run("tidy", &"", self.inner.tidy()).await
    }

    async fn wait_stopped(&self, name: &StackName) -> Result<Stack> {
        self.plan.run("wait_stopped", name, self.inner.wait_stopped(name)).await
    }

    fn secrets_dir(&self, stack: &StackName) -> PathBuf {
        self.inner.secrets_dir(stack)
    }

    /// A stream that fails after, or is cut off, gives its lines first.
    fn logs(&self, name: &StackName, options: LogOptions) -> BoxStream<'static, Result<LogLine>> {
        let Some((index, fault)) = self.plan.enter("logs", name) else { return self.inner.logs(name, options) };
        let lines = || {
            let lines = self.inner.logs(name, options);
            self.plan.mark_performed(index);
            lines
        };
        match fault {
            None => lines(),
            Some(Fault::FailBefore(error)) => stream::once(async move { Err(error()) }).boxed(),
            Some(Fault::FailAfter(error)) => lines().chain(stream::once(async move { Err(error()) })).boxed(),
            Some(Fault::Delay(time)) => {
                let lines = lines();
                let begun = async move {
                    tokio::time::sleep(time).await;
                    lines
                };
                stream::once(begun).flatten().boxed()
            }
            Some(Fault::CutOff) => lines().chain(stream::pending()).boxed(),
            Some(Fault::Stall) => stream::pending().boxed(),
        }
    }
}

#[async_trait]
impl<T: Router + ?Sized> Router for Faulty<T> {
    fn unreadable(&self) -> Vec<Unreadable> {
        self.inner.unreadable()
    }

    async fn set(&self, route: &Route) -> Result<()> {
        self.plan.run("set", &route.host, self.inner.set(route)).await
    }

    async fn remove(&self, host: &Hostname) -> Result<()> {
        self.plan.run("remove", host, self.inner.remove(host)).await
    }

    async fn list(&self) -> Result<Vec<Route>> {
        self.plan.run("list", &"", self.inner.list()).await
    }
}
