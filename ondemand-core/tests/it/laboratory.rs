//! Three nodes of a Swarm, that the environment names, and what tests of stacks in them have in common.

#![expect(clippy::expect_used, reason = "these are tests")]

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::query_parameters::{
    ListConfigsOptions, ListNetworksOptions, ListSecretsOptions, ListServicesOptions, ListTasksOptions,
};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use ondemand_core::conformance::orchestrator::{Harness, Program};
use ondemand_core::orchestrator::{LogOptions, ServiceSpec, StackSpec, Swarm, SwarmOptions, VolumeMount, VolumeSpec};
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
            volume_cleaner: Some(variable("ONDEMAND_TEST_CLEANER_IMAGE")),
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

    /// Returns the names of the volumes that this installation has, node by node.
    pub(crate) fn volumes(&self) -> [Vec<String>; 3] {
        hosts().map(|host| {
            let filter = format!("label=ondemand.instance={}", self.instance);
            let names = run_on(&host, &["volume", "ls", "--quiet", "--filter", &filter]);
            names.lines().map(ToOwned::to_owned).collect()
        })
    }

    /// Returns the names of the containers that this installation has on any node, those that have ended too.
    pub(crate) fn containers(&self) -> Vec<String> {
        let filter = format!("label=ondemand.instance={}", self.instance);
        let list = |host: &String| run_on(host, &["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]);
        hosts().iter().flat_map(|host| list(host).lines().map(ToOwned::to_owned).collect::<Vec<_>>()).collect()
    }

    /// Returns the ids of the tasks that the manager remembers of this installation.
    pub(crate) async fn tasks(&self) -> Vec<String> {
        let listed = client().await.list_tasks(Some(ListTasksOptions { filters: Some(self.filters()) })).await;
        listed.expect("tasks").into_iter().filter_map(|task| task.id).collect()
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
                let removing = async {
                    for stack in swarm.list(&Selector::all()).await.unwrap_or_default().found {
                        let _ = swarm.remove(&stack.id).await;
                    }
                    let _ = swarm.tidy().await;
                };
                let _ = tokio::time::timeout(Duration::from_secs(30), removing).await;
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

/// Returns what the environment says of the laboratory. Tests in the runner's group `faults` end nodes, and have one of their own.
pub(crate) fn variable(name: &str) -> String {
    let own = std::env::var("NEXTEST_TEST_GROUP").is_ok_and(|group| group == "faults");
    let name = if own { &name.replacen("ONDEMAND_TEST_", "ONDEMAND_FAULTS_", 1) } else { name };
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`, which sets it"))
}

pub(crate) async fn client() -> bollard::Docker {
    let client = bollard::Docker::connect_with_host(&variable("ONDEMAND_TEST_SWARM_HOST")).expect("an address");
    client.negotiate_version().await.expect("an engine")
}

/// Returns where the engines of the nodes listen, the manager's first.
pub(crate) fn hosts() -> [String; 3] {
    let workers = variable("ONDEMAND_TEST_SWARM_WORKERS");
    let (second, third) = workers.split_once(',').expect("two workers");
    [variable("ONDEMAND_TEST_SWARM_HOST"), second.to_owned(), third.to_owned()]
}

/// Runs the engine's client, and returns what it prints.
pub(crate) fn run_on(host: &str, arguments: &[&str]) -> String {
    let output = Command::new("docker").arg("--host").arg(host).args(arguments).output().expect("the Docker CLI");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Gives the first service of a stack a volume of the stack's, at `/kept`.
pub(crate) fn with_volume(mut spec: StackSpec) -> StackSpec {
    spec.services[0].volumes =
        vec![VolumeMount { volume: Some("kept".into()), target: "/kept".into(), read_only: false, nocopy: false }];
    spec.services[0].stop_grace = Duration::from_millis(300);
    spec.volumes.insert("kept".into(), VolumeSpec::default());
    spec
}

/// Removes a volume once the last container that used it is gone.
pub(crate) async fn remove_volume(host: &str, volume: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let output = Command::new("docker").args(["--host", host, "volume", "rm", volume]).output();
        let output = output.expect("the Docker CLI");
        if output.status.success() {
            return;
        }
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("in use") && Instant::now() < deadline, "{said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
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
