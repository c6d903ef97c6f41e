//! Labels: what an engine remembers about a thing for us.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::{Error, Kind, Result, shorten};

/// The longest key, in bytes.
const LONGEST_KEY: usize = 128;
/// The longest value, in bytes.
const LONGEST_VALUE: usize = 4096;

/// Keys and values attached to a stack, a volume or a snapshot. Never a home for secrets.
///
/// Keys are lower-case letters, digits, `.`, `-`, `_` and `/`, at most 128 bytes; values are at most 4096 bytes and hold no
/// control characters, so that every engine and every log can carry them.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Makes an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a label.
    ///
    /// # Errors
    /// [`Error::InvalidName`] if the key or the value breaks the rules above.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) -> Result<()> {
        let (key, value) = (key.into(), value.into());
        let invalid =
            |name: &str, reason: String| Err(Error::InvalidName { kind: Kind::Label, name: shorten(name), reason });
        if key.is_empty() || key.len() > LONGEST_KEY {
            return invalid(&key, format!("a key has 1 to {LONGEST_KEY} characters"));
        }
        let in_key = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_/".contains(&b);
        if !key.bytes().all(in_key) {
            return invalid(&key, "a key holds lower-case letters, digits and '.' '-' '_' '/'".into());
        }
        if value.len() > LONGEST_VALUE {
            return invalid(&key, format!("its value has {} bytes, and {LONGEST_VALUE} is the limit", value.len()));
        }
        if value.chars().any(char::is_control) {
            return invalid(&key, "its value holds a control character".into());
        }
        self.0.insert(key, value);
        Ok(())
    }

    /// Sets a label, for chaining.
    ///
    /// # Errors
    /// As [`Labels::set`].
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Result<Self> {
        self.set(key, value)?;
        Ok(self)
    }

    /// Removes a label, and returns its value.
    pub fn unset(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    /// Returns a label's value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Returns the labels in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = Error;
    fn try_from(map: BTreeMap<String, String>) -> Result<Self> {
        map.into_iter().try_fold(Self::new(), |labels, (key, value)| labels.with(key, value))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

/// Chooses things by their labels: every pair must be there with that value. An empty selector chooses all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(BTreeMap<String, String>);

impl Selector {
    /// Makes a selector that chooses all.
    pub fn all() -> Self {
        Self::default()
    }

    /// Narrows the choice to things with this label.
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// Tells whether `labels` hold every pair.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Returns the pairs in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (key, value)) in self.iter().enumerate() {
            write!(f, "{}{key}={value}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Writes a moment as a label has it.
pub(crate) fn rfc3339(moment: OffsetDateTime) -> Result<String> {
    moment.format(&Rfc3339).map_err(|e| Error::invalid("time", e))
}

impl Labels {
    /// Returns a label's value, which must be there.
    pub(crate) fn text(&self, key: &str) -> Result<&str> {
        self.get(key).ok_or_else(|| Error::invalid("labels", format!("{key} is missing")))
    }

    /// Reads a label's value, which must be there.
    pub(crate) fn parse<T: FromStr<Err: fmt::Display>>(&self, key: &str) -> Result<T> {
        self.text(key)?.parse().map_err(|e| Error::invalid(key, e))
    }

    /// Reads a label's value as a moment, which must be there.
    pub(crate) fn moment(&self, key: &str) -> Result<OffsetDateTime> {
        OffsetDateTime::parse(self.text(key)?, &Rfc3339).map_err(|e| Error::invalid(key, e))
    }
}

/// The keys this library sets.
pub mod keys {
    /// What the thing is of: `database` (its volumes and its stack), `environment` (a stack), `import` (its volume), `dataset` (a published snapshot).
    pub const KIND: &str = "ondemand.kind";
    /// The data directory (the installation) that owns the thing.
    pub const INSTANCE: &str = "ondemand.instance";
    /// The try that made it.
    pub const ATTEMPT: &str = "ondemand.attempt";
    /// The id of the database it belongs to.
    pub const ID: &str = "ondemand.id";
    /// The user's name for it.
    pub const NAME: &str = "ondemand.name";
    /// The dataset.
    pub const DATASET: &str = "ondemand.dataset";
    /// The version of the dataset.
    pub const VERSION: &str = "ondemand.version";
    /// Whether a version is a by-product, which is used by name alone.
    pub const DERIVED: &str = "ondemand.derived";
    /// The state in its life.
    pub const STATE: &str = "ondemand.state";
    /// The published port.
    pub const PORT: &str = "ondemand.port";
    /// When its time has passed, RFC 3339.
    pub const EXPIRES: &str = "ondemand.expires";
    /// When it was made, RFC 3339.
    pub const CREATED: &str = "ondemand.created";
    /// The volume it runs on.
    pub const VOLUME: &str = "ondemand.volume";
    /// Where that volume was when the stack was made.
    pub const PATH: &str = "ondemand.path";
    /// Which make of a thing this is, counted up by each reset of a database and each redeployment of an environment. Of several that are announced or
    /// ready, the highest is the thing; the others are left over, and go.
    pub const GENERATION: &str = "ondemand.generation";
    /// Whether commits survive a power cut.
    pub const DURABLE: &str = "ondemand.durable";
    /// Postgres settings as JSON.
    pub const SETTINGS: &str = "ondemand.settings";
    /// The major version of Postgres.
    pub const POSTGRES: &str = "ondemand.postgres";
    /// The name of the Postgres database that holds the data.
    pub const DBNAME: &str = "ondemand.dbname";
    /// The environment it belongs to, and the attempt that made that: `demo.0123456789abcdef`.
    pub const ENVIRONMENT: &str = "ondemand.environment";
    /// The lease it lives on, where it has one.
    pub const LEASE: &str = "ondemand.lease";
    /// The epoch of its store when it was begun, where what its record says then is on disk before it is announced.
    pub const EPOCH: &str = "ondemand.epoch";
    /// The numeric id of the user who made it.
    pub const OWNER_ID: &str = "ondemand.owner-id";
    /// The name of the user who made it, as it was then.
    pub const OWNER: &str = "ondemand.owner";
    /// The template it was rendered from.
    pub const TEMPLATE: &str = "ondemand.template";
    /// The host names that reach it, and the services and ports they lead to, as JSON.
    pub const ROUTES: &str = "ondemand.routes";
    /// The back-end repository, branch and commit, as JSON.
    pub const BACK: &str = "ondemand.back";
    /// The front-end repository, branch and commit, as JSON.
    pub const FRONT: &str = "ondemand.front";
    /// The database of an environment, by id.
    pub const DATABASE: &str = "ondemand.database";
    /// Whether an environment's data are fixtures.
    pub const FIXTURES: &str = "ondemand.fixtures";
    /// How many statements of the dump failed, where any did.
    pub const FAILURES: &str = "ondemand.failures";
    /// What the first of them failed with, as JSON.
    pub const FAILED: &str = "ondemand.failed";
    /// What whoever uses a version should know.
    pub const WARNING: &str = "ondemand.warning";
    /// Bytes of the dump that was read.
    pub const DUMP_BYTES: &str = "ondemand.dump-bytes";
    /// Bytes of the data directory.
    pub const DATA_BYTES: &str = "ondemand.data-bytes";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_wants_every_pair() {
        let labels = Labels::new().with("a", "1").and_then(|l| l.with("b", "2")).expect("labels");
        assert!(Selector::all().matches(&labels));
        assert!(Selector::all().with("a", "1").with("b", "2").matches(&labels));
        assert!(!Selector::all().with("a", "2").matches(&labels));
        assert!(!Selector::all().with("c", "1").matches(&labels));
    }

    #[test]
    fn hostile_labels_are_refused() {
        for (key, value) in [("", "x"), ("A", "x"), ("a b", "x"), ("a=b", "x"), ("a", "line\nbreak"), ("a", "nul\0")] {
            assert!(Labels::new().with(key, value).is_err(), "{key:?}={value:?}");
        }
        assert!(Labels::new().with("a", "x".repeat(4097)).is_err());
        assert!(serde_json::from_str::<Labels>(r#"{"A":"x"}"#).is_err());
    }
}
