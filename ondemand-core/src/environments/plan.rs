//! From what a user wants to what is deployed, before anything is made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::inner::{Deployed, Inner, keep};
use super::record::{HostRoute, Record, State, is_stack_of};
use super::under_way::{Doing, Turn, Work};
use super::{Choice, CreateEnvironment, Source, names};
use crate::error::{Error, Kind, Result};
use crate::git::Resolved;
use crate::github::Identity;
use crate::listing::Listing;
use crate::name::{AttemptId, DatasetRef, EnvironmentName, Hostname};
use crate::secret::Secret;
use crate::template::{Part, Settings, Template};

/// What creating an environment would do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its name.
    pub name: EnvironmentName,
    /// The host names it would be reached by.
    pub urls: Vec<Hostname>,
    /// The template it would be rendered from.
    pub template: String,
    /// Whose it would be.
    pub owner: Identity,
    /// What its back end would be built from.
    pub back: Option<Source>,
    /// What its front end would be built from.
    pub front: Option<Source>,
    /// The dataset its database would be cloned from.
    pub dataset: Option<DatasetRef>,
    /// When it would be reaped.
    pub expires: OffsetDateTime,
    /// The compose file, with `0` for the port of the database.
    pub compose: String,
}

/// An environment that is about to be made: all that is known before anything is.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) record: Record,
    pub(super) template: Template,
    pub(super) dataset: Option<DatasetRef>,
    pub(super) back: Option<Resolved>,
    pub(super) front: Option<Resolved>,
    pub(super) keep_days: u32,
    pub(super) ready_timeout: Duration,
}

/// What is deployed for a user who wants `wanted`, as far as nobody else has to be asked.
pub(super) struct Outline {
    template_name: String,
    template: Template,
    back: Option<Choice>,
    front: Option<Choice>,
    keep_days: u32,
}

impl Outline {
    pub(super) fn new(inner: &Inner, wanted: &CreateEnvironment) -> Result<Self> {
        let (template_name, template) = inner.template(wanted.template.as_deref())?;
        let settings = template.settings();
        let back = choose("back", &wanted.back, settings.back.as_ref())?;
        let front = choose("front", &wanted.front, settings.front.as_ref())?;
        let limits = &settings.limits;
        let most = inner.most_days(&template);
        let usual = limits.keep_days.unwrap_or(inner.options.default_keep_days).min(most);
        let keep_days = wanted.keep_days.unwrap_or(usual);
        keep(keep_days, most)?;
        Ok(Self { template_name, template, back, front, keep_days })
    }

    /// Returns what is known of an environment before its branches are resolved.
    pub(super) fn record(&self, claim: &Claim, fixtures: bool) -> Result<Record> {
        let now = OffsetDateTime::now_utc();
        Ok(Record {
            name: claim.name.clone(),
            owner: claim.owner.clone(),
            template: self.template_name.clone(),
            created: now,
            expires: now + keep(self.keep_days, self.keep_days)?.duration(),
            routes: claim.routes.clone(),
            back: None,
            front: None,
            fixtures,
            database: None,
            generation: 1,
            state: State::Pending,
            attempt: claim.attempt.clone(),
            origin: claim.attempt.clone(),
        })
    }

    /// Resolves the branches, and says what is to be deployed.
    pub(super) async fn resolve(
        self,
        inner: &Inner,
        claim: &Claim,
        fixtures: bool,
        token: Option<&Secret>,
    ) -> Result<Draft> {
        let (back, front) =
            tokio::try_join!(resolve(inner, self.back.as_ref(), token), resolve(inner, self.front.as_ref(), token))?;
        let settings = self.template.settings();
        let without = absent(settings, back.is_some(), front.is_some());
        let routes = without_services(claim.routes.clone(), &without);
        let record = Record {
            routes,
            back: back.as_ref().map(Source::of),
            front: front.as_ref().map(Source::of),
            ..self.record(claim, fixtures)?
        };
        let dataset = dataset(settings, fixtures);
        if dataset.is_none() && settings.database.is_some() {
            let has = if fixtures { "no fixtures" } else { "fixtures only: ask for them" };
            return Err(Error::invalid("with-fixtures", format!("template {} has {has}", record.template)));
        }
        let ready_timeout = settings.limits.ready_timeout.unwrap_or(inner.options.ready_timeout);
        let keep_days = self.keep_days;
        Ok(Draft { record, template: self.template, dataset, back, front, keep_days, ready_timeout })
    }
}

impl Source {
    pub(super) fn of(resolved: &Resolved) -> Self {
        let Resolved { repository, branch, commit, .. } = resolved;
        Self { repository: repository.clone(), branch: branch.clone(), commit: commit.clone() }
    }
}

/// A name and its host names, as they would be taken.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) name: EnvironmentName,
    pub(super) owner: Identity,
    pub(super) attempt: AttemptId,
    pub(super) routes: Vec<HostRoute>,
}

impl Claim {
    fn new(name: EnvironmentName, owner: Identity, domain: &Hostname, settings: &Settings) -> Result<Self> {
        let routes = routes(&name, domain, settings)?;
        Ok(Self { name, owner, attempt: AttemptId::random()?, routes })
    }

    fn hosts(&self) -> Vec<Hostname> {
        self.routes.iter().map(|route| route.host.clone()).collect()
    }
}

impl Inner {
    /// Returns a template by name, or the one that is rendered unless it is said.
    pub(super) fn template(&self, name: Option<&str>) -> Result<(String, Template)> {
        let mut files = Template::files(&self.options.templates)?;
        let name = match name.or(self.options.template.as_deref()) {
            Some(name) => name.to_owned(),
            None if files.len() == 1 => files.keys().next().cloned().unwrap_or_default(),
            None if files.is_empty() => return Err(Error::not_found(Kind::Template, "")),
            None => {
                let names = files.into_keys().collect::<Vec<_>>().join(", ");
                return Err(Error::invalid("template", format!("there are several, so one has to be named: {names}")));
            }
        };
        // Only this one: another that is being edited is no concern of this environment's.
        let file = files.remove(&name).ok_or_else(|| Error::not_found(Kind::Template, &name))?;
        Ok((name, Template::load(file)?))
    }

    /// Takes a name and its host names for an environment that is about to be made.
    pub(super) async fn claim(
        self: &Arc<Self>,
        name: Option<EnvironmentName>,
        owner: Identity,
        outline: &Outline,
    ) -> Result<(Claim, Turn)> {
        let _claiming = self.claiming.lock().await;
        if let Some(name) = &name {
            // What is removed may be the last of one that had this name.
            self.under_way.untended(name).await;
        }
        let claim = self.unclaimed(name, owner, outline).await?;
        loop {
            let work = Work::new(Doing::Creating, claim.attempt.clone(), claim.owner.clone(), claim.hosts())
                .to(&claim.attempt);
            match self.under_way.begin(&claim.name, work) {
                Ok(turn) => return Ok((claim, turn)),
                Err(other) if other.doing == Doing::Tending => self.under_way.untended(&claim.name).await,
                Err(_) => return Err(Error::already_exists(Kind::Environment, &claim.name)),
            }
        }
    }

    /// Finds out whether a name and its host names are free, or finds one that is.
    async fn unclaimed(&self, name: Option<EnvironmentName>, owner: Identity, outline: &Outline) -> Result<Claim> {
        // First: what is finished meanwhile is among the stacks.
        let mut under_way = self.under_way.all();
        // What is only looked after is among the stacks, or is none.
        under_way.retain(|(_, work)| work.doing != Doing::Tending);
        let Listing { found: deployed, unreadable } = self.deployed().await?;
        self.check_quotas(&owner, &deployed, &under_way)?;
        let settings = outline.template.settings();
        let domain = &self.options.domain;
        let names: BTreeSet<_> = deployed
            .iter()
            .map(|deployed| &deployed.record.name)
            .chain(under_way.iter().map(|(name, _)| name))
            .collect();
        let theirs = deployed.iter().flat_map(|deployed| {
            deployed.record.routes.iter().map(|route| (&route.host, deployed.record.name.clone()))
        });
        let coming = under_way.iter().flat_map(|(name, work)| work.hosts.iter().map(|host| (host, name.clone())));
        let hosts: BTreeMap<&Hostname, EnvironmentName> = theirs.chain(coming).collect();
        // Neither as a name, nor made of a shorter one and a suffix.
        let is_reserved = |claim: &Claim| {
            let label = |host: &Hostname| host.as_str().split('.').next().unwrap_or_default().to_owned();
            let labels: BTreeSet<_> = claim.hosts().iter().map(label).collect();
            self.options.reserved_names.iter().any(|taken| taken == claim.name.as_str() || labels.contains(taken))
        };
        // What cannot be read has its name all the same.
        let is_unreadable = |name: &EnvironmentName| unreadable.iter().any(|what| is_stack_of(&what.name, name));
        let name = match name {
            Some(name) => name,
            None => names::readable(|name| {
                let claim = Claim::new(name.clone(), owner.clone(), domain, settings);
                let is_taken = |claim: Claim| claim.hosts().iter().any(|host| hosts.contains_key(host));
                names.contains(name)
                    || is_unreadable(name)
                    || claim.map_or(true, |claim| is_reserved(&claim) || is_taken(claim))
            })?,
        };
        let claim = Claim::new(name, owner, domain, settings)?;
        if is_reserved(&claim) {
            let reason = "it is reserved, or with a suffix it is; choose another".to_owned();
            return Err(Error::InvalidName { kind: Kind::Environment, name: claim.name.to_string(), reason });
        }
        if names.contains(&claim.name) || is_unreadable(&claim.name) {
            return Err(Error::already_exists(Kind::Environment, &claim.name));
        }
        for host in claim.hosts() {
            if let Some(other) = hosts.get(&host) {
                return Err(Error::Conflict {
                    message: format!("{host} is a name of environment {other} already"),
                    hint: "choose another name".into(),
                });
            }
            match self.router.get(&host).await {
                Err(Error::NotFound { .. }) => {}
                // One that had this name has left it, and it goes with the next round if it is not set again.
                Ok(route) if unreadable.is_empty() && route.owner == Some(self.route_mark(&claim.name)) => {}
                Ok(_) => return Err(Error::already_exists(Kind::Route, &host)),
                Err(error) => return Err(error),
            }
        }
        Ok(claim)
    }

    fn check_quotas(
        &self,
        owner: &Identity,
        deployed: &[Deployed],
        under_way: &[(EnvironmentName, Arc<Work>)],
    ) -> Result<()> {
        let there = deployed.iter().map(|deployed| (&deployed.record.name, deployed.record.owner.id));
        let coming = under_way.iter().map(|(name, work)| (name, work.owner.id));
        let all: BTreeMap<_, _> = there.chain(coming).collect();
        let own = all.values().filter(|id| **id == owner.id).count();
        if all.len() >= self.options.max {
            return Err(Error::QuotaExceeded {
                message: format!("there are {} environments, as many as are allowed", all.len()),
                hint: "delete some, or raise environments.max".into(),
            });
        }
        if own >= self.options.max_per_user {
            return Err(Error::QuotaExceeded {
                message: format!("{} has {own} environments, as many as a user may have", owner.login),
                hint: "delete one of them, or raise environments.max-per-user".into(),
            });
        }
        Ok(())
    }
}

/// Says what creating an environment would do.
pub(super) async fn plan(inner: &Arc<Inner>, token: Option<&Secret>, wanted: CreateEnvironment) -> Result<Plan> {
    let owner = inner.identify(token).await?;
    let outline = Outline::new(inner, &wanted)?;
    let claim = inner.unclaimed(wanted.name, owner, &outline).await?;
    let draft = outline.resolve(inner, &claim, wanted.fixtures, token).await?;
    if let Some(dataset) = &draft.dataset {
        inner.databases.check_dataset(dataset).await?;
    }
    draft.check(inner)?;
    let document = draft.render(inner, None)?;
    let Draft { record, dataset, .. } = draft;
    Ok(Plan {
        urls: record.urls(),
        name: record.name,
        template: record.template,
        owner: record.owner,
        back: record.back,
        front: record.front,
        dataset,
        expires: record.expires,
        compose: document.to_yaml(),
    })
}

/// Returns what the database of an environment is cloned from.
pub(super) fn dataset(settings: &Settings, fixtures: bool) -> Option<DatasetRef> {
    let database = settings.database.as_ref()?;
    if fixtures { database.fixtures.clone() } else { database.dump.clone() }
}

/// Returns the services of the parts that an environment does not have.
pub(super) fn absent(settings: &Settings, back: bool, front: bool) -> Vec<String> {
    let parts = [(settings.back.as_ref(), back), (settings.front.as_ref(), front)];
    let missing = parts.into_iter().filter(|(_, there)| !there).filter_map(|(part, _)| part);
    missing.flat_map(|part| part.services.iter().map(ToString::to_string)).collect()
}

/// Says which repository and branch a part is built from; `None` if it is left out.
fn choose(part: &str, wanted: &Choice, setting: Option<&Part>) -> Result<Option<Choice>> {
    let Some(setting) = setting else {
        if wanted.repository.is_some() || wanted.branch.is_some() {
            return Err(Error::invalid(format!("github-{part}"), format!("the template has no {part} end")));
        }
        return Ok(None);
    };
    let (usual, usual_branch) = (setting.repository.clone(), setting.branch.clone());
    match (&wanted.repository, usual) {
        (None, None) if wanted.branch.is_some() => Err(Error::invalid(
            format!("github-{part}-branch"),
            "a branch needs a repository, and the template has none",
        )),
        (None, None) => Ok(None),
        (Some(repository), usual) => {
            let usual_branch = usual_branch.filter(|_| usual.as_ref() == Some(repository));
            let branch = wanted.branch.clone().or(usual_branch);
            Ok(Some(Choice { repository: Some(repository.clone()), branch }))
        }
        (None, usual) => Ok(Some(Choice { repository: usual, branch: wanted.branch.clone().or(usual_branch) })),
    }
}

async fn resolve(inner: &Inner, choice: Option<&Choice>, token: Option<&Secret>) -> Result<Option<Resolved>> {
    let Some(Choice { repository: Some(repository), branch }) = choice else { return Ok(None) };
    inner.git.resolve(repository, branch.as_ref(), token).await.map(Some)
}

/// Returns the routes of an environment that is there as its template has them now.
///
/// # Errors
/// [`Error::Conflict`] if they are other host names than those it has.
pub(super) fn routes_now(record: &Record, domain: &Hostname, settings: &Settings) -> Result<Vec<HostRoute>> {
    let absent = absent(settings, record.back.is_some(), record.front.is_some());
    let now = without_services(routes(&record.name, domain, settings)?, &absent);
    let hosts = |routes: &[HostRoute]| routes.iter().map(|route| route.host.clone()).collect::<BTreeSet<_>>();
    if hosts(&now) == hosts(&record.routes) {
        return Ok(now);
    }
    Err(Error::Conflict {
        message: format!("template {} has other routes now than environment {} has", record.template, record.name),
        hint: "delete the environment, and create it again".into(),
    })
}

fn without_services(mut routes: Vec<HostRoute>, services: &[String]) -> Vec<HostRoute> {
    routes.retain(|route| services.iter().all(|service| *service != route.service.as_str()));
    routes
}

/// Returns the host names of an environment, each with where it leads: those of the suffixes, and the plain name.
fn routes(name: &EnvironmentName, domain: &Hostname, settings: &Settings) -> Result<Vec<HostRoute>> {
    let mut routes = Vec::new();
    for route in &settings.routes {
        let (service, port) = (route.service.clone(), route.port);
        routes.push(HostRoute { host: host(name, &route.suffix, domain)?, service, port, told: true });
    }
    let plain = host(name, "", domain)?;
    if let Some(main) = settings.routes.iter().find(|route| route.suffix == settings.main)
        && routes.iter().all(|route| route.host != plain)
    {
        routes.push(HostRoute { host: plain, service: main.service.clone(), port: main.port, told: false });
    }
    Ok(routes)
}

fn host(name: &EnvironmentName, suffix: &str, domain: &Hostname) -> Result<Hostname> {
    let label = format!("{name}{suffix}");
    if label.len() > 63 {
        return Err(Error::InvalidName {
            kind: Kind::Environment,
            name: name.to_string(),
            reason: format!("with the suffix {suffix:?} it has {} characters, and 63 is the limit", label.len()),
        });
    }
    if label.starts_with("xn--") {
        return Err(Error::InvalidName {
            kind: Kind::Environment,
            name: name.to_string(),
            reason: format!("a browser would take {label} for an encoded name of another script"),
        });
    }
    Hostname::new(format!("{label}.{domain}"))
}
