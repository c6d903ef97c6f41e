//! Services within limits, in control groups.

use futures_util::StreamExt;
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

/// What a script did.
struct Ran {
    status: Option<i32>,
    said: String,
    /// How often its group had to wait for a processor that was free.
    throttled: u64,
}

/// Runs a script to its end.
async fn run(script: &str, limits: Resources) -> Ran {
    let home = Home::new();
    let process = open(home.path());
    let made = process.deploy(&limited(script, limits)).await.expect("deployed");
    let ended = process.wait_stopped(&made.name).await.expect("ended");
    let lines = process.logs(&made.name, LogOptions::default());
    let text: Vec<String> = lines.map_ok(|line| line.text).try_collect().await.expect("a log");
    let there = groups(home.path());
    assert!(!there.is_empty(), "it had no control group");
    let stats = there.iter().filter_map(|group| std::fs::read_to_string(format!("{group}/cpu.stat")).ok());
    let stats = stats.collect::<Vec<_>>().concat();
    let throttled = stats.lines().filter_map(|line| line.strip_prefix("nr_throttled ")?.parse::<u64>().ok()).sum();
    process.remove(&made.id).await.expect("removed");
    assert_eq!(groups(home.path()), Vec::<String>::new());
    match ended.services[0].state {
        ServiceState::Exited { status } => Ran { status, said: text.join("\n"), throttled },
        ref other => panic!("{other}"),
    }
}

#[tokio::test]
async fn it_starts_no_more_processes_than_it_may() {
    // A shell that cannot start another process ends with status 2.
    let script = "for i in $(seq 40); do sleep 1000 & done; echo all";
    let limits = |pids| Resources { pids: Some(pids), ..Resources::default() };
    let ran = run(script, limits(20)).await;
    assert_eq!(ran.status, Some(2), "{}", ran.said);
    assert!(ran.said.contains("annot fork"), "{}", ran.said);
    let ran = run(script, limits(60)).await;
    assert_eq!((ran.status, ran.said.as_str()), (Some(0), "all"));
}

#[tokio::test]
async fn it_takes_no_more_memory_than_it_may() {
    // Lines that never end are kept in memory.
    let script = "head -c 100M /dev/zero | tail | wc -c";
    let limits = |memory| Resources { memory: Some(memory), ..Resources::default() };
    let said = run(script, limits(40 << 20)).await.said;
    assert!(said.lines().any(|line| line == "0"), "{said}");
    let ran = run(script, limits(400 << 20)).await;
    assert_eq!((ran.status, ran.said.as_str()), (Some(0), "104857600"));
}

#[tokio::test]
async fn it_takes_no_more_of_the_processors_than_it_may() {
    let script = "timeout 1 sh -c 'while :; do :; done'";
    let limits = |nano_cpus| Resources { nano_cpus: Some(nano_cpus), ..Resources::default() };
    assert!(run(script, limits(100_000_000)).await.throttled > 0);
    // One processor is all that one program can take.
    assert_eq!(run(script, limits(100_000_000_000)).await.throttled, 0);
}

#[tokio::test]
async fn what_is_to_end_may_use_all_of_the_processors() {
    let home = Home::new();
    let process = open(home.path());
    let done = home.path().join("done");
    // By itself the last work takes a fifth of a second, and within the limit more than the grace.
    let work = format!("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; : >'{}'; exit", done.display());
    let mut spec = limited(
        &format!("trap \"{}\" TERM; echo up; sleep 1000 & wait", work.replace('$', r"\$")),
        Resources { nano_cpus: Some(10_000_000), ..Resources::default() },
    );
    spec.services[0].stop_grace = Duration::from_secs(10);
    let made = process.deploy(&spec).await.expect("deployed");
    let mut log = process.logs(&made.name, LogOptions { follow: true, ..LogOptions::default() });
    assert_eq!(log.next().await.expect("a line").expect("a log").text, "up");
    process.remove(&made.id).await.expect("removed");
    assert!(done.try_exists().expect("an answer"), "it was killed before it was done");
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
