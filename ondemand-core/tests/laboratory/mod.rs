//! Three nodes of a Swarm, that the environment names, and what tests of stacks in them have in common.

#![expect(clippy::expect_used, reason = "these are tests")]
#![allow(dead_code, reason = "not every test that includes this needs all of it")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::query_parameters::{
    ListConfigsOptions, ListNetworksOptions, ListSecretsOptions, ListServicesOptions, ListTasksOptions,
};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use ondemand_core::conformance::orchestrator::{Harness, Program};
use ondemand_core::orchestrator::{LogOptions, ServiceSpec, StackSpec, Swarm, SwarmOptions};
use ondemand_core::{AttemptId, Orchestrator, Selector, ServiceName, StackName};

/// An installation of its own in the swarm that the environment names.
pub(crate) struct Services {
    pub(crate) instance: String,
}

impl Services {
    pub(crate) fn start() -> Self {
        Self { instance: format!("t{}", AttemptId::random().expect("randomness")) }
    }

    pub(crate) fn options(&self) -> SwarmOptions {
        SwarmOptions {
            host: Some(variable("ONDEMAND_TEST_SWARM_HOST")),
            start_timeout: Duration::from_secs(60),
            ..SwarmOptions::new(&self.instance)
        }
    }

    pub(crate) fn swarm(&self) -> Swarm {
        Swarm::new(self.options()).expect("an orchestrator")
    }

    /// Returns what chooses all that this installation has.
    fn filters(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".to_owned(), vec![format!("ondemand.instance={}", self.instance)])])
    }

    /// Returns the names of all that this installation has in the swarm.
    pub(crate) async fn left(&self) -> Vec<String> {
        let client = client().await;
        let filters = || Some(self.filters());
        let services = ListServicesOptions { filters: filters(), ..ListServicesOptions::default() };
        let services = client.list_services(Some(services)).await.expect("services");
        let secrets = client.list_secrets(Some(ListSecretsOptions { filters: filters() })).await.expect("secrets");
        let configs = client.list_configs(Some(ListConfigsOptions { filters: filters() })).await.expect("configs");
        let networks = client.list_networks(Some(ListNetworksOptions { filters: filters() })).await.expect("networks");
        let mut left = Vec::new();
        left.extend(services.into_iter().filter_map(|service| service.spec?.name));
        left.extend(secrets.into_iter().filter_map(|secret| secret.spec?.name));
        left.extend(configs.into_iter().filter_map(|config| config.spec?.name));
        left.extend(networks.into_iter().filter_map(|network| network.name));
        left
    }
}

/// Removes what a failing test left; the others left nothing.
impl Drop for Services {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let swarm = self.swarm();
        // The test's own runtime does not wait for anything any more.
        let removing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                for stack in swarm.list(&Selector::all()).await.unwrap_or_default() {
                    let _ = swarm.remove(&stack.id).await;
                }
            });
        });
        let _ = removing.join();
    }
}

impl Harness for Services {
    fn open(&self) -> Arc<dyn Orchestrator> {
        Arc::new(self.swarm())
    }

    fn service(&self, name: &str, program: Program) -> ServiceSpec {
        let mut service = service(name, program.script());
        if program == Program::Stubborn {
            service.stop_grace = Duration::from_millis(300);
        }
        if program == Program::Missing {
            service.image = Some(format!("{}/no-such-image:1", variable("ONDEMAND_TEST_REGISTRY")));
        }
        service
    }

    // The engine forgets what a task wrote together with the task.
    fn keeps_logs_asleep(&self) -> bool {
        false
    }

    fn inspect<'a>(&'a self, _stack: &'a StackName) -> BoxFuture<'a, String> {
        Box::pin(async move {
            let client = client().await;
            let filters = || Some(self.filters());
            let services = ListServicesOptions { filters: filters(), ..ListServicesOptions::default() };
            let services = client.list_services(Some(services)).await.expect("services");
            let secrets = client.list_secrets(Some(ListSecretsOptions { filters: filters() })).await.expect("secrets");
            let configs = client.list_configs(Some(ListConfigsOptions { filters: filters() })).await.expect("configs");
            let tasks = client.list_tasks(Some(ListTasksOptions { filters: filters() })).await.expect("tasks");
            serde_json::to_string(&(services, secrets, configs, tasks)).expect("JSON")
        })
    }
}

pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`, which sets it"))
}

pub(crate) async fn client() -> bollard::Docker {
    let client = bollard::Docker::connect_with_host(&variable("ONDEMAND_TEST_SWARM_HOST")).expect("an address");
    client.negotiate_version().await.expect("an engine")
}

pub(crate) fn service(name: &str, script: &str) -> ServiceSpec {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ServiceSpec { image: Some(variable("ONDEMAND_TEST_SWARM_IMAGE")), ..ServiceSpec::new(service_name(name), command) }
}

pub(crate) fn service_name(name: &str) -> ServiceName {
    ServiceName::new(name).expect("a service name")
}

pub(crate) fn stack(name: &str, services: Vec<ServiceSpec>) -> StackSpec {
    StackSpec::new(StackName::new(name).expect("a stack name"), AttemptId::random().expect("randomness"), services)
}

/// Waits until the services of a stack have written so many lines: what a container writes is in its log a moment later.
pub(crate) async fn written(swarm: &Swarm, name: &StackName, count: usize) {
    let lines = swarm.logs(name, LogOptions { follow: true, ..LogOptions::default() }).take(count);
    let read = tokio::time::timeout(Duration::from_secs(30), lines.try_collect::<Vec<_>>()).await;
    read.expect("it is written").expect("a log");
}

pub(crate) async fn lines(swarm: &Swarm, name: &StackName, options: LogOptions) -> Vec<String> {
    swarm.logs(name, options).map_ok(|line| line.text).try_collect().await.expect("a log")
}
