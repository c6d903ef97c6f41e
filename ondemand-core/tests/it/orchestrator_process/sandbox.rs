//! Services in sandboxes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use ondemand_core::orchestrator::{ConfigSpec, FileMount, Mount, SecretSpec, Stack, StopSignal};
use ondemand_core::{Sandbox, Secret};

use super::*;

/// Whom services run as: neither root nor anybody's.
const USER: RunAs = RunAs { uid: 65_534, gid: 65_534 };

/// Opens an orchestrator with a sandbox.
async fn open(dir: &Path) -> Process {
    let sandbox = Sandbox::find(&dir.join("sandbox"), USER).await.expect("this machine can make sandboxes");
    Process::new(ProcessOptions {
        state_dir: dir.join("stacks"),
        log_dir: dir.join("logs"),
        instance: instance(dir),
        sandbox: Some(sandbox),
        cgroups: None,
    })
    .expect("a process orchestrator")
}

/// A home that the services' user may pass through, with a directory of that user's.
fn home() -> (Home, std::path::PathBuf) {
    home_in(&std::env::temp_dir())
}

fn home_in(place: &Path) -> (Home, std::path::PathBuf) {
    let home = Home(tempfile::tempdir_in(place).expect("a directory"));
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let own = home.path().join("own");
    std::fs::create_dir(&own).expect("a directory");
    std::os::unix::fs::chown(&own, Some(USER.uid), Some(USER.gid)).expect("root");
    (home, own)
}

fn sandboxed(own: &Path, script: &str) -> StackSpec {
    let mut main = service("main", script);
    main.user = Some(USER);
    main.sandboxed = true;
    main.mounts = vec![Mount::same(own, false)];
    stack("a", vec![main])
}

/// Returns the processes whose command line has this word.
fn with_word(word: &str) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|&byte| byte == 0).any(|found| found == word.as_bytes())
    };
    pids.filter(has).collect()
}

#[tokio::test]
async fn it_sees_what_is_its_own_and_no_more() {
    for place in [std::env::temp_dir(), "/var/tmp".into()] {
        it_sees_its_own_in(&place).await;
    }
}

async fn it_sees_its_own_in(place: &Path) {
    let (home, own) = home_in(place);
    let stranger = home.path().join("others");
    std::fs::write(&stranger, "not yours").expect("a file that everybody may read");
    let process = open(home.path()).await;
    let script = format!(
        "id -u; id -g; id -G; ls / | tr '\\n' ' '; echo; ls {} | tr '\\n' ' '; echo; ls -d /proc/[0-9]* | wc -l; \
         cat {} || echo no others; cat /etc/shadow || echo no shadow; ls /root || echo no root; \
         touch {}/made && echo made; touch /usr/made || echo read only; grep -E '^(CapPrm|CapEff|CapAmb|NoNewPrivs)' /proc/self/status; \
         echo $GIVEN; head -n 1 /etc/passwd | cut -d: -f1; touch /dev/shm/x /tmp/x && echo shared memory",
        home.path().display(),
        stranger.display(),
        own.display()
    );
    let mut spec = sandboxed(&own, &format!("exec 2>/dev/null; {script}"));
    spec.services[0].env.insert("GIVEN".into(), "given to it".into());
    let deployed = process.deploy(&spec).await.expect("deployed");
    process.wait_stopped(&spec.name).await.expect("it ends");
    let lines = log(&process, &spec.name).await;
    assert_eq!(lines[..3], ["65534", "65534", "65534"]);
    let top: Vec<_> = lines[3].split_ascii_whitespace().collect();
    assert!(top.iter().all(|name| !["home", "root", "run", "srv", "sys", "boot", "opt"].contains(name)), "{top:?}");
    assert_eq!(lines[4].trim(), "own");
    // The first process, the shell, `ls` and `wc`.
    assert!(lines[5].parse::<u32>().expect("a number") <= 4, "{lines:?}");
    assert_eq!(lines[6..11], ["no others", "no shadow", "no root", "made", "read only"]);
    let none = ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000"];
    assert_eq!(lines[11..14], none);
    assert_eq!(lines[14], "NoNewPrivs:\t1");
    assert_eq!(lines[15..], ["given to it", "root", "shared memory"]);
    process.remove(&deployed.id).await.expect("removed");
    assert!(own.join("made").exists());
}

/// What a program does to outlive its service: it sheds the mark, the environment, its group and session, and its parent.
#[tokio::test]
async fn whatever_it_does_to_hide_it_ends_with_its_service() {
    let (home, own) = home();
    let process = open(home.path()).await;
    for (number, rest) in ["exec sleep 1000", "exit 0", "kill -9 $$"].into_iter().enumerate() {
        let word = format!("76543{number}{}", std::process::id());
        let hide = format!(
            "prlimit --pid 1 --locks=5; prlimit --pid $$ --locks=5; env -i setsid /bin/sh -c '/usr/bin/sleep {word} & exit' & \
             while ! grep -lz '^{word}$' /proc/[0-9]*/cmdline >/dev/null; do :; done; touch {}/hidden; {rest}",
            own.display()
        );
        let spec = sandboxed(&own, &hide);
        let deployed = process.deploy(&spec).await.expect("deployed");
        until("it hides", || own.join("hidden").exists()).await;
        if number == 0 {
            assert_eq!(with_word(&word).len(), 1, "what is to be found");
        } else {
            process.wait_stopped(&spec.name).await.expect("it ends");
        }
        process.remove(&deployed.id).await.expect("removed");
        assert_eq!(with_word(&word), [0; 0], "{rest}");
        std::fs::remove_file(own.join("hidden")).expect("removed");
    }
}

#[tokio::test]
async fn it_is_asked_to_end_and_its_status_is_told() {
    let (home, own) = home();
    let process = open(home.path()).await;
    for (signal, name) in [(StopSignal::Term, "TERM"), (StopSignal::Quit, "QUIT"), (StopSignal::Int, "INT")] {
        let script = format!("trap 'echo asked; exit 7' {name}; echo ready; while :; do sleep 0.01; done");
        let mut spec = sandboxed(&own, &script);
        spec.services[0].stop_signal = signal;
        spec.services[0].stop_grace = Duration::from_secs(60);
        let deployed = process.deploy(&spec).await.expect("deployed");
        let until_ready = async {
            while log(&process, &spec.name).await != ["ready"] {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), until_ready).await.expect("it is ready");
        process.set_running(&spec.name, false).await.expect("asleep");
        assert_eq!(log(&process, &spec.name).await, ["ready", "asked"]);
        process.remove(&deployed.id).await.expect("removed");
    }
    let spec = sandboxed(&own, "exit 5");
    let deployed = process.deploy(&spec).await.expect("deployed");
    let ended = process.wait_stopped(&spec.name).await.expect("it ends");
    assert_eq!(ended.services[0].state, ServiceState::Exited { status: Some(5) });
    process.remove(&deployed.id).await.expect("removed");
}

#[tokio::test]
async fn it_is_adopted() {
    let (home, own) = home();
    let word = format!("76549{}", std::process::id());
    let mut spec = sandboxed(&own, &format!("trap '' TERM; touch {}/up; /usr/bin/sleep {word}", own.display()));
    spec.services[0].stop_grace = Duration::from_millis(200);
    let deployed = open(home.path()).await.deploy(&spec).await.expect("deployed");
    until("it is up", || own.join("up").exists()).await;
    // Whoever opens it next may have no sandbox at all.
    let next = super::open(home.path());
    let found = next.get(&spec.name).await.expect("a stack");
    assert!(found.is_running(), "{found:?}");
    next.remove(&deployed.id).await.expect("removed");
    assert_eq!(with_word(&word), [0; 0]);
}

#[tokio::test]
async fn without_a_program_for_it_the_reason_is_told() {
    let home = Home::new();
    std::fs::write(home.path().join("sandbox"), "").expect("a file where a directory should be");
    let reason = Sandbox::find(&home.path().join("sandbox"), USER).await.expect_err("there is no place for it");
    assert!(reason.contains("sandbox/etc"), "{reason}");
}

/// Neither other users, nor what makes the sandbox, which is root.
#[tokio::test]
async fn its_environment_reaches_nobody_else() {
    let (home, own) = home();
    let process = open(home.path()).await;
    let word = format!("76548{}", std::process::id());
    // More than a pipe holds.
    let long = "long".repeat(25_000);
    let script = format!(
        "printf '%s' \"$QUOTED\"; echo; echo ${{#LONG}} $PATH; readlink /proc/$$/fd/3 || echo no pipe; touch {0}/up; exec sleep {word}",
        own.display()
    );
    let mut spec = sandboxed(&own, &script);
    let secret = format!("hunter2-{word}");
    let quoted = format!("it's '{secret}' \\ $HOME `id`");
    // As root, what makes the sandbox would load the library.
    let given = [
        ("LD_PRELOAD", format!("{}/nothing.so", own.display())),
        ("QUOTED", quoted.clone()),
        ("LONG", long.clone()),
        ("LONGER", long),
        ("PATH", "/usr/bin:/bin".into()),
        ("PPID", "1".into()),
    ];
    spec.services[0].env = given.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let deployed = process.deploy(&spec).await.expect("deployed");
    until("it is up", || own.join("up").exists()).await;
    let lines = log(&process, &spec.name).await;
    // Of the library, programs in the sandbox complain: they are the service's own.
    let lines: Vec<_> = lines.iter().filter(|line| !line.contains("LD_PRELOAD")).collect();
    assert_eq!(lines, [&quoted, "100000 /usr/bin:/bin", "no pipe"]);
    let sleeping = with_word(&word);
    assert_eq!(sleeping.len(), 1, "what is looked at");
    let mut with_library = 0;
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let read = |file: &str| {
            String::from_utf8_lossy(&std::fs::read(entry.path().join(file)).unwrap_or_default()).into_owned()
        };
        assert!(!read("cmdline").contains(&secret), "{} has it among its arguments", entry.path().display());
        if read("environ").contains(&secret) {
            with_library += 1;
            assert_eq!(std::fs::metadata(entry.path()).expect("it runs").uid(), USER.uid);
        }
    }
    assert_eq!(with_library, 1, "the service has it, and no other process");
    process.remove(&deployed.id).await.expect("removed");
}

/// What it shows of the host beside the system's programs is the caller's to say.
#[tokio::test]
async fn it_shows_what_it_is_told_to() {
    let (home, own) = home();
    let tools = home.path().join("tools");
    std::fs::create_dir(&tools).expect("a directory");
    std::fs::write(tools.join("tool"), "a tool").expect("a file");
    let more = [tools.clone(), "/etc/alternatives".into(), home.path().join("missing")];
    let sandbox = Sandbox::find_showing(&home.path().join("sandbox"), USER, &more).await.expect("a sandbox");
    let process = Process::new(ProcessOptions {
        state_dir: home.path().join("stacks"),
        log_dir: home.path().join("logs"),
        instance: instance(home.path()),
        sandbox: Some(sandbox),
        cgroups: None,
    });
    let process = process.expect("a process orchestrator");
    let script = format!(
        "cat {0}/tool; echo; touch {0}/made 2>/dev/null || echo read only; ls {1} | tr '\\n' ' '; echo; ls /etc/alternatives | grep -c .",
        tools.display(),
        home.path().display()
    );
    let spec = sandboxed(&own, &script);
    let deployed = process.deploy(&spec).await.expect("deployed");
    process.wait_stopped(&spec.name).await.expect("it ends");
    let lines = log(&process, &spec.name).await;
    assert_eq!(lines[..3], ["a tool", "read only", "own tools "]);
    let there = std::fs::read_dir("/etc/alternatives").expect("a listing").count();
    assert_eq!(lines[3], there.to_string());
    process.remove(&deployed.id).await.expect("removed");
}

/// All files of a stack are one user's: what is another service's is not there at all.
#[tokio::test]
async fn it_sees_its_own_secrets_alone() {
    let (home, own) = home();
    let process = open(home.path()).await;
    let script = "for dir in $ONDEMAND_SECRETS_DIR $ONDEMAND_CONFIGS_DIR; do for file in $dir/*; do echo ${file##*/}: $(cat $file); done; done";
    let mut spec = sandboxed(&own, script);
    let file = |source: &str| FileMount { source: source.into(), target: None, uid: None, gid: None, mode: None };
    let mut other = service("other", script);
    (other.user, other.sandboxed) = (Some(USER), true);
    other.secrets = vec![file("theirs")];
    spec.services[0].secrets = vec![file("mine")];
    spec.services[0].configs = vec![file("settings")];
    spec.services.push(other);
    for name in ["mine", "theirs"] {
        spec.secrets.insert(name.into(), SecretSpec::Content(Secret::new(format!("secret of {name}"))));
    }
    for name in ["settings", "others"] {
        spec.configs.insert(name.into(), ConfigSpec::Content(format!("text of {name}")));
    }
    let deployed = process.deploy(&spec).await.expect("deployed");
    let ended = async {
        let is_running = |stack: &Stack| stack.services.iter().any(|service| service.state == ServiceState::Running);
        while is_running(&process.get(&spec.name).await.expect("a stack")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("they end");
    let lines = log(&process, &spec.name).await;
    assert_eq!(lines, ["mine: secret of mine", "settings: text of settings", "theirs: secret of theirs"]);
    process.remove(&deployed.id).await.expect("removed");
}
