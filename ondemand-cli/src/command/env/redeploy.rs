//! `ondemand env redeploy`.

use clap::Args;
use ondemand_core::environments::Step;
use reqwest::{Method, header};

use super::progress::Progress;
use super::{Token, Which, create};
use crate::arguments::Global;
use crate::events::follow;
use crate::failure::Failure;

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
    let name = arguments.which.segment()?;
    let request = client.request(Method::POST, &["envs", name, "redeploy"]);
    let mut progress = Progress::new();
    let outcome = async {
        let response = client.send(request.header(header::ACCEPT, "text/event-stream")).await?;
        follow(&client, response, |step: &Step| progress.show(step)).await
    };
    let outcome = outcome.await;
    progress.end();
    create::finish(global, &client, outcome?, Some(name.to_owned())).await
}
