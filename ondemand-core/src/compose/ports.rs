//! Ports that a service publishes, and those it only mentions.

use super::field::Field;
use super::problem::Read;
use crate::orchestrator::{Publish, PublishMode, Transport};

const TRANSPORTS: [(&str, Transport); 3] =
    [("tcp", Transport::Tcp), ("udp", Transport::Udp), ("sctp", Transport::Sctp)];

/// Reads `ports`.
pub(super) fn published(field: &Field<'_>) -> Read<Vec<Publish>> {
    let mut all = Vec::new();
    for item in field.items()? {
        let ports = if item.is_mapping() { vec![long(&item)?] } else { short(&item)? };
        for port in ports {
            let taken = |other: &Publish| {
                other == &port
                    || (port.published.is_some()
                        && other.published == port.published
                        && other.transport == port.transport)
            };
            if all.iter().any(taken) {
                return Err(item.problem("the port is published twice"));
            }
            all.push(port);
        }
    }
    Ok(all)
}

/// Checks `expose`, which says nothing on a network where all ports can be reached.
pub(super) fn exposed(field: &Field<'_>) -> Read<()> {
    for item in field.items()? {
        let text = item.text()?;
        let (ports, transport) = transport(&text, &item)?;
        let _ = (range(ports, &item)?, transport);
    }
    Ok(())
}

fn transport<'t>(text: &'t str, item: &Field<'_>) -> Read<(&'t str, Transport)> {
    let Some((ports, name)) = text.split_once('/') else { return Ok((text, Transport::Tcp)) };
    match TRANSPORTS.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)) {
        Some((_, transport)) => Ok((ports, *transport)),
        None => Err(item.problem(format!("the protocol {name:?} is none of tcp, udp, sctp"))),
    }
}

/// Reads `80` or `80-90`.
fn range(text: &str, item: &Field<'_>) -> Read<std::ops::RangeInclusive<u16>> {
    let invalid = || item.problem(format!("{:?} is not a port or a range of ports", crate::error::shorten(text)));
    let port = |text: &str| -> Read<u16> {
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        text.parse().ok().filter(|port| *port > 0).ok_or_else(invalid)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(invalid());
    }
    Ok(first..=last)
}

fn short(item: &Field<'_>) -> Read<Vec<Publish>> {
    let text = item.text()?;
    let (ports, transport) = transport(&text, item)?;
    let port = |target, published| Publish { target, published, transport, mode: PublishMode::Ingress };
    let Some((host, target)) = ports.rsplit_once(':') else {
        return Ok(range(ports, item)?.map(|target| port(target, None)).collect());
    };
    if host.contains(':') {
        return Err(item.problem("publishing on one address of the host is not supported; leave the address out"));
    }
    let targets = range(target, item)?;
    if host.is_empty() {
        return Ok(targets.map(|target| port(target, None)).collect());
    }
    let hosts = range(host, item)?;
    if hosts.len() != targets.len() {
        return Err(item.problem("both ranges of ports must have the same length"));
    }
    Ok(hosts.zip(targets).map(|(host, target)| port(target, Some(host))).collect())
}

fn long(item: &Field<'_>) -> Read<Publish> {
    let mut target = None;
    let mut port = Publish { target: 0, published: None, transport: Transport::Tcp, mode: PublishMode::Ingress };
    for field in item.entries()? {
        match field.name() {
            "target" => target = Some(field.whole::<u16>()?).filter(|port| *port > 0),
            // Zero: the engine chooses.
            "published" => port.published = Some(field.whole::<u16>()?).filter(|port| *port > 0),
            "protocol" => port.transport = field.choice(&TRANSPORTS)?,
            "mode" => {
                port.mode = field.choice(&[("host", PublishMode::Host), ("ingress", PublishMode::Ingress)])?;
            }
            "host_ip" => return Err(field.unsupported_because("publishing on one address of the host")),
            _ if field.is_extension() => {}
            _ => return Err(field.unsupported()),
        }
    }
    port.target = target.ok_or_else(|| item.problem("it has no target, the port that the service listens on"))?;
    Ok(port)
}
