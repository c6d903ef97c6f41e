//! What a stack's labels say about the environment that runs as it.

use std::str::FromStr;

use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use super::Source;
use crate::error::{Error, Result};
use crate::github::Identity;
use crate::label::{Labels, keys, rfc3339};
use crate::name::{AttemptId, DatabaseId, EnvironmentName, Hostname, ServiceName, StackName};
use crate::orchestrator::Stack;

/// The kind of an environment's stack.
pub(super) const KIND: &str = "environment";

/// An environment, as the labels of its stack describe it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub(super) name: EnvironmentName,
    pub(super) owner: Identity,
    pub(super) template: String,
    pub(super) created: OffsetDateTime,
    pub(super) expires: OffsetDateTime,
    pub(super) routes: Vec<HostRoute>,
    pub(super) back: Option<Source>,
    pub(super) front: Option<Source>,
    pub(super) fixtures: bool,
    pub(super) database: Option<DatabaseId>,
    /// Which deployment of the environment this is, from 1 on. Of several that are ready, the highest is the environment.
    pub(super) generation: u32,
    pub(super) state: State,
    /// The try that made this stack.
    pub(super) attempt: AttemptId,
    /// The try that made the environment, and its database.
    pub(super) origin: AttemptId,
}

/// Where an environment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is being made, and nobody has been told of it.
    Pending,
    /// Somebody may have been told of it: it is there until it is deleted.
    Ready,
    /// It is being deleted.
    Deleting,
}

/// A host name that leads to a port of a service.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct HostRoute {
    pub(super) host: Hostname,
    pub(super) service: ServiceName,
    pub(super) port: u16,
    /// Whether it is one of the URLs that people are told; the short name of the main route is another name of one of them.
    pub(super) told: bool,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Deleting => "deleting",
        }
    }
}

impl FromStr for State {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Pending, Self::Ready, Self::Deleting];
        all.into_iter().find(|state| state.as_str() == text).ok_or_else(|| Error::invalid("state", text))
    }
}

/// Returns the name of the stack of an environment's deployment. The first hyphen ends the generation, so no two are the same.
pub(super) fn stack_name(name: &EnvironmentName, generation: u32) -> Result<StackName> {
    StackName::new(if generation == 1 { format!("env-{name}") } else { format!("env{generation}-{name}") })
}

/// Tells whether a stack of this name would be a deployment of some environment.
pub(super) fn is_stack_name(stack: &str) -> bool {
    environment_of(stack).is_some()
}

/// Tells whether a stack of this name would be a deployment of this environment.
pub(super) fn is_stack_of(stack: &str, name: &EnvironmentName) -> bool {
    environment_of(stack) == Some(name.as_str())
}

/// Returns the name of the environment that a stack of this name would be a deployment of.
fn environment_of(stack: &str) -> Option<&str> {
    let (generation, name) = stack.strip_prefix("env")?.split_once('-')?;
    generation.bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
}

/// Returns what the database of an environment is marked with.
pub(super) fn database_mark(name: &EnvironmentName, origin: &AttemptId) -> String {
    format!("{name}.{origin}")
}

impl Record {
    /// Returns the name of its stack.
    pub(super) fn stack(&self) -> Result<StackName> {
        stack_name(&self.name, self.generation)
    }

    /// Returns the URLs that people are told: host names.
    pub(super) fn urls(&self) -> Vec<Hostname> {
        self.routes.iter().filter(|route| route.told).map(|route| route.host.clone()).collect()
    }

    /// Returns the plain name's host name, which reaches the main route.
    pub(super) fn main(&self) -> Option<&Hostname> {
        let label = |host: &Hostname| host.as_str().split('.').next() == Some(self.name.as_str());
        self.routes.iter().map(|route| &route.host).find(|host| label(host))
    }

    /// Returns the labels of its stack.
    pub(super) fn labels(&self, instance: &str) -> Result<Labels> {
        let mut labels = Labels::new();
        for (key, value) in [
            (keys::KIND, KIND),
            (keys::INSTANCE, instance),
            (keys::NAME, self.name.as_str()),
            (keys::OWNER_ID, &self.owner.id.to_string()),
            (keys::OWNER, &self.owner.login),
            (keys::TEMPLATE, &self.template),
            (keys::CREATED, &rfc3339(self.created)?),
            (keys::EXPIRES, &rfc3339(self.expires)?),
            (keys::ROUTES, &json(keys::ROUTES, &self.routes)?),
            (keys::FIXTURES, if self.fixtures { "true" } else { "false" }),
            (keys::GENERATION, &self.generation.to_string()),
            (keys::STATE, self.state.as_str()),
            (keys::ATTEMPT, self.attempt.as_str()),
            (keys::ENVIRONMENT, &database_mark(&self.name, &self.origin)),
        ] {
            labels.set(key, value)?;
        }
        for (key, part) in [(keys::BACK, &self.back), (keys::FRONT, &self.front)] {
            if let Some(part) = part {
                labels.set(key, json(key, part)?)?;
            }
        }
        if let Some(database) = &self.database {
            labels.set(keys::DATABASE, database.as_str())?;
        }
        Ok(labels)
    }

    /// Reads a stack's labels.
    pub(super) fn read(stack: &Stack) -> Result<Self> {
        let labels = &stack.labels;
        let (name, origin) = labels
            .text(keys::ENVIRONMENT)?
            .rsplit_once('.')
            .ok_or_else(|| Error::invalid(keys::ENVIRONMENT, "it has no attempt"))?;
        let record = Self {
            name: labels.parse(keys::NAME)?,
            owner: Identity { id: labels.parse(keys::OWNER_ID)?, login: labels.text(keys::OWNER)?.to_owned() },
            template: labels.text(keys::TEMPLATE)?.to_owned(),
            created: labels.moment(keys::CREATED)?,
            expires: labels.moment(keys::EXPIRES)?,
            routes: from_json(keys::ROUTES, labels.text(keys::ROUTES)?)?,
            back: labels.get(keys::BACK).map(|part| from_json(keys::BACK, part)).transpose()?,
            front: labels.get(keys::FRONT).map(|part| from_json(keys::FRONT, part)).transpose()?,
            fixtures: labels.parse(keys::FIXTURES)?,
            database: labels.get(keys::DATABASE).map(str::parse).transpose()?,
            generation: labels.parse(keys::GENERATION)?,
            state: labels.parse(keys::STATE)?,
            attempt: labels.parse(keys::ATTEMPT)?,
            origin: origin.parse()?,
        };
        if record.stack()? != stack.name || record.name.as_str() != name {
            return Err(Error::invalid("labels", format!("they describe {}, not stack {}", record.name, stack.name)));
        }
        Ok(record)
    }
}

fn json(key: &str, value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::invalid(key, e))
}

fn from_json<T: DeserializeOwned>(key: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::invalid(key, e))
}

#[cfg(test)]
pub(super) mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::orchestrator::StackId;

    pub(crate) fn record() -> Record {
        let attempt = AttemptId::new("0123456789abcdef").unwrap();
        let source = |repository: &str| Source {
            repository: repository.parse().unwrap(),
            branch: "feature/ü".parse().unwrap(),
            commit: "0123456789abcdef0123456789abcdef01234567".parse().unwrap(),
        };
        Record {
            name: "demo".parse().unwrap(),
            owner: Identity { id: 4711, login: "octocat".into() },
            template: "shop".into(),
            created: datetime!(2026-11-22 19:23:00 UTC),
            expires: datetime!(2026-11-23 19:23:00.5 UTC),
            routes: vec![HostRoute {
                host: "demoapi.env.dev.internal".parse().unwrap(),
                service: "back".parse().unwrap(),
                port: 3000,
                told: true,
            }],
            back: Some(source("shop/back-web")),
            front: None,
            fixtures: true,
            database: Some(DatabaseId::new("a".repeat(64)).unwrap()),
            generation: 2,
            state: State::Ready,
            origin: AttemptId::new("fedcba9876543210").unwrap(),
            attempt,
        }
    }

    fn stack(record: &Record, labels: Labels) -> Stack {
        let name = record.stack().unwrap();
        Stack {
            id: StackId::of(&name, &record.attempt),
            name,
            attempt: record.attempt.clone(),
            labels,
            created: record.created,
            services: Vec::new(),
        }
    }

    #[test]
    fn labels_hold_all_of_it() {
        let record = record();
        let labels = record.labels("1234abcd").unwrap();
        assert_eq!(Record::read(&stack(&record, labels)).unwrap(), record);
    }

    #[test]
    fn damaged_labels_are_errors() {
        let record = record();
        let whole = record.labels("1234abcd").unwrap();
        let optional = [keys::KIND, keys::INSTANCE, keys::BACK, keys::DATABASE];
        for (key, _) in whole.iter().filter(|(key, _)| !optional.contains(key)) {
            let mut missing = whole.clone();
            missing.unset(key);
            assert!(Record::read(&stack(&record, missing)).is_err(), "without {key}");
        }
        let other = whole.with(keys::GENERATION, "3").unwrap();
        assert!(Record::read(&stack(&record, other)).is_err(), "another stack's labels");
    }

    #[test]
    fn no_two_deployments_have_one_stack() {
        let names = ["demo", "2-demo", "demo-2", "env-demo"];
        let stacks: std::collections::BTreeSet<_> =
            names.iter().flat_map(|name| (1..4).map(|n| stack_name(&name.parse().unwrap(), n).unwrap())).collect();
        for name in names {
            let name = name.parse().unwrap();
            let of = stacks.iter().filter(|stack| is_stack_of(stack.as_str(), &name));
            assert_eq!(of.count(), 3, "{name}");
        }
        assert!(!is_stack_name("pg-0123456789ab") && !is_stack_name("environment-x"));
        assert_eq!(stacks.len(), names.len() * 3);
        let longest = EnvironmentName::new("x".repeat(40)).unwrap();
        assert!(stack_name(&longest, u32::MAX).is_ok());
    }
}
