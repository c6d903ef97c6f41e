//! What makes names reach addresses.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::error::{Error, Kind, Result};
use crate::listing::Unreadable;
use crate::name::Hostname;

#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(feature = "remote")]
mod remote;
mod saved;
mod table;
mod upstream;

#[cfg(feature = "proxy")]
pub use proxy::Proxy;
#[cfg(feature = "remote")]
pub use remote::Remote;
pub use saved::{Read, Saved};
pub use table::Table;
pub use upstream::{Protocol, Upstream};

/// Maps host names to upstreams.
///
/// # Contract
/// - `set` replaces a host's route in one step: at every moment a request meets the old route or the new one. It has
///   taken effect when it returns, and touches no other route.
/// - `remove` is idempotent.
#[async_trait]
pub trait Router: Debug + Send + Sync + 'static {
    /// Makes `route.host` reach `route.upstreams`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the route is none, as [`Route::validate`] has it.
    ///
    /// # Cancel safety
    /// The route is the old one or the new one.
    async fn set(&self, route: &Route) -> Result<()>;

    /// Makes a host unknown. Succeeds if it is.
    ///
    /// # Cancel safety
    /// The route is there or it is not.
    async fn remove(&self, host: &Hostname) -> Result<()>;

    /// Returns all routes in the order of their hosts.
    async fn list(&self) -> Result<Vec<Route>>;

    /// Returns a host's route.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the host is unknown.
    async fn get(&self, host: &Hostname) -> Result<Route> {
        let route = self.list().await?.into_iter().find(|route| route.host == *host);
        route.ok_or_else(|| Error::not_found(Kind::Route, host))
    }

    /// Returns what is there and cannot be read, so that it leads nowhere and is left alone until its host is set or removed.
    fn unreadable(&self) -> Vec<Unreadable> {
        Vec::new()
    }
}

/// A host name and the addresses it reaches.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Route {
    /// The name.
    pub host: Hostname,
    /// The addresses that take turns; empty only while the route is pending.
    pub upstreams: Vec<Upstream>,
    /// What the upstreams speak.
    #[serde(default)]
    pub protocol: Protocol,
    /// Whether what is behind the route is not ready yet: requests are held until the route is set again without this,
    /// instead of being sent to the upstreams.
    #[serde(default)]
    pub pending: bool,
    /// The mark of what looks after the route, and removes it in the end; a route that was set by hand has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

impl Route {
    /// Makes a route to upstreams that speak HTTP/1.1.
    pub fn new(host: Hostname, upstreams: impl IntoIterator<Item = Upstream>) -> Self {
        Self {
            host,
            upstreams: upstreams.into_iter().collect(),
            protocol: Protocol::Http1,
            pending: false,
            owner: None,
        }
    }

    /// Makes a route whose requests are held until it is set again.
    pub fn pending(host: Hostname) -> Self {
        Self { pending: true, ..Self::new(host, []) }
    }

    /// Says what the upstreams speak.
    pub fn with_protocol(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// Says what looks after the route.
    pub fn with_owner(self, owner: impl Into<String>) -> Self {
        Self { owner: Some(owner.into()), ..self }
    }

    /// Checks that the route leads somewhere, or is pending.
    ///
    /// # Errors
    /// [`Error::InvalidInput`].
    pub fn validate(&self) -> Result<()> {
        if self.upstreams.is_empty() && !self.pending {
            let host = &self.host;
            return Err(Error::invalid(
                "route",
                format!("{host} has no upstream; give one, or say that it is pending"),
            ));
        }
        Ok(())
    }
}
