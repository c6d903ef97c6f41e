//! Environments, as `[environments]`, `[github]` and `[swarm]` of `ondemand.toml` configure them.

use std::collections::BTreeMap;
use std::path::{Component, PathBuf};

use super::{OrchestratorKind, SandboxMode};
use crate::error::{Error, Result};
use crate::name::Hostname;
use crate::notation::Ttl;
use crate::secret::Secret;

/// Environments.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct EnvironmentsConfig {
    /// The directory of templates; there are no environments where there is none.
    pub templates: Option<PathBuf>,
    /// The template that is rendered unless it is said; the only one where there is none.
    pub template: Option<String>,
    /// What runs them.
    pub orchestrator: OrchestratorKind,
    /// The user that services run as, where they are processes and this one is root's; `nobody` where there is none.
    pub user: Option<String>,
    /// The domain below which they are reached.
    pub domain: Hostname,
    /// What people type to reach a host, with `{host}` for it, such as `https://{host}`; made of the proxy's address where there is none.
    pub public_url: Option<String>,
    /// Where this server finds the proxy, `http://HOST:PORT`, to see that an environment is reached through it; its own where there is none.
    pub proxy: Option<String>,
    /// The API of a proxy elsewhere, `http://HOST:PORT`, that the routes are set in; this server's own proxy where there is none.
    pub router: Option<String>,
    /// The token that the API of that proxy wants.
    pub router_token: Option<Secret>,
    /// What `${NAME}` is in templates.
    pub variables: BTreeMap<String, String>,
    /// How many may live at a time.
    pub max: usize,
    /// How many of them one user may have.
    pub max_per_user: usize,
    /// How many days one lives unless it is said, here or in its template.
    pub default_keep_days: u32,
    /// How many days one may live.
    pub max_keep_days: u32,
    /// Names that no environment may have.
    pub reserved_names: Vec<String>,
    /// How long one may take until all its routes answer, unless its template says it.
    pub ready_timeout: Ttl,
    /// How often it is looked where their services run.
    pub follow_interval: Ttl,
    /// Whether those that run as processes of this host are put in sandboxes.
    pub sandbox: SandboxMode,
    /// Directories of the host that sandboxes show, read-only, beside the system's programs.
    pub sandbox_paths: Vec<PathBuf>,
}

/// GitHub, and where repositories are.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct GitHubConfig {
    /// Who says whose a token is.
    pub accounts: Accounts,
    /// What the names of repositories are appended to: `https://github.com/`, or `file:///DIRECTORY/`.
    pub url: String,
    /// The REST API.
    pub api: String,
    /// The organisations that users must be in one of. If empty, every GitHub user is accepted.
    pub organisations: Vec<String>,
    /// Accepts every GitHub user beyond loopback, where no organisation is named.
    pub any_github_user: bool,
}

/// Who says whose a token is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accounts {
    /// GitHub.
    #[default]
    Github,
    /// Nobody: whoever reaches the server is one user, without a token. For a machine of one's own.
    None,
}

/// The Docker Swarm.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SwarmConfig {
    /// The socket of a manager; `DOCKER_HOST`, or the usual place, where there is none.
    pub host: Option<String>,
    /// A `config.json` of Docker's client, with the credentials of registries.
    pub registry_auth: Option<PathBuf>,
    /// Whether ports are published on every node, instead of on that which a task runs on.
    pub ingress: bool,
    /// The image, with a Docker client and a shell, that removes volumes of environments that are gone from the nodes; none does where it is empty.
    pub volume_cleaner: String,
}

impl Default for SwarmConfig {
    fn default() -> Self {
        // Docker's own client, of the last version that speaks to engines older than 25.
        let volume_cleaner = "docker:28-cli".into();
        Self { host: None, registry_auth: None, ingress: false, volume_cleaner }
    }
}

impl Default for EnvironmentsConfig {
    #[expect(clippy::expect_used, reason = "these literals are valid")]
    fn default() -> Self {
        Self {
            templates: None,
            template: None,
            orchestrator: OrchestratorKind::default(),
            user: None,
            domain: Hostname::new("localhost").expect("a host name"),
            public_url: None,
            proxy: None,
            router: None,
            router_token: None,
            variables: BTreeMap::new(),
            max: 50,
            max_per_user: 10,
            default_keep_days: 3,
            max_keep_days: 30,
            reserved_names: vec!["www".into(), "api".into(), "admin".into()],
            sandbox: SandboxMode::default(),
            sandbox_paths: vec!["/opt".into()],
            ready_timeout: "15m".parse().expect("a time"),
            follow_interval: "1s".parse().expect("a time"),
        }
    }
}

impl Default for GitHubConfig {
    fn default() -> Self {
        Self {
            accounts: Accounts::default(),
            url: "https://github.com/".into(),
            api: "https://api.github.com/".into(),
            organisations: Vec::new(),
            any_github_user: false,
        }
    }
}

impl EnvironmentsConfig {
    /// Checks what no single field shows.
    pub(super) fn validate(&self, longest_database: Ttl) -> Result<()> {
        let invalid = |reason: String| Err(Error::invalid("configuration", reason));
        if self.default_keep_days == 0 || self.default_keep_days > self.max_keep_days {
            return invalid(
                "environments.default-keep-days must be above 0 and not above environments.max-keep-days".into(),
            );
        }
        // Who makes none is free to let databases live as briefly as he likes.
        let makes_some = self.templates.is_some();
        if makes_some && u64::from(self.max_keep_days) * 86_400 > longest_database.duration().as_secs() {
            return invalid(format!(
                "environments.max-keep-days is {}, and the databases of environments may live {longest_database} only; raise databases.max-ttl",
                self.max_keep_days
            ));
        }
        let is_plain = |path: &&PathBuf| {
            path.is_absolute()
                && path.components().count() > 1
                && !path.components().any(|part| part == Component::ParentDir)
        };
        if let Some(path) = self.sandbox_paths.iter().find(|path| !is_plain(path)) {
            return invalid(format!(
                "environments.sandbox-paths: {:?} is not the absolute path of a directory below /, without ..",
                path.display().to_string()
            ));
        }
        if let Some(url) = self.public_url.as_ref().filter(|url| !url.contains("{host}")) {
            return invalid(format!("environments.public-url: {url:?} lacks {{host}}; write it as https://{{host}}"));
        }
        for (key, url) in [("proxy", &self.proxy), ("router", &self.router)] {
            if let Some(url) = url.as_ref().filter(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
                return invalid(format!("environments.{key}: {url:?} is not a URL; write it as http://HOST:PORT"));
            }
        }
        Ok(())
    }
}
