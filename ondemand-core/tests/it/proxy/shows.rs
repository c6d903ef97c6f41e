//! What the proxy shows: metrics, what goes through a route, and its log.

use std::collections::{BTreeMap, BTreeSet};

use super::lab::{self, Lab, get, log, post, reply};

/// Metrics in Prometheus's text format, checked to be that.
#[derive(Debug, Default)]
struct Metrics {
    types: BTreeMap<String, String>,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

fn is_name(text: &str) -> bool {
    text.bytes().enumerate().all(|(i, b)| b.is_ascii_alphabetic() || b == b'_' || (i > 0 && b.is_ascii_digit()))
        && !text.is_empty()
}

/// Reads `name="value",…` up to the closing brace; returns what follows it.
fn labels(mut text: &str) -> (BTreeMap<String, String>, &str) {
    let mut found = BTreeMap::new();
    loop {
        if let Some(rest) = text.strip_prefix('}') {
            return (found, rest);
        }
        let (name, rest) = text.split_once("=\"").unwrap();
        assert!(is_name(name), "label {name:?}");
        let (mut value, mut escaped, mut end) = (String::new(), false, None);
        for (i, c) in rest.char_indices() {
            match (escaped, c) {
                (true, c) => {
                    assert!("\\\"n".contains(c), "escape {c:?}");
                    value.push(if c == 'n' { '\n' } else { c });
                    escaped = false;
                }
                (false, '\\') => escaped = true,
                (false, '"') => {
                    end = Some(i + 1);
                    break;
                }
                (false, c) => value.push(c),
            }
        }
        text = &rest[end.unwrap()..];
        text = text.strip_prefix(',').unwrap_or(text);
        assert!(found.insert(name.to_owned(), value).is_none(), "label {name} twice");
    }
}

impl Metrics {
    fn of(lab: &Lab) -> Self {
        let text = lab.proxy.metrics();
        let mut all = Self::default();
        let mut helped = BTreeSet::new();
        assert!(text.ends_with('\n'), "the last line has no end");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                assert!(helped.insert(help.split(' ').next().unwrap().to_owned()), "{line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(is_name(name) && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(all.types.insert(name.into(), kind.into()).is_none(), "{name} has two types");
            } else {
                let end = line.find(['{', ' ']).unwrap();
                let (name, rest) = line.split_at(end);
                let (labels, rest) = match rest.strip_prefix('{') {
                    Some(rest) => labels(rest),
                    None => (BTreeMap::new(), rest),
                };
                let value: f64 = rest.trim_start().parse().unwrap_or_else(|_| panic!("{line}"));
                assert!(is_name(name) && value >= 0.0, "{line}");
                let family = all.family(name);
                assert!(all.types.contains_key(family), "{name} has no type, or is not with its family");
                assert!(helped.contains(family), "{name} has no help");
                all.samples.push((name.into(), labels, value));
            }
        }
        let mut unique = BTreeSet::new();
        assert!(
            all.samples.iter().all(|(name, labels, _)| unique.insert((name, labels))),
            "a series is there twice:\n{text}"
        );
        all.check_histograms();
        all
    }

    fn family<'a>(&self, name: &'a str) -> &'a str {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        histogram.filter(|family| self.types.get(*family).is_some_and(|kind| kind == "histogram")).unwrap_or(name)
    }

    /// Buckets are cumulative, and the last holds everything.
    fn check_histograms(&self) {
        for (family, _) in self.types.iter().filter(|(_, kind)| *kind == "histogram") {
            let mut series = BTreeMap::<_, Vec<(f64, f64)>>::new();
            for (name, labels, value) in &self.samples {
                if *name == format!("{family}_bucket") {
                    let mut labels = labels.clone();
                    let le = labels.remove("le").unwrap();
                    series
                        .entry(labels)
                        .or_default()
                        .push((if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() }, *value));
                }
            }
            for (labels, buckets) in series {
                assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{family} {labels:?}: {buckets:?}");
                assert!(buckets.last().unwrap().0.is_infinite());
                let of = |suffix: &str| {
                    let name = format!("{family}{suffix}");
                    self.samples
                        .iter()
                        .find(|(n, l, _)| *n == name && *l == labels)
                        .unwrap_or_else(|| panic!("no {name} {labels:?}"))
                        .2
                };
                assert!((buckets.last().unwrap().1 - of("_count")).abs() < 0.5, "{family} {labels:?}");
                assert!(of("_sum") >= 0.0);
            }
        }
    }

    /// Adds up the samples of that name whose labels are these, among others.
    fn sum(&self, name: &str, wanted: &[(&str, &str)]) -> f64 {
        let matches = |labels: &BTreeMap<String, String>| {
            wanted.iter().all(|(name, value)| labels.get(*name).is_some_and(|found| found == value))
        };
        self.samples.iter().filter(|(n, labels, _)| n == name && matches(labels)).map(|(_, _, value)| value).sum()
    }

    /// Returns the routes that have series of their own.
    fn routes(&self) -> BTreeSet<&str> {
        self.samples.iter().filter_map(|(_, labels, _)| labels.get("route")).map(String::as_str).collect()
    }
}

const REQUESTS: &str = "ondemand_proxy_requests_total";
const DURATION: &str = "ondemand_proxy_request_duration_seconds_count";
const CONNECTIONS: &str = "ondemand_proxy_connections";
const UPGRADES: &str = "ondemand_proxy_upgrades";
const IN_FLIGHT: &str = "ondemand_proxy_requests_in_flight";

#[track_caller]
fn assert_count(actual: f64, expected: f64) {
    assert!((actual - expected).abs() < 0.5, "{actual}, not {expected}");
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status() {
    let lab = lab::start().await;
    let server =
        lab::upstream::Upstream::new().await.serve(|request| reply(&request.target()[1..].replace('-', " "), "x"));
    lab.route("app.example", &[server.address]).await;
    let _other = lab.serving("other.example").await;
    Metrics::of(&lab);
    let mut client = lab.client().await;
    for status in ["200-OK", "200-OK", "201-Created", "302-Found", "404-Not-Found", "500-Oops", "500-Oops", "500-Oops"]
    {
        client.send(get("app.example", &format!("/{status}"))).await;
        client.answer().await;
    }
    client.send(get("other.example", "/")).await;
    client.answer().await;
    // A request is counted once it is over, which the client may see first.
    lab.active("app.example", 0, 0).await;
    lab.active("other.example", 0, 0).await;
    let metrics = Metrics::of(&lab);
    for (route, statuses) in [
        ("app.example", [("2", 3.0), ("3", 1.0), ("4", 1.0), ("5", 3.0)]),
        ("other.example", [("2", 1.0), ("3", 0.0), ("4", 0.0), ("5", 0.0)]),
    ] {
        for (class, expected) in statuses {
            // By class or by status.
            let count: f64 = metrics
                .samples
                .iter()
                .filter(|(name, labels, _)| {
                    name == REQUESTS
                        && labels["route"] == route
                        && labels.values().any(|value| value.len() == 3 && value.starts_with(class))
                })
                .map(|(_, _, value)| value)
                .sum();
            assert_count(count, expected);
        }
    }
    assert_count(metrics.sum(DURATION, &[("route", "app.example")]), 8.0);
    assert_count(metrics.sum(DURATION, &[("route", "other.example")]), 1.0);
    // The answers of the proxy itself count for the route as well.
    let (address, _kept) = lab::refusing();
    lab.route("dead.example", &[address]).await;
    lab.ask(get("dead.example", "/")).await;
    assert_count(Metrics::of(&lab).sum(REQUESTS, &[("route", "dead.example")]), 1.0);
}

/// A stranger must not be able to fill the memory of whoever collects them, or ours.
#[tokio::test]
async fn names_that_strangers_make_up_make_no_series() {
    let lab = lab::start().await;
    let _server = lab.serving("app.example").await;
    lab.ask(get("app.example", "/")).await;
    let before = Metrics::of(&lab).samples.len();
    let mut client = lab.client().await;
    for i in 0..200 {
        client.send(get(&format!("x{i}.example"), &format!("/{i}")).replacen("GET", &format!("M{i}"), 1)).await;
        assert_eq!(client.answer().await.status(), 404);
        client.send(get("app.example", &format!("/{i}")).replacen("GET", &format!("N{i}"), 1)).await;
        client.answer().await;
    }
    lab.ask("nonsense\r\n\r\n").await;
    let metrics = Metrics::of(&lab);
    assert!(metrics.samples.len() <= before + 60, "{} series, {before} before", metrics.samples.len());
    assert!(!metrics.routes().iter().any(|route| route.starts_with('x')), "{:?}", metrics.routes());
    // They count, though.
    let all: f64 = metrics.sum(REQUESTS, &[]);
    assert!(all >= 401.0, "{all}");
}

#[tokio::test]
async fn only_so_many_routes_have_series_of_their_own() {
    let lab = lab::start_with(|config| config.max_metrics_routes = 5).await;
    let server = lab::Server::start().await;
    for i in 0..20 {
        lab.route(&format!("app-{i}.example"), &[server.address]).await;
    }
    let mut client = lab.client().await;
    for i in 0..20 {
        client.send(get(&format!("app-{i}.example"), "/")).await;
        client.answer().await;
    }
    lab.active("app-19.example", 0, 0).await;
    let metrics = Metrics::of(&lab);
    let named = metrics.routes().into_iter().filter(|route| route.starts_with("app-")).count();
    assert_eq!(named, 5);
    assert_count(metrics.sum(REQUESTS, &[]), 20.0);
}

/// A route that goes takes its series with it, or they would grow for as long as the proxy lives.
#[tokio::test]
async fn routes_that_come_and_go_do_not_pile_up() {
    let lab = lab::start_with(|config| config.max_metrics_routes = 5).await;
    let server = lab::Server::start().await;
    let mut client = lab.client().await;
    for i in 0..50 {
        let name = format!("app-{i}.example");
        lab.route(&name, &[server.address]).await;
        client.send(get(&name, "/")).await;
        client.answer().await;
        lab.remove(&name).await;
    }
    lab.route("last.example", &[server.address]).await;
    client.send(get("last.example", "/")).await;
    client.answer().await;
    lab.active("last.example", 0, 0).await;
    let metrics = Metrics::of(&lab);
    assert!(metrics.routes().len() <= 7, "{:?}", metrics.routes());
    assert_count(metrics.sum(REQUESTS, &[("route", "last.example")]), 1.0);
}

#[tokio::test]
async fn what_is_open_is_shown_while_it_is() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    assert_count(Metrics::of(&lab).sum(CONNECTIONS, &[]), 0.0);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = lab.client().await;
        client.send(get("app.example", "/")).await;
        clients.push((client, upstream.request().await.0));
    }
    let mut upgraded = lab.client().await;
    upgraded.send(lab::upgrade("app.example", "echo/1")).await;
    let (mut tunnel, _) = upstream.request().await;
    tunnel.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n").await;
    upgraded.answer().await;
    lab.active("app.example", 3, 1).await;
    let metrics = Metrics::of(&lab);
    assert_count(metrics.sum(CONNECTIONS, &[]), 4.0);
    assert_count(metrics.sum(IN_FLIGHT, &[("route", "app.example")]), 3.0);
    assert_count(metrics.sum(UPGRADES, &[("route", "app.example")]), 1.0);
    drop((clients, upgraded, tunnel));
    lab.active("app.example", 0, 0).await;
    lab::eventually("the connections to be gone", || {
        let metrics = Metrics::of(&lab);
        let left = metrics.sum(CONNECTIONS, &[]) + metrics.sum(IN_FLIGHT, &[]) + metrics.sum(UPGRADES, &[]);
        if left < 0.5 { Ok(()) } else { Err(format!("{left}")) }
    })
    .await;
}

/// What goes through a route is known exactly, however it ends.
#[tokio::test]
async fn activity_goes_back_to_zero_whatever_happens() {
    // Slow: twenty ways to end are gone through, one after the other.
    let lab = lab::start().await;
    assert_eq!(lab.proxy.activity(&lab::host("app.example")), None);
    let upstream = lab.scripted("app.example").await;
    let fresh = lab.proxy.activity(&lab::host("app.example")).unwrap();
    assert_eq!((fresh.in_flight, fresh.upgrades, fresh.requests, fresh.last_active), (0, 0, 0, None));
    let mut count = 0;
    // Who ends it, when, and how.
    for stage in ["asked", "half-asked", "head", "body", "upgraded"] {
        for by_client in [true, false] {
            for abort in [true, false] {
                let mut client = lab.client().await;
                count += 1;
                let request = match stage {
                    "half-asked" => "POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 5\r\n\r\nhe".to_owned(),
                    "upgraded" => lab::upgrade("app.example", "echo/1"),
                    _ => get("app.example", "/"),
                };
                client.send(request).await;
                let mut connection = upstream.accept().await;
                connection.head(lab::wire::Kind::Request).await;
                match stage {
                    "head" => connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").await,
                    "body" => {
                        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
                    }
                    "upgraded" => {
                        connection
                            .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n")
                            .await;
                    }
                    _ => {}
                }
                if ["head", "body", "upgraded"].contains(&stage) {
                    client.answer_head().await;
                }
                let expected = if stage == "upgraded" { (0, 1) } else { (1, 0) };
                lab.active("app.example", expected.0, expected.1).await;
                let (first, mut second) = if by_client { (client, connection) } else { (connection, client) };
                if abort {
                    first.abort();
                } else {
                    drop(first);
                }
                // A client that only stops sending still waits for what it asked for; the upstream ends that.
                if by_client && !abort && ["asked", "head", "body", "upgraded"].contains(&stage) {
                    drop(second);
                } else if !by_client && stage == "asked" {
                    // Nothing of the answer had come, so the client hears what happened, and may ask again.
                    assert_eq!(second.answer().await.status(), 502);
                    drop(second);
                } else {
                    second.rest().await;
                }
                lab.active("app.example", 0, 0).await;
                let activity = lab.proxy.activity(&lab::host("app.example")).unwrap();
                assert_eq!(activity.requests, count, "{stage} {by_client} {abort}");
            }
        }
    }
    lab.assert_alive().await;
}

/// When a route was last used can be told, so that idleness can.
#[tokio::test]
async fn the_last_use_of_a_route_is_known() {
    let lab = lab::start().await;
    let _server = lab.serving("app.example").await;
    let _other = lab.serving("other.example").await;
    let activity = |name: &str| lab.proxy.activity(&lab::host(name)).unwrap();
    let before = std::time::SystemTime::now() - std::time::Duration::from_secs(1);
    lab.ask(get("app.example", "/")).await;
    let first = activity("app.example").last_active.unwrap();
    assert!(first >= before && first <= std::time::SystemTime::now() + std::time::Duration::from_secs(1));
    assert_eq!(activity("other.example").last_active, None);
    lab.ask(post("app.example", "/", "x")).await;
    let second = activity("app.example");
    assert!(second.last_active.unwrap() >= first);
    assert_eq!(second.requests, 2);
    // Setting the route again keeps what is known of it; one that was removed begins anew.
    let again = lab.serving("app.example").await;
    assert_eq!(activity("app.example").requests, 2);
    drop(again);
    lab.remove("app.example").await;
    assert_eq!(lab.proxy.activity(&lab::host("app.example")), None);
}

#[tokio::test]
async fn each_request_is_in_the_access_log() {
    let lab = lab::start().await;
    let _server = lab.serving("logged.example").await;
    lab.ask(get("logged.example", "/a/page?secret=word")).await;
    let line = lab::eventually("a line", || {
        log::lines_with(&["logged.example", "/a/page"]).pop().ok_or_else(|| "none".to_owned())
    })
    .await;
    for word in ["GET", "200", "127.0.0.1"] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
    // What is sent in a query may be a password.
    assert!(!line.contains("word"), "{line}");
    // What was sent makes no lines of its own, nor does it colour them.
    lab.ask(b"GET /\xe9\x9b31m HTTP/1.1\r\nHost: logged.example\r\nUser-Agent: x\r\n\r\n").await;
    assert!(
        log::lines_with(&["logged.example"]).iter().all(|line| !line.contains('\u{9b}') && !line.contains('\u{1b}'))
    );
}

/// Also what the proxy answers by itself, and what nobody waited for.
#[tokio::test]
async fn what_no_upstream_answers_is_in_the_access_log_too() {
    let lab = lab::start().await;
    assert_eq!(lab.ask(get("nowhere.example", "/lost")).await.status(), 404);
    assert_eq!(lab.ask("BAD LINE\r\n\r\n").await.status(), 400);
    let upstream = lab.scripted("left.example").await;
    let mut client = lab.client().await;
    client.send(get("left.example", "/left")).await;
    let (_connection, _) = upstream.request().await;
    client.abort();
    for words in [["nowhere.example", "/lost", "404"], ["-", "-", "400"], ["left.example", "/left", "499"]] {
        lab::eventually("a line", || log::lines_with(&words).pop().ok_or_else(|| format!("none with {words:?}"))).await;
    }
}

#[tokio::test]
async fn without_an_access_log_there_are_no_lines() {
    let lab = lab::start_with(|config| config.access_log = false).await;
    let _server = lab.serving("quiet.example").await;
    lab.ask(get("quiet.example", "/a/page")).await;
    lab.every_chance().await;
    assert_eq!(log::lines_with(&["quiet.example", "/a/page"]), [""; 0]);
}
