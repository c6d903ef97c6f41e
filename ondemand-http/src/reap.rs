//! `/reap`: one round of the janitor, now.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use ondemand_core::{Janitor, Report};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::body::reply;
use crate::openapi::Problems;
use crate::problem::Problem;
use crate::routes::Routing;
use crate::wire;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(reap))
}

/// Deletes what has expired, starts what should run, and removes what dead attempts left, and what is left on the nodes of a Swarm.
#[utoipa::path(post, path = "/reap", tag = "janitor", security(("bearer" = []), ()), responses(
    (status = 200, description = "What was done.", body = wire::Reaped), Problems))]
async fn reap(State(janitor): State<Janitor>, State(routing): State<Routing>) -> Result<Response, Problem> {
    let mut report = janitor.run_once().await?;
    report.unknown.extend(routing.unreadable());
    report.add(janitor.tidy().await.unwrap_or_else(|error| Report::of_failure(&error)));
    Ok(reply(StatusCode::OK, &wire::Reaped::from(report)))
}
