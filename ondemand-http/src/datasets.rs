//! `/datasets`: what servers are cloned from.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use ondemand_core::{DatasetName, DatasetRef, Datasets, ImportOptions, MissingRoles, Result, Source};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::body::reply;
use crate::events;
use crate::openapi::Problems;
use crate::problem::Problem;
use crate::request::{Parameters, Segment};
use crate::state::Limits;
use crate::upload::Upload;
use crate::wire;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, import, delete))
}

/// Lists the datasets with their versions.
#[utoipa::path(get, path = "/datasets", operation_id = "list_datasets", tag = "datasets", security(("bearer" = []), ()),
    responses((status = 200, description = "All datasets.", body = [wire::Dataset]), Problems))]
async fn list(State(datasets): State<Datasets>) -> Result<Response, Problem> {
    let listed = datasets.list().await?;
    Ok(reply(StatusCode::OK, &listed.into_iter().map(wire::Dataset::from).collect::<Vec<_>>()))
}

/// Describes a dataset, or one version of it.
#[utoipa::path(get, path = "/datasets/{name}", operation_id = "get_dataset", tag = "datasets", security(("bearer" = []), ()),
    params(("name" = String, Path, description = "The dataset, or `DATASET@VERSION`.")),
    responses((status = 200, description = "The dataset.", body = wire::Dataset), Problems))]
async fn get(State(datasets): State<Datasets>, Segment(name): Segment) -> Result<Response, Problem> {
    let reference: DatasetRef = name.parse()?;
    let dataset = if reference.version.is_some() {
        let snapshot = datasets.resolve(Some(&reference)).await?;
        wire::Dataset { name: reference.dataset.to_string(), versions: vec![snapshot.into()] }
    } else {
        datasets.get(&reference.dataset).await?.into()
    };
    Ok(reply(StatusCode::OK, &dataset))
}

/// Restores the dump that is sent as the body into a new version of a dataset.
///
/// The body is a dump as it is (SQL text, also compressed with gzip or zstd, or what `pg_dump -Fc` writes), or a tar archive of
/// what `pg_dump -Fd` wrote or of the data directory of a server that was shut down cleanly. It is restored as it arrives. With
/// `Accept: text/event-stream` the answer is a stream of events that begins at once: `progress` now and then, and `done` with
/// the version or `error` with a problem at the end. A client that goes away ends the import, which then leaves nothing.
#[utoipa::path(post, path = "/datasets/{name}", operation_id = "import_dataset", tag = "datasets", security(("bearer" = []), ()),
    params(
        ("name" = String, Path, description = "The dataset. It need not exist."),
        ("dbname" = Option<String>, Query, description = "The Postgres database that holds the data: of several that the dump makes, this one, or else one that is made to restore into."),
        ("role" = Option<Vec<String>>, Query, description = "A role to make before restoring. May be given more than once."),
        ("create_roles" = Option<bool>, Query, description = "Whether to make each role that the dump names and does not make."),
        ("on_error" = Option<String>, Query, description = "What a statement that fails leads to: `stop`, or `continue`, and the version has the list of what failed."),
        ("no_owner" = Option<bool>, Query, description = "Whether to leave out owners and privileges."),
        ("postgres" = Option<u32>, Query, description = "The major version of Postgres to restore with."),
        ("new" = Option<bool>, Query, description = "Whether to refuse if the dataset exists already."),
        ("derived" = Option<bool>, Query, description = "Whether it is a by-product: whoever names no dataset gets the only one that is none."),
        ("empty" = Option<bool>, Query, description = "Whether there is no dump: the version holds nothing but an empty database."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The dump."),
    responses(
        (status = 201, description = "The new version.", body = wire::Snapshot),
        (status = 200, description = "Events, for a client that accepts them.", body = String, content_type = "text/event-stream"),
        Problems,
    ))]
async fn import(
    State(datasets): State<Datasets>,
    State(limits): State<Limits>,
    Segment(name): Segment,
    mut parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let name: DatasetName = name.parse()?;
    let options = ImportOptions {
        dbname: parameters.one("dbname")?,
        roles: parameters.all("role"),
        missing_roles: if parameters.switch("create_roles")? { MissingRoles::Create } else { MissingRoles::Refuse },
        no_owner: parameters.switch("no_owner")?,
        on_error: parameters.one("on_error")?.unwrap_or_default(),
        postgres: parameters.one("postgres")?,
        new: parameters.switch("new")?,
        derived: parameters.switch("derived")?,
    };
    let empty = parameters.switch("empty")?;
    parameters.finish()?;
    if empty {
        let import = |reporter| async move {
            datasets.import(&name, Source::Empty, options, reporter).await.map(wire::Snapshot::from)
        };
        return events::answer_reported(&headers, import, Problem::from).await;
    }
    let upload = Upload::new(body, limits.upload)?;
    let import = |source, reporter| async move {
        datasets.import(&name, source, options, reporter).await.map(wire::Snapshot::from)
    };
    upload.answer(&headers, import).await
}

/// Deletes a dataset, or one version of it. Refused while servers live on it.
#[utoipa::path(delete, path = "/datasets/{name}", operation_id = "delete_dataset", tag = "datasets", security(("bearer" = []), ()),
    params(("name" = String, Path, description = "The dataset, or `DATASET@VERSION`.")),
    responses((status = 200, description = "It is gone.", body = wire::DatasetName), Problems))]
async fn delete(State(datasets): State<Datasets>, Segment(name): Segment) -> Result<Response, Problem> {
    let reference: DatasetRef = name.parse()?;
    datasets.delete(&reference).await?;
    Ok(reply(StatusCode::OK, &wire::DatasetName { name: reference.to_string() }))
}
