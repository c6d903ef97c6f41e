//! The load of many requests: `wrk`, one thread, 64 connections.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ondemand_tests::Home;

use crate::process::Process;

/// How many connections ask at once.
pub(crate) const CONNECTIONS: u32 = 64;

/// What a browser sends along, for the cost of longer heads.
const BROWSER: [&str; 9] = [
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; _ga=GA1.1.1234567890.1234567890",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: none",
];

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Requests {
    /// `GET /` of one host, with no more than a host.
    Plain,
    /// The same with what a browser sends along.
    Browser,
    /// `GET /` of some hosts, each in turn.
    Hosts {
        /// How many are asked for.
        asked: usize,
        /// Among how many they are spread.
        of: usize,
    },
}

/// Asks for each of some hosts in turn. There are always as many requests, so that their number costs whoever sends them the same; the
/// step is coprime to it, so that neighbours in time are none in memory.
const SCRIPT: &str = r#"
local requests, at = {}, 0
function init(args)
  local asked, of = tonumber(args[1]), tonumber(args[2])
  for n = 0, 9999 do
    requests[n] = wrk.format(nil, nil, {Host = string.format("app-%05d.localhost", n % asked * (of / asked))})
  end
end
function request()
  at = (at + 7919) % 10000
  return requests[at]
end
"#;

/// What a run said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Of the proxy, for a request.
    pub(crate) processor_time: Duration,
    pub(crate) per_second: f64,
    /// How often the proxy went to sleep, for a request.
    pub(crate) switches: f64,
}

/// Asks a proxy as fast as it answers, and says what a request took.
pub(crate) fn run(
    home: &Home,
    proxy: &Process,
    address: SocketAddr,
    requests: Requests,
    duration: Duration,
) -> Result<Load> {
    let mut command = Command::new("/usr/bin/wrk");
    command.args(["--threads", "1", "--connections", &CONNECTIONS.to_string()]);
    command.args(["--duration", &format!("{}s", duration.as_secs())]);
    let url = format!("http://{address}/");
    match requests {
        Requests::Plain => _ = command.args(["--header", "Host: app-00000.localhost", &url]),
        Requests::Browser => {
            let fields = BROWSER.iter().chain(&["Host: app-00000.localhost"]);
            command.args(fields.flat_map(|field| ["--header", field])).arg(&url);
        }
        Requests::Hosts { asked, of } => {
            let script = home.file("hosts.lua", SCRIPT)?;
            command.arg("--script").arg(script).args([&url, "--", &asked.to_string(), &of.to_string()]);
        }
    }
    let (before, switches) = (proxy.processor_time()?, proxy.switches()?);
    let output = command.output().context("running wrk")?;
    let (took, switches) = (proxy.processor_time()?.since(&before), proxy.switches()?.saturating_sub(switches));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
    for failure in ["Socket errors", "Non-2xx"] {
        ensure!(!text.contains(failure), "requests failed: {text}");
    }
    let number = |line: &str| line.split_whitespace().next()?.parse::<u32>().ok();
    let count = text.lines().find(|line| line.contains(" requests in ")).and_then(number);
    let count = count.filter(|&count| count > 0).with_context(|| format!("no request was answered: {text}"))?;
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).context("wrk tells no rate")?;
    #[expect(clippy::cast_precision_loss, reason = "they are few")]
    let switches = switches as f64 / f64::from(count);
    Ok(Load { processor_time: took / count, per_second: rate.trim().parse()?, switches })
}
