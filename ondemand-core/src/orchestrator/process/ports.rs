//! Choosing ports for processes that publish one.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};

use super::check::fixed_port;
use crate::error::{Error, Result};
use crate::name::random;
use crate::orchestrator::StackSpec;
use crate::own;

/// The first port that is chosen; below, services of the machine are at home.
const FIRST: u16 = 20_000;

/// Chooses the published ports of all services of a stack, in the order of the specification. None is in `taken`.
///
/// # Errors
/// [`Error::Conflict`], with the word `port`, if one that the specification says is taken; [`Error::QuotaExceeded`] if none is left.
pub(super) fn choose(stack: &StackSpec, taken: &HashSet<u16>) -> Result<Vec<Vec<u16>>> {
    if stack.services.iter().all(|service| service.publish.is_empty()) {
        return Ok(Vec::new());
    }
    let mut taken = taken.clone();
    let mut fixed = Vec::new();
    for service in &stack.services {
        let ports = service.publish.iter().enumerate().map(|(at, port)| fixed_port(service, at, *port));
        let ports = ports.collect::<Result<Vec<_>>>()?;
        if let Some(port) = ports.iter().flatten().find(|&&port| !taken.insert(port) || !is_free(port)) {
            return Err(Error::Conflict {
                message: format!("port {port} of service {} is taken", service.name),
                hint: "leave the port out to have a free one chosen, or end what has it".into(),
            });
        }
        // What a service listens on without publishing it.
        taken.extend(service.ports.iter().map(|port| port.published.port()));
        fixed.push(ports);
    }
    let mut free = candidates(random_start()?, lent_by_kernel()).filter(|port| !taken.contains(port) && is_free(*port));
    let mut next = || {
        free.next().ok_or_else(|| Error::QuotaExceeded {
            message: format!("no port from {FIRST} on is free"),
            hint: "remove stacks that publish ports".into(),
        })
    };
    let one = |port: Option<u16>| port.map_or_else(&mut next, Ok);
    let mut chosen = Vec::new();
    let mut one = one;
    for ports in fixed {
        chosen.push(ports.into_iter().map(&mut one).collect::<Result<Vec<_>>>()?);
    }
    Ok(chosen)
}

/// Tells whether nobody listens on a port.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Returns the ports that may be chosen, from the `start`th on: not those that the kernel lends to outgoing connections, which would be taken at
/// times, unless it lends all.
fn candidates(start: usize, lent: Option<(u16, u16)>) -> impl Iterator<Item = u16> {
    let is_lent = |port: &u16| lent.is_some_and(|(first, last)| (first..=last).contains(port));
    let mut ports: Vec<u16> = (FIRST..=u16::MAX).filter(|port| !is_lent(port)).collect();
    if ports.is_empty() {
        ports = (FIRST..=u16::MAX).collect();
    }
    let start = start % ports.len();
    ports.rotate_left(start);
    ports.into_iter()
}

/// Two orchestrators on one machine do not know of each other: they begin at different places.
fn random_start() -> Result<usize> {
    let mut bytes = [0; 2];
    random(&mut bytes)?;
    Ok(usize::from(u16::from_le_bytes(bytes)))
}

fn lent_by_kernel() -> Option<(u16, u16)> {
    parse_range(&own::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?)
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{AttemptId, ServiceName, StackName};
    use crate::orchestrator::{Publish, ServiceSpec};

    fn stack(publish: &[&[Publish]]) -> StackSpec {
        let services = publish.iter().enumerate().map(|(n, ports)| ServiceSpec {
            publish: ports.to_vec(),
            ..ServiceSpec::new(ServiceName::new(format!("s{n}")).expect("a name"), vec!["true".into()])
        });
        let attempt = AttemptId::random().expect("randomness");
        StackSpec::new(StackName::new("a").expect("a name"), attempt, services.collect())
    }

    #[test]
    fn every_published_port_gets_one_of_its_own() {
        let stack = stack(&[&[Publish::anywhere(80), Publish::anywhere(81)], &[], &[Publish::anywhere(80)]]);
        let chosen = choose(&stack, &HashSet::new()).expect("ports");
        assert_eq!(chosen.iter().map(Vec::len).collect::<Vec<_>>(), [2, 0, 1]);
        let ports: HashSet<u16> = chosen.into_iter().flatten().collect();
        assert_eq!(ports.len(), 3);
        assert!(ports.iter().all(|port| *port >= FIRST));
    }

    #[test]
    fn a_stack_that_publishes_nothing_has_no_ports() {
        assert_eq!(choose(&stack(&[&[], &[]]), &HashSet::new()).expect("none"), Vec::<Vec<u16>>::new());
    }

    #[test]
    fn a_port_that_is_taken_is_a_conflict() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let fixed = Publish { published: Some(port), ..Publish::anywhere(port) };
        for (stack, taken) in [
            (stack(&[&[fixed]]), HashSet::new()),
            (stack(&[&[Publish { published: Some(1), ..Publish::anywhere(1) }]]), HashSet::from([1])),
        ] {
            let error = choose(&stack, &taken).expect_err("it is taken");
            assert!(matches!(error, Error::Conflict { .. }) && error.to_string().contains("port"), "{error:?}");
        }
    }

    #[test]
    fn what_the_kernel_lends_is_not_chosen() {
        assert_eq!(parse_range("32768\t60999\n"), Some((32_768, 60_999)));
        let ports: Vec<u16> = candidates(0, Some((32_768, 60_999))).collect();
        assert_eq!((ports[0], ports.len()), (FIRST, 12_768 + 4_536));
        assert!(!ports.iter().any(|port| (32_768..=60_999).contains(port)));
        assert_eq!(candidates(12_768, Some((32_768, 60_999))).next(), Some(61_000));
        assert_eq!(candidates(0, Some((1024, 65_535))).count(), 45_536, "it lends all, so none can be spared");
        assert_eq!(candidates(65_535, None).count(), 45_536);
    }

    #[test]
    fn none_is_left_where_all_are_taken() {
        let all: HashSet<u16> = (1..=u16::MAX).collect();
        let error = choose(&stack(&[&[Publish::anywhere(80)]]), &all).expect_err("none is free");
        assert!(matches!(error, Error::QuotaExceeded { .. }), "{error:?}");
    }
}
