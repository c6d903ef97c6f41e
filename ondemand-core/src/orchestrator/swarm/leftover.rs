//! What says that nodes still have volumes of a stack that is gone: a configuration file, with the nodes among its labels.
//!
//! A manager's API does not reach the volumes of other nodes, and a node may be down when a stack is removed. So it is written down in the swarm, before
//! the stack's claim goes, and stays until each node was seen to.

use std::collections::{BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bollard::models::{Config, ConfigSpec};
use bollard::query_parameters::{ListConfigsOptions, UpdateConfigOptions};

use super::engine::failed;
use super::names::Names;
use crate::error::Result;
use crate::label::keys;
use crate::name::{AttemptId, StackName};
use crate::orchestrator::docker::engine::has_status;
use crate::orchestrator::docker::translate::{STACK, label_filter};

/// The label with the ids of the nodes that were not seen to yet.
const NODES: &str = "ondemand.volumes-on";

/// Volumes of a deployment that is gone.
#[derive(Debug)]
pub(super) struct Leftover {
    /// What the engine calls the note.
    config: String,
    version: i64,
    pub(super) names: Names,
    /// The ids of the nodes that may have some.
    pub(super) nodes: BTreeSet<String>,
}

impl Leftover {
    /// Notes that these nodes may have volumes of a deployment. To do so twice is fine.
    pub(super) async fn note(client: &bollard::Docker, names: &Names, nodes: &BTreeSet<String>) -> Result<()> {
        if nodes.is_empty() {
            return Ok(());
        }
        match client.create_config(spec(names, nodes, true)).await {
            Err(e) if !has_status(&e, 409) => {
                Err(failed(format!("noting the volumes of stack {} on other nodes", names.stack), e))
            }
            _ => Ok(()),
        }
    }

    /// Finds all of an installation.
    pub(super) async fn find(client: &bollard::Docker, instance: &str) -> Result<Vec<Self>> {
        let mut filters = label_filter(HashMap::from([(keys::INSTANCE.to_owned(), instance.to_owned())]));
        filters.entry("label".to_owned()).or_default().push(NODES.to_owned());
        let found = client.list_configs(Some(ListConfigsOptions { filters: Some(filters) })).await;
        let mut found: Vec<_> =
            found.map_err(|e| failed("listing what nodes have left", e))?.into_iter().filter_map(read).collect();
        found.sort_by_key(|leftover| leftover.names.id());
        Ok(found)
    }

    /// Writes down which nodes are still to be seen to; forgets it if there is none.
    pub(super) async fn settle(&mut self, client: &bollard::Docker, nodes: BTreeSet<String>) -> Result<()> {
        if nodes == self.nodes {
            return Ok(());
        }
        let written = if nodes.is_empty() {
            client.delete_config(&self.config).await
        } else {
            let options = UpdateConfigOptions { version: self.version };
            client.update_config(&self.config, spec(&self.names, &nodes, false), options).await
        };
        match written {
            Err(e) if !has_status(&e, 404) => {
                Err(failed(format!("noting what is left of stack {}", self.names.stack), e))
            }
            _ => {
                self.nodes = nodes;
                self.version = self.now(client).await?.unwrap_or(self.version);
                Ok(())
            }
        }
    }

    /// Returns the version that it has now; none if it is gone.
    async fn now(&self, client: &bollard::Docker) -> Result<Option<i64>> {
        if self.nodes.is_empty() {
            return Ok(None);
        }
        let now = client.inspect_config(&self.config).await;
        let now = now.map_err(|e| failed(format!("noting what is left of stack {}", self.names.stack), e))?;
        Ok(now.version.and_then(|version| i64::try_from(version.index?).ok()))
    }
}

/// Writes it as the engine keeps it. Its content never changes; `docker stack` is not told of it, whose stack is gone.
fn spec(names: &Names, nodes: &BTreeSet<String>, with_content: bool) -> ConfigSpec {
    let labels = [
        (keys::INSTANCE, names.instance.clone()),
        (STACK, names.stack.to_string()),
        (keys::ATTEMPT, names.attempt.to_string()),
        (NODES, join(nodes)),
    ];
    ConfigSpec {
        name: Some(names.leftover()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
        data: with_content.then(|| BASE64.encode(names.id().to_string())),
        templating: None,
    }
}

/// Reads one; `None` if it is none of ours.
fn read(config: Config) -> Option<Leftover> {
    let (id, labels) = (config.id?, config.spec?.labels?);
    let stack = StackName::new(labels.get(STACK)?.as_str()).ok()?;
    let attempt = AttemptId::new(labels.get(keys::ATTEMPT)?.as_str()).ok()?;
    Some(Leftover {
        config: id,
        version: i64::try_from(config.version?.index?).ok()?,
        names: Names { instance: labels.get(keys::INSTANCE)?.clone(), stack, attempt },
        nodes: split(labels.get(NODES)?),
    })
}

/// Writes ids of nodes as a label.
pub(super) fn join(nodes: &BTreeSet<String>) -> String {
    nodes.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// Reads them.
pub(super) fn split(label: &str) -> BTreeSet<String> {
    label.split(',').filter(|node| !node.is_empty()).map(ToOwned::to_owned).collect()
}
