//! Deploying what was resolved, and waiting until it answers.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::awaited::{awaited, complaint};
use super::inner::Inner;
use super::last_line::LastLine;
use super::plan::Draft;
use super::ready::Patience;
use super::record::{Record, State};
use super::{Phase, Step, StepReporter, ready, secrets};
use crate::databases::{Database, Databases};
use crate::error::{Error, Result};
use crate::git::Resolved;
use crate::listing::usable_dir;
use crate::name::ServiceName;
use crate::orchestrator::{Condition, Mount, Publish, ServiceState, Stack, StackId, StackSpec};
use crate::secret::Secret;

/// How often somebody who waits is told what is new.
const LOOK: Duration = Duration::from_millis(250);

/// Tells whoever asked for an environment what is being done.
pub(super) struct Teller {
    begun: Instant,
    report: StepReporter,
}

impl Teller {
    pub(super) fn new(report: StepReporter) -> Self {
        Self { begun: Instant::now(), report }
    }

    pub(super) fn tell(&self, phase: Phase, service: Option<String>, detail: Option<String>) {
        let elapsed_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        (self.report)(Step { phase, service, detail, elapsed_ms });
    }
}

/// Does something unless it is to be given up; then it is dropped.
pub(super) async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::Cancelled),
        done = work => done,
    }
}

impl Draft {
    /// Returns what is to be deployed.
    pub(super) fn spec(&self, inner: &Inner, token: Option<&Secret>, database: Option<&Database>) -> Result<StackSpec> {
        let record = &self.record;
        let mut spec = self.stack(inner, &self.render(inner, database)?)?;
        secrets::give(inner, record, &mut spec, token, database)?;
        for service in &mut spec.services {
            if service.container.user.is_none() {
                service.user = service.user.or(inner.options.run_as);
            }
            if let Some(runner) = &inner.options.runner {
                service.sandboxed = true;
                service.mounts.extend(visible(runner, [&self.back, &self.front]));
            }
            if let Some(runner) = inner.options.runner.as_ref().filter(|_| service.command.is_empty()) {
                let script = ["/bin/sh".to_owned(), runner.display().to_string()];
                service.command = script.into_iter().chain(service.arguments.drain(..)).collect();
            }
            // What a route leads to is published, wherever it runs.
            for route in record.routes.iter().filter(|route| route.service == service.name) {
                if service.publish.iter().all(|publish| publish.target != route.port) {
                    service.publish.push(Publish::anywhere(route.port));
                }
                // In a container, what listens on loopback is reached by nobody.
                let host = if inner.options.runner.is_some() { "127.0.0.1" } else { "0.0.0.0" };
                service.env.entry("HOST".to_owned()).or_insert_with(|| host.to_owned());
            }
        }
        Ok(spec)
    }
}

/// Returns what a service that is a process sees of the host, where there are sandboxes: the script that runs it, and the repositories that it clones,
/// where those are directories.
fn visible(runner: &Path, sources: [&Option<Resolved>; 2]) -> Vec<Mount> {
    let repositories = sources.into_iter().flatten().filter_map(Resolved::local_path).filter(|path| usable_dir(path));
    repositories.chain([runner.to_owned()]).map(|path| Mount::same(path, true)).collect()
}

/// Deploys a stack, and returns it once each of its routes answers by itself. Nothing leads to it yet; where it is the first of its environment
/// (`hold`), requests for its names wait.
pub(super) async fn deploy(
    inner: &Inner,
    draft: &Draft,
    spec: &StackSpec,
    hold: bool,
    patience: &Patience,
    cancel: &CancellationToken,
    teller: &Teller,
) -> Result<Stack> {
    teller.tell(Phase::Deploying, None, Some(count(spec.services.len())));
    // A service that is waited for may never come.
    let deploying = async {
        let mut deploying = inner.orchestrator.deploy(spec);
        tokio::select! {
            deployed = &mut deploying => return deployed,
            never = tell_of_dependencies(inner, spec, teller) => match never {},
            () = tokio::time::sleep(patience.left()) => {}
        }
        // Before it is undone, which begins when what deploys is dropped.
        let begun = inner.orchestrator.get(&spec.name).await.ok();
        let late = begun.as_ref().and_then(|stack| late(spec, stack));
        let (service, last) = late.unzip();
        let last = last.unwrap_or_else(|| "its services do not start".to_owned());
        let log = inner.log_tail(&spec.name, service).await;
        drop(deploying);
        Err(Error::NotReady { waited: patience.waited(), last, log })
    };
    unless_cancelled(cancel, deploying).await?;
    if hold {
        // Whoever opens it early waits for it. Not before: now there is a stack that says whose these routes are.
        inner.hold_requests(&draft.record).await?;
    }
    teller.tell(Phase::Building, None, None);
    let checks = ready::checks(&draft.record, draft.template.settings());
    let answering = ready::answer_themselves(inner, spec, &checks, patience, teller);
    unless_cancelled(cancel, answering).await?;
    inner.orchestrator.get(&spec.name).await
}

/// Returns the service that a deployment has waited for too long, and what there is to say of it.
fn late<'a>(spec: &'a StackSpec, stack: &Stack) -> Option<(&'a ServiceName, String)> {
    if let Some(on) = awaited(spec, stack).first() {
        return Some((&on.service, complaint(on)));
    }
    let starting = stack.services.iter().find(|service| service.state == ServiceState::Starting)?;
    let service = spec.services.iter().find(|service| service.name == starting.name)?;
    Some((&service.name, format!("service {} does not start", service.name)))
}

/// Tells what the services that others wait for write last, as long as those are waited for.
async fn tell_of_dependencies(inner: &Inner, spec: &StackSpec, teller: &Teller) -> Infallible {
    let mut depends_on = spec.services.iter().flat_map(|service| &service.depends_on);
    if depends_on.all(|on| on.condition == Condition::Started) {
        return std::future::pending().await;
    }
    let mut last_line = None;
    loop {
        tokio::time::sleep(LOOK).await;
        // Until it is begun, and where the engine does not answer for a moment, there is nothing to tell.
        let Ok(stack) = inner.orchestrator.get(&spec.name).await else { continue };
        let awaited: BTreeSet<_> = awaited(spec, &stack).into_iter().map(|on| &on.service).collect();
        let last_line = last_line.get_or_insert_with(|| LastLine::follow(inner, &spec.name));
        last_line.tell(teller, Phase::Building, |service| awaited.contains(service));
    }
}

fn count(services: usize) -> String {
    if services == 1 { "1 service".into() } else { format!("{services} services") }
}

/// Makes the names reach a stack that answers, sees that they do, and says so in its labels: from then on it is the environment.
pub(super) async fn announce(
    inner: &Inner,
    draft: &Draft,
    stack: &Stack,
    patience: &Patience,
    cancel: &CancellationToken,
    teller: &Teller,
) -> Result<Record> {
    teller.tell(Phase::Waiting, None, Some("for the proxy".into()));
    let taken = inner.take_names(&draft.record, stack).await?;
    // What somebody has set a route of leads wherever that does.
    let mut checks = ready::checks(&draft.record, draft.template.settings());
    checks.retain(|check| taken.contains(&check.route.host));
    unless_cancelled(cancel, ready::answer_through_proxy(inner, &checks, patience)).await?;
    let record = Record { state: State::Ready, ..draft.record.clone() };
    inner.orchestrator.set_labels(&stack.name, &record.labels(&inner.instance.id)?).await?;
    teller.tell(Phase::Ready, None, None);
    Ok(record)
}

/// Removes the stack of an attempt, whether it got so far as to be listed or not.
pub(super) async fn undo_deploy(inner: &Inner, record: &Record) -> Result<()> {
    inner.orchestrator.remove(&StackId::of(&record.stack()?, &record.attempt)).await
}

/// Deletes a database that may be gone already.
pub(super) async fn delete_database(databases: &Databases, database: &Database) -> Result<()> {
    match databases.delete_for_environment(&database.id).await {
        Err(Error::NotFound { .. }) => Ok(()),
        deleted => deleted,
    }
}
