//! `/servers`: databases.

use std::time::SystemTime;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use ondemand_core::orchestrator::LogOptions;
use ondemand_core::{Databases, DatasetName, PublishOptions};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::body::{Json, reply};
use crate::events;
use crate::life::Life;
use crate::lines;
use crate::openapi::Problems;
use crate::problem::Problem;
use crate::request::{Parameters, Segment};
use crate::wire::{CreateServer, PatchServer, PublishServer, Server, ServerId, Snapshot};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get, patch, delete))
        .routes(routes!(reset))
        .routes(routes!(publish))
        .routes(routes!(logs))
}

/// Creates a server, and answers once it can be connected to.
#[utoipa::path(post, path = "/servers", operation_id = "create_server", tag = "servers", security(("bearer" = []), ()),
    request_body(content = Option<CreateServer>, description = "What it is to be. Nothing, or `{}`, asks for all defaults."),
    responses((status = 201, description = "It runs.", body = Server), Problems))]
async fn create(State(databases): State<Databases>, Json(wanted): Json<CreateServer>) -> Result<Response, Problem> {
    let database = databases.create(wanted.try_into()?).await?;
    let mut response = reply(StatusCode::CREATED, &Server::with_password(&database));
    if let Ok(location) = HeaderValue::try_from(format!("/servers/{}", database.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Lists the servers, the oldest first, without their passwords.
#[utoipa::path(get, path = "/servers", operation_id = "list_servers", tag = "servers", security(("bearer" = []), ()),
    responses((status = 200, description = "All servers.", body = [Server]), Problems))]
async fn list(State(databases): State<Databases>) -> Result<Response, Problem> {
    let listed = databases.list().await?;
    Ok(reply(StatusCode::OK, &listed.iter().map(Server::without_password).collect::<Vec<_>>()))
}

/// Describes a server, with its password.
#[utoipa::path(get, path = "/servers/{id}", operation_id = "get_server", tag = "servers", security(("bearer" = []), ()),
    params(("id" = String, Path, description = "Its id, the id's first digits, or its name.")),
    responses((status = 200, description = "The server.", body = Server), Problems))]
async fn get(State(databases): State<Databases>, Segment(id): Segment) -> Result<Response, Problem> {
    let id = databases.find(&id)?;
    let database = databases.get(&id).await?;
    Ok(reply(StatusCode::OK, &Server::with_password(&database)))
}

/// Changes when a server is reaped, and takes it off its lease.
#[utoipa::path(patch, path = "/servers/{id}", operation_id = "extend_server", tag = "servers", security(("bearer" = []), ()),
    params(("id" = String, Path, description = "Its id, the id's first digits, or its name.")),
    request_body(content = PatchServer),
    responses((status = 200, description = "The server as it is now.", body = Server), Problems))]
async fn patch(
    State(databases): State<Databases>,
    Segment(id): Segment,
    Json(wanted): Json<PatchServer>,
) -> Result<Response, Problem> {
    let ttl = wanted.ttl(SystemTime::now())?;
    let id = databases.find(&id)?;
    if let Some(ttl) = ttl {
        databases.extend(&id, ttl).await?;
    }
    let database = if wanted.release { databases.release(&id).await? } else { databases.get(&id).await? };
    Ok(reply(StatusCode::OK, &Server::with_password(&database)))
}

/// Deletes a server, and answers once its process, data and port are gone.
#[utoipa::path(delete, path = "/servers/{id}", operation_id = "delete_server", tag = "servers", security(("bearer" = []), ()),
    params(("id" = String, Path, description = "Its id, the id's first digits, or its name.")),
    responses((status = 200, description = "It is gone.", body = ServerId), Problems))]
async fn delete(State(databases): State<Databases>, Segment(id): Segment) -> Result<Response, Problem> {
    let id = databases.find(&id)?;
    databases.delete(&id).await?;
    Ok(reply(StatusCode::OK, &ServerId { id: id.to_string() }))
}

/// Takes a server back to its snapshot: same address, same password, same expiry.
#[utoipa::path(post, path = "/servers/{id}/reset", operation_id = "reset_server", tag = "servers", security(("bearer" = []), ()),
    params(("id" = String, Path, description = "Its id, the id's first digits, or its name.")),
    responses((status = 200, description = "It runs again.", body = Server), Problems))]
async fn reset(State(databases): State<Databases>, Segment(id): Segment) -> Result<Response, Problem> {
    let id = databases.find(&id)?;
    let database = databases.reset(&id).await?;
    Ok(reply(StatusCode::OK, &Server::with_password(&database)))
}

/// Ends a server, and makes the newest version of a dataset of its data. With `Accept: text/event-stream` the answer is a stream of
/// events, as for an import.
#[utoipa::path(post, path = "/servers/{id}/publish", operation_id = "publish_server", tag = "servers", security(("bearer" = []), ()),
    params(("id" = String, Path, description = "Its id, the id's first digits, or its name.")),
    request_body(content = PublishServer),
    responses(
        (status = 201, description = "The new version. The server is gone.", body = Snapshot),
        (status = 200, description = "Events, for a client that accepts them.", body = String, content_type = "text/event-stream"),
        Problems,
    ))]
async fn publish(
    State(databases): State<Databases>,
    Segment(id): Segment,
    headers: HeaderMap,
    Json(wanted): Json<PublishServer>,
) -> Result<Response, Problem> {
    let dataset: DatasetName = wanted.dataset.parse()?;
    let id = databases.find(&id)?;
    let options = PublishOptions { derived: wanted.derived };
    let publish =
        |reporter| async move { databases.publish(&id, &dataset, options, reporter).await.map(Snapshot::from) };
    events::answer_reported(&headers, publish, Problem::from).await
}

/// Returns what a server wrote to its log, line by line.
#[utoipa::path(get, path = "/servers/{id}/logs", operation_id = "server_logs", tag = "servers", security(("bearer" = []), ()),
    params(
        ("id" = String, Path, description = "Its id, the id's first digits, or its name."),
        ("tail" = Option<usize>, Query, description = "Only the last so many lines."),
        ("follow" = Option<bool>, Query, description = "Whether to wait for more, until the server is gone."),
    ),
    responses((status = 200, description = "The lines.", body = String, content_type = "text/plain"), Problems))]
async fn logs(
    State(databases): State<Databases>,
    State(life): State<Life>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let options =
        LogOptions { tail: parameters.one("tail")?, follow: parameters.switch("follow")?, ..LogOptions::default() };
    parameters.finish()?;
    let id = databases.find(&id)?;
    lines::answer(databases.logs(&id, options)?, life, |line| line.text)
}
