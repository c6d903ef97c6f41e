//! The configuration as a file would have it, without its secrets.

use ondemand_core::Config;
use ondemand_core::config::{
    CertificateFiles, DatabasesConfig, DockerConfig, EnvironmentsConfig, GitHubConfig, HttpConfig, LimitsConfig,
    PoolConfig, PostgresConfig, ProxyConfig, SwarmConfig,
};
use serde::Serialize;
use toml::{Table, Value};

use crate::failure::Failure;

/// What stands where a secret is.
const MASK: &str = "****";

/// Writes a configuration as TOML, secrets masked.
pub(crate) fn show(config: &Config) -> Result<String, Failure> {
    let table = to_table(config).map_err(|e| Failure::caused("writing the configuration", &e))?;
    toml::to_string(&table).map_err(|e| Failure::caused("writing the configuration", &e))
}

/// Collects the entries of a section, and leaves out those without a value and sections without entries.
#[derive(Default)]
struct Section(Table);

impl Section {
    fn with(mut self, key: &str, value: impl Serialize) -> Result<Self, toml::ser::Error> {
        let value = Value::try_from(value)?;
        if !value.as_table().is_some_and(Table::is_empty) {
            self.0.insert(key.into(), value);
        }
        Ok(self)
    }

    fn with_option(self, key: &str, value: Option<impl Serialize>) -> Result<Self, toml::ser::Error> {
        match value {
            Some(value) => self.with(key, value),
            None => Ok(self),
        }
    }
}

/// The structs are taken apart field by field, so that a new field cannot be forgotten here.
fn to_table(config: &Config) -> Result<Table, toml::ser::Error> {
    let Config {
        data_dir,
        orchestrator,
        store,
        http,
        databases,
        environments,
        github,
        swarm,
        postgres,
        docker,
        pool,
        proxy,
    } = config;
    let top = Section::default()
        .with("data-dir", data_dir)?
        .with("orchestrator", orchestrator)?
        .with("store", store)?
        .with("http", http_table(http)?)?
        .with("proxy", proxy_table(proxy)?)?
        .with("databases", databases_table(databases)?)?
        .with("environments", environments_table(environments)?)?
        .with("github", github_table(github)?)?
        .with("swarm", swarm_table(swarm)?)?
        .with("docker", docker_table(docker)?)?;
    let PostgresConfig { bin_dir, user } = postgres;
    let postgres = Section::default().with_option("bin-dir", bin_dir.as_ref())?.with_option("user", user.as_ref())?;
    let PoolConfig { size } = pool;
    let pool = Section::default().with_option("size", size.as_ref())?;
    Ok(top.with("postgres", postgres.0)?.with("pool", pool.0)?.0)
}

fn http_table(config: &HttpConfig) -> Result<Table, toml::ser::Error> {
    let HttpConfig {
        listen,
        token,
        allow_anonymous,
        hosts,
        max_body,
        max_upload,
        max_connections,
        max_connections_per_client,
    } = config;
    let section = Section::default()
        .with("listen", listen)?
        .with_option("token", token.as_ref().map(|_| MASK))?
        .with("allow-anonymous", allow_anonymous)?
        .with("hosts", hosts)?
        .with("max-body", max_body)?
        .with_option("max-upload", max_upload.as_ref())?
        .with("max-connections", max_connections)?
        .with("max-connections-per-client", max_connections_per_client)?;
    Ok(section.0)
}

fn proxy_table(config: &ProxyConfig) -> Result<Table, toml::ser::Error> {
    let ProxyConfig {
        enabled,
        listen,
        tls_listen,
        certificates,
        redirect,
        workers,
        trust_forwarded,
        access_log,
        max_connections,
        max_connections_per_client,
        max_header_size,
        max_headers,
        max_pending,
        header_timeout,
        keep_alive_timeout,
        idle_timeout,
        upgrade_idle_timeout,
        connect_timeout,
        response_timeout,
        pending_timeout,
        drain_timeout,
        max_metrics_routes,
    } = config;
    let pair = |CertificateFiles { certificate, key }: &CertificateFiles| {
        Ok::<_, toml::ser::Error>(Section::default().with("certificate", certificate)?.with("key", key)?.0)
    };
    let certificates: Vec<Table> = certificates.iter().map(pair).collect::<Result<_, toml::ser::Error>>()?;
    let section = Section::default()
        .with("enabled", enabled)?
        .with("listen", listen)?
        .with_option("tls-listen", tls_listen.as_ref())?
        .with("certificates", certificates)?
        .with("redirect", redirect)?
        .with_option("workers", workers.as_ref())?
        .with("trust-forwarded", trust_forwarded)?
        .with("access-log", access_log)?
        .with("max-connections", max_connections)?
        .with("max-connections-per-client", max_connections_per_client)?
        .with("max-header-size", max_header_size)?
        .with("max-headers", max_headers)?
        .with("max-pending", max_pending)?
        .with("header-timeout", header_timeout)?
        .with("keep-alive-timeout", keep_alive_timeout)?
        .with("idle-timeout", idle_timeout)?
        .with_option("upgrade-idle-timeout", upgrade_idle_timeout.as_ref())?
        .with("connect-timeout", connect_timeout)?
        .with("response-timeout", response_timeout)?
        .with("pending-timeout", pending_timeout)?
        .with("drain-timeout", drain_timeout)?
        .with("max-metrics-routes", max_metrics_routes)?;
    Ok(section.0)
}

fn databases_table(config: &DatabasesConfig) -> Result<Table, toml::ser::Error> {
    let DatabasesConfig {
        listen,
        host,
        first_port,
        last_port,
        max,
        default_ttl,
        max_ttl,
        default_dataset,
        ready_timeout,
        reap_interval,
        sandbox,
        settings,
        limits: LimitsConfig { memory, cpus, processes },
    } = config;
    let limits = Section::default()
        .with_option("memory", memory.as_ref())?
        .with_option("cpus", cpus.as_ref())?
        .with_option("processes", processes.as_ref())?;
    let section = Section::default()
        .with("listen", listen)?
        .with_option("host", host.as_ref())?
        .with("first-port", first_port)?
        .with("last-port", last_port)?
        .with_option("max", max.as_ref())?
        .with("default-ttl", default_ttl)?
        .with("max-ttl", max_ttl)?
        .with_option("default-dataset", default_dataset.as_ref())?
        .with("ready-timeout", ready_timeout)?
        .with("reap-interval", reap_interval)?
        .with("sandbox", sandbox)?
        .with("settings", settings)?
        .with("limits", limits.0)?;
    Ok(section.0)
}

fn environments_table(config: &EnvironmentsConfig) -> Result<Table, toml::ser::Error> {
    let EnvironmentsConfig {
        templates,
        template,
        orchestrator,
        user,
        domain,
        public_url,
        proxy,
        router,
        router_token,
        variables,
        max,
        max_per_user,
        default_keep_days,
        max_keep_days,
        reserved_names,
        ready_timeout,
        follow_interval,
        sandbox,
        sandbox_paths,
    } = config;
    let section = Section::default()
        .with_option("templates", templates.as_ref())?
        .with_option("template", template.as_ref())?
        .with("orchestrator", orchestrator)?
        .with_option("user", user.as_ref())?
        .with("domain", domain)?
        .with_option("public-url", public_url.as_ref())?
        .with_option("proxy", proxy.as_ref())?
        .with_option("router", router.as_ref())?
        .with_option("router-token", router_token.as_ref().map(|_| MASK))?
        .with("max", max)?
        .with("max-per-user", max_per_user)?
        .with("default-keep-days", default_keep_days)?
        .with("max-keep-days", max_keep_days)?
        .with("reserved-names", reserved_names)?
        .with("ready-timeout", ready_timeout)?
        .with("follow-interval", follow_interval)?
        .with("sandbox", sandbox)?
        .with("sandbox-paths", sandbox_paths)?
        .with("variables", variables)?;
    Ok(section.0)
}

fn github_table(config: &GitHubConfig) -> Result<Table, toml::ser::Error> {
    let GitHubConfig { accounts, url, api, organisations, any_github_user } = config;
    let section = Section::default()
        .with("accounts", accounts)?
        .with("url", url)?
        .with("api", api)?
        .with("organisations", organisations)?
        .with("any-github-user", any_github_user)?;
    Ok(section.0)
}

fn swarm_table(config: &SwarmConfig) -> Result<Table, toml::ser::Error> {
    let SwarmConfig { host, registry_auth, ingress, volume_cleaner } = config;
    let section = Section::default()
        .with_option("host", host.as_ref())?
        .with_option("registry-auth", registry_auth.as_ref())?
        .with("ingress", ingress)?
        .with("volume-cleaner", volume_cleaner)?;
    Ok(section.0)
}

fn docker_table(config: &DockerConfig) -> Result<Table, toml::ser::Error> {
    let DockerConfig { host, image, bin_dir } = config;
    let section =
        Section::default().with_option("host", host.as_ref())?.with("image", image)?.with("bin-dir", bin_dir)?;
    Ok(section.0)
}

#[cfg(test)]
mod tests {
    use ondemand_core::Secret;

    use super::*;

    #[test]
    fn what_is_shown_says_the_same() {
        let full = r#"
            data-dir = "/srv"
            orchestrator = "docker"
            store = "copy"
            [http]
            listen = "0.0.0.0:80"
            token = "****"
            allow-anonymous = true
            hosts = ["dev.internal", "::2"]
            max-body = "2M"
            max-upload = "200G"
            max-connections = 30
            max-connections-per-client = 20
            [proxy]
            enabled = false
            listen = "0.0.0.0:80"
            tls-listen = "0.0.0.0:443"
            certificates = [{ certificate = "/a.pem", key = "/a.key" }, { certificate = "/b.pem", key = "/b.key" }]
            redirect = true
            workers = 3
            trust-forwarded = true
            access-log = true
            max-connections = 1000
            max-connections-per-client = 100
            max-header-size = "16K"
            max-headers = 50
            max-pending = 10
            header-timeout = "1s"
            keep-alive-timeout = "2s"
            idle-timeout = "3s"
            upgrade-idle-timeout = "4s"
            connect-timeout = "5s"
            response-timeout = "6s"
            pending-timeout = "7s"
            drain-timeout = "8s"
            max-metrics-routes = 9
            [databases]
            listen = "0.0.0.0"
            host = "pg.internal"
            first-port = 6000
            last-port = 6001
            max = 1
            default-ttl = "2h"
            max-ttl = "7d"
            default-dataset = "shop@20261122-192300"
            ready-timeout = "5s"
            reap-interval = "1m"
            sandbox = "off"
            settings = { work_mem = "64MB" }
            limits = { memory = "4G", cpus = 1.5, processes = 100 }
            [environments]
            templates = "/etc/ondemand/templates"
            template = "shop"
            orchestrator = "swarm"
            user = "builder"
            domain = "env.dev.internal"
            public-url = "https://{host}"
            proxy = "http://10.0.0.1"
            router = "http://10.0.0.1:8080"
            router-token = "****"
            max = 5
            max-per-user = 2
            default-keep-days = 4
            max-keep-days = 6
            reserved-names = ["intranet"]
            ready-timeout = "20m"
            follow-interval = "2s"
            sandbox = "required"
            sandbox-paths = ["/opt/node", "/srv/tools"]
            [environments.variables]
            RUNNER_IMAGE = "registry.dev.internal/runner:3"
            [github]
            accounts = "none"
            url = "https://git.internal/"
            api = "https://git.internal/api/v3/"
            organisations = ["shop"]
            any-github-user = true
            [swarm]
            host = "tcp://10.0.0.1:2375"
            registry-auth = "/etc/ondemand/registries.json"
            ingress = true
            volume-cleaner = "registry.dev.internal/docker:28-cli"
            [postgres]
            bin-dir = "/opt/pg/bin"
            user = "pg"
            [docker]
            host = "unix:///run/x.sock"
            image = "pg:{major}"
            bin-dir = "/pg/{major}"
            [pool]
            size = "20G"
        "#;
        let full = Config::parse(full).expect("a configuration");
        for config in [Config::default(), full] {
            let shown = show(&config).expect("text");
            assert_eq!(Config::parse(&shown).expect(&shown), config, "{shown}");
        }
    }

    #[test]
    fn secrets_are_masked() {
        let mut config = Config::default();
        config.http.token = Some(Secret::new("hunter2"));
        let shown = show(&config).expect("text");
        assert!(shown.contains("token = \"****\""), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
