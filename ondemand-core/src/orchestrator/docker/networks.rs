//! The networks of a stack, and how its containers are in them.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{EndpointSettings, NetworkConnectRequest, NetworkCreateRequest};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptions};
use tokio::time::sleep;

use super::engine::{failed, has_status};
use super::translate::Names;
use crate::error::{Error, Result};
use crate::orchestrator::{NetworkSpec, ServiceSpec, StackSpec};

/// How often a network that still has endpoints is tried again, and how long the first pause is; each next one is twice as long.
const NETWORK_TRIES: u32 = 7;
const NETWORK_PAUSE: Duration = Duration::from_millis(20);

/// A network that a container is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Joined {
    pub(super) network: String,
    /// The names that reach the container there.
    pub(super) aliases: Vec<String>,
}

impl Joined {
    pub(super) fn endpoint(&self) -> EndpointSettings {
        EndpointSettings { aliases: Some(self.aliases.clone()), ..EndpointSettings::default() }
    }
}

/// Tells whether a stack has a network of its own for the services that name none: several services reach each other in it.
fn has_own(stack: &StackSpec) -> bool {
    stack.services.len() > 1 && stack.services.iter().any(|service| service.networks.is_empty())
}

/// Tells whether a stack may have made networks.
pub(super) fn has_any(stack: &StackSpec) -> bool {
    has_own(stack) || !stack.networks.is_empty()
}

/// Returns the ids of the stack's own networks by their names: another network may have the same name.
pub(super) async fn ids(
    client: &bollard::Docker,
    stack: &StackSpec,
    names: Names<'_>,
) -> Result<HashMap<String, String>> {
    if !has_any(stack) {
        return Ok(HashMap::new());
    }
    let options = ListNetworksOptions { filters: Some(names.filter()) };
    let networks = client.list_networks(Some(options)).await.map_err(|e| failed("listing networks", e))?;
    Ok(networks.into_iter().filter_map(|network| Some((network.name?, network.id?))).collect())
}

/// Returns the networks that a service is in; none where it is in the engine's usual one.
pub(super) fn joined(
    stack: &StackSpec,
    service: &ServiceSpec,
    names: Names<'_>,
    ids: &HashMap<String, String>,
) -> Vec<Joined> {
    let mut joined = joined_by_name(stack, service, names);
    for joined in &mut joined {
        if let Some(id) = ids.get(&joined.network) {
            joined.network.clone_from(id);
        }
    }
    joined
}

fn joined_by_name(stack: &StackSpec, service: &ServiceSpec, names: Names<'_>) -> Vec<Joined> {
    let own = service.name.to_string();
    if service.networks.is_empty() {
        let network = has_own(stack).then(|| Joined { network: names.network(), aliases: vec![own] });
        return network.into_iter().collect();
    }
    let join = |attachment: &crate::orchestrator::NetworkAttachment| {
        let spec = stack.networks.get(&attachment.network).cloned().unwrap_or_default();
        let mut aliases = vec![own.clone()];
        aliases.extend(attachment.aliases.iter().cloned());
        Joined { network: names.network_of(&attachment.network, &spec), aliases }
    };
    service.networks.iter().map(join).collect()
}

impl Names<'_> {
    /// Returns the name of a network of the stack.
    fn network_of(&self, key: &str, spec: &NetworkSpec) -> String {
        let given = spec.external.as_ref().or(spec.name.as_ref());
        given.cloned().unwrap_or_else(|| format!("{}.{key}", self.network()))
    }
}

/// Makes the networks that services of a stack are in.
///
/// # Errors
/// [`Error::InvalidInput`] if one is to exist already, and doesn't; [`Error::Conflict`] if one that is to be made exists.
pub(super) async fn create(client: &bollard::Docker, stack: &StackSpec, names: Names<'_>) -> Result<()> {
    if has_own(stack) {
        make(client, names.network(), &NetworkSpec::default(), names).await?;
    }
    for (key, spec) in &stack.networks {
        let mut attached = stack.services.iter().flat_map(|service| &service.networks);
        if !attached.any(|attachment| attachment.network == *key) {
            continue;
        }
        let name = names.network_of(key, spec);
        let found = match client.inspect_network(&name, None::<InspectNetworkOptions>).await {
            Ok(_) => true,
            Err(e) if has_status(&e, 404) => false,
            Err(e) => return Err(failed(format!("inspecting network {name}"), e)),
        };
        match (found, &spec.external) {
            (true, Some(_)) => {}
            (false, Some(_)) => {
                let reason = "it is to exist already, and there is none of this name";
                return Err(Error::invalid(format!("network {name:?}"), reason));
            }
            (false, None) => make(client, name, spec, names).await?,
            (true, None) => {
                return Err(Error::Conflict {
                    message: format!("there is a network {name} already"),
                    hint: "say that it is external, or remove it if nothing needs it".into(),
                });
            }
        }
    }
    Ok(())
}

async fn make(client: &bollard::Docker, name: String, spec: &NetworkSpec, names: Names<'_>) -> Result<()> {
    let mut labels: HashMap<String, String> = spec.labels.clone().into_iter().collect();
    labels.extend(names.labels());
    let options: HashMap<String, String> = spec.driver_opts.clone().into_iter().collect();
    let request = NetworkCreateRequest {
        name: name.clone(),
        driver: Some(spec.driver.clone().unwrap_or_else(|| "bridge".into())),
        labels: Some(labels),
        options: (!options.is_empty()).then_some(options),
        internal: spec.internal.then_some(true),
        attachable: spec.attachable.then_some(true),
        ..NetworkCreateRequest::default()
    };
    let created = client.create_network(request).await;
    created.map(drop).map_err(|e| failed(format!("creating network {name}"), e))
}

/// Lets a container into the networks that it was not created in.
pub(super) async fn join(client: &bollard::Docker, container: &str, joined: &[Joined]) -> Result<()> {
    // The engine takes one when it creates a container.
    for joined in joined.iter().skip(1) {
        let request =
            NetworkConnectRequest { container: container.to_owned(), endpoint_config: Some(joined.endpoint()) };
        let connected = client.connect_network(&joined.network, request).await;
        connected.map_err(|e| failed(format!("joining network {}", joined.network), e))?;
    }
    Ok(())
}

/// Removes the stack's networks.
pub(super) async fn remove(client: &bollard::Docker, names: Names<'_>) -> Result<()> {
    let options = ListNetworksOptions { filters: Some(names.filter()) };
    let networks = client.list_networks(Some(options)).await.map_err(|e| failed("listing networks", e))?;
    for id in networks.into_iter().filter_map(|network| network.id) {
        let mut pause = NETWORK_PAUSE;
        for attempt in 1.. {
            match client.remove_network(&id).await {
                Ok(()) => break,
                Err(e) if has_status(&e, 404) => break,
                // The endpoints of containers that are gone may be there a little longer.
                Err(e) if has_status(&e, 403) && attempt < NETWORK_TRIES => {
                    tracing::debug!(network = %id, error = %e, "the network is still in use");
                    sleep(pause).await;
                    pause *= 2;
                }
                Err(e) => return Err(failed(format!("removing network {id}"), e)),
            }
        }
    }
    Ok(())
}
