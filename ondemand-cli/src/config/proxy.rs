//! What environment variables and flags change of the proxy's configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::FalseyValueParser;
use ondemand_core::Ttl;
use ondemand_core::config::{CertificateFiles, ProxyConfig};

use super::overrides::{set, set_option};
use crate::failure::Failure;

/// What environment variables and flags change of the proxy's configuration.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Proxy options")]
pub(crate) struct ProxyOverrides {
    /// Where the proxy listens for HTTP [default: 127.0.0.1:8000]
    #[arg(long, env = "ONDEMAND_PROXY_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) proxy_listen: Option<SocketAddr>,
    /// Where the proxy listens for HTTPS [default: nowhere]
    #[arg(long, env = "ONDEMAND_PROXY_TLS_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) proxy_tls_listen: Option<SocketAddr>,
    /// The certificate that the proxy shows, with those that lead from it to a known authority, in PEM
    #[arg(long, env = "ONDEMAND_TLS_CERTIFICATE", value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// The private key of the certificate, in PEM
    #[arg(long, env = "ONDEMAND_TLS_KEY", value_name = "FILE", requires = "tls_certificate")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Send those who come over HTTP on to HTTPS
    #[arg(long, env = "ONDEMAND_REDIRECT_TO_HTTPS", value_parser = FalseyValueParser::new())]
    pub(crate) redirect_to_https: bool,
    /// How many threads the proxy works with [default: as many as there are processors]
    #[arg(long, env = "ONDEMAND_PROXY_WORKERS", value_name = "NUMBER")]
    pub(crate) proxy_workers: Option<usize>,
    /// Add to what clients say of where a request came from, instead of replacing it: behind another proxy
    #[arg(long, env = "ONDEMAND_TRUST_FORWARDED", value_parser = FalseyValueParser::new())]
    pub(crate) trust_forwarded: bool,
    /// Write each request to the log
    #[arg(long, env = "ONDEMAND_ACCESS_LOG", value_parser = FalseyValueParser::new())]
    pub(crate) access_log: bool,
    /// How many connections may be open with clients [default: 20000]
    #[arg(long, env = "ONDEMAND_MAX_CONNECTIONS", value_name = "NUMBER")]
    pub(crate) max_connections: Option<usize>,
    /// How many of them may be one client address's [default: 2000]
    #[arg(long, env = "ONDEMAND_MAX_CONNECTIONS_PER_CLIENT", value_name = "NUMBER")]
    pub(crate) max_connections_per_client: Option<usize>,
    /// How long what is in flight may go on when a route is deleted or the proxy ends [default: 30s]
    #[arg(long, env = "ONDEMAND_DRAIN_TIMEOUT", value_name = "TIME")]
    pub(crate) drain_timeout: Option<Ttl>,
}

impl ProxyOverrides {
    /// Makes paths absolute: what is written on a command line is meant from where one stands.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        for path in [&mut self.tls_certificate, &mut self.tls_key].into_iter().flatten() {
            *path = absolute(path)?;
        }
        Ok(())
    }

    /// Changes a configuration.
    pub(super) fn apply(self, config: &mut ProxyConfig) {
        // Named one by one, so that none is forgotten.
        let Self {
            proxy_listen,
            proxy_tls_listen,
            tls_certificate,
            tls_key,
            redirect_to_https,
            proxy_workers,
            trust_forwarded,
            access_log,
            max_connections,
            max_connections_per_client,
            drain_timeout,
        } = self;
        set(&mut config.listen, proxy_listen);
        set_option(&mut config.tls_listen, proxy_tls_listen);
        // Neither is taken without the other.
        if let (Some(certificate), Some(key)) = (tls_certificate, tls_key) {
            config.certificates = vec![CertificateFiles { certificate, key }];
        }
        config.redirect |= redirect_to_https;
        set_option(&mut config.workers, proxy_workers);
        config.trust_forwarded |= trust_forwarded;
        config.access_log |= access_log;
        set(&mut config.max_connections, max_connections);
        set(&mut config.max_connections_per_client, max_connections_per_client);
        set(&mut config.drain_timeout, drain_timeout);
    }
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::caused(format!("finding {}", path.display()), &e))
}
