//! Small requests: what one costs the proxy, how that depends on the number of routes, and how long it takes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ondemand_tests::Home;
use ondemand_tests::report::{Limit, Report, median};

use crate::client::at_rate;
use crate::peers::{BODY, Peer, Routes, Upstreams};
use crate::wrk::{self, CONNECTIONS, Load, Requests};

/// How many requests a second are asked for where it is about how long they take.
const RATE: u32 = 3_000;

/// How often a route changes, a second.
const CHANGES: u32 = 1_000;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    pub(crate) duration: Duration,
}

/// What several runs said, each in turn with those of others.
#[derive(Debug, Default)]
struct Runs {
    microseconds: Vec<f64>,
    per_second: Vec<f64>,
    switches: Vec<f64>,
}

impl Runs {
    fn add(&mut self, load: Load) {
        self.microseconds.push(load.processor_time.as_secs_f64() * 1e6);
        self.per_second.push(load.per_second);
        self.switches.push(load.switches);
    }

    /// Adds the ratio to others to the report: the median of the rounds' own ratios, since what the machine does besides meets both
    /// halves of a round alike.
    fn compare(&self, report: &mut Report, what: &str, others: &Self, limit: Limit) {
        let ratios: Vec<f64> =
            self.microseconds.iter().zip(&others.microseconds).map(|(one, other)| one / other).collect();
        let figures = [&self.microseconds, &others.microseconds].map(|all| format!("{:.2} µs", median(all)));
        report.quotient(what, [&figures[0], &figures[1]], median(&ratios), limit);
        let (least, most) =
            ratios.iter().fold((f64::MAX, f64::MIN), |(least, most), &ratio| (least.min(ratio), most.max(ratio)));
        eprintln!(
            "    rounds from {least:.3} to {most:.3}; {:.0} / {:.0} requests a second, {:.2} / {:.2} sleeps a request",
            median(&self.per_second),
            median(&others.per_second),
            median(&self.switches),
            median(&others.switches),
        );
    }
}

/// Runs each in turn, forwards and backwards, so that whatever else the machine does meets all alike; the first round warms up.
fn in_turn(home: &Home, extent: Extent, candidates: &[(&Peer, Requests)]) -> Result<Vec<Runs>> {
    let mut runs: Vec<Runs> = candidates.iter().map(|_| Runs::default()).collect();
    for round in 0..=extent.rounds {
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for number in order {
            let (peer, requests) = candidates[number];
            let load = wrk::run(home, &peer.process, peer.address, requests, extent.duration).context(peer.name)?;
            if round > 0 {
                runs[number].add(load);
            }
        }
    }
    Ok(runs)
}

/// Measures the processor time of a request: this proxy's, and that of others.
pub(crate) async fn cost(
    home: &Home,
    upstreams: &Upstreams,
    extent: Extent,
    others: &[String],
    requests: Requests,
    report: &mut Report,
) -> Result<()> {
    let mut peers = vec![Peer::ours(home, upstreams, 10).await?, Peer::nginx(home, upstreams).await?];
    for other in others {
        match other.as_str() {
            "haproxy" => peers.push(Peer::haproxy(home, upstreams).await?),
            "caddy" => peers.push(Peer::caddy(home, upstreams).await?),
            _ => {}
        }
    }
    let candidates: Vec<(&Peer, Requests)> = peers.iter().map(|peer| (peer, requests)).collect();
    let runs = in_turn(home, extent, &candidates)?;
    let what =
        if matches!(requests, Requests::Browser) { "CPU a request with a browser's head" } else { "CPU a request" };
    for (peer, other) in peers.iter().zip(&runs).skip(1) {
        let limit = if peer.name == "nginx" { Limit::AtMost(1.0) } else { Limit::None };
        runs[0].compare(report, &format!("{what} / {}'s", peer.name), other, limit);
    }
    Ok(())
}

/// Measures nginx against another nginx, so that one sees how much of a ratio is chance.
pub(crate) async fn noise(home: &Home, upstreams: &Upstreams, extent: Extent, report: &mut Report) -> Result<()> {
    let one = Peer::nginx(home, upstreams).await?;
    let other = Peer::nginx(home, upstreams).await?;
    let runs = in_turn(home, extent, &[(&one, Requests::Plain), (&other, Requests::Plain)])?;
    runs[0].compare(report, "CPU a request, nginx / nginx", &runs[1], Limit::None);
    Ok(())
}

/// Measures whether many routes make a request dearer.
pub(crate) async fn many_routes(home: &Home, upstreams: &Upstreams, extent: Extent, report: &mut Report) -> Result<()> {
    let few = Peer::ours(home, upstreams, 10).await?;
    let begun = Instant::now();
    let many = Peer::ours(home, upstreams, 10_000).await?;
    eprintln!("10 000 routes were set in {:.1} s", begun.elapsed().as_secs_f64());
    let candidates = [
        (&many, Requests::Hosts { asked: 10, of: 10_000 }),
        (&few, Requests::Hosts { asked: 10, of: 10 }),
        (&many, Requests::Hosts { asked: 10_000, of: 10_000 }),
    ];
    let runs = in_turn(home, extent, &candidates)?;
    runs[0].compare(report, "CPU a request, 10 000 routes / 10 routes", &runs[1], Limit::AtMost(1.05));
    // Every request finds what it needs to know of its route outside the processor's cache, as none of these clients would.
    runs[2].compare(report, "  each of the 10 000 hosts in turn / 10 routes", &runs[1], Limit::None);
    Ok(())
}

/// Measures how long requests take that come at a fixed rate.
pub(crate) async fn latency(home: &Home, upstreams: &Upstreams, extent: Extent, report: &mut Report) -> Result<()> {
    let peers = [Peer::ours(home, upstreams, 10).await?, Peer::nginx(home, upstreams).await?];
    let (mut halves, mut most) = (Pairs::default(), Pairs::default());
    for round in 0..=extent.rounds {
        let mut times = Vec::new();
        for peer in &peers {
            let mut latencies = small_at_rate(peer.address, extent.duration).await.context(peer.name)?;
            times.push((latencies.quantile(0.5), latencies.quantile(0.99)));
        }
        if round > 0 {
            halves.add(times[0].0, times[1].0);
            most.add(times[0].1, times[1].1);
        }
    }
    halves.report(report, &format!("p50 at {RATE} requests a second / nginx's"), Limit::None);
    most.report(report, &format!("p99 at {RATE} requests a second / nginx's"), Limit::None);
    Ok(())
}

/// Times of two things, measured one after the other in each round.
#[derive(Debug, Default)]
struct Pairs(Vec<(Duration, Duration)>);

impl Pairs {
    fn add(&mut self, one: Duration, other: Duration) {
        self.0.push((one, other));
    }

    /// Adds the ratio to the report: the median of the rounds' own ratios, since a busy neighbour meets both of a round alike, and one
    /// round more than another.
    fn report(&self, report: &mut Report, what: &str, limit: Limit) {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let ones: Vec<f64> = self.0.iter().map(|(one, _)| micros(*one)).collect();
        let others: Vec<f64> = self.0.iter().map(|(_, other)| micros(*other)).collect();
        let ratios: Vec<f64> = ones.iter().zip(&others).map(|(one, other)| one / other).collect();
        let figures = [&ones, &others].map(|all| format!("{:.0} µs", median(all)));
        report.quotient(what, [&figures[0], &figures[1]], median(&ratios), limit);
    }
}

async fn small_at_rate(address: SocketAddr, duration: Duration) -> Result<crate::client::Latencies> {
    at_rate(address, "app-00000.localhost", CONNECTIONS, RATE, duration, BODY.as_bytes()).await
}

/// Measures what changes of routes do to requests: every tenth change is of the route that is asked for.
pub(crate) async fn changes(home: &Home, upstreams: &Upstreams, extent: Extent, report: &mut Report) -> Result<()> {
    let ours = Peer::ours(home, upstreams, 1_000).await?;
    let api = ours.api.context("it has an API")?;
    let (mut times, mut done) = (Pairs::default(), Vec::new());
    for round in 0..=extent.rounds {
        let mut quiet = small_at_rate(ours.address, extent.duration).await?;
        let stop = Instant::now() + extent.duration;
        let changes = (0..4).map(|lane| tokio::spawn(change(api, *upstreams, lane, stop)));
        let changes = futures_util::future::try_join_all(changes);
        let (latencies, counts) = tokio::join!(small_at_rate(ours.address, extent.duration), changes);
        let mut changing = latencies.context("while routes changed")?;
        if round > 0 {
            times.add(changing.quantile(0.99), quiet.quantile(0.99));
        }
        let count = counts?.into_iter().sum::<Result<u32>>()?;
        done.push(f64::from(count) / extent.duration.as_secs_f64());
    }
    report.figure(
        "route changes a second, no request failing",
        median(&done),
        "/s",
        Limit::AtLeast(0.95 * f64::from(CHANGES)),
    );
    times.report(report, "  p99 while routes change / while none does", Limit::AtMost(2.0));
    Ok(())
}

/// Changes routes at a quarter of the rate, and returns how many it changed.
async fn change(api: SocketAddr, upstreams: Upstreams, lane: usize, stop: Instant) -> Result<u32> {
    let mut routes = Routes::open(api).await?;
    let interval = Duration::from_secs(1) * 4 / CHANGES;
    // One after the other, and not four at once.
    let mut due = Instant::now() + interval * u32::try_from(lane)? / 4;
    let mut count = 0;
    for number in (lane..).step_by(4) {
        tokio::time::sleep_until(due.into()).await;
        if Instant::now() >= stop {
            break;
        }
        let turn = number / 4;
        // Three turns are one route's: it is set, set again, and deleted; of the first two, at most one is the tenth.
        let host = format!("changing-{}.localhost", turn / 3 % 100 * 4 + lane);
        match (turn % 10, turn % 3) {
            (9, _) => routes.set("app-00000.localhost", upstreams.small(turn / 10)).await?,
            (_, 2) => routes.delete(&host).await?,
            _ => routes.set(&host, upstreams.small(turn)).await?,
        }
        count += 1;
        due += interval;
    }
    Ok(count)
}
