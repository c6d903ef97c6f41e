//! What environment variables and flags change of the configuration.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, FromArgMatches, ValueEnum};
use ondemand_core::config::{OrchestratorKind, StoreKind};
use ondemand_core::{Config, DatasetRef, Size, Ttl};

use super::environments::EnvironmentsOverrides;
use super::proxy::{ProxyOverrides, absolute};
use crate::failure::Failure;

/// What environment variables and flags change of the configuration. A flag beats its variable, and both beat the file.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Overrides {
    #[command(flatten)]
    pub(crate) api: ApiOverrides,
    /// What runs databases [default: process]
    #[arg(long, env = "ONDEMAND_ORCHESTRATOR", value_name = "KIND")]
    pub(crate) orchestrator: Option<Orchestrator>,
    /// What keeps data [default: auto]
    #[arg(long, env = "ONDEMAND_STORE", value_name = "KIND")]
    pub(crate) store: Option<Store>,
    /// The size of the loop-file pool that is made where there is no BTRFS; the file is sparse
    #[arg(long, env = "ONDEMAND_POOL_SIZE", value_name = "SIZE")]
    pub(crate) pool_size: Option<Size>,
    /// The address that databases listen on [default: 127.0.0.1]
    #[arg(long, env = "ONDEMAND_DATABASE_LISTEN", value_name = "ADDRESS")]
    pub(crate) database_listen: Option<std::net::IpAddr>,
    /// The host name that clients of databases are told
    #[arg(long, env = "ONDEMAND_HOST", value_name = "NAME")]
    pub(crate) host: Option<String>,
    /// The ports that databases may have [default: 5433-6432]
    #[arg(long, env = "ONDEMAND_PORTS", value_name = "FIRST-LAST")]
    pub(crate) ports: Option<Ports>,
    /// How long a database lives unless it is said [default: 1d]
    #[arg(long, env = "ONDEMAND_DEFAULT_TTL", value_name = "TIME")]
    pub(crate) default_ttl: Option<Ttl>,
    /// How long a database may live [default: 30d]
    #[arg(long, env = "ONDEMAND_MAX_TTL", value_name = "TIME")]
    pub(crate) max_ttl: Option<Ttl>,
    /// What is cloned unless it is said [default: the only dataset]
    #[arg(long, env = "ONDEMAND_DEFAULT_DATASET", value_name = "DATASET[@VERSION]")]
    pub(crate) default_dataset: Option<DatasetRef>,
    /// How many databases may live at a time [default: as many as there are ports]
    #[arg(long, env = "ONDEMAND_MAX_DATABASES", value_name = "NUMBER")]
    pub(crate) max_databases: Option<usize>,
    /// Where the programs of Postgres are [default: looked for]
    #[arg(long, env = "ONDEMAND_POSTGRES_BIN_DIR", value_name = "DIR")]
    pub(crate) postgres_bin_dir: Option<PathBuf>,
    /// Where the Docker Engine answers: `unix:///PATH` or `tcp://HOST:PORT` [default: as `docker` finds it]
    #[arg(long, env = "ONDEMAND_DOCKER_HOST", value_name = "ADDRESS")]
    pub(crate) docker_host: Option<String>,
    /// The image that has Postgres; `{major}` stands for its major version [default: postgres:{major}]
    #[arg(long, env = "ONDEMAND_DOCKER_IMAGE", value_name = "IMAGE")]
    pub(crate) docker_image: Option<String>,
    /// Run no proxy
    #[arg(long, env = "ONDEMAND_NO_PROXY", value_parser = FalseyValueParser::new())]
    pub(crate) no_proxy: bool,
    #[command(flatten)]
    pub(crate) environments: EnvironmentsOverrides,
    #[command(flatten)]
    pub(crate) proxy: ProxyOverrides,
}

/// What they change for a proxy that stands alone.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ProxyOnly {
    #[command(flatten)]
    api: ApiOverrides,
    #[command(flatten)]
    proxy: ProxyOverrides,
}

impl From<ProxyOnly> for Overrides {
    fn from(ProxyOnly { api, proxy }: ProxyOnly) -> Self {
        Self { api, proxy, ..Self::default() }
    }
}

/// What they change of what every server has: a data directory, and an API.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ApiOverrides {
    /// Where everything is kept [default: /var/lib/ondemand]
    #[arg(long, env = "ONDEMAND_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where the API listens [default: 127.0.0.1:8080]
    #[arg(long, env = "ONDEMAND_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Listen beyond loopback without a token: whoever reaches the address may do everything
    #[arg(long, env = "ONDEMAND_ALLOW_ANONYMOUS", value_parser = FalseyValueParser::new())]
    pub(crate) allow_anonymous: bool,
    /// A name under which a server without a token answers, beside those of this machine itself
    #[arg(long = "http-host", env = "ONDEMAND_HTTP_HOSTS", value_name = "NAME", value_delimiter = ',')]
    pub(crate) http_hosts: Vec<String>,
}

/// What runs databases.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Orchestrator {
    /// Child processes of this host
    Process,
    /// Containers of one Docker Engine
    Docker,
}

/// What keeps data.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Store {
    /// BTRFS where the data directory is on it, else a loop-file pool, else copies
    Auto,
    /// BTRFS, or an error
    Btrfs,
    /// Reflinks where the file system has them, else plain copies
    Copy,
}

/// A range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    first: u16,
    last: u16,
}

impl std::str::FromStr for Ports {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err("write it as 5433-6432, the lower port first"),
        }
    }
}

impl Overrides {
    /// Returns what environment variables say, for a command that has no flags for it.
    pub(crate) fn of_environment() -> Result<Self, Failure> {
        let command = Self::augment_args(clap::Command::new("ondemand").no_binary_name(true));
        let words: [&str; 0] = [];
        let matches = command.try_get_matches_from(words);
        let overrides = matches.and_then(|matches| Self::from_arg_matches(&matches));
        overrides.map_err(|e| Failure::caused("an environment variable is not understood", &e).with_exit(2))
    }

    /// Makes paths absolute: what is written on a command line is meant from where one stands.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        if let Some(dir) = &mut self.api.data_dir {
            *dir = absolute(dir)?;
        }
        self.environments.settle()?;
        self.proxy.settle()
    }

    /// Changes a configuration.
    pub(super) fn apply(self, config: &mut Config) {
        // Named one by one, so that none is forgotten.
        let Self {
            api,
            orchestrator,
            store,
            pool_size,
            database_listen,
            host,
            ports,
            default_ttl,
            max_ttl,
            default_dataset,
            max_databases,
            postgres_bin_dir,
            docker_host,
            docker_image,
            no_proxy,
            environments,
            proxy,
        } = self;
        api.apply(config);
        set(&mut config.orchestrator, orchestrator.map(Into::into));
        set(&mut config.store, store.map(Into::into));
        set_option(&mut config.pool.size, pool_size);
        let databases = &mut config.databases;
        set(&mut databases.listen, database_listen);
        set_option(&mut databases.host, host);
        if let Some(Ports { first, last }) = ports {
            (databases.first_port, databases.last_port) = (first, last);
        }
        set(&mut databases.default_ttl, default_ttl);
        set(&mut databases.max_ttl, max_ttl);
        set_option(&mut databases.default_dataset, default_dataset);
        set_option(&mut databases.max, max_databases);
        set_option(&mut config.postgres.bin_dir, postgres_bin_dir);
        set_option(&mut config.docker.host, docker_host);
        set(&mut config.docker.image, docker_image);
        config.proxy.enabled &= !no_proxy;
        environments.apply(config);
        proxy.apply(&mut config.proxy);
    }
}

impl ApiOverrides {
    fn apply(self, config: &mut Config) {
        let Self { data_dir, listen, allow_anonymous, mut http_hosts } = self;
        set(&mut config.data_dir, data_dir);
        set(&mut config.http.listen, listen);
        config.http.allow_anonymous |= allow_anonymous;
        // A variable that is set to nothing says nothing.
        http_hosts.retain(|host| !host.is_empty());
        set(&mut config.http.hosts, Some(http_hosts).filter(|hosts| !hosts.is_empty()));
    }
}

pub(super) fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

pub(super) fn set_option<T>(field: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *field = value;
    }
}

impl From<Orchestrator> for OrchestratorKind {
    fn from(kind: Orchestrator) -> Self {
        match kind {
            Orchestrator::Process => Self::Process,
            Orchestrator::Docker => Self::Docker,
        }
    }
}

impl From<Store> for StoreKind {
    fn from(kind: Store) -> Self {
        match kind {
            Store::Auto => Self::Auto,
            Store::Btrfs => Self::Btrfs,
            Store::Copy => Self::Copy,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use ondemand_core::config::CertificateFiles;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        overrides: Overrides,
    }

    fn overrides(arguments: &[&str]) -> Overrides {
        Line::parse_from(["test"].iter().chain(arguments)).overrides
    }

    #[test]
    fn flags_change_what_they_name_and_nothing_else() {
        let mut config = Config::parse("data-dir = \"/srv\"\n[databases]\nhost = \"pg.internal\"\n").expect("a file");
        overrides(&["--ports", "6000-6100", "--default-ttl", "2h"]).apply(&mut config);
        let mut expected = Config { data_dir: "/srv".into(), ..Config::default() };
        expected.databases.host = Some("pg.internal".into());
        (expected.databases.first_port, expected.databases.last_port) = (6000, 6100);
        expected.databases.default_ttl = "2h".parse().expect("a ttl");
        assert_eq!(config, expected);
    }

    #[test]
    fn everything_of_the_proxy_can_be_changed() {
        let arguments = [
            "--no-proxy",
            "--proxy-listen=0.0.0.0:80",
            "--proxy-tls-listen=0.0.0.0:443",
            "--tls-certificate=/c.pem",
            "--tls-key=/k.pem",
            "--redirect-to-https",
            "--proxy-workers=3",
            "--trust-forwarded",
            "--access-log",
            "--max-connections=7",
            "--max-connections-per-client=5",
            "--drain-timeout=9s",
        ];
        let file = "[[proxy.certificates]]\ncertificate = '/a'\nkey = '/b'\n";
        let mut config = Config::parse(file).expect("a file");
        overrides(&arguments).apply(&mut config);
        let mut expected = Config::default();
        let proxy = &mut expected.proxy;
        proxy.enabled = false;
        proxy.listen = "0.0.0.0:80".parse().expect("an address");
        proxy.tls_listen = Some("0.0.0.0:443".parse().expect("an address"));
        proxy.certificates = vec![CertificateFiles { certificate: "/c.pem".into(), key: "/k.pem".into() }];
        (proxy.redirect, proxy.trust_forwarded, proxy.access_log) = (true, true, true);
        (proxy.workers, proxy.max_connections, proxy.max_connections_per_client) = (Some(3), 7, 5);
        proxy.drain_timeout = "9s".parse().expect("a time");
        assert_eq!(config, expected);
        for half in ["--tls-certificate=/c.pem", "--tls-key=/k.pem"] {
            assert!(Line::try_parse_from(["test", half]).is_err(), "{half}");
        }
    }

    #[test]
    fn paths_are_meant_from_where_one_stands() {
        let mut overrides = overrides(&["--data-dir=d", "--tls-certificate=c.pem", "--tls-key=/k.pem"]);
        overrides.settle().expect("a directory to stand in");
        let here = std::env::current_dir().expect("a directory");
        assert_eq!(overrides.api.data_dir, Some(here.join("d")));
        assert_eq!(overrides.proxy.tls_certificate, Some(here.join("c.pem")));
        assert_eq!(overrides.proxy.tls_key.as_deref(), Some(Path::new("/k.pem")));
    }

    #[test]
    fn everything_can_be_changed() {
        let arguments = [
            "--data-dir=/d",
            "--listen=[::1]:80",
            "--allow-anonymous",
            "--http-host=dev.internal",
            "--http-host=a.internal,b.internal",
            "--orchestrator=docker",
            "--store=copy",
            "--pool-size=2G",
            "--database-listen=0.0.0.0",
            "--host=pg",
            "--ports=7000",
            "--default-ttl=1h",
            "--max-ttl=2h",
            "--default-dataset=shop",
            "--max-databases=3",
            "--postgres-bin-dir=/b",
        ];
        let mut config = Config::default();
        overrides(&arguments).apply(&mut config);
        assert_eq!(config.data_dir, Path::new("/d"));
        assert_eq!(config.http.listen.to_string(), "[::1]:80");
        assert!(config.http.allow_anonymous);
        assert_eq!(config.http.hosts, ["dev.internal", "a.internal", "b.internal"]);
        assert_eq!((config.orchestrator, config.store), (OrchestratorKind::Docker, StoreKind::Copy));
        assert_eq!(config.pool.size, Some(Size(2 << 30)));
        assert_eq!(config.databases.listen.to_string(), "0.0.0.0");
        assert_eq!(config.databases.host.as_deref(), Some("pg"));
        assert_eq!((config.databases.first_port, config.databases.last_port), (7000, 7000));
        assert_eq!(config.databases.default_ttl.to_string(), "1h");
        assert_eq!(config.databases.max_ttl.to_string(), "2h");
        assert_eq!(config.databases.default_dataset.map(|d| d.to_string()).as_deref(), Some("shop"));
        assert_eq!(config.databases.max, Some(3));
        assert_eq!(config.postgres.bin_dir.as_deref(), Some(Path::new("/b")));
    }

    #[test]
    fn bad_ranges_of_ports_are_refused() {
        for bad in ["", "-", "0", "0-1", "6000-5999", "1-65536", "a-b", "1-2-3"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
    }
}
