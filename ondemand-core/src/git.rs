//! Finding what a branch of a Git repository points at, before anything is started from it.
//!
//! A server is asked over HTTP as `git ls-remote` asks it, through the client that everything else here uses: libgit2 would
//! block a thread for as long as a server says nothing, and can be given no time limit without unsafe code. Repositories of
//! this machine (`file://`) are read with libgit2.

mod advertisement;
mod http;
mod local;

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use crate::error::{BoxError, Error, Kind, Result};
use crate::secret::Secret;

pub use crate::name::{Branch, Commit, Repository};

const BACKEND: &str = "git";
/// The user name that GitHub wants beside a token.
pub(crate) const TOKEN_USER: &str = "x-access-token";

/// Where repositories are, and how long their server may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitOptions {
    /// What the URLs of repositories begin with: `https://HOST`, or `file:///DIRECTORY` for those of this machine.
    pub base: String,
    /// How long connecting may take.
    pub connect: Duration,
    /// How long a whole look-up may take.
    pub answer: Duration,
}

impl Default for GitOptions {
    fn default() -> Self {
        Self { base: "https://github.com".into(), connect: Duration::from_secs(5), answer: Duration::from_secs(30) }
    }
}

/// Where the repositories are.
#[derive(Debug)]
enum Home {
    Server(http::Server),
    Directory(PathBuf),
}

/// Looks branches up on one Git server.
///
/// ```no_run
/// # async fn example() -> ondemand_core::Result<()> {
/// use ondemand_core::{Git, Secret, git::GitOptions};
///
/// let git = Git::new(&GitOptions::default())?;
/// let repository = "shop/back-web".parse()?;
/// let token = Secret::new("ghp_…");
/// let head = git.resolve(&repository, None, Some(&token)).await?;
/// println!("{} is at {} of {}", head.repository, head.commit, head.branch);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Git {
    base: Url,
    home: Home,
    answer: Duration,
}

/// What a branch points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The repository.
    pub repository: Repository,
    /// The branch: the one that was asked for, or the repository's own default.
    pub branch: Branch,
    /// The commit it points at now.
    pub commit: Commit,
    /// Where `git clone` finds the repository. There is no token in it.
    pub url: String,
}

impl Resolved {
    /// Returns the directory of the repository, where it is one of this host.
    pub fn local_path(&self) -> Option<std::path::PathBuf> {
        let url = reqwest::Url::parse(&self.url).ok()?;
        (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten()
    }
}

impl Git {
    /// Prepares to ask the server, or to look into the directory, of these options.
    ///
    /// # Errors
    /// [`InvalidInput`](Error::InvalidInput) if the base is neither.
    pub fn new(options: &GitOptions) -> Result<Self> {
        let invalid = |reason: &dyn std::fmt::Display| {
            Error::invalid("Git base URL", format!("{reason}; write it as https://HOST or file:///DIRECTORY"))
        };
        let mut base = Url::parse(&options.base).map_err(|e| invalid(&e))?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(invalid(&"it names a user; tokens are given by those who ask"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(invalid(&"it has a query or a fragment"));
        }
        let home = match base.scheme() {
            "http" | "https" if base.has_host() => Home::Server(http::Server::new(&base, options.connect)?),
            "file" => Home::Directory(base.to_file_path().map_err(|()| invalid(&"it is no path of this machine"))?),
            _ => return Err(invalid(&"it names no server")),
        };
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&path);
        Ok(Self { base, home, answer: options.answer })
    }

    /// Returns what the URLs of repositories begin with, without a slash at its end.
    pub fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Finds the commit that a branch points at; where none is named, that of the repository's default branch.
    ///
    /// # Errors
    /// - [`NotFound`](Error::NotFound) if there is no such repository, or none that may be read with this token, for servers
    ///   do not tell these apart; or no such branch in it. The error says which.
    /// - [`Unauthenticated`](Error::Unauthenticated) if the server does not take the token.
    /// - [`Forbidden`](Error::Forbidden) if it takes the token, and says that it is not for this repository.
    /// - [`Backend`](Error::Backend) if the server cannot be reached, is too slow or overloaded (these are transient), or
    ///   answers as no Git server does.
    ///
    /// # Cancel safety
    /// Dropping the future at any time changes nothing anywhere: this only reads.
    pub async fn resolve(
        &self,
        repository: &Repository,
        branch: Option<&Branch>,
        token: Option<&Secret>,
    ) -> Result<Resolved> {
        let look = async {
            match &self.home {
                Home::Server(server) => server.look(&self.url(repository), branch, token).await,
                Home::Directory(directory) => local::look(directory.clone(), repository.clone(), branch.cloned()).await,
            }
        };
        let missing = |kind, name: &dyn std::fmt::Display| Err(Error::not_found(kind, name));
        let found = match tokio::time::timeout(self.answer, look).await {
            Ok(Ok(found)) => found,
            Ok(Err(Failure::NoRepository)) => return missing(Kind::Repository, repository),
            Ok(Err(Failure::NoBranch)) => {
                let branch = branch.map_or("HEAD", Branch::as_str);
                return missing(Kind::Branch, &format_args!("{repository}@{branch}"));
            }
            Ok(Err(Failure::Unauthenticated)) => {
                return Err(Error::Unauthenticated {
                    message: format!("{} does not take the token (any more)", self.base()),
                    hint: crate::github::TOKEN_HINT.into(),
                });
            }
            Ok(Err(Failure::Forbidden)) => {
                return Err(Error::Forbidden {
                    message: format!("{} does not let this token read {repository}", self.base()),
                });
            }
            Ok(Err(Failure::Broken { transient, source })) => {
                return Err(self.failed(repository, transient, redact(source, token)));
            }
            Err(_) => {
                let source = format!("there is no answer after {:.1} s", self.answer.as_secs_f64());
                return Err(self.failed(repository, true, source.into()));
            }
        };
        let Found { branch, commit, url } = found;
        Ok(Resolved { repository: repository.clone(), branch, commit, url })
    }

    fn url(&self, repository: &Repository) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{repository}.git", self.base.path().trim_end_matches('/')));
        url
    }

    fn failed(&self, repository: &Repository, transient: bool, source: BoxError) -> Error {
        let operation = format!("looking into {repository} at {}", self.base());
        Error::Backend { backend: BACKEND, operation, transient, source }
    }
}

/// What was looked for.
#[derive(Debug)]
struct Found {
    branch: Branch,
    commit: Commit,
    url: String,
}

/// Why it was not found.
#[derive(Debug)]
enum Failure {
    NoRepository,
    NoBranch,
    Unauthenticated,
    Forbidden,
    Broken { transient: bool, source: BoxError },
}

impl Failure {
    /// What another try may mend.
    fn transient(source: impl Into<BoxError>) -> Self {
        Self::Broken { transient: true, source: source.into() }
    }

    /// What another try will not mend.
    fn lasting(source: impl Into<BoxError>) -> Self {
        Self::Broken { transient: false, source: source.into() }
    }
}

/// Sees to it that nothing a server said repeats the token.
fn redact(source: BoxError, token: Option<&Secret>) -> BoxError {
    let Some(token) = token.map(Secret::expose).filter(|token| !token.is_empty()) else { return source };
    let mut said = Some(&*source as &(dyn std::error::Error + 'static));
    while let Some(error) = said {
        if error.to_string().contains(token) || format!("{error:?}").contains(token) {
            return source.to_string().replace(token, "****").into();
        }
        said = error.source();
    }
    source
}

#[cfg(test)]
mod tests;
