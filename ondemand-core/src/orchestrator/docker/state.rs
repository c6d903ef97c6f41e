//! What is remembered about stacks, and what is done to them, one thing at a time.

use std::collections::BTreeMap;

use bollard::models::HealthStatusEnum;
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use time::OffsetDateTime;

use super::containers::{self, Found};
use super::engine::Engine;
use super::networks;
use super::storage::{self, Files};
use super::translate::{self, Doing, Names, STACK, label_filter, owner};
use crate::error::{Error, Kind, Result};
use crate::label::{Labels, keys};
use crate::listing::Listing;
use crate::name::{ServiceName, StackName};
use crate::orchestrator::record::Records;
use crate::orchestrator::turns::Turns;
use crate::orchestrator::{Endpoint, Service, ServiceSpec, ServiceState, Stack, StackId, StackSpec, depends, known};

/// How many containers are inspected at once.
const AT_ONCE: usize = 16;

/// What is remembered about a stack: what its containers cannot tell, since their labels never change.
pub(super) type Record = known::Record<()>;

/// A container of a stack, as it was seen.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) container: String,
    pub(super) doing: Doing,
    pid: Option<u32>,
    /// Where its published ports are reached.
    endpoints: Vec<Endpoint>,
    /// How often the engine has started it again.
    restarts: u32,
    /// What the engine says of its health.
    pub(super) health: Option<HealthStatusEnum>,
    /// What the engine says of why it does not run.
    error: Option<String>,
    /// When it was last started, as the engine writes it.
    pub(super) started: Option<String>,
}

/// What all handles on one `Docker`, and the tasks it started, have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) records: Records<Record>,
    pub(super) files: Files,
    pub(super) instance: String,
    pub(super) turns: Turns,
}

impl Shared {
    pub(super) fn names<'a>(&'a self, spec: &'a StackSpec) -> Names<'a> {
        Names { instance: &self.instance, stack: &spec.name, attempt: &spec.attempt }
    }

    /// Looks at the container of a service; `None` if it has none.
    pub(super) async fn see(&self, record: &Record, service: &ServiceSpec) -> Result<Option<Seen>> {
        let client = self.engine.client().await?;
        let name = self.names(&record.spec).container(&service.name);
        let seen = self.see_container(client, &name, Some(service)).await?;
        // One that merely has the name is not ours.
        Ok(seen.filter(|(owner, _)| *owner == (record.id.clone(), service.name.clone())).map(|(_, seen)| seen))
    }

    async fn see_container(
        &self,
        client: &bollard::Docker,
        container: &str,
        service: Option<&ServiceSpec>,
    ) -> Result<Option<((StackId, ServiceName), Seen)>> {
        let Some(container) = containers::inspect(client, container).await? else { return Ok(None) };
        let (doing, pid) = translate::doing(&container);
        let endpoints = service.filter(|_| doing == Doing::Running).map(|spec| translate::endpoints(spec, &container));
        let restarts = container.restart_count.and_then(|count| u32::try_from(count).ok()).unwrap_or_default();
        let state = container.state.unwrap_or_default();
        let error = state.error.filter(|error| !error.is_empty());
        let health = state.health.and_then(|health| health.status);
        let started = state.started_at;
        let labels = container.config.and_then(|config| config.labels).unwrap_or_default();
        let ours = labels.get(keys::INSTANCE) == Some(&self.instance);
        Ok((owner(&labels).filter(|_| ours).zip(container.id)).map(|(owner, id)| {
            let endpoints = endpoints.unwrap_or_default();
            (owner, Seen { container: id, doing, pid, endpoints, restarts, health, error, started })
        }))
    }

    /// Looks at all containers of a stack, in the order of its services.
    pub(super) async fn see_all(&self, record: &Record) -> Result<Vec<Option<Seen>>> {
        try_join_all(record.spec.services.iter().map(|service| self.see(record, service))).await
    }

    /// Returns a stack as it was seen.
    pub(super) fn stack(&self, record: &Record, seen: &[Option<Seen>]) -> Stack {
        let starting = self.turns.is_starting(&record.id);
        let services = record.spec.services.iter().zip(seen);
        let services =
            services.map(|(service, seen)| to_service(&service.name, seen.as_ref(), starting, record.asleep));
        record.stack(services.collect())
    }

    /// Returns a stack as it is now.
    pub(super) async fn get(&self, name: &StackName) -> Result<Stack> {
        if let Some(record) = self.records.read(name)? {
            let seen = self.see_all(&record).await?;
            return Ok(self.stack(&record, &seen));
        }
        let orphans = self.orphans(Some(name)).await?;
        orphans.into_iter().next().ok_or_else(|| Error::not_found(Kind::Stack, name))
    }

    /// Returns all stacks as they are now, in the order of their names.
    pub(super) async fn list(&self) -> Result<Listing<Stack>> {
        let mut stacks = self.orphans(None).await?;
        let Listing { found, unreadable } = self.records.list()?;
        let recorded = stream::iter(found).map(|record| async move {
            let seen = self.see_all(&record).await?;
            // It may have been removed while it was looked at.
            let still = self.records.read(&record.spec.name)?.is_some_and(|now| now.id == record.id);
            Ok::<_, Error>(still.then(|| self.stack(&record, &seen)))
        });
        let recorded: Vec<_> = recorded.buffered(AT_ONCE).try_collect().await?;
        stacks.extend(recorded.into_iter().flatten());
        stacks.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(Listing { found: stacks, unreadable })
    }

    /// Returns the stacks that have containers and no record, as when the records were lost. They can still be removed.
    async fn orphans(&self, name: Option<&StackName>) -> Result<Vec<Stack>> {
        let mut labels = [(keys::INSTANCE.to_owned(), self.instance.clone())].to_vec();
        labels.extend(name.map(|name| (STACK.to_owned(), name.to_string())));
        let client = self.engine.client().await?;
        // Before the records: what is deployed meanwhile has a record first.
        let found = containers::list(client, label_filter(labels.into_iter().collect())).await?;
        let mut orphans: BTreeMap<StackId, Vec<(ServiceName, Found)>> = BTreeMap::new();
        for found in found {
            let Some((id, service)) = owner(&found.labels) else { continue };
            let Some((name, _)) = id.parts() else { continue };
            // A record that cannot be read is no proof that there is none.
            if !matches!(self.records.read(&name), Ok(record) if record.as_ref().is_none_or(|now| now.id != id)) {
                continue;
            }
            orphans.entry(id).or_default().push((service, found));
        }
        let mut stacks = Vec::new();
        for (id, mut found) in orphans {
            found.sort_by(|a, b| a.0.cmp(&b.0));
            let Some((name, attempt)) = id.parts() else { continue };
            let mut services = Vec::new();
            let mut labels = Labels::new();
            let mut created = OffsetDateTime::UNIX_EPOCH;
            for (service, found) in found {
                // It may have been removed since it was listed.
                let Some((_, seen)) = self.see_container(client, &found.id, None).await? else { continue };
                services.push(to_service(&service, Some(&seen), false, false));
                created = OffsetDateTime::from_unix_timestamp(found.created).unwrap_or(created);
                for (key, value) in found.labels {
                    // What a label of ours could not be is not from us.
                    let _ = labels.set(key, value);
                }
            }
            if !services.is_empty() {
                stacks.push(Stack { id, name, attempt, labels, created, services });
            }
        }
        Ok(stacks)
    }

    /// Ends a stack's containers and keeps them.
    pub(super) async fn sleep(&self, name: &StackName) -> Result<()> {
        let _turn = self.turns.take(name).await;
        let record = self.records.set_asleep(name, true)?;
        let client = self.engine.client().await?;
        let stop = async |service: &ServiceSpec| match self.see(&record, service).await? {
            Some(seen) => containers::stop(client, &seen.container, service.stop_signal, service.stop_grace).await,
            None => Ok(()),
        };
        try_join_all(record.spec.services.iter().map(stop)).await?;
        self.turns.changed.notify_waiters();
        Ok(())
    }

    /// Ends a stack and forgets it.
    pub(super) async fn remove(&self, id: &StackId) -> Result<()> {
        let Some((name, _)) = id.parts() else { return Ok(()) };
        // Before its turn: a deployment that waits for one of its services sees it, and gives up.
        self.records.begin_removal(&name, id)?;
        self.turns.changed.notify_waiters();
        let _turn = self.turns.take(&name).await;
        self.records.begin_removal(&name, id)?;
        self.end_and_forget(&name, id).await
    }

    /// Removes all that carries the labels of a deployment, with or without a record of it.
    pub(super) async fn end_and_forget(&self, name: &StackName, id: &StackId) -> Result<()> {
        let Some((_, attempt)) = id.parts() else { return Ok(()) };
        let record = self.records.read(name)?.filter(|record| record.id == *id);
        let client = self.engine.client().await?;
        let names = Names { instance: &self.instance, stack: name, attempt: &attempt };
        let found = containers::list(client, names.filter()).await?;
        let end = async |found: Found| {
            let service = found.service();
            let mut services = record.iter().flat_map(|record| &record.spec.services);
            let spec = services.find(|spec| service.as_ref() == Some(&spec.name)).cloned();
            if let Some(spec) = spec.or_else(|| service.map(|service| ServiceSpec::new(service, Vec::new()))) {
                containers::stop(client, &found.id, spec.stop_signal, spec.stop_grace).await?;
            }
            containers::remove(client, &found.id).await
        };
        try_join_all(found.into_iter().map(end)).await?;
        if record.as_ref().is_none_or(|record| networks::has_any(&record.spec)) {
            networks::remove(client, names).await?;
        }
        if record.as_ref().is_none_or(|record| !record.spec.volumes.is_empty()) {
            storage::remove_volumes(client, names).await?;
        }
        // A stack of the same name that another attempt deployed has these.
        if record.is_some() || self.records.read(name)?.is_none() {
            self.files.remove(name)?;
        }
        // Last: until then, it is found by its record.
        self.records.delete(name, |record| record.id == *id)?;
        self.turns.changed.notify_waiters();
        Ok(())
    }
}

/// Tells whether a container is still being checked for its health.
fn is_unknown(seen: Option<&Seen>) -> bool {
    seen.is_some_and(|seen| seen.health == Some(HealthStatusEnum::STARTING))
}

fn to_service(name: &ServiceName, seen: Option<&Seen>, starting: bool, asleep: bool) -> Service {
    let state = match seen.map(|seen| seen.doing) {
        // As long as others may wait for its health.
        Some(Doing::Running) if starting && is_unknown(seen) => ServiceState::Starting,
        Some(Doing::Running) => ServiceState::Running,
        None | Some(Doing::Created) if starting => ServiceState::Starting,
        _ if asleep => ServiceState::Asleep,
        Some(Doing::Ended { status }) => ServiceState::Exited { status },
        None | Some(Doing::Created) => ServiceState::Exited { status: None },
    };
    let Some(seen) = seen else { return Service::new(name.clone(), state) };
    let error = match state {
        ServiceState::Exited { status } if status != Some(0) && seen.doing != Doing::Created => {
            Some(seen.error.clone().unwrap_or_else(|| depends::ended(status)))
        }
        _ => None,
    };
    Service {
        pid: seen.pid,
        endpoints: seen.endpoints.clone(),
        restarts: seen.restarts,
        error,
        ..Service::new(name.clone(), state)
    }
}
