//! `/envs`: environments.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use ondemand_core::environments::{Caller, CreateEnvironment, Environment, Environments, StepReporter};
use ondemand_core::orchestrator::{LogLine, LogOptions};
use ondemand_core::{EnvironmentName, Error, Hostname, Result, Secret};
use tokio::sync::mpsc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::auth::{Access, Bearer};
use crate::body::{Json, reply};
use crate::events;
use crate::life::Life;
use crate::lines;
use crate::openapi::Problems;
use crate::problem::Problem;
use crate::request::{Moment, Parameters, Segment};
use crate::wire::{self, EnvironmentDone, EnvironmentPlan, PatchEnvironment, PostEnvironment};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, extend, delete))
        .routes(routes!(redeploy))
        .routes(routes!(logs))
}

/// Returns the environments, or says that there are none here.
fn there(environments: Option<Environments>) -> Result<Environments> {
    environments.ok_or_else(|| Error::Unsupported {
        message: "this server makes no environments".into(),
        hint: "set environments.templates to a directory of templates, and start it again".into(),
    })
}

/// Checks that a request may see what there is.
async fn may_look(environments: &Environments, access: &Access, bearer: &Bearer) -> Result<()> {
    match bearer {
        Bearer::Nobody if access.is_closed() => Err(Error::Unauthenticated {
            message: "this server wants a token: its own, or a GitHub token".into(),
            hint: "send one as `Authorization: Bearer TOKEN`".into(),
        }),
        Bearer::Admin | Bearer::Nobody => Ok(()),
        Bearer::Token(token) => environments.identify(Some(token)).await.map(drop),
    }
}

/// Returns who wants to change something, and the token that code may be cloned with.
async fn caller(environments: &Environments, bearer: Bearer) -> Result<(Caller, Option<Secret>)> {
    match bearer {
        Bearer::Admin => Ok((Caller::admin(), None)),
        Bearer::Nobody => Ok((Caller::user(environments.identify(None).await?), None)),
        Bearer::Token(token) => Ok((Caller::user(environments.identify(Some(&token)).await?), Some(token))),
    }
}

/// Lists the names of all environments.
#[utoipa::path(get, path = "/envs", operation_id = "list_environments", tag = "environments", security(("bearer" = []), ()),
    responses((status = 200, description = "Their names.", body = [String]), Problems))]
async fn list(
    State(environments): State<Option<Environments>>,
    State(access): State<Access>,
    bearer: Bearer,
) -> Result<Response, Problem> {
    let environments = there(environments)?;
    may_look(&environments, &access, &bearer).await?;
    let names: Vec<_> = environments.list().await?.iter().map(ToString::to_string).collect();
    Ok(reply(StatusCode::OK, &names))
}

/// Creates an environment, and answers once it is reached by its URLs.
///
/// With `Accept: text/event-stream` the answer is a stream of events, which begins once the name is taken and the branches are found: `progress` for
/// each step, those before included, and `done` with the answer or `error` with a problem at the end. What is wrong before is answered with a status,
/// as it is without. With `Prefer: respond-async` it is answered at the same moment, and made in the background. A client that waits and goes away
/// ends the creation, which then leaves nothing.
#[utoipa::path(post, path = "/envs", operation_id = "create_environment", tag = "environments", security(("bearer" = []), ()),
    params(("plan" = Option<bool>, Query, description = "Whether to tell only what would be done.")),
    request_body(content = PostEnvironment),
    responses(
        (status = 200, description = "It is there; or events, for a client that accepts them.", body = EnvironmentDone),
        (status = 202, description = "It is being made; where it is described, `Location` says.", body = EnvironmentDone),
        Problems,
    ))]
async fn create(
    State(environments): State<Option<Environments>>,
    bearer: Bearer,
    headers: HeaderMap,
    mut parameters: Parameters,
    Json(mut wanted): Json<PostEnvironment>,
) -> Result<Response, Problem> {
    let environments = there(environments)?;
    let plan = parameters.switch("plan")?;
    parameters.finish()?;
    let token = wanted.take_token().or(match bearer {
        Bearer::Token(token) => Some(token),
        Bearer::Admin | Bearer::Nobody => None,
    });
    let wanted = CreateEnvironment::try_from(wanted)?;
    let is_named = wanted.name.is_some();
    if plan {
        let plan = environments.plan(token, wanted).await?;
        return Ok(reply(StatusCode::OK, &EnvironmentPlan::from(plan)));
    }
    let told = move |name: &EnvironmentName| (!is_named).then(|| name.to_string());
    if events::wanted(&headers) {
        let (report, steps) = reporter();
        let creating = environments.begin(token, wanted, report).await?;
        let work = async move {
            let made = creating.finish().await?;
            Ok(done("done", &made.urls, told(&made.name)))
        };
        return Ok(events::answer(work, steps));
    }
    let creating = environments.begin(token, wanted, Arc::new(|_| ())).await?;
    if prefers_async(&headers) {
        let answer = done("creating", creating.urls(), Some(creating.name().to_string()));
        let location = HeaderValue::from_str(&format!("/envs/{}", creating.name()));
        creating.detach();
        let mut response = reply(StatusCode::ACCEPTED, &answer);
        let headers = response.headers_mut();
        headers.extend(location.ok().map(|location| (header::LOCATION, location)));
        headers.insert("preference-applied", HeaderValue::from_static("respond-async"));
        return Ok(response);
    }
    let made = creating.finish().await?;
    Ok(reply(StatusCode::OK, &done("done", &made.urls, told(&made.name))))
}

/// Describes an environment.
#[utoipa::path(get, path = "/envs/{name}", operation_id = "get_environment", tag = "environments", security(("bearer" = []), ()),
    params(("name" = String, Path, description = "Its name.")),
    responses((status = 200, description = "The environment.", body = wire::Environment), Problems))]
async fn get(
    State(environments): State<Option<Environments>>,
    State(access): State<Access>,
    bearer: Bearer,
    Segment(name): Segment,
) -> Result<Response, Problem> {
    let environments = there(environments)?;
    may_look(&environments, &access, &bearer).await?;
    let environment = environments.get(&name.parse()?).await?;
    Ok(reply(StatusCode::OK, &wire::Environment::from(environment)))
}

/// Makes an environment live longer, or shorter.
#[utoipa::path(patch, path = "/envs/{name}", operation_id = "extend_environment", tag = "environments", security(("bearer" = []), ()),
    params(("name" = String, Path, description = "Its name.")),
    request_body(content = PatchEnvironment),
    responses((status = 200, description = "The environment as it is now.", body = wire::Environment), Problems))]
async fn extend(
    State(environments): State<Option<Environments>>,
    bearer: Bearer,
    Segment(name): Segment,
    Json(wanted): Json<PatchEnvironment>,
) -> Result<Response, Problem> {
    let environments = there(environments)?;
    let (caller, _) = caller(&environments, bearer).await?;
    let environment = environments.extend(&name.parse()?, &caller, wanted.keep_days).await?;
    Ok(reply(StatusCode::OK, &wire::Environment::from(environment)))
}

/// Deletes an environment, and answers once its routes, services and data are gone. One that is being made is given up.
#[utoipa::path(delete, path = "/envs/{name}", operation_id = "delete_environment", tag = "environments", security(("bearer" = []), ()),
    params(("name" = String, Path, description = "Its name.")),
    responses((status = 200, description = "It is gone.", body = EnvironmentDone), Problems))]
async fn delete(
    State(environments): State<Option<Environments>>,
    bearer: Bearer,
    Segment(name): Segment,
) -> Result<Response, Problem> {
    let environments = there(environments)?;
    let (caller, _) = caller(&environments, bearer).await?;
    environments.delete(&name.parse()?, &caller).await?;
    Ok(reply(StatusCode::OK, &done("done", &[], None)))
}

/// Replaces an environment by what its branches are at now: same URLs, same data.
///
/// With `Accept: text/event-stream` the answer is a stream of events as for creating one, which begins at once: whatever is wrong is an `error` at its
/// end. A client that waits and goes away ends it, and the old one stays.
#[utoipa::path(post, path = "/envs/{name}/redeploy", operation_id = "redeploy_environment", tag = "environments",
    security(("bearer" = []), ()),
    params(("name" = String, Path, description = "Its name.")),
    responses(
        (status = 200, description = "It is there; or events, for a client that accepts them.", body = EnvironmentDone),
        Problems,
    ))]
async fn redeploy(
    State(environments): State<Option<Environments>>,
    bearer: Bearer,
    headers: HeaderMap,
    Segment(name): Segment,
) -> Result<Response, Problem> {
    let environments = there(environments)?;
    let (caller, token) = caller(&environments, bearer).await?;
    let name: EnvironmentName = name.parse()?;
    let finished = |made: Environment| done("done", &made.urls, None);
    if events::wanted(&headers) {
        let (report, steps) = reporter();
        let work = async move {
            let made = environments.redeploy(&name, &caller, token, report).await?;
            Ok(finished(made))
        };
        return Ok(events::answer(work, steps));
    }
    let made = environments.redeploy(&name, &caller, token, Arc::new(|_| ())).await?;
    Ok(reply(StatusCode::OK, &finished(made)))
}

/// Returns what the services of an environment wrote, line by line, each after the name of its service.
#[utoipa::path(get, path = "/envs/{name}/logs", operation_id = "environment_logs", tag = "environments", security(("bearer" = []), ()),
    params(
        ("name" = String, Path, description = "Its name."),
        ("service" = Option<String>, Query, description = "Only this service's, and without its name."),
        ("tail" = Option<usize>, Query, description = "Only the last so many lines of each service."),
        ("follow" = Option<bool>, Query, description = "Whether to wait for more, until the environment is gone."),
        ("since" = Option<String>, Query, description = "Only from this time on, as RFC 3339 writes it."),
    ),
    responses((status = 200, description = "The lines.", body = String, content_type = "text/plain"), Problems))]
async fn logs(
    State(environments): State<Option<Environments>>,
    State(life): State<Life>,
    bearer: Bearer,
    Segment(name): Segment,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let environments = there(environments)?;
    let options = LogOptions {
        service: parameters.one("service")?,
        tail: parameters.one("tail")?,
        follow: parameters.switch("follow")?,
        since: parameters.one::<Moment>("since")?.map(|Moment(since)| since),
    };
    parameters.finish()?;
    let (caller, _) = caller(&environments, bearer).await?;
    let is_named = options.service.is_some();
    let lines = environments.logs(&name.parse()?, &caller, options).await?;
    lines::answer(
        lines,
        life,
        move |LogLine { text, service, .. }| {
            if is_named { text } else { format!("{service}: {text}") }
        },
    )
}

fn done(status: &str, urls: &[Hostname], name: Option<String>) -> EnvironmentDone {
    EnvironmentDone { status: status.to_owned(), urls: urls.iter().map(ToString::to_string).collect(), name }
}

/// Returns what steps are reported to, and where they come out.
fn reporter() -> (StepReporter, mpsc::Receiver<ondemand_core::environments::Step>) {
    let (sender, steps) = mpsc::channel(events::BACKLOG);
    let report: StepReporter = Arc::new(move |step| {
        // A client that does not keep up misses steps, and the work goes on at its own pace.
        let _ = sender.try_send(step);
    });
    (report, steps)
}

/// Tells whether a client does not want to wait (RFC 7240).
fn prefers_async(headers: &HeaderMap) -> bool {
    let asks = |value: &HeaderValue| {
        let preferences = value.to_str().unwrap_or_default().split(',');
        preferences
            .map(|preference| preference.split(';').next().unwrap_or_default().trim())
            .any(|name| name.eq_ignore_ascii_case("respond-async"))
    };
    headers.get_all("prefer").iter().any(asks)
}
