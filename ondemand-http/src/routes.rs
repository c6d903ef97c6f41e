//! `/routes`: which names reach which addresses; `/metrics`: what goes through, and how full the store is.

use std::sync::Arc;

use axum::extract::{FromRef, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ondemand_core::router::{Proxy, Route};
use ondemand_core::{Error, Hostname, Router};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::{Json, reply};
use crate::openapi::Problems;
use crate::pool;
use crate::problem::Problem;
use crate::request::Segment;
use crate::state::{Kept, Limits};
use crate::wire::{self, PutRoute};

/// What `/routes` and `/metrics` show and change. By default nothing: they say that there is no proxy.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    router: Option<Arc<dyn Router>>,
    proxy: Option<Proxy>,
}

impl Routing {
    /// Shows and changes the routes of a router, of which nothing more is known.
    pub fn new(router: Arc<dyn Router>) -> Self {
        Self { router: Some(router), proxy: None }
    }

    /// Also shows what goes through this proxy, which the router sets the routes of.
    #[must_use]
    pub fn with_proxy(self, proxy: Proxy) -> Self {
        Self { proxy: Some(proxy), ..self }
    }

    /// Returns what environments set their routes in.
    pub(crate) fn set_by_environments(&self) -> Option<Arc<dyn Router>> {
        self.router.clone()
    }

    /// Returns which routes cannot be read, in words for an operator.
    pub(crate) fn unreadable(&self) -> Vec<String> {
        let unreadable = self.router.iter().flat_map(|router| router.unreadable());
        unreadable.map(|what| format!("route {what}")).collect()
    }

    fn router(&self) -> Result<&dyn Router, Error> {
        self.router.as_deref().ok_or_else(|| Error::Unsupported {
            message: "this server runs no proxy".into(),
            hint: "start it with proxy.enabled = true and without --no-proxy, or ask another: `ondemand proxy`".into(),
        })
    }

    fn proxy(&self) -> Result<&Proxy, Error> {
        self.router()?;
        self.proxy.as_ref().ok_or_else(|| Error::Unsupported {
            message: "this server does not see what goes through its routes".into(),
            hint: "ask the proxy itself".into(),
        })
    }

    fn describe(&self, route: Route) -> wire::Route {
        let activity = self.proxy.as_ref().and_then(|proxy| proxy.activity(&route.host));
        wire::Route::new(route, activity)
    }
}

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S>
where
    Routing: FromRef<S>,
    Limits: FromRef<S>,
    Kept: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, put, delete)).routes(routes!(metrics))
}

/// Lists the routes in the order of their hosts, with what goes through each.
#[utoipa::path(get, path = "/routes", operation_id = "list_routes", tag = "routes", security(("bearer" = []), ()),
    responses((status = 200, description = "All routes.", body = [wire::Route]), Problems))]
async fn list(State(routing): State<Routing>) -> Result<Response, Problem> {
    let routes = routing.router()?.list().await?;
    Ok(reply(StatusCode::OK, &routes.into_iter().map(|route| routing.describe(route)).collect::<Vec<_>>()))
}

/// Describes a route, with what goes through it.
#[utoipa::path(get, path = "/routes/{host}", operation_id = "get_route", tag = "routes", security(("bearer" = []), ()),
    params(("host" = String, Path, description = "The host name, as a browser takes it; without a port.")),
    responses((status = 200, description = "The route.", body = wire::Route), Problems))]
async fn get(State(routing): State<Routing>, Segment(host): Segment) -> Result<Response, Problem> {
    let route = routing.router()?.get(&Hostname::parse_lenient(&host)?).await?;
    Ok(reply(StatusCode::OK, &routing.describe(route)))
}

/// Makes a host reach other addresses, in one step, and answers once it does. Requests that are in flight finish where they began.
#[utoipa::path(put, path = "/routes/{host}", operation_id = "put_route", tag = "routes", security(("bearer" = []), ()),
    params(("host" = String, Path, description = "The host name, as a browser takes it; without a port.")),
    request_body(content = PutRoute),
    responses((status = 200, description = "The route as it is now.", body = wire::Route), Problems))]
async fn put(
    State(routing): State<Routing>,
    Segment(host): Segment,
    Json(wanted): Json<PutRoute>,
) -> Result<Response, Problem> {
    let route = wanted.into_route(Hostname::parse_lenient(&host)?)?;
    routing.router()?.set(&route).await?;
    Ok(reply(StatusCode::OK, &routing.describe(route)))
}

/// Makes a host unknown, and answers once it is. Requests that are in flight may finish.
#[utoipa::path(delete, path = "/routes/{host}", operation_id = "delete_route", tag = "routes", security(("bearer" = []), ()),
    params(("host" = String, Path, description = "The host name, as a browser takes it; without a port.")),
    responses((status = 204, description = "It is gone."), Problems))]
async fn delete(State(routing): State<Routing>, Segment(host): Segment) -> Result<Response, Problem> {
    let (router, host) = (routing.router()?, Hostname::parse_lenient(&host)?);
    router.get(&host).await?;
    router.remove(&host).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Tells what the proxy has measured, and how full the store is, for Prometheus.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "routes", security(("bearer" = []), ()),
    responses((status = 200, description = "In Prometheus's text format.", body = String, content_type = "text/plain"), Problems))]
async fn metrics(State(routing): State<Routing>, State(Kept(kept)): State<Kept>) -> Result<Response, Problem> {
    let mut text = match (routing.proxy(), &kept) {
        (Ok(proxy), _) => proxy.metrics(),
        (Err(_), Some(_)) => String::new(),
        (Err(error), None) => return Err(error.into()),
    };
    let mut unknown = routing.unreadable().len();
    if let Some((store, janitor)) = kept {
        text += &pool::metrics(&store.space().await);
        unknown += janitor.unknown().len();
    }
    text += &pool::unknown(unknown);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
