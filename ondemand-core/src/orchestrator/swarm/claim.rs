//! What claims a stack's name: a configuration file of that name, with what must be known of the stack as a whole.
//!
//! A swarm makes names of configuration files unique, and changes their labels in one step. A stack's labels are here, where they all change at once;
//! its services have copies, for people.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bollard::models::{Config, ConfigSpec};
use bollard::query_parameters::{ListConfigsOptions, UpdateConfigOptions};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::engine::{failed, is_out_of_sequence};
use super::leftover;
use super::names::Names;
use crate::error::{Error, Kind, Result};
use crate::label::{Labels, keys};
use crate::name::{AttemptId, ServiceName, StackName};
use crate::orchestrator::docker::engine::has_status;
use crate::orchestrator::docker::translate::{STACK, label_filter};
use crate::orchestrator::{StackId, StackSpec, VolumeSpec};

/// The label of claims, with the stack's labels as JSON.
const LABELS: &str = "ondemand.labels";
/// The label of a stack that was put to sleep.
const ASLEEP: &str = "ondemand.asleep";
/// The label of a stack whose removal was begun.
const REMOVING: &str = "ondemand.removing";
/// The label of a stack with volumes, which nodes keep when its tasks are gone; from its first sleep or its removal on, with the ids of the nodes that had tasks.
const VOLUMES: &str = "ondemand.volumes";
/// How often a change is tried again that another one came before.
const CHANGES: usize = 20;

/// What is known of a stack as a whole.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// What the engine calls it.
    config: String,
    version: i64,
    pub(super) names: Names,
    pub(super) labels: Labels,
    pub(super) created: OffsetDateTime,
    /// In the order of the specification.
    pub(super) services: Vec<ServiceName>,
    pub(super) asleep: bool,
    pub(super) removing: bool,
    /// Where it has volumes that go with it: none where it has no volumes, no nodes where it was not looked yet.
    pub(super) volumes: Option<BTreeSet<String>>,
}

impl Claim {
    /// Claims a name.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if it is taken.
    pub(super) async fn make(client: &bollard::Docker, names: &Names, spec: &StackSpec) -> Result<Self> {
        let services: Vec<_> = spec.services.iter().map(|service| service.name.clone()).collect();
        let mut claim = Self {
            config: String::new(),
            version: 0,
            names: names.clone(),
            labels: spec.labels.clone(),
            created: OffsetDateTime::now_utc(),
            services,
            asleep: false,
            removing: false,
            volumes: spec.volumes.values().any(VolumeSpec::goes_with_its_stack).then(BTreeSet::new),
        };
        match client.create_config(claim.spec(true)?).await {
            Ok(made) => claim.config = made.id,
            Err(e) if has_status(&e, 409) => return Err(Error::already_exists(Kind::Stack, &spec.name)),
            Err(e) => return Err(failed(format!("claiming the name {}", spec.name), e)),
        }
        Ok(claim)
    }

    pub(super) fn id(&self) -> StackId {
        self.names.id()
    }

    /// Tells whether this configuration file is the claim.
    pub(super) fn is(&self, config: &str) -> bool {
        self.config == config
    }

    /// Finds the claims of an installation: all, of one name, or of one deployment.
    pub(super) async fn find(
        client: &bollard::Docker,
        instance: &str,
        name: Option<&StackName>,
        attempt: Option<&AttemptId>,
    ) -> Result<Vec<Self>> {
        let mut labels = HashMap::from([(keys::INSTANCE.to_owned(), instance.to_owned())]);
        labels.extend(name.map(|name| (STACK.to_owned(), name.to_string())));
        labels.extend(attempt.map(|attempt| (keys::ATTEMPT.to_owned(), attempt.to_string())));
        let options = ListConfigsOptions { filters: Some(label_filter(labels)) };
        let found = client.list_configs(Some(options)).await.map_err(|e| failed("listing stacks", e))?;
        Ok(found.into_iter().filter_map(read).collect())
    }

    /// Changes what is known of the stack; tries again if another change came before.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the claim is gone.
    pub(super) async fn change(&mut self, client: &bollard::Docker, change: impl Fn(&mut Self)) -> Result<()> {
        let stack = self.names.stack.clone();
        let operation = || format!("changing stack {stack}");
        for tries in 1.. {
            let mut changed = self.clone();
            change(&mut changed);
            let options = UpdateConfigOptions { version: changed.version };
            match client.update_config(&self.config, changed.spec(false)?, options).await {
                Ok(()) => {
                    *self = changed;
                    break;
                }
                Err(e) if is_out_of_sequence(&e) && tries < CHANGES => {}
                Err(e) if has_status(&e, 404) => return Err(Error::not_found(Kind::Stack, &self.names.stack)),
                Err(e) => return Err(failed(operation(), e)),
            }
            let now = client.inspect_config(&self.config).await;
            let now = match now {
                Err(e) if has_status(&e, 404) => None,
                now => read(now.map_err(|e| failed(operation(), e))?),
            };
            *self = now.ok_or_else(|| Error::not_found(Kind::Stack, &stack))?;
        }
        Ok(())
    }

    /// Frees the name; succeeds if the claim is gone.
    pub(super) async fn drop(self, client: &bollard::Docker) -> Result<()> {
        match client.delete_config(&self.config).await {
            Ok(()) => Ok(()),
            Err(e) if has_status(&e, 404) => Ok(()),
            Err(e) => Err(failed(format!("freeing the name {}", self.names.stack), e)),
        }
    }

    /// Writes it as the engine keeps it. Its content never changes.
    fn spec(&self, with_content: bool) -> Result<ConfigSpec> {
        let odd = |e: &dyn std::fmt::Display| Error::invalid("labels", e);
        let content = serde_json::to_vec(&self.services).map_err(|e| odd(&e))?;
        let mut labels = self.names.labels();
        labels.insert(LABELS.into(), serde_json::to_string(&self.labels).map_err(|e| odd(&e))?);
        labels.insert(keys::CREATED.into(), self.created.format(&Rfc3339).map_err(|e| odd(&e))?);
        for (is, label) in [(self.asleep, ASLEEP), (self.removing, REMOVING)] {
            if is {
                labels.insert(label.into(), "true".into());
            }
        }
        labels.extend(self.volumes.as_ref().map(|nodes| (VOLUMES.into(), leftover::join(nodes))));
        Ok(ConfigSpec {
            name: Some(self.names.claim()),
            labels: Some(labels),
            data: with_content.then(|| BASE64.encode(content)),
            templating: None,
        })
    }
}

/// Reads a claim; `None` if it is none of ours.
fn read(config: Config) -> Option<Claim> {
    let (id, spec) = (config.id?, config.spec?);
    let labels = spec.labels?;
    let stack = StackName::new(labels.get(STACK)?.as_str()).ok()?;
    let attempt = AttemptId::new(labels.get(keys::ATTEMPT)?.as_str()).ok()?;
    let own: BTreeMap<String, String> = serde_json::from_str(labels.get(LABELS)?).ok()?;
    let content = BASE64.decode(spec.data?).ok()?;
    Some(Claim {
        config: id,
        version: i64::try_from(config.version?.index?).ok()?,
        labels: Labels::try_from(own).ok()?,
        created: OffsetDateTime::parse(labels.get(keys::CREATED)?, &Rfc3339).ok()?,
        services: serde_json::from_slice(&content).ok()?,
        asleep: labels.contains_key(ASLEEP),
        removing: labels.contains_key(REMOVING),
        volumes: labels.get(VOLUMES).map(|nodes| leftover::split(nodes)),
        names: Names { instance: labels.get(keys::INSTANCE)?.clone(), stack, attempt },
    })
}
