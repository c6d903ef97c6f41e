//! `/healthz` and `/readyz`.

use std::time::Duration;

use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::response::Response;
use ondemand_core::Error;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::reply;
use crate::life::Life;
use crate::problem::Problem;
use crate::routes::Routing;
use crate::state::Kept;
use crate::wire::{self, Trouble};

/// How long the store may take to say how full it is.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S>
where
    Life: FromRef<S>,
    Kept: FromRef<S>,
    Routing: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz))
}

fn answer(trouble: Option<Trouble>) -> Response {
    let status = if trouble.is_some() { "degraded" } else { "ok" };
    let health = wire::Health { status: status.into(), version: env!("CARGO_PKG_VERSION").into(), trouble };
    reply(StatusCode::OK, &health)
}

/// Returns what to say of so many things that are left alone. Their names are for those who have the token.
fn unknown(count: usize) -> Option<Trouble> {
    (count > 0).then(|| Trouble {
        detail: format!("{count} of the volumes, stacks and routes cannot be read or recognised, and are left alone"),
        hint: Some("`ondemand reap` names them, and says why; so does the log".into()),
    })
}

/// Tells whether the server answers at all.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, description = "It does.", body = wire::Health)))]
async fn healthz() -> Response {
    answer(None)
}

/// Tells whether the server knows what runs, and so does its work. Where it has no room for new work, or cannot read something, it is `degraded`: what
/// is there works, and can be deleted.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, description = "It does.", body = wire::Health),
    (status = 503, description = "It is starting, or cannot write.", body = wire::Problem, content_type = "application/problem+json"),
))]
async fn readyz(
    State(life): State<Life>,
    State(Kept(kept)): State<Kept>,
    State(routing): State<Routing>,
) -> Result<Response, Problem> {
    if !life.is_ready() {
        return Err(life.not_ready());
    }
    let unreadable = routing.unreadable().len();
    let Some((store, janitor)) = kept else { return Ok(answer(unknown(unreadable))) };
    let silent = |_| {
        let last = "the disk of the store does not answer".to_owned();
        Err(Error::NotReady { waited: PATIENCE, last, log: Vec::new() })
    };
    let usage = tokio::time::timeout(PATIENCE, store.space()).await.unwrap_or_else(silent);
    match usage.and_then(|usage| usage.check_room()) {
        Ok(()) => Ok(answer(unknown(unreadable + janitor.unknown().len()))),
        Err(error @ Error::OutOfSpace { .. }) => Ok(answer(Some(Trouble::from(&error)))),
        Err(error) => Err(Problem::from(error).with_status(StatusCode::SERVICE_UNAVAILABLE).expected()),
    }
}
