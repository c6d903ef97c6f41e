//! A template rendered with values made up.

use std::collections::BTreeSet;

use super::{DatabaseVariables, OwnerVariables, PartVariables, Template, Variables};
use crate::error::{Error, Result};
use crate::label::Labels;
use crate::name::{AttemptId, StackName};

/// Renders and translates all that can come of a template.
pub(super) fn check(template: &Template) -> Result<Vec<String>> {
    let settings = template.settings();
    let mut missing = BTreeSet::new();
    let mut whole = Vec::new();
    for sample in samples(template) {
        let told = |error| in_case(error, &sample);
        let document = template.render(&sample).map_err(told)?;
        let absent: Vec<&str> = settings
            .parts()
            .filter(|(name, _)| !part(&sample, name).enabled)
            .flat_map(|(_, part)| part.services.iter().map(AsRef::as_ref))
            .collect();
        let stack = document
            .without_services(&absent)
            .and_then(|document| document.to_stack(StackName::new(&*sample.name)?, attempt()?, Labels::new()))
            .map_err(told)?;
        missing.extend(document.missing_variables().iter().cloned());
        if stack.services.len() > whole.len() {
            whole = stack.services.iter().map(|service| service.name.to_string()).collect();
        }
    }

    let mut notes = Vec::new();
    for route in &settings.routes {
        let main = if route.suffix == settings.main { ", and NAME alone" } else { "" };
        notes.push(format!(
            "route NAME{}{main}: {} port {}, ready when {} answers {}",
            route.suffix, route.service, route.port, route.path, route.status
        ));
    }
    for (name, part) in settings.parts() {
        let services = part.services.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let from = match (&part.repository, &part.branch) {
            (Some(repository), Some(branch)) => format!("from {repository}, branch {branch}"),
            (Some(repository), None) => format!("from {repository}, the branch to be named"),
            (None, _) => "the repository to be named".to_owned(),
        };
        notes.push(format!("{name}: {services}; {from}"));
    }
    notes.push(format!("services, in the order they are started: {}", whole.join(", ")));
    notes
        .extend(missing.iter().map(|name| format!("warning: the variable {name} is not set here, and has no default")));
    Ok(notes)
}

fn attempt() -> Result<AttemptId> {
    AttemptId::new("0".repeat(16))
}

fn part<'a>(variables: &'a Variables, name: &str) -> &'a PartVariables {
    if name == "back" { &variables.back } else { &variables.front }
}

/// Says in which case it went wrong, where it depends on that.
fn in_case(error: Error, sample: &Variables) -> Error {
    match error {
        Error::InvalidTemplate { file, line, reason } => {
            let with = |enabled: bool| if enabled { "with" } else { "without" };
            let case = format!(
                "{} the back end, {} the front end, {} fixtures",
                with(sample.back.enabled),
                with(sample.front.enabled),
                with(sample.fixtures)
            );
            Error::InvalidTemplate { file, line, reason: format!("{reason} (in an environment {case})") }
        }
        error => error,
    }
}

/// Makes up values: the parts that there are, each there or not, with and without fixtures.
fn samples(template: &Template) -> Vec<Variables> {
    let settings = template.settings();
    let choices = |there: bool| if there { &[true, false][..] } else { &[false][..] };
    let mut all = Vec::new();
    for &back in choices(settings.back.is_some()) {
        for &front in choices(settings.front.is_some()) {
            // An environment has something of its own, where there is anything to have.
            if !back && !front && settings.parts().next().is_some() {
                continue;
            }
            all.extend([false, true].map(|fixtures| sample(template, back, front, fixtures)));
        }
    }
    all
}

fn sample(template: &Template, back: bool, front: bool, fixtures: bool) -> Variables {
    let settings = template.settings();
    let (name, domain) = ("sample", "env.example");
    let hosts = settings.routes.iter().map(|route| &route.suffix);
    let hosts = hosts.map(|suffix| (suffix.clone(), format!("{name}{suffix}.{domain}")));
    let part = |enabled: bool, part: Option<&super::Part>| match part {
        Some(part) if enabled => {
            let or = |given: Option<String>, otherwise: &str| given.unwrap_or_else(|| otherwise.to_owned());
            let repository = or(part.repository.as_ref().map(ToString::to_string), "owner/repository");
            PartVariables {
                enabled,
                url: format!("https://git.example/{repository}.git"),
                repository,
                branch: or(part.branch.as_ref().map(ToString::to_string), "branch"),
                commit: "0123456789abcdef0123456789abcdef01234567".into(),
            }
        }
        _ => PartVariables::default(),
    };
    let database = match settings.database {
        Some(_) => DatabaseVariables {
            enabled: true,
            host: "database.example".into(),
            port: 5432,
            user: "postgres".into(),
            name: "postgres".into(),
        },
        None => DatabaseVariables::default(),
    };
    let mut secrets = vec!["token"];
    if database.enabled {
        secrets.extend(["database_url", "database_password"]);
    }
    Variables {
        name: name.into(),
        domain: domain.into(),
        urls: hosts.clone().map(|(suffix, host)| (suffix, format!("http://{host}"))).collect(),
        hosts: hosts.collect(),
        back: part(back, settings.back.as_ref()),
        front: part(front, settings.front.as_ref()),
        database,
        owner: OwnerVariables { login: "someone".into(), id: 1 },
        fixtures,
        keep_days: settings.limits.keep_days.unwrap_or(1),
        expires: "2030-01-01T00:00:00Z".into(),
        secrets: secrets.iter().map(|name| ((*name).to_owned(), format!("/run/secrets/{name}"))).collect(),
        attempt: "0".repeat(16),
        interpolation: std::collections::BTreeMap::new(),
    }
}
