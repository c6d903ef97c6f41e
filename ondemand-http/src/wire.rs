//! What goes over the wire, for the server and for clients in Rust.
//!
//! Names are in PascalCase, and some numbers are text, because clients rely on it; routes are written as in the configuration, in
//! kebab-case. Every type both serialises and deserialises.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ondemand_core::snapshot::Usage;
use ondemand_core::{Code, Database, DatabaseState, DatasetSnapshot, Error, Report, Result, Ttl};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::{Object, ObjectBuilder, Type};

/// A database, which the wire format calls a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Server {
    /// Identifies it: 64 lower-case hexadecimal digits.
    #[schema(example = "30c8e143ee0c24aa322d1918ee5dd37f00590ea63bed9c032046ccfaf111f332")]
    pub id: String,
    /// Its name, with a slash before it.
    #[schema(example = "/pgondemand_5433")]
    pub name: String,
    /// When it is reaped, in seconds since 1970.
    #[serde(rename = "Expires_at")]
    #[schema(example = "1464266476")]
    pub expires_at: String,
    /// The host to connect to.
    #[schema(example = "pg.dev.internal")]
    pub host: String,
    /// The port to connect to.
    #[schema(example = "5433")]
    pub port: String,
    /// What it does.
    #[schema(schema_with = status_schema)]
    pub status: DatabaseState,
    /// The user to connect as; a superuser.
    pub user: String,
    /// The user's password. Not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The Postgres database that holds the data.
    pub dbname: String,
    /// The connection URL, with the password in it. Not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "postgresql://postgres:PASSWORD@pg.dev.internal:5433/shop")]
    pub url: Option<String>,
    /// The dataset it was cloned from.
    #[schema(example = "production")]
    pub dataset: String,
    /// The version of the dataset, as `Dataset` takes it when a server is created.
    #[schema(example = "production@20261122-192300")]
    pub snapshot: String,
    /// When it was created, in seconds since 1970.
    #[serde(rename = "Created_at")]
    #[schema(example = "1464180076")]
    pub created_at: String,
    /// Whether commits survive a power cut.
    pub durable: bool,
    /// The Postgres settings it was created with.
    pub settings: BTreeMap<String, String>,
    /// Whether it lives on a lease, and goes when nobody holds that any more.
    #[serde(default)]
    pub leased: bool,
}

impl Server {
    /// Describes a database with all there is to know, the password included.
    pub fn with_password(database: &Database) -> Self {
        let mut server = Self::without_password(database);
        server.password = Some(database.password.expose().to_owned());
        server.url = Some(database.url());
        server
    }

    /// Describes a database as lists show it.
    pub fn without_password(database: &Database) -> Self {
        Self {
            id: database.id.to_string(),
            name: format!("/{}", database.name),
            expires_at: database.expires.unix_timestamp().to_string(),
            host: database.host.clone(),
            port: database.port.to_string(),
            status: database.state,
            user: database.user.clone(),
            password: None,
            dbname: database.dbname.clone(),
            url: None,
            dataset: database.dataset.to_string(),
            snapshot: format!("{}@{}", database.dataset, database.version),
            created_at: database.created.unix_timestamp().to_string(),
            durable: database.durable,
            settings: database.settings.clone(),
            leased: database.lease.is_some(),
        }
    }
}

/// The id of a server, where it is all that is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ServerId {
    /// Identifies it: 64 lower-case hexadecimal digits.
    pub id: String,
}

/// What a new server is to be. `{}` asks for one with all defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub struct CreateServer {
    /// What to clone: a dataset's newest version, or the one after the `@`. The default is what is configured, or the only dataset.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "production")]
    pub dataset: Option<String>,
    /// How long it lives: `90s`, `15m`, `12h`, `2d`, `1w`, or a number of seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = ttl_schema)]
    pub ttl: Option<Ttl>,
    /// A name for it, unique among those that live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether commits are to survive a power cut. Costs a flush to disk for every commit.
    pub durable: bool,
    /// Postgres settings, as in `postgresql.conf`. Numbers and booleans may be written as such.
    #[serde(deserialize_with = "settings", skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// The lease that it lives on, which is held by `POST /leases`: it is deleted when nobody holds that any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

impl TryFrom<CreateServer> for ondemand_core::CreateOptions {
    type Error = Error;
    fn try_from(wanted: CreateServer) -> Result<Self> {
        Ok(Self {
            dataset: wanted.dataset.map(|text| text.parse()).transpose()?,
            ttl: wanted.ttl,
            name: wanted.name.map(|text| text.parse()).transpose()?,
            durable: wanted.durable,
            settings: wanted.settings,
            environment: None,
            lease: wanted.lease.map(|text| text.parse()).transpose()?,
        })
    }
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct Lease {
    /// Identifies it: 32 lower-case hexadecimal digits, chosen at random by whoever holds it.
    #[schema(example = "5f2b7c0e9a4d41d3b6c8e1f0a7923d54")]
    pub id: String,
}

/// What a server's data are published as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct PublishServer {
    /// The dataset. It need not exist.
    #[schema(example = "fixtures")]
    pub dataset: String,
    /// Whether it is a by-product: whoever names no dataset gets the only one that is none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub derived: bool,
}

/// When a server is to be reaped: one of the first two fields; and whether it is to be taken off its lease.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub struct PatchServer {
    /// How long it lives from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = ttl_schema)]
    pub ttl: Option<Ttl>,
    /// When its time has passed, in seconds since 1970; a number, or text.
    #[serde(rename = "Expires_at", skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = expires_schema)]
    pub expires_at: Option<UnixTime>,
    /// `null` takes it off its lease: from then on it lives until it expires.
    #[serde(default, skip_serializing, deserialize_with = "released", rename = "Lease")]
    #[schema(value_type = Option<String>)]
    pub release: bool,
}

impl PatchServer {
    /// Returns how long the server is to live from `now` on, where that is to change.
    ///
    /// # Errors
    /// [`InvalidInput`](Error::InvalidInput) if both times are given, or nothing at all, or if the time is past.
    pub fn ttl(&self, now: SystemTime) -> Result<Option<Ttl>> {
        match (self.ttl, self.expires_at) {
            (None, None) if self.release => Ok(None),
            (Some(ttl), None) => Ok(Some(ttl)),
            (None, Some(UnixTime(seconds))) => {
                let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let left = seconds.checked_sub(now).filter(|&left| left > 0);
                let left = left.ok_or_else(|| Error::invalid("Expires_at", "it is in the past"))?;
                Ttl::new(Duration::from_secs(left)).map(Some)
            }
            _ => Err(Error::invalid("request body", "give either Ttl or Expires_at")),
        }
    }
}

/// A moment, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixTime(pub u64);

impl Serialize for UnixTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UnixTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let seconds = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        seconds.map(Self).ok_or_else(|| serde::de::Error::custom("a time is written in seconds since 1970"))
    }
}

/// One published version of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Snapshot {
    /// Names it: the dataset and its version.
    #[schema(example = "production@20261122-192300")]
    pub name: String,
    /// The dataset.
    pub dataset: String,
    /// The version.
    #[schema(example = "20261122-192300")]
    pub version: String,
    /// When it was published, in seconds since 1970.
    #[serde(rename = "Created_at")]
    pub created_at: String,
    /// The major version of Postgres that wrote it.
    pub postgres: u32,
    /// The Postgres database that holds the data.
    pub dbname: String,
    /// Bytes of the data directory.
    #[serde(rename = "Data_bytes")]
    pub data_bytes: u64,
    /// Bytes of the dump it was made from.
    #[serde(rename = "Dump_bytes")]
    pub dump_bytes: u64,
    /// Whether it is a by-product; left out where it is none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub derived: bool,
    /// How many servers live on it.
    pub servers: usize,
    /// How many statements of the dump failed, where the import went on: the version is incomplete. Left out where none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<u64>,
    /// What the first of them failed with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// What whoever uses it should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

impl From<DatasetSnapshot> for Snapshot {
    fn from(snapshot: DatasetSnapshot) -> Self {
        Self {
            name: snapshot.name.to_string(),
            dataset: snapshot.dataset.to_string(),
            version: snapshot.version.to_string(),
            created_at: snapshot.created.unix_timestamp().to_string(),
            postgres: snapshot.postgres,
            dbname: snapshot.dbname,
            data_bytes: snapshot.data_bytes,
            dump_bytes: snapshot.dump_bytes,
            derived: snapshot.derived,
            servers: snapshot.databases,
            failures: (snapshot.failures > 0).then_some(snapshot.failures),
            failed: snapshot.failed,
            warning: snapshot.warning,
        }
    }
}

/// A named lineage of data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Dataset {
    /// Its name.
    #[schema(example = "production")]
    pub name: String,
    /// Its versions, the newest last.
    pub versions: Vec<Snapshot>,
}

impl From<ondemand_core::Dataset> for Dataset {
    fn from(dataset: ondemand_core::Dataset) -> Self {
        Self { name: dataset.name.to_string(), versions: dataset.versions.into_iter().map(Into::into).collect() }
    }
}

/// The name of a dataset or snapshot, where it is all that is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct DatasetName {
    /// The dataset, or the dataset and the version.
    pub name: String,
}

/// What a round of the janitor did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Reaped {
    /// Servers whose time had passed, by id.
    pub reaped: Vec<String>,
    /// Servers that were started again, by id.
    pub restarted: Vec<String>,
    /// What dead attempts had left, by name.
    pub removed: Vec<String>,
    /// What was found and not recognised, and so left alone.
    pub unknown: Vec<String>,
    /// What could not be done, and will be tried again.
    pub failed: Vec<String>,
}

impl From<Report> for Reaped {
    fn from(report: Report) -> Self {
        let Report { reaped, restarted, removed, unknown, failed } = report;
        Self { reaped, restarted, removed, unknown, failed }
    }
}

/// How full the store is, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Pool {
    /// How a server's data comes to be: `BTRFS snapshots`, `reflinks`, `plain copies`.
    pub method: String,
    /// Whether a server shares its bytes with the dataset until they are written.
    #[serde(rename = "Copy_on_write")]
    pub copy_on_write: bool,
    /// All there is.
    pub total: u64,
    /// What is taken.
    pub used: u64,
    /// What can still be written.
    pub free: u64,
    /// What is assigned to neither data nor metadata, where the file system tells.
    pub unallocated: Option<u64>,
    /// What can still be written of metadata before more of it is allocated, where the file system tells.
    #[serde(rename = "Metadata_free", default)]
    pub metadata_free: Option<u64>,
    /// The disk that holds the file of the pool, where there is one.
    #[serde(default)]
    pub beneath: Option<Beneath>,
    /// Whether nothing can be written.
    #[serde(rename = "Read_only", default)]
    pub read_only: bool,
    /// Why new work is refused, where it is.
    #[serde(default)]
    pub trouble: Option<Trouble>,
    /// Each volume's own bytes, by name; null where the file system does not count them.
    pub volumes: BTreeMap<String, Option<u64>>,
    /// Each snapshot's own bytes, by name.
    pub snapshots: BTreeMap<String, Option<u64>>,
    /// The volumes and snapshots that are there and cannot be read, by name, each with the reason. They are left alone.
    #[serde(default)]
    pub unreadable: BTreeMap<String, String>,
}

/// The disk that holds the file of a pool, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Beneath {
    /// The directory of the file.
    pub path: String,
    /// What is free on that disk.
    pub free: u64,
    /// How much more the file may take of it.
    pub growth: u64,
}

/// Why a server is degraded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Trouble {
    /// What is wrong.
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl From<&Error> for Trouble {
    fn from(error: &Error) -> Self {
        Self { detail: error.to_string(), hint: error.hint() }
    }
}

impl From<Usage> for Pool {
    fn from(usage: Usage) -> Self {
        let trouble = usage.check_room().err().map(|error| Trouble::from(&error));
        let Usage {
            method,
            copy_on_write,
            total,
            used,
            free,
            unallocated,
            metadata_free,
            beneath,
            read_only,
            revivable: _,
            volumes,
            snapshots,
            unreadable,
        } = usage;
        let beneath = beneath.map(|beneath| Beneath {
            path: beneath.path.display().to_string(),
            free: beneath.free,
            growth: beneath.growth,
        });
        let volumes = volumes.into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect();
        let snapshots = snapshots.into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect();
        let unreadable = unreadable.into_iter().map(|what| (what.name, what.reason)).collect();
        Self {
            method,
            copy_on_write,
            total,
            used,
            free,
            unallocated,
            metadata_free,
            beneath,
            read_only,
            trouble,
            volumes,
            snapshots,
            unreadable,
        }
    }
}

mod environment;
mod route;

pub use environment::{
    Environment, EnvironmentDone, EnvironmentPlan, EnvironmentService, Owner, PatchEnvironment, PostEnvironment, Source,
};
pub use route::{Activity, Moment, PutRoute, Route};

/// Whether the server does its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// `ok`; `degraded` where new work is refused, or something cannot be read.
    pub status: String,
    /// The version of the program.
    pub version: String,
    /// Why it is degraded, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
}

/// What went wrong, as RFC 9457 (`application/problem+json`) has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The kind of problem as a URI: `urn:ondemand:error:` and the code.
    #[schema(example = "urn:ondemand:error:not_found")]
    pub r#type: String,
    /// The kind of problem for people.
    #[schema(example = "Not found")]
    pub title: String,
    /// The HTTP status.
    #[schema(example = 404)]
    pub status: u16,
    /// What happened this time.
    #[schema(example = "dataset \"prodution\" does not exist")]
    pub detail: String,
    /// The stable name of the problem's meaning.
    #[schema(schema_with = code_schema)]
    pub code: Code,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What led to it, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// The end of the log that explains it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description))
}

fn status_schema() -> Object {
    text("What it does; only a running server answers.")
        .enum_values(Some(["Running", "Resetting", "Starting", "Stopped"]))
        .build()
}

fn ttl_schema() -> Object {
    text("How long it lives from now on: 90s, 15m, 12h, 2d, 1w, or a number of seconds.").examples(["2h"]).build()
}

fn expires_schema() -> Object {
    text("When its time has passed, in seconds since 1970; a number, or text.").examples(["1464266476"]).build()
}

fn code_schema() -> Object {
    text("The stable name of the problem's meaning.").enum_values(Some(Code::ALL.map(Code::as_str))).build()
}

/// Reads a lease that may only be none.
fn released<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Option::<serde::de::IgnoredAny>::deserialize(deserializer)? {
        None => Ok(true),
        Some(_) => {
            Err(serde::de::Error::custom("a server can be taken off its lease with null, and not be put on another"))
        }
    }
}

/// Reads settings whose values may be written as numbers and booleans.
fn settings<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    use serde::de::Error as _;
    use serde_json::Value;
    let values = BTreeMap::<String, Value>::deserialize(deserializer)?;
    let as_text = |(name, value): (String, Value)| match value {
        Value::String(text) => Ok((name, text)),
        Value::Number(number) => Ok((name, number.to_string())),
        Value::Bool(on) => Ok((name, if on { "on" } else { "off" }.to_owned())),
        _ => Err(D::Error::custom(format!("the setting {name:?} is neither text, nor a number, nor a boolean"))),
    };
    values.into_iter().map(as_text).collect()
}

#[cfg(test)]
mod tests;
