//! `/pool`: how full the store is.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use ondemand_core::SnapshotStore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::body::reply;
use crate::openapi::Problems;
use crate::problem::Problem;
use crate::wire;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(usage))
}

/// Tells how full the store is, and what each volume takes.
#[utoipa::path(get, path = "/pool", tag = "pool", security(("bearer" = []), ()), responses(
    (status = 200, description = "How full it is.", body = wire::Pool), Problems))]
async fn usage(State(store): State<Arc<dyn SnapshotStore>>) -> Result<Response, Problem> {
    let usage = store.usage().await?;
    Ok(reply(StatusCode::OK, &wire::Pool::from(usage)))
}
