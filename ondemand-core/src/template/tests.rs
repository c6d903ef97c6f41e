//! Templates: what is put in, what is refused, and where.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use super::*;
use crate::label::Labels;
use crate::name::{AttemptId, StackName};
use crate::orchestrator::StackSpec;

mod example;
mod includes;
mod injection;
mod placeholders;
mod sections;

const SECTION: &str = "x-ondemand:\n  routes: [{suffix: api, service: back, port: 3000}]\n";

/// Makes a template of a section that names the service `back`, and of what follows.
fn template(rest: &str) -> Result<Template> {
    Template::parse("shop", "templates/shop.yml", format!("{SECTION}{rest}"))
}

fn variables() -> Variables {
    Variables {
        name: "demo".into(),
        domain: "env.example".into(),
        hosts: BTreeMap::from([("api".into(), "demoapi.env.example".into())]),
        back: PartVariables {
            enabled: true,
            repository: "shop/back".into(),
            branch: "main".into(),
            ..PartVariables::default()
        },
        database: DatabaseVariables { enabled: true, port: 5432, ..DatabaseVariables::default() },
        secrets: BTreeMap::from([("token".into(), "/run/secrets/token".into())]),
        keep_days: 3,
        ..Variables::default()
    }
}

fn stack(document: &Document) -> Result<StackSpec> {
    document.to_stack(StackName::new("demo")?, AttemptId::new("0123456789abcdef")?, Labels::new())
}

/// Renders one service `back` with these environment variables, and returns what they became.
fn env(environment: &str, variables: &Variables) -> BTreeMap<String, String> {
    let indented = format!("      {}\n", environment.trim_end().replace('\n', "\n      "));
    let template = template(&format!("services:\n  back:\n    image: x\n    environment:\n{indented}"));
    let document = template.and_then(|template| template.render(variables));
    let stack = document.and_then(|document| stack(&document)).unwrap_or_else(|error| panic!("{environment}: {error}"));
    stack.services[0].env.clone()
}

/// Returns the file, the line and the reason of a refusal.
fn refusal<T: Debug>(result: Result<T>) -> (String, usize, String) {
    match result.expect_err("it is refused") {
        Error::InvalidTemplate { file, line, reason } => (file, line, reason),
        error => panic!("{error:?}"),
    }
}
