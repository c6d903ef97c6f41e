//! What all parts of [`Environments`](super::Environments) share, and the operations that are a few lines long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use time::OffsetDateTime;

use super::failures::Failures;
use super::record::{KIND, Record, State, database_mark, is_stack_name, is_stack_of};
use super::under_way::{Doing, Turn, UnderWay, Work};
use super::{Caller, Environment, EnvironmentsOptions, Parts, Status};
use crate::databases::{Database, Databases};
use crate::error::{Error, Kind, Result};
use crate::git::Git;
use crate::github::{GitHub, Identity};
use crate::instance::Instance;
use crate::label::{Selector, keys};
use crate::listing::{Listing, Unreadable};
use crate::name::{AttemptId, EnvironmentName, StackName};
use crate::notation::Ttl;
use crate::orchestrator::{LogLine, LogOptions, Orchestrator, ServiceState, Stack};
use crate::router::Router;
use crate::secret::Secret;
use crate::template::Template;

/// How long a route may take to answer a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The environments of one data directory. The labels of their stacks are the truth.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) instance: Instance,
    pub(super) orchestrator: Arc<dyn Orchestrator>,
    pub(super) router: Arc<dyn Router>,
    pub(super) databases: Databases,
    pub(super) git: Git,
    github: Option<GitHub>,
    pub(super) options: EnvironmentsOptions,
    pub(super) under_way: Arc<UnderWay>,
    pub(super) failures: Failures,
    /// Held while it is found out whether a name is free, and it is taken.
    pub(super) claiming: tokio::sync::Mutex<()>,
    /// Asks routes whether they answer.
    pub(super) http: reqwest::Client,
}

/// A stack of an environment, and what its labels say.
#[derive(Debug, Clone)]
pub(super) struct Deployed {
    pub(super) record: Record,
    pub(super) stack: Stack,
}

impl Inner {
    pub(super) fn new(parts: Parts) -> Result<Self> {
        let Parts { instance, orchestrator, router, databases, git, github, options } = parts;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CHECK_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("ondemand/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::backend("http", "preparing to ask environments", e))?;
        let (under_way, failures, claiming) = Default::default();
        Ok(Self {
            instance,
            orchestrator,
            router,
            databases,
            git,
            github,
            options,
            under_way,
            failures,
            claiming,
            http,
        })
    }

    pub(super) async fn identify(&self, token: Option<&Secret>) -> Result<Identity> {
        match (&self.github, token) {
            (None, _) => Ok(Identity { id: 0, login: "local".into() }),
            (Some(github), Some(token)) => github.whoami(token).await,
            (Some(_), None) => Err(Error::Unauthenticated {
                message: "a GitHub token is needed, to know whose environment it is".into(),
                hint: crate::github::TOKEN_HINT.into(),
            }),
        }
    }

    pub(super) fn selector(&self) -> Selector {
        Selector::all().with(keys::KIND, KIND).with(keys::INSTANCE, &self.instance.id)
    }

    /// Returns all stacks of environments whose labels can be read, and the others.
    pub(super) async fn deployed(&self) -> Result<Listing<Deployed>> {
        let listed = self.orchestrator.list(&self.selector()).await?;
        let mut deployed = Listing { found: Vec::new(), unreadable: listed.unreadable };
        // Other stacks have other names, readable or not.
        deployed.unreadable.retain(|unreadable| is_stack_name(&unreadable.name));
        for stack in listed.found {
            match self.read(&stack) {
                Ok(record) => deployed.found.push(Deployed { record, stack }),
                Err(error) => deployed.unreadable.push(Unreadable::new(stack.name.as_str(), &error)),
            }
        }
        Ok(deployed)
    }

    /// Reads a stack's labels.
    fn read(&self, stack: &Stack) -> Result<Record> {
        let mut record = Record::read(stack)?;
        // The answer to its last write was lost, and the write was not.
        if record.state == State::Ready && self.under_way.has_failed(&record.attempt) {
            record.state = State::Pending;
        }
        Ok(record)
    }

    /// Returns the stacks of one environment, the newest last.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the labels of one cannot be read: then nothing is known of the environment that can be relied on.
    pub(super) async fn deployed_as(&self, name: &EnvironmentName) -> Result<Vec<Deployed>> {
        let selector = self.selector().with(keys::NAME, name.as_str());
        let stacks = self.orchestrator.list(&selector).await?;
        let unreadable = |what: &Unreadable| Error::Conflict {
            message: format!("stack {what}"),
            hint: "set its record or labels right, or remove the stack by hand".into(),
        };
        if let Some(what) = stacks.unreadable.iter().find(|what| is_stack_of(&what.name, name)) {
            return Err(unreadable(what));
        }
        let mut deployed = Vec::new();
        for stack in stacks.found {
            let record =
                self.read(&stack).map_err(|error| unreadable(&Unreadable::new(stack.name.as_str(), &error)))?;
            deployed.push(Deployed { record, stack });
        }
        deployed.sort_by_key(|deployed| deployed.record.generation);
        Ok(deployed)
    }

    /// Returns an environment's stack.
    ///
    /// # Errors
    /// [`Error::NotFound`] unless it is there and not being deleted.
    pub(super) async fn ready(&self, name: &EnvironmentName) -> Result<Deployed> {
        let deployed = self.deployed_as(name).await?.into_iter().rev();
        let mut ready = deployed.filter(|deployed| deployed.record.state == State::Ready);
        ready.next().ok_or_else(|| Error::not_found(Kind::Environment, name))
    }

    pub(super) async fn names(&self) -> Result<Vec<EnvironmentName>> {
        // First: what is made meanwhile is among either.
        let under_way = self.under_way.all().into_iter().filter(|(_, work)| work.doing != Doing::Tending);
        let mut names: BTreeSet<_> = under_way.map(|(name, _)| name).collect();
        let deployed = self.deployed().await?.found;
        // What an attempt that is dead has left is none.
        let there = deployed.into_iter().filter(|deployed| deployed.record.state != State::Pending);
        names.extend(there.map(|deployed| deployed.record.name));
        Ok(names.into_iter().collect())
    }

    pub(super) async fn get(&self, name: &EnvironmentName) -> Result<Environment> {
        let work = self.under_way.get(name);
        let mut deployed = self.deployed_as(name).await?;
        // A new deployment of an environment that is there is not it, until it is ready.
        if deployed.iter().any(|deployed| deployed.record.state != State::Pending) {
            deployed.retain(|deployed| deployed.record.state != State::Pending);
        }
        let doing = work.as_ref().map(|work| work.doing);
        let found = deployed.pop().filter(|deployed| deployed.record.state != State::Pending || work.is_some());
        if let Some(Deployed { record, stack }) = found {
            let status = match doing {
                Some(Doing::Creating) => Status::Creating,
                Some(Doing::Redeploying) => Status::Redeploying,
                Some(Doing::Deleting) => Status::Deleting,
                _ if record.state == State::Deleting => Status::Deleting,
                _ if is_well(&record, &stack) => Status::Ready,
                _ => Status::Degraded,
            };
            return Ok(self.describe(record, stack.services, status));
        }
        if let Some(record) = work.and_then(|work| work.shown()) {
            return Ok(self.describe(record, Vec::new(), Status::Creating));
        }
        let (record, failure) = self.failures.get(name).ok_or_else(|| Error::not_found(Kind::Environment, name))?;
        Ok(Environment { failure: Some(failure), ..self.describe(record, Vec::new(), Status::Failed) })
    }

    pub(super) async fn logs(
        &self,
        name: &EnvironmentName,
        caller: &Caller,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        let mut deployed = self.deployed_as(name).await?;
        let newest = deployed.pop().ok_or_else(|| Error::not_found(Kind::Environment, name))?;
        caller.check(&newest.record.owner)?;
        // Before anything is answered, as an orchestrator says it only where lines should come.
        if let Some(service) = &options.service
            && newest.stack.services.iter().all(|known| known.name != *service)
        {
            return Err(Error::not_found(Kind::Service, service));
        }
        Ok(self.orchestrator.logs(&newest.stack.name, options))
    }

    pub(super) async fn extend(
        self: &Arc<Self>,
        name: &EnvironmentName,
        caller: &Caller,
        keep_days: u32,
    ) -> Result<Environment> {
        let record = self.ready(name).await?.record;
        caller.check(&record.owner)?;
        // A template that is gone, or is being edited, says nothing any more.
        let most = self.template(Some(&record.template)).ok().map(|(_, template)| self.most_days(&template));
        let keep = keep(keep_days, most.unwrap_or(self.options.max_keep_days))?;
        let turn = self.change(name, Doing::Extending, caller, Vec::new()).await?;
        let (inner, name) = (Arc::clone(self), name.clone());
        crate::databases::detached(async move {
            let _turn = turn;
            let Deployed { mut record, stack } = inner.ready(&name).await?;
            let expires = OffsetDateTime::now_utc() + keep.duration();
            let is_longer = expires > record.expires;
            record.expires = expires;
            let databases = async {
                for database in inner.databases_of(&record).await? {
                    inner.databases.extend(&database.id, keep).await?;
                }
                Ok::<_, Error>(())
            };
            let labels = record.labels(&inner.instance.id)?;
            let labels = inner.orchestrator.set_labels(&stack.name, &labels);
            // Whichever fails, the database lives as long as the environment does: without one that is of no use.
            if is_longer {
                databases.await?;
                labels.await?;
            } else {
                labels.await?;
                databases.await?;
            }
            let status = if is_well(&record, &stack) { Status::Ready } else { Status::Degraded };
            Ok(inner.describe(record, stack.services, status))
        })
        .await
    }

    /// Takes the turn to do something to an environment that is there.
    ///
    /// # Errors
    /// [`Error::Conflict`] while something else is done to it.
    pub(super) async fn change(
        &self,
        name: &EnvironmentName,
        doing: Doing,
        caller: &Caller,
        hosts: Vec<crate::name::Hostname>,
    ) -> Result<Turn> {
        let Record { owner, origin, .. } = self.ready(name).await?.record;
        caller.check(&owner)?;
        loop {
            self.under_way.untended(name).await;
            let work = Work::new(doing, AttemptId::random()?, owner.clone(), hosts.clone()).to(&origin);
            match self.under_way.begin(name, work) {
                Err(other) if other.doing == Doing::Tending => {}
                begun => return begun.map_err(|other| in_the_way(name, other.doing)),
            }
        }
    }

    /// Takes the turn to look after an environment; `None` while something is done to it.
    pub(super) fn tend(&self, name: &EnvironmentName, owner: &Identity) -> Result<Option<Turn>> {
        let work = Work::new(Doing::Tending, AttemptId::random()?, owner.clone(), Vec::new());
        Ok(self.under_way.begin(name, work).ok())
    }

    /// Returns how many days an environment of a template may live.
    pub(super) fn most_days(&self, template: &Template) -> u32 {
        let most = self.options.max_keep_days;
        template.settings().limits.max_keep_days.unwrap_or(most).min(most)
    }

    /// Returns the databases of an environment.
    pub(super) async fn databases_of(&self, record: &Record) -> Result<Vec<Database>> {
        let mark = database_mark(&record.name, &record.origin);
        let databases = self.databases.list().await?.into_iter();
        Ok(databases.filter(|database| database.environment.as_ref() == Some(&mark)).collect())
    }

    /// Returns the end of a service's log, or of all, or as much of it as can be had within a moment.
    pub(super) async fn log_tail(&self, stack: &StackName, service: Option<&crate::name::ServiceName>) -> Vec<String> {
        use futures_util::StreamExt;
        let options = LogOptions { service: service.cloned(), tail: Some(LOG_TAIL), ..LogOptions::default() };
        let mut lines = self.orchestrator.logs(stack, options);
        let mut tail: BTreeMap<crate::name::ServiceName, Vec<String>> = BTreeMap::new();
        let read = async {
            while let Some(Ok(line)) = lines.next().await {
                tail.entry(line.service).or_default().push(line.text);
            }
        };
        // Without it the error says less, and is no less true.
        let _ = tokio::time::timeout(Duration::from_secs(3), read).await;
        if service.is_some() {
            return tail.into_values().flatten().collect();
        }
        let named =
            tail.into_iter().flat_map(|(name, lines)| lines.into_iter().map(move |line| format!("{name}: {line}")));
        named.collect()
    }
}

/// Returns how long so many days are.
pub(super) fn keep(days: u32, most: u32) -> Result<Ttl> {
    if days == 0 {
        return Err(Error::invalid("keep-days", "it must be at least 1"));
    }
    if days > most {
        return Err(Error::invalid("keep-days", format!("{days} is above the maximum of {most}")));
    }
    Ttl::new(Duration::from_secs(u64::from(days) * 86_400))
}

/// How many lines of a log explain a failure.
const LOG_TAIL: usize = 30;

/// Makes the error for what has to wait.
pub(super) fn in_the_way(name: &EnvironmentName, doing: Doing) -> Error {
    let what = match doing {
        Doing::Creating => "created",
        Doing::Redeploying => "redeployed",
        Doing::Extending => "extended",
        Doing::Deleting => "deleted",
        Doing::Tending => "looked after",
    };
    Error::Conflict {
        message: format!("environment {name} is being {what}"),
        hint: "wait until that is done, and try again".into(),
    }
}

/// Tells whether every service runs, or has done what it was to do.
pub(super) fn is_well(record: &Record, stack: &Stack) -> bool {
    stack.services.iter().all(|service| match service.state {
        ServiceState::Running => true,
        // What is to be reached is never done.
        ServiceState::Exited { status: Some(0) } => record.routes.iter().all(|route| route.service != service.name),
        _ => false,
    })
}

impl Inner {
    /// Returns what people type to reach a host.
    pub(super) fn link(&self, host: &str) -> String {
        self.options.public_url.replace("{host}", host)
    }

    /// Describes an environment to its user.
    pub(super) fn describe(
        &self,
        record: Record,
        services: Vec<crate::orchestrator::Service>,
        status: Status,
    ) -> Environment {
        Environment {
            status,
            links: record.urls().iter().map(|host| self.link(host.as_str())).collect(),
            main: record.main().map(|host| self.link(host.as_str())),
            urls: record.urls(),
            name: record.name,
            owner: record.owner,
            template: record.template,
            created: record.created,
            expires: record.expires,
            back: record.back,
            front: record.front,
            fixtures: record.fixtures,
            database: record.database,
            services,
            failure: None,
        }
    }
}
