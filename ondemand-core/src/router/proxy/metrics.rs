//! What is measured, in Prometheus's text format.

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use super::stats::{BUCKETS, CLASSES, Stats};
use super::worker::Shared;

/// The label of the routes that have no series of their own.
const OTHERS: &str = "other";

/// What is counted of a route, at one moment.
#[derive(Default)]
struct Sample {
    in_flight: u64,
    upgrades: u64,
    answers: [u64; CLASSES],
    buckets: [u64; BUCKETS.len() + 1],
    micros: u64,
}

impl Sample {
    fn add(&mut self, stats: &Stats) {
        let add = |sum: &mut u64, counter: &std::sync::atomic::AtomicU64| *sum += counter.load(Relaxed);
        add(&mut self.in_flight, &stats.in_flight);
        add(&mut self.upgrades, &stats.upgrades);
        add(&mut self.micros, &stats.micros);
        self.answers.iter_mut().zip(stats.answers()).for_each(|(sum, count)| *sum += count);
        self.buckets.iter_mut().zip(stats.buckets()).for_each(|(sum, count)| *sum += count);
    }
}

/// Writes all metrics. Routes without any request have none; beyond `most`, the others are added up.
pub(super) fn write(shared: &Shared, most: usize) -> String {
    let mut samples: Vec<(String, Sample)> = Vec::new();
    let mut others = Sample::default();
    let mut unknown = Sample::default();
    unknown.add(&shared.unknown);
    for entry in shared.table.list() {
        let used = entry.stats.activity();
        if used.requests == 0 {
            continue;
        }
        if samples.len() < most {
            let mut sample = Sample::default();
            sample.add(&entry.stats);
            samples.push((entry.route.host.to_string(), sample));
        } else {
            others.add(&entry.stats);
        }
    }
    samples.push((OTHERS.into(), others));
    // Requests that no route is for; no host has an empty name.
    samples.push((String::new(), unknown));
    let mut out = Text(String::new());
    out.family("ondemand_proxy_connections", "gauge", "Connections that are open with clients.");
    out.line("ondemand_proxy_connections", "", shared.connections.load(Relaxed));
    out.family("ondemand_proxy_connections_accepted_total", "counter", "Connections that clients have opened.");
    out.line("ondemand_proxy_connections_accepted_total", "", shared.accepted.load(Relaxed));
    out.family("ondemand_proxy_connections_refused_total", "counter", "Connections beyond a limit.");
    out.line("ondemand_proxy_connections_refused_total", "", shared.refused.load(Relaxed));
    out.family("ondemand_proxy_routes", "gauge", "Routes.");
    out.line("ondemand_proxy_routes", "", shared.table.len() as u64);
    out.family("ondemand_proxy_requests_in_flight", "gauge", "Requests that are not answered to their end yet.");
    for (route, sample) in &samples {
        out.line("ondemand_proxy_requests_in_flight", &format!("route=\"{route}\""), sample.in_flight);
    }
    out.family("ondemand_proxy_upgrades", "gauge", "Upgraded connections, such as WebSockets, that are open.");
    for (route, sample) in &samples {
        out.line("ondemand_proxy_upgrades", &format!("route=\"{route}\""), sample.upgrades);
    }
    out.family("ondemand_proxy_requests_total", "counter", "Answers, by the class of their status.");
    for (route, sample) in &samples {
        for (class, count) in sample.answers.iter().enumerate().skip(1) {
            out.line("ondemand_proxy_requests_total", &format!("route=\"{route}\",code=\"{class}xx\""), *count);
        }
    }
    out.family(
        "ondemand_proxy_request_duration_seconds",
        "histogram",
        "Time from a request's head to the end of its answer.",
    );
    for (route, sample) in &samples {
        out.histogram(route, sample);
    }
    out.0
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string never fails.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: u64) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    fn histogram(&mut self, route: &str, sample: &Sample) {
        let name = "ondemand_proxy_request_duration_seconds";
        let bounds = BUCKETS.iter().map(|(bound, _)| *bound).chain(["+Inf"]);
        let mut sum = 0;
        for (bound, count) in bounds.zip(sample.buckets) {
            sum += count;
            self.line(&format!("{name}_bucket"), &format!("route=\"{route}\",le=\"{bound}\""), sum);
        }
        let (seconds, micros) = (sample.micros / 1_000_000, sample.micros % 1_000_000);
        let _ = writeln!(self.0, "{name}_sum{{route=\"{route}\"}} {seconds}.{micros:06}");
        self.line(&format!("{name}_count"), &format!("route=\"{route}\""), sum);
    }
}
