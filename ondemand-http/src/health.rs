//! `/healthz` and `/readyz`.

use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::reply;
use crate::life::Life;
use crate::problem::Problem;
use crate::wire;

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S>
where
    Life: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz))
}

fn ok() -> Response {
    let health = wire::Health { status: "ok".into(), version: env!("CARGO_PKG_VERSION").into() };
    reply(StatusCode::OK, &health)
}

/// Tells whether the server answers at all.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, description = "It does.", body = wire::Health)))]
async fn healthz() -> Response {
    ok()
}

/// Tells whether the server knows what runs, and so does its work.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, description = "It does.", body = wire::Health),
    (status = 503, description = "It is starting.", body = wire::Problem, content_type = "application/problem+json"),
))]
async fn readyz(State(life): State<Life>) -> Result<Response, Problem> {
    if life.is_ready() { Ok(ok()) } else { Err(life.not_ready()) }
}
