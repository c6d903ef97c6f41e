//! What a stack of processes may ask for: ports, files, directories, dependencies.

use std::os::unix::fs::PermissionsExt;

use ondemand_core::Secret;
use ondemand_core::orchestrator::{
    Condition, ConfigSpec, Dependency, Endpoint, FileMount, Healthcheck, Publish, SecretSpec,
};

use super::*;

/// Makes a directory that other users may pass through, as the data directory is.
fn passable() -> Home {
    let dir = Home::new();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).expect("a mode");
    dir
}

fn file(source: &str) -> FileMount {
    FileMount { source: source.into(), target: None, uid: None, gid: None, mode: None }
}

/// Returns the stacks that have something on disk beside their records and logs.
fn with_files(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir.join("stacks-files")).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_directory_of_its_own_is_private_and_goes_with_the_stack() {
    let dir = passable();
    let process = open(dir.path());
    let mut main =
        service("main", "pwd; stat -c '%a %u %g' ..; ls -A; mkdir -p x/y; echo z >x/y/z; chmod 0 x/y x; kill -9 $$");
    main.user = Some(RunAs { uid: 65_534, gid: 65_533 });
    main.own_directory = true;
    main.working_dir = Some("code/api".into());
    let spec = stack("a", vec![main.clone()]);
    let deployed = process.deploy(&spec).await.expect("deployed");
    process.wait_stopped(&spec.name).await.expect("it ends");
    let own = dir.path().join("stacks-files/a/work").join("main");
    let lines = log(&process, &spec.name).await;
    assert_eq!(lines, [own.join("code/api").to_str().expect("UTF-8"), "700 65534 65533"]);
    assert_eq!(std::fs::metadata(&own).map(|m| m.permissions().mode() & 0o777).expect("a directory"), 0o700);
    assert!(own.join("code/api/x").exists());
    // By another handle, as after a crash of the first.
    open(dir.path()).remove(&deployed.id).await.expect("removed");
    assert_eq!(with_files(dir.path()), [""; 0]);

    for outside in ["../x", "a/../../x"] {
        main.working_dir = Some(outside.into());
        let refused = process.deploy(&stack("a", vec![main.clone()])).await;
        assert!(matches!(refused, Err(Error::InvalidInput { .. })), "{refused:?}");
    }
    main.working_dir = Some("/tmp".into());
    main.command[2] = "pwd".into();
    let spec = stack("a", vec![main]);
    let deployed = process.deploy(&spec).await.expect("deployed");
    process.wait_stopped(&spec.name).await.expect("it ends");
    assert_eq!(log(&process, &spec.name).await, ["/tmp"]);
    process.remove(&deployed.id).await.expect("removed");
}

#[tokio::test]
async fn links_in_a_directory_of_its_own_are_not_followed() {
    let dir = passable();
    let process = open(dir.path());
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).expect("a directory");
    std::fs::write(outside.join("kept"), "x").expect("a file");
    let mut main = service(
        "main",
        &format!("ln -s {0} link; ln -s {0}/kept file; cd ..; mv main other; ln -s {0} main", outside.display()),
    );
    main.own_directory = true;
    let spec = stack("a", vec![main]);
    let deployed = process.deploy(&spec).await.expect("deployed");
    process.wait_stopped(&spec.name).await.expect("it ends");
    process.remove(&deployed.id).await.expect("removed");
    assert_eq!(with_files(dir.path()), [""; 0]);
    assert!(outside.join("kept").exists());
}

#[tokio::test]
async fn files_belong_to_the_services_user() {
    let dir = passable();
    let process = open(dir.path());
    let script = "for f in $ONDEMAND_SECRETS_DIR/token $ONDEMAND_SECRETS_DIR/renamed $ONDEMAND_CONFIGS_DIR/settings; do \
                  stat -c '%a %u %g' $f; cat $f; echo; done; ls $ONDEMAND_SECRETS_DIR 2>&1 | grep -c denied";
    let mut main = service("main", script);
    main.user = Some(RunAs { uid: 65_534, gid: 65_533 });
    main.secrets = vec![file("token"), FileMount { target: Some("renamed".into()), mode: Some(0o440), ..file("key") }];
    main.configs = vec![file("settings")];
    let mut spec = stack("a", vec![main]);
    spec.secrets.insert("token".into(), SecretSpec::Content(Secret::new("one")));
    spec.secrets.insert("key".into(), SecretSpec::Content(Secret::new("two")));
    spec.configs.insert("settings".into(), ConfigSpec::Content("three".into()));
    let deployed = process.deploy(&spec).await.expect("deployed");
    process.wait_stopped(&spec.name).await.expect("it ends");
    let read = log(&process, &spec.name).await;
    let owned = ["400 65534 65533", "one", "440 65534 65533", "two", "400 65534 65533", "three", "1"];
    assert_eq!(read, owned);
    assert_eq!(process.secrets_dir(&spec.name), dir.path().join("stacks-files/a/secrets"));
    process.remove(&deployed.id).await.expect("removed");
    assert_eq!(with_files(dir.path()), [""; 0]);
}

#[tokio::test]
async fn a_failed_deployment_leaves_no_secret() {
    let dir = passable();
    let process = open(dir.path());
    let mut main = service("main", "exec sleep 1000");
    main.secrets = vec![file("token")];
    let mut bad = service("bad", "exit 1");
    bad.own_directory = true;
    main.depends_on = vec![Dependency { service: bad.name.clone(), condition: Condition::CompletedSuccessfully }];
    let mut spec = stack("a", vec![main, bad]);
    spec.secrets.insert("token".into(), SecretSpec::Content(Secret::new("one")));
    let failed = process.deploy(&spec).await;
    assert!(matches!(failed, Err(Error::ServiceFailed { .. })), "{failed:?}");
    assert_eq!((with_files(dir.path()), marked(&instance(dir.path()))), (vec![], BTreeSet::new()));
}

#[tokio::test]
async fn a_file_at_a_path_of_its_own_is_refused() {
    let dir = passable();
    let process = open(dir.path());
    let mut main = service("main", "exec sleep 1000");
    let attempt = async |mount: FileMount, main: &mut ServiceSpec| {
        main.secrets = vec![mount];
        let mut spec = stack("a", vec![main.clone()]);
        spec.secrets.insert("token".into(), SecretSpec::Content(Secret::new("one")));
        process.deploy(&spec).await
    };
    let elsewhere = FileMount { target: Some("/run/secrets/token".into()), ..file("token") };
    let refused = attempt(elsewhere, &mut main).await;
    assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    for outside in ["../token", "", ".", "a/../../b"] {
        let refused = attempt(FileMount { target: Some(outside.into()), ..file("token") }, &mut main).await;
        assert!(matches!(refused, Err(Error::InvalidInput { .. })), "{outside:?}: {refused:?}");
    }
    let wrong = attempt(FileMount { uid: Some("postgres".into()), ..file("token") }, &mut main).await;
    assert!(matches!(wrong, Err(Error::InvalidInput { .. })), "{wrong:?}");
    let inside = dir.path().join("stacks-files/a/secrets/deep/token").display().to_string();
    let deployed = attempt(FileMount { target: Some(inside.clone()), ..file("token") }, &mut main).await;
    assert_eq!(std::fs::read_to_string(&inside).expect("a file"), "one");
    process.remove(&deployed.expect("deployed").id).await.expect("removed");
    assert_eq!(with_files(dir.path()), [""; 0]);
}

#[tokio::test]
async fn a_port_stays_the_stacks_while_it_sleeps() {
    let dir = Home::new();
    let process = open(dir.path());
    let listener = |name: &str| {
        let mut main = service("main", "echo $PORT $PORT_1 $PORT_2; exec sleep 1000");
        main.publish = vec![Publish::anywhere(1), Publish::anywhere(2)];
        stack(name, vec![main])
    };
    let first = process.deploy(&listener("a")).await.expect("deployed");
    let written = |lines: usize| {
        std::fs::read_to_string(dir.path().join("logs/a.main.log")).is_ok_and(|log| log.lines().count() == lines)
    };
    until("it has written", || written(1)).await;
    let ports: Vec<_> = first.services[0].endpoints.iter().map(|endpoint| endpoint.address.clone()).collect();
    process.set_running(&first.name, false).await.expect("asleep");
    let second = open(dir.path()).deploy(&listener("b")).await.expect("deployed");
    assert!(second.services[0].endpoints.iter().all(|endpoint| !ports.contains(&endpoint.address)), "{second:?}");
    process.set_running(&first.name, true).await.expect("awake");
    let again = open(dir.path()).get(&first.name).await.expect("a stack");
    assert_eq!(again.services[0].endpoints, first.services[0].endpoints);
    let numbers: Vec<_> = ports.iter().map(|address| address.strip_prefix("127.0.0.1:").expect("loopback")).collect();
    let line = format!("{} {} {}", numbers[0], numbers[0], numbers[1]);
    until("it has written again", || written(2)).await;
    assert_eq!(log(&process, &first.name).await, [line.as_str(); 2]);
    for stack in [first, second] {
        process.remove(&stack.id).await.expect("removed");
    }
}

#[tokio::test]
async fn a_port_that_the_environment_names_is_taken_once() {
    let dir = Home::new();
    let process = open(dir.path());
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port").local_addr().expect("an address").port();
    let listener = |name: &str| {
        let mut main = service("main", "exec sleep 1000");
        main.publish = vec![Publish::anywhere(80)];
        main.env.insert("PORT".into(), free.to_string());
        stack(name, vec![main])
    };
    let first = process.deploy(&listener("a")).await.expect("deployed");
    let endpoint = Endpoint { target: 80, address: format!("127.0.0.1:{free}") };
    assert_eq!(first.services[0].endpoints, [endpoint]);
    let taken = process.deploy(&listener("b")).await.expect_err("it is the first's");
    assert!(matches!(taken, Error::Conflict { .. }) && taken.to_string().contains("port"), "{taken:?}");
    process.remove(&first.id).await.expect("removed");
    let second = process.deploy(&listener("b")).await.expect("the port is free");
    process.remove(&second.id).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_get_ports_of_their_own() {
    let dir = Home::new();
    let handles = [open(dir.path()), open(dir.path())];
    let deployments = (0..20).map(|n| {
        let mut main = service("main", "exec sleep 1000");
        main.publish = vec![Publish::anywhere(80), Publish::anywhere(81)];
        let (process, spec) = (handles[n % 2].clone(), stack(&format!("s{n}"), vec![main]));
        tokio::spawn(async move { process.deploy(&spec).await })
    });
    let mut addresses = BTreeSet::new();
    let mut ids = Vec::new();
    for deployment in deployments.collect::<Vec<_>>() {
        let stack = deployment.await.expect("no panic").expect("deployed");
        addresses.extend(stack.services[0].endpoints.iter().map(|endpoint| endpoint.address.clone()));
        ids.push(stack.id);
    }
    assert_eq!(addresses.len(), 40, "{addresses:?}");
    for id in ids {
        handles[0].remove(&id).await.expect("removed");
    }
}

#[tokio::test]
async fn what_ended_by_itself_is_counted_when_it_is_started_again() {
    let dir = Home::new();
    let process = open(dir.path());
    let spec = stack("a", vec![service("main", "exit 7"), service("other", "exec sleep 1000")]);
    let deployed = process.deploy(&spec).await.expect("deployed");
    for restarts in 0..3 {
        let ended = process.wait_stopped(&spec.name).await.expect("it ends");
        assert_eq!(ended.services[0].restarts, restarts);
        assert_eq!(ended.services[0].error.as_deref(), Some("it ended with status 7"));
        assert_eq!((ended.services[1].restarts, ended.services[1].error.as_ref()), (0, None));
        process.set_running(&spec.name, true).await.expect("started again");
    }
    process.set_running(&spec.name, false).await.expect("asleep");
    process.set_running(&spec.name, true).await.expect("awake");
    let awake = open(dir.path()).get(&spec.name).await.expect("a stack");
    assert_eq!((awake.services[0].restarts, awake.services[1].restarts), (3, 0), "waking from sleep does not count");
    process.remove(&deployed.id).await.expect("removed");
}

#[tokio::test]
async fn a_health_check_is_the_services_own_and_ends_with_it() {
    let dir = passable();
    let process = open(dir.path());
    let mut main = service("main", "sleep 0.3; touch ready; exec sleep 1000");
    main.own_directory = true;
    main.user = Some(RunAs { uid: 65_534, gid: 65_533 });
    main.env.insert("WANTED".into(), "ready".into());
    let seconds = |n| Some(Duration::from_secs(n));
    // It hangs, with a child, until the file is there; then it succeeds.
    let line = "[ $(id -u) = 65534 ] || exit 9; [ -e \"$WANTED\" ] || { sleep 1000 & wait; }";
    let check = Healthcheck {
        test: vec!["CMD-SHELL".into(), line.into()],
        interval: Some(Duration::from_millis(50)),
        timeout: seconds(1),
        start_period: seconds(20),
        retries: Some(1),
    };
    main.healthcheck = Some(check.clone());
    let mut front = service("front", "exec sleep 1000");
    front.depends_on = vec![Dependency { service: main.name.clone(), condition: Condition::Healthy }];
    let spec = stack("a", vec![front, main.clone()]);
    let deployed = process.deploy(&spec).await.expect("deployed");
    assert!(dir.path().join("stacks-files/a/work").join("main/ready").exists());
    until("only the services run", || marked(&instance(dir.path())).len() == 2).await;
    process.remove(&deployed.id).await.expect("removed");

    // It hangs for as long as it may, and is given up while it does.
    main.command[2] = "exec sleep 1000".into();
    main.healthcheck = Some(Healthcheck { timeout: seconds(1000), ..check });
    let mut spec = stack("a", vec![spec.services[0].clone(), main]);
    spec.services[0].depends_on[0].condition = Condition::Healthy;
    let deploying = tokio::spawn({
        let (process, spec) = (process.clone(), spec.clone());
        async move { process.deploy(&spec).await }
    });
    until("the check hangs", || marked(&instance(dir.path())).len() >= 3).await;
    process.remove(&spec.id()).await.expect("removed");
    assert!(deploying.await.expect("no panic").is_err());
    assert_eq!((marked(&instance(dir.path())), with_files(dir.path())), (BTreeSet::new(), vec![]));
}

#[tokio::test]
async fn services_share_a_file_only_if_it_is_the_same() {
    let dir = passable();
    let process = open(dir.path());
    let mut services = ["one", "two"].map(|name| service(name, "exec sleep 1000"));
    services[0].secrets = vec![file("token")];
    services[1].secrets = vec![FileMount { target: Some("token".into()), ..file("other") }];
    let mut spec = stack("a", services.into());
    spec.secrets.insert("token".into(), SecretSpec::Content(Secret::new("first-content")));
    spec.secrets.insert("other".into(), SecretSpec::Content(Secret::new("second-content")));
    let refused = process.deploy(&spec).await.expect_err("one file cannot be two");
    assert!(matches!(refused, Error::Unsupported { .. }), "{refused:?}");
    assert!(!format!("{refused:?} {refused}").contains("content"), "{refused:?}");
    spec.services[1].secrets = vec![file("token")];
    spec.services[1].user = Some(RunAs { uid: 65_534, gid: 65_533 });
    let refused = process.deploy(&spec).await.expect_err("it cannot belong to two");
    assert!(matches!(refused, Error::Unsupported { .. }), "{refused:?}");
    spec.services[1].user = None;
    let deployed = process.deploy(&spec).await.expect("deployed");
    process.remove(&deployed.id).await.expect("removed");
    spec.secrets.insert("token".into(), SecretSpec::External("token".into()));
    let refused = process.deploy(&StackSpec { attempt: AttemptId::random().expect("randomness"), ..spec }).await;
    assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    assert_eq!(with_files(dir.path()), [""; 0]);
}

/// Where the killed parent of the test below works; this program runs itself, and only then is the variable set.
const KILLED_WAITING: &str = "ONDEMAND_TEST_KILLED_WAITING";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_when_its_parent_was_killed_is_removed_whole() {
    let spec = |marker: &Path| {
        let mut first = service("first", &format!("echo >{}; exec sleep 1000", marker.display()));
        first.own_directory = true;
        first.publish = vec![Publish::anywhere(80)];
        first.secrets = vec![file("token")];
        let mut second = service("second", "exec sleep 1000");
        second.depends_on =
            vec![Dependency { service: first.name.clone(), condition: Condition::CompletedSuccessfully }];
        let mut spec = stack("a", vec![second, first]);
        spec.secrets.insert("token".into(), SecretSpec::Content(Secret::new("one")));
        spec
    };
    if let Some(dir) = std::env::var_os(KILLED_WAITING) {
        let dir = Path::new(&dir);
        let deployed = open(dir).deploy(&spec(&dir.join("runs"))).await;
        panic!("it waits for what never ends, but got {deployed:?}");
    }
    let dir = Home::new();
    let mut parent = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &test_name(module_path!(), "what_waited_when_its_parent_was_killed_is_removed_whole")])
        .env(KILLED_WAITING, dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("this program runs");
    until("the first service runs", || dir.path().join("runs").exists()).await;
    parent.kill().expect("killed");
    parent.wait().expect("reaped");

    let process = open(dir.path());
    let listed = process.list(&Selector::all()).await.expect("a list").found;
    let states: Vec<_> = listed[0].services.iter().map(|service| service.state).collect();
    assert_eq!(states, [ServiceState::Exited { status: None }, ServiceState::Running]);
    assert_eq!(listed[0].services[1].endpoints.len(), 1);
    process.remove(&listed[0].id).await.expect("removed");
    assert_eq!((marked(&instance(dir.path())), with_files(dir.path())), (BTreeSet::new(), vec![]));
}
