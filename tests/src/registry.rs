//! A registry of images that wants a login.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::cluster::variable;
use crate::{Home, eventually, ports, run};

/// Who may pull.
const USER: &str = "puller";

/// Debian's `docker-registry` on the bridge of the laboratory, whose nodes take it without TLS. It ends when this is dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    password: String,
    _process: tokio::process::Child,
}

impl Registry {
    /// Starts one in a home, with an account.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn start(home: &Home) -> Result<Self> {
        let address = SocketAddr::new(variable("ONDEMAND_TEST_SWARM_BRIDGE")?.parse()?, ports::free_port());
        let password = format!("p4ss-of-{}-Zq", address.port());
        // The C library hashes as `htpasswd -B` does. The cost is the least there is.
        let hash = r#"print crypt($ARGV[0], q($2y$04$) . "ondemandtestssaltysaltO")"#;
        let hash = run(Command::new("perl").args(["-e", hash, &password])).await?;
        ensure!(hash.starts_with("$2y$") && hash.len() == 60, "the C library has no bcrypt: {hash}");
        let accounts = home.file("htpasswd", format!("{USER}:{hash}\n"))?;
        let config = format!(
            "version: 0.1
log: {{ level: warn, accesslog: {{ disabled: true }} }}
storage: {{ filesystem: {{ rootdirectory: {} }} }}
auth: {{ htpasswd: {{ realm: shop, path: {} }} }}
http: {{ addr: {:?} }}
",
            home.path().join("registry").display(),
            accounts.display(),
            address.to_string(),
        );
        let config = home.file("registry.yml", config)?;
        let mut command = tokio::process::Command::new("docker-registry");
        command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self { address, password, _process: command.kill_on_drop(true).spawn()? };
        let http = reqwest::Client::builder().no_proxy().build()?;
        eventually(async || {
            let status = http.get(format!("http://{address}/v2/")).send().await?.status();
            ensure!(status == reqwest::StatusCode::UNAUTHORIZED, "{status}");
            Ok(())
        })
        .await
        .context("the registry does not start")?;
        Ok(registry)
    }

    /// Returns the name of an image in it.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Returns what nobody may see: the password, and the forms in which it is written down and sent.
    pub fn secrets(&self) -> Vec<String> {
        let mut forms = vec![self.password.clone(), entry(&self.password)];
        // Within something longer that is encoded as a whole, it may begin at any of three places.
        for before in 0..3 {
            let encoded = BASE64.encode([&vec![b' '; before][..], self.password.as_bytes()].concat());
            forms.push(encoded[4..encoded.len() - 4].to_owned());
        }
        forms
    }

    /// Returns a configuration of Docker's client, with the right password or a wrong one.
    pub fn client_config(&self, is_right: bool) -> String {
        let entry = entry(if is_right { &self.password } else { "guessed" });
        serde_json::json!({ "auths": { self.address.to_string(): { "auth": entry } } }).to_string()
    }

    /// Gives it an image that an engine has under another name. The engine does not keep the new one.
    ///
    /// # Errors
    /// If it is not taken.
    pub async fn push(&self, home: &Home, engine: &str, image: &str, name: &str) -> Result<()> {
        let directory = home.path().join("pusher");
        std::fs::create_dir(&directory)?;
        std::fs::write(directory.join("config.json"), self.client_config(true))?;
        let name = self.image(name);
        for words in [&["tag", image, &name][..], &["push", "--quiet", &name], &["rmi", &name]] {
            let mut command = Command::new("docker");
            run(command.arg("--config").arg(&directory).args(["--host", engine]).args(words)).await?;
        }
        Ok(())
    }
}

/// Returns what a configuration of Docker's client calls a login.
fn entry(password: &str) -> String {
    BASE64.encode(format!("{USER}:{password}"))
}
