//! The last steps of an import: what the server holds is cleaned, shut down, and snapshotted as a version.

use std::sync::PoisonError;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::{Import, assert_shut_down, bytes_below};
use crate::datasets::DatasetSnapshot;
use crate::datasets::catalog::{DATASET, TRUE, published, version_of};
use crate::datasets::faults::Failures;
use crate::error::{Error, Result};
use crate::label::{Labels, Selector, keys};
use crate::name::{SnapshotName, Version};
use crate::postgres::cluster::Server;
use crate::postgres::controldata::ControlData;
use crate::postgres::{neutralise, slot, tablespaces, vacuum};
use crate::progress::Phase;
use crate::snapshot::Volume;

impl Import {
    /// Makes the dataset's newest version of what the server has.
    pub(super) async fn publish(
        &self,
        server: Server,
        volume: &Volume,
        failures: &Failures,
    ) -> Result<DatasetSnapshot> {
        let options = &self.inner.options;
        let report = |detail: &str| self.meter.detail(detail);
        self.meter.phase(Phase::Neutralising);
        let databases = neutralise::clean_catalogs(&server, &report).await?;
        let dbname = match &self.options.dbname {
            Some(name) if databases.contains(name) => name.clone(),
            Some(name) => {
                let there = databases.join(", ");
                return Err(Error::invalid(
                    "dbname",
                    format!("there is no database {name:?} in it; there are {there}"),
                ));
            }
            None => neutralise::main_database(&server).await?,
        };
        let warning = tableless(&server, &dbname, &databases).await?;
        self.meter.phase(Phase::Analysing);
        vacuum::vacuum(&server, &databases, options.jobs, &report).await?;

        self.meter.phase(Phase::Publishing);
        let verifier = neutralise::finish(&server, &dbname).await?;
        let install = server.cluster().install.clone();
        server.stop().await?;
        let control = ControlData::read(&install, options.user, &volume.path).await?;
        assert_shut_down(&control)?;
        let (pgdata, user) = (volume.path.clone(), options.user);
        let data_bytes = self
            .block(move || {
                tablespaces::refuse(&pgdata)?;
                // Not before: a server that recovers makes again what its log has.
                tablespaces::close(&pgdata)?;
                neutralise::trim_wal(&pgdata, &control)?;
                neutralise::clean_files(&pgdata, user)?;
                if !control.has_checksums() {
                    slot::note(&pgdata, &verifier, user)?;
                }
                bytes_below(&pgdata)
            })
            .await?;

        let store = &self.inner.store;
        let selector = Selector::all().with(keys::KIND, DATASET).with(keys::DATASET, self.dataset.as_str());
        let versions = store.snapshots(&selector).await?;
        let known = versions.found.iter().filter_map(|snapshot| snapshot.labels.get(keys::VERSION));
        let unreadable = versions.unreadable.iter().filter_map(|what| version_of(&what.name, &self.dataset));
        let newest = known.chain(unreadable).max();
        let created = OffsetDateTime::now_utc();
        let version = next_version(created, newest)?;
        let name = SnapshotName::of(&self.dataset, &version);
        let mut labels = Labels::new();
        labels.set(keys::KIND, DATASET)?;
        labels.set(keys::INSTANCE, options.instance.as_str())?;
        labels.set(keys::ATTEMPT, self.attempt.as_str())?;
        labels.set(keys::DATASET, self.dataset.as_str())?;
        labels.set(keys::VERSION, version.as_str())?;
        if self.options.derived {
            labels.set(keys::DERIVED, TRUE)?;
        }
        labels.set(keys::POSTGRES, install.major.to_string())?;
        labels.set(keys::DBNAME, dbname)?;
        labels.set(keys::DUMP_BYTES, self.meter.bytes().to_string())?;
        labels.set(keys::DATA_BYTES, data_bytes.to_string())?;
        if failures.count > 0 {
            labels.set(keys::FAILURES, failures.count.to_string())?;
            labels.set(keys::FAILED, as_label(&failures.first))?;
        }
        if let Some(warning) = warning {
            labels.set(keys::WARNING, warning)?;
        }
        let created = created.format(&Rfc3339).map_err(|e| Error::backend("import", "writing the time", e))?;
        labels.set(keys::CREATED, created)?;

        let made = |name| *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = name;
        made(Some(name.clone()));
        let snapshot = store.snapshot(&volume.name, &name, &labels).await.inspect_err(|error| {
            // That one is somebody else's.
            if matches!(error, Error::AlreadyExists { .. }) {
                made(None);
            }
        })?;
        published(&snapshot)
    }
}

/// Writes the first of these as JSON that fits into a label.
fn as_label(texts: &[String]) -> String {
    const LIMIT: usize = 4000;
    let json = |texts: &[String]| serde_json::Value::from(texts.to_vec()).to_string();
    let fits = (0..=texts.len()).rev().find(|&count| json(&texts[..count]).len() <= LIMIT).unwrap_or_default();
    json(&texts[..fits])
}

/// Says where the data may be, if there are none where a connection URL leads.
async fn tableless(server: &Server, dbname: &str, databases: &[String]) -> Result<Option<String>> {
    let others: Vec<String> = databases
        .iter()
        .filter(|name| *name != dbname && !["postgres", "template1"].contains(&name.as_str()))
        .map(|name| name.replace(char::is_control, "?").chars().take(100).collect())
        .take(10)
        .collect();
    if others.is_empty() || neutralise::has_tables(server, dbname).await? {
        return Ok(None);
    }
    let others = others.join(", ");
    Ok(Some(format!(
        "URLs lead to database {dbname}, which has no tables; there are also {others}: choose one with --dbname"
    )))
}

/// Returns a version for now, later than `newest`.
fn next_version(now: OffsetDateTime, newest: Option<&str>) -> Result<Version> {
    let format = format_description!("[year][month][day]-[hour][minute][second]");
    let mut time = now;
    if let Some(newest) = newest.and_then(|text| time::PrimitiveDateTime::parse(text, format).ok()) {
        // Two imports may end within a second, and clocks may go back.
        time = time.max(newest.assume_utc() + time::Duration::SECOND);
    }
    Version::new(time.format(format).map_err(|e| Error::backend("import", "writing the time", e))?)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_version_is_later_than_the_newest() {
        let now = datetime!(2026-11-22 19:23:00.9 UTC);
        let next = |newest| next_version(now, newest).expect("a version").to_string();
        assert_eq!(next(None), "20261122-192300");
        assert_eq!(next(Some("20261122-192259")), "20261122-192300");
        assert_eq!(next(Some("20261122-192300")), "20261122-192301");
        assert_eq!(next(Some("20271231-235959")), "20280101-000000");
        assert_eq!(next(Some("first")), "20261122-192300");
    }
}
