//! What is done to single containers and networks.

use std::collections::HashMap;
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateContainerOptions, InspectContainerOptions, KillContainerOptions,
    ListContainersOptions, RemoveContainerOptions, StartContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::BACKEND;
use super::engine::{failed, has_status, refused};
use super::networks::{self, Joined};
use super::storage::Shown;
use super::translate::{self, Names, SERVICE};
use crate::error::{Error, Kind, Result};
use crate::name::ServiceName;
use crate::orchestrator::{ServiceSpec, StackSpec, StopSignal};

/// Creates the container of a service, and returns its id.
pub(super) async fn create(
    client: &bollard::Docker,
    stack: &StackSpec,
    service: &ServiceSpec,
    names: Names<'_>,
    joined: &[Joined],
    files: &[Shown],
) -> Result<String> {
    let body = translate::container(stack, service, names, joined.first(), files)?;
    let name = names.container(&service.name);
    let operation = format!("creating container {name}");
    let program = service.command.first().map_or("", String::as_str);
    let options = CreateContainerOptions { name: Some(name.clone()), ..CreateContainerOptions::default() };
    let id = match client.create_container(Some(options), body).await {
        Ok(created) => created.id,
        Err(e) if has_status(&e, 409) => return Err(Error::already_exists(Kind::Stack, &stack.name)),
        Err(e) => return Err(refused(operation, translate::image(service)?, program, e)),
    };
    networks::join(client, &id, joined).await?;
    if program.starts_with('/') {
        // The engine's own init would start, and only then fail to find it.
        let options = ContainerArchiveInfoOptions { path: program.to_owned() };
        match client.get_container_archive_info(&id, Some(options)).await {
            Err(e) if has_status(&e, 404) => return Err(Error::not_found(Kind::File, program)),
            Err(e) if is_server_error(&e) => tracing::debug!(%name, error = %e, "could not look for the program"),
            Err(e) => return Err(failed(format!("looking for {program} in container {name}"), e)),
            Ok(_) => {}
        }
    }
    Ok(id)
}

fn is_server_error(error: &EngineError) -> bool {
    matches!(error, EngineError::DockerResponseServerError { .. } | EngineError::JsonDataError { .. })
}

/// Starts a container; succeeds if it runs.
pub(super) async fn start(client: &bollard::Docker, id: &str, service: &ServiceSpec) -> Result<()> {
    let started = client.start_container(id, None::<StartContainerOptions>).await;
    let program = service.command.first().map_or("", String::as_str);
    let image = service.image.as_deref().unwrap_or_default();
    started.map_err(|e| refused(format!("starting service {}", service.name), image, program, e))
}

/// Reads a container as it is; `None` if there is none.
pub(super) async fn inspect(client: &bollard::Docker, container: &str) -> Result<Option<ContainerInspectResponse>> {
    match client.inspect_container(container, None::<InspectContainerOptions>).await {
        Ok(container) => Ok(Some(container)),
        Err(e) if has_status(&e, 404) => Ok(None),
        Err(e) => Err(failed(format!("inspecting container {container}"), e)),
    }
}

/// One of our containers.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) id: String,
    pub(super) labels: HashMap<String, String>,
    pub(super) created: i64,
}

/// Lists containers, whatever they do.
pub(super) async fn list(client: &bollard::Docker, filters: HashMap<String, Vec<String>>) -> Result<Vec<Found>> {
    let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
    let found = client.list_containers(Some(options)).await.map_err(|e| failed("listing containers", e))?;
    let found = found.into_iter().filter_map(|container| {
        let labels = container.labels.unwrap_or_default();
        Some(Found { id: container.id?, labels, created: container.created.unwrap_or_default() })
    });
    Ok(found.collect())
}

impl Found {
    /// Returns the service that it runs.
    pub(super) fn service(&self) -> Option<ServiceName> {
        ServiceName::new(self.labels.get(SERVICE)?.as_str()).ok()
    }
}

/// Waits until a container does not run, or is gone.
pub(super) async fn ended(client: &bollard::Docker, id: &str, condition: &str) -> Result<()> {
    let options = WaitContainerOptions { condition: condition.to_owned() };
    let answer = Box::pin(client.wait_container(id, Some(options))).next().await;
    match answer {
        // The library makes an error of a status that is not 0.
        Some(Ok(_) | Err(EngineError::DockerContainerWaitError { .. })) => Ok(()),
        Some(Err(e)) if has_status(&e, 404) => Ok(()),
        Some(Err(e)) => Err(failed(format!("waiting for container {id}"), e)),
        None => Err(Error::Backend {
            backend: BACKEND,
            operation: format!("waiting for container {id}"),
            transient: true,
            source: "the engine closed the connection".into(),
        }),
    }
}

/// Asks a container to end, and kills it if it hasn't after `grace`.
pub(super) async fn stop(client: &bollard::Docker, id: &str, signal: StopSignal, grace: Duration) -> Result<()> {
    for (signal, grace) in [(translate::signal(signal), Some(grace)), ("SIGKILL", None)] {
        let options = KillContainerOptions { signal: signal.to_owned() };
        match client.kill_container(id, Some(options)).await {
            Ok(()) => {}
            // 409: it does not run; perhaps it is being removed, which whoever comes next finds out.
            Err(e) if has_status(&e, 404) || has_status(&e, 409) => return Ok(()),
            Err(e) => return Err(failed(format!("sending {signal} to container {id}"), e)),
        }
        match grace {
            Some(grace) => {
                if let Ok(ended) = timeout(grace, ended(client, id, "not-running")).await {
                    return ended;
                }
            }
            None => ended(client, id, "not-running").await?,
        }
    }
    Ok(())
}

/// Removes a container and its anonymous volumes, and returns when it is gone.
pub(super) async fn remove(client: &bollard::Docker, id: &str) -> Result<()> {
    let options = RemoveContainerOptions { v: true, force: true, link: false };
    match client.remove_container(id, Some(options)).await {
        Ok(()) => Ok(()),
        Err(e) if has_status(&e, 404) => Ok(()),
        // Somebody else is at it.
        Err(e) if has_status(&e, 409) => ended(client, id, "removed").await,
        Err(e) => Err(failed(format!("removing container {id}"), e)),
    }
}
