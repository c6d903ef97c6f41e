//! Errors as clients see them: RFC 9457 problems.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ondemand_core::{Code, Error};

use crate::wire;

/// An answer that says what went wrong.
#[derive(Debug)]
pub(crate) struct Problem {
    /// Boxed, because it is the error of many results.
    body: Box<wire::Problem>,
    /// Whether it is nothing to write to the log about.
    expected: bool,
}

impl Problem {
    /// Gives the problem another status than its code has.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.body.status = status.as_u16();
        self
    }

    /// Keeps the problem out of the log: it is part of an ordinary day.
    pub(crate) fn expected(mut self) -> Self {
        self.expected = true;
        self
    }

    /// Gives the problem a hint.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.body.hint = Some(hint.into());
        self
    }

    /// Makes the problem of a body that is larger than allowed.
    pub(crate) fn too_large(limit: u64, setting: &str) -> Self {
        let message = format!("the request body is larger than {}", ondemand_core::Size(limit));
        let hint = format!("{setting} in the server's configuration sets the limit");
        Self::from(Error::QuotaExceeded { message, hint }).with_status(StatusCode::PAYLOAD_TOO_LARGE)
    }

    /// Makes the problem of a defect of this program. What it was goes to the log alone.
    pub(crate) fn internal() -> Self {
        Self {
            body: Box::new(wire::Problem {
                r#type: type_of(Code::Backend),
                title: title(Code::Backend).into(),
                status: StatusCode::INTERNAL_SERVER_ERROR.as_u16(),
                detail: "the server failed unexpectedly".into(),
                code: Code::Backend,
                hint: Some("the server's log says more".into()),
                causes: Vec::new(),
                log: Vec::new(),
            }),
            // Whoever noticed the defect has written what is known of it.
            expected: true,
        }
    }

    /// Returns what is sent, and writes to the log what is the server's fault.
    pub(crate) fn into_body(self) -> wire::Problem {
        let wire::Problem { status, code, detail, causes, .. } = &*self.body;
        if *status >= 500 && !self.expected {
            tracing::error!(code = code.as_str(), causes = causes.join(": "), "{detail}");
        }
        *self.body
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let code = error.code();
        let status = status(code, error.is_transient());
        let causes: Vec<String> =
            std::iter::successors(std::error::Error::source(&error), |e| e.source()).map(ToString::to_string).collect();
        Self {
            body: Box::new(wire::Problem {
                r#type: type_of(code),
                title: title(code).into(),
                status: status.as_u16(),
                detail: error.to_string(),
                code,
                hint: error.hint(),
                causes,
                log: error.log().to_vec(),
            }),
            expected: false,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = self.into_body();
        let status = StatusCode::from_u16(body.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = crate::body::reply(status, &body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"ondemand\""));
        }
        response
    }
}

fn type_of(code: Code) -> String {
    format!("urn:ondemand:error:{code}")
}

/// Returns the status that a code is answered with.
fn status(code: Code, transient: bool) -> StatusCode {
    match code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Conflict => StatusCode::CONFLICT,
        Code::InvalidName | Code::InvalidInput => StatusCode::BAD_REQUEST,
        Code::InvalidDump | Code::ServiceFailed => StatusCode::UNPROCESSABLE_ENTITY,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::QuotaExceeded => StatusCode::TOO_MANY_REQUESTS,
        Code::OutOfSpace => StatusCode::INSUFFICIENT_STORAGE,
        Code::NotReady | Code::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Code::Backend if transient => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn title(code: Code) -> &'static str {
    match code {
        Code::NotFound => "Not found",
        Code::AlreadyExists => "Already exists",
        Code::Conflict => "In conflict with something else",
        Code::InvalidName => "Invalid name",
        Code::InvalidInput => "Invalid input",
        Code::InvalidDump => "The dump cannot be restored",
        Code::InvalidTemplate => "The template cannot be deployed",
        Code::ServiceFailed => "A service failed",
        Code::Forbidden => "Forbidden",
        Code::Unauthenticated => "Not authenticated",
        Code::QuotaExceeded => "A limit is reached",
        Code::OutOfSpace => "Out of space",
        Code::NotReady => "Not ready",
        Code::Unsupported => "Not supported",
        Code::Cancelled => "Cancelled",
        _ => "A part of the server failed",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ondemand_core::{Kind, Result};

    use super::*;

    /// Makes an error of every code.
    fn error(code: Code) -> Error {
        let (message, hint) = (String::from("the message"), String::from("the hint"));
        match code {
            Code::NotFound => Error::not_found(Kind::Dataset, "x"),
            Code::AlreadyExists => Error::already_exists(Kind::Database, "x"),
            Code::Conflict => Error::Conflict { message, hint },
            Code::InvalidName => ondemand_core::DatasetName::new("X").expect_err("a bad name"),
            Code::InvalidInput => Error::invalid("ttl", "it is bad"),
            Code::InvalidDump => Error::InvalidDump { message, log: vec!["a line".into()], hint },
            Code::InvalidTemplate => Error::InvalidTemplate { file: "a.yml".into(), line: 3, reason: message },
            Code::ServiceFailed => {
                Error::ServiceFailed { service: "back".into(), reason: message, log: vec!["a line".into()] }
            }
            Code::Forbidden => Error::Forbidden { message },
            Code::Unauthenticated => Error::Unauthenticated { message, hint },
            Code::QuotaExceeded => Error::QuotaExceeded { message, hint },
            Code::OutOfSpace => Error::OutOfSpace { message },
            Code::NotReady => {
                Error::NotReady { waited: Duration::from_secs(1), last: message, log: vec!["a line".into()] }
            }
            Code::Unsupported => Error::Unsupported { message, hint },
            Code::Cancelled => Error::Cancelled,
            Code::Backend => Error::backend("btrfs", "deleting a volume", "device gone"),
            code => panic!("{code} needs an error here"),
        }
    }

    async fn answer(problem: Problem) -> Result<(StatusCode, String, serde_json::Value), axum::Error> {
        let response = problem.into_response();
        let kind = response.headers()[header::CONTENT_TYPE].to_str().expect("text").to_owned();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await?;
        Ok((status, kind, serde_json::from_slice(&body).expect("JSON")))
    }

    #[tokio::test]
    async fn every_code_is_a_problem() {
        let mut titles = std::collections::BTreeSet::new();
        for code in Code::ALL {
            let error = error(code);
            let (detail, hint, log) = (error.to_string(), error.hint(), error.log().to_vec());
            let (status, kind, body) = answer(error.into()).await.expect("an answer");
            assert!(status.is_client_error() || status.is_server_error(), "{code}: {status}");
            assert_eq!(kind, "application/problem+json");
            assert_eq!(body["type"], format!("urn:ondemand:error:{code}"));
            assert_eq!(body["status"], status.as_u16());
            assert_eq!(body["code"], code.as_str());
            assert_eq!(body["detail"], detail);
            assert_eq!(body.get("hint").and_then(|h| h.as_str()), hint.as_deref(), "{code}");
            assert_eq!(body.get("log").is_some(), !log.is_empty(), "{code}");
            let title = body["title"].as_str().expect("a title").to_owned();
            assert!(titles.insert(title), "{code} has the title of another");
            // A client reads the same thing back.
            assert_eq!(serde_json::from_value::<wire::Problem>(body).expect("a problem").code, code);
        }
    }

    #[tokio::test]
    async fn causes_are_listed() {
        let (_, _, body) = answer(error(Code::Backend).into()).await.expect("an answer");
        assert_eq!(body["causes"], serde_json::json!(["device gone"]));
    }

    #[tokio::test]
    async fn what_may_pass_by_itself_is_unavailable() {
        let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
        let (status, ..) = answer(Error::io("docker", "asking", source).into()).await.expect("an answer");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
}
