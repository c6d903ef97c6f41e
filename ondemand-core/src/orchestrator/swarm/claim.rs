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

use super::BACKEND;
use super::engine::{failed, is_out_of_sequence};
use super::leftover;
use super::names::Names;
use crate::catalog::check_format;
use crate::error::{BoxError, Error, Kind, Result};
use crate::label::{Labels, keys};
use crate::listing::Unreadable;
use crate::name::{AttemptId, ServiceName, StackName};
use crate::orchestrator::docker::engine::has_status;
use crate::orchestrator::docker::translate::{STACK, label_filter};
use crate::orchestrator::{StackId, StackSpec, VolumeSpec};

/// The label of claims, with the stack's labels as JSON.
const LABELS: &str = "ondemand.labels";
/// The label of claims that say which format they have; see [`check_format`].
const FORMAT: &str = "ondemand.format";
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

/// The claims that were found, and those that are there and cannot be read.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) found: Vec<Claim>,
    pub(super) damaged: Vec<Damaged>,
}

/// A claim that cannot be read: its stack is there, and nobody knows what is true of it.
#[derive(Debug)]
pub(super) struct Damaged {
    /// The name of its configuration file.
    config: String,
    /// What its stack is called, as far as that can be told.
    stack: String,
    reason: BoxError,
}

impl Damaged {
    fn new(config: &str, instance: &str, label: Option<&StackName>, reason: BoxError) -> Self {
        // The name never changes. A long one is cut, and then only the label tells.
        let known = config.strip_prefix(instance).and_then(|rest| rest.strip_prefix('_'));
        let known = known
            .filter(|name| StackName::new(*name).is_ok_and(|stack| super::names::claim(instance, &stack) == config));
        let stack = known.map(str::to_owned).or_else(|| label.map(ToString::to_string));
        Self { config: config.to_owned(), stack: stack.unwrap_or_else(|| config.to_owned()), reason }
    }

    /// Tells whether it claims this deployment's name.
    pub(super) fn is_of(&self, names: &Names) -> bool {
        self.config == names.claim()
    }

    pub(super) fn unreadable(self) -> Unreadable {
        Unreadable::new(self.stack.clone(), &self.error())
    }

    fn error(self) -> Error {
        Error::backend(
            BACKEND,
            format!("reading config {}, which claims the name of a stack", self.config),
            self.reason,
        )
    }
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

    /// Finds the claims of an installation.
    pub(super) async fn all(client: &bollard::Docker, instance: &str) -> Result<Claims> {
        let labels = HashMap::from([(keys::INSTANCE.to_owned(), instance.to_owned())]);
        let options = ListConfigsOptions { filters: Some(label_filter(labels)) };
        let found = client.list_configs(Some(options)).await.map_err(|e| failed("listing stacks", e))?;
        let mut claims = Claims::default();
        for read in found.into_iter().filter_map(read) {
            match read {
                Ok(claim) => claims.found.push(claim),
                Err(damaged) => claims.damaged.push(damaged),
            }
        }
        Ok(claims)
    }

    /// Finds the claim of a name.
    ///
    /// # Errors
    /// [`Error::Backend`] if there is one that cannot be read.
    pub(super) async fn of(client: &bollard::Docker, instance: &str, stack: &StackName) -> Result<Option<Self>> {
        // Labels may be damaged, so its name is asked for. An inspection of that name answers 404 also where the manager could not look; a list does not.
        let name = super::names::claim(instance, stack);
        let options = ListConfigsOptions { filters: Some(HashMap::from([("name".to_owned(), vec![name.clone()])])) };
        let found =
            client.list_configs(Some(options)).await.map_err(|e| failed(format!("looking for stack {stack}"), e))?;
        let found = found.into_iter().find(|config| name_of(config) == Some(&name));
        found
            .map(|config| parse(config).map_err(|reason| Damaged::new(&name, instance, None, reason).error()))
            .transpose()
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
                now => Some(now.map_err(|e| failed(operation(), e))?),
            };
            let now = now.ok_or_else(|| Error::not_found(Kind::Stack, &stack))?;
            let (name, instance) = (self.names.claim(), &self.names.instance);
            *self = parse(now).map_err(|reason| Damaged::new(&name, instance, None, reason).error())?;
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

fn name_of(config: &Config) -> Option<&String> {
    config.spec.as_ref()?.name.as_ref()
}

/// Reads a claim among what carries the labels of an installation; `None` if it is another file of a stack.
fn read(config: Config) -> Option<Result<Claim, Damaged>> {
    let labels = config.spec.as_ref()?.labels.as_ref()?;
    let instance = labels.get(keys::INSTANCE)?.clone();
    let label = labels.get(STACK).and_then(|stack| StackName::new(stack.as_str()).ok());
    let name = name_of(&config)?.clone();
    let is_claim = labels.contains_key(LABELS)
        || label.as_ref().is_some_and(|stack| name == super::names::claim(&instance, stack));
    is_claim.then(|| parse(config).map_err(|reason| Damaged::new(&name, &instance, label.as_ref(), reason)))
}

fn parse(config: Config) -> Result<Claim, BoxError> {
    let missing = |what: &str| format!("it has no {what}");
    let spec = config.spec.ok_or_else(|| missing("specification"))?;
    let labels = spec.labels.unwrap_or_default();
    let label = |key: &str| labels.get(key).map(String::as_str).ok_or_else(|| missing(&format!("label {key}")));
    labels.get(FORMAT).map_or(Ok(()), |format| check_format(format.parse()?))?;
    // What they hold is not quoted: it may be anything.
    let wrong = |key: &str| format!("its label {key} is damaged");
    let own: BTreeMap<String, String> = serde_json::from_str(label(LABELS)?).map_err(|_| wrong(LABELS))?;
    let content = BASE64.decode(spec.data.ok_or_else(|| missing("content"))?).map_err(|_| "its content is damaged")?;
    let version = config.version.and_then(|version| version.index).ok_or_else(|| missing("version"))?;
    let names = Names {
        instance: label(keys::INSTANCE)?.to_owned(),
        stack: StackName::new(label(STACK)?).map_err(|_| wrong(STACK))?,
        attempt: AttemptId::new(label(keys::ATTEMPT)?).map_err(|_| wrong(keys::ATTEMPT))?,
    };
    if spec.name.as_ref() != Some(&names.claim()) {
        return Err(format!("its labels {} and {STACK} are not those of its name", keys::INSTANCE).into());
    }
    Ok(Claim {
        config: config.id.ok_or_else(|| missing("id"))?,
        version: i64::try_from(version)?,
        labels: Labels::try_from(own).map_err(|_| wrong(LABELS))?,
        created: OffsetDateTime::parse(label(keys::CREATED)?, &Rfc3339).map_err(|_| wrong(keys::CREATED))?,
        services: serde_json::from_slice(&content).map_err(|_| "its content is damaged")?,
        asleep: labels.contains_key(ASLEEP),
        removing: labels.contains_key(REMOVING),
        volumes: labels.get(VOLUMES).map(|nodes| leftover::split(nodes)),
        names,
    })
}

#[cfg(test)]
mod tests {
    use bollard::models::ObjectVersion;

    use super::*;

    fn claim() -> Config {
        let names = Names {
            instance: "1234abcd".into(),
            stack: StackName::new("env-demo").unwrap(),
            attempt: AttemptId::random().unwrap(),
        };
        let claim = Claim {
            config: "id".into(),
            version: 7,
            names,
            labels: Labels::new().with("who", "x").unwrap(),
            created: OffsetDateTime::now_utc(),
            services: vec!["web".parse().unwrap()],
            asleep: true,
            removing: false,
            volumes: None,
        };
        let version = Some(ObjectVersion { index: Some(7) });
        Config { id: Some("id".into()), version, spec: Some(claim.spec(true).unwrap()), ..Config::default() }
    }

    #[test]
    fn a_claim_says_what_was_written() {
        let claim = read(claim()).unwrap().unwrap();
        assert_eq!((claim.labels.get("who"), claim.asleep, claim.removing), (Some("x"), true, false));
        assert_eq!(claim.services, ["web".parse().unwrap()]);
    }

    #[test]
    fn what_cannot_be_read_is_not_absent() {
        let damaged = |damage: &dyn Fn(&mut ConfigSpec)| {
            let mut config = claim();
            damage(config.spec.as_mut().unwrap());
            read(config).expect("it is there").expect_err("it cannot be read").unreadable()
        };
        for key in [LABELS, keys::CREATED, keys::ATTEMPT, STACK] {
            let without = damaged(&|spec| drop(spec.labels.as_mut().unwrap().remove(key)));
            assert!(without.reason.contains(key), "{without}");
            let wrong = damaged(&|spec| drop(spec.labels.as_mut().unwrap().insert(key.into(), "s3cret!".into())));
            assert!(wrong.reason.contains(key) && !wrong.reason.contains("s3cret"), "{wrong}");
            assert_eq!((&*without.name, &*wrong.name), ("env-demo", "env-demo"));
        }
        for (key, other) in [(STACK, "env-other"), (keys::INSTANCE, "abcd1234")] {
            let of_another = damaged(&|spec| drop(spec.labels.as_mut().unwrap().insert(key.into(), other.into())));
            assert!(of_another.reason.contains("not those of its name"), "{of_another}");
        }
        let empty = damaged(&|spec| spec.data = None);
        assert!(empty.reason.contains("no content"), "{empty}");
        let odd = damaged(&|spec| spec.data = Some(BASE64.encode("{}")));
        assert!(odd.reason.contains("content is damaged"), "{odd}");
        let later = damaged(&|spec| drop(spec.labels.as_mut().unwrap().insert(FORMAT.into(), "2".into())));
        assert!(later.reason.contains("a later version"), "{later}");
    }

    #[test]
    fn a_file_of_a_stack_is_no_claim() {
        let mut config = claim();
        let spec = config.spec.as_mut().unwrap();
        spec.labels.as_mut().unwrap().remove(LABELS);
        spec.name = Some("1234abcd_env-demo_settings".into());
        assert!(read(config).is_none());
        assert!(read(Config::default()).is_none());
    }
}
