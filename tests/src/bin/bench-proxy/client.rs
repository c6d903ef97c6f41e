//! A client that does no more than it must, so that what it talks to is what is measured.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that carries one request after another.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer that has come to its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(8192) })
    }

    /// Sends a request, and returns its answer, whose length must be told.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "closed before the answer was complete");
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Response::new(&mut fields);
            let httparse::Status::Complete(length) = head.parse(&self.buffer)? else { continue };
            let status = head.code.context("an answer without a status")?;
            let body = match content_length(head.headers) {
                Some(body) => body,
                None if status == 204 => 0,
                None => bail!("an answer of unknown length, with status {status}"),
            };
            while self.buffer.len() < length + body {
                ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "closed within the body");
            }
            return Ok(Answer { status, body: self.buffer[length..].to_vec() });
        }
    }
}

/// Returns what a head says of the length of what follows.
pub(crate) fn content_length(fields: &[httparse::Header<'_>]) -> Option<usize> {
    let field = fields.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"))?;
    std::str::from_utf8(field.value).ok()?.parse().ok()
}

/// Returns a request for a host.
pub(crate) fn get(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// How long answers took that were asked for at a fixed rate.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    /// Returns the time within which this part of the answers had come.
    pub(crate) fn quantile(&mut self, part: f64) -> Duration {
        self.0.sort();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index"
        )]
        let index = ((self.0.len() as f64 * part) as usize).min(self.0.len().saturating_sub(1));
        self.0.get(index).copied().unwrap_or_default()
    }
}

/// Sends requests at a fixed rate, over many connections in turn, and checks that each is answered as `expected`.
pub(crate) async fn at_rate(
    address: SocketAddr,
    host: &str,
    connections: u32,
    rate: u32,
    duration: Duration,
    expected: &[u8],
) -> Result<Latencies> {
    let mut tasks = tokio::task::JoinSet::new();
    let interval = Duration::from_secs(1) * connections / rate;
    let begun = Instant::now() + Duration::from_millis(50);
    for number in 0..connections {
        let (request, expected) = (get(host), expected.to_vec());
        tasks.spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut latencies = Vec::new();
            let mut due = begun + interval * number / connections;
            while due < begun + duration {
                tokio::time::sleep_until(due.into()).await;
                // The timer is coarse, and its delay is not the proxy's; but that an earlier answer took too long is.
                let sent = if Instant::now() > due + interval { due } else { Instant::now() };
                let answer = connection.exchange(&request).await?;
                latencies.push(sent.elapsed());
                ensure!(answer.status == 200 && answer.body == expected, "another answer was expected: {answer:?}");
                due += interval;
            }
            Ok(latencies)
        });
    }
    let mut all = Latencies::default();
    while let Some(latencies) = tasks.join_next().await {
        all.0.extend(latencies??);
    }
    Ok(all)
}
