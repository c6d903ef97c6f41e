//! Compose files in the manner of those that people deploy to Swarms, and what they become.
#![expect(clippy::expect_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ondemand_core::compose::{self, Document, Source};
use ondemand_core::orchestrator::{
    Condition, ConfigSpec, DeployMode, EndpointMode, FailureAction, FileMount, Mount, NetworkAttachment, Order,
    Publish, PublishMode, RestartCondition, RunAs, SecretSpec, ServiceSpec, StackSpec, StopSignal, Tmpfs, Transport,
    Ulimit, VolumeMount,
};
use ondemand_core::{AttemptId, Labels, StackName};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compose")
}

fn document(name: &str, variables: &[(&str, &str)]) -> Document {
    let directory = directory();
    let text = std::fs::read_to_string(directory.join(name)).expect("a compose file");
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let source = Source { file: name, text: &text, directory: Some(&directory), variables: &variables };
    let document = compose::parse(source).unwrap_or_else(|error| panic!("{error}"));
    let yaml = document.to_yaml();
    let again =
        compose::parse(Source { file: "again.yml", text: &yaml, ..source }).unwrap_or_else(|e| panic!("{e}\n{yaml}"));
    assert_eq!(again, document, "what is written says the same: {yaml}");
    assert_eq!(translate(&again), translate(&document));
    document
}

fn translate(document: &Document) -> StackSpec {
    let name = StackName::new("demo").expect("a name");
    let labels = Labels::new().with("ondemand.kind", "environment").expect("a label");
    let attempt = AttemptId::new("0123456789abcdef").expect("an attempt");
    document.to_stack(name, attempt, labels).unwrap_or_else(|error| panic!("{error}"))
}

fn stack(name: &str, variables: &[(&str, &str)]) -> StackSpec {
    let stack = translate(&document(name, variables));
    assert_eq!((stack.name.as_str(), stack.labels.get("ondemand.kind")), ("demo", Some("environment")));
    stack
}

fn names(stack: &StackSpec) -> Vec<&str> {
    stack.services.iter().map(|service| service.name.as_str()).collect()
}

fn service<'a>(stack: &'a StackSpec, name: &str) -> &'a ServiceSpec {
    stack.services.iter().find(|service| service.name.as_str() == name).expect("a service")
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn attachment(network: &str, aliases: &[&str]) -> NetworkAttachment {
    NetworkAttachment { network: network.into(), aliases: aliases.iter().map(ToString::to_string).collect() }
}

fn volume(name: &str, target: &str) -> VolumeMount {
    VolumeMount { volume: Some(name.into()), target: target.into(), read_only: false, nocopy: false }
}

fn bind(source: &str, target: &str, read_only: bool) -> Mount {
    Mount { source: source.into(), target: target.into(), read_only }
}

fn port(target: u16, published: u16, mode: PublishMode) -> Publish {
    Publish { target, published: Some(published), transport: Transport::Tcp, mode }
}

#[expect(clippy::unnecessary_wraps, reason = "what it is compared with may be missing")]
fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[test]
fn a_web_shop() {
    let stack = stack("shop.yml", &[("TAG", "42"), ("WEB_REPLICAS", "3"), ("SMTP_HOST", "mail")]);
    assert_eq!(names(&stack), ["postgres", "redis", "api", "web", "worker"]);

    let web = service(&stack, "web");
    assert_eq!(web.image.as_deref(), Some("registry.example/shop-web:42"));
    assert_eq!(web.publish, [port(8080, 80, PublishMode::Ingress)]);
    assert_eq!(web.networks, [attachment("inside", &[]), attachment("outside", &["shop"])]);
    assert_eq!(web.placement.mode, DeployMode::Replicated(3));
    let update = web.placement.update.as_ref().expect("how to update");
    assert_eq!((update.parallelism, update.order), (Some(1), Some(Order::StartFirst)));
    assert_eq!(update.failure_action, Some(FailureAction::Rollback));

    for service in &stack.services {
        let logging = service.container.logging.as_ref().expect("merged");
        assert_eq!((logging.driver.as_str(), logging.options["max-size"].as_str()), ("json-file", "10m"));
    }
    let restart = web.placement.restart_policy.as_ref().expect("merged");
    assert_eq!((restart.condition, restart.delay), (RestartCondition::OnFailure, seconds(5)));

    let api = service(&stack, "api");
    assert_eq!((api.command.len(), &api.arguments[..]), (0, &["serve".to_owned(), "--port".into(), "3000".into()][..]));
    assert_eq!(api.env["SMTP_HOST"], "mail");
    assert_eq!(api.env["REDIS_URL"], "redis://redis:6379/0");
    let health = api.healthcheck.as_ref().expect("a health check");
    assert_eq!(health.test, ["CMD", "curl", "-fs", "http://localhost:3000/health"]);
    assert_eq!((health.interval, health.timeout, health.start_period), (seconds(10), seconds(3), seconds(60)));
    assert_eq!(health.retries, Some(5));
    let conditions: Vec<_> = api.depends_on.iter().map(|d| (d.service.as_str(), d.condition)).collect();
    assert_eq!(conditions, [("postgres", Condition::Healthy), ("redis", Condition::Started)]);
    let secret = FileMount {
        source: "database_password".into(),
        target: Some("db".into()),
        uid: None,
        gid: None,
        mode: Some(0o400),
    };
    assert_eq!(api.secrets, [secret]);

    let worker = service(&stack, "worker");
    assert_eq!(worker.arguments, ["work", "--queues", "mail,orders"]);
    assert_eq!(worker.stop_grace, Duration::from_secs(120));

    let postgres = service(&stack, "postgres");
    assert_eq!(
        postgres.env,
        map(&[("POSTGRES_DB", "shop"), ("POSTGRES_PASSWORD_FILE", "/run/secrets/database_password")])
    );
    assert_eq!(postgres.volumes, [volume("data", "/var/lib/postgresql/data")]);
    assert_eq!((postgres.shm_size, postgres.stop_signal), (Some(256 << 20), StopSignal::Int));
    assert_eq!(postgres.placement.constraints, ["node.labels.disk == ssd"]);
    let restart = postgres.placement.restart_policy.as_ref().map(|policy| policy.condition);
    assert_eq!(restart, Some(RestartCondition::Any), "its own `deploy` takes the place of the merged one");
    assert_eq!(postgres.healthcheck.as_ref().expect("a check").test, ["CMD-SHELL", "pg_isready -U postgres"]);

    let redis = service(&stack, "redis");
    assert!(redis.container.read_only);
    assert_eq!(redis.tmpfs, [Tmpfs { target: "/data".into(), size: Some(64 << 20), mode: None }]);

    assert!(stack.networks["inside"].internal);
    assert_eq!(stack.networks["outside"].external.as_deref(), Some("ingress-proxy"));
    assert_eq!(stack.secrets["database_password"], SecretSpec::External("database_password".into()));
    assert_eq!(stack.volumes.keys().collect::<Vec<_>>(), ["data"]);
}

#[test]
fn a_web_shop_with_nothing_set() {
    let document = document("shop.yml", &[]);
    assert!(document.missing_variables().is_empty(), "all have defaults");
    let stack = translate(&document);
    assert_eq!(service(&stack, "web").image.as_deref(), Some("registry.example/shop-web:latest"));
    assert!(!service(&stack, "api").env.contains_key("SMTP_HOST"));
}

#[test]
fn a_voting_application() {
    let stack = stack("votes.yml", &[]);
    assert_eq!(names(&stack), ["redis", "vote", "db", "result", "worker"]);
    let vote = service(&stack, "vote");
    assert_eq!(vote.publish, [port(80, 5000, PublishMode::Ingress)]);
    assert_eq!(vote.placement.mode, DeployMode::Replicated(2));
    assert_eq!(vote.placement.update.as_ref().expect("an update").parallelism, Some(2));
    let worker = service(&stack, "worker");
    assert_eq!(worker.networks, [attachment("frontend", &[]), attachment("backend", &[])]);
    assert_eq!(worker.labels, map(&[("APP", "VOTING")]));
    assert_eq!(worker.placement.constraints, ["node.role == manager"]);
    let restart = worker.placement.restart_policy.as_ref().expect("a policy");
    assert_eq!((restart.delay, restart.max_attempts, restart.window), (seconds(10), Some(3), seconds(120)));
    assert_eq!(service(&stack, "db").volumes, [volume("db-data", "/var/lib/postgresql/data")]);
    assert_eq!(stack.networks.len(), 2);
}

#[test]
fn a_monitoring_stack() {
    let stack = stack("monitoring.yml", &[("ADMIN_PASSWORD", "hunter2")]);
    assert_eq!(names(&stack), ["node-exporter", "prometheus", "dashboard"]);
    let agent = service(&stack, "node-exporter");
    assert_eq!(agent.placement.mode, DeployMode::Global);
    assert_eq!(agent.mounts, [bind("/proc", "/host/proc", true), bind("/", "/rootfs", true)]);
    assert_eq!(agent.arguments[2], "--collector.filesystem.mount-points-exclude=^/(sys|proc|dev)($|/)");
    assert_eq!((agent.user, agent.container.user.as_deref()), (None, Some("root")));
    assert_eq!(agent.container.hostname.as_deref(), Some("{{.Node.Hostname}}"));
    let limits = agent.placement.limits;
    assert_eq!((limits.nano_cpus, limits.memory), (Some(100_000_000), Some(128 << 20)));
    assert_eq!(agent.placement.reservations.memory, Some(64 << 20));

    let prometheus = service(&stack, "prometheus");
    assert_eq!(prometheus.arguments[1], "--storage.tsdb.retention.time=15d");
    assert_eq!(prometheus.user, Some(RunAs { uid: 65534, gid: 65534 }));
    assert_eq!(prometheus.publish, [port(9090, 9090, PublishMode::Host)]);
    assert_eq!(prometheus.volumes, [VolumeMount { nocopy: true, ..volume("metrics", "/prometheus") }]);
    assert_eq!(prometheus.configs[0].target.as_deref(), Some("/etc/prometheus/prometheus.yml"));
    assert_eq!(prometheus.configs[0].mode, Some(0o444));
    assert_eq!(prometheus.container.ulimits["nofile"], Ulimit { soft: 65536, hard: 65536 });
    assert_eq!(prometheus.placement.spread, ["node.labels.zone"]);
    assert_eq!(prometheus.placement.max_replicas_per_node, Some(1));

    let dashboard = service(&stack, "dashboard");
    assert_eq!(dashboard.env["ADMIN_USER"], "admin");
    assert_eq!(dashboard.networks, [attachment("monitor", &["dashboards", "grafana.internal"])]);
    assert_eq!(dashboard.container.extra_hosts, [("ldap.internal".to_owned(), "10.1.2.3".to_owned())]);
    assert!(!format!("{stack:?}").contains("hunter2"));
    let SecretSpec::Content(password) = &stack.secrets["admin_password"] else { panic!("it has a content") };
    assert_eq!(password.expose(), "hunter2");

    let ConfigSpec::Content(config) = &stack.configs["prometheus"] else { panic!("it has a content") };
    assert!(config.starts_with("scrape_configs:\n  - job_name: nodes\n"), "{config}");
    assert!(config.ends_with("relabel_configs: [{ replacement: '${1}' }]\n"), "{config}");
    let monitor = &stack.networks["monitor"];
    assert!(monitor.attachable);
    assert_eq!((monitor.driver.as_deref(), &monitor.driver_opts), (Some("overlay"), &map(&[("encrypted", "true")])));
}

#[test]
fn services_behind_a_proxy() {
    let stack = stack("proxied.yml", &[("VERSION", "7")]);
    let proxy = service(&stack, "proxy");
    assert_eq!(
        proxy.arguments,
        [
            "--providers.swarm.endpoint=unix:///var/run/docker.sock",
            "--providers.swarm.exposedByDefault=false",
            "--entryPoints.web.address=:80",
        ]
    );
    assert_eq!(proxy.publish, [port(80, 80, PublishMode::Host), port(443, 443, PublishMode::Host)]);
    assert_eq!(proxy.mounts, [bind("/var/run/docker.sock", "/var/run/docker.sock", true)]);
    assert_eq!(proxy.networks, [attachment("public", &[])]);

    let app = service(&stack, "app");
    assert_eq!(app.image.as_deref(), Some("app:7"));
    assert_eq!(app.placement.endpoint_mode, Some(EndpointMode::Dnsrr));
    assert_eq!(
        app.labels,
        map(&[
            ("traefik.enable", "true"),
            ("traefik.http.middlewares.auth.basicauth.users", "someone:$2y$05$abc"),
            ("traefik.http.routers.app.rule", "Host(`app.example`) && PathPrefix(`/`)"),
            ("traefik.http.services.app.loadbalancer.server.port", "3000"),
        ])
    );
    let rollback = app.placement.rollback.as_ref().expect("how to take it back");
    assert_eq!((rollback.parallelism, rollback.failure_action), (Some(0), Some(FailureAction::Continue)));

    // One service names the default network, so the one that names none is in it too.
    assert_eq!(service(&stack, "cache").networks, [attachment("default", &[])]);
    assert_eq!(stack.networks["public"].external.as_deref(), Some("traefik-public"));
    assert_eq!(stack.volumes["certificates"].driver_opts["device"], ":/srv/certificates");

    let text = std::fs::read_to_string(directory().join("proxied.yml")).expect("a compose file");
    let variables = BTreeMap::new();
    let source = Source { file: "proxied.yml", text: &text, directory: None, variables: &variables };
    let error = compose::parse(source).expect_err("a variable is required").to_string();
    assert_eq!(error, "proxied.yml:25: the variable VERSION is not set: say which version");
}

#[test]
fn a_blog() {
    let stack = stack("blog.yml", &[("TZ", "Europe/Paris")]);
    assert_eq!(names(&stack), ["db", "blog"]);
    let db = service(&stack, "db");
    assert_eq!(db.arguments, ["--transaction-isolation=READ-COMMITTED", "--binlog-format=ROW"]);
    assert_eq!(db.env["MARIADB_RANDOM_ROOT_PASSWORD"], "1");
    assert_eq!(db.container.cap_drop, ["ALL"]);
    assert_eq!(db.container.cap_add, ["CHOWN", "SETGID", "SETUID", "DAC_OVERRIDE"]);
    assert_eq!(db.placement.restart_policy.as_ref().expect("a policy").condition, RestartCondition::Any);

    let blog = service(&stack, "blog");
    assert_eq!(
        blog.env,
        map(&[
            ("TZ", "Europe/Paris"),
            ("WORDPRESS_DB_HOST", "db:3306"),
            ("WORDPRESS_DB_NAME", "blog"),
            ("WORDPRESS_DB_PASSWORD_FILE", "/run/secrets/password"),
            ("WORDPRESS_DB_USER", "blog"),
            // The file says 1, and the service itself has the last word.
            ("WORDPRESS_DEBUG", ""),
            ("WORDPRESS_TITLE", "The \"shop\" of Europe/Paris"),
        ])
    );
    assert_eq!(blog.publish, [port(80, 8000, PublishMode::Ingress), port(81, 8001, PublishMode::Ingress)]);
    let restart = blog.placement.restart_policy.as_ref().expect("a policy");
    assert_eq!((restart.condition, restart.max_attempts), (RestartCondition::OnFailure, Some(3)));
    let secret = FileMount {
        source: "db_password".into(),
        target: Some("password".into()),
        uid: Some("33".into()),
        gid: Some("33".into()),
        mode: Some(0o400),
    };
    assert_eq!(blog.secrets, [secret]);
    assert_eq!(blog.tmpfs, [Tmpfs { target: "/tmp".into(), size: Some(128 << 20), mode: Some(0o1777) }]);
    assert_eq!((blog.container.read_only, blog.container.init), (true, Some(true)));
    let SecretSpec::Content(password) = &stack.secrets["db_password"] else { panic!("it has a content") };
    assert_eq!(password.expose(), "not much of a secret");
    assert_eq!(stack.volumes["db"].name.as_deref(), Some("blog-db"));
    assert_eq!(stack.volumes["db"].labels, map(&[("backup", "daily")]));
}

#[test]
fn jobs() {
    let document = document("jobs.yml", &[]);
    let stack = translate(&document);
    assert_eq!(names(&stack), ["migrate", "prune", "crunch", "api"]);
    let migrate = service(&stack, "migrate");
    assert_eq!(migrate.command, ["/bin/sh", "-c", "bin/migrate && echo done"]);
    assert_eq!(migrate.placement.mode, DeployMode::ReplicatedJob(1));
    assert_eq!(migrate.placement.restart_policy.as_ref().expect("a policy").condition, RestartCondition::None);
    let prune = service(&stack, "prune");
    assert_eq!(prune.command, ["docker", "image", "prune", "--force", "--filter", "until=24h"]);
    assert_eq!((prune.arguments.len(), prune.placement.mode), (0, DeployMode::GlobalJob));
    let crunch = service(&stack, "crunch");
    assert_eq!(crunch.arguments, ["bin/crunch", "--part", "{{.Task.Slot}}"]);
    assert_eq!(crunch.placement.mode, DeployMode::ReplicatedJob(5));
    assert_eq!((crunch.placement.limits.pids, crunch.shm_size), (Some(200), Some(1 << 30)));
    assert_eq!((crunch.stop_signal, crunch.working_dir.as_deref()), (StopSignal::Int, Some(Path::new("/srv/app"))));
    let api = service(&stack, "api");
    assert_eq!(api.container.init, Some(false));
    assert_eq!(api.healthcheck.as_ref().expect("a check").test, ["NONE"]);
    let conditions: Vec<_> = api.depends_on.iter().map(|d| (d.service.as_str(), d.condition)).collect();
    assert_eq!(conditions, [("migrate", Condition::CompletedSuccessfully), ("crunch", Condition::Started)]);

    let without = document.without_services(&["crunch"]).expect("it is not required");
    assert_eq!(names(&translate(&without)), ["migrate", "prune", "api"]);
    let error = document.without_services(&["migrate"]).expect_err("the API waits for its end").to_string();
    assert_eq!(
        error,
        "jobs.yml:33: services.api.depends_on.migrate: it waits for the service \"migrate\", which is left out"
    );
}

#[test]
fn anchors_and_merges() {
    let stack = stack("merged.yml", &[("LOG_LEVEL", "warn")]);
    let [first, second, third] = &stack.services[..] else { panic!("three services") };
    assert_eq!(first.env, map(&[("LANG", "C.UTF-8"), ("LOG_LEVEL", "warn")]));
    assert_eq!(second.env, map(&[("EXTRA", "yes"), ("LANG", "C.UTF-8"), ("LOG_LEVEL", "debug")]));
    let hosts: Vec<_> = stack.services.iter().map(|service| service.container.hostname.as_deref()).collect();
    assert_eq!(hosts, [Some("first"), Some("first"), Some("nobody")], "of merged mappings, the first wins");
    let images: Vec<_> = stack.services.iter().map(|service| service.image.as_deref()).collect();
    assert_eq!(images, [Some("app:1"), Some("app:2"), Some("app:1")]);
    for service in &stack.services {
        assert_eq!(service.placement.limits.memory, Some(256 << 20));
        assert_eq!(service.placement.mode, DeployMode::Replicated(2));
        assert_eq!(service.placement.restart_policy.as_ref().expect("a policy").condition, RestartCondition::Any);
    }
    let logging = third.container.logging.as_ref().expect("logging");
    assert_eq!(logging.driver, "json-file");
    assert_eq!(logging.options, map(&[("fluentd-address", "logs.internal:24224"), ("tag", "third")]));
}

#[test]
fn a_replicated_store() {
    let stack = stack("data.yml", &[("FALLBACK_VERSION", "8")]);
    let [one, two] = &stack.services[..] else { panic!("two services") };
    assert_eq!(one.image.as_deref(), Some("store:8"));
    assert_eq!(one.networks, [attachment("cluster", &["store"])]);
    assert_eq!(one.container.ulimits["memlock"], Ulimit { soft: -1, hard: -1 });
    assert_eq!(one.container.sysctls, map(&[("net.ipv4.tcp_keepalive_time", "60")]));
    assert_eq!(one.stop_grace, Duration::from_secs(90));
    let udp = Publish { transport: Transport::Udp, ..port(7001, 7001, PublishMode::Ingress) };
    assert_eq!(one.publish, [port(7000, 7000, PublishMode::Ingress), udp]);
    assert_eq!(one.mounts, [bind("/srv/store/one", "/data", false)]);
    let memory = |target: &str, size, mode| Tmpfs { target: target.into(), size, mode };
    assert_eq!(one.tmpfs, [memory("/scratch", Some(1 << 30), Some(0o700)), memory("/run/store", None, None)]);
    assert_eq!(one.placement.constraints, ["node.labels.store == one", "node.platform.os != windows"]);
    assert_eq!(one.placement.endpoint_mode, Some(EndpointMode::Vip));
    let restart = one.placement.restart_policy.as_ref().expect("a policy");
    assert_eq!((restart.delay, restart.window), (Some(Duration::from_millis(1500)), seconds(3600)));
    assert_eq!(two.mounts, [bind("/srv/store/two", "/data", false)]);
    assert_eq!(two.volumes.iter().map(|mount| mount.volume.as_deref()).collect::<Vec<_>>(), [None]);
    let update = two.placement.update.as_ref().expect("an update");
    assert_eq!((update.monitor, update.max_failure_ratio), (seconds(120), Some(0.25)));
    assert_eq!(update.failure_action, Some(FailureAction::Pause));
    assert_eq!(stack.networks["cluster"].labels, map(&[("tier", "data")]));
}
