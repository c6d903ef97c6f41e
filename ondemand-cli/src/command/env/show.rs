//! `ondemand env show`.

use std::time::SystemTime;

use clap::Args;
use ondemand_http::wire::{Environment, Source};

use super::{Token, Which};
use crate::arguments::Global;
use crate::failure::Failure;
use crate::table::fields;
use crate::{output, when};

/// Which environment.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    token: Token,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.token.client(global)?;
    let environment: Environment = client.get(&["envs", arguments.which.segment()?]).await?;
    if global.json { output::json(&environment) } else { output::line(describe(environment, SystemTime::now())) }
}

fn describe(environment: Environment, now: SystemTime) -> String {
    let part = |source: Option<Source>| {
        source.map_or_else(
            || "-".to_owned(),
            |Source { repository, branch, commit }| format!("{repository}@{branch} at {commit}"),
        )
    };
    let mut rows = vec![("name", environment.name), ("status", environment.status)];
    rows.extend(environment.failure.map(|failure| ("failure", failure)));
    rows.extend(environment.links.into_iter().map(|link| ("url", link)));
    rows.extend([
        ("owner", environment.owner.login),
        ("template", environment.template),
        ("back", part(environment.back)),
        ("front", part(environment.front)),
        ("data", if environment.with_fixtures { "fixtures" } else { "dump" }.to_owned()),
        ("database", environment.database.unwrap_or_else(|| "-".into())),
        ("created", when::ago(environment.created.0, now)),
        ("expires", when::until(environment.expires.0, now)),
    ]);
    for service in environment.services {
        let error = service.error.map(|error| format!(": {error}")).unwrap_or_default();
        let restarts = match service.restarts {
            0 => String::new(),
            n => format!(", started again {n} times"),
        };
        rows.push(("service", format!("{} {}{restarts}{error}", service.name, service.state)));
    }
    fields(rows)
}
