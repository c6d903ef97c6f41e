//! A proxy elsewhere, driven through its API.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, Method, RequestBuilder, Response, Url, redirect};

use super::{Protocol, Route, Router, Upstream};
use crate::error::{BoxError, Code, Error, Kind, Result};
use crate::name::Hostname;
use crate::secret::Secret;

const BACKEND: &str = "remote proxy";
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a whole answer may take: a change is a matter of milliseconds, and a list one of seconds at most.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a connection is kept for the next request: shorter than the proxy keeps it, so that none is sent into its end.
const IDLE: Duration = Duration::from_secs(20);

/// Sets the routes of an `ondemand proxy`, or of an `ondemand serve`, that runs elsewhere.
#[derive(Debug)]
pub struct Remote {
    http: Client,
    base: Url,
    token: Option<Secret>,
}

/// A route as it is put: its host is in the path.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
struct Put<'a> {
    upstreams: &'a [Upstream],
    protocol: Protocol,
    pending: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
}

/// A route as it is shown, without what goes through it.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Shown {
    host: Hostname,
    upstreams: Vec<Upstream>,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    pending: bool,
    #[serde(default)]
    owner: Option<String>,
}

/// What went wrong there.
#[derive(Debug, serde::Deserialize)]
struct Problem {
    status: u16,
    detail: String,
    /// Text, so that a code that this version does not know is no riddle.
    code: String,
    #[serde(default)]
    hint: Option<String>,
    #[serde(default)]
    causes: Vec<String>,
    #[serde(default)]
    log: Vec<String>,
}

impl Remote {
    /// Makes the router of the proxy whose API is at this URL, and wants this token.
    ///
    /// # Errors
    /// [`InvalidInput`](Error::InvalidInput) if it is not the URL of a server.
    pub fn new(url: &str, token: Option<Secret>) -> Result<Self> {
        let invalid = |reason: &dyn std::fmt::Display| {
            Error::invalid("proxy URL", format!("{reason}; write it as http://HOST:PORT"))
        };
        let base = Url::parse(url).map_err(|e| invalid(&e))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(invalid(&"it names no server"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(invalid(&"it names a user; the proxy wants a token"));
        }
        let http = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .pool_idle_timeout(IDLE)
            .redirect(redirect::Policy::none())
            // What the environment names is for what people fetch; a proxy's API is on a network of one's own.
            .no_proxy()
            .user_agent(concat!("ondemand/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::backend(BACKEND, "preparing to ask it", e))?;
        Ok(Self { http, base, token })
    }

    /// Begins a request for all routes, or for one.
    fn request(&self, method: Method, host: Option<&Hostname>) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_query(None);
        url.set_fragment(None);
        // Only the URL of no server has no segments.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("routes").extend(host.map(Hostname::as_str));
        }
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    /// Sends a request, and returns the answer if it is a good one.
    async fn send(&self, request: RequestBuilder, what: &str, host: Option<&Hostname>) -> Result<Response> {
        let response = request.send().await.map_err(|e| self.broken(what, e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|e| self.broken(what, e))?;
        if let Ok(problem) = serde_json::from_slice::<Problem>(&body) {
            return Err(problem.into_error(self.operation(what), host));
        }
        let source = format!("it answers {status}, as no server of ondemand does; check the URL");
        Err(self.failed(what, status.is_server_error(), source))
    }

    /// Sends a request, and reads the answer.
    async fn read<T: serde::de::DeserializeOwned>(&self, what: &str, host: Option<&Hostname>) -> Result<T> {
        let response = self.send(self.request(Method::GET, host), what, host).await?;
        let body = response.bytes().await.map_err(|e| self.broken(what, e))?;
        serde_json::from_slice(&body).map_err(|e| self.failed(what, false, e))
    }

    fn operation(&self, what: &str) -> String {
        format!("{what} at {}", self.base.as_str().trim_end_matches('/'))
    }

    fn failed(&self, what: &str, transient: bool, source: impl Into<BoxError>) -> Error {
        Error::Backend { backend: BACKEND, operation: self.operation(what), transient, source: source.into() }
    }

    /// Explains why there is no answer. The operation names the URL already.
    fn broken(&self, what: &str, error: reqwest::Error) -> Error {
        self.failed(what, true, error.without_url())
    }
}

impl Problem {
    /// Returns the error that was told.
    fn into_error(self, operation: String, host: Option<&Hostname>) -> Error {
        let Self { status, detail, code, hint, causes, log } = self;
        let name = host.map(ToString::to_string).unwrap_or_default();
        // What an error says is made of what it is about and what is wrong; only the latter is taken from there.
        let rest = |before: &str| match detail.split_once(before) {
            Some((_, rest)) => rest.to_owned(),
            None => detail.clone(),
        };
        let (message, hint_or_none) = (detail.clone(), hint.unwrap_or_default());
        match serde_json::from_value::<Code>(code.into()) {
            Ok(Code::NotFound) => Error::NotFound { kind: Kind::Route, name },
            Ok(Code::AlreadyExists) => Error::AlreadyExists { kind: Kind::Route, name },
            Ok(Code::Conflict) => Error::Conflict { message, hint: hint_or_none },
            Ok(Code::InvalidName) => Error::InvalidName { kind: Kind::Host, name, reason: rest(" name: ") },
            Ok(Code::InvalidInput) => match detail.strip_prefix("invalid ").and_then(|rest| rest.split_once(": ")) {
                Some((what, reason)) => Error::invalid(what, reason),
                None => Error::invalid("route", detail),
            },
            Ok(Code::InvalidDump) => {
                Error::InvalidDump { message: rest("the dump could not be restored: "), log, hint: hint_or_none }
            }
            Ok(Code::Forbidden) => Error::Forbidden { message },
            Ok(Code::Unauthenticated) => Error::Unauthenticated { message, hint: hint_or_none },
            Ok(Code::QuotaExceeded) => Error::QuotaExceeded { message, hint: hint_or_none },
            Ok(Code::OutOfSpace) => Error::OutOfSpace { message: rest("out of space: ") },
            Ok(Code::NotReady) => Error::NotReady { waited: Duration::ZERO, last: rest(" s: "), log },
            Ok(Code::Unsupported) => Error::Unsupported { message, hint: hint_or_none },
            Ok(Code::Cancelled) => Error::Cancelled,
            // A proxy knows neither templates nor services.
            Ok(Code::Backend | Code::InvalidTemplate | Code::ServiceFailed) | Err(_) => {
                let source = std::iter::once(detail).chain(causes).collect::<Vec<_>>().join(": ");
                Error::Backend { backend: BACKEND, operation, transient: status == 503, source: source.into() }
            }
        }
    }
}

impl From<Shown> for Route {
    fn from(Shown { host, upstreams, protocol, pending, owner }: Shown) -> Self {
        Self { host, upstreams, protocol, pending, owner }
    }
}

#[async_trait]
impl Router for Remote {
    async fn set(&self, route: &Route) -> Result<()> {
        route.validate()?;
        let Route { host, upstreams, protocol, pending, owner } = route;
        let put = Put { upstreams, protocol: *protocol, pending: *pending, owner: owner.as_deref() };
        let request = self.request(Method::PUT, Some(host)).json(&put);
        self.send(request, "setting a route", Some(host)).await.map(drop)
    }

    async fn remove(&self, host: &Hostname) -> Result<()> {
        let request = self.request(Method::DELETE, Some(host));
        match self.send(request, "removing a route", Some(host)).await {
            Err(Error::NotFound { .. }) => Ok(()),
            removed => removed.map(drop),
        }
    }

    async fn list(&self) -> Result<Vec<Route>> {
        let routes: Vec<Shown> = self.read("listing routes", None).await?;
        Ok(routes.into_iter().map(Into::into).collect())
    }

    async fn get(&self, host: &Hostname) -> Result<Route> {
        self.read::<Shown>("asking for a route", Some(host)).await.map(Into::into)
    }
}

#[cfg(test)]
mod tests;
