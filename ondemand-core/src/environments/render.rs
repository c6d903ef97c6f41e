//! What a template comes to for one environment: a compose file, and a stack.

use std::collections::BTreeMap;

use super::inner::Inner;
use super::plan::{Draft, absent};
use super::secrets;
use crate::compose::Document;
use crate::databases::Database;
use crate::error::{Error, Result};
use crate::git::Resolved;
use crate::orchestrator::StackSpec;
use crate::template::{DatabaseVariables, OwnerVariables, PartVariables, Variables};

impl Draft {
    /// Checks that the template comes to a stack, before anything is made for it.
    pub(super) fn check(&self, inner: &Inner) -> Result<()> {
        // Of a database that is to come the host is known. The rest is made up: what is read of it is a port, and words.
        let database = DatabaseVariables {
            enabled: self.dataset.is_some(),
            host: inner.databases.host().to_owned(),
            port: 5432,
            user: "postgres".into(),
            name: "postgres".into(),
        };
        let mut stack = self.stack(inner, &self.render_with(inner, database)?)?;
        // Where there will be a database, there will be its secrets.
        if self.dataset.is_none() {
            secrets::give(inner, &self.record, &mut stack, None, None)?;
        }
        Ok(())
    }

    /// Translates what was rendered.
    pub(super) fn stack(&self, inner: &Inner, document: &Document) -> Result<StackSpec> {
        let record = &self.record;
        document.to_stack(record.stack()?, record.attempt.clone(), record.labels(&inner.instance.id)?)
    }

    /// Renders the template, and drops the services of the parts that the environment does not have.
    pub(super) fn render(&self, inner: &Inner, database: Option<&Database>) -> Result<Document> {
        let unknown = DatabaseVariables { enabled: self.dataset.is_some(), ..DatabaseVariables::default() };
        let known = database.map(|database| DatabaseVariables {
            enabled: true,
            host: database.host.clone(),
            port: database.port,
            user: database.user.clone(),
            name: database.dbname.clone(),
        });
        self.render_with(inner, known.unwrap_or(unknown))
    }

    fn render_with(&self, inner: &Inner, database: DatabaseVariables) -> Result<Document> {
        let record = &self.record;
        let settings = self.template.settings();
        let domain = &inner.options.domain;
        let hosts: BTreeMap<String, String> = settings
            .routes
            .iter()
            .map(|route| (route.suffix.clone(), format!("{}{}.{domain}", record.name, route.suffix)))
            .collect();
        let part = |resolved: Option<&Resolved>| match resolved {
            None => PartVariables::default(),
            Some(resolved) => PartVariables {
                enabled: true,
                repository: resolved.repository.to_string(),
                branch: resolved.branch.to_string(),
                commit: resolved.commit.to_string(),
                url: resolved.url.clone(),
            },
        };
        let variables = Variables {
            name: record.name.to_string(),
            domain: domain.to_string(),
            urls: hosts.iter().map(|(suffix, host)| (suffix.clone(), inner.link(host))).collect(),
            hosts,
            back: part(self.back.as_ref()),
            front: part(self.front.as_ref()),
            database,
            owner: OwnerVariables { login: record.owner.login.clone(), id: record.owner.id },
            fixtures: record.fixtures,
            keep_days: self.keep_days,
            expires: crate::label::rfc3339(record.expires)?,
            secrets: secrets::files(inner, record)?,
            attempt: record.attempt.to_string(),
            interpolation: inner.options.variables.clone(),
        };
        let document = self.template.render(&variables)?;
        if let [missing, ..] = document.missing_variables() {
            return Err(Error::invalid(
                format!("template {}", record.template),
                format!(
                    "the variable {missing} has no value: set it in environments.variables, or give it a default, ${{{missing}:-…}}"
                ),
            ));
        }
        let absent = absent(settings, self.back.is_some(), self.front.is_some());
        document.without_services(&absent.iter().map(String::as_str).collect::<Vec<_>>())
    }
}
