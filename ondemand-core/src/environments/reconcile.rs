//! Making what is there match what the labels say.

use std::collections::BTreeMap;
use std::sync::Arc;

use time::OffsetDateTime;

use super::delete;
use super::deploy::delete_database;
use super::inner::{Deployed, Inner};
use super::record::{State, database_mark};
use crate::error::Result;
use crate::janitor::Report;
use crate::name::EnvironmentName;

/// Does one round. What is being made or changed is left alone; what fails is reported and tried again by the next round.
pub(super) async fn reconcile(inner: &Arc<Inner>, report: &mut Report) -> Result<()> {
    let (deployed, unknown) = inner.deployed().await?;
    for (stack, error) in unknown {
        report.unknown.push(format!("stack {}: {error}", stack.name));
    }
    let mut by_name: BTreeMap<EnvironmentName, Vec<Deployed>> = BTreeMap::new();
    for deployed in deployed {
        by_name.entry(deployed.record.name.clone()).or_default().push(deployed);
    }
    for (name, mut deployed) in by_name {
        deployed.sort_by_key(|deployed| deployed.record.generation);
        if let Err(error) = settle(inner, &name, deployed, report).await {
            tracing::warn!(%name, %error, "an environment needs care and could not be given it; it will be tried again");
            report.failed.push(format!("environment {name}: {error}"));
        }
    }
    remove_strays(inner, report).await
}

/// What an environment needs.
enum Need {
    Nothing,
    /// Its time has passed.
    Reaping,
    /// It is none, or its deletion was begun.
    Removing,
    /// Its older deployments, and newer ones that never became ready, go.
    Tidying(Vec<Deployed>),
}

impl Need {
    /// Of the stacks of one environment.
    fn of(deployed: &[Deployed]) -> Self {
        let current = deployed.iter().filter(|deployed| deployed.record.state == State::Ready);
        let Some(current) = current.max_by_key(|deployed| deployed.record.generation) else {
            return if deployed.is_empty() { Self::Nothing } else { Self::Removing };
        };
        if deployed.iter().any(|deployed| deployed.record.state == State::Deleting) {
            return Self::Removing;
        }
        if current.record.expires <= OffsetDateTime::now_utc() {
            return Self::Reaping;
        }
        let others = deployed.iter().filter(|other| other.record.generation != current.record.generation);
        let others: Vec<_> = others.cloned().collect();
        if others.is_empty() { Self::Nothing } else { Self::Tidying(others) }
    }
}

/// Gives one environment what it needs: its end, or the end of what it has too much.
async fn settle(
    inner: &Arc<Inner>,
    name: &EnvironmentName,
    deployed: Vec<Deployed>,
    report: &mut Report,
) -> Result<()> {
    let (Some(first), false) = (deployed.first(), matches!(Need::of(&deployed), Need::Nothing)) else { return Ok(()) };
    // Whoever has the turn is giving it what it needs.
    let Ok(_turn) = delete::turn(inner, &first.record) else { return Ok(()) };
    // What was listed may be old news: what was done since, was done by whoever had the turn.
    let deployed = inner.deployed_as(name).await?;
    match Need::of(&deployed) {
        Need::Nothing => {}
        Need::Removing => {
            delete::end(inner, deployed).await?;
            report.removed.push(format!("environment {name}"));
        }
        Need::Reaping => {
            delete::end(inner, deployed).await?;
            report.reaped.push(format!("environment {name}"));
        }
        Need::Tidying(others) => {
            for other in others {
                inner.orchestrator.remove(&other.stack.id).await?;
                report.removed.push(format!("stack {}", other.stack.name));
            }
        }
    }
    Ok(())
}

/// Deletes databases that were made for an environment that is none.
async fn remove_strays(inner: &Inner, report: &mut Report) -> Result<()> {
    // Before the stacks: an environment that is made meanwhile has its database first.
    let databases = inner.databases.list().await?;
    let under_way = inner.under_way.all();
    let (deployed, unknown) = inner.deployed().await?;
    if !unknown.is_empty() {
        return Ok(());
    }
    let wanted: Vec<_> =
        deployed.iter().map(|deployed| database_mark(&deployed.record.name, &deployed.record.origin)).collect();
    for database in databases {
        let Some(mark) = &database.environment else { continue };
        let is_live = under_way.iter().any(|(name, work)| *mark == database_mark(name, &work.attempt));
        if is_live || wanted.contains(mark) {
            continue;
        }
        match delete_database(&inner.databases, &database).await {
            Ok(()) => report.removed.push(format!("database {}", database.id)),
            Err(error) => report.failed.push(format!("database {}: {error}", database.id)),
        }
    }
    Ok(())
}
