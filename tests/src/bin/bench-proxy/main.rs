//! Measures the proxy against others, in the same run and in turn, each with one worker: what a request costs it, whether the number of
//! routes or their changes matter, how fast large bodies pass, and what an idle WebSocket takes.
//!
//! `bench-proxy [--rounds N] [--seconds N] [--measures NAME,…] [--peers NAME,…]`; `make bench ONLY=proxy` builds what it needs.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that shows figures to a person")]

mod bulk;
mod client;
mod peers;
mod process;
mod small;
mod sockets;
mod wrk;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ondemand_tests::Home;
use ondemand_tests::report::Report;
use tokio::signal::unix::{SignalKind, signal};

use peers::{Peer, Upstreams};
use process::load_average;
use small::Extent;
use wrk::Requests;

/// What can be measured, in the order in which it is.
const MEASURES: [&str; 7] = ["cpu", "browser", "routes", "changes", "latency", "bodies", "sockets"];
/// What is not, unless it is asked for: how far two of the same differ, and a load for a profiler to look at.
const MORE_MEASURES: [&str; 2] = ["noise", "load"];

struct Arguments {
    extent: Extent,
    measures: Vec<String>,
    others: Vec<String>,
}

fn arguments() -> Result<Arguments> {
    let list = |value: &str| value.split([',', ' ']).filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect();
    let mut arguments = Arguments {
        extent: Extent { rounds: 9, duration: Duration::from_secs(2) },
        measures: list(&MEASURES.join(",")),
        others: list("nginx,haproxy,caddy"),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--rounds" => arguments.extent.rounds = value.parse()?,
            "--seconds" => arguments.extent.duration = Duration::from_secs(value.parse()?),
            "--measures" => arguments.measures = list(&value),
            "--peers" => arguments.others = list(&value),
            _ => bail!("unknown option {word}; there are --rounds, --seconds, --measures and --peers"),
        }
    }
    for name in &arguments.measures {
        let known = MEASURES.iter().chain(&MORE_MEASURES);
        ensure!(
            known.clone().any(|known| known == name),
            "{name} is none of {}",
            known.copied().collect::<Vec<_>>().join(", ")
        );
    }
    Ok(arguments)
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = arguments()?;
    sockets::raise_open_files()?;
    let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // Returning ends all that was started.
    tokio::select! {
        outcome = all(&arguments) => outcome,
        _ = terminated.recv() => bail!("terminated"),
        _ = interrupted.recv() => bail!("interrupted"),
    }
}

async fn all(arguments: &Arguments) -> Result<()> {
    let home = Home::new()?;
    let (upstream, small) = peers::upstream(&home).await?;
    let upstreams = Upstreams { small, bulk: bulk::upstream()?, sockets: sockets::upstream().await? };
    let mut report = Report::default();
    let Arguments { extent, others, .. } = arguments;
    report.note(&format!("load average before: {}", load_average()));
    for measure in &arguments.measures {
        match measure.as_str() {
            "cpu" => small::cost(&home, &upstreams, *extent, others, Requests::Plain, &mut report).await?,
            "browser" => small::cost(&home, &upstreams, *extent, &[], Requests::Browser, &mut report).await?,
            "routes" => small::many_routes(&home, &upstreams, *extent, &mut report).await?,
            "changes" => small::changes(&home, &upstreams, *extent, &mut report).await?,
            "latency" => small::latency(&home, &upstreams, *extent, &mut report).await?,
            "bodies" => bulk::bodies(&home, &upstreams, *extent, &mut report).await?,
            "noise" => small::noise(&home, &upstreams, *extent, &mut report).await?,
            "sockets" => sockets::memory(&home, &upstreams, others, &mut report).await?,
            _ => load(&home, &upstreams, *extent).await?,
        }
    }
    report.note(&format!("load average after: {}", load_average()));
    report.print("this proxy / another one, one worker each, measured in turn in this run");
    drop(upstream);
    Ok(())
}

/// Keeps this proxy busy for as long as all rounds take, for a profiler to look at.
async fn load(home: &Home, upstreams: &Upstreams, extent: Extent) -> Result<()> {
    let ours = Peer::ours(home, upstreams, 10).await?;
    println!("{}", ours.process.worker());
    let duration = extent.duration * u32::try_from(extent.rounds)?;
    let load = tokio::task::block_in_place(|| wrk::run(home, &ours.process, ours.address, Requests::Plain, duration))?;
    eprintln!("{load:?}");
    Ok(())
}
