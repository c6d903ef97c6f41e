//! The configuration, as the data plane uses it.

use std::time::Duration;

use crate::config::ProxyConfig;
use crate::notation::Ttl;

/// Files that are open for other reasons than connections, at least.
const OTHER_FILES: u64 = 64;
/// The part of all files, as a divisor, that is kept for others where there are many: the API beside the proxy, and databases.
const OTHER_PART: u64 = 4;

/// The configuration, as the data plane uses it.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) redirect: bool,
    pub(super) access_log: bool,
    pub(super) max_connections: usize,
    pub(super) max_connections_per_client: usize,
    pub(super) max_header_size: usize,
    pub(super) max_headers: usize,
    pub(super) max_pending: usize,
    pub(super) max_metrics_routes: usize,
    pub(super) header_timeout: Duration,
    pub(super) keep_alive_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) upgrade_idle_timeout: Option<Duration>,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) pending_timeout: Duration,
    pub(super) drain_timeout: Duration,
}

impl Settings {
    /// Takes over what is configured, as far as there may be files for it.
    pub(super) fn new(config: &ProxyConfig) -> Self {
        // Each connection has one with an upstream.
        let files = raise_open_files();
        let others = OTHER_FILES.max(files / OTHER_PART);
        let room = usize::try_from(files.saturating_sub(others) / 2).unwrap_or(usize::MAX).max(1);
        if room < config.max_connections {
            tracing::warn!(
                "the system's limit of open files has room for {room} connections, and proxy.max-connections is {}",
                config.max_connections
            );
        }
        Self {
            redirect: config.redirect,
            access_log: config.access_log,
            max_connections: config.max_connections.min(room),
            max_connections_per_client: config.max_connections_per_client,
            max_header_size: usize::try_from(config.max_header_size.0).unwrap_or(usize::MAX),
            max_headers: config.max_headers,
            max_pending: config.max_pending,
            max_metrics_routes: config.max_metrics_routes,
            header_timeout: config.header_timeout.duration(),
            keep_alive_timeout: config.keep_alive_timeout.duration(),
            idle_timeout: config.idle_timeout.duration(),
            upgrade_idle_timeout: config.upgrade_idle_timeout.map(Ttl::duration),
            connect_timeout: config.connect_timeout.duration(),
            response_timeout: config.response_timeout.duration(),
            pending_timeout: config.pending_timeout.duration(),
            drain_timeout: config.drain_timeout.duration(),
        }
    }
}

/// Raises the limit of open files of this process as far as it may, and returns it.
#[must_use]
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}
