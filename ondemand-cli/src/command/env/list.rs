//! `ondemand env list`.

use std::time::SystemTime;

use clap::Args;
use ondemand_http::wire::{Environment, Source};

use super::{Token, segment};
use crate::arguments::Global;
use crate::failure::{Failure, NOT_FOUND};
use crate::table::table;
use crate::{output, when};

/// How to list them.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    token: Token,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.token.client(global)?;
    let names: Vec<String> = client.get(&["envs"]).await?;
    let mut environments: Vec<Environment> = Vec::new();
    for name in &names {
        match client.get(&["envs", segment(name)?]).await {
            Ok(environment) => environments.push(environment),
            // It may have been deleted since it was listed.
            Err(failure) if failure.exit == NOT_FOUND => (),
            Err(failure) => return Err(failure),
        }
    }
    if global.json {
        return output::json(&environments);
    }
    if environments.is_empty() {
        output::note("there are no environments; `ondemand env create` makes one");
        return Ok(());
    }
    let now = SystemTime::now();
    let row = |environment: Environment| {
        let branch = |part: Option<Source>| part.map_or_else(|| "-".into(), |source| source.branch);
        let url = environment.entrance().unwrap_or_default().to_owned();
        [
            environment.name,
            environment.status,
            environment.owner.login,
            branch(environment.back),
            branch(environment.front),
            when::until(environment.expires.0, now),
            url,
        ]
    };
    let header = ["NAME", "STATUS", "OWNER", "BACK", "FRONT", "EXPIRES", "URL"];
    output::line(table(header, environments.into_iter().map(row)))
}
