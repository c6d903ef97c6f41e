//! `/openapi.json`: the description of everything here, generated from the handlers and the types.

use std::sync::LazyLock;

use axum::extract::{FromRef, State};
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::{AppState, ProxyState, wire};

// A document made of plain text and maps always has a JSON form; an empty one would be noticed by the test.
static WHOLE: LazyLock<String> = LazyLock::new(|| document().to_pretty_json().unwrap_or_default());
static PROXY: LazyLock<String> = LazyLock::new(|| proxy_document().to_pretty_json().unwrap_or_default());

/// What a server says of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Description(&'static str);

impl Description {
    pub(crate) fn of_the_whole() -> Self {
        Self(&WHOLE)
    }

    pub(crate) fn of_the_proxy() -> Self {
        Self(&PROXY)
    }
}

/// What may go wrong with every request that needs a token.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "it is only described, never made")]
pub(crate) enum Problems {
    /// What went wrong, with its code and what to do about it.
    #[response(status = "default", content_type = "application/problem+json")]
    Problem(#[to_schema] wire::Problem),
}

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S>
where
    Description: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(openapi))
}

/// Describes this API.
#[utoipa::path(get, path = "/openapi.json", tag = "health", responses(
    (status = 200, description = "An OpenAPI document.", body = Object)))]
async fn openapi(State(Description(text)): State<Description>) -> impl IntoResponse {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], text)
}

/// Returns the OpenAPI description of a whole server.
pub fn document() -> OpenApi {
    let routes =
        crate::open::<AppState>().merge(crate::routes::routes()).merge(crate::waiting()).merge(crate::leases::routes());
    let document = routes.merge(crate::environments::routes()).into_openapi();
    describe(
        document,
        "Postgres databases on demand, cloned from snapshots of a dataset; environments made from branches; and a proxy.",
    )
}

/// Returns the OpenAPI description of a stand-alone proxy.
pub fn proxy_document() -> OpenApi {
    let document = crate::open::<ProxyState>().merge(crate::routes::routes()).into_openapi();
    describe(document, "A proxy that makes host names reach addresses.")
}

fn describe(mut document: OpenApi, what: &str) -> OpenApi {
    document.info =
        InfoBuilder::new().title("ondemand").version(env!("CARGO_PKG_VERSION")).description(Some(what)).build();
    let bearer = SecurityScheme::Http(
        HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The token of the server's configuration, where it has one."))
            .build(),
    );
    document.components.get_or_insert_with(Components::new).add_security_scheme("bearer", bearer);
    document
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// Every route of the service. `routes!` puts a handler into the router and the document at once, so that neither can be
    /// forgotten; this list is for whoever changes a route without meaning to.
    const ROUTES: [&str; 30] = [
        "DELETE /datasets/{name}",
        "DELETE /envs/{name}",
        "DELETE /routes/{host}",
        "DELETE /servers/{id}",
        "GET /datasets",
        "GET /datasets/{name}",
        "GET /envs",
        "GET /envs/{name}",
        "GET /envs/{name}/logs",
        "GET /healthz",
        "GET /metrics",
        "GET /openapi.json",
        "GET /pool",
        "GET /readyz",
        "GET /routes",
        "GET /routes/{host}",
        "GET /servers",
        "GET /servers/{id}",
        "GET /servers/{id}/logs",
        "PATCH /envs/{name}",
        "PATCH /servers/{id}",
        "POST /datasets/{name}",
        "POST /envs",
        "POST /envs/{name}/redeploy",
        "POST /leases",
        "POST /reap",
        "POST /servers",
        "POST /servers/{id}/publish",
        "POST /servers/{id}/reset",
        "PUT /routes/{host}",
    ];

    /// Those of a stand-alone proxy.
    const PROXY_ROUTES: [&str; 8] = [
        "DELETE /routes/{host}",
        "GET /healthz",
        "GET /metrics",
        "GET /openapi.json",
        "GET /readyz",
        "GET /routes",
        "GET /routes/{host}",
        "PUT /routes/{host}",
    ];

    fn value() -> Value {
        serde_json::from_str(&WHOLE).expect("JSON")
    }

    fn values() -> [Value; 2] {
        [value(), serde_json::from_str(&PROXY).expect("JSON")]
    }

    fn operations(document: &Value) -> Vec<(String, &Value)> {
        let paths = document["paths"].as_object().expect("paths");
        let of = |(path, item): (&String, &'_ Value)| {
            let methods = item.as_object().cloned().unwrap_or_default();
            methods.keys().map(|method| format!("{} {path}", method.to_uppercase())).collect::<Vec<_>>()
        };
        let names = paths.iter().flat_map(of).collect::<Vec<_>>();
        names
            .into_iter()
            .map(|name| {
                let (method, path) = name.split_once(' ').expect("two words");
                let operation = &paths[path][method.to_lowercase()];
                (name, operation)
            })
            .collect()
    }

    #[test]
    fn every_route_is_described() {
        for (document, routes) in values().iter().zip([&ROUTES[..], &PROXY_ROUTES]) {
            let described: BTreeSet<_> = operations(document).into_iter().map(|(name, _)| name).collect();
            let expected: BTreeSet<_> = routes.iter().copied().map(String::from).collect();
            assert_eq!(described, expected);
        }
    }

    #[test]
    fn every_operation_is_explained() {
        let documents = values();
        for (name, operation) in documents.iter().flat_map(operations) {
            assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 10), "{name}: {operation}");
            assert!(operation["operationId"].is_string(), "{name}");
            assert!(operation["responses"].as_object().is_some_and(|r| !r.is_empty()), "{name}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str).map(String::from));
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => (),
            }
        }
        for document in values() {
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(found.len() > 5, "{found:?}");
            for reference in found {
                assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
            }
        }
    }

    #[test]
    fn names_are_written_as_the_contract_has_them() {
        let document = value();
        let server = &document["components"]["schemas"]["Server"]["properties"];
        for (field, kind) in [("Id", "string"), ("Port", "string"), ("Expires_at", "string"), ("Durable", "boolean")] {
            assert_eq!(server[field]["type"], kind, "{field}");
        }
    }
}
