//! What a database's volume says about it.

use std::collections::BTreeMap;
use std::str::FromStr;

use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::label::{Labels, keys, rfc3339};
use crate::name::{
    AttemptId, DatabaseId, DatabaseName, DatasetName, LeaseId, SnapshotName, StackName, Version, VolumeName,
};
use crate::orchestrator::Stack;
use crate::snapshot::Volume;

/// The kind of a database's volume and stack.
pub(super) const KIND: &str = "database";

/// A database as its volume's labels describe it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub(super) id: DatabaseId,
    pub(super) name: DatabaseName,
    pub(super) dataset: DatasetName,
    pub(super) version: Version,
    pub(super) postgres: u32,
    pub(super) dbname: String,
    pub(super) port: u16,
    pub(super) created: OffsetDateTime,
    pub(super) expires: OffsetDateTime,
    pub(super) durable: bool,
    pub(super) settings: BTreeMap<String, String>,
    /// How often it was reset. Of several announced volumes of one database, the highest is the database.
    pub(super) generation: u32,
    pub(super) state: State,
    /// The environment that it was made for, and the attempt that made that.
    pub(super) environment: Option<String>,
    /// The lease it lives on.
    pub(super) lease: Option<LeaseId>,
    /// The store's [epoch](crate::SnapshotStore::epoch) when the create began, if the pending record reaches the disk before the database is announced.
    /// In another epoch, a pending record may be that of an announced database.
    pub(super) epoch: Option<String>,
    /// The try that made this volume. A stack on it is a try of its own, as it may be deployed again.
    pub(super) attempt: AttemptId,
}

/// Where a database is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is being made, and nobody has been told of it.
    Pending,
    /// Somebody may have been told of it: it must answer until it is deleted.
    Announced,
    /// It is being deleted, and nobody can have it any more.
    Deleting,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Announced => "announced",
            Self::Deleting => "deleting",
        }
    }
}

impl FromStr for State {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        [Self::Pending, Self::Announced, Self::Deleting]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| Error::invalid("state", text))
    }
}

impl Record {
    /// Returns the name of its stack, which stays the same through resets.
    pub(super) fn stack(&self) -> StackName {
        stack_of(&self.id)
    }

    /// Returns the name of its volume, which no other attempt can have.
    pub(super) fn volume(&self) -> VolumeName {
        #[expect(clippy::expect_used, reason = "both parts are hexadecimal")]
        VolumeName::new(format!("{}{}", volume_prefix(&self.id), self.attempt)).expect("a name")
    }

    /// Returns the name of the snapshot it was cloned from.
    pub(super) fn snapshot(&self) -> SnapshotName {
        SnapshotName::of(&self.dataset, &self.version)
    }

    /// Returns the labels of its volume.
    pub(super) fn labels(&self, instance: &str) -> Result<Labels> {
        let settings = serde_json::to_string(&self.settings).map_err(|e| Error::invalid("settings", e))?;
        let mut labels = Labels::new();
        for (key, value) in [
            (keys::KIND, KIND),
            (keys::INSTANCE, instance),
            (keys::ID, self.id.as_str()),
            (keys::NAME, self.name.as_str()),
            (keys::DATASET, self.dataset.as_str()),
            (keys::VERSION, self.version.as_str()),
            (keys::POSTGRES, &self.postgres.to_string()),
            (keys::DBNAME, &self.dbname),
            (keys::PORT, &self.port.to_string()),
            (keys::CREATED, &rfc3339(self.created)?),
            (keys::EXPIRES, &rfc3339(self.expires)?),
            (keys::DURABLE, if self.durable { "true" } else { "false" }),
            (keys::SETTINGS, &settings),
            (keys::GENERATION, &self.generation.to_string()),
            (keys::STATE, self.state.as_str()),
            (keys::ATTEMPT, self.attempt.as_str()),
        ] {
            labels.set(key, value)?;
        }
        if let Some(environment) = &self.environment {
            labels.set(keys::ENVIRONMENT, environment)?;
        }
        if let Some(lease) = &self.lease {
            labels.set(keys::LEASE, lease.as_str())?;
        }
        if let Some(epoch) = &self.epoch {
            labels.set(keys::EPOCH, epoch)?;
        }
        Ok(labels)
    }

    /// Returns the labels of its stack: who it is, and nothing that changes.
    pub(super) fn stack_labels(&self, instance: &str) -> Result<Labels> {
        Labels::new()
            .with(keys::KIND, KIND)?
            .with(keys::INSTANCE, instance)?
            .with(keys::ID, self.id.as_str())?
            .with(keys::NAME, self.name.as_str())?
            .with(keys::DATASET, self.dataset.as_str())?
            .with(keys::VERSION, self.version.as_str())?
            .with(keys::VOLUME, self.volume().as_str())?
            .with(keys::ATTEMPT, self.attempt.as_str())
    }

    /// Tells whether a stack runs on this volume.
    pub(super) fn owns(&self, stack: &Stack) -> bool {
        stack.labels.get(keys::VOLUME) == Some(self.volume().as_str())
    }

    /// Reads a volume's labels.
    pub(super) fn read(volume: &Volume) -> Result<Self> {
        let labels = &volume.labels;
        let record = Self {
            id: labels.parse(keys::ID)?,
            name: labels.parse(keys::NAME)?,
            dataset: labels.parse(keys::DATASET)?,
            version: labels.parse(keys::VERSION)?,
            postgres: labels.parse(keys::POSTGRES)?,
            dbname: labels.text(keys::DBNAME)?.to_owned(),
            port: labels.parse(keys::PORT)?,
            created: labels.moment(keys::CREATED)?,
            expires: labels.moment(keys::EXPIRES)?,
            durable: labels.parse(keys::DURABLE)?,
            settings: serde_json::from_str(labels.text(keys::SETTINGS)?)
                .map_err(|e| Error::invalid(keys::SETTINGS, e))?,
            generation: labels.parse(keys::GENERATION)?,
            state: labels.parse(keys::STATE)?,
            environment: labels.get(keys::ENVIRONMENT).map(str::to_owned),
            lease: labels.get(keys::LEASE).map(str::parse).transpose()?,
            epoch: labels.get(keys::EPOCH).map(str::to_owned),
            attempt: labels.parse(keys::ATTEMPT)?,
        };
        if record.volume() != volume.name {
            return Err(Error::invalid("labels", format!("they describe {}, not {}", record.volume(), volume.name)));
        }
        Ok(record)
    }
}

/// Returns what the names of a database's volumes begin with.
fn volume_prefix(id: &DatabaseId) -> String {
    format!("db-{}-", id.short())
}

/// Tells whether a volume of this name would be one of this database.
pub(super) fn is_volume_of(volume: &str, id: &DatabaseId) -> bool {
    volume.starts_with(&volume_prefix(id))
}

/// Returns the name of a database's stack.
pub(super) fn stack_of(id: &DatabaseId) -> StackName {
    #[expect(clippy::expect_used, reason = "hexadecimal digits are a name's characters")]
    StackName::new(format!("pg-{}", id.short())).expect("a name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn record() -> Record {
        Record {
            id: DatabaseId::new("a".repeat(64)).unwrap(),
            name: "mine".parse().unwrap(),
            dataset: "production".parse().unwrap(),
            version: "20261122-192300".parse().unwrap(),
            postgres: 15,
            dbname: "naïve \"name\"".to_owned(),
            port: 5433,
            created: datetime!(2026-11-22 19:23:00 UTC),
            expires: datetime!(2026-11-23 19:23:00.5 UTC),
            durable: true,
            settings: BTreeMap::from([("work_mem".to_owned(), "8MB".to_owned())]),
            generation: 3,
            state: State::Announced,
            environment: Some("demo.0123456789abcdef".to_owned()),
            lease: Some(LeaseId::new("ab".repeat(16)).unwrap()),
            epoch: Some("boot/1".to_owned()),
            attempt: AttemptId::new("0123456789abcdef").unwrap(),
        }
    }

    fn volume(record: &Record, labels: Labels) -> Volume {
        Volume {
            name: record.volume(),
            labels,
            path: "/somewhere".into(),
            snapshot: None,
            created: record.created,
            complete: true,
        }
    }

    #[test]
    fn labels_hold_all_of_it() {
        let record = record();
        let labels = record.labels("1234abcd").unwrap();
        assert_eq!(Record::read(&volume(&record, labels)).unwrap(), record);
    }

    #[test]
    fn damaged_labels_are_errors() {
        let record = record();
        let whole = record.labels("1234abcd").unwrap();
        let optional = [keys::KIND, keys::INSTANCE, keys::ENVIRONMENT, keys::LEASE, keys::EPOCH];
        for (key, _) in whole.iter().filter(|(key, _)| !optional.contains(key)) {
            let mut missing = whole.clone();
            missing.unset(key);
            assert!(Record::read(&volume(&record, missing)).is_err(), "without {key}");
        }
        let other = whole.with(keys::ATTEMPT, "fedcba9876543210").unwrap();
        assert!(Record::read(&volume(&record, other)).is_err(), "another volume's labels");
    }
}
