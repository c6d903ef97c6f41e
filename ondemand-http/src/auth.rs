//! Who may ask: whoever has the token; where there is none, whoever reaches the address, but no web page.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ondemand_core::config::HttpConfig;
use ondemand_core::{Error, Result, Secret};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::AppState;
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

/// What a client must prove to know.
#[derive(Debug)]
pub(crate) struct Credentials {
    /// The token's digest: digests are of one length, so comparing them tells nothing of the token's.
    digest: Option<[u8; 32]>,
}

impl Credentials {
    pub(crate) fn new(token: Option<&Secret>) -> Self {
        Self { digest: token.map(|token| Sha256::digest(token.expose()).into()) }
    }

    /// Checks the headers of a request.
    fn check(&self, headers: &HeaderMap) -> Result<()> {
        let Some(expected) = &self.digest else {
            return check_origin(headers);
        };
        let Some(token) = bearer(headers) else {
            return Err(Error::Unauthenticated { message: "this server wants a token".into() });
        };
        let given: [u8; 32] = Sha256::digest(token).into();
        if bool::from(given.ct_eq(expected)) {
            return Ok(());
        }
        Err(Error::Unauthenticated { message: "the token is not the one this server wants".into() })
    }
}

/// Lets through who has the token.
pub(crate) async fn guard(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match state.credentials().check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => Problem::from(error).into_response(),
    }
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
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use ondemand_core::Code;

    use super::*;

    fn with(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a header"))])
    }

    fn check(token: Option<&str>, headers: &HeaderMap) -> Option<Code> {
        Credentials::new(token.map(Secret::new).as_ref()).check(headers).err().map(|e| e.code())
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
