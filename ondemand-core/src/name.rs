//! Names and ids: parsed once at the edge, trusted from there on.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind, Result, shorten};

mod git;

pub use git::{Branch, Commit, Repository};

/// Checks `text` against what every name here has in common: it starts and ends with a letter or digit, holds lower-case
/// letters, digits and the characters of `inner`, and is not too long. So no name can be a path, an option or a format.
fn check(kind: Kind, text: &str, inner: &str, longest: usize) -> Result<()> {
    let invalid = |reason: String| Err(Error::InvalidName { kind, name: shorten(text), reason });
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if text.is_empty() {
        return invalid("it is empty".into());
    }
    if text.len() > longest {
        return invalid(format!("it has {} characters, and {longest} is the limit", text.len()));
    }
    if let Some(c) = text.chars().find(|&c| !alphanumeric(c) && !inner.contains(c)) {
        let marks = inner.chars().map(|c| format!("'{c}'")).collect::<Vec<_>>().join(" ");
        return invalid(format!("{c:?} is not allowed; use lower-case letters, digits and {marks}"));
    }
    if !text.starts_with(alphanumeric) || !text.ends_with(alphanumeric) {
        return invalid("it must start and end with a letter or a digit".into());
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:expr, $inner:literal, $longest:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// [`Error::InvalidName`], with the rule it breaks.
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                check($kind, &text, $inner, $longest)?;
                Ok(Self(text))
            }

            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        text_newtype!($name);
    };
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}
use text_newtype;

name! {
    /// Names a dataset: `production`, `fixtures`.
    DatasetName, Kind::Dataset, "-_", 63
}
name! {
    /// The version of a snapshot within its dataset: the UTC time it was published, `20261122-192300`.
    Version, Kind::Snapshot, "-", 32
}
name! {
    /// Names a snapshot in a store: `production@20261122-192300`.
    SnapshotName, Kind::Snapshot, "-_@", 96
}
name! {
    /// Names a volume in a store.
    VolumeName, Kind::Volume, "-_", 96
}
name! {
    /// Names a stack in an orchestrator. A DNS label, as stacks are reached by name.
    StackName, Kind::Stack, "-", 63
}
name! {
    /// Names a service within its stack. A DNS label.
    ServiceName, Kind::Service, "-", 63
}
name! {
    /// Names an environment. A DNS label, with room for a suffix; `${NAME}${suffix}.${domain}` is where it is reached.
    EnvironmentName, Kind::Environment, "-", 40
}
name! {
    /// The name a user gives to a database.
    DatabaseName, Kind::Database, "-_", 63
}
name! {
    /// A host name as the router knows it: lower case, no port, no trailing dot.
    Hostname, Kind::Host, "-.", 253
}

impl Hostname {
    /// Parses a host name as a browser takes it: in any case, in any script, with a dot at its end.
    ///
    /// # Errors
    /// [`Error::InvalidName`], with the rule it breaks.
    pub fn parse_lenient(text: &str) -> Result<Self> {
        let invalid =
            |reason: &str| Error::InvalidName { kind: Kind::Host, name: shorten(text), reason: reason.into() };
        // A name of the greatest length has fewer bytes in any script; and converting takes the longer by the square.
        if text.len() > 1024 {
            return Err(invalid("it is longer than any name"));
        }
        if let Some((_, port)) = text.rsplit_once(':')
            && port.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(invalid("leave out the port; the name is the same at every port"));
        }
        let ascii = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::URL)
                .map_err(|_| invalid("it cannot be written in the letters of the domain name system"))?
                .into_owned()
        };
        Self::new(ascii.strip_suffix('.').unwrap_or(&ascii)).map_err(|error| match error {
            Error::InvalidName { reason, .. } => invalid(&reason),
            error => error,
        })
    }
}

/// A dataset, or one version of it: `production`, `production@20261122-192300`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DatasetRef {
    /// The dataset.
    pub dataset: DatasetName,
    /// The version; the newest where there is none.
    pub version: Option<Version>,
}

impl FromStr for DatasetRef {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let (dataset, version) = match text.split_once('@') {
            Some((dataset, version)) => (dataset, Some(version.parse()?)),
            None => (text, None),
        };
        Ok(Self { dataset: dataset.parse()?, version })
    }
}

impl From<DatasetName> for DatasetRef {
    fn from(dataset: DatasetName) -> Self {
        Self { dataset, version: None }
    }
}

impl fmt::Display for DatasetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}@{version}", self.dataset),
            None => write!(f, "{}", self.dataset),
        }
    }
}

impl serde::Serialize for DatasetRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for DatasetRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl SnapshotName {
    /// Returns the name of a dataset's version in a store.
    pub fn of(dataset: &DatasetName, version: &Version) -> Self {
        // Both parts are checked, and their separator is none of their characters.
        Self(format!("{dataset}@{version}"))
    }
}

/// Fills `bytes` with randomness fit for secrets.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|e| Error::backend("random", "asking the system for randomness", e))
}

/// Writes bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $kind:expr, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Makes a new, random id.
            ///
            /// # Errors
            /// [`Error::Backend`] if the system has no randomness to give.
            pub fn random() -> Result<Self> {
                let mut bytes = [0; $bytes];
                random(&mut bytes)?;
                Ok(Self(hex(&bytes)))
            }

            /// Parses an id.
            ///
            /// # Errors
            /// [`Error::InvalidName`] unless it is lower-case hexadecimal of the right length.
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                if text.len() == $bytes * 2 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                    return Ok(Self(text));
                }
                Err(Error::InvalidName {
                    kind: $kind,
                    name: shorten(&text),
                    reason: format!("an id has {} lower-case hexadecimal digits", $bytes * 2),
                })
            }

            /// Returns the id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the first twelve digits, enough for a person to tell ids apart.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        text_newtype!($name);
    };
}

hex_id! {
    /// Identifies a database for as long as it lives: 64 lower-case hexadecimal digits.
    DatabaseId, Kind::Database, 32
}
hex_id! {
    /// Identifies one try at creating something; marks all that the try made.
    AttemptId, Kind::Attempt, 8
}
hex_id! {
    /// Identifies a lease: 32 lower-case hexadecimal digits. Whoever knows it can hold the lease, so it is told to nobody else.
    LeaseId, Kind::Lease, 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_lower_case_labels() {
        for good in ["a", "production", "my-db_2", "0", &"x".repeat(63)] {
            assert!(DatasetName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a b", "../etc", "a/b", "é", "a\0", "a@b", "_", &"x".repeat(64)] {
            assert!(DatasetName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_host_is_taken_as_a_browser_takes_it() {
        let long = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        for (text, host) in [
            ("shop.localhost", "shop.localhost"),
            ("Shop.LocalHost.", "shop.localhost"),
            ("10.0.0.5", "10.0.0.5"),
            ("münchen.example", "xn--mnchen-3ya.example"),
            ("MÜNCHEN.Example.", "xn--mnchen-3ya.example"),
            ("XN--MNCHEN-3YA.example", "xn--mnchen-3ya.example"),
            // The dot and the letters of other scripts that browsers take for ours.
            ("ｓｈｏｐ。example", "shop.example"),
            ("straße.example", "xn--strae-oqa.example"),
            (&long, &long),
        ] {
            assert_eq!(Hostname::parse_lenient(text).expect(text).as_str(), host);
        }
        for bad in
            ["", ".", "a..", "..", "a b", "a/b", "a@b", "a%2eb", "-a", "[::1]", "é/x", "é:x", "é\u{202e}x", "é\0"]
        {
            let error = Hostname::parse_lenient(bad).expect_err(bad).to_string();
            assert!(error.contains("is not a host name"), "{error}");
        }
        for long in [format!("{long}x"), "é".repeat(400), "é".repeat(100_000)] {
            assert!(Hostname::parse_lenient(&long).is_err());
        }
    }

    #[test]
    fn the_port_of_a_host_is_not_its_name() {
        for text in ["shop.localhost:8000", "münchen.example:80", "a:"] {
            let error = Hostname::parse_lenient(text).expect_err(text).to_string();
            assert!(error.contains("leave out the port"), "{error}");
        }
    }

    #[test]
    fn a_reference_has_an_optional_version() {
        let newest: DatasetRef = "production".parse().expect("a dataset");
        assert_eq!(newest.version, None);
        let old: DatasetRef = "production@20261122-192300".parse().expect("a version");
        assert_eq!(old.version.map(|v| v.to_string()).as_deref(), Some("20261122-192300"));
        for bad in ["", "@", "production@", "@1", "a@b@c", "a@../b"] {
            assert!(bad.parse::<DatasetRef>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_random_hex() {
        let id = DatabaseId::random().expect("randomness");
        assert_eq!(id.as_str().len(), 64);
        assert_ne!(id, DatabaseId::random().expect("randomness"));
        assert!(DatabaseId::new(id.as_str().to_uppercase() + "g").is_err());
        assert!(DatabaseId::new("30c8").is_err());
    }

    proptest! {
        #[test]
        fn a_reference_survives_printing(text in "[a-z0-9_@-]{0,40}") {
            if let Ok(reference) = text.parse::<DatasetRef>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }

        #[test]
        fn a_host_is_taken_as_it_was_printed(text in "\\PC{0,40}") {
            if let Ok(host) = Hostname::parse_lenient(&text) {
                prop_assert_eq!(Hostname::parse_lenient(host.as_str()).unwrap(), host);
            }
        }

        #[test]
        fn no_name_is_a_path(text in ".{0,80}") {
            if let Ok(name) = VolumeName::new(text) {
                let path = std::path::Path::new(name.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert!(path.file_name().is_some());
            }
        }
    }
}
