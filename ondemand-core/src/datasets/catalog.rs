//! Datasets as the store has them: snapshots with labels.

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Dataset, DatasetSnapshot};
use crate::error::{Error, Kind, Result};
use crate::label::{Labels, Selector, keys};
use crate::name::{DatasetName, DatasetRef};
use crate::snapshot::{Snapshot, SnapshotStore};

/// The value of [`keys::KIND`] for published snapshots.
pub(super) const DATASET: &str = "dataset";
/// The value of [`keys::KIND`] for volumes that databases live on.
const DATABASE: &str = "database";

pub(super) async fn list(store: &dyn SnapshotStore) -> Result<Vec<Dataset>> {
    datasets(store, Selector::all()).await
}

pub(super) async fn get(store: &dyn SnapshotStore, name: &DatasetName) -> Result<Dataset> {
    let found = datasets(store, Selector::all().with(keys::DATASET, name.as_str())).await?;
    found.into_iter().next().ok_or_else(|| Error::not_found(Kind::Dataset, name))
}

pub(super) async fn resolve(store: &dyn SnapshotStore, reference: Option<&DatasetRef>) -> Result<DatasetSnapshot> {
    let (dataset, version) = if let Some(reference) = reference {
        (get(store, &reference.dataset).await?, reference.version.as_ref())
    } else {
        let mut all = list(store).await?;
        match all.len() {
            0 => return Err(Error::not_found(Kind::Dataset, "*")),
            1 => (all.remove(0), None),
            _ => {
                let names = all.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(Error::invalid("dataset", format!("there are several, so one must be named: {names}")));
            }
        }
    };
    let missing = || match version {
        Some(version) => Error::not_found(Kind::Snapshot, format!("{}@{version}", dataset.name)),
        None => Error::not_found(Kind::Dataset, &dataset.name),
    };
    let mut versions = dataset.versions.iter().rev();
    versions.find(|v| version.is_none_or(|version| v.version == *version)).cloned().ok_or_else(missing)
}

pub(super) async fn delete(store: &dyn SnapshotStore, reference: &DatasetRef) -> Result<()> {
    let doomed = match reference.version {
        Some(_) => vec![resolve(store, Some(reference)).await?],
        None => get(store, &reference.dataset).await?.versions,
    };
    let databases: usize = doomed.iter().map(|version| version.databases).sum();
    if databases > 0 {
        let (count, wait) = match databases {
            1 => ("1 database lives".to_owned(), "delete it first, or wait until it is reaped"),
            more => (format!("{more} databases live"), "delete them first, or wait until they are reaped"),
        };
        return Err(Error::Conflict { message: format!("{count} on {reference}"), hint: wait.into() });
    }
    // The oldest goes first: cut off in the middle, the newest version is still the one that is cloned.
    for version in doomed {
        store.delete_snapshot(&version.name).await?;
    }
    Ok(())
}

async fn datasets(store: &dyn SnapshotStore, selector: Selector) -> Result<Vec<Dataset>> {
    let snapshots = store.snapshots(&selector.clone().with(keys::KIND, DATASET)).await?;
    let volumes = store.volumes(&selector.with(keys::KIND, DATABASE)).await?;
    // A database that is being reset has two volumes for a moment.
    let mut live: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for volume in &volumes {
        if let (Some(dataset), Some(version)) = (volume.labels.get(keys::DATASET), volume.labels.get(keys::VERSION)) {
            let id = volume.labels.get(keys::ID).unwrap_or(volume.name.as_str());
            live.entry((dataset, version)).or_default().insert(id);
        }
    }
    let mut datasets: BTreeMap<DatasetName, Vec<DatasetSnapshot>> = BTreeMap::new();
    for snapshot in &snapshots {
        match published(snapshot) {
            Ok(mut version) => {
                let key = (version.dataset.as_str(), version.version.as_str());
                version.databases = live.get(&key).map_or(0, BTreeSet::len);
                datasets.entry(version.dataset.clone()).or_default().push(version);
            }
            Err(error) => tracing::warn!(snapshot = %snapshot.name, %error, "a snapshot's labels cannot be read"),
        }
    }
    Ok(datasets
        .into_iter()
        .map(|(name, mut versions)| {
            versions.sort_by(|a, b| a.version.cmp(&b.version));
            Dataset { name, versions }
        })
        .collect())
}

/// Reads a snapshot's labels.
pub(super) fn published(snapshot: &Snapshot) -> Result<DatasetSnapshot> {
    let labels = &snapshot.labels;
    let created = OffsetDateTime::parse(text(labels, keys::CREATED)?, &Rfc3339);
    Ok(DatasetSnapshot {
        dataset: text(labels, keys::DATASET)?.parse()?,
        version: text(labels, keys::VERSION)?.parse()?,
        name: snapshot.name.clone(),
        created: created.unwrap_or(snapshot.created),
        postgres: number(labels, keys::POSTGRES)?,
        dbname: text(labels, keys::DBNAME)?.to_owned(),
        data_bytes: number(labels, keys::DATA_BYTES)?,
        dump_bytes: number(labels, keys::DUMP_BYTES)?,
        databases: 0,
    })
}

fn text<'a>(labels: &'a Labels, key: &str) -> Result<&'a str> {
    labels.get(key).ok_or_else(|| Error::invalid("label", format!("{key} is missing")))
}

fn number<T: std::str::FromStr>(labels: &Labels, key: &str) -> Result<T> {
    text(labels, key)?.parse().map_err(|_| Error::invalid("label", format!("{key} is not a number")))
}
