//! What is refused, and in which words.

use super::*;

#[test]
fn what_is_not_supported_is_named_with_its_line() {
    // The service's own keys begin at line 4.
    for (text, line, path) in [
        ("build: .", 4, "services.back.build:"),
        ("container_name: x", 4, "services.back.container_name:"),
        ("privileged: true", 4, "services.back.privileged:"),
        ("user: a\nfoo: 1", 5, "services.back.foo:"),
        ("deploy:\n  foo: 1", 5, "services.back.deploy.foo:"),
        ("deploy:\n  resources:\n    limits:\n      disk: 1", 7, "services.back.deploy.resources.limits.disk:"),
        (
            "deploy:\n  resources:\n    reservations:\n      pids: 1",
            7,
            "services.back.deploy.resources.reservations.pids:",
        ),
        ("deploy:\n  placement: {foo: 1}", 5, "services.back.deploy.placement.foo:"),
        ("deploy: {restart_policy: {foo: 1}}", 4, "services.back.deploy.restart_policy.foo:"),
        ("deploy: {update_config: {foo: 1}}", 4, "services.back.deploy.update_config.foo:"),
        ("ports:\n- target: 1\n  host_ip: 127.0.0.1", 6, "services.back.ports[0].host_ip:"),
        ("volumes:\n- {type: bind, source: /a, target: /b, bind: {}}", 5, "services.back.volumes[0].bind:"),
        ("volumes: [{type: volume, target: /b, volume: {subpath: x}}]", 4, "services.back.volumes[0].volume.subpath:"),
        ("networks: {front: {ipv4_address: 1.2.3.4}}", 4, "services.back.networks.front.ipv4_address:"),
        ("healthcheck: {start_interval: 1s}", 4, "services.back.healthcheck.start_interval:"),
        ("secrets: [{source: token, foo: 1}]", 4, "services.back.secrets[0].foo:"),
        ("logging: {foo: 1}", 4, "services.back.logging.foo:"),
        ("ulimits: {nofile: {soft: 1, hard: 1, foo: 1}}", 4, "services.back.ulimits.nofile.foo:"),
        ("depends_on: {front: {foo: 1}}", 4, "services.back.depends_on.front.foo:"),
        ("depends_on: {front: {restart: true}}", 4, "services.back.depends_on.front.restart:"),
        ("env_file: [{path: x, format: raw}]", 4, "services.back.env_file[0].format:"),
    ] {
        let (at, reason) = refusal(service(text));
        assert!(at == line && reason.starts_with(path), "{text}: line {at}: {reason}");
        assert!(reason.contains("this key is not supported"), "{reason}");
    }
    for (text, line, path) in [
        ("services: {a: {image: x}}\nfoo: 1", 2, "foo:"),
        ("services: {a: {image: x}}\ninclude: [x]", 2, "include:"),
        ("services: {a: {image: x}}\nnetworks:\n  a:\n    ipam: {}", 4, "networks.a.ipam:"),
        ("services: {a: {image: x}}\nvolumes: {a: {foo: 1}}", 2, "volumes.a.foo:"),
        ("services: {a: {image: x}}\nsecrets: {a: {content: x, driver: y}}", 2, "secrets.a.driver:"),
        ("services: {a: {image: x}}\nsecrets: {a: {content: x, name: y}}", 2, "secrets.a.name:"),
        ("services: {a: {image: x}}\nconfigs: {a: {environment: TAG}}", 2, "configs.a.environment:"),
    ] {
        let (at, reason) = refusal(stack(text));
        assert!(at == line && reason.starts_with(path), "{text}: line {at}: {reason}");
        assert!(reason.contains("this key is not supported"), "{reason}");
    }
}

#[test]
fn wrong_values_are_refused() {
    for (text, said) in [
        ("image: ''", "it is empty"),
        ("image: [x]", "it must be text, and it is a list"),
        ("hostname:", "it must be text, and it is nothing"),
        ("command: \"a 'b\"", "a single quote is not closed"),
        ("command: {a: b}", "it must be text"),
        ("entrypoint: []", "there is no command in its place"),
        ("environment: [=x]", "it has no name"),
        ("environment: {A: [x]}", "services.back.environment.A: it must be text"),
        ("environment: x", "it must be a mapping"),
        ("ports: ['127.0.0.1:80:80']", "one address of the host is not supported"),
        ("ports: ['[::1]:80:80']", "one address of the host is not supported"),
        ("ports: ['80-82:80-81']", "the same length"),
        ("ports: ['0:80']", "is not a port"),
        ("ports: ['81-80']", "is not a port"),
        ("ports: ['65536']", "is not a port"),
        ("ports: ['80/icmp']", "none of tcp, udp, sctp"),
        ("ports: [':+80']", "is not a port"),
        ("ports: [{published: 80}]", "it has no target"),
        ("ports: [{target: 65536}]", "out of range"),
        ("ports: [{target: 80, mode: nat}]", "none of host, ingress"),
        ("ports: ['80:80', '80:81']", "published twice"),
        ("expose: [x]", "is not a port"),
        ("networks: [none]", "\"none\" is not declared in networks"),
        ("networks: [front, front]", "twice"),
        ("volumes: [none:/x]", "\"none\" is not declared in volumes"),
        ("volumes: [data:x]", "absolute path"),
        ("volumes: ['data:/x:z']", "the option \"z\" is not supported"),
        ("volumes: ['a:b:c:d']", "SOURCE:TARGET"),
        ("volumes: ['~/x:/x']", "no home directory"),
        ("volumes: ['./x:/x']", "no directory"),
        ("volumes: ['/x:/x:nocopy']", "nocopy is for volumes"),
        ("volumes: [{type: npipe, target: /x}]", "none of volume, bind, tmpfs"),
        ("volumes: [{target: /x}]", "it has no type"),
        ("volumes: [{type: bind, target: /x}]", "it has no source"),
        ("volumes: [{type: volume, source: data}]", "it has no target"),
        ("volumes: [data:/x]\ntmpfs: /x", "two volumes have the target \"/x\""),
        ("ports: [80]\ndeploy: {endpoint_mode: dnsrr}", "not in mode ingress"),
        ("tmpfs: x", "absolute path"),
        ("tmpfs: '/x:noexec'", "the option \"noexec\" is not supported"),
        ("secrets: [none]", "\"none\" is not declared in secrets"),
        ("secrets: [{source: token, mode: 9999}]", "it is not a mode"),
        ("secrets: [{source: token, uid: root}]", "it must be a number"),
        ("secrets: [token, token]", "the same target"),
        ("configs: [none]", "\"none\" is not declared in configs"),
        ("healthcheck: {test: [curl]}", "[CMD, program"),
        ("healthcheck: {test: []}", "[CMD, program"),
        ("healthcheck: {interval: 30}", "is not a duration"),
        ("healthcheck: {retries: many}", "is not a whole number"),
        ("deploy: {replicas: -1}", "out of range"),
        ("deploy: {replicas: 1.5}", "is not a whole number"),
        ("deploy: {mode: many}", "none of replicated, global"),
        ("deploy: {mode: global, replicas: 2}", "leave this key out"),
        ("deploy: {resources: {limits: {cpus: many}}}", "such as 0.5"),
        ("deploy: {resources: {limits: {memory: -1}}}", "is not a size"),
        ("deploy: {update_config: {max_failure_ratio: 2}}", "from 0 to 1"),
        ("deploy: {rollback_config: {failure_action: rollback}}", "none of pause, continue"),
        ("deploy: {restart_policy: {condition: maybe}}", "none of none, on-failure, any"),
        ("restart: sometimes", "none of no, always"),
        ("restart: on-failure:x", "needs a number"),
        ("stop_signal: SIGKILL", "none of SIGTERM"),
        ("stop_grace_period: soon", "is not a duration"),
        ("working_dir: x", "absolute path"),
        ("init: maybe", "true or false"),
        ("read_only: 2", "true or false"),
        ("extra_hosts: [a]", "a host and its IP address"),
        ("extra_hosts: ['a:host-gateway']", "a host and its IP address"),
        ("ulimits: {nofile: {soft: 1}}", "both soft and hard"),
        ("shm_size: much", "is not a size"),
        ("depends_on: [none]", "there is no service \"none\""),
        ("depends_on: [back]", "wait for each other: back → back"),
        ("depends_on: {back: {condition: service_happy}}", "none of service_started"),
        ("hostname: \"a\\0b\"", "NUL"),
        ("env_file: x", "no directory"),
    ] {
        let (line, reason) = refusal(service(text));
        assert!(reason.contains(said), "{text}: {reason}");
        assert!(line >= 2, "{text}: line {line}");
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let (line, reason) = refusal(service("foo: 1\nhostname: x\nbar: 2"));
    assert_eq!(line, 4);
    assert_eq!(
        reason,
        "services.back.foo: this key is not supported; line 6: services.back.bar: this key is not supported"
    );
}

#[test]
fn what_is_no_document_is_refused() {
    for (text, line, said) in [
        ("", 1, "it is empty"),
        ("# nothing", 1, "it is empty"),
        ("a: 1\n---\nb: 1", 2, "a second document"),
        ("- a", 1, "it must be a mapping, and it is a list"),
        ("a", 1, "it must be a mapping, and it is text"),
        ("a: 1\nb: 2\na: 3", 3, "the key \"a\" is there twice"),
        ("a: {b: 1, 'b': 2}", 1, "the key \"b\" is there twice"),
        ("a: [", 1, "it is not YAML"),
        ("a: b: c", 1, "it is not YAML"),
        ("a: *none", 1, "it is not YAML"),
        ("a: &a [*a]", 1, "stands inside of what it names"),
        ("a: !reset null", 1, "the tag !reset is not supported"),
        ("a: !!binary x", 1, "is not supported"),
        ("a: !!int x", 1, "not of the type of its tag"),
        ("a: !!set {b}", 1, "is not supported"),
        ("? [a]\n: 1", 1, "a key must be text"),
        ("a: {<<: 1}", 1, "`<<` merges a mapping"),
        ("a: {<<: [1]}", 1, "`<<` merges a mapping"),
        ("a: ${X", 1, "has no closing"),
        ("a:\n- ${X:?set it}", 2, "the variable X is not set: set it"),
    ] {
        let (at, reason) = refusal(document(text));
        assert!(at == line && reason.contains(said), "{text:?}: line {at}: {reason}");
    }
    for (text, line, said) in [
        ("a: 1", 1, "a: this key is not supported; line 1: it has no services"),
        ("x-a: 1", 1, "it has no services"),
        ("services:", 1, "it has no services"),
        ("services: [a]", 1, "services: it must be a mapping"),
        ("services: {a: }", 1, "services.a: it must be a mapping"),
        ("services: {a: {}}", 1, "services.a: it has no image"),
        ("services: {A_b: {image: x}}", 1, "is not a service name"),
        (
            "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [c]}\n  c: {image: x, depends_on: [b]}",
            3,
            "services wait for each other: b → c → b",
        ),
        ("services: {a: {image: x}}\nsecrets: {a: {}}", 2, "it has none of file, content"),
        ("services: {a: {image: x}}\nsecrets: {a: {content: x, external: true}}", 2, "only one of"),
        ("services: {a: {image: x}}\nsecrets: {a: {content: x, environment: TAG}}", 2, "only one of"),
        ("services: {a: {image: x}}\nsecrets: {a: {environment: NONE}}", 2, "the variable NONE is not set"),
        ("services: {a: {image: x}}\nsecrets: {a: {file: x}}", 2, "no directory"),
        ("services: {a: {image: x}}\nnetworks: {a: {external: true, driver: x}}", 2, "leave this key out"),
    ] {
        let (at, reason) = refusal(stack(text));
        assert!(at == line && reason.contains(said), "{text:?}: line {at}: {reason}");
    }
}

#[test]
fn files_outside_of_the_directory_are_not_read() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = root.path().join("templates");
    std::fs::create_dir(&directory).expect("made");
    std::fs::write(root.path().join("outside"), "SECRET=1").expect("written");
    std::os::unix::fs::symlink("../outside", directory.join("link")).expect("linked");
    std::os::unix::fs::symlink("..", directory.join("up")).expect("linked");
    let outside = root.path().join("outside");
    for (name, said) in [
        ("../outside", "within the directory"),
        ("a/../../outside", "within the directory"),
        (outside.to_str().expect("text"), "within the directory"),
        ("link", "leaves the directory"),
        ("up/outside", "leaves the directory"),
        ("none", "there is no file"),
        (".", "is not a file"),
    ] {
        for text in [
            format!("services: {{a: {{image: x, env_file: '{name}'}}}}"),
            format!("services: {{a: {{image: x}}}}\nsecrets: {{s: {{file: '{name}'}}}}"),
        ] {
            let document = document_in(&text, Some(&directory)).expect("read");
            let (_, reason) = refusal(stack_of(&document));
            assert!(reason.contains(said), "{name}: {reason}");
            assert!(!reason.contains("SECRET"), "{reason}");
        }
    }
}

#[test]
fn what_grows_without_bound_is_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    bomb.extend((1..12).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", "))));
    assert!(refusal(document(&bomb)).1.contains("values, with what aliases stand for"));

    let text = format!("a: &a {}\nb: [{}]", "x".repeat(500_000), vec!["*a"; 100].join(", "));
    assert!(refusal(document(&text)).1.contains("of text, with what aliases stand for"));

    for deep in ["[".repeat(100) + &"]".repeat(100), "{a: ".repeat(100) + &"}".repeat(100)] {
        assert!(refusal(document(&format!("a: {deep}"))).1.contains("nested more than"), "{deep}");
    }
    let mut nested = "a0: &a0 [x]\n".to_owned();
    nested.extend((1..100).map(|i| format!("a{i}: &a{i} [*a{}]\n", i - 1)));
    assert!(refusal(document(&nested)).1.contains("nested more than"));

    assert!(refusal(document(&format!("a: {}", "x".repeat(1 << 20)))).1.contains("more than 1024 KiB"));
    assert!(refusal(document(&format!("{}: 1", "x".repeat(300)))).1.contains("the key has more than 200 bytes"));
}

#[test]
fn a_document_has_a_bounded_number_of_services() {
    // Each waits for the next, so that their order is all to be turned around.
    let chain = |count: usize| {
        let link = |i: usize| format!("  s{i}: {{image: x, depends_on: [s{}]}}\n", i + 1);
        let links: Vec<_> = (1..count).map(link).collect();
        stack(&format!("services:\n{}  s{count}: {{image: x}}\n", links.concat()))
    };
    let longest = chain(500).expect("translated");
    assert_eq!((longest.services.len(), longest.services[0].name.as_str()), (500, "s500"));
    assert_eq!(longest.services[499].name.as_str(), "s1");
    assert_eq!(refusal(chain(501)).1, "services: there are 501 services, and 500 is the limit");
}

#[test]
fn errors_and_debug_output_hold_no_variable() {
    let variables = BTreeMap::from([("TOKEN".to_owned(), "s3cr3t".to_owned())]);
    let source = Source {
        file: "shop.yml",
        text: "services: {a: {image: x}}\nsecrets: {t: {environment: TOKEN}}",
        directory: None,
        variables: &variables,
    };
    let document = parse(source).expect("read");
    let stack = stack_of(&document).expect("translated");
    let shown = format!("{source:?} {document:?} {stack:?} {}", document.to_yaml());
    assert!(!shown.contains("s3cr3t"), "{shown}");
}
