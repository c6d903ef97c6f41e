//! The networks, secrets, configuration files and volumes of a stack.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bollard::errors::Error as EngineError;
use bollard::models::{Config, ConfigSpec as ConfigBody, NetworkCreateRequest, SecretSpec as SecretBody};
use bollard::query_parameters::{
    ListConfigsOptions, ListNetworksOptions, ListSecretsOptions, ListVolumesOptions, RemoveVolumeOptions,
};
use futures_util::future::try_join_all;
use tokio::time::sleep;

use super::engine::{failed, is_in_use};
use super::names::Names;
use super::translate::{DEFAULT_NETWORK, Known};
use crate::error::{Error, Result};
use crate::orchestrator::docker::engine::has_status;
use crate::orchestrator::{ConfigSpec, NetworkSpec, SecretSpec, StackSpec};

/// How often the removal of what is still in use is tried, and how long the first pause is; each next one is twice as long, up to a limit.
const TRIES: u32 = 14;
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

type Filter = HashMap<String, Vec<String>>;

/// Makes the networks, secrets and configuration files that the services use, and finds those that exist already.
pub(super) async fn make(client: &bollard::Docker, stack: &StackSpec, names: &Names) -> Result<Known> {
    let services = &stack.services;
    let secrets: BTreeSet<_> = services.iter().flat_map(|service| &service.secrets).map(|file| &file.source).collect();
    let configs: BTreeSet<_> = services.iter().flat_map(|service| &service.configs).map(|file| &file.source).collect();
    let mut networks: BTreeSet<&str> =
        services.iter().flat_map(|service| &service.networks).map(|network| network.network.as_str()).collect();
    if services.iter().any(|service| service.networks.is_empty()) {
        networks.insert(DEFAULT_NETWORK);
    }
    let network = async |name: &str| {
        let usual = NetworkSpec::default();
        let spec = stack.networks.get(name).unwrap_or(&usual);
        Ok::<_, Error>((name.to_owned(), make_network(client, name, spec, names).await?))
    };
    let secret = async |name: &String| {
        let made = match &stack.secrets[name] {
            SecretSpec::External(external) => find_secret(client, external).await?,
            SecretSpec::Content(content) => {
                let full = names.of(name);
                let body = SecretBody {
                    name: Some(full.clone()),
                    labels: Some(names.labels()),
                    data: Some(BASE64.encode(content.expose())),
                    ..SecretBody::default()
                };
                let made = client.create_secret(body).await.map_err(|e| refused("secret", &full, e))?;
                (made.id, full)
            }
        };
        Ok::<_, Error>((name.clone(), made))
    };
    let config = async |name: &String| {
        let made = match &stack.configs[name] {
            ConfigSpec::External(external) => find_config(client, external).await?,
            ConfigSpec::Content(content) => {
                let full = names.of(name);
                let body = ConfigBody {
                    name: Some(full.clone()),
                    labels: Some(names.labels()),
                    data: Some(BASE64.encode(content)),
                    ..ConfigBody::default()
                };
                let made = client.create_config(body).await.map_err(|e| refused("config", &full, e))?;
                (made.id, full)
            }
        };
        Ok::<_, Error>((name.clone(), made))
    };
    let (networks, secrets, configs) = tokio::try_join!(
        try_join_all(networks.into_iter().map(network)),
        try_join_all(secrets.into_iter().map(secret)),
        try_join_all(configs.into_iter().map(config)),
    )?;
    Ok(Known {
        networks: networks.into_iter().collect(),
        secrets: secrets.into_iter().collect(),
        configs: configs.into_iter().collect(),
    })
}

async fn make_network(client: &bollard::Docker, name: &str, spec: &NetworkSpec, names: &Names) -> Result<String> {
    if let Some(external) = &spec.external {
        // The swarm finds it by its name when it is used.
        return Ok(external.clone());
    }
    let full = spec.name.clone().unwrap_or_else(|| names.of(name));
    let own = spec.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let request = NetworkCreateRequest {
        name: full.clone(),
        driver: Some(spec.driver.clone().unwrap_or_else(|| "overlay".into())),
        scope: Some("swarm".into()),
        internal: Some(spec.internal),
        attachable: Some(spec.attachable),
        options: Some(spec.driver_opts.clone().into_iter().collect()),
        labels: Some(names.labels_and(own)),
        ..NetworkCreateRequest::default()
    };
    Ok(client.create_network(request).await.map_err(|e| refused("network", &full, e))?.id)
}

/// Makes the error for a thing that could not be made. Its content is in none.
fn refused(what: &str, name: &str, error: EngineError) -> Error {
    if has_status(&error, 409) {
        return Error::Conflict {
            message: format!("the {what} {name} exists already, and is not this stack's"),
            hint: format!("remove it with `docker {what} rm {name}` if nobody needs it"),
        };
    }
    failed(format!("creating {what} {name}"), error)
}

fn missing(what: &str, name: &str) -> Error {
    Error::invalid("stack", format!("there is no {what} {name:?} in the swarm; make it, or do not call it external"))
}

fn by_name(name: &str) -> Filter {
    HashMap::from([("name".to_owned(), vec![name.to_owned()])])
}

/// Finds a secret by its whole name: the engine's filter matches beginnings.
async fn find_secret(client: &bollard::Docker, name: &str) -> Result<(String, String)> {
    let found = client.list_secrets(Some(ListSecretsOptions { filters: Some(by_name(name)) })).await;
    let found = found.map_err(|e| failed(format!("finding secret {name}"), e))?;
    let mut found =
        found.into_iter().filter(|secret| secret.spec.as_ref().is_some_and(|s| s.name.as_deref() == Some(name)));
    let id = found.next().and_then(|secret| secret.id).ok_or_else(|| missing("secret", name))?;
    Ok((id, name.to_owned()))
}

async fn find_config(client: &bollard::Docker, name: &str) -> Result<(String, String)> {
    let found = client.list_configs(Some(ListConfigsOptions { filters: Some(by_name(name)) })).await;
    let found = found.map_err(|e| failed(format!("finding config {name}"), e))?;
    let mut found =
        found.into_iter().filter(|config| config.spec.as_ref().is_some_and(|s| s.name.as_deref() == Some(name)));
    let id = found.next().and_then(|config| config.id).ok_or_else(|| missing("config", name))?;
    Ok((id, name.to_owned()))
}

/// Removes what a deployment made beside its services, whose tasks are gone; all but its claim.
pub(super) async fn remove(client: &bollard::Docker, names: &Names) -> Result<()> {
    let filters = || Some(names.filter());
    let secrets = client.list_secrets(Some(ListSecretsOptions { filters: filters() })).await;
    let configs = client.list_configs(Some(ListConfigsOptions { filters: filters() })).await;
    let networks = client.list_networks(Some(ListNetworksOptions { filters: filters() })).await;
    let secrets = secrets.map_err(|e| failed("listing secrets", e))?.into_iter().filter_map(|secret| secret.id);
    let configs = configs.map_err(|e| failed("listing configs", e))?.into_iter();
    let is_claim = |config: &Config| config.spec.as_ref().and_then(|spec| spec.name.as_ref()) == Some(&names.claim());
    let configs: Vec<_> = configs.filter(|config| !is_claim(config)).filter_map(|config| config.id).collect();
    let networks = networks.map_err(|e| failed("listing networks", e))?.into_iter().filter_map(|network| network.id);
    tokio::try_join!(
        try_join_all(secrets.map(|id| async move { once_unused("secret", &id, || client.delete_secret(&id)).await })),
        try_join_all(
            configs.iter().map(|id| async move { once_unused("config", id, || client.delete_config(id)).await })
        ),
        try_join_all(
            networks.map(|id| async move { once_unused("network", &id, || client.remove_network(&id)).await })
        ),
    )?;
    remove_volumes(client, names).await
}

/// Removes a thing as soon as nothing uses it any more.
async fn once_unused<F, R>(what: &str, id: &str, removal: R) -> Result<()>
where
    R: Fn() -> F,
    F: Future<Output = Result<(), EngineError>>,
{
    let mut pause = PAUSE;
    for tries in 1.. {
        match removal().await {
            Ok(()) => break,
            Err(e) if has_status(&e, 404) => break,
            Err(e) if is_in_use(&e) && tries < TRIES => {
                tracing::debug!(what, id, error = %e, "it is still in use");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(e) => return Err(failed(format!("removing {what} {id}"), e)),
        }
    }
    Ok(())
}

/// Removes the stack's volumes on the manager's own node; those of the others are for [`super::clean`].
async fn remove_volumes(client: &bollard::Docker, names: &Names) -> Result<()> {
    let found = client.list_volumes(Some(ListVolumesOptions { filters: Some(names.filter()) })).await;
    let found = found.map_err(|e| failed("listing volumes", e))?.volumes.unwrap_or_default();
    let remove = async |name: String| {
        once_unused("volume", &name, || client.remove_volume(&name, None::<RemoveVolumeOptions>)).await
    };
    try_join_all(found.into_iter().map(|volume| remove(volume.name))).await.map(drop)
}
