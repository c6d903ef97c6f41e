//! What the `x-ondemand` section says.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use super::section;
use super::status::ExpectedStatus;
use crate::compose::field::Field;
use crate::compose::problem::{Problems, Read};
use crate::compose::{self, Document, Source};
use crate::error::{Error, Result};
use crate::name::{Branch, DatasetRef, Repository, ServiceName};

/// The key of the section.
pub(super) const KEY: &str = "x-ondemand";
/// The longest suffix: a name and a suffix are one DNS label.
const LONGEST_SUFFIX: usize = 31;

/// What the `x-ondemand` section of a template says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where its environments are reached; at least one.
    pub routes: Vec<RouteSetting>,
    /// The suffix of the route that an environment's plain name reaches.
    pub main: String,
    /// The back end, where there is one.
    pub back: Option<Part>,
    /// The front end, where there is one.
    pub front: Option<Part>,
    /// The database, where there is one.
    pub database: Option<DatabaseSetting>,
    /// What its environments may use.
    pub limits: Limits,
}

/// A host name that leads to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSetting {
    /// What follows the environment's name in the host's; may be empty.
    pub suffix: String,
    /// The service.
    pub service: ServiceName,
    /// Where it listens.
    pub port: u16,
    /// The path that answers when the service is ready.
    pub path: String,
    /// What it answers then.
    pub status: ExpectedStatus,
}

/// The services that one repository is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// The services that an environment without this part does not have.
    pub services: Vec<ServiceName>,
    /// The repository, where the user names none.
    pub repository: Option<Repository>,
    /// The branch, where the user names none.
    pub branch: Option<Branch>,
}

/// Where an environment's data come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseSetting {
    /// The dataset of the anonymized dump.
    pub dump: Option<DatasetRef>,
    /// The dataset of the fixtures.
    pub fixtures: Option<DatasetRef>,
}

/// What environments of a template may use. What is left out is the server's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// For how many days they are kept, where the user says nothing.
    pub keep_days: Option<u32>,
    /// For how many days they may be kept.
    pub max_keep_days: Option<u32>,
    /// How long they may take to become ready.
    pub ready_timeout: Option<Duration>,
    /// How many services they may have.
    pub max_services: Option<usize>,
}

impl Settings {
    /// Returns the parts that there are, by their names.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &Part)> {
        [("back", self.back.as_ref()), ("front", self.front.as_ref())]
            .into_iter()
            .filter_map(|(name, part)| Some((name, part?)))
    }
}

/// Reads the section of a template that is not rendered yet.
pub(super) fn read(file: &str, text: &str) -> Result<Settings> {
    let document = alone(file, text)?;
    let Some(node) = document.section(KEY) else {
        return Err(Error::InvalidTemplate { file: file.into(), line: 0, reason: format!("it has no {KEY}") });
    };
    settings(&Field::new(KEY, node)).map_err(|problem| document.error(problem))
}

/// Reads the section as a document of its own.
pub(super) fn alone(file: &str, text: &str) -> Result<Document> {
    let section = section::cut(file, text)?;
    compose::parse(Source { file, text: &section, directory: None, variables: &BTreeMap::new() })
}

fn settings(section: &Field<'_>) -> Read<Settings> {
    let mut problems = Problems::default();
    let mut settings = Settings {
        routes: Vec::new(),
        main: String::new(),
        back: None,
        front: None,
        database: None,
        limits: Limits::default(),
    };
    let mut main = None;
    for field in section.entries()? {
        match field.name() {
            "routes" => settings.routes = problems.keep(routes(&field)),
            "main" => main = problems.keep(field.text().map(|text| Some((text, field.clone())))),
            "back" => settings.back = problems.keep(part(&field).map(Some)),
            "front" => settings.front = problems.keep(part(&field).map(Some)),
            "database" => settings.database = problems.keep(database(&field).map(Some)),
            "limits" => settings.limits = problems.keep(limits(&field)),
            _ => problems.push(field.unsupported()),
        }
    }
    problems.finish()?;
    let Some(first) = settings.routes.first() else {
        return Err(section.problem("it has no routes; an environment without any cannot be reached"));
    };
    settings.main = match main {
        None => first.suffix.clone(),
        Some((main, _)) if settings.routes.iter().any(|route| route.suffix == main) => main,
        Some((main, field)) => return Err(field.problem(format!("no route has the suffix {main:?}"))),
    };
    if let (Some(back), Some(front)) = (&settings.back, &settings.front)
        && let Some(both) = back.services.iter().find(|service| front.services.contains(service))
    {
        return Err(section.problem(format!("the service {both} is of both parts, back and front")));
    }
    Ok(settings)
}

fn routes(list: &Field<'_>) -> Read<Vec<RouteSetting>> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for item in list.items()? {
        let route = route(&item)?;
        if !seen.insert(route.suffix.clone()) {
            return Err(item.problem(format!("another route has the suffix {:?}", route.suffix)));
        }
        all.push(route);
    }
    Ok(all)
}

fn route(route: &Field<'_>) -> Read<RouteSetting> {
    let (mut suffix, mut service, mut port) = (None, None, None);
    let (mut path, mut status) = ("/".to_owned(), ExpectedStatus::default());
    for field in route.entries()? {
        match field.name() {
            "suffix" => {
                let text = field.text()?;
                let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
                if !text.bytes().all(allowed) || text.ends_with('-') || text.len() > LONGEST_SUFFIX {
                    return Err(field.problem(format!(
                        "use at most {LONGEST_SUFFIX} lower-case letters, digits and '-', the last not a '-'"
                    )));
                }
                suffix = Some(text);
            }
            "service" => service = Some(service_name(&field)?),
            "port" => port = Some(field.whole::<u16>()?).filter(|port| *port > 0),
            "path" => {
                path = field.text()?;
                if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) || path.contains('#') {
                    return Err(field.problem("it must begin with a slash and be as a browser sends it"));
                }
            }
            "status" => {
                for text in field.text_or_texts()? {
                    if !status.add(&text) {
                        return Err(field.problem(format!("{text:?} is neither a status nor a class such as 2xx")));
                    }
                }
            }
            _ => return Err(field.unsupported()),
        }
    }
    let suffix = suffix.ok_or_else(|| route.problem("it has no suffix; it may be \"\""))?;
    let service = service.ok_or_else(|| route.problem("it has no service"))?;
    let port = port.ok_or_else(|| route.problem("it has no port, from 1 to 65535"))?;
    Ok(RouteSetting { suffix, service, port, path, status })
}

fn service_name(field: &Field<'_>) -> Read<ServiceName> {
    ServiceName::new(field.text()?).map_err(|error| field.problem(error))
}

fn part(field: &Field<'_>) -> Read<Part> {
    let mut part = Part::default();
    for field in field.entries()? {
        match field.name() {
            "services" => part.services = field.items()?.iter().map(service_name).collect::<Read<_>>()?,
            "repository" => part.repository = Some(parsed(&field)?),
            "branch" => part.branch = Some(parsed(&field)?),
            _ => return Err(field.unsupported()),
        }
    }
    if part.services.is_empty() {
        return Err(field.problem("it has no services"));
    }
    Ok(part)
}

/// Reads a name. Whether there is what it names is found out when an environment is made.
fn parsed<T: FromStr<Err = Error>>(field: &Field<'_>) -> Read<T> {
    field.word()?.parse().map_err(|error| field.problem(error))
}

fn database(field: &Field<'_>) -> Read<DatabaseSetting> {
    let mut database = DatabaseSetting::default();
    for field in field.entries()? {
        match field.name() {
            "dump" => database.dump = Some(parsed(&field)?),
            "fixtures" => database.fixtures = Some(parsed(&field)?),
            _ => return Err(field.unsupported()),
        }
    }
    if database == DatabaseSetting::default() {
        return Err(field.problem("it names no dataset: dump, fixtures, or both"));
    }
    Ok(database)
}

fn limits(limits: &Field<'_>) -> Read<Limits> {
    let mut all = Limits::default();
    let days = |field: &Field<'_>| match field.whole::<u32>()? {
        days if (1..=3650).contains(&days) => Ok(days),
        _ => Err(field.problem("it must be 1 to 3650 days")),
    };
    for field in limits.entries()? {
        match field.name() {
            "keep-days" => all.keep_days = Some(days(&field)?),
            "max-keep-days" => all.max_keep_days = Some(days(&field)?),
            "ready-timeout" => {
                let timeout = field.duration()?;
                if timeout < Duration::from_secs(1) {
                    return Err(field.problem("it must be at least a second"));
                }
                all.ready_timeout = Some(timeout);
            }
            "max-services" => all.max_services = Some(usize::from(field.whole::<u16>()?)),
            _ => return Err(field.unsupported()),
        }
    }
    if let (Some(keep), Some(most)) = (all.keep_days, all.max_keep_days)
        && keep > most
    {
        return Err(limits.problem("keep-days is above max-keep-days"));
    }
    Ok(all)
}
