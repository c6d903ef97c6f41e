//! Many WebSockets that are silent: what one costs the proxy in memory.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ondemand_tests::Home;
use ondemand_tests::report::{Limit, Report};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::peers::{Peer, SOCKETS, Upstreams};

/// How many are to be open at once.
const MOST: usize = 10_000;
/// How many files a process has open besides its connections, at most.
const OTHER_FILES: u64 = 300;
/// From how many addresses they come: a proxy may limit what one may open, and one has ports for no more than 28 000.
const CLIENTS: usize = 8;
/// How many are being opened at once.
const AT_ONCE: usize = 64;

const FRAME: &[u8] = b"\x81\x85\x00\x00\x00\x00hello";

/// Lets this process and those that it starts have as many open files as the measurement needs.
pub(crate) fn raise_open_files() -> Result<()> {
    let wanted = 65_536;
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.map_or(wanted, |maximum| maximum.max(wanted));
    if setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: Some(maximum) }).is_err() {
        // Only root may go beyond the maximum.
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(())
}

/// Returns how many can be open at once, where each is two connections to the proxy, and two to the process that has both ends.
fn count() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(OTHER_FILES) / 2).map_or(MOST, |most| most.min(MOST))
}

/// Starts the upstream: it agrees to every upgrade, and returns what it gets.
pub(crate) async fn upstream() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    Ok(address)
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    let rest = until_end_of_head(&mut stream).await?;
    ensure!(rest.is_empty(), "a client that does not wait for its 101");
    stream
        .write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )
        .await?;
    let mut buffer = [0; 64];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}

/// Reads a head, checks that an answer is a 101, and returns what came after it.
async fn until_end_of_head(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        ensure!(stream.read_buf(&mut head).await? > 0, "closed within the head: {}", String::from_utf8_lossy(&head));
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            let is_fine = !head.starts_with(b"HTTP/") || head.starts_with(b"HTTP/1.1 101 ");
            ensure!(is_fine, "no upgrade: {}", String::from_utf8_lossy(&head));
            return Ok(head.split_off(end + 4));
        }
    }
}

/// Opens one through a proxy, and sends a frame there and back.
async fn open(proxy: SocketAddr, number: usize) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    #[expect(clippy::cast_possible_truncation, reason = "it is below the number of clients")]
    let client = (number % CLIENTS) as u8;
    socket.bind((Ipv4Addr::new(127, 0, 1, 1 + client), 0).into())?;
    let mut stream = socket.connect(proxy).await?;
    let request = format!(
        "GET /socket HTTP/1.1\r\nHost: {SOCKETS}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    ensure!(until_end_of_head(&mut stream).await?.is_empty(), "a frame that nobody sent");
    round_trip(&mut stream).await?;
    Ok(stream)
}

async fn round_trip(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(FRAME).await?;
    let mut frame = [0; FRAME.len()];
    tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut frame)).await.context("no answer")??;
    ensure!(frame == *FRAME, "another frame than was sent");
    Ok(())
}

async fn open_all(proxy: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    let mut opening = JoinSet::new();
    for number in 0..count {
        if opening.len() == AT_ONCE
            && let Some(stream) = opening.join_next().await
        {
            streams.push(stream??);
        }
        opening.spawn(open(proxy, number));
    }
    while let Some(stream) = opening.join_next().await {
        streams.push(stream??);
    }
    Ok(streams)
}

/// Measures one proxy: the bytes that each of many silent connections takes.
async fn resident_each(peer: &Peer, count: usize) -> Result<f64> {
    let before = peer.process.resident()?;
    let mut streams = open_all(peer.address, count).await.context(peer.name)?;
    let after = peer.process.resident()?;
    for stream in &mut streams {
        round_trip(stream).await.context(peer.name)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "it is shown with one decimal")]
    Ok(after.saturating_sub(before) as f64 / count as f64)
}

/// Measures this proxy, and others to compare.
pub(crate) async fn memory(home: &Home, upstreams: &Upstreams, others: &[String], report: &mut Report) -> Result<()> {
    let count = count();
    for name in std::iter::once("ondemand").chain(others.iter().map(String::as_str)) {
        // Each meets an upstream of its own, as the ports of the connections before may not be free yet.
        let upstreams = Upstreams { sockets: upstream().await?, ..*upstreams };
        let peer = match name {
            "haproxy" => Peer::haproxy(home, &upstreams).await?,
            "caddy" => Peer::caddy(home, &upstreams).await?,
            "nginx" => Peer::nginx(home, &upstreams).await?,
            _ => Peer::ours(home, &upstreams, 1).await?,
        };
        let limit = if name == "ondemand" { Limit::AtMost(20.0) } else { Limit::None };
        let what = format!("resident memory of one of {count} idle WebSockets, {}", peer.name);
        report.figure(&what, resident_each(&peer, count).await? / 1000.0, "kB", limit);
    }
    Ok(())
}
