//! The connection to the engine, and what its errors mean.

use std::path::PathBuf;

use bollard::errors::Error as EngineError;
use tokio::sync::OnceCell;

use super::BACKEND;
use crate::error::{Error, Kind, Result};

/// A connection that is made when it is first needed, so that the engine may be started later than this program.
#[derive(Debug)]
pub(in crate::orchestrator) struct Engine {
    host: Option<String>,
    client: OnceCell<bollard::Docker>,
}

impl Engine {
    pub(in crate::orchestrator) fn new(host: Option<String>) -> Self {
        Self { host, client: OnceCell::new() }
    }

    /// Returns the client, in the version of the protocol that the engine speaks.
    ///
    /// # Errors
    /// [`Error::Backend`], transient, if the engine cannot be reached; the next call tries again.
    pub(in crate::orchestrator) async fn client(&self) -> Result<&bollard::Docker> {
        let connect = async || {
            let client = match &self.host {
                Some(host) => bollard::Docker::connect_with_host(host),
                None => bollard::Docker::connect_with_defaults(),
            };
            client?.negotiate_version().await
        };
        self.client.get_or_try_init(connect).await.map_err(|error| match error {
            EngineError::UnsupportedURISchemeError { uri } => {
                Error::invalid("Docker host", format!("{uri:?} is no address; write unix:///PATH or tcp://HOST:PORT"))
            }
            error => failed("connecting", error),
        })
    }
}

/// Makes an error that says what was being done.
pub(in crate::orchestrator) fn failed(operation: impl Into<String>, error: EngineError) -> Error {
    Error::Backend {
        backend: BACKEND,
        operation: operation.into(),
        transient: is_transient(&error),
        source: error.into(),
    }
}

/// Tells whether the engine was not there, or not able to answer at the moment.
fn is_transient(error: &EngineError) -> bool {
    match error {
        EngineError::DockerResponseServerError { status_code, .. } => matches!(status_code, 502..=504),
        EngineError::IOError { .. }
        | EngineError::HyperResponseError { .. }
        | EngineError::HyperLegacyError { .. }
        | EngineError::RequestTimeoutError
        | EngineError::SocketNotFoundError(_)
        | EngineError::DockerStreamError { .. } => true,
        _ => false,
    }
}

/// Tells whether the engine answered with this status.
pub(in crate::orchestrator) fn has_status(error: &EngineError, status: u16) -> bool {
    matches!(error, EngineError::DockerResponseServerError { status_code, .. } if *status_code == status)
}

/// Makes the error for a container that could not be created or started: what was asked for is missing or taken, or the engine
/// failed.
pub(in crate::orchestrator) fn refused(operation: String, image: &str, program: &str, error: EngineError) -> Error {
    let EngineError::DockerResponseServerError { status_code, message } = &error else {
        return failed(operation, error);
    };
    let says = |text: &str| message.contains(text);
    if *status_code == 404 && says("No such image") {
        return Error::not_found(Kind::Image, image);
    }
    if let Some((_, path)) = message.split_once("bind source path does not exist: ") {
        return Error::not_found(Kind::File, PathBuf::from(path.trim()).display());
    }
    if says("port is already allocated") || says("address already in use") {
        return Error::Conflict {
            message: format!("a port is taken: {}", message.trim()),
            hint: "choose another port, or end what listens on it".into(),
        };
    }
    if says("executable file not found") || (says("exec: ") && says("no such file or directory")) {
        return Error::not_found(Kind::File, program);
    }
    if says("invalid reference format") {
        return Error::invalid(format!("image {image:?}"), "it is not the name of an image; write NAME:TAG");
    }
    if says("no space left on device") {
        return Error::OutOfSpace { message: format!("docker: {operation}") };
    }
    failed(operation, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn what_the_engine_says_has_a_meaning() {
        let answer = |status_code, message: &str| {
            let error = EngineError::DockerResponseServerError { status_code, message: message.into() };
            refused("starting".into(), "nosuch:image", "/bin/nosuch", error)
        };
        for (status, message, code) in [
            (404, "No such image: nosuch:image", Code::NotFound),
            (400, "invalid mount config for type \"bind\": bind source path does not exist: /x", Code::NotFound),
            (500, "driver failed …: Bind for 127.0.0.1:80 failed: port is already allocated", Code::Conflict),
            (500, "driver failed …: listen tcp4 127.0.0.1:80: bind: address already in use", Code::Conflict),
            (400, "… exec: \"nosuch\": executable file not found in $PATH: unknown", Code::NotFound),
            (400, "invalid reference format", Code::InvalidInput),
            (500, "write /x: no space left on device", Code::OutOfSpace),
            (500, "something else", Code::Backend),
        ] {
            assert_eq!(answer(status, message).code(), code, "{message}");
        }
        assert!(answer(404, "No such image: nosuch:image").to_string().contains("nosuch:image"));
        assert!(!answer(500, "something else").is_transient());
        assert!(answer(503, "something else").is_transient());
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_transient() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = Engine::new(Some(format!("unix://{}/docker.sock", dir.path().display())));
        let error = engine.client().await.expect_err("nobody listens");
        assert!(error.is_transient() && error.hint().is_some(), "{error:?}");
        let engine = Engine::new(Some("docker.sock".into()));
        let error = engine.client().await.expect_err("no address");
        assert_eq!(error.code(), Code::InvalidInput, "{error:?}");
    }
}
