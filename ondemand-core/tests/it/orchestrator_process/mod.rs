//! Child processes: the contract, and what only they have to prove.

#![expect(clippy::expect_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use ondemand_core::orchestrator::{LogOptions, Process, ProcessOptions, RunAs, ServiceSpec, ServiceState, StackSpec};
use ondemand_core::{AttemptId, Error, Orchestrator, Selector, ServiceName, StackName};

use crate::fixtures::test_name;

mod features;
mod limits;
mod sandbox;

/// The contract.
mod conformance {
    use std::sync::Arc;

    use futures_util::future::BoxFuture;
    use ondemand_core::conformance::orchestrator::{Harness, Program};

    use super::*;

    struct Processes(Home);

    impl Processes {
        fn start() -> Self {
            Self(Home::new())
        }
    }

    impl Harness for Processes {
        fn open(&self) -> Arc<dyn Orchestrator> {
            Arc::new(open(self.0.path()))
        }

        fn service(&self, name: &str, program: Program) -> ServiceSpec {
            let mut service = service(name, program.script());
            if program == Program::Stubborn {
                service.stop_grace = Duration::from_millis(300);
            }
            if program == Program::Missing {
                service.command = vec!["/no/such/program".into()];
            }
            if program == Program::Listens {
                service.env.insert("LISTEN_ON".into(), "127.0.0.1".into());
            }
            service
        }

        fn inspect<'a>(&'a self, stack: &'a StackName) -> BoxFuture<'a, String> {
            let record = self.0.path().join("stacks").join(format!("{stack}.json"));
            Box::pin(async move { std::fs::read_to_string(record).expect("a record") })
        }
    }

    ondemand_core::orchestrator_conformance!(Processes::start());
}

/// A directory for the records and logs of one test. Dropped, it kills what a failing test left.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in marked(&instance(self.path())) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

fn open(dir: &Path) -> Process {
    let (sandbox, cgroups) = (None, None);
    let (state_dir, log_dir, instance) = (dir.join("stacks"), dir.join("logs"), instance(dir));
    Process::new(ProcessOptions { state_dir, log_dir, instance, sandbox, cgroups }).expect("a process orchestrator")
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
    StackSpec::new(StackName::new(name).expect("a stack name"), AttemptId::random().expect("randomness"), services)
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
    let deadline = Instant::now() + Duration::from_secs(60);
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
    let dir = Home::new();
    let process = open(dir.path());
    let spec = stack("a", vec![service("main", "echo hello; exec sleep 1000")]);
    let deployed = process.deploy(&spec).await.expect("deployed");
    assert!(deployed.is_running());
    let pid = deployed.services[0].pid.expect("a pid");
    assert_eq!(process.list(&Selector::all()).await.expect("a list").found, std::slice::from_ref(&deployed));
    process.remove(&deployed.id).await.expect("removed");
    assert!(!exists(pid), "it was reaped");
    assert_eq!(process.list(&Selector::all()).await.expect("a list").found, []);
    assert_eq!(std::fs::read_dir(dir.path().join("logs")).expect("logs").count(), 0);
}

#[tokio::test]
async fn a_child_sees_a_clean_environment_and_the_root_directory() {
    let dir = Home::new();
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
    let dir = Home::new();
    let process = open(dir.path());
    let mut main = service("main", "id -u; id -g; id -G");
    main.user = Some(RunAs { uid: 65_534, gid: 65_533 });
    let spec = stack("a", vec![main]);
    let deployed = process.deploy(&spec).await.expect("deployed");
    process.wait_stopped(&spec.name).await.expect("it ends");
    assert_eq!(log(&process, &spec.name).await, ["65534", "65533", "65533"]);
    process.remove(&deployed.id).await.expect("removed");
}

/// Changes the record of a stack behind the orchestrator's back.
fn edit_record(dir: &Path, name: &StackName, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join("stacks").join(format!("{name}.json"));
    let mut record = serde_json::from_slice(&std::fs::read(&path).expect("a record")).expect("JSON");
    edit(&mut record);
    std::fs::write(&path, record.to_string()).expect("written");
}

/// A process that no orchestrator started, the leader of a group of its own. Killed when it is dropped.
struct Stranger(std::process::Child);

impl Stranger {
    fn start() -> Self {
        use std::os::unix::process::CommandExt;
        Self(std::process::Command::new("sleep").arg("1000").process_group(0).spawn().expect("a process"))
    }

    fn start_time(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("a process");
        let mut fields = stat.rsplit(')').next().expect("fields").split_whitespace();
        fields.nth(19).expect("a start time").parse().expect("a number")
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_number_that_was_given_again_is_never_signalled() {
    let dir = Home::new();
    let spec = stack("a", vec![service("main", "exit 0")]);
    let process = open(dir.path());
    let deployed = process.deploy(&spec).await.expect("deployed");
    process.wait_stopped(&spec.name).await.expect("it ends");
    let mut stranger = Stranger::start();
    let (pid, start) = (stranger.0.id(), stranger.start_time());
    for (start, boot) in [(start - 1, None), (start + 1, None), (start, Some("00000000-0000-0000-0000-000000000000"))] {
        edit_record(dir.path(), &spec.name, |record| {
            record["asleep"] = false.into();
            let started = &mut record["processes"][0];
            started["exit"] = serde_json::Value::Null;
            started["identity"]["pid"] = pid.into();
            started["identity"]["start"] = start.into();
            if let Some(boot) = boot {
                started["identity"]["boot"] = boot.into();
            }
        });
        let next = open(dir.path());
        let stack = next.get(&spec.name).await.expect("a stack");
        assert_eq!((stack.services[0].state, stack.services[0].pid), (ServiceState::Exited { status: None }, None));
        next.wait_stopped(&spec.name).await.expect("it has ended");
        next.set_running(&spec.name, false).await.expect("asleep");
        assert!(stranger.runs());
    }
    let next = open(dir.path());
    next.remove(&deployed.id).await.expect("removed");
    assert!(stranger.runs());
    assert_eq!(next.list(&Selector::all()).await.expect("a list").found, []);
}

#[tokio::test]
async fn the_descendants_of_a_stubborn_program_end_with_it() {
    let dir = Home::new();
    let process = open(dir.path());
    // One in the group, one in a session of its own, each with a child, and none of them minds the signal.
    let family =
        "trap '' TERM; sh -c 'sleep 1000 & wait' & setsid sh -c 'sleep 1000 & wait' & echo up; wait; sleep 1000";
    let mut main = service("main", family);
    main.stop_grace = Duration::from_millis(200);
    let spec = stack("a", vec![main]);
    let deployed = process.deploy(&spec).await.expect("deployed");
    until("a family of five", || marked(&instance(dir.path())).len() == 5).await;
    process.remove(&deployed.id).await.expect("removed");
    assert_eq!(marked(&instance(dir.path())), BTreeSet::new());
}

#[tokio::test]
async fn what_survives_a_willing_program_is_killed() {
    let dir = Home::new();
    let process = open(dir.path());
    let spec = stack("a", vec![service("main", "sleep 1000 & setsid sleep 1000 & exec sleep 1000")]);
    let deployed = process.deploy(&spec).await.expect("deployed");
    until("a family of three", || marked(&instance(dir.path())).len() == 3).await;
    process.set_running(&spec.name, false).await.expect("asleep");
    assert_eq!(marked(&instance(dir.path())), BTreeSet::new());
    process.remove(&deployed.id).await.expect("removed");
}

#[tokio::test]
async fn what_survives_a_program_that_ended_long_ago_is_killed() {
    let dir = Home::new();
    let spec = stack("a", vec![service("main", "sleep 1000 & exit 0")]);
    let deployed = open(dir.path()).deploy(&spec).await.expect("deployed");
    let process = open(dir.path());
    process.wait_stopped(&spec.name).await.expect("it ends");
    until("one is left", || marked(&instance(dir.path())).len() == 1).await;
    process.remove(&deployed.id).await.expect("removed");
    assert_eq!(marked(&instance(dir.path())), BTreeSet::new());
}

#[tokio::test]
async fn an_adopted_process_is_waited_for() {
    let dir = Home::new();
    let (starter, adopter) = (open(dir.path()), open(dir.path()));
    let spec = stack("a", vec![service("main", "exec sleep 1000")]);
    let deployed = starter.deploy(&spec).await.expect("deployed");
    let waiting = tokio::spawn({
        let (adopter, name) = (adopter.clone(), spec.name.clone());
        async move { adopter.wait_stopped(&name).await }
    });
    let pid = i32::try_from(deployed.services[0].pid.expect("a pid")).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    let seen = waiting.await.expect("no panic").expect("a stack");
    assert!(matches!(seen.services[0].state, ServiceState::Exited { status: None | Some(137) }), "{seen:?}");
    let own = starter.wait_stopped(&spec.name).await.expect("a stack");
    assert_eq!(own.services[0].state, ServiceState::Exited { status: Some(137) });
    let next = open(dir.path()).get(&spec.name).await.expect("a stack");
    assert_eq!(next.services[0].state, ServiceState::Exited { status: Some(137) }, "it was recorded");
    adopter.remove(&deployed.id).await.expect("removed");
}

#[tokio::test]
async fn a_deployment_that_died_half_way_is_listed_and_removed() {
    let dir = Home::new();
    let spec = stack("a", vec![service("main", "exit 0")]);
    let process = open(dir.path());
    let deployed = process.deploy(&spec).await.expect("deployed");
    process.wait_stopped(&spec.name).await.expect("it ends");
    edit_record(dir.path(), &spec.name, |record| record["processes"] = serde_json::json!([null]));
    let process = open(dir.path());
    let listed = process.list(&Selector::all()).await.expect("a list").found;
    assert_eq!((&listed[0].id, listed[0].services[0].state), (&deployed.id, ServiceState::Exited { status: None }));
    process.remove(&deployed.id).await.expect("removed");
    assert_eq!(process.list(&Selector::all()).await.expect("a list").found, []);
}

#[tokio::test]
async fn a_garbage_record_is_named_and_hides_no_other() {
    let dir = Home::new();
    let process = open(dir.path());
    let good = process.deploy(&stack("good", vec![service("main", "exec sleep 1000")])).await.expect("deployed");
    std::fs::write(dir.path().join("stacks/bad.json"), "{\"id\":").expect("written");
    assert_eq!(process.list(&Selector::all()).await.expect("a list").found, std::slice::from_ref(&good));
    let bad = stack("bad", vec![service("main", "exec sleep 1000")]);
    let error = process.get(&bad.name).await.expect_err("garbage");
    assert!(error.to_string().contains("stacks/bad.json"), "{error}");
    assert!(matches!(process.deploy(&bad).await, Err(Error::AlreadyExists { .. })));
    process.remove(&good.id).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_are_deployed_and_removed_at_once() {
    let dir = Home::new();
    let process = open(dir.path());
    let deployments = (0..50).map(|n| {
        let (process, spec) = (process.clone(), stack(&format!("s{n}"), vec![service("main", "exec sleep 1000")]));
        tokio::spawn(async move { process.deploy(&spec).await })
    });
    let mut stacks = Vec::new();
    for deployment in deployments.collect::<Vec<_>>() {
        stacks.push(deployment.await.expect("no panic").expect("deployed"));
    }
    let pids: BTreeSet<_> = stacks.iter().filter_map(|stack| stack.services[0].pid).collect();
    // A process that is just becoming its program shows no environment.
    until("all run, and nothing else", || pids == marked(&instance(dir.path()))).await;
    assert_eq!(process.list(&Selector::all()).await.expect("a list").found.len(), 50);
    let removals = stacks.into_iter().map(|stack| {
        let process = process.clone();
        tokio::spawn(async move { process.remove(&stack.id).await })
    });
    for removal in removals.collect::<Vec<_>>() {
        removal.await.expect("no panic").expect("removed");
    }
    assert!(!pids.into_iter().any(exists), "all were reaped");
    assert_eq!(process.list(&Selector::all()).await.expect("a list").found, []);
}

/// Where the killed parent of the test below works; this program runs itself, and only then is the variable set.
const KILLED_PARENT: &str = "ONDEMAND_TEST_KILLED_PARENT";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_runs_unrecorded_when_the_parent_is_killed() {
    if let Some(dir) = std::env::var_os(KILLED_PARENT) {
        deploy_until_killed(Path::new(&dir)).await;
    }
    let dir = Home::new();
    let ran = dir.path().join("ran");
    std::fs::create_dir(&ran).expect("a directory");
    let mut recorded_at_all = 0;
    for round in 0..30 {
        let this = std::env::current_exe().expect("this program");
        let mut parent = std::process::Command::new(this)
            .args(["--exact", &test_name(module_path!(), "nothing_runs_unrecorded_when_the_parent_is_killed")])
            .env(KILLED_PARENT, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("this program runs");
        until("a first record", || dir.path().join("stacks/s0.json").exists()).await;
        // Not to wait for anything, but to hit another moment each time.
        std::thread::sleep(Duration::from_micros(round * 700));
        parent.kill().expect("killed");
        parent.wait().expect("reaped");

        let process = open(dir.path());
        let recorded = recorded_pids(dir.path());
        until("the unrecorded have ended", || marked(&instance(dir.path())).is_subset(&recorded)).await;
        recorded_at_all += recorded.len();
        for stack in process.list(&Selector::all()).await.expect("a list").found {
            process.remove(&stack.id).await.expect("removed");
        }
        let left = marked(&instance(dir.path()));
        assert!(left.is_disjoint(&recorded), "{left:?} run, {recorded:?} were recorded and are removed");
        // One that had just been forked carries no mark until it is the shell that finds its pipe closed.
        until("the unrecorded have ended", || marked(&instance(dir.path())).is_empty()).await;
        let left = |dir: &str, root: &Path| std::fs::read_dir(root.join(dir)).expect("a directory").count();
        assert_eq!((left("stacks", dir.path()), left("logs", dir.path())), (1, 0), "only the lock is left");
        // Only now: what was recorded and released in the last moment may have run until it was removed.
        let names = std::fs::read_dir(&ran).expect("a directory").flatten();
        let names: BTreeSet<u32> =
            names.map(|e| e.file_name().to_str().expect("a pid").parse().expect("a pid")).collect();
        assert!(names.is_subset(&recorded), "{names:?} ran, {recorded:?} are recorded");
        for name in names {
            std::fs::remove_file(ran.join(name.to_string())).expect("removed");
        }
    }
    assert!(recorded_at_all > 0, "the parent got something done");
}

fn recorded_pids(dir: &Path) -> BTreeSet<u32> {
    let records = std::fs::read_dir(dir.join("stacks")).expect("records").flatten();
    let records = records.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json"));
    let records = records.map(|path| std::fs::read(path).expect("a record"));
    let records = records.map(|record| serde_json::from_slice::<serde_json::Value>(&record).expect("JSON"));
    let processes = records.flat_map(|record| record["processes"].as_array().expect("processes").clone());
    processes.filter_map(|started| started["identity"]["pid"].as_u64()?.try_into().ok()).collect()
}

async fn deploy_until_killed(dir: &Path) -> ! {
    let process = open(dir);
    let script = format!("echo > {}/$$; exec sleep 1000", dir.join("ran").display());
    for n in 0_u32.. {
        let services = (0..=n % 3).map(|at| service(&format!("service{at}"), &script)).collect();
        process.deploy(&stack(&format!("s{n}"), services)).await.expect("deployed");
    }
    unreachable!("it is killed before")
}
