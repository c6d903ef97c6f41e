//! `ondemand env create`.

use clap::Args;
use ondemand_http::wire::{Environment, EnvironmentDone, EnvironmentPlan, PostEnvironment};
use reqwest::Method;

use super::{Token, progress};
use crate::arguments::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::{output, when};

/// What to create.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
pub(crate) struct Arguments {
    /// Its name [default: a readable one]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The back-end repository [default: the template's]
    #[arg(long, visible_alias = "github-back", value_name = "OWNER/REPO")]
    back: Option<String>,
    /// The branch of the back end
    #[arg(long, visible_alias = "github-back-branch", value_name = "BRANCH")]
    back_branch: Option<String>,
    /// The front-end repository [default: the template's]
    #[arg(long, visible_alias = "github-front", value_name = "OWNER/REPO")]
    front: Option<String>,
    /// The branch of the front end
    #[arg(long, visible_alias = "github-front-branch", value_name = "BRANCH")]
    front_branch: Option<String>,
    /// Use fixtures instead of the dump
    #[arg(long)]
    with_fixtures: bool,
    /// How many days it lives [default: the template's, or the server's]
    #[arg(long, value_name = "DAYS", value_parser = when::days)]
    keep_days: Option<u32>,
    /// The template it is rendered from [default: the server's]
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// Print what would be deployed, and deploy nothing
    #[arg(long, conflicts_with = "no_wait")]
    plan: bool,
    /// Wait until its URLs answer; this is what happens anyhow
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Do not wait until its URLs answer
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    token: Token,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.token.client(global)?;
    // As a script has it whose variable is not set: what is made gets a name all the same, and is asked for by it afterwards.
    let name = arguments.name.filter(|name| !name.is_empty());
    let wanted = PostEnvironment {
        name: name.clone(),
        github_token: None,
        with_fixtures: arguments.with_fixtures,
        keep_days: arguments.keep_days,
        github_back: arguments.back,
        github_back_branch: arguments.back_branch,
        github_front: arguments.front,
        github_front_branch: arguments.front_branch,
        template: arguments.template,
    };
    let request = client.request(Method::POST, &["envs"]).json(&wanted);
    if arguments.plan {
        let plan: EnvironmentPlan = client.ask(request.query(&[("plan", "true")])).await?;
        return show_plan(global, &plan);
    }
    if arguments.no_wait {
        let begun: EnvironmentDone = client.ask(request.header("prefer", "respond-async")).await?;
        if global.json {
            return output::json(&begun);
        }
        let name = begun.name.unwrap_or_default();
        output::note(format_args!("{name} is being made; `ondemand env show {name}` tells how it is"));
        return begun.urls.iter().try_for_each(output::line);
    }
    let done = progress::follow(&client, request).await?;
    finish(global, &client, done, name).await
}

/// Prints what people type to reach an environment.
pub(super) async fn finish(
    global: &Global,
    client: &Client,
    done: EnvironmentDone,
    name: Option<String>,
) -> Result<(), Failure> {
    if global.json {
        return output::json(&done);
    }
    let name = name.or(done.name).unwrap_or_default();
    let links = match client.get::<Environment>(&["envs", super::segment(&name)?]).await {
        Ok(environment) => environment.links,
        Err(_) => done.urls,
    };
    output::note(format_args!("{name} is ready"));
    links.iter().try_for_each(output::line)
}

fn show_plan(global: &Global, plan: &EnvironmentPlan) -> Result<(), Failure> {
    if global.json {
        return output::json(plan);
    }
    let part = |part: &Option<ondemand_http::wire::Source>| {
        part.as_ref().map_or_else(
            || "left out".to_owned(),
            |source| format!("{}@{} at {}", source.repository, source.branch, source.commit),
        )
    };
    output::note(format_args!("name:     {}", plan.name));
    output::note(format_args!("owner:    {}", plan.owner.login));
    output::note(format_args!("urls:     {}", plan.urls.join(" ")));
    output::note(format_args!("back:     {}", part(&plan.back)));
    output::note(format_args!("front:    {}", part(&plan.front)));
    output::note(format_args!("database: {}", plan.dataset.as_deref().unwrap_or("none")));
    output::note(format_args!("reaped:   {}", humantime::format_rfc3339_seconds(plan.expires.0)));
    output::bytes(plan.compose.as_bytes())
}
