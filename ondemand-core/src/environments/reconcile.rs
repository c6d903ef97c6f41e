//! Making what is there match what the labels say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use time::OffsetDateTime;

use super::delete;
use super::deploy::delete_database;
use super::inner::{Deployed, Inner};
use super::record::{State, database_mark};
use crate::error::Result;
use crate::github::Identity;
use crate::janitor::Report;
use crate::name::{EnvironmentName, Hostname};

/// Does one round. What is being made or changed is left alone; what fails is reported and tried again by the next round.
pub(super) async fn reconcile(inner: &Arc<Inner>, report: &mut Report) -> Result<()> {
    let deployed = inner.deployed().await?;
    for unreadable in deployed.unreadable {
        let told = format!("stack {unreadable}");
        if !report.unknown.contains(&told) {
            report.unknown.push(told);
        }
    }
    let mut by_name: BTreeMap<EnvironmentName, Vec<Deployed>> = BTreeMap::new();
    for deployed in deployed.found {
        by_name.entry(deployed.record.name.clone()).or_default().push(deployed);
    }
    for (name, mut deployed) in by_name {
        deployed.sort_by_key(|deployed| deployed.record.generation);
        if let Err(error) = settle(inner, &name, deployed, report).await {
            tracing::warn!(%name, %error, "an environment needs care and could not be given it; it will be tried again");
            report.failed.push(format!("environment {name}: {error}"));
        }
    }
    remove_stray_databases(inner, report).await?;
    remove_stray_routes(inner, report).await
}

/// What an environment needs.
enum Need {
    Nothing,
    /// Its time has passed.
    Reaping,
    /// It is none, or its deletion was begun.
    Removing,
    /// Its older deployments, and newer ones that never became ready, go.
    Tidying {
        current: Box<Deployed>,
        others: Vec<Deployed>,
    },
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
        if others.is_empty() {
            return Self::Nothing;
        }
        Self::Tidying { current: Box::new(current.clone()), others }
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
    let Some(_turn) = inner.tend(name, &first.record.owner)? else { return Ok(()) };
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
        Need::Tidying { current, others } => {
            // Not after: the names may still reach one of the others.
            inner.lead_to(&current.record, &current.stack).await?;
            for other in others {
                inner.orchestrator.remove(&other.stack.id).await?;
                report.removed.push(format!("stack {}", other.stack.name));
            }
        }
    }
    Ok(())
}

/// Deletes databases that were made for an environment that is none.
async fn remove_stray_databases(inner: &Inner, report: &mut Report) -> Result<()> {
    // Before the stacks: an environment that is made meanwhile has its database first.
    let databases = inner.databases.list().await?;
    let under_way = inner.under_way.all();
    let deployed = inner.deployed().await?;
    if !deployed.is_complete() {
        return Ok(());
    }
    let deployed = deployed.found;
    let wanted: Vec<_> =
        deployed.iter().map(|deployed| database_mark(&deployed.record.name, &deployed.record.origin)).collect();
    for database in databases {
        let Some(mark) = &database.environment else { continue };
        // Whoever does something to the environment takes care of its database, be it made or redeployed.
        let name = mark.rsplit_once('.').map_or("", |(name, _)| name);
        let is_live = under_way.iter().any(|(busy, _)| busy.as_str() == name);
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

/// Removes routes that were set for an environment that is none, such as one whose stack somebody else has removed. Those that were set by hand have no
/// mark, and stay.
async fn remove_stray_routes(inner: &Inner, report: &mut Report) -> Result<()> {
    let routes = match inner.router.list().await {
        Ok(routes) => routes,
        Err(error) => {
            report.failed.push(format!("routes: {error}"));
            return Ok(());
        }
    };
    let mut marked: BTreeMap<EnvironmentName, Vec<Hostname>> = BTreeMap::new();
    for route in routes {
        if let Some(name) = inner.marked(&route) {
            marked.entry(name).or_default().push(route.host);
        }
    }
    let deployed = inner.deployed().await?;
    if !deployed.is_complete() {
        return Ok(());
    }
    let deployed = deployed.found;
    for (name, hosts) in marked {
        if hosts.iter().all(|host| has(&deployed, &name, host)) {
            continue;
        }
        match remove_routes_of(inner, &name, hosts).await {
            Ok(removed) => report.removed.extend(removed.into_iter().map(|host| format!("route {host}"))),
            Err(error) => report.failed.push(format!("routes of environment {name}: {error}")),
        }
    }
    Ok(())
}

async fn remove_routes_of(inner: &Inner, name: &EnvironmentName, hosts: Vec<Hostname>) -> Result<BTreeSet<Hostname>> {
    let nobody = Identity { id: 0, login: String::new() };
    // Whoever has the turn sets and removes them.
    let Some(_turn) = inner.tend(name, &nobody)? else { return Ok(BTreeSet::new()) };
    let deployed = inner.deployed_as(name).await?;
    let strays: BTreeSet<_> = hosts.into_iter().filter(|host| !has(&deployed, name, host)).collect();
    inner.remove_routes(name, strays.iter().cloned().collect()).await?;
    Ok(strays)
}

/// Tells whether a host name is one of an environment that is there.
fn has(deployed: &[Deployed], name: &EnvironmentName, host: &Hostname) -> bool {
    let mut own = deployed.iter().filter(|deployed| deployed.record.name == *name);
    own.any(|deployed| deployed.record.routes.iter().any(|route| route.host == *host))
}
