//! Which build of an image the nodes shall run, and the credentials to get it with.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bollard::auth::DockerCredentials;
use bollard::errors::Error as EngineError;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::own;

/// What the registry is called that images without one are from.
const USUAL_REGISTRY: &str = "https://index.docker.io/v1/";

/// A configuration of the Docker CLI, as far as credentials are in it.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    auths: std::collections::HashMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    identitytoken: Option<String>,
}

/// Returns the credentials for an image's registry; `None` if the file has none. It is read each time, so that it can be replaced.
///
/// # Errors
/// [`Error::InvalidInput`] if the file cannot be read as what it is to be.
pub(super) fn credentials(file: &Path, image: &str) -> Result<Option<DockerCredentials>> {
    // What is in it is not repeated.
    let odd = |why: String| Error::invalid("registry credentials", format!("{}: {why}", file.display()));
    let text = own::read(file).map_err(|e| odd(e.to_string()))?;
    let place = |e: serde_json::Error| odd(format!("no Docker configuration, from line {} on", e.line()));
    let mut config: Config = serde_json::from_slice(&text).map_err(place)?;
    let registry = registry(image);
    let Some(entry) = config.auths.remove(registry) else { return Ok(None) };
    let decoded = BASE64.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (user, password) = decoded
        .as_deref()
        .and_then(|auth| auth.split_once(':'))
        .ok_or_else(|| odd(format!("its entry for {registry} is no user and password; log in without a helper")))?;
    Ok(Some(DockerCredentials {
        username: Some(user.to_owned()),
        password: Some(password.trim_end_matches('\0').to_owned()),
        serveraddress: Some(registry.to_owned()),
        identitytoken: entry.identitytoken,
        ..DockerCredentials::default()
    }))
}

/// Returns the registry that an image is from, as credentials name it.
pub(super) fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => USUAL_REGISTRY,
    }
}

/// What an image's registry says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// It has it.
    Has,
    /// It has none of that name.
    HasNot,
    /// It wants to know who asks, or does not let these in.
    Denies { said: String, credentials: bool },
    /// It did not answer, or not like a registry.
    Nothing { said: String },
    /// The image is named by its digest, so it was not asked.
    Unasked,
}

/// Returns the image as the nodes shall run it, the build that its registry has now, and what that says. Where it does not tell, the name stays as it is, and
/// each node runs what it finds.
pub(super) async fn pin(
    client: &bollard::Docker,
    image: &str,
    credentials: Option<DockerCredentials>,
) -> (String, Told) {
    if image.contains('@') {
        return (image.to_owned(), Told::Unasked);
    }
    let with_credentials = credentials.is_some();
    match client.inspect_registry_image(image, credentials).await {
        Ok(found) => match found.descriptor.digest {
            Some(digest) => (format!("{}@{digest}", with_tag(image)), Told::Has),
            None => (image.to_owned(), Told::Has),
        },
        Err(error) => {
            tracing::debug!(image, %error, "the registry does not tell the digest of the image");
            (image.to_owned(), meaning(&error, with_credentials))
        }
    }
}

/// Returns what it means that a registry does not tell of an image.
fn meaning(error: &EngineError, credentials: bool) -> Told {
    let EngineError::DockerResponseServerError { status_code, message } = error else {
        return Told::Nothing { said: error.to_string() };
    };
    let said = message.trim().to_owned();
    // Where it was told no credentials at all, the engine gives up before it asks.
    let denied = ["no basic auth credentials", "unauthorized", "denied", "authentication required"];
    match status_code {
        401 | 403 => Told::Denies { said, credentials },
        404 => Told::HasNot,
        _ if denied.iter().any(|text| said.contains(text)) => Told::Denies { said, credentials },
        _ => Told::Nothing { said },
    }
}

/// Returns an image's name with its tag, which is `latest` where it has none.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_tells_its_registry() {
        for (image, host) in [
            ("postgres:15", USUAL_REGISTRY),
            ("library/postgres", USUAL_REGISTRY),
            ("registry.internal/a/b:1", "registry.internal"),
            ("10.0.0.1:5000/a", "10.0.0.1:5000"),
            ("localhost/a", "localhost"),
        ] {
            assert_eq!(registry(image), host, "{image}");
        }
        assert_eq!(with_tag("10.0.0.1:5000/a"), "10.0.0.1:5000/a:latest");
        assert_eq!(with_tag("a:1"), "a:1");
    }

    #[test]
    fn what_a_registry_does_not_tell_has_a_reason() {
        let answer = |status_code, message: &str| {
            meaning(&EngineError::DockerResponseServerError { status_code, message: message.into() }, true)
        };
        assert_eq!(answer(404, "manifest unknown"), Told::HasNot);
        for (status, message) in [
            (401, "unauthorized: authentication required"),
            (403, "denied: requested access to the resource is denied"),
            (500, "Get \"http://10.0.0.1:5000/v2/\": no basic auth credentials\n"),
        ] {
            let denied = Told::Denies { said: message.trim().into(), credentials: true };
            assert_eq!(answer(status, message), denied, "{message}");
        }
        let down = "Get \"http://10.0.0.1:5000/v2/\": dial tcp 10.0.0.1:5000: connect: connection refused";
        assert_eq!(answer(500, down), Told::Nothing { said: down.into() });
        assert!(matches!(meaning(&EngineError::RequestTimeoutError, false), Told::Nothing { .. }));
    }

    #[test]
    fn credentials_are_those_of_the_registry() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("config.json");
        let auth = BASE64.encode("user:pass:word");
        std::fs::write(&file, format!(r#"{{"auths":{{"r.internal":{{"auth":"{auth}"}}}},"other":1}}"#))
            .expect("written");
        let found = credentials(&file, "r.internal/a:1").expect("read").expect("credentials");
        assert_eq!((found.username.as_deref(), found.password.as_deref()), (Some("user"), Some("pass:word")));
        assert_eq!(credentials(&file, "other.internal/a:1").expect("read"), None);
        for broken in ["", "{", r#"{"auths":{"r.internal":{"auth":"hunter2"}}}"#] {
            std::fs::write(&file, broken).expect("written");
            let error = credentials(&file, "r.internal/a:1").expect_err("it is broken");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
