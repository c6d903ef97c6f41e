//! Creating and starting the containers of a stack in their order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::HealthStatusEnum;
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::state::{Record, Seen, Shared};
use super::translate::Doing;
use super::{containers, logs, networks, storage};
use crate::error::{Error, Result};
use crate::name::StackName;
use crate::orchestrator::spec::being_removed;
use crate::orchestrator::{Condition, LogOptions, ServiceSpec, Stack, StackSpec, depends, known};

/// How often a container that others wait for is looked at.
const LOOK: Duration = Duration::from_millis(200);

impl Shared {
    /// Claims the name, creates all containers, and starts them in their order. Undoes all if one cannot be started, or if `given_up` ends while
    /// one is waited for.
    pub(super) async fn deploy(self: Arc<Self>, spec: StackSpec, given_up: oneshot::Receiver<()>) -> Result<Stack> {
        let name = spec.name.clone();
        let _turn = self.turns.take(&name).await;
        // Before anything is recorded: an engine that cannot be reached has nothing to undo.
        self.engine.client().await?;
        // Its secrets are nowhere else: a record that was read has none.
        let record = Record::new(spec, ());
        let starting = self.turns.starting(&record.id);
        self.records.create(&name, &record)?;
        let result = match self.create(&record).await {
            Ok(containers) => self.start_in_order(&record, containers, given_up).await,
            Err(error) => Err(error),
        };
        drop(starting);
        let result = match result {
            Ok(()) => self.see_all(&record).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(seen) => Ok(self.stack(&record, &seen)),
            Err(error) => {
                if let Err(undo) = self.end_and_forget(&record.spec.name, &record.id).await {
                    tracing::warn!(stack = %name, error = %undo, "what a failed deployment left could not be removed");
                }
                Err(error)
            }
        }
    }

    /// Makes everything that a stack needs, and its containers. Returns their ids by the places of the services.
    async fn create(&self, record: &Record) -> Result<BTreeMap<usize, String>> {
        let client = self.engine.client().await?;
        let (spec, names) = (&record.spec, self.names(&record.spec));
        self.files.write(spec)?;
        networks::create(client, spec, names).await?;
        storage::create_volumes(client, spec, names).await?;
        let mut containers = BTreeMap::new();
        for (place, service) in spec.services.iter().enumerate() {
            containers.insert(place, self.create_container(spec, service).await?);
        }
        Ok(containers)
    }

    async fn create_container(&self, spec: &StackSpec, service: &ServiceSpec) -> Result<String> {
        let client = self.engine.client().await?;
        let names = self.names(spec);
        let joined = networks::joined(spec, service, names, &networks::ids(client, spec, names).await?);
        containers::create(client, spec, service, names, &joined, &self.files.shown(&spec.name, service)).await
    }

    /// Starts the containers of the services at these places of the specification, each after what it depends on.
    async fn start_in_order(
        self: &Arc<Self>,
        record: &Record,
        due: BTreeMap<usize, String>,
        mut given_up: oneshot::Receiver<()>,
    ) -> Result<()> {
        let client = self.engine.client().await?;
        for group in depends::groups(&record.spec)? {
            let places: Vec<usize> = group.into_iter().filter(|place| due.contains_key(place)).collect();
            let conditions = depends::conditions(&record.spec, &places);
            if !conditions.is_empty() {
                let waits = conditions.into_iter().map(|(place, condition)| self.wait_for(record, place, condition));
                tokio::select! {
                    waited = try_join_all(waits) => drop(waited?),
                    _ = &mut given_up => return Err(Error::Cancelled),
                    () = known::removed(&self.records, &self.turns, record) => {
                        return Err(being_removed(&record.spec.name));
                    }
                }
            }
            for place in places {
                containers::start(client, &due[&place], &record.spec.services[place]).await?;
            }
        }
        Ok(())
    }

    /// Waits until a service that was started is what others wait for.
    async fn wait_for(self: &Arc<Self>, record: &Record, place: usize, condition: Condition) -> Result<()> {
        let service = &record.spec.services[place];
        let reason = loop {
            let seen = self.see(record, service).await?;
            match (condition, seen.as_ref().map(|seen| seen.doing)) {
                (Condition::Started, _)
                | (Condition::CompletedSuccessfully, Some(Doing::Ended { status: Some(0) })) => return Ok(()),
                (_, Some(Doing::Ended { status })) => break depends::ended(status),
                (_, None | Some(Doing::Created)) => break "it was not started".into(),
                (Condition::CompletedSuccessfully, Some(Doing::Running)) => sleep(LOOK).await,
                (Condition::Healthy, Some(Doing::Running)) => match seen.and_then(|seen| seen.health) {
                    Some(HealthStatusEnum::HEALTHY) => return Ok(()),
                    Some(HealthStatusEnum::UNHEALTHY) => break "its health check does not succeed".into(),
                    Some(HealthStatusEnum::STARTING) => sleep(LOOK).await,
                    _ => break "neither the stack nor the image has a health check for it".into(),
                },
            }
        };
        Err(depends::failed(&service.name, reason, self.log_tail(record, service).await))
    }

    async fn log_tail(self: &Arc<Self>, record: &Record, service: &ServiceSpec) -> Vec<String> {
        let options = LogOptions { tail: Some(depends::TAIL), ..LogOptions::default() };
        let lines = logs::lines(Arc::clone(self), record.clone(), service.clone(), options);
        lines.map_ok(|line| line.text).try_collect().await.unwrap_or_default()
    }

    /// Starts whatever of a stack does not run.
    pub(super) async fn wake(self: &Arc<Self>, name: &StackName) -> Result<()> {
        let _turn = self.turns.take(name).await;
        let record = self.records.get(name)?;
        if record.removing {
            return Err(being_removed(name));
        }
        let _starting = self.turns.starting(&record.id);
        let mut due = BTreeMap::new();
        for (place, service) in record.spec.services.iter().enumerate() {
            let container = match self.see(&record, service).await? {
                Some(Seen { doing: Doing::Running, .. }) => continue,
                Some(Seen { doing: Doing::Ended { status: Some(0) }, .. })
                    if depends::runs_once(&record.spec, service) =>
                {
                    continue;
                }
                Some(seen) => seen.container,
                // Somebody removed it by hand.
                None => self.create_container(&record.spec, service).await?,
            };
            due.insert(place, container);
        }
        // Whoever gives up drops this.
        let (_waits, given_up) = oneshot::channel();
        self.start_in_order(&record, due, given_up).await?;
        self.records.set_asleep(name, false).map(drop)
    }
}
