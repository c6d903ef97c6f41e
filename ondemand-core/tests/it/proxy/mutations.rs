//! Requests with random damage: whatever of them reaches an upstream is a request that nobody can misunderstand.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::lab::{self, Lab, Server, wire};

const VALID: [&str; 8] = [
    "GET / HTTP/1.1\r\nHost: app.example\r\nAccept: */*\r\n\r\n",
    "POST /a?b=c HTTP/1.1\r\nHost: app.example\r\nContent-Length: 11\r\nContent-Type: text/plain\r\n\r\nhello world",
    "POST /c HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n",
    "GET http://app.example:80/abs HTTP/1.1\r\nHost: other.example\r\nConnection: X-Hop, TE\r\nX-Hop: 1\r\nTE: trailers\r\n\r\n",
    "PUT /e HTTP/1.1\r\nhost:app.example\r\nExpect: 100-continue\r\ncontent-length:3\r\n\r\nabc",
    "GET /u HTTP/1.1\r\nHost: app.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "HEAD /h HTTP/1.0\r\nHost: app.example\r\nConnection: keep-alive\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: app.example\r\nX-Forwarded-For: 1.2.3.4\r\nVia: 1.1 other\r\n\r\n",
];

/// What parsers have been fooled by.
const MORSELS: [&str; 40] = [
    "\r",
    "\n",
    "\r\n",
    "\r\n\r\n",
    "\n\n",
    "\0",
    " ",
    "\t",
    "\u{b}",
    "\u{c}",
    ":",
    ",",
    ";",
    "=",
    "\"",
    "0",
    "5",
    "-1",
    "+1",
    "0x",
    "ffffffffffffffff",
    "chunked",
    "identity",
    "Content-Length: 0\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding:\u{b}chunked\r\n",
    " Content-Length: 3\r\n",
    "Host: other.example\r\n",
    "Connection: close\r\n",
    "Connection: Content-Length, Host\r\n",
    "Upgrade: h2c\r\n",
    "0\r\n\r\n",
    "1\r\nZ\r\n",
    "GET /in HTTP/1.1\r\nHost: app.example\r\n\r\n",
    "HTTP/1.1",
    "HTTP/1.0",
    "\u{e9}",
    "\u{ff}",
];

#[derive(Debug, Clone)]
enum Damage {
    Insert(prop::sample::Index, &'static str),
    Replace(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Cut(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        6 => (at(), prop::sample::select(&MORSELS[..])).prop_map(|(at, morsel)| Damage::Insert(at, morsel)),
        3 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        3 => (at(), 1..12_usize).prop_map(|(at, length)| Damage::Remove(at, length)),
        2 => (at(), 1..60_usize).prop_map(|(at, length)| Damage::Repeat(at, length)),
        1 => at().prop_map(Damage::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    let (Damage::Insert(at, _)
    | Damage::Replace(at, _)
    | Damage::Remove(at, _)
    | Damage::Repeat(at, _)
    | Damage::Cut(at)) = damage;
    if bytes.is_empty() {
        return;
    }
    let at = at.index(bytes.len());
    match *damage {
        Damage::Insert(_, morsel) => drop(bytes.splice(at..at, morsel.bytes())),
        Damage::Replace(_, byte) => bytes[at] = byte,
        Damage::Remove(_, length) => drop(bytes.drain(at..(at + length).min(bytes.len()))),
        Damage::Repeat(_, length) => {
            let part = bytes[at..(at + length).min(bytes.len())].to_vec();
            drop(bytes.splice(at..at, part));
        }
        Damage::Cut(_) => bytes.truncate(at),
    }
}

/// Returns how many requests the most generous of parsers could see in these bytes: each has a line that ends with a version.
fn most(bytes: &[u8]) -> usize {
    bytes.windows(5).filter(|window| window.eq_ignore_ascii_case(b"HTTP/")).count()
}

/// Sends the bytes over one connection, and checks what came out on either side.
async fn check(lab: &Lab, server: &Server, bytes: &[u8]) -> Result<(), String> {
    let before: Vec<usize> = server.bytes().iter().map(Vec::len).collect();
    let mut client = lab.client().await;
    client.try_send(bytes).await;
    client.shut_down_writing().await;
    // Every client hears the end, whatever it sent.
    let answers = client.rest().await;
    server.settled().await;
    let mut forwarded = 0;
    for (i, all) in server.bytes().iter().enumerate() {
        let new = &all[before.get(i).copied().unwrap_or(0)..];
        let (requests, _) = wire::requests(new).map_err(|why| format!("forwarded: {why}: {}", new.escape_ascii()))?;
        for request in &requests {
            if !request.one("host").to_ascii_lowercase().starts_with("app.example") {
                return Err(format!("forwarded to another host's upstream: {request:?}"));
            }
            if request.one("x-forwarded-for") != "127.0.0.1" {
                return Err(format!("who asked is wrong: {request:?}"));
            }
        }
        forwarded += requests.len();
    }
    if forwarded > most(bytes) {
        return Err(format!("{forwarded} requests were forwarded"));
    }
    // What the client hears is HTTP as well. An answer to HEAD has no body, and which one that is cannot be told here; so only the first.
    if !answers.is_empty() {
        let to_head = bytes.trim_ascii_start().starts_with(b"HEAD");
        let kind = wire::Kind::Answer { to_head };
        wire::message(&answers, kind).map_err(|why| format!("answered: {why}: {}", answers.escape_ascii()))?;
    }
    Ok(())
}

fn run(cases: u32, strategy: impl Strategy<Value = Vec<u8>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (lab, server) = runtime.block_on(async {
        let lab = lab::start_with(|config| config.access_log = false).await;
        // Answers nothing that could be taken for an upgrade, and closes now and then.
        let server = lab::upstream::Upstream::new()
            .await
            .serve(|request| lab::reply("200 OK", format!("{} {}", request.method(), request.target())));
        lab.route("app.example", &[server.address]).await;
        (lab, server)
    });
    let config = Config { cases, failure_persistence: None, max_shrink_time: 20_000, ..Config::default() };
    let result = TestRunner::new(config).run(&strategy, |bytes| {
        runtime
            .block_on(check(&lab, &server, &bytes))
            .map_err(|why| TestCaseError::fail(format!("{why}\nsent: {}", bytes.escape_ascii())))
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    runtime.block_on(async {
        lab.active("app.example", 0, 0).await;
        lab.assert_alive().await;
    });
}

#[test]
fn what_is_left_of_a_damaged_request_is_well_formed() {
    let one = (prop::sample::select(&VALID[..]), prop::collection::vec(damage(), 1..4));
    run(
        1500,
        one.prop_map(|(valid, damages)| {
            let mut bytes = valid.as_bytes().to_vec();
            for damage in &damages {
                apply(&mut bytes, damage);
            }
            bytes
        }),
    );
}

#[test]
fn what_is_left_of_damaged_pipelines_is_well_formed() {
    let several =
        (prop::collection::vec(prop::sample::select(&VALID[..]), 2..5), prop::collection::vec(damage(), 1..6));
    run(
        500,
        several.prop_map(|(valid, damages)| {
            let mut bytes = valid.concat().into_bytes();
            for damage in &damages {
                apply(&mut bytes, damage);
            }
            bytes
        }),
    );
}
