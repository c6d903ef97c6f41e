//! Does one operation on a data directory, and kills itself at a chosen call of the store or the orchestrator.
//!
//! `crash-child DATA-DIR FIRST-PORT before|after NUMBER create|reset ID|delete ID|publish ID|import FILE`. Exits with 0 if the operation ended before the call was
//! made.
#![expect(clippy::print_stderr, reason = "it tells the test what killed it")]

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ondemand_core::fakes::{ANY, Fault, FaultPlan, Faulty};
use ondemand_core::{CreateOptions, ImportOptions, Ondemand, PublishOptions, Source, progress};
use rustix::process::{Signal, getpid, kill_process};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = move |what: &'static str| arguments.next().context(what);
    let data_dir = PathBuf::from(next("the data directory")?);
    let first_port: u16 = next("the first port")?.parse()?;
    let (when, number) = (next("before or after")?, next("the number of the call")?.parse::<usize>()?);
    let operation = next("the operation")?;

    let plan = FaultPlan::new();
    let config = ondemand_tests::crash_config(data_dir, first_port);
    let (for_store, for_orchestrator) = (plan.clone(), plan.clone());
    let ondemand = Ondemand::open_wrapped(
        &config,
        |store| Arc::new(Faulty::new(store, for_store)),
        |orchestrator| Arc::new(Faulty::new(orchestrator, for_orchestrator)),
    )
    .await?;
    ondemand.janitor.run_once().await?;

    // An import looks at the space ten times a second, so that the calls of a slow one would have no end.
    plan.pass_over("space", plan.count("space") + 2);
    let at = plan.count(ANY) + number;
    plan.on(ANY, at, if when == "before" { Fault::Stall } else { Fault::CutOff });
    let watched = plan.clone();
    tokio::spawn(async move {
        let call = if when == "before" { watched.reached(ANY, at).await } else { watched.performed(ANY, at).await };
        eprintln!("killed {when} {} of {}", call.method, call.subject);
        let _ = kill_process(getpid(), Signal::KILL);
    });
    match operation.as_str() {
        "create" => drop(ondemand.databases.create(CreateOptions::default()).await?),
        "reset" => drop(ondemand.databases.reset(&next("an id")?.parse()?).await?),
        "delete" => ondemand.databases.delete(&next("an id")?.parse()?).await?,
        "publish" => {
            let id = next("an id")?.parse()?;
            ondemand
                .databases
                .publish(&id, &"published".parse()?, PublishOptions::default(), progress::silent())
                .await?;
        }
        "import" => {
            let source = Source::Path(next("a file")?.into());
            let dataset = "imported".parse()?;
            ondemand.datasets.import(&dataset, source, ImportOptions::default(), progress::silent()).await?;
        }
        other => bail!("unknown operation {other}"),
    }
    Ok(())
}
