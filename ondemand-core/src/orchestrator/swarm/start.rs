//! Starting services in the order of what they wait for, and seeing that they do start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bollard::models::{Task, TaskState};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::refusal::{Refusal, never_ran, no_place};
use super::registry::Told;
use super::state::Shared;
use super::tasks::{Doing, complaint, doing, newest, since, state};
use super::whole::Whole;
use super::{health, logs};
use crate::error::{Error, Result};
use crate::name::ServiceName;
use crate::orchestrator::{Condition, ServiceSpec, StackSpec};
use crate::pause;

/// How long a task may have no place to run before that counts: what was just removed may still be in its way.
const NO_PLACE: time::Duration = time::Duration::seconds(8);
/// How long a container may take to start, on a busy node. Where it is not known whether its health is checked, it is taken to be waited for after that.
const STARTED: time::Duration = time::Duration::seconds(15);
/// How often what others wait for may end by itself, in one place, before that is all it will do.
const MOST_ENDS: usize = 3;
/// How long a manager may not answer while something is waited for.
const MISSING: Duration = Duration::from_secs(30);
/// From when on not only tasks are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// When one that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Sees a deployment again and again, with growing pauses, and forgives a manager that is away for a moment.
pub(super) struct Watch {
    begun: Instant,
    away: Option<Instant>,
    images: health::Images,
    /// Which versions of its tasks were seen last.
    tasks: BTreeSet<(Option<String>, Option<u64>)>,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), away: None, images: health::Images::default(), tasks: BTreeSet::new() }
    }

    /// Returns the deployment as it is now.
    pub(super) async fn see(&mut self, shared: &Shared, names: &super::names::Names) -> Result<Whole> {
        loop {
            let client = shared.engine.client().await?;
            match Whole::see(client, names.clone(), None).await {
                Ok(mut whole) => {
                    self.away = None;
                    whole.checked = self.images.checked(client, &whole).await;
                    self.tasks = versions(whole.tasks());
                    return Ok(whole);
                }
                Err(error) if error.is_transient() => {
                    if self.away.get_or_insert_with(Instant::now).elapsed() > MISSING {
                        return Err(error);
                    }
                    tracing::debug!(%error, "the manager does not answer; trying again");
                    sleep(ASK_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until a task has changed, or it is time to look at everything again. A manager tells no events of tasks, and its tasks alone are asked for
    /// with the least effort.
    pub(super) async fn rest(&self, shared: &Shared, names: &super::names::Names) {
        let until = Instant::now() + LOOK_AGAIN;
        loop {
            sleep(pause::after(self.begun.elapsed())).await;
            if Instant::now() >= until {
                return;
            }
            let Ok(client) = shared.engine.client().await else { return };
            match super::engine::tasks(client, names.filter()).await {
                Ok(tasks) if versions(&tasks) == self.tasks => {}
                _ => return,
            }
        }
    }
}

fn versions(tasks: &[Task]) -> BTreeSet<(Option<String>, Option<u64>)> {
    tasks.iter().map(|task| (task.id.clone(), task.version.as_ref().and_then(|version| version.index))).collect()
}

/// How far a service has come.
#[derive(Debug)]
enum Progress {
    /// What it was last seen to do.
    Pending(String),
    Started,
    /// A node refused its task.
    Refused(Refusal),
    Failed(Error),
}

/// Creates the services of a stack, each as soon as what it depends on has happened, and returns once all were started. `told` is what the registry of a
/// service's image says about that.
pub(super) async fn start<F>(
    shared: &Shared,
    stack: &StackSpec,
    names: &super::names::Names,
    cancelled: &CancellationToken,
    told: impl Fn(&ServiceSpec) -> Told,
    create: impl Fn(ServiceSpec) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let begun = Instant::now();
    let mut watch = Watch::new();
    let mut waiting: Vec<&ServiceSpec> = stack.services.iter().collect();
    let mut whole = None;
    loop {
        let (next, still): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|service| {
            service.depends_on.iter().all(|on| whole.as_ref().is_some_and(|whole| happened(stack, whole, on)))
        });
        waiting = still;
        if !next.is_empty() {
            // In their order, or the ports and places of the first ones would be for the last.
            for service in next {
                create(service.clone()).await?;
            }
            watch = Watch::new();
        }
        let seen = watch.see(shared, names).await?;
        let created = || stack.services.iter().filter(|service| !waiting.iter().any(|w| w.name == service.name));
        // Another process removes the stack: it would be waited for in vain.
        if created().any(|service| seen.found(&service.name).is_none()) {
            return Err(Error::Cancelled);
        }
        let mut pending = None;
        for service in created() {
            match progress(service, &seen) {
                Progress::Started => {}
                Progress::Pending(what) => pending = pending.or(Some((service, what))),
                Progress::Refused(refusal) => {
                    let error = refusal.error(service, told(service));
                    return Err(with_log(error, shared, &seen, &service.name).await);
                }
                Progress::Failed(error) => return Err(with_log(error, shared, &seen, &service.name).await),
            }
        }
        for service in &waiting {
            for on in &service.depends_on {
                if let Some(error) = cannot_happen(&seen, on) {
                    return Err(with_log(error, shared, &seen, &on.service).await);
                }
            }
        }
        if pending.is_none() && waiting.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > shared.patience {
            let (service, last) = match (pending, waiting.first()) {
                (Some((service, what)), _) => (service, format!("service {}: {what}", service.name)),
                (None, Some(service)) => (*service, format!("service {} waits for others", service.name)),
                (None, None) => return Ok(()),
            };
            let log = logs::end(shared, &seen, &service.name).await;
            return Err(Error::NotReady { waited: begun.elapsed(), last, log });
        }
        whole = Some(seen);
        tokio::select! {
            () = watch.rest(shared, names) => {}
            () = cancelled.cancelled() => return Err(Error::Cancelled),
        }
    }
}

/// Waits until services have tasks that are not among `old`, and those were started.
pub(super) async fn restarted(
    shared: &Shared,
    names: &super::names::Names,
    services: &[ServiceName],
    old: &BTreeSet<String>,
) -> Result<()> {
    let begun = Instant::now();
    let mut watch = Watch::new();
    loop {
        let whole = watch.see(shared, names).await?;
        let new = |service: &ServiceName| {
            let tasks = whole.tasks_of(service);
            let last = newest(&tasks);
            let checked = whole.checked.get(service).copied();
            let is_new = |task: &&Task| task.id.as_ref().is_some_and(|id| !old.contains(id));
            let ended = tasks.iter().any(|task| is_new(task) && matches!(doing(task), Doing::Ended(_)));
            !last.is_empty() && last.iter().all(|task| is_new(task) && (ended || has_started(task, checked)))
        };
        if services.iter().all(new) {
            return Ok(());
        }
        if begun.elapsed() > shared.patience {
            let late = services.iter().find(|service| !new(service));
            let why = late.and_then(|service| {
                newest(&whole.tasks_of(service)).into_iter().find_map(complaint).map(str::to_owned)
            });
            let last = match (late, why) {
                (Some(service), Some(why)) => format!("service {service}: {why}"),
                (Some(service), None) => format!("service {service} was not started"),
                (None, _) => "its services were not started".into(),
            };
            return Err(Error::NotReady { waited: begun.elapsed(), last, log: Vec::new() });
        }
        watch.rest(shared, names).await;
    }
}

/// Tells whether a task has, or had, a process. A task whose health is `checked` is "starting" until it is healthy, which is not waited for.
fn has_started(task: &Task, checked: Option<bool>) -> bool {
    match (doing(task), checked) {
        (Doing::Running | Doing::Ended(_) | Doing::Stopped, _) => true,
        (Doing::Starting, Some(checked)) => checked,
        (Doing::Starting, None) => OffsetDateTime::now_utc() - since(task) > STARTED,
        (Doing::Waiting, _) => false,
    }
}

fn progress(service: &ServiceSpec, whole: &Whole) -> Progress {
    let tasks = whole.tasks_of(&service.name);
    let last = newest(&tasks);
    if last.is_empty() {
        return if service.placement.mode == crate::orchestrator::DeployMode::Replicated(0) {
            Progress::Started
        } else {
            Progress::Pending("it has no task yet".into())
        };
    }
    let checked = whole.checked.get(&service.name).copied();
    // One that ends again and again was started, though it may never be seen to run.
    let has_run = tasks.iter().any(|task| matches!(doing(task), Doing::Ended(_)) && !never_ran(task));
    let up = |task: &&Task| matches!(doing(task), Doing::Running | Doing::Starting);
    if has_run || last.iter().any(up) {
        let started = last.iter().all(|task| has_run || has_started(task, checked));
        let what = || Progress::Pending("not all of its replicas were started".into());
        return if started { Progress::Started } else { what() };
    }
    // It is tried again for ever, elsewhere or not.
    if let Some(task) = tasks.iter().find(|task| never_ran(task)) {
        let why = complaint(task).unwrap_or("it could not be started").to_owned();
        return Progress::Refused(Refusal { why, node: whole.nodes.name_of(task).to_owned() });
    }
    let stuck = last.iter().find(|task| state(task) == TaskState::PENDING && complaint(task).is_some());
    if let Some((task, why)) = stuck.and_then(|task| complaint(task).map(|why| (task, why))) {
        if OffsetDateTime::now_utc() - since(task) > NO_PLACE {
            return Progress::Failed(no_place(service, why));
        }
        return Progress::Pending(why.to_owned());
    }
    let doing = last.iter().map(|task| format!("its task is {}", state(task))).next().unwrap_or_default();
    Progress::Pending(doing)
}

/// Tells whether what a service waits for has happened.
fn happened(stack: &StackSpec, whole: &Whole, on: &crate::orchestrator::Dependency) -> bool {
    let tasks = whole.tasks_of(&on.service);
    let last = newest(&tasks);
    let spec = stack.services.iter().find(|service| service.name == on.service);
    match on.condition {
        Condition::Started => spec.is_some_and(|spec| matches!(progress(spec, whole), Progress::Started)),
        Condition::Healthy => !last.is_empty() && last.iter().all(|task| doing(task) == Doing::Running),
        Condition::CompletedSuccessfully => {
            !last.is_empty() && last.iter().all(|task| doing(task) == Doing::Ended(Some(0)))
        }
    }
}

/// Returns the error if what a service waits for will never happen.
fn cannot_happen(whole: &Whole, on: &crate::orchestrator::Dependency) -> Option<Error> {
    let tasks = whole.tasks_of(&on.service);
    if let Some(error) = ends_again_and_again(&tasks, on) {
        return Some(error);
    }
    // What the manager has not dealt with yet, it may start again.
    let settled = |task: &&Task| !matches!(task.desired_state, Some(TaskState::RUNNING | TaskState::COMPLETE));
    let over = newest(&tasks).into_iter().filter(settled).find(|task| match (on.condition, doing(task)) {
        (Condition::Healthy, Doing::Ended(_)) => true,
        (Condition::CompletedSuccessfully, Doing::Ended(status)) => status != Some(0),
        _ => false,
    })?;
    let reason = match (complaint(over), doing(over)) {
        (Some(why), _) => why.to_owned(),
        (None, Doing::Ended(Some(0))) => "it ended before it was healthy".to_owned(),
        (None, Doing::Ended(Some(status))) => format!("it ended with status {status}"),
        _ => "it ended".to_owned(),
    };
    Some(Error::ServiceFailed { service: on.service.to_string(), reason, log: Vec::new() })
}

/// Returns the error if what a service waits for is started again and again, in vain. A manager remembers five tasks of a place.
fn ends_again_and_again(tasks: &[&Task], on: &crate::orchestrator::Dependency) -> Option<Error> {
    let in_vain = |task: &Task| match (on.condition, doing(task)) {
        (Condition::Healthy, Doing::Ended(_)) => !never_ran(task),
        (Condition::CompletedSuccessfully, Doing::Ended(status)) => status != Some(0) && !never_ran(task),
        _ => false,
    };
    // One on every node has no number.
    let place = |task: &Task| (task.slot, task.slot.is_none().then(|| task.node_id.clone()));
    let mut ends: BTreeMap<_, Vec<&Task>> = BTreeMap::new();
    for task in tasks.iter().filter(|task| in_vain(task)) {
        ends.entry(place(task)).or_default().push(task);
    }
    let ends = ends.into_values().find(|ends| ends.len() >= MOST_ENDS)?;
    let (count, last) = (ends.len(), ends.into_iter().max_by_key(|task| since(task))?);
    let why = complaint(last).map(|why| format!(": {why}")).unwrap_or_default();
    let reason = format!("it ended by itself {count} times{why}");
    Some(Error::ServiceFailed { service: on.service.to_string(), reason, log: Vec::new() })
}

/// Adds the end of the service's log to an error that has room for one.
async fn with_log(error: Error, shared: &Shared, whole: &Whole, service: &ServiceName) -> Error {
    match error {
        Error::ServiceFailed { service: name, reason, .. } => {
            let log = logs::end(shared, whole, service).await;
            Error::ServiceFailed { service: name, reason, log }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::TaskStatus;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn starting_for(seconds: i64) -> Task {
        let since = OffsetDateTime::now_utc() - time::Duration::seconds(seconds);
        let timestamp = Some(since.format(&Rfc3339).expect("a time"));
        let status = TaskStatus { state: Some(TaskState::STARTING), timestamp, ..TaskStatus::default() };
        Task { status: Some(status), ..Task::default() }
    }

    #[test]
    fn a_container_that_takes_long_to_start_has_not_started() {
        assert!(!has_started(&starting_for(5), None), "nothing is known yet");
        assert!(!has_started(&starting_for(60), Some(false)), "it would run, if it had started");
        assert!(has_started(&starting_for(0), Some(true)), "it starts until it is healthy");
        assert!(has_started(&starting_for(60), None), "it is most likely not healthy");
    }
}
