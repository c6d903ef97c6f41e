//! The part of GitHub's REST API that is asked here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{Credential, Shared, Token};

const DOCUMENTATION: &str = "https://docs.github.com/rest";
const LIMIT: u64 = 5000;

/// Answers a request that met no fault.
pub(super) fn answer(shared: &Shared, method: &str, path: &str, headers: &HeaderMap) -> Response {
    if !headers.contains_key("user-agent") {
        let text = "Request forbidden by administrative rules. Please make sure your request has a User-Agent header";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let token = match shared.token(headers) {
        Credential::Good(token) => token,
        Credential::Bad => return problem(StatusCode::UNAUTHORIZED, "Bad credentials"),
        Credential::None => return problem(StatusCode::UNAUTHORIZED, "Requires authentication"),
    };
    if method != "GET" {
        return problem(StatusCode::NOT_FOUND, "Not Found");
    }
    let account = shared.lock().accounts.get(&token.login).cloned().unwrap_or_default();
    match path {
        "/user" => good(StatusCode::OK, &user(&token, account.id)),
        "/user/orgs" => {
            let active = account.organisations.iter().filter(|(_, state)| *state == "active");
            good(StatusCode::OK, &active.map(|(name, _)| organisation(name)).collect())
        }
        path => {
            let name = path.strip_prefix("/user/memberships/orgs/").unwrap_or_default();
            let found = account.organisations.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            let Some((name, state)) = found else { return problem(StatusCode::NOT_FOUND, "Not Found") };
            let membership = json!({
                "url": format!("https://api.github.com/orgs/{name}/memberships/{}", token.login),
                "state": state,
                "role": "member",
                "organization_url": format!("https://api.github.com/orgs/{name}"),
                "organization": organisation(name),
                "user": user(&token, account.id),
            });
            good(StatusCode::OK, &membership)
        }
    }
}

/// Answers that too many requests came.
pub(super) fn limited(seconds: u64, secondary: bool) -> Response {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if secondary {
        let text = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
        let mut response = problem(StatusCode::FORBIDDEN, text);
        response.headers_mut().insert("retry-after", seconds.into());
        return response;
    }
    let mut response = problem(StatusCode::FORBIDDEN, "API rate limit exceeded for user ID 1.");
    let reset = (now + Duration::from_secs(seconds)).as_secs();
    let headers = response.headers_mut();
    headers.insert("x-ratelimit-limit", LIMIT.into());
    headers.insert("x-ratelimit-remaining", 0.into());
    headers.insert("x-ratelimit-used", LIMIT.into());
    headers.insert("x-ratelimit-reset", reset.into());
    response
}

fn user(token: &Token, id: u64) -> Value {
    json!({
        "login": token.login,
        "id": id,
        "node_id": "MDQ6VXNlcjE=",
        "url": format!("https://api.github.com/users/{}", token.login),
        "type": "User",
        "site_admin": false,
        "name": null,
        "email": null,
    })
}

fn organisation(name: &str) -> Value {
    json!({ "login": name, "id": 1, "url": format!("https://api.github.com/orgs/{name}"), "description": null })
}

fn good(status: StatusCode, body: &Value) -> Response {
    let mut response = (status, Json(body)).into_response();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let said = [("limit", LIMIT), ("remaining", LIMIT - 1), ("used", 1), ("reset", now.as_secs() + 3600)];
    for (name, value) in said {
        if let Ok(name) = HeaderName::try_from(format!("x-ratelimit-{name}")) {
            response.headers_mut().insert(name, value.into());
        }
    }
    response
}

fn problem(status: StatusCode, message: &str) -> Response {
    let body = json!({ "message": message, "documentation_url": DOCUMENTATION, "status": status.as_str() });
    good(status, &body)
}
