//! The shop of the examples, in Git repositories of a test's own, with the template that makes environments of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{Forge, Home, Server, ServerOptions, run};

/// Where the examples are.
const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
/// A dataset that the shop's back end can work with.
pub const DATASET: &str = "CREATE SCHEMA shop; CREATE TABLE shop.products (id int, name text);
    INSERT INTO shop.products SELECT n, 'product ' || n FROM generate_series(1, 7) n;";

/// Bare repositories below one directory, `OWNER/NAME.git`, and a directory of templates.
#[derive(Debug)]
pub struct Shop {
    directory: PathBuf,
    repositories: PathBuf,
    url: String,
    accounts: Vec<String>,
}

impl Shop {
    /// Makes the repositories `shop/back` and `shop/front`, and the template `demo`.
    ///
    /// # Errors
    /// If Git or the file system fails.
    pub async fn new(home: &Home) -> Result<Self> {
        let directory = home.path().join("shop");
        let repositories = directory.join("repositories");
        let url = format!("file://{}", repositories.display());
        let accounts = ["--accounts", "none"].map(ToOwned::to_owned).into();
        Self { directory, repositories, url, accounts }.open().await
    }

    /// Makes the same at a forge, which also has the accounts: its repositories are private, and what clones them is given the user's token.
    ///
    /// # Errors
    /// If Git or the file system fails.
    pub async fn at(home: &Home, forge: &Forge) -> Result<Self> {
        let accounts = ["--accounts", "github", "--github-api", &forge.api()].map(ToOwned::to_owned).into();
        let (directory, repositories) = (home.path().join("shop"), forge.repositories());
        Self { directory, repositories, url: forge.url(), accounts }.open().await
    }

    async fn open(self) -> Result<Self> {
        let shop = self;
        std::fs::create_dir_all(shop.templates())?;
        std::fs::copy(format!("{EXAMPLES}/templates/demo.yml"), shop.templates().join("demo.yml"))?;
        for part in ["back", "front"] {
            let (bare, work) = (shop.bare(part), shop.work(part));
            run(Command::new("git").args(["init", "--quiet", "--bare", "--initial-branch", "main"]).arg(&bare)).await?;
            run(Command::new("cp").arg("-r").arg(format!("{EXAMPLES}/shop/{part}")).arg(&work)).await?;
            run(Command::new("git").args(["init", "--quiet", "--initial-branch", "main"]).arg(&work)).await?;
            shop.push(part, "main", "Sell what there is").await?;
        }
        Ok(shop)
    }

    /// Returns the directory of templates.
    pub fn templates(&self) -> PathBuf {
        self.directory.join("templates")
    }

    /// Returns what the names of repositories are appended to.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Returns the directory of the bare repositories.
    pub fn repositories(&self) -> PathBuf {
        self.repositories.clone()
    }

    fn bare(&self, part: &str) -> PathBuf {
        self.repositories().join(format!("shop/{part}.git"))
    }

    /// Returns the path of a file that services of a part can see, should there be one: of the test's files, their sandboxes show the repository alone.
    pub fn signal(&self, part: &str) -> PathBuf {
        self.bare(part).join("go")
    }

    /// Returns the work tree of a part.
    pub fn work(&self, part: &str) -> PathBuf {
        self.directory.join(part)
    }

    /// Commits what is in the work tree of a part, and pushes it as a branch.
    ///
    /// # Errors
    /// If Git fails.
    pub async fn push(&self, part: &str, branch: &str, message: &str) -> Result<String> {
        let git = |words: &[&str]| {
            let mut command = Command::new("git");
            command.arg("-C").arg(self.work(part)).args(["-c", "user.name=test", "-c", "user.email=test@example.com"]);
            command.args(words);
            command
        };
        run(&mut git(&["add", "--all"])).await?;
        run(&mut git(&["commit", "--quiet", "--allow-empty", "--message", message])).await?;
        let bare = self.bare(part);
        let bare = bare.to_str().context("a path that is text")?;
        run(&mut git(&["push", "--quiet", "--force", bare, &format!("HEAD:refs/heads/{branch}")])).await?;
        // What services run as another user reads it.
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(self.repositories())).await?;
        Ok(run(&mut git(&["rev-parse", "HEAD"])).await?.trim().to_owned())
    }

    /// Writes a file of a part's work tree.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, part: &str, file: &str, contents: &str) -> Result<()> {
        Ok(std::fs::write(self.work(part).join(file), contents)?)
    }

    /// Returns the options of a server that makes environments of it.
    pub fn options(&self, options: ServerOptions) -> ServerOptions {
        let templates = self.templates().display().to_string();
        let url = self.url();
        let words = ["--templates", &templates, "--github-url", &url];
        let mut options = options;
        options.arguments.extend(words.map(ToOwned::to_owned));
        options.arguments.extend(self.accounts.iter().cloned());
        options
    }

    /// Starts a server that makes environments of it, with the dataset it wants.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn serve(&self, data_dir: &Path) -> Result<Server> {
        let server = Server::start(data_dir, &self.options(ServerOptions::default())).await?;
        server.import("shop", DATASET).await?;
        Ok(server)
    }
}

/// Asks for something through a server's proxy, and returns the status and the text.
///
/// # Errors
/// If the proxy does not answer.
pub async fn visit(server: &Server, host: &str, path: &str) -> Result<(u16, String)> {
    visit_through(server.proxy()?, host, path).await
}

/// As [`visit`], through the proxy at an address.
///
/// # Errors
/// If the proxy does not answer.
pub async fn visit_through(proxy: SocketAddr, host: &str, path: &str) -> Result<(u16, String)> {
    let url = format!("http://{proxy}{path}");
    let client = reqwest::Client::builder().no_proxy().timeout(std::time::Duration::from_secs(20)).build()?;
    let answer = client.get(url).header("host", host).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}
