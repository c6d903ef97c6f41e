//! Datasets as the store has them: snapshots with labels.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Dataset, DatasetSnapshot};
use crate::error::{Error, Kind, Result};
use crate::label::{Labels, Selector, keys};
use crate::listing::{Listing, Unreadable};
use crate::name::{DatasetName, DatasetRef, SnapshotName};
use crate::snapshot::{Snapshot, SnapshotStore};

/// The value of [`keys::KIND`] for published snapshots.
pub(super) const DATASET: &str = "dataset";
/// The value of [`keys::DERIVED`].
pub(super) const TRUE: &str = "true";
/// The value of [`keys::KIND`] for volumes that databases live on.
const DATABASE: &str = "database";

pub(super) async fn list(store: &dyn SnapshotStore) -> Result<Vec<Dataset>> {
    datasets(store, Selector::all()).await
}

pub(super) async fn get(store: &dyn SnapshotStore, name: &DatasetName) -> Result<Dataset> {
    let mut found = versions(store, Selector::all().with(keys::DATASET, name.as_str())).await?;
    if found.found.is_empty() {
        return Err(missing(name, &found.unreadable));
    }
    count(store, &mut found.found).await?;
    Ok(Dataset { name: name.clone(), versions: found.found })
}

/// Makes the error for a dataset of which no version was found.
fn missing(name: &DatasetName, unreadable: &[Unreadable]) -> Error {
    match unreadable.iter().find(|unreadable| version_of(&unreadable.name, name).is_some()) {
        Some(unreadable) => Error::Conflict {
            message: format!("snapshot {unreadable}"),
            hint: "restore its record, which lies beside it".into(),
        },
        None => Error::not_found(Kind::Dataset, name),
    }
}

/// Returns the version in the name of a dataset's snapshot.
pub(super) fn version_of<'a>(snapshot: &'a str, dataset: &DatasetName) -> Option<&'a str> {
    snapshot.strip_prefix(dataset.as_str())?.strip_prefix('@')
}

/// Returns the snapshot that `reference` names, with the databases that live on it counted.
pub(super) async fn resolve(store: &dyn SnapshotStore, reference: Option<&DatasetRef>) -> Result<DatasetSnapshot> {
    let mut found = find(store, reference, &HashSet::new()).await?;
    count(store, std::slice::from_mut(&mut found)).await?;
    Ok(found)
}

/// As [`resolve`], without those in `doomed`, and without counting: what it costs does not grow with the databases that live.
pub(super) async fn find(
    store: &dyn SnapshotStore,
    reference: Option<&DatasetRef>,
    doomed: &HashSet<SnapshotName>,
) -> Result<DatasetSnapshot> {
    let selector = match reference {
        Some(reference) => Selector::all().with(keys::DATASET, reference.dataset.as_str()),
        None => Selector::all(),
    };
    let Listing { found: mut versions, unreadable } = versions(store, selector).await?;
    versions.retain(|version| !doomed.contains(&version.name));
    if reference.is_none() {
        versions.retain(|version| !version.derived);
        let names: BTreeSet<_> = versions.iter().map(|version| version.dataset.as_str()).collect();
        if names.len() > 1 {
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Error::invalid("dataset", format!("there are several, so one must be named: {names}")));
        }
    }
    let wanted = reference.and_then(|reference| reference.version.as_ref());
    let exists = !versions.is_empty();
    versions.retain(|version| wanted.is_none_or(|wanted| version.version == *wanted));
    versions.pop().ok_or_else(|| match reference {
        Some(reference) if exists => Error::not_found(Kind::Snapshot, reference),
        Some(reference) => missing(&reference.dataset, &unreadable),
        None => Error::not_found(Kind::Dataset, ""),
    })
}

/// Returns the snapshots of a dataset or a version, the oldest first. No database may live on them.
pub(super) async fn deletable(store: &dyn SnapshotStore, reference: &DatasetRef) -> Result<Vec<SnapshotName>> {
    let doomed = match reference.version {
        Some(_) => vec![resolve(store, Some(reference)).await?],
        None => get(store, &reference.dataset).await?.versions,
    };
    let databases: usize = doomed.iter().map(|version| version.databases).sum();
    if databases > 0 {
        let (these, live) = if databases == 1 { ("it", "1 database lives") } else { ("them", "databases live") };
        let count = if databases == 1 { String::new() } else { format!("{databases} ") };
        return Err(Error::Conflict {
            message: format!("{count}{live} on {reference}"),
            hint: format!(
                "delete {these} first, or wait until {} reaped",
                if databases == 1 { "it is" } else { "they are" }
            ),
        });
    }
    // A database that cannot be read may live on it, and could not be reset any more.
    if let Some(unreadable) = store.volumes(&Selector::all()).await?.unreadable.first() {
        return Err(Error::Conflict {
            message: format!("it is not known whether databases live on {reference}: volume {unreadable}"),
            hint: "restore its record, which lies beside it".into(),
        });
    }
    Ok(doomed.into_iter().map(|version| version.name).collect())
}

async fn datasets(store: &dyn SnapshotStore, selector: Selector) -> Result<Vec<Dataset>> {
    let mut versions = versions(store, selector).await?.found;
    count(store, &mut versions).await?;
    let mut datasets: BTreeMap<DatasetName, Vec<DatasetSnapshot>> = BTreeMap::new();
    for version in versions {
        datasets.entry(version.dataset.clone()).or_default().push(version);
    }
    Ok(datasets.into_iter().map(|(name, versions)| Dataset { name, versions }).collect())
}

/// Returns the published versions that `selector` chooses, the newest last, with no databases counted.
async fn versions(store: &dyn SnapshotStore, selector: Selector) -> Result<Listing<DatasetSnapshot>> {
    let listed = store.snapshots(&selector.with(keys::KIND, DATASET)).await?;
    let mut versions = Listing { found: Vec::new(), unreadable: listed.unreadable };
    for snapshot in listed.found {
        match published(&snapshot) {
            Ok(version) => versions.found.push(version),
            Err(error) => versions.unreadable.push(Unreadable::new(snapshot.name.as_str(), &error)),
        }
    }
    for unreadable in &versions.unreadable {
        tracing::warn!("snapshot {unreadable}");
    }
    versions.found.sort_by(|a, b| a.version.cmp(&b.version));
    Ok(versions)
}

/// Counts the databases that live on each version.
async fn count(store: &dyn SnapshotStore, versions: &mut [DatasetSnapshot]) -> Result<()> {
    let volumes = store.volumes(&Selector::all().with(keys::KIND, DATABASE)).await?.found;
    // A database that is being reset has two volumes for a moment.
    let mut live: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for volume in &volumes {
        if let (Some(dataset), Some(version)) = (volume.labels.get(keys::DATASET), volume.labels.get(keys::VERSION)) {
            let id = volume.labels.get(keys::ID).unwrap_or(volume.name.as_str());
            live.entry((dataset, version)).or_default().insert(id);
        }
    }
    for version in versions {
        let key = (version.dataset.as_str(), version.version.as_str());
        version.databases = live.get(&key).map_or(0, BTreeSet::len);
    }
    Ok(())
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
        derived: labels.get(keys::DERIVED) == Some(TRUE),
        databases: 0,
        failures: labels.get(keys::FAILURES).map_or(Ok(0), |_| number(labels, keys::FAILURES))?,
        failed: labels.get(keys::FAILED).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default(),
        warning: labels.get(keys::WARNING).map(str::to_owned),
    })
}

fn text<'a>(labels: &'a Labels, key: &str) -> Result<&'a str> {
    labels.get(key).ok_or_else(|| Error::invalid("label", format!("{key} is missing")))
}

fn number<T: std::str::FromStr>(labels: &Labels, key: &str) -> Result<T> {
    text(labels, key)?.parse().map_err(|_| Error::invalid("label", format!("{key} is not a number")))
}
