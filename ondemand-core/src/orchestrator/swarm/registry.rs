//! Which build of an image the nodes shall run, and the credentials to get it with.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bollard::auth::DockerCredentials;
use serde::Deserialize;

use crate::error::{Error, Result};

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
    let text = std::fs::read(file).map_err(|e| odd(e.to_string()))?;
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
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => USUAL_REGISTRY,
    }
}

/// Returns the image as the nodes shall run it: the build that its registry has now. Where the registry does not tell, the name stays as it is, and each
/// node runs what it finds.
pub(super) async fn pin(client: &bollard::Docker, image: &str, credentials: Option<DockerCredentials>) -> String {
    if image.contains('@') {
        return image.to_owned();
    }
    match client.inspect_registry_image(image, credentials).await {
        Ok(found) => match found.descriptor.digest {
            Some(digest) => format!("{}@{digest}", with_tag(image)),
            None => image.to_owned(),
        },
        Err(error) => {
            tracing::debug!(image, %error, "the registry does not tell the digest of the image");
            image.to_owned()
        }
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
