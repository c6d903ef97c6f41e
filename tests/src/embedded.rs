//! Environments as processes, with a proxy whose routes are kept, opened by this process itself: for tests that end the process at a chosen call.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use ondemand_core::config::Accounts;
use ondemand_core::environments::FoundAt;
use ondemand_core::fakes::{FaultPlan, Faulty};
use ondemand_core::router::{Proxy, Saved};
use ondemand_core::{Config, Environments, Ondemand, Router};

use crate::crash_config;
use crate::shop::visit_through;

/// One service that answers at once with the commit it was deployed for, under two names, on a database.
const TEMPLATE: &str = r#"x-ondemand:
  routes:
    - { suffix: "", service: web, port: 3000, path: /, status: 200 }
    - { suffix: api, service: web, port: 3000, path: /, status: 200 }
  back: { services: [web], repository: shop/back, branch: main }
  database: { dump: production }
services:
  web:
    image: none
    entrypoint: [/usr/bin/perl, SERVER]
    environment: { COMMIT: "{{ back.commit }}", DATABASE_PASSWORD_FILE: "{{ secrets.database_password }}" }
"#;
/// What the service runs.
const SERVER: &str = r#"use IO::Socket::INET;
$SIG{PIPE} = 'IGNORE';
my $listener = IO::Socket::INET->new(LocalAddr => "127.0.0.1:$ENV{PORT}", Listen => 50, ReuseAddr => 1) or die $!;
while (my $client = $listener->accept) {
    while (<$client>) { last if /^\r?$/ }
    my $length = length $ENV{COMMIT};
    print $client "HTTP/1.1 200 OK\r\nContent-Length: $length\r\nConnection: close\r\n\r\n$ENV{COMMIT}";
    close $client;
}
"#;

/// A data directory with environments that is open.
#[derive(Debug)]
pub struct Embedded {
    /// All of it.
    pub ondemand: Ondemand,
    /// Its environments.
    pub environments: Environments,
    proxy: Proxy,
}

/// Where what services run is, which their sandboxes show.
fn programs(directory: &Path) -> PathBuf {
    directory.join("programs")
}

/// Writes the template, and what its service runs, below a directory; `shop` holds its repositories.
///
/// # Errors
/// If they cannot be written.
pub fn write_template(directory: &Path) -> Result<()> {
    let (templates, server) = (directory.join("templates"), programs(directory).join("server.pl"));
    std::fs::create_dir_all(&templates)?;
    std::fs::create_dir_all(programs(directory))?;
    std::fs::write(&server, SERVER)?;
    let template = TEMPLATE.replace("SERVER", server.to_str().context("a path that is text")?);
    Ok(std::fs::write(templates.join("web.yml"), template)?)
}

/// Returns the configuration of environments below a directory that [`write_template`] and [`Shop`](crate::Shop) have prepared.
#[must_use]
pub fn config(directory: &Path, first_port: u16) -> Config {
    let mut config = crash_config(directory.join("data"), first_port);
    config.environments.templates = Some(directory.join("templates"));
    config.environments.sandbox_paths = vec![programs(directory)];
    config.github.accounts = Accounts::None;
    config.github.url = format!("file://{}", PathBuf::from(directory).join("shop/repositories").display());
    config.proxy.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.proxy.workers = Some(1);
    config
}

impl Embedded {
    /// Opens it, with all that it calls going wrong as a plan says.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn open(config: &Config, plan: &FaultPlan) -> Result<Self> {
        let faulty = |plan: &FaultPlan| (plan.clone(), plan.clone());
        let (for_store, for_databases) = faulty(plan);
        let (for_router, for_environments) = faulty(plan);
        let ondemand = Ondemand::open_wrapped(
            config,
            |store| Arc::new(Faulty::new(store, for_store)),
            |orchestrator| Arc::new(Faulty::new(orchestrator, for_databases)),
        )
        .await?;
        let saved = Saved::read(config.data_dir.join("routes")).await?;
        let proxy = Proxy::start_with(&config.proxy, saved.routes()).await?;
        let router: Arc<dyn Router> = Arc::new(saved.keep(Arc::new(proxy.clone())));
        let here = format!("http://{}", proxy.address());
        let found = FoundAt { by_people: here.replace("127.0.0.1", "{host}"), here };
        let router = Arc::new(Faulty::new(router, for_router));
        let ondemand = ondemand.with_environments_wrapped(config, router, &found, |orchestrator| {
            Arc::new(Faulty::new(orchestrator, for_environments))
        })?;
        let environments = ondemand.environments.clone().context("environments")?;
        Ok(Self { ondemand, environments, proxy })
    }

    /// Asks for a page through the proxy, and returns the status and the text.
    ///
    /// # Errors
    /// If the proxy does not answer.
    pub async fn visit(&self, host: &str) -> Result<(u16, String)> {
        visit_through(self.proxy.address(), host, "/").await
    }
}
