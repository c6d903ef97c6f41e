//! Repositories, served by `git http-backend`.

use std::process::Stdio;

use anyhow::{Context, Result};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::io::AsyncWriteExt;

use super::{Credential, Shared};

/// Answers a request for a repository: who brings no token is asked for one, and who may not read it is told that it is not
/// there.
pub(super) async fn answer(
    shared: &Shared,
    method: &str,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Response {
    let mut parts = path.trim_start_matches('/').splitn(3, '/');
    let (owner, name, rest) = (parts.next(), parts.next(), parts.next().unwrap_or_default());
    let (owner, name) = (owner.unwrap_or_default(), name.unwrap_or_default());
    let repository = format!("{owner}/{}", name.strip_suffix(".git").unwrap_or(name));
    let public = shared.lock().public.contains(&repository);
    match shared.token(headers) {
        Credential::Bad => return unauthorised("Invalid username or token."),
        Credential::None if !public => return unauthorised("Authentication required."),
        Credential::Good(token) if !public && !token.may_read.contains(&repository) => return missing(),
        Credential::None | Credential::Good(_) => {}
    }
    if !shared.bare(&repository).is_dir() {
        return missing();
    }
    let ran = run(shared, method, &format!("/{repository}.git/{rest}"), query, headers, body).await;
    ran.unwrap_or_else(|e| (StatusCode::INTERNAL_SERVER_ERROR, format!("{e:#}")).into_response())
}

fn unauthorised(message: &str) -> Response {
    let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"GitHub\"")];
    (StatusCode::UNAUTHORIZED, ask, message.to_owned()).into_response()
}

fn missing() -> Response {
    (StatusCode::NOT_FOUND, "Repository not found.").into_response()
}

async fn run(
    shared: &Shared,
    method: &str,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response> {
    let old = shared.lock().old;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut child = tokio::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", shared.repositories())
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", text("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", text("content-encoding"))
        .env("GIT_PROTOCOL", if old { "" } else { text("git-protocol") })
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting git http-backend")?;
    let mut input = child.stdin.take().context("it has no standard input")?;
    // It may end without reading all.
    let (_, output) = tokio::join!(
        async move {
            let written = input.write_all(&body).await;
            drop(input);
            written
        },
        child.wait_with_output()
    );
    let output = output?.stdout;
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").context("it answers without a head")?;
    let head = std::str::from_utf8(&output[..end])?;
    let mut response = Response::new(Body::from(output[end + 4..].to_vec()));
    for line in head.split("\r\n") {
        let (name, value) = line.split_once(": ").context("its head is broken")?;
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().unwrap_or_default().parse::<u16>()?;
            *response.status_mut() = StatusCode::from_u16(code)?;
        } else {
            response.headers_mut().append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
    }
    Ok(response)
}
