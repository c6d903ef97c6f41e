//! The proxy, as `[proxy]` of `ondemand.toml` configures it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::notation::{Size, Ttl};

/// The proxy.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in the file")]
pub struct ProxyConfig {
    /// Whether `ondemand serve` runs one.
    pub enabled: bool,
    /// Where it listens for HTTP.
    pub listen: SocketAddr,
    /// Where it listens for HTTPS; nowhere where there is none.
    pub tls_listen: Option<SocketAddr>,
    /// What it proves its names with. The first is shown to clients that name a host no certificate is for, or none.
    pub certificates: Vec<CertificateFiles>,
    /// Whether requests over HTTP are sent on to HTTPS.
    pub redirect: bool,
    /// How many threads it works with; as many as there are processors where there is none.
    pub workers: Option<usize>,
    /// Whether `X-Forwarded-*` and `Forwarded` of clients are added to, instead of replaced: for a proxy behind another one.
    pub trust_forwarded: bool,
    /// Whether each request is written to the log.
    pub access_log: bool,
    /// How many connections may be open with clients, a request of HTTP/2 counting as one.
    pub max_connections: usize,
    /// How many of them may be one client address's; of IPv6, one /64's.
    pub max_connections_per_client: usize,
    /// How long the head of a request may be.
    pub max_header_size: Size,
    /// How many fields the head of a request may have; at most 256.
    pub max_headers: usize,
    /// How many requests may be held for a route that is pending.
    pub max_pending: usize,
    /// How long a client may take to send the head of a request, once it has begun.
    pub header_timeout: Ttl,
    /// How long a connection without a request is kept.
    pub keep_alive_timeout: Ttl,
    /// How long a body may pause; the whole may take as long as it likes.
    pub idle_timeout: Ttl,
    /// How long an upgraded connection, such as a WebSocket, may be silent; for ever where there is none.
    pub upgrade_idle_timeout: Option<Ttl>,
    /// How long connecting to an upstream may take.
    pub connect_timeout: Ttl,
    /// How long an upstream may take to begin an answer.
    pub response_timeout: Ttl,
    /// How long a request is held for a route that is pending.
    pub pending_timeout: Ttl,
    /// How long what is in flight may go on after its route was removed, or the proxy was asked to end.
    pub drain_timeout: Ttl,
    /// How many routes have metrics of their own; those of the others are added up.
    pub max_metrics_routes: usize,
}

/// As many as the proxy has room for.
pub(crate) const MOST_HEADERS: usize = 256;

/// A certificate and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CertificateFiles {
    /// The certificate, and those that lead from it to a known authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for ProxyConfig {
    #[expect(clippy::expect_used, reason = "these literals are within the limits")]
    fn default() -> Self {
        let ttl = |text: &str| text.parse().expect("a valid ttl");
        Self {
            enabled: true,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            tls_listen: None,
            certificates: Vec::new(),
            redirect: false,
            workers: None,
            trust_forwarded: false,
            access_log: false,
            max_connections: 20_000,
            max_connections_per_client: 2_000,
            max_header_size: Size(32 << 10),
            max_headers: 100,
            max_pending: 100,
            header_timeout: ttl("15s"),
            keep_alive_timeout: ttl("75s"),
            idle_timeout: ttl("5m"),
            upgrade_idle_timeout: None,
            connect_timeout: ttl("5s"),
            response_timeout: ttl("2m"),
            pending_timeout: ttl("60s"),
            drain_timeout: ttl("30s"),
            max_metrics_routes: 1_000,
        }
    }
}

impl ProxyConfig {
    /// Checks what no single field shows.
    ///
    /// # Errors
    /// [`Error::InvalidInput`].
    pub fn validate(&self) -> Result<()> {
        let invalid = |reason: &str| Err(Error::invalid("configuration", reason));
        if self.tls_listen.is_some() && self.certificates.is_empty() {
            return invalid("proxy.tls-listen needs a certificate: set proxy.certificates");
        }
        if self.redirect && self.tls_listen.is_none() {
            return invalid("proxy.redirect needs proxy.tls-listen to redirect to");
        }
        if self.tls_listen == Some(self.listen) && self.listen.port() != 0 {
            return invalid("proxy.listen and proxy.tls-listen are the same address");
        }
        for (name, value) in [
            ("workers", self.workers.unwrap_or(1)),
            ("max-connections", self.max_connections),
            ("max-connections-per-client", self.max_connections_per_client),
            ("max-headers", self.max_headers),
        ] {
            if value == 0 {
                return invalid(&format!("proxy.{name} must be at least 1"));
            }
        }
        if !(1 << 10..=1 << 16).contains(&self.max_header_size.0) {
            return invalid("proxy.max-header-size must be from 1K to 64K");
        }
        if self.max_headers > MOST_HEADERS {
            return invalid(&format!("proxy.max-headers must be at most {MOST_HEADERS}"));
        }
        Ok(())
    }
}
