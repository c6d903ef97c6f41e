//! Does one operation on environments, and kills itself at a chosen call of an orchestrator, the router or the store.
//!
//! `crash-env-child DIRECTORY FIRST-PORT before|after METHOD NUMBER create|redeploy|delete NAME`. Exits with 0 if the operation ended before the call was
//! made.
#![expect(clippy::print_stderr, reason = "it tells the test what killed it")]

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ondemand_core::environments::{Caller, CreateEnvironment, StepReporter};
use ondemand_core::fakes::{Fault, FaultPlan};
use ondemand_tests::embedded::{self, Embedded};
use rustix::process::{Signal, getpid, kill_process};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = move |what: &'static str| arguments.next().context(what);
    let directory = PathBuf::from(next("the directory")?);
    let first_port: u16 = next("the first port")?.parse()?;
    let when = next("before or after")?;
    // For as long as this process lives.
    let method: &'static str = Box::leak(next("the method")?.into_boxed_str());
    let number: usize = next("the number of the call")?.parse()?;
    let (operation, name) = (next("the operation")?, next("the name")?.parse()?);

    let plan = FaultPlan::new();
    let place = Embedded::open(&embedded::config(&directory, first_port), &plan).await?;
    place.ondemand.janitor.run_once().await?;
    let at = plan.count(method) + number;
    plan.on(method, at, if when == "before" { Fault::Stall } else { Fault::CutOff });
    tokio::spawn(async move {
        let call = if when == "before" { plan.reached(method, at).await } else { plan.performed(method, at).await };
        eprintln!("killed {when} {} of {}", call.method, call.subject);
        let _ = kill_process(getpid(), Signal::KILL);
    });
    let silent: StepReporter = Arc::new(|_| {});
    let (environments, admin) = (&place.environments, Caller::admin());
    match operation.as_str() {
        "create" => {
            let wanted = CreateEnvironment { name: Some(name), ..CreateEnvironment::default() };
            environments.create(None, wanted, silent).await?;
        }
        "redeploy" => drop(environments.redeploy(&name, &admin, None, silent).await?),
        "delete" => environments.delete(&name, &admin).await?,
        other => bail!("unknown operation {other}"),
    }
    Ok(())
}
