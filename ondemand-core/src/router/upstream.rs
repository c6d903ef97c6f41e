//! Where routes lead.

use crate::error::{Error, Result, shorten};
use crate::name::Hostname;

/// What an upstream speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, from the first byte on ("prior knowledge").
    Http2,
}

/// Where a route leads: `10.0.0.5:32768`, `[::1]:80` or `backend:8000`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Upstream(String);

impl Upstream {
    /// Parses an address with a port.
    ///
    /// # Errors
    /// [`Error::InvalidInput`].
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let invalid = |reason: &str| Err(Error::invalid(format!("upstream {:?}", shorten(&text)), reason));
        if text.parse::<std::net::SocketAddr>().is_ok_and(|address| address.port() != 0) {
            return Ok(Self(text));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return invalid("it has no port; write HOST:PORT");
        };
        if !port.bytes().all(|b| b.is_ascii_digit()) || !port.parse::<u16>().is_ok_and(|port| port != 0) {
            return invalid("its port is not a number from 1 to 65535");
        }
        if Hostname::new(host).is_err() {
            return invalid("its host is neither an address nor a name");
        }
        Ok(Self(text))
    }

    /// Returns the address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Upstream {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<Upstream> for String {
    fn from(upstream: Upstream) -> Self {
        upstream.0
    }
}

impl From<std::net::SocketAddr> for Upstream {
    fn from(address: std::net::SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl std::fmt::Display for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

impl std::str::FromStr for Upstream {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_has_a_host_and_a_port() {
        for good in ["10.0.0.5:32768", "[::1]:80", "backend:8000", "a.b-c:1"] {
            assert!(Upstream::new(good).is_ok(), "{good}");
        }
        for bad in ["", ":", "a", "a:", ":80", "a:0", "a:65536", "a:+1", "10.0.0.5:0", "a b:80", "::1", "http://a:80"] {
            assert!(Upstream::new(bad).is_err(), "{bad}");
        }
    }
}
