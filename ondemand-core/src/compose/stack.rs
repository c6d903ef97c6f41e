//! Document → stack: the top of the file.

use super::Document;
use super::field::Field;
use super::parts;
use super::problem::{Problem, Problems, Read};
use super::{order, service};
use crate::orchestrator::{NetworkAttachment, StackSpec};

/// The network that services are in which name none.
const DEFAULT_NETWORK: &str = "default";
/// How many services a document may have: putting them in order takes the square of it.
const MOST_SERVICES: usize = 500;

/// Fills in all but the name, the attempt and the labels.
pub(super) fn translate(document: &Document, mut stack: StackSpec) -> Read<StackSpec> {
    let mut problems = Problems::default();
    let root = Field::new("", &document.root);
    let mut services = None;
    for section in root.entries()? {
        match section.name() {
            "services" => services = Some(section),
            "networks" => stack.networks = problems.keep(parts::networks(&section)),
            "volumes" => stack.volumes = problems.keep(parts::volumes(&section)),
            "secrets" => stack.secrets = problems.keep(parts::secrets(&section, document)),
            "configs" => stack.configs = problems.keep(parts::configs(&section, document)),
            "name" => {}
            _ if section.is_extension() => {}
            "include" => problems.push(section.unsupported_because("use `{% include %}` in a template")),
            _ => problems.push(section.unsupported()),
        }
    }
    let Some(services) = services else {
        problems.push(Problem::new(document.root.place, "it has no services"));
        problems.finish()?;
        return Ok(stack);
    };
    let entries = services.entries()?;
    if entries.is_empty() {
        problems.push(services.problem("it has no services"));
    }
    if entries.len() > MOST_SERVICES {
        return Err(services.problem(format!("there are {} services, and {MOST_SERVICES} is the limit", entries.len())));
    }
    for entry in &entries {
        if let Some(spec) = service::translate(entry, document, &mut problems) {
            stack.services.push(spec);
        }
    }
    for (entry, spec) in entries.iter().filter_map(|entry| {
        stack.services.iter().find(|spec| spec.name.as_str() == entry.name()).map(|spec| (entry, spec))
    }) {
        declared(entry, spec, &stack, &mut problems);
    }
    // The order is only told for services that could be read: the rest would look unknown.
    problems.finish()?;
    order::sort(&mut stack.services, &services)?;
    default_network(&mut stack);
    Ok(stack)
}

/// Checks that what a service uses is declared at the top.
fn declared(entry: &Field<'_>, spec: &crate::orchestrator::ServiceSpec, stack: &StackSpec, problems: &mut Problems) {
    let mut check = |section: &str, name: &str, known: bool| {
        if !known {
            let node = entry.node.get(section).unwrap_or(entry.node);
            problems.push(Problem::new(
                node.place,
                format!("services.{}.{section}: {name:?} is not declared in {section} at the top", entry.name()),
            ));
        }
    };
    for NetworkAttachment { network, .. } in &spec.networks {
        check("networks", network, network == DEFAULT_NETWORK || stack.networks.contains_key(network));
    }
    for volume in spec.volumes.iter().filter_map(|mount| mount.volume.as_ref()) {
        check("volumes", volume, stack.volumes.contains_key(volume));
    }
    for file in &spec.secrets {
        check("secrets", &file.source, stack.secrets.contains_key(&file.source));
    }
    for file in &spec.configs {
        check("configs", &file.source, stack.configs.contains_key(&file.source));
    }
}

/// Puts services that name no network into the one that others call `default`, if any does.
fn default_network(stack: &mut StackSpec) {
    let named = stack.networks.contains_key(DEFAULT_NETWORK)
        || stack.services.iter().flat_map(|service| &service.networks).any(|a| a.network == DEFAULT_NETWORK);
    if !named {
        return;
    }
    stack.networks.entry(DEFAULT_NETWORK.into()).or_default();
    for service in stack.services.iter_mut().filter(|service| service.networks.is_empty()) {
        service.networks.push(NetworkAttachment { network: DEFAULT_NETWORK.into(), aliases: Vec::new() });
    }
}
