//! Provisions on demand: Postgres databases from snapshots of a fat dataset, and environments from Git branches.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod catalog;
mod cgroup;
pub mod compose;
pub mod config;
#[cfg(feature = "conformance")]
#[allow(clippy::disallowed_methods, reason = "these are tests")]
pub mod conformance;
mod data_dir;
mod databases;
mod datasets;
#[cfg(feature = "environments")]
pub mod environments;
mod error;
#[cfg(feature = "fakes")]
pub mod fakes;
#[cfg(feature = "git")]
pub mod git;
#[cfg(feature = "git")]
pub mod github;
mod instance;
mod janitor;
pub mod label;
mod listing;
mod mark;
mod name;
mod notation;
mod ondemand;
pub mod orchestrator;
mod own;
mod pause;
pub mod postgres;
mod proc;
pub mod progress;
pub mod router;
#[cfg(feature = "git")]
mod runner;
mod sandbox;
mod secret;
pub mod snapshot;
pub mod template;
mod tree;

pub use cgroup::Cgroups;
pub use config::Config;
pub use data_dir::DataDir;
pub use databases::{
    CreateOptions, Database, DatabaseState, Databases, DatabasesOptions, Lease, Programs, PublishOptions,
};
pub use datasets::{
    Dataset, DatasetSnapshot, Datasets, DatasetsOptions, Format, ImportOptions, MissingRoles, OnError, Source,
};
#[cfg(feature = "environments")]
pub use environments::Environments;
pub use error::{BoxError, Code, Error, Kind, Result};
#[cfg(feature = "git")]
pub use git::Git;
#[cfg(feature = "git")]
pub use github::{GitHub, Identity};
pub use janitor::{Janitor, Report};
pub use label::{Labels, Selector};
pub use listing::{Listing, Unreadable};
pub use name::{
    AttemptId, Branch, Commit, DatabaseId, DatabaseName, DatasetName, DatasetRef, EnvironmentName, Hostname, LeaseId,
    Repository, ServiceName, SnapshotName, StackName, Version, VolumeName,
};
pub use notation::{Size, Ttl};
pub use ondemand::Ondemand;
pub use orchestrator::Orchestrator;
pub use router::Router;
pub use sandbox::Sandbox;
pub use secret::Secret;
pub use snapshot::SnapshotStore;
pub use template::Template;
