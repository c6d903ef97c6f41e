//! How the services of a stack find each other, and themselves: the same variables wherever they run.

use std::collections::BTreeMap;

use super::{ServiceSpec, StackSpec};

/// What the variables begin with that tell where a service is reached.
const SERVICE: &str = "ONDEMAND_SERVICE_";
/// The variable that tells a service the first of its ports; with `_` and the target after it, any of several.
pub(crate) const PORT: &str = "PORT";

/// Returns the variables of a service that runs in a container, where each service is found by its name, and listens on the ports that the
/// specification says. A stack that publishes nothing has none.
#[cfg(any(feature = "docker", test))]
pub(crate) fn by_name(stack: &StackSpec, service: &ServiceSpec) -> BTreeMap<String, String> {
    let mut variables = siblings(
        stack,
        |other, at| stack.services[other].publish.get(at).map_or(0, |port| port.target),
        |other| stack.services[other].name.to_string(),
    );
    variables.extend(own_ports(service, |at| service.publish[at].target));
    variables.extend(dirs(service, "/run/secrets", "/"));
    variables
}

/// Returns the variables that tell a service where its secrets and configuration files are, if it has any.
pub(crate) fn dirs(service: &ServiceSpec, secrets: &str, configs: &str) -> BTreeMap<String, String> {
    let dirs =
        [("ONDEMAND_SECRETS_DIR", &service.secrets, secrets), ("ONDEMAND_CONFIGS_DIR", &service.configs, configs)];
    let used = dirs.into_iter().filter(|(_, mounts, _)| !mounts.is_empty());
    used.map(|(key, _, dir)| (key.to_owned(), dir.to_owned())).collect()
}

/// Returns the variables that tell where the published ports of all services of a stack are reached: `port` returns the port for the place of
/// a service and of one of its published ports, and `host` the host.
pub(crate) fn siblings(
    stack: &StackSpec,
    port: impl Fn(usize, usize) -> u16,
    host: impl Fn(usize) -> String,
) -> BTreeMap<String, String> {
    let mut first = BTreeMap::new();
    let mut all = BTreeMap::new();
    for (place, service) in stack.services.iter().enumerate() {
        let name = format!("{SERVICE}{}", service.name.as_str().to_uppercase().replace('-', "_"));
        for (at, publish) in service.publish.iter().enumerate() {
            let address = format!("{}:{}", host(place), port(place, at));
            if at == 0 {
                first.insert(name.clone(), address.clone());
            }
            if service.publish.len() > 1 {
                all.insert(format!("{name}_{}", publish.target), address);
            }
        }
    }
    // A service `a-80` comes before the port 80 of a service `a`.
    all.extend(first);
    all
}

/// Returns the variables that tell a service its own published ports: `port` returns one for its place.
pub(crate) fn own_ports(service: &ServiceSpec, port: impl Fn(usize) -> u16) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (at, publish) in service.publish.iter().enumerate() {
        if at == 0 {
            variables.insert(PORT.to_owned(), port(at).to_string());
        }
        if service.publish.len() > 1 {
            variables.insert(format!("{PORT}_{}", publish.target), port(at).to_string());
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{AttemptId, ServiceName, StackName};
    use crate::orchestrator::Publish;

    fn service(name: &str, targets: &[u16]) -> ServiceSpec {
        ServiceSpec {
            publish: targets.iter().map(|&target| Publish::anywhere(target)).collect(),
            ..ServiceSpec::new(ServiceName::new(name).expect("a name"), vec!["true".into()])
        }
    }

    fn stack(services: Vec<ServiceSpec>) -> StackSpec {
        let attempt = AttemptId::random().expect("randomness");
        StackSpec::new(StackName::new("a").expect("a name"), attempt, services)
    }

    fn pairs(variables: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
        variables.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    #[test]
    fn a_container_finds_its_siblings_by_name() {
        let stack = stack(vec![service("web", &[80, 443]), service("back-end", &[3000]), service("job", &[])]);
        let found = [
            ("ONDEMAND_SERVICE_BACK_END", "back-end:3000"),
            ("ONDEMAND_SERVICE_WEB", "web:80"),
            ("ONDEMAND_SERVICE_WEB_443", "web:443"),
            ("ONDEMAND_SERVICE_WEB_80", "web:80"),
        ];
        assert_eq!(pairs(&by_name(&stack, &stack.services[2])), found);
        let mut api = found.to_vec();
        api.push(("PORT", "3000"));
        assert_eq!(pairs(&by_name(&stack, &stack.services[1])), api);
        let mut web = found.to_vec();
        web.extend([("PORT", "80"), ("PORT_443", "443"), ("PORT_80", "80")]);
        assert_eq!(pairs(&by_name(&stack, &stack.services[0])), web);
    }

    #[test]
    fn a_stack_that_publishes_nothing_gets_no_variable() {
        let stack = stack(vec![service("main", &[])]);
        assert_eq!(by_name(&stack, &stack.services[0]), BTreeMap::new());
    }

    #[test]
    fn a_service_is_told_where_its_files_are() {
        let mut main = service("main", &[]);
        let file =
            crate::orchestrator::FileMount { source: "a".into(), target: None, uid: None, gid: None, mode: None };
        main.secrets = vec![file.clone()];
        assert_eq!(pairs(&dirs(&main, "/s", "/c")), [("ONDEMAND_SECRETS_DIR", "/s")]);
        main.configs = vec![file];
        assert_eq!(pairs(&dirs(&main, "/s", "/c")), [("ONDEMAND_CONFIGS_DIR", "/c"), ("ONDEMAND_SECRETS_DIR", "/s")]);
    }

    #[test]
    fn a_service_is_not_hidden_by_the_port_of_another() {
        let stack = stack(vec![service("a-80", &[1]), service("a", &[80, 81])]);
        assert_eq!(by_name(&stack, &stack.services[0])["ONDEMAND_SERVICE_A_80"], "a-80:1");
    }
}
