//! Child processes: the contract, and what only they have to prove.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use ondemand_core::orchestrator::{LogOptions, Process, ProcessOptions, RunAs, ServiceSpec, ServiceState, StackSpec};
use ondemand_core::{AttemptId, Labels, Orchestrator, Selector, ServiceName, StackName};

/// The contract.
mod conformance {
    use std::sync::Arc;

    use ondemand_core::conformance::orchestrator::{Harness, Program};

    use super::*;

    struct Processes(tempfile::TempDir);

    impl Processes {
        async fn start() -> Self {
            Self(tempfile::tempdir().expect("a directory"))
        }
    }

    impl Harness for Processes {
        fn open(&self) -> Arc<dyn Orchestrator> {
            Arc::new(open(self.0.path()))
        }

        fn service(&self, name: &str, program: Program) -> ServiceSpec {
            let mut service = service(name, script(program));
            if program == Program::Stubborn {
                service.stop_grace = Duration::from_millis(300);
            }
            if program == Program::Missing {
                service.command = vec!["/no/such/program".into()];
            }
            service
        }
    }

    fn script(program: Program) -> &'static str {
        match program {
            Program::Sleeps | Program::Missing => "exec sleep 1000",
            Program::Stubborn => "trap '' TERM; while :; do sleep 1000; done",
            Program::Exits => "exit 3",
            Program::Prints => "echo one; echo two; echo three; exec sleep 1000",
            Program::Ticks => "n=0; while :; do echo tick $n; n=$((n + 1)); sleep 0.1; done",
        }
    }

    ondemand_core::orchestrator_conformance!(Processes::start());
}

fn open(dir: &Path) -> Process {
    let options = ProcessOptions { state_dir: dir.join("stacks"), log_dir: dir.join("logs"), instance: instance(dir) };
    Process::new(options).expect("a process orchestrator")
}

/// Something no other test has, to find this test's processes by.
fn instance(dir: &Path) -> String {
    dir.file_name().expect("a name").to_string_lossy().into_owned()
}

fn service(name: &str, script: &str) -> ServiceSpec {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ServiceSpec {
        stop_grace: Duration::from_secs(5),
        ..ServiceSpec::new(ServiceName::new(name).expect("a service name"), command)
    }
}

fn stack(name: &str, services: Vec<ServiceSpec>) -> StackSpec {
    StackSpec {
        name: StackName::new(name).expect("a stack name"),
        attempt: AttemptId::random().expect("randomness"),
        labels: Labels::new(),
        services,
    }
}

/// Returns the processes that carry the mark of this instance.
fn marked(instance: &str) -> BTreeSet<u32> {
    let mark = format!("ONDEMAND_STACK={instance}/");
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|line| line.starts_with(mark.as_bytes()))
        })
        .collect()
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Polls what no event tells.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn log(process: &Process, name: &StackName) -> Vec<String> {
    let lines = process.logs(name, LogOptions::default()).map_ok(|line| line.text);
    lines.try_collect().await.expect("a log")
}

#[tokio::test]
async fn a_stack_starts_runs_and_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let process = open(dir.path());
    let spec = stack("a", vec![service("main", "echo hello; exec sleep 1000")]);
    let deployed = process.deploy(&spec).await.expect("deployed");
    assert!(deployed.is_running());
    let pid = deployed.services[0].pid.expect("a pid");
    assert_eq!(process.list(&Selector::all()).await.expect("a list"), [deployed.clone()]);
    process.remove(&deployed.id).await.expect("removed");
    assert!(!exists(pid), "it was reaped");
    assert_eq!(process.list(&Selector::all()).await.expect("a list"), []);
    assert_eq!(std::fs::read_dir(dir.path().join("logs")).expect("logs").count(), 0);
}

#[tokio::test]
async fn a_child_sees_a_clean_environment_and_the_root_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let process = open(dir.path());
    let script = "pwd; env | cut -d= -f1 | grep -v '^_$' | tr '\\n' ' '; read x || echo eof";
    let mut main = service("main", script);
    main.env.insert("GIVEN".into(), "1".into());
    let spec = stack("a", vec![main]);
    let deployed = process.deploy(&spec).await.expect("deployed");
    let ended = process.wait_stopped(&spec.name).await.expect("it ends");
    assert_eq!(ended.services[0].state, ServiceState::Exited { status: Some(0) });
    let lines = log(&process, &spec.name).await;
    assert_eq!(lines[0], "/");
    let allowed = ["GIVEN", "LANG", "ONDEMAND_STACK", "PATH", "PWD", "eof"];
    assert!(lines[1].split(' ').all(|name| allowed.contains(&name)), "{lines:?}");
    assert!(lines[1].contains("GIVEN") && lines[1].ends_with("eof"), "{lines:?}");
    process.remove(&deployed.id).await.expect("removed");
}

#[tokio::test]
async fn root_drops_its_privileges() {
    assert!(rustix::process::geteuid().is_root(), "this test is run as root");
    let dir = tempfile::tempdir().expect("a directory");
    let process = open(dir.path());
    let mut main = service("main", "id -u; id -g; id -G");
    main.user = Some(RunAs { uid: 65_534, gid: 65_533 });
    let spec = stack("a", vec![main]);
    let deployed = process.deploy(&spec).await.expect("deployed");
    process.wait_stopped(&spec.name).await.expect("it ends");
    assert_eq!(log(&process, &spec.name).await, ["65534", "65533", "65533"]);
    process.remove(&deployed.id).await.expect("removed");
}
