//! Asking GitHub whose a token is.

mod answer;
mod cache;

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client, ClientBuilder, Response, StatusCode, Url, redirect};
use serde::de::DeserializeOwned;
use sha2::Sha256;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::secret::Secret;

use answer::{Failure, Membership, User};
use cache::{Cache, Slot};

const BACKEND: &str = "github";
/// What to do about a token that is not taken.
pub(crate) const TOKEN_HINT: &str =
    "make a new token that may read the repositories, at https://github.com/settings/tokens, and send that";
/// The version of the API that is spoken.
const API_VERSION: &str = "2022-11-28";
/// How long an answer may be: those that are asked for have a few kilobytes.
const LONGEST: usize = 1 << 20;

/// Whom to ask, whom to let in, and how long to remember.
#[derive(Debug, Clone)]
pub struct GitHubOptions {
    /// Where the API is: `https://api.github.com`, or `https://HOST/api/v3` for a GitHub Enterprise Server.
    pub api: String,
    /// Organisations whose members may come in; empty for whoever has an account.
    pub organisations: Vec<String>,
    /// What tokens are hashed with before they are remembered: random, or an instance's own key.
    pub key: Secret,
    /// How long connecting may take.
    pub connect: Duration,
    /// How long an answer may take.
    pub answer: Duration,
    /// How long a good answer is remembered, and so how long a revoked token is still taken.
    pub keep: Duration,
    /// How long a refusal is remembered; also how long GitHub is left alone after it did not answer, where that matters.
    pub keep_refusal: Duration,
    /// How old a good answer may be that is used while GitHub does not answer.
    pub keep_while_down: Duration,
}

impl GitHubOptions {
    /// Makes options for github.com, that let everyone in who has an account there.
    pub fn new(key: Secret) -> Self {
        Self {
            api: "https://api.github.com".into(),
            organisations: Vec::new(),
            key,
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            keep: Duration::from_secs(5 * 60),
            keep_refusal: Duration::from_secs(10),
            keep_while_down: Duration::from_secs(60 * 60),
        }
    }
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// The number of the account, which stays when it is renamed.
    pub id: u64,
    /// The name of the account now.
    pub login: String,
}

/// Tells whose a token is, as GitHub says.
///
/// Answers are remembered by a keyed hash of the token, never by the token: a good one for five minutes, a refusal for ten
/// seconds. While GitHub is down, or lets nobody ask, a good answer is used until it is an hour old. Those who ask about one
/// token at the same time share one request.
#[derive(Debug)]
pub struct GitHub {
    http: Client,
    api: Url,
    options: GitHubOptions,
    cache: Cache,
}

impl GitHub {
    /// Prepares to ask.
    ///
    /// # Errors
    /// [`InvalidInput`](Error::InvalidInput) if the URL is not that of a server, or an organisation's name cannot be one.
    pub fn new(options: GitHubOptions) -> Result<Self> {
        let invalid = |reason: &dyn std::fmt::Display| {
            Error::invalid("GitHub API URL", format!("{reason}; write it as https://HOST/api/v3"))
        };
        let api = Url::parse(&options.api).map_err(|e| invalid(&e))?;
        if !matches!(api.scheme(), "http" | "https") || !api.has_host() {
            return Err(invalid(&"it names no server"));
        }
        if !api.username().is_empty() || api.password().is_some() {
            return Err(invalid(&"it names a user; tokens are given by those who ask"));
        }
        let part = |name: &str| {
            !name.is_empty()
                && name.len() <= 100
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if let Some(name) = options.organisations.iter().find(|name| !part(name)) {
            let reason = format!("{:?} cannot be one: they have letters, digits and '-'", crate::error::shorten(name));
            return Err(Error::invalid("GitHub organisation", reason));
        }
        let http = client(&api, options.connect).timeout(options.answer).redirect(redirect::Policy::none()).build();
        let http = http.map_err(|e| Error::backend(BACKEND, "preparing to ask GitHub", e))?;
        Ok(Self { http, api, options, cache: Cache::default() })
    }

    /// Tells whose a token is, and that it is one that may come in.
    ///
    /// # Errors
    /// - [`Unauthenticated`](Error::Unauthenticated) if GitHub does not take the token (any more).
    /// - [`Forbidden`](Error::Forbidden) if its owner is in none of the organisations, or the token may not tell.
    /// - [`Backend`](Error::Backend), transient, if GitHub cannot be reached, fails, or lets the token ask no more for now.
    /// - [`Backend`](Error::Backend) if the answer is not one of GitHub.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing at GitHub; whoever waits for the same answer asks in its place.
    pub async fn whoami(&self, token: &Secret) -> Result<Identity> {
        // What cannot be a token is not sent, and cannot be part of a header either.
        let text = token.expose();
        if text.is_empty() || text.len() > 1024 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Failure::Token.into_error(&self.options));
        }
        let asked = Instant::now();
        let slot: Arc<Slot> = self.cache.slot(self.digest(token), asked);
        let mut known = slot.lock().await;
        let now = Instant::now();
        if let Some(answer) = known.answer(asked, now, &self.options) {
            return answer.map_err(|failure| failure.into_error(&self.options));
        }
        let answer = self.ask(token).await;
        known.learn(answer, Instant::now(), &self.options).map_err(|failure| failure.into_error(&self.options))
    }

    /// Returns what stands for a token in memory.
    fn digest(&self, token: &Secret) -> [u8; 32] {
        // An HMAC takes a key of any length.
        let mut mac = match Hmac::<Sha256>::new_from_slice(self.options.key.expose().as_bytes()) {
            Ok(mac) => mac,
            Err(never) => unreachable!("{never}"),
        };
        mac.update(b"github token\0");
        mac.update(token.expose().as_bytes());
        mac.finalize().into_bytes().into()
    }

    async fn ask(&self, token: &Secret) -> Result<Identity, Failure> {
        let user: User = self.get(&["user"], token).await?.ok_or(Failure::garbage("there is no /user"))?;
        let identity = user.identity()?;
        if self.options.organisations.is_empty() {
            return Ok(identity);
        }
        // Not /user/orgs: for fine-grained tokens that list is always empty. A membership is told to classic tokens with
        // read:org, and to fine-grained ones of the organisation that may read its members.
        for organisation in &self.options.organisations {
            let membership: Option<Membership> =
                match self.get(&["user", "memberships", "orgs", organisation], token).await {
                    Err(Failure::Refused) => None,
                    answer => answer?,
                };
            if membership.is_some_and(|membership| membership.is_active()) {
                return Ok(identity);
            }
        }
        Err(Failure::NoMember { login: identity.login })
    }

    /// Asks for something; none where GitHub says that there is none.
    async fn get<T: DeserializeOwned>(&self, path: &[&str], token: &Secret) -> Result<Option<T>, Failure> {
        let mut url = self.api.clone();
        url.set_query(None);
        url.set_fragment(None);
        // Only the URL of no server has no segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = self
            .http
            .get(url)
            .bearer_auth(token.expose())
            .header("accept", "application/vnd.github+json")
            .header("x-github-api-version", API_VERSION);
        let response = request.send().await.map_err(Failure::unreachable)?;
        let status = response.status();
        match status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return Err(Failure::Token),
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
                let limit = answer::limit(response.headers());
                return Err(match limit {
                    Some(wait) => Failure::limited(wait),
                    None if status == StatusCode::TOO_MANY_REQUESTS => Failure::limited(Duration::from_secs(60)),
                    None => Failure::Refused,
                });
            }
            _ if status.is_server_error() => return Err(Failure::down(format!("it answers {status}"))),
            _ => return Err(Failure::garbage(&format!("it answers {status}"))),
        }
        let body = read(response, LONGEST).await.map_err(Failure::unreachable)?;
        let body = body.ok_or(Failure::garbage("the answer is too long"))?;
        // What serde says may quote the answer, so only the place is told.
        serde_json::from_slice(&body).map(Some).map_err(|e| {
            Failure::garbage(&format!(
                "the answer is not what it should be, at line {} column {}",
                e.line(),
                e.column()
            ))
        })
    }
}

/// Begins a client for a service that is given tokens.
pub(crate) fn client(base: &Url, connect: Duration) -> ClientBuilder {
    let client = Client::builder()
        .connect_timeout(connect)
        .pool_idle_timeout(Duration::from_secs(20))
        .user_agent(concat!("ondemand/", env!("CARGO_PKG_VERSION")));
    // A proxy that the environment names leads to the world, not to this machine.
    let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if here { client.no_proxy() } else { client }
}

/// Reads an answer to its end; none if it is longer than that.
pub(crate) async fn read(mut response: Response, longest: usize) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > longest {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}
