//! Request and response bodies that are JSON.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRef, FromRequest, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ondemand_core::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::problem::Problem;
use crate::state::Limits;

/// How long a client may take to send a body that is not an upload.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request's body read as JSON, whatever its content type says; an empty one is `{}`.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T>
where
    Limits: FromRef<S>,
{
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = read(request.into_body(), Limits::from_ref(state).body).await?;
        parse(&body).map(Self).map_err(Into::into)
    }
}

/// Reads a body of at most `limit` bytes.
async fn read(body: Body, limit: u64) -> Result<Bytes, Problem> {
    let bytes = usize::try_from(limit).unwrap_or(usize::MAX);
    let Ok(read) = tokio::time::timeout(PATIENCE, Limited::new(body, bytes).collect()).await else {
        let error = Error::invalid("request body", format!("it did not arrive within {} s", PATIENCE.as_secs()));
        return Err(Problem::from(error).with_status(StatusCode::REQUEST_TIMEOUT));
    };
    match read {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Problem::too_large(limit, "http.max-body")),
        Err(error) => Err(Error::invalid("request body", error).into()),
    }
}

/// Parses a body, of which nothing at all means `{}`.
fn parse<T: DeserializeOwned>(body: &[u8]) -> ondemand_core::Result<T> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    // A list of values would pass for an object without names.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(Error::invalid("request body", "it is a JSON array, and an object is expected"));
    }
    serde_json::from_slice(body).map_err(|e| Error::invalid("request body", cut(&e.to_string())))
}

/// Cuts a message in the middle: what a client sent may be quoted at any length in it, and its end says where.
fn cut(message: &str) -> String {
    const PART: usize = 120;
    let length = message.chars().count();
    if length <= 2 * PART {
        return message.to_owned();
    }
    let (head, tail) = (message.chars().take(PART), message.chars().skip(length - PART));
    head.chain(['…']).chain(tail).collect()
}

/// Makes a response of compact JSON with a line end, which terminals like.
pub(crate) fn reply(status: StatusCode, value: &impl Serialize) -> Response {
    let mut body = match serde_json::to_vec(value) {
        Ok(body) => body,
        Err(error) => {
            tracing::error!("writing JSON: {error}");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    body.push(b'\n');
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Answers hold passwords and things that change; no cache may keep them.
    let cache = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    (status, [kind, cache], body).into_response()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::wire::CreateServer;

    #[test]
    fn nothing_is_an_empty_object() {
        for body in ["", " \r\n", "{}"] {
            assert_eq!(parse::<Value>(body.as_bytes()).expect("JSON"), serde_json::json!({}), "{body:?}");
        }
    }

    #[test]
    fn bad_json_says_where() {
        let wrong = |body: &[u8]| parse::<CreateServer>(body).expect_err("bad JSON").to_string();
        assert!(wrong(b"{\"Name\":").contains("line 1 column 8"), "{}", wrong(b"{\"Name\":"));
        assert!(wrong(b"{} {}").contains("trailing"));
        assert!(wrong(b"\xff").contains("line 1"));
        assert!(wrong(b"{\"Nmae\":1}").contains("unknown field `Nmae`"));
        assert!(wrong(b"[]").contains("an object is expected"));
        assert!(wrong(b"null").contains("line 1"));
        let long = format!("{{\"{}\":1}}", "x".repeat(100_000));
        assert!(wrong(long.as_bytes()).len() < 400);
    }

    #[tokio::test]
    async fn a_large_body_is_refused() {
        assert_eq!(read(Body::from("12345"), 5).await.expect("a body"), "12345");
        let problem = read(Body::from("123456"), 5).await.expect_err("too large").into_body();
        assert_eq!(problem.status, 413);
        assert!(problem.hint.is_some_and(|hint| hint.contains("http.max-body")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let body = Body::from_stream(futures_util::stream::pending::<std::io::Result<Bytes>>());
        let problem = read(body, 5).await.expect_err("a timeout").into_body();
        assert_eq!(problem.status, 408);
    }
}
