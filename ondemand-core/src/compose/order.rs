//! What waits for what.

use std::collections::HashSet;

use super::field::Field;
use super::problem::{Problem, Read};
use super::tree::{Node, Value};
use crate::name::ServiceName;
use crate::orchestrator::{Condition, Dependency, ServiceSpec};

/// A dependency as it is written.
struct Written<'a> {
    field: Field<'a>,
    name: String,
    condition: Condition,
    required: bool,
}

fn read<'a>(field: &Field<'a>) -> Read<Vec<Written<'a>>> {
    if field.is_list() || field.is_null() {
        return field
            .items()?
            .into_iter()
            .map(|field| {
                let name = field.word()?;
                Ok(Written { field, name, condition: Condition::Started, required: true })
            })
            .collect();
    }
    let mut all = Vec::new();
    for field in field.entries()? {
        let mut condition = Condition::Started;
        let mut required = true;
        for option in field.entries()? {
            match option.name() {
                "condition" => {
                    condition = option.choice(&[
                        ("service_started", Condition::Started),
                        ("service_healthy", Condition::Healthy),
                        ("service_completed_successfully", Condition::CompletedSuccessfully),
                    ])?;
                }
                "required" => required = option.boolean()?,
                "restart" if !option.boolean()? => {}
                _ if option.is_extension() => {}
                _ => return Err(option.unsupported()),
            }
        }
        all.push(Written { name: field.name().to_owned(), field, condition, required });
    }
    Ok(all)
}

/// Reads `depends_on`. Whether each exists is known once all are read: `sort` tells.
pub(super) fn dependencies(field: &Field<'_>, services: &[&str]) -> Read<Vec<Dependency>> {
    let mut all: Vec<Dependency> = Vec::new();
    for Written { field, name, condition, required } in read(field)? {
        if !services.contains(&name.as_str()) {
            if !required {
                continue;
            }
            return Err(field.problem(format!("there is no service {name:?}")));
        }
        let service = ServiceName::new(name).map_err(|error| field.problem(error))?;
        if all.iter().any(|dependency| dependency.service == service) {
            return Err(field.problem("it is there twice"));
        }
        all.push(Dependency { service, condition });
    }
    Ok(all)
}

/// Puts services after those they depend on, and otherwise leaves them in their order.
pub(super) fn sort(services: &mut Vec<ServiceSpec>, section: &Field<'_>) -> Read<()> {
    let mut left = std::mem::take(services);
    let mut names: HashSet<ServiceName> = left.iter().map(|spec| spec.name.clone()).collect();
    while !left.is_empty() {
        let free = |spec: &ServiceSpec| !spec.depends_on.iter().any(|d| names.contains(&d.service));
        if let Some(next) = left.iter().position(free) {
            let spec = left.remove(next);
            names.remove(&spec.name);
            services.push(spec);
        } else {
            return Err(cycle(&left, section));
        }
    }
    Ok(())
}

/// Names the services of a cycle: of those left, each depends on another that is left.
fn cycle(left: &[ServiceSpec], section: &Field<'_>) -> Problem {
    let mut path: Vec<&ServiceName> = Vec::new();
    let mut next = left.first();
    while let Some(spec) = next {
        if let Some(start) = path.iter().position(|name| **name == spec.name) {
            path.drain(..start);
            path.push(&spec.name);
            break;
        }
        path.push(&spec.name);
        next = spec.depends_on.iter().find_map(|d| left.iter().find(|other| other.name == d.service));
    }
    let names = path.iter().map(ToString::to_string).collect::<Vec<_>>().join(" → ");
    let node = path.first().and_then(|name| section.node.get(name.as_str())).and_then(|node| node.get("depends_on"));
    let place = node.unwrap_or(section.node).place;
    Problem::new(place, format!("services wait for each other: {names}"))
}

/// Takes services away, and the dependencies on them that only say what is started first.
pub(super) fn remove(services: &mut Node, names: &[&str]) -> Read<()> {
    let Value::Mapping(entries) = &mut services.value else { return Ok(()) };
    entries.retain(|(key, _)| !names.contains(&key.text.as_str()));
    for (key, service) in entries {
        let Some(node) = service.get_mut("depends_on") else { continue };
        let path = format!("services.{}.depends_on", key.text);
        for Written { field, name, condition, required } in read(&Field::new(path, node))? {
            if names.contains(&name.as_str()) && required && condition != Condition::Started {
                return Err(field.problem(format!("it waits for the service {name:?}, which is left out")));
            }
        }
        match &mut node.value {
            Value::Mapping(entries) => entries.retain(|(key, _)| !names.contains(&key.text.as_str())),
            Value::Sequence(items) => items.retain(
                |item| !matches!(&item.value, Value::String(text) | Value::Number(text) if names.contains(&text.as_str())),
            ),
            _ => {}
        }
    }
    Ok(())
}
