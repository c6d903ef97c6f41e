//! Services within limits, in control groups.

use ondemand_core::Cgroups;
use ondemand_core::orchestrator::Resources;

use super::*;

fn open(dir: &Path) -> Process {
    let instance = instance(dir);
    let cgroups = Cgroups::find(&instance).expect("this machine has control groups");
    let (state_dir, log_dir) = (dir.join("stacks"), dir.join("logs"));
    Process::new(ProcessOptions { state_dir, log_dir, instance, sandbox: None, cgroups: Some(cgroups) })
        .expect("a process orchestrator")
}

fn limited(script: &str, limits: Resources) -> StackSpec {
    let mut main = service("main", script);
    main.placement.limits = limits;
    stack("a", vec![main])
}

/// Returns the control groups of this test, wherever they are mounted.
fn groups(dir: &Path) -> Vec<String> {
    let mine = format!("/ondemand/{}", instance(dir));
    let mut found = Vec::new();
    let mut dirs = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = dirs.pop() {
        found.extend(dir.to_str().filter(|path| path.contains(&mine)).map(str::to_owned));
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        dirs.extend(
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
    }
    found
}

/// Runs a script to its end, and returns its status and what it wrote.
async fn run(script: &str, limits: Resources) -> (Option<i32>, String) {
    let home = Home::new();
    let process = open(home.path());
    let made = process.deploy(&limited(script, limits)).await.expect("deployed");
    let ended = process.wait_stopped(&made.name).await.expect("ended");
    let lines = process.logs(&made.name, LogOptions::default());
    let text: Vec<String> = lines.map_ok(|line| line.text).try_collect().await.expect("a log");
    assert!(!groups(home.path()).is_empty(), "it had no control group");
    process.remove(&made.id).await.expect("removed");
    assert_eq!(groups(home.path()), Vec::<String>::new());
    match ended.services[0].state {
        ServiceState::Exited { status } => (status, text.join("\n")),
        ref state => panic!("{state}"),
    }
}

#[tokio::test]
async fn it_starts_no_more_processes_than_it_may() {
    // A shell that cannot start another process ends with status 2.
    let script = "for i in $(seq 40); do sleep 1000 & done; echo all";
    let limits = |pids| Resources { pids: Some(pids), ..Resources::default() };
    let (status, said) = run(script, limits(20)).await;
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("annot fork"), "{said}");
    let (status, said) = run(script, limits(60)).await;
    assert_eq!((status, said.as_str()), (Some(0), "all"));
}

#[tokio::test]
async fn it_takes_no_more_memory_than_it_may() {
    // Lines that never end are kept in memory.
    let script = "head -c 100M /dev/zero | tail | wc -c";
    let limits = |memory| Resources { memory: Some(memory), ..Resources::default() };
    let (_, said) = run(script, limits(40 << 20)).await;
    assert!(said.lines().any(|line| line == "0"), "{said}");
    let (status, said) = run(script, limits(400 << 20)).await;
    assert_eq!((status, said.as_str()), (Some(0), "104857600"));
}

#[tokio::test]
async fn it_takes_no_more_of_the_processors_than_it_may() {
    // The last line of `times` is what its children have taken, as `0m0.100000s 0m0.000000s`.
    let script = "timeout 1 sh -c 'while :; do :; done'; times | tail -n 1";
    let (_, said) = run(script, Resources { nano_cpus: Some(200_000_000), ..Resources::default() }).await;
    let taken: f64 = said
        .split_whitespace()
        .map(|time| time.trim_start_matches("0m").trim_end_matches('s').parse::<f64>().expect("seconds"))
        .sum();
    // A fifth of a second, and what the kernel lends at most within one of its periods.
    assert!(taken < 0.4, "{said}");
}

#[tokio::test]
async fn what_it_starts_again_is_limited_again() {
    let home = Home::new();
    let process = open(home.path());
    let limits = Resources { pids: Some(100), ..Resources::default() };
    let made = process.deploy(&limited("sleep 1000", limits)).await.expect("deployed");
    let group = |pid: u32| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its groups");
        groups.lines().any(|line| line.contains(&instance(home.path())))
    };
    assert!(group(made.services[0].pid.expect("it runs")));
    process.set_running(&made.name, false).await.expect("asleep");
    assert_eq!(groups(home.path()), Vec::<String>::new());
    process.set_running(&made.name, true).await.expect("awake");
    let again = process.get(&made.name).await.expect("it is there");
    assert!(group(again.services[0].pid.expect("it runs")));
    process.remove(&made.id).await.expect("removed");
    assert_eq!(groups(home.path()), Vec::<String>::new());
}
