//! `/leases`: servers that live only as long as whoever asked for them.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use ondemand_core::{Databases, LeaseId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::body::Json;
use crate::life::Life;
use crate::openapi::Problems;
use crate::problem::Problem;
use crate::wire;

/// How often something is written to a holder: what is written to one whose machine has died ends its lease.
const HEARTBEAT: Duration = Duration::from_secs(1);

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(hold))
}

/// Holds a lease for as long as this connection is open.
///
/// The answer is a stream of events: `held` at once, and then a comment every second. When the last connection that holds a lease has
/// been closed, and no other was opened within a second, the servers that live on it are deleted. After a restart of this server
/// there are five seconds to open one again. The id is chosen by the client, at random, since whoever knows it can hold the lease.
#[utoipa::path(post, path = "/leases", operation_id = "hold_lease", tag = "servers", security(("bearer" = []), ()),
    request_body(content = wire::Lease),
    responses((status = 200, description = "It is held.", body = String, content_type = "text/event-stream"), Problems))]
async fn hold(
    State(databases): State<Databases>,
    State(life): State<Life>,
    Json(wanted): Json<wire::Lease>,
) -> Result<Response, Problem> {
    let lease = databases.hold(wanted.id.parse::<LeaseId>()?);
    let held = Event::default().event("held").json_data(&wanted).unwrap_or_default();
    // The guard lives in what never comes, and so is dropped with the stream.
    let never = stream::once(async move {
        std::future::pending::<()>().await;
        drop(lease);
        Ok::<_, Infallible>(Event::default())
    });
    let ending = async move { life.ending().await };
    let events = stream::iter([Ok(held)]).chain(never).take_until(Box::pin(ending));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response())
}
