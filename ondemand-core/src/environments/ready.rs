//! Waiting until an environment answers.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::Phase;
use super::deploy::Teller;
use super::inner::Inner;
use super::last_line::LastLine;
use super::record::{HostRoute, Record};
use super::routes::upstreams;
use crate::error::{Error, Result};
use crate::name::{Hostname, ServiceName};
use crate::orchestrator::depends;
use crate::orchestrator::{RestartCondition, Service, ServiceSpec, ServiceState, Stack, StackSpec};
use crate::pause;
use crate::template::{RouteSetting, Settings};

/// How often a service may end by itself before it is taken to do nothing else.
const MOST_RESTARTS: u32 = 3;
/// How long a service stays ended that is to be started again, before it is taken to have been given up: a Swarm takes a moment to begin with the next
/// task, and longer where the managers' disks are busy.
const GIVEN_UP: Duration = Duration::from_secs(5);
/// The same where nobody starts it again while its environment is made, as with child processes.
const LEFT: Duration = Duration::from_millis(500);

/// How long an environment may take until all its routes answer, from the beginning of its deployment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    begun: Instant,
    within: Duration,
}

impl Patience {
    pub(super) fn new(within: Duration) -> Self {
        Self { begun: Instant::now(), within }
    }

    pub(super) fn waited(&self) -> Duration {
        self.begun.elapsed()
    }

    fn is_over(&self) -> bool {
        self.waited() >= self.within
    }

    pub(super) fn left(&self) -> Duration {
        self.within.saturating_sub(self.waited())
    }
}

/// A host name, and what it is to answer.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) route: HostRoute,
    pub(super) setting: RouteSetting,
}

/// What came instead of the answer that is waited for.
#[derive(Debug)]
enum Said {
    /// No answer, and why.
    Nothing(String),
    /// Another one.
    Wrong(String),
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Nothing(text) | Self::Wrong(text)) = self;
        f.write_str(text)
    }
}

/// Waits until every check has its answer from the services themselves.
///
/// # Errors
/// [`Error::ServiceFailed`], [`Error::NotReady`].
pub(super) async fn answer_themselves(
    inner: &Inner,
    spec: &StackSpec,
    checks: &[Check],
    patience: &Patience,
    teller: &Teller,
) -> Result<()> {
    let unasked = || Said::Nothing("it was not asked yet".into());
    let mut waiting: Vec<(&Check, Said)> = checks.iter().map(|check| (check, unasked())).collect();
    let last_line = LastLine::follow(inner, &spec.name);
    let mut ended = Ended::default();
    loop {
        // An engine that does not answer for a moment has not lost what it runs.
        match inner.orchestrator.get(&spec.name).await {
            Ok(stack) => {
                if let Some(error) = failure(inner, spec, &stack, &mut ended).await {
                    return Err(error);
                }
                let mut still = Vec::new();
                for (check, _) in waiting {
                    match ask_service(inner, &stack, check).await {
                        Ok(()) => {}
                        Err(said) => still.push((check, said)),
                    }
                }
                waiting = still;
                if waiting.is_empty() && starting(&stack).is_none() {
                    return Ok(());
                }
                let answering = !waiting.is_empty() && waiting.iter().all(|(_, said)| matches!(said, Said::Wrong(_)));
                let starts = |name: &ServiceName| {
                    let found = stack.services.iter().find(|service| service.name == *name);
                    found.is_some_and(|service| service.state == ServiceState::Starting)
                };
                let silent = |name: &ServiceName| waiting.iter().any(|(check, _)| check.route.service == *name);
                let phase = if answering { Phase::Waiting } else { Phase::Building };
                last_line.tell(teller, phase, |service| silent(service) || starts(service));
            }
            Err(error) if error.is_transient() => tracing::debug!(%error, "the engine does not answer; asking again"),
            Err(error) => return Err(error),
        }
        if patience.is_over() {
            let last = match waiting.first() {
                Some((check, said)) => {
                    format!("{}, which is service {}: {said}", check.route.host, check.route.service)
                }
                None => "a service does not start".into(),
            };
            let service = waiting.first().map(|(check, _)| &check.route.service);
            let log = inner.log_tail(&spec.name, service).await;
            return Err(Error::NotReady { waited: patience.waited(), last, log });
        }
        tokio::time::sleep(pause::after(patience.waited())).await;
    }
}

/// Waits until every check has its answer through the proxy.
///
/// # Errors
/// [`Error::NotReady`].
pub(super) async fn answer_through_proxy(inner: &Inner, checks: &[Check], patience: &Patience) -> Result<()> {
    let begun = Instant::now();
    for check in checks {
        loop {
            let asked = ask(inner, inner.options.proxy.trim_end_matches('/'), check).await;
            let Err(said) = asked else { break };
            if patience.is_over() {
                let last = format!("{} through the proxy: {said}", check.route.host);
                return Err(Error::NotReady { waited: patience.waited(), last, log: Vec::new() });
            }
            tokio::time::sleep(pause::after(begun.elapsed())).await;
        }
    }
    Ok(())
}

/// Asks one of the service's own addresses.
async fn ask_service(inner: &Inner, stack: &Stack, check: &Check) -> Result<(), Said> {
    let upstreams = upstreams(stack, &check.route).map_err(|e| Said::Nothing(e.to_string()))?;
    let Some(upstream) = upstreams.first() else {
        return Err(Said::Nothing(format!("service {} has no address yet", check.route.service)));
    };
    ask(inner, &format!("http://{upstream}"), check).await
}

/// Asks for what the template says, and returns what came instead.
async fn ask(inner: &Inner, base: &str, check: &Check) -> Result<(), Said> {
    let (host, path) = (&check.route.host, &check.setting.path);
    let request = inner.http.get(format!("{base}{path}")).header(reqwest::header::HOST, host.as_str());
    let response = request.send().await.map_err(|error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Said::Nothing(format!("it does not answer: {cause}"))
    })?;
    let status = response.status();
    if check.setting.status.accepts(status.as_u16()) || leads_to_https(&response, host) {
        return Ok(());
    }
    Err(Said::Wrong(format!("GET {path} is answered with {status}")))
}

/// Tells whether a proxy sends all requests on to HTTPS, for the same name.
fn leads_to_https(response: &reqwest::Response, host: &Hostname) -> bool {
    let location = response.headers().get(reqwest::header::LOCATION).and_then(|location| location.to_str().ok());
    let there = location.and_then(|location| location.strip_prefix("https://"));
    let named = |there: &str| there.split(['/', ':', '?']).next() == Some(host.as_str());
    response.status().is_redirection() && there.is_some_and(named)
}

/// Returns a service that is still being started.
fn starting(stack: &Stack) -> Option<&Service> {
    stack.services.iter().find(|service| service.state == ServiceState::Starting)
}

/// Since when services are seen to have ended, without a break.
#[derive(Debug, Default)]
struct Ended(HashMap<ServiceName, Instant>);

impl Ended {
    /// Returns for how long a service has been, after one more look at it.
    fn look(&mut self, service: &Service) -> Duration {
        if matches!(service.state, ServiceState::Exited { .. }) {
            return self.0.entry(service.name.clone()).or_insert_with(Instant::now).elapsed();
        }
        self.0.remove(&service.name);
        Duration::ZERO
    }
}

/// Tells why an environment will never be ready.
async fn failure(inner: &Inner, spec: &StackSpec, stack: &Stack, ended: &mut Ended) -> Option<Error> {
    for service in &stack.services {
        let Some(wanted) = spec.services.iter().find(|wanted| wanted.name == service.name) else { continue };
        let patience = if inner.options.revive { LEFT } else { GIVEN_UP };
        let given_up = ended.look(service) >= patience;
        let Some(reason) = has_failed(spec, wanted, service, given_up) else { continue };
        let reason = match &service.error {
            Some(error) if !reason.contains(error) => format!("{reason}: {error}"),
            _ => reason,
        };
        let log = inner.log_tail(&spec.name, Some(&service.name)).await;
        return Some(Error::ServiceFailed { service: service.name.to_string(), reason, log });
    }
    None
}

/// `given_up` tells whether it has been seen to have ended for so long that nobody will start it again.
fn has_failed(spec: &StackSpec, wanted: &ServiceSpec, service: &Service, given_up: bool) -> Option<String> {
    let restarts = wanted.placement.restart_policy.as_ref().map(|policy| policy.condition);
    match service.state {
        ServiceState::Exited { status: Some(0) } if depends::runs_once(spec, wanted) => None,
        ServiceState::Exited { status: Some(0) } if restarts != Some(RestartCondition::Any) => None,
        _ if service.restarts >= MOST_RESTARTS => Some(again_and_again(service.restarts)),
        // Whoever starts it again has not done so yet.
        ServiceState::Exited { .. } if restarts.is_some_and(|c| c != RestartCondition::None) && !given_up => None,
        ServiceState::Exited { .. } => Some(format!("it {}", service.state)),
        _ => None,
    }
}

fn again_and_again(restarts: u32) -> String {
    format!("it ended by itself {restarts} times")
}

/// Returns the checks of the routes that an environment has: each is asked for what the template says of its suffix, and the plain name for what it
/// says of the main route.
pub(super) fn checks(record: &Record, settings: &Settings) -> Vec<Check> {
    let by_suffix = |suffix: &str| settings.routes.iter().find(|setting| setting.suffix == suffix);
    let with = |route: &HostRoute| {
        let label = route.host.as_str().split('.').next()?;
        let own = label.strip_prefix(record.name.as_str()).and_then(by_suffix);
        let setting = own.or_else(|| by_suffix(&settings.main))?.clone();
        Some(Check { route: route.clone(), setting })
    };
    record.routes.iter().filter_map(with).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::AttemptId;
    use crate::orchestrator::RestartPolicy;
    use crate::template::Template;

    #[test]
    fn what_an_engine_starts_again_has_failed_when_it_does_not() {
        let name: ServiceName = "web".parse().unwrap();
        let spec = |condition: Option<RestartCondition>| {
            let mut service = ServiceSpec::new(name.clone(), vec!["true".into()]);
            service.placement.restart_policy =
                condition.map(|condition| RestartPolicy { condition, ..RestartPolicy::default() });
            StackSpec::new("demo".parse().unwrap(), AttemptId::random().unwrap(), vec![service])
        };
        let failed = |condition, status, restarts, given_up| {
            let service = Service { restarts, ..Service::new(name.clone(), ServiceState::Exited { status }) };
            let spec = spec(condition);
            has_failed(&spec, &spec.services[0], &service, given_up)
        };
        let (now, late) = (false, true);
        // Nobody starts it again.
        assert_eq!(failed(None, Some(4), 0, now).as_deref(), Some("it exited with status 4"));
        assert!(failed(Some(RestartCondition::None), Some(4), 0, now).is_some());
        assert_eq!(failed(Some(RestartCondition::OnFailure), Some(0), 0, late), None);
        // Somebody will, unless there were enough tries.
        for condition in [RestartCondition::Any, RestartCondition::OnFailure] {
            for restarts in [0, 1, MOST_RESTARTS - 1] {
                assert_eq!(failed(Some(condition), Some(4), restarts, now), None);
                assert!(failed(Some(condition), Some(4), restarts, late).is_some());
            }
            assert!(failed(Some(condition), Some(4), MOST_RESTARTS, now).is_some_and(|why| why.contains("3 times")));
        }
        assert_eq!(failed(Some(RestartCondition::Any), Some(0), 0, now), None);
        assert!(failed(Some(RestartCondition::Any), Some(0), 0, late).is_some());
    }

    #[test]
    fn how_long_it_has_ended_begins_anew_when_it_runs_between() {
        let mut ended = Ended::default();
        let web = |state| Service::new("web".parse().unwrap(), state);
        let over = ServiceState::Exited { status: Some(1) };
        ended.look(&web(over));
        let before = Instant::now().checked_sub(GIVEN_UP).unwrap();
        ended.0.insert("web".parse().unwrap(), before);
        assert!(ended.look(&web(over)) >= GIVEN_UP);
        assert_eq!(ended.look(&web(ServiceState::Starting)), Duration::ZERO);
        assert!(ended.look(&web(over)) < GIVEN_UP);
    }

    #[test]
    fn each_route_is_asked_for_its_own_path() {
        let text = "x-ondemand:\n  routes:\n    - {suffix: a, service: web, port: 80, path: /one}\n    \
                    - {suffix: b, service: web, port: 80, path: /two}\n  main: b\nservices:\n  web: {image: x}\n";
        let template = Template::parse("t", "t.yml", text).unwrap();
        let mut record = super::super::record::tests::record();
        let route = |label: &str| HostRoute {
            host: format!("{label}.env.dev.internal").parse().unwrap(),
            service: "web".parse().unwrap(),
            port: 80,
            told: true,
        };
        record.routes = ["demoa", "demob", "demo"].map(route).to_vec();
        let checks = checks(&record, template.settings());
        let paths: Vec<_> = checks.iter().map(|check| check.setting.path.as_str()).collect();
        assert_eq!(paths, ["/one", "/two", "/two"]);
    }
}
