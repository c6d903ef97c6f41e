//! Routes of the proxy.

use std::time::SystemTime;

use ondemand_core::router::{self, Protocol, Upstream};
use ondemand_core::{Error, Hostname, Result};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::Object;

/// A host name, the addresses it reaches, and what goes through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Route {
    /// The name, in lower case and without a port.
    #[schema(example = "shop.env.dev.internal")]
    pub host: String,
    /// The addresses that take turns.
    #[schema(example = json!(["10.0.0.5:32768"]))]
    pub upstreams: Vec<String>,
    /// What the upstreams speak.
    #[schema(schema_with = protocol_schema)]
    pub protocol: Protocol,
    /// Whether requests are held until the route is put again without this.
    pub pending: bool,
    /// The mark of what looks after it, such as an environment; missing for one that was put by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What goes through; missing where the server does not know.
    #[serde(flatten)]
    pub activity: Option<Activity>,
}

/// What goes through a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Activity {
    /// Requests that are not answered to their end yet, upgraded ones not counted.
    pub in_flight: u64,
    /// Upgraded connections, such as WebSockets, that are open.
    pub upgrades: u64,
    /// Requests since the route was made, or the proxy was started.
    pub requests: u64,
    /// When the last request came, or the last upgraded connection ended; null where there was none.
    #[schema(value_type = Option<String>, format = "date-time", example = "2026-11-22T19:23:00.000Z")]
    pub last_active: Option<Moment>,
}

/// A moment, as RFC 3339 writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub SystemTime);

impl Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(self.0))
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Route {
    /// Describes a route, and what goes through it where that is known.
    pub fn new(route: router::Route, activity: Option<router::proxy::Activity>) -> Self {
        Self {
            host: route.host.to_string(),
            upstreams: route.upstreams.into_iter().map(Into::into).collect(),
            protocol: route.protocol,
            pending: route.pending,
            owner: route.owner,
            activity: activity.map(Into::into),
        }
    }
}

impl From<router::proxy::Activity> for Activity {
    fn from(activity: router::proxy::Activity) -> Self {
        Self {
            in_flight: activity.in_flight,
            upgrades: activity.upgrades,
            requests: activity.requests,
            last_active: activity.last_active.map(Moment),
        }
    }
}

/// Where a host is to lead: one of `upstream` and `upstreams`, or neither while it is pending.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PutRoute {
    /// The address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.0.0.5:32768")]
    pub upstream: Option<String>,
    /// Several addresses, which take turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstreams: Option<Vec<String>>,
    /// What the upstreams speak: `http1`, or `http2` without TLS.
    #[schema(schema_with = protocol_schema)]
    pub protocol: Protocol,
    /// Whether requests are to be held until the route is put again without this.
    pub pending: bool,
    /// The mark of what looks after it; nothing does where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

impl PutRoute {
    /// Returns the route of a host that is asked for.
    ///
    /// # Errors
    /// [`InvalidInput`](Error::InvalidInput) for an upstream that is no address, for both fields at once, and for a route that leads
    /// nowhere and is not pending.
    pub fn into_route(self, host: Hostname) -> Result<router::Route> {
        let upstreams = match (self.upstream, self.upstreams) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("request body", "give either upstream or upstreams"));
            }
            (Some(upstream), None) => vec![upstream],
            (None, upstreams) => upstreams.unwrap_or_default(),
        };
        let upstreams = upstreams.into_iter().map(Upstream::new).collect::<Result<Vec<_>>>()?;
        let route = router::Route { pending: self.pending, owner: self.owner, ..router::Route::new(host, upstreams) };
        let route = route.with_protocol(self.protocol);
        route.validate()?;
        Ok(route)
    }
}

fn protocol_schema() -> Object {
    super::text("What the upstreams speak.").enum_values(Some(["http1", "http2"])).build()
}
