//! Who may ask: whoever has the token; where there is none, whoever reaches the address, but no web page.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ondemand_core::config::{Accounts, HttpConfig};
use ondemand_core::{Config, Error, Result, Secret};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::problem::Problem;

/// Checks that the server is not open to the network by accident.
///
/// # Errors
/// [`Forbidden`](Error::Forbidden) for an address beyond loopback without a token, unless that is allowed; [`InvalidInput`](Error::InvalidInput) for an empty
/// token.
pub fn check_exposure(config: &HttpConfig) -> Result<()> {
    if config.token.as_ref().is_some_and(|token| token.expose().trim().is_empty()) {
        return Err(Error::invalid(
            "configuration",
            "http.token is empty; give it at least a character, or leave it out",
        ));
    }
    if config.listen.ip().to_canonical().is_loopback() || config.token.is_some() || config.allow_anonymous {
        return Ok(());
    }
    Err(Error::Forbidden {
        message: format!(
            "{} can be reached from other machines, and no token is configured: set http.token or ONDEMAND_TOKEN, \
             listen on 127.0.0.1, or allow everyone with --allow-anonymous",
            config.listen
        ),
    })
}

/// Who may ask. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Access(Arc<Credentials>);

impl Access {
    pub(crate) fn new(config: &Config) -> Self {
        Self(Arc::new(Credentials::new(config)))
    }
}

/// What a request says of who sends it, where users are told apart.
#[derive(Debug, Clone)]
pub(crate) enum Bearer {
    /// Nothing.
    Nobody,
    /// The token of the server's configuration.
    Admin,
    /// Another token.
    Token(Secret),
}

impl Access {
    /// Tells whether the server has a token, so that not everybody who reaches it may ask.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.digest.is_some()
    }

    fn bearer(&self, headers: &HeaderMap) -> Bearer {
        let Some(token) = bearer(headers) else { return Bearer::Nobody };
        match &self.0.digest {
            Some(expected) if is(token, expected) => Bearer::Admin,
            _ => Bearer::Token(Secret::new(String::from_utf8_lossy(token))),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Bearer
where
    Access: FromRef<S>,
{
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        Ok(Access::from_ref(state).bearer(&parts.headers))
    }
}

/// What a client must prove to know.
#[derive(Debug)]
struct Credentials {
    /// The token's digest: digests are of one length, so comparing them tells nothing of the token's.
    digest: Option<[u8; 32]>,
    /// The names that requests may be for, beside those of this machine itself; any where there is none.
    hosts: Option<Vec<String>>,
    /// Whether users have accounts elsewhere, with tokens of their own.
    accounts: bool,
}

impl Credentials {
    fn new(config: &Config) -> Self {
        let HttpConfig { token, allow_anonymous, hosts, .. } = &config.http;
        // Who lets everyone in does not mind by which name they come; where there is a token, it decides.
        let checked = token.is_none() && !allow_anonymous;
        Self {
            digest: token.as_ref().map(|token| Sha256::digest(token.expose()).into()),
            hosts: checked.then(|| hosts.iter().chain(&config.databases.host).cloned().collect()),
            accounts: config.github.accounts != Accounts::None,
        }
    }

    /// Checks whom a request is for, where users are told apart by tokens of their own.
    fn check_page(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        // Without accounts nobody has a token of his own: it takes the server's, where it has one.
        if !self.accounts {
            return self.check(uri, headers);
        }
        self.check_host(uri, headers)?;
        // Without a token here, a request that needs none of GitHub's may come from a web page.
        if self.digest.is_none() { Ok(check_origin(headers)?) } else { Ok(()) }
    }

    /// Checks whom a request is for, and whom it comes from.
    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(expected) = &self.digest else {
            self.check_host(uri, headers)?;
            return Ok(check_origin(headers)?);
        };
        let Some(token) = bearer(headers) else {
            return Err(Error::unauthenticated("this server wants a token").into());
        };
        if is(token, expected) {
            return Ok(());
        }
        Err(Error::unauthenticated("the token is not the one this server wants").into())
    }

    /// Refuses what is sent to this machine by a name that anybody may have given it: the browser takes a page from
    /// `http://evil.example` and a server that this name points to a moment later for one and the same, so that it
    /// sends no `Origin` that would tell them apart.
    ///
    /// A request without any name is none of a browser's.
    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(hosts) = &self.hosts else { return Ok(()) };
        let is_ours = |authority: &str| {
            let host = host_of(authority);
            is_this_machine(host) || hosts.iter().any(|ours| same_host(ours, host))
        };
        let given = headers.get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or_default());
        let Some(other) =
            given.chain(uri.authority().map(axum::http::uri::Authority::as_str)).find(|authority| !is_ours(authority))
        else {
            return Ok(());
        };
        let other: String = host_of(other).chars().take(80).collect();
        let message = format!("this server has no token, and {other:?} is not a name under which it answers then");
        let hint = "ask for localhost, add the name to http.hosts (--http-host), or configure a token and send it";
        Err(Problem::from(Error::Forbidden { message }).with_hint(hint))
    }
}

/// Lets through who has the token.
pub(crate) async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access.0.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Lets through all but what a web page from elsewhere sends: who it is, is for the handler to find out.
pub(crate) async fn guard_page(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access.0.check_page(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Tells whether a token is the one with this digest.
fn is(token: &[u8], expected: &[u8; 32]) -> bool {
    let given: [u8; 32] = Sha256::digest(token).into();
    bool::from(given.ct_eq(expected))
}

/// Returns the token that a request carries.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Refuses what a browser sends for a web page from elsewhere: without a token, any page that a developer opens could
/// otherwise make and delete databases on the developer's own machine.
fn check_origin(headers: &HeaderMap) -> Result<()> {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    if origin.to_str().is_ok_and(is_local) {
        return Ok(());
    }
    Err(Error::Forbidden {
        message: "web pages from elsewhere may not use a server without a token; configure one, and send it".into(),
    })
}

/// Tells whether an origin (`http://localhost:3000`) is this machine.
fn is_local(origin: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else {
        return false;
    };
    let host = host_of(authority);
    host.eq_ignore_ascii_case("localhost") || is_loopback(host)
}

/// Returns the host of `host:port`, an IPv6 address without its brackets.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

/// Tells whether a host is a name that no resolver gives to another machine: browsers take `*.localhost` for this one.
fn is_this_machine(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || is_loopback(host)
}

fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Tells whether two hosts are the same, however their letters or the parts of an address are written.
fn same_host(one: &str, other: &str) -> bool {
    let bare = |host: &str| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let address = |host: &str| host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    bare(one) == bare(other) || address(one).is_some_and(|one| address(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use ondemand_core::{Code, Secret};

    use super::*;

    fn with(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a header"))])
    }

    fn check(token: Option<&str>, headers: &HeaderMap) -> Option<Code> {
        let mut config = Config::default();
        config.http.token = token.map(Secret::new);
        code(Credentials::new(&config).check(&Uri::from_static("/servers"), headers))
    }

    fn code(checked: Result<(), Problem>) -> Option<Code> {
        checked.err().map(|problem| problem.into_body().code)
    }

    #[test]
    fn the_token_and_nothing_else_is_let_through() {
        for good in ["Bearer s3cret", "bearer s3cret", "Bearer  s3cret "] {
            assert_eq!(check(Some("s3cret"), &with(header::AUTHORIZATION, good)), None, "{good:?}");
        }
        for bad in
            ["", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret", "Bearer S3CRET"]
        {
            let refused = check(Some("s3cret"), &with(header::AUTHORIZATION, bad));
            assert_eq!(refused, Some(Code::Unauthenticated), "{bad:?}");
        }
        assert_eq!(check(Some("s3cret"), &HeaderMap::new()), Some(Code::Unauthenticated));
    }

    #[test]
    fn without_a_token_web_pages_from_elsewhere_are_refused() {
        assert_eq!(check(None, &HeaderMap::new()), None);
        for good in ["http://localhost", "http://localhost:3000", "https://127.0.0.1:8443", "http://[::1]:80"] {
            assert_eq!(check(None, &with(header::ORIGIN, good)), None, "{good}");
        }
        let bad =
            ["null", "", "http://evil.example", "http://localhost.evil.example", "http://127.0.0.1.evil.example:80"];
        for bad in
            bad.into_iter().chain(["http://10.0.0.1", "localhost", "http://[::2]", "http://evil.example:localhost"])
        {
            assert_eq!(check(None, &with(header::ORIGIN, bad)), Some(Code::Forbidden), "{bad}");
        }
        // With a token, the token decides.
        let mut headers = with(header::ORIGIN, "https://app.example");
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        assert_eq!(check(Some("x"), &headers), None);
    }

    #[test]
    fn without_a_token_only_names_that_nobody_else_gives_are_answered() {
        let mut config = Config::default();
        config.http.hosts = vec!["Dev.internal".into(), "fd00::1".into()];
        config.databases.host = Some("pg.internal".into());
        let asked = |config: &Config, host: &str| {
            code(Credentials::new(config).check(&Uri::from_static("/servers"), &with(header::HOST, host)))
        };
        let good =
            ["localhost", "LocalHost:8080", "localhost.:80", "shop.localhost:8080", "127.0.0.1:8080", "127.0.0.9"];
        let listed = ["dev.internal", "DEV.internal.:8080", "pg.internal:8080", "[fd00:0::1]:8080"];
        for good in good.into_iter().chain(["[::1]", "[::1]:8080", "[::ffff:127.0.0.1]:1"]).chain(listed) {
            assert_eq!(asked(&config, good), None, "{good}");
        }
        let bad = ["", ":8080", "evil.example", "evil.example:8080", "localhost.evil.example", "evillocalhost"];
        for bad in bad.into_iter().chain(["127.0.0.1.evil.example", "10.0.0.1", "[::2]:8080", "x.dev.internal"]) {
            assert_eq!(asked(&config, bad), Some(Code::Forbidden), "{bad}");
        }
        let uri = Uri::from_static("http://evil.example/servers");
        let refused = Credentials::new(&config).check(&uri, &HeaderMap::new());
        assert_eq!(code(refused), Some(Code::Forbidden), "an :authority is a name like any other");
        let mut two = with(header::HOST, "localhost");
        two.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(check(None, &two), Some(Code::Forbidden));

        config.http.allow_anonymous = true;
        assert_eq!(asked(&config, "evil.example"), None);
        config.http.allow_anonymous = false;
        config.http.token = Some(Secret::new("x"));
        assert_eq!(asked(&config, "evil.example"), Some(Code::Unauthenticated), "the token decides");
    }

    #[test]
    fn a_server_is_not_open_to_the_network_by_accident() {
        let config = |listen: &str, token: Option<&str>, allow_anonymous| {
            let config = HttpConfig {
                listen: listen.parse().expect("an address"),
                token: token.map(Secret::new),
                allow_anonymous,
                ..HttpConfig::default()
            };
            check_exposure(&config).err().map(|e| (e.code(), e.to_string()))
        };
        for loopback in ["127.0.0.1:8080", "127.0.0.9:1", "[::1]:8080", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(config(loopback, None, false), None, "{loopback}");
        }
        let (code, message) = config("0.0.0.0:8080", None, false).expect("a refusal");
        assert_eq!(code, Code::Forbidden);
        assert!(message.contains("http.token") && message.contains("--allow-anonymous"), "{message}");
        assert!(config("[::]:8080", None, false).is_some());
        assert_eq!(config("0.0.0.0:8080", None, true), None);
        assert_eq!(config("0.0.0.0:8080", Some("x"), false), None);
        assert_eq!(config("0.0.0.0:8080", Some(" "), false).map(|(code, _)| code), Some(Code::InvalidInput));
    }
}
