//! Makes what runs match what is recorded, and reaps what has expired.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::databases::Databases;
use crate::datasets::Datasets;
use crate::error::{Error, Result};

/// Reconciles and reaps.
#[derive(Debug, Clone)]
pub struct Janitor {
    databases: Databases,
    datasets: Datasets,
    #[cfg(feature = "environments")]
    environments: Option<crate::Environments>,
    /// What the last round did not recognise.
    unknown: Arc<Mutex<Vec<String>>>,
}

/// What a round did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// Databases whose time had passed, by id, and environments.
    pub reaped: Vec<String>,
    /// Databases that were started again, by id.
    pub restarted: Vec<String>,
    /// What dead attempts had left, by name.
    pub removed: Vec<String>,
    /// What was found and not recognised, and so left alone.
    pub unknown: Vec<String>,
    /// What could not be done, and will be tried again.
    pub failed: Vec<String>,
}

impl Report {
    /// Makes a report of what failed as a whole, with its causes, for those who tell of it beside what was done.
    pub fn of_failure(error: &Error) -> Self {
        Self { failed: vec![error.with_causes()], ..Self::default() }
    }

    /// Adds what another one says.
    pub fn add(&mut self, other: Self) {
        let Self { reaped, restarted, removed, unknown, failed } = other;
        self.reaped.extend(reaped);
        self.restarted.extend(restarted);
        self.removed.extend(removed);
        self.unknown.extend(unknown);
        self.failed.extend(failed);
    }
}

impl Janitor {
    /// Makes a janitor for databases and datasets.
    pub(crate) fn new(databases: Databases, datasets: Datasets) -> Self {
        Self {
            databases,
            datasets,
            #[cfg(feature = "environments")]
            environments: None,
            unknown: Arc::default(),
        }
    }

    /// Looks after environments too.
    #[cfg(feature = "environments")]
    pub(crate) fn with_environments(self, environments: crate::Environments) -> Self {
        Self { environments: Some(environments), ..self }
    }

    /// Does one round: finishes half-done deletions, removes what dead attempts left, starts what should run, reaps what has expired. Databases, environments
    /// and imports are each looked after, whatever became of the others.
    ///
    /// # Errors
    /// [`Backend`](crate::Error::Backend) if the store or an orchestrator cannot be asked what there is; what was done all the same is in the log. What fails
    /// for a single thing is in the report.
    ///
    /// # Cancel safety
    /// Every step can be repeated by the next round.
    pub async fn run_once(&self) -> Result<Report> {
        let mut report = Report::default();
        let mut outcomes = vec![self.databases.reconcile(&mut report).await];
        #[cfg(feature = "environments")]
        if let Some(environments) = &self.environments {
            outcomes.push(environments.reconcile(&mut report).await);
        }
        outcomes.push(self.datasets.reconcile().await.map(|imports| report.add(imports)));
        {
            let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
            if outcomes.iter().all(Result::is_ok) {
                unknown.clear();
            }
            // What was not looked at is as unknown as it was.
            let new: Vec<_> = report.unknown.iter().filter(|what| !unknown.contains(what)).cloned().collect();
            unknown.extend(new);
        }
        let mut failed = outcomes.into_iter().filter_map(Result::err);
        let Some(first) = failed.next() else { return Ok(report) };
        for error in failed {
            tracing::warn!(error = error.with_causes(), "another part of the janitor's round failed");
        }
        if report != Report::default() {
            tracing::info!(?report, "the janitor did a part of its round");
        }
        Err(first)
    }

    /// Returns what the last round could not read or recognise, and so left alone; nothing before the first one. Clones of this share it.
    pub fn unknown(&self) -> Vec<String> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Removes what the stacks of environments that are gone left where it could not be reached at once: volumes on other nodes of a Swarm. It may take
    /// minutes, which is why no round does it.
    ///
    /// # Errors
    /// [`Backend`](crate::Error::Backend) if the orchestrator cannot be asked what is left. What fails for a single thing is in the report.
    ///
    /// # Cancel safety
    /// Calling it again finishes what was begun.
    pub async fn tidy(&self) -> Result<Report> {
        #[cfg(feature = "environments")]
        if let Some(environments) = &self.environments {
            let crate::orchestrator::Tidied { removed, failed } = environments.tidy().await?;
            return Ok(Report { removed, failed, ..Report::default() });
        }
        Ok(Report::default())
    }

    /// Does a round now and then, and tidies up beside that, until the future is dropped.
    ///
    /// # Cancel safety
    /// As [`Janitor::run_once`] and [`Janitor::tidy`].
    pub async fn run(&self, interval: Duration) {
        tokio::join!(self.keep_order(interval), self.keep_tidy(interval));
    }

    async fn keep_tidy(&self, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = Report::default();
        loop {
            ticks.tick().await;
            let report = self.tidy().await.unwrap_or_else(|error| Report::of_failure(&error));
            if !report.removed.is_empty() {
                tracing::info!(removed = ?report.removed, "the janitor tidied up");
            }
            // What stays as it is, is told once.
            if !report.failed.is_empty() && report.failed != told.failed {
                tracing::warn!(failed = ?report.failed, "the janitor could not tidy up everything; it will try again");
            }
            told = report;
        }
    }

    async fn keep_order(&self, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.run_once().await {
                Ok(report) if report == Report::default() => {}
                Ok(report) => tracing::info!(?report, "the janitor did its round"),
                Err(error) => tracing::warn!(%error, "the janitor could not do its round; it will try again"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_with_its_causes() {
        let error = Error::backend("swarm", "creating the volume cleaner", std::io::Error::other("the name is taken"));
        let mut report = Report { removed: vec!["stack a".into()], ..Report::default() };
        report.add(Report::of_failure(&error));
        assert_eq!(report.removed, ["stack a"]);
        assert_eq!(report.failed, ["swarm: creating the volume cleaner failed: the name is taken"]);
    }
}
