//! The HTTP server of `ondemand`: it translates between HTTP and [`ondemand_core`], and holds no logic of its own.
//!
//! [`app`] is the service, for tests and for embedding; [`serve`] is the whole server, from the configuration to the last
//! connection; [`proxy_app`] and [`serve_proxy`] are the same of a proxy that stands alone. [`wire`] has the types of the requests and answers, for clients.

mod auth;
mod body;
mod datasets;
mod drain;
mod environments;
mod events;
mod health;
mod leases;
mod life;
mod lines;
mod openapi;
mod pool;
mod problem;
mod reap;
mod request;
mod routes;
mod serve;
mod servers;
mod state;
mod upload;
pub mod wire;

use axum::Router;
use axum::extract::{FromRef, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use ondemand_core::Error;
use utoipa_axum::router::OpenApiRouter;

pub use auth::check_exposure;
pub use openapi::{document as openapi, proxy_document as proxy_openapi};
pub use routes::Routing;
pub use serve::{Moment, keep, serve, serve_proxy, signalled};
pub use state::{AppState, ProxyState};

use auth::Access;
use life::Life;
use openapi::Description;
use problem::Problem;
use state::Kept;

/// Makes the service of a whole server. Requests that need what runs to be known wait until [`AppState::set_ready`] was called.
pub fn app(state: AppState) -> Router {
    let (waiting, _) = waiting().split_for_parts();
    let waiting = waiting.route_layer(middleware::from_fn_with_state(Life::from_ref(&state), life::wait_until_ready));
    let (routes, _) = routes::routes().split_for_parts();
    let (environments, _) = environments::routes().split_for_parts();
    let environments = environments
        .route_layer(middleware::from_fn_with_state(Life::from_ref(&state), life::wait_until_ready))
        .route_layer(middleware::from_fn_with_state(Access::from_ref(&state), auth::guard_page));
    // A lease is held before it is known what lives on it: its holders have little time to come back.
    let (leases, _) = leases::routes().split_for_parts();
    service(state, routes.merge(leases).merge(waiting), environments)
}

/// Makes the service of a stand-alone proxy.
pub fn proxy_app(state: ProxyState) -> Router {
    let (routes, _) = routes::routes().split_for_parts();
    service(state, routes, Router::new())
}

/// Puts a service together: anyone may ask some routes, those `guarded` need a token where one is configured, and `others` look after
/// themselves.
fn service<S: Clone + Send + Sync + 'static>(state: S, guarded: Router<S>, others: Router<S>) -> Router
where
    Access: FromRef<S>,
    Life: FromRef<S>,
    Kept: FromRef<S>,
    Routing: FromRef<S>,
    Description: FromRef<S>,
{
    let (open, _) = open().split_for_parts();
    let guarded = guarded.route_layer(middleware::from_fn_with_state(Access::from_ref(&state), auth::guard));
    around(open.merge(guarded).merge(others).with_state(state))
}

/// The routes that anyone may ask.
fn open<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S>
where
    Life: FromRef<S>,
    Kept: FromRef<S>,
    Routing: FromRef<S>,
    Description: FromRef<S>,
{
    health::routes().merge(openapi::routes())
}

/// The routes that need what runs to be known.
fn waiting() -> OpenApiRouter<AppState> {
    servers::routes().merge(datasets::routes()).merge(pool::routes()).merge(reap::routes())
}

/// Adds what holds for every request: unknown routes and panics are answered with problems, and early answers arrive.
fn around(router: Router) -> Router {
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(middleware::from_fn(catch_panic))
        .layer(middleware::map_request(drain::arm))
}

async fn unknown_route(request: Request) -> Problem {
    let path: String = request.uri().path().chars().take(80).collect();
    let message = format!("{path:?} is no resource of this server");
    Problem::from(Error::Unsupported { message, hint: "GET /openapi.json describes those there are".into() })
        .with_status(StatusCode::NOT_FOUND)
}

async fn unknown_method(request: Request) -> Problem {
    let message = format!("this resource has no method {}", request.method());
    Problem::from(Error::Unsupported { message, hint: "GET /openapi.json describes those it has".into() })
        .with_status(StatusCode::METHOD_NOT_ALLOWED)
}

async fn catch_panic(request: Request, next: Next) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    let answered = std::panic::AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answered.unwrap_or_else(|_| {
        // The panic's message was written to the log by the panic hook.
        tracing::error!("{what}: the handler panicked");
        Problem::internal().into_response()
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn ask(method: &str, path: &str) -> (StatusCode, wire::Problem) {
        async fn panics() {
            panic!("secret");
        }
        let app = around(Router::new().route("/panics", get(panics)));
        let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
        let response = app.oneshot(request).await.expect("an answer");
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        (status, serde_json::from_slice(&body).expect("a problem"))
    }

    #[tokio::test]
    async fn an_unknown_route_is_a_problem() {
        let (status, problem) = ask("GET", "/nowhere").await;
        assert_eq!((status, problem.status), (StatusCode::NOT_FOUND, 404));
        assert!(problem.detail.contains("/nowhere"), "{problem:?}");
    }

    #[tokio::test]
    async fn an_unknown_method_is_a_problem() {
        let (status, problem) = ask("DELETE", "/panics").await;
        assert_eq!((status, problem.status), (StatusCode::METHOD_NOT_ALLOWED, 405));
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_that_tells_no_secret() {
        let (status, problem) = ask("GET", "/panics").await;
        assert_eq!((status, problem.status), (StatusCode::INTERNAL_SERVER_ERROR, 500));
        assert!(!format!("{problem:?}").contains("secret"), "{problem:?}");
    }
}
