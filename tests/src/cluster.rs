//! The laboratory as an operator would use it: a server over three nodes of a Swarm, a forge with the shop's repositories, and users with tokens.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ondemand_core::Secret;

use crate::forge::Forge;
use crate::shop::DATASET;
use crate::{Home, Server, ServerOptions, ports};

mod disk;
mod shown;

pub use disk::SmallDisk;

/// The repositories of the shop.
pub const REPOSITORIES: [&str; 2] = ["shop/back-web", "shop/front-web"];

/// What a template for the laboratory says; the image is the laboratory's.
const TEMPLATE: &str = r"
x-ondemand:
  routes:
    - { suffix: api, service: back, port: 3000, path: /health, status: 200 }
    - { suffix: admin, service: front, port: 8080, status: 200 }
  main: admin
  back: { services: [back], repository: shop/back-web, branch: master }
  front: { services: [front], repository: shop/front-web, branch: master }
  database: { dump: production, fixtures: fixtures }
  limits: { ready-timeout: 90s }
x-runner: &runner
  image: @IMAGE@
  stop_grace_period: 2s
  deploy: { placement: { constraints: [] } }
services:
  back:
    <<: *runner
    environment:
      ONDEMAND_REPOSITORY_URL: {{ back.url }}
      ONDEMAND_COMMIT: {{ back.commit }}
      ONDEMAND_BRANCH: {{ back.branch }}
      ONDEMAND_TOKEN_FILE: {{ secrets.token }}
      ONDEMAND_BUILD: sh build.sh
      ONDEMAND_RUN: exec perl server.pl
      ONDEMAND_FILE_VARIABLES: DATABASE_URL
      DATABASE_URL_FILE: {{ secrets.database_url }}
  front:
    <<: *runner
    environment:
      ONDEMAND_REPOSITORY_URL: {{ front.url }}
      ONDEMAND_COMMIT: {{ front.commit }}
      ONDEMAND_BRANCH: {{ front.branch }}
      ONDEMAND_TOKEN_FILE: {{ secrets.token }}
      ONDEMAND_BUILD: sh build.sh
      ONDEMAND_RUN: exec perl server.pl
      API_URL: {{ urls.api }}
";

/// Returns what the environment says of the laboratory. Tests in the runner's group `faults` end nodes, and have one of their own.
///
/// # Errors
/// If there is none.
pub fn variable(name: &str) -> Result<String> {
    let own = std::env::var("NEXTEST_TEST_GROUP").is_ok_and(|group| group == "faults");
    let name = if own { &name.replacen("ONDEMAND_TEST_", "ONDEMAND_FAULTS_", 1) } else { name };
    std::env::var(name).with_context(|| format!("{name} is not set: run the tests with `make test`, which sets it"))
}

/// A server over the laboratory.
#[derive(Debug)]
pub struct Cluster {
    /// Its data directory, and all else.
    pub home: Home,
    /// The server.
    pub server: Server,
    /// Git and GitHub.
    pub forge: Forge,
    /// How the server was started.
    pub options: ServerOptions,
}

impl Cluster {
    /// Starts one with the shop's repositories, its template, and the dataset `production`.
    ///
    /// # Errors
    /// If any of it does not start.
    pub async fn start() -> Result<Self> {
        Self::configured("").await
    }

    /// Starts one whose configuration of the Swarm says more.
    ///
    /// # Errors
    /// If any of it does not start.
    pub async fn configured(more: &str) -> Result<Self> {
        let host = variable("ONDEMAND_TEST_SWARM_HOST")?;
        let swarm = format!("[swarm]\nvolume-cleaner = '{}'\n{more}", variable("ONDEMAND_TEST_CLEANER_IMAGE")?);
        Self::on(&["--environments-orchestrator", "swarm", "--swarm-host", &host], &swarm).await
    }

    /// Starts one whose environments are containers of the tests' single engine, which is given the image that they are started from.
    ///
    /// # Errors
    /// If any of it does not start.
    pub async fn on_one_engine() -> Result<Self> {
        let (from, to) = (variable("ONDEMAND_TEST_SWARM_HOST")?, variable("ONDEMAND_TEST_DOCKER_HOST")?);
        let copy = r#"set -o pipefail; docker --host "$1" save "$2" | docker --host "$3" load"#;
        let mut command = std::process::Command::new("bash");
        command.args(["-c", copy, "copy", &from, &variable("ONDEMAND_TEST_RUNNER_IMAGE")?, &to]);
        crate::run(&mut command).await?;
        Self::on(&["--environments-orchestrator", "docker"], "").await
    }

    async fn on(orchestrator: &[&str], more: &str) -> Result<Self> {
        let home = Home::new()?;
        let bridge = variable("ONDEMAND_TEST_SWARM_BRIDGE")?;
        // Containers clone from it, so it listens on the bridge of the nodes.
        let forge = Forge::start_at(SocketAddr::new(bridge.parse()?, ports::free_port())).await?;
        for repository in REPOSITORIES {
            push(&forge, repository, "master", &[]).await?;
        }
        let templates = home.path().join("templates");
        std::fs::create_dir(&templates)?;
        let template = TEMPLATE.replace("@IMAGE@", &variable("ONDEMAND_TEST_RUNNER_IMAGE")?);
        std::fs::write(templates.join("shop.yml"), template)?;
        let config = format!(
            "[databases]\ndefault-dataset = 'production'\n[environments]\ndomain = 'env.dev.internal'\nmax = 100\nmax-per-user = 100\n\
             [github]\nurl = '{}'\napi = '{}'\n{more}",
            forge.url(),
            forge.api()
        );
        let config = home.file("ondemand.toml", config)?;
        let words = [
            ("--config", config.display().to_string()),
            ("--templates", templates.display().to_string()),
            // Containers on all nodes connect to their databases.
            ("--database-listen", bridge.clone()),
        ];
        let words = words.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let options = ServerOptions::default().with(words).with(orchestrator.iter().copied());
        let server = Server::start(&home.data(), &options).await?;
        server.import("production", DATASET).await?;
        Ok(Self { home, server, forge, options })
    }

    /// Returns a token that may read the shop's repositories.
    pub fn token(&self, login: &str) -> Secret {
        self.forge.token(login, &REPOSITORIES)
    }

    /// Imports the dataset that environments with fixtures have.
    ///
    /// # Errors
    /// If the server refuses it.
    pub async fn import_fixtures(&self) -> Result<()> {
        self.server.import("fixtures", DATASET.replace("product ", "fixture ")).await?;
        Ok(())
    }

    /// Has the services of environments that are made from now on run from another image.
    ///
    /// # Errors
    /// If the template cannot be changed.
    pub fn use_image(&self, image: &str) -> Result<()> {
        let usual = variable("ONDEMAND_TEST_RUNNER_IMAGE")?;
        self.change_template(|line| line.replace(&usual, image))
    }

    /// Has the services of environments that are made from now on run only on nodes of which this holds.
    ///
    /// # Errors
    /// If the template cannot be changed.
    pub fn run_where(&self, constraint: &str) -> Result<()> {
        self.change_template(|line| {
            if line.starts_with("  deploy:") {
                return format!("  deploy: {{ placement: {{ constraints: [{constraint:?}] }} }}");
            }
            line.to_owned()
        })
    }

    /// Has the services of environments that are made from now on share a volume.
    ///
    /// # Errors
    /// If the template cannot be changed.
    pub fn share_volume(&self) -> Result<()> {
        self.change_template(|line| match line {
            "x-runner: &runner" => format!("volumes: {{ cache: {{}} }}\n{line}\n  volumes: [ 'cache:/cache' ]"),
            line => line.to_owned(),
        })
    }

    /// Has the swarm start services again a second after they end, rather than five, in environments that are made from now on, and gives those so long
    /// to answer.
    ///
    /// # Errors
    /// If the template cannot be changed.
    pub fn start_again(&self, ready_timeout: &str) -> Result<()> {
        self.change_template(|line| {
            if line.starts_with("  deploy:") {
                return "  deploy: { restart_policy: { condition: any, delay: 1s } }".to_owned();
            }
            line.replace("ready-timeout: 90s", &format!("ready-timeout: {ready_timeout}"))
        })
    }

    fn change_template(&self, change: impl Fn(&str) -> String) -> Result<()> {
        let template = self.home.path().join("templates/shop.yml");
        let old = std::fs::read_to_string(&template)?;
        let new: String = old.lines().map(|line| change(line) + "\n").collect();
        ensure!(new != old, "there is nothing to change in the template");
        Ok(std::fs::write(&template, new)?)
    }

    /// Returns the body that asks for an environment.
    pub fn body(name: &str, token: &Secret) -> String {
        serde_json::json!({ "name": name, "github-token": token.expose() }).to_string()
    }

    /// Creates an environment.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn create(&self, name: &str, token: &Secret) -> Result<serde_json::Value> {
        self.server.succeed("POST", "/envs", Self::body(name, token)).await
    }

    /// Deletes an environment as its owner.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn delete(&self, name: &str, token: &Secret) -> Result<()> {
        let request = self.server.request(reqwest::Method::DELETE, &format!("/envs/{name}"));
        let answer = request.bearer_auth(token.expose()).send().await?;
        ensure!(answer.status().is_success(), "{}", answer.text().await?);
        Ok(())
    }

    /// Starts the server again after it has ended or was killed.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn again(self, kill: bool) -> Result<Self> {
        let Self { home, server, forge, options } = self;
        if kill {
            server.kill().await?;
        } else {
            server.stop().await?;
        }
        let server = Server::start(&home.data(), &options).await?;
        Ok(Self { home, server, forge, options })
    }

    /// Returns a command of Docker's client on the manager.
    ///
    /// # Errors
    /// If there is no laboratory.
    pub fn docker(&self, words: &[&str]) -> Result<std::process::Command> {
        let mut command = std::process::Command::new("docker");
        command.args(["--host", &variable("ONDEMAND_TEST_SWARM_HOST")?]).args(words);
        Ok(command)
    }

    /// Returns the engines of all nodes, the manager first.
    ///
    /// # Errors
    /// If there is no laboratory.
    pub fn engines() -> Result<Vec<String>> {
        let workers = variable("ONDEMAND_TEST_SWARM_WORKERS")?;
        let all = std::iter::once(variable("ONDEMAND_TEST_SWARM_HOST")?);
        Ok(all.chain(workers.split(',').map(ToOwned::to_owned)).collect())
    }

    /// Ends a node at once, as a power cut does (`kill`), or starts it again (`revive`). Nothing else may use the laboratory meanwhile.
    ///
    /// # Errors
    /// If the laboratory's script fails.
    pub async fn node(what: &str, node: usize) -> Result<()> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/setup/swarm.sh");
        let mut command = std::process::Command::new(script);
        command.args([what, &variable("ONDEMAND_TEST_SWARM_DIR")?, &node.to_string()]);
        crate::run(&mut command).await.map(drop)
    }

    /// Returns the identity of the installation, which begins the names of all that it has in the swarm.
    ///
    /// # Errors
    /// If it cannot be told.
    pub fn instance(&self) -> Result<String> {
        let runtime = std::fs::read_link(self.home.data().join("run"))?;
        let name = runtime.file_name().context("a name")?.to_string_lossy().into_owned();
        Ok(name.rsplit('-').next().unwrap_or_default().to_owned())
    }

    /// Returns the names of all that the installation has in the swarm and on its nodes.
    ///
    /// # Errors
    /// If the manager does not answer.
    pub async fn in_swarm(&self) -> Result<Vec<String>> {
        let filter = format!("label=ondemand.instance={}", self.instance()?);
        let mut found = Vec::new();
        for kind in ["service", "secret", "config", "network"] {
            let mut command = self.docker(&[kind, "ls", "--filter", &filter, "--format", "{{.Name}}"])?;
            found.extend(crate::run(&mut command).await?.lines().map(|name| format!("{kind} {name}")));
        }
        for engine in Self::engines()? {
            let containers = ["ps", "--all", "--filter", &filter, "--format", "container {{.Names}}"];
            let volumes = ["volume", "ls", "--filter", &filter, "--format", "volume {{.Name}}"];
            for words in [&containers[..], &volumes[..]] {
                let mut command = std::process::Command::new("docker");
                let listed = crate::run(command.args(["--host", &engine]).args(words)).await?;
                found.extend(listed.lines().map(ToOwned::to_owned));
            }
        }
        Ok(found)
    }

    /// Checks that nothing is left: nothing in the swarm, no database, no route.
    ///
    /// # Errors
    /// If something is, after a moment.
    pub async fn nothing_is_left(&self) -> Result<()> {
        crate::eventually(async || {
            let left = self.in_swarm().await?;
            ensure!(left.is_empty(), "{left:?}");
            for path in ["/envs", "/servers", "/routes"] {
                let listed = self.server.succeed("GET", path, "").await?;
                ensure!(listed == serde_json::json!([]), "{path}: {listed}");
            }
            Ok(())
        })
        .await
    }
}

/// Pushes a part of the shop, with some of its files changed.
///
/// # Errors
/// If Git fails.
pub async fn push(forge: &Forge, repository: &str, branch: &str, changed: &[(&str, &str)]) -> Result<String> {
    let part = if repository.contains("back") { "back" } else { "front" };
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/shop")).join(part);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        files.push((name, std::fs::read_to_string(&path)?));
    }
    for (name, text) in changed {
        files.retain(|(other, _)| other != name);
        files.push(((*name).to_owned(), (*text).to_owned()));
    }
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    forge.push(repository, branch, &files).await
}
