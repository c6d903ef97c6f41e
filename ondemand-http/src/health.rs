//! `/healthz` and `/readyz`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::body::reply;
use crate::problem::Problem;
use crate::wire;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
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
async fn readyz(State(state): State<AppState>) -> Result<Response, Problem> {
    if state.is_ready() { Ok(ok()) } else { Err(state.not_ready()) }
}
