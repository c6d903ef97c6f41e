//! What services of an environment may know: the token their code is cloned with, and how to reach their database.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::inner::Inner;
use super::record::Record;
use crate::databases::Database;
use crate::error::{Error, Result};
use crate::orchestrator::{FileMount, SecretSpec, ServiceSpec, StackSpec};
use crate::secret::Secret;

/// Each secret by the name that a template has for it.
const NAMES: [&str; 3] = ["token", "database_url", "database_password"];

/// Returns the name of a secret in its stack, which none of the template's own is likely to have.
fn in_stack(name: &str) -> String {
    format!("ondemand_{name}")
}

/// Returns the files in which services find the secrets, by the names that a template has for them.
pub(super) fn files(inner: &Inner, record: &Record) -> Result<BTreeMap<String, String>> {
    let dir: PathBuf = inner.orchestrator.secrets_dir(&record.stack()?);
    Ok(NAMES.iter().map(|name| ((*name).to_owned(), dir.join(in_stack(name)).display().to_string())).collect())
}

/// Gives each service the secrets whose files it names, and no other.
pub(super) fn give(
    inner: &Inner,
    record: &Record,
    spec: &mut StackSpec,
    token: Option<&Secret>,
    database: Option<&Database>,
) -> Result<()> {
    let contents = |name: &str| match name {
        // Where code is cloned without one, the file says so; a Swarm has no secret of nothing at all.
        "token" => Some(token.cloned().unwrap_or_else(|| Secret::new("\n"))),
        "database_url" => database.map(|database| Secret::new(database.url())),
        _ => database.map(|database| database.password.clone()),
    };
    for (name, file) in files(inner, record)? {
        let users = spec.services.iter_mut().filter(|service| names(service, &file));
        let mut used = false;
        for service in users {
            used = true;
            let mount = FileMount { source: in_stack(&name), target: None, uid: None, gid: None, mode: None };
            service.secrets.push(mount);
        }
        if used {
            let content = contents(&name).ok_or_else(|| Error::InvalidTemplate {
                file: record.template.clone(),
                line: 0,
                reason: format!("a service uses secrets.{name}, and x-ondemand says no database"),
            })?;
            spec.secrets.insert(in_stack(&name), SecretSpec::Content(content));
        }
    }
    Ok(())
}

/// Tells whether a service names a file, in a variable or on its command line.
fn names(service: &ServiceSpec, file: &str) -> bool {
    let named = |text: &String| {
        // `…/ondemand_database_url` is not `…/ondemand_database_url_old`.
        text.match_indices(file).any(|(at, _)| {
            let next = text[at + file.len()..].chars().next();
            !next.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-')
        })
    };
    service.env.values().chain(&service.command).chain(&service.arguments).any(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_names_a_file_or_does_not() {
        let service = |value: &str| {
            let mut service = ServiceSpec::new("back".parse().unwrap(), vec!["/run".into()]);
            service.env.insert("X".into(), value.into());
            service
        };
        for text in ["/run/secrets/a", "file:/run/secrets/a", "/run/secrets/a:/x", "/run/secrets/a_b /run/secrets/a"] {
            assert!(names(&service(text), "/run/secrets/a"), "{text}");
        }
        for text in ["", "a", "/run/secrets/a_b", "/run/secrets/ab", "/run/secrets"] {
            assert!(!names(&service(text), "/run/secrets/a"), "{text}");
        }
        let mut service = service("");
        service.arguments = vec!["--token-file=/run/secrets/a".into()];
        assert!(names(&service, "/run/secrets/a"));
    }
}
