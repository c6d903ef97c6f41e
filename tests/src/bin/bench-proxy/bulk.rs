//! Large bodies: how fast they pass, and that the proxy keeps no more of them than it must.
//!
//! Both ends are threads that read and write large buffers, so that they take as little of the machine as they can.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ondemand_tests::Home;
use ondemand_tests::report::{Limit, Report, median};

use crate::client::content_length;
use crate::peers::{BULK, Peer, Upstreams};
use crate::small::Extent;

/// How long a body is.
pub(crate) const LENGTH: usize = 1 << 30;
const BUFFER: usize = 256 << 10;

/// Starts the upstream: a `GET` is answered with [`LENGTH`] bytes, a `POST` with the number of bytes that came. It ends with this process.
pub(crate) fn upstream() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A client that goes away is no news to an upstream; what was lost, the other end reports.
            std::thread::spawn(move || serve(stream));
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        let (is_get, head, length) = loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut fields);
            if let httparse::Status::Complete(head) = request.parse(&buffer[..filled])? {
                break (request.method == Some("GET"), head, content_length(request.headers).unwrap_or(0));
            }
            let read = stream.read(&mut buffer[filled..])?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
        };
        if is_get {
            filled = 0;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n")?;
            send(&mut stream, &buffer)?;
        } else {
            let mut got = filled - head;
            filled = 0;
            while got < length {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    read => got += read,
                }
            }
            let body = got.to_string();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        }
    }
}

fn send(stream: &mut TcpStream, buffer: &[u8]) -> std::io::Result<()> {
    let mut left = LENGTH;
    while left > 0 {
        left -= stream.write(&buffer[..left.min(BUFFER)])?;
    }
    Ok(())
}

/// Reads the head of an answer of status 200, and returns its length and what came with it of the body.
fn head(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(usize, Vec<u8>)> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        ensure!(read > 0, "closed before an answer");
        filled += read;
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut fields);
        if let httparse::Status::Complete(head) = answer.parse(&buffer[..filled])? {
            ensure!(answer.code == Some(200), "status {:?}", answer.code);
            let length = content_length(answer.headers).context("an answer of unknown length")?;
            return Ok((length, buffer[head..filled].to_vec()));
        }
    }
}

/// Which way a body goes.
#[derive(Debug, Clone, Copy)]
enum Way {
    Up,
    Down,
}

/// Sends one body through a proxy. Returns how long that took.
fn transfer(address: SocketAddr, way: Way, path: &str) -> Result<Duration> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut buffer = vec![0; BUFFER];
    let begun = Instant::now();
    match way {
        Way::Up => {
            write!(stream, "POST {path} HTTP/1.1\r\nHost: {BULK}\r\nContent-Length: {LENGTH}\r\n\r\n")?;
            send(&mut stream, &buffer)?;
            let (length, mut body) = head(&mut stream, &mut buffer)?;
            while body.len() < length {
                let read = stream.read(&mut buffer)?;
                ensure!(read > 0, "closed within the answer");
                body.extend_from_slice(&buffer[..read]);
            }
            ensure!(body == LENGTH.to_string().as_bytes(), "of {LENGTH} bytes {} came", String::from_utf8_lossy(&body));
        }
        Way::Down => {
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {BULK}\r\n\r\n")?;
            let (length, body) = head(&mut stream, &mut buffer)?;
            ensure!(length == LENGTH, "a body of {length} bytes");
            let mut got = body.len();
            while got < length {
                let read = stream.read(&mut buffer)?;
                ensure!(read > 0, "closed after {got} bytes");
                got += read;
            }
        }
    }
    Ok(begun.elapsed())
}

/// What the transfers through one proxy took.
#[derive(Debug, Default)]
struct Transfers {
    gigabytes_per_second: Vec<f64>,
    processor_seconds: Vec<f64>,
    /// By how much its memory grew.
    growth: u64,
}

impl Transfers {
    fn once(&mut self, kept: bool, peer: &Peer, way: Way, path: &str) -> Result<()> {
        peer.process.forget_peak()?;
        let (resident, before) = (peer.process.resident()?, peer.process.processor_time()?);
        let took = transfer(peer.address, way, path).context(peer.name)?;
        let processor_time = peer.process.processor_time()?.since(&before);
        #[expect(clippy::cast_precision_loss, reason = "a power of two")]
        let gigabytes = LENGTH as f64 / 1e9;
        if kept {
            self.gigabytes_per_second.push(gigabytes / took.as_secs_f64());
            self.processor_seconds.push(processor_time.as_secs_f64() / gigabytes);
            self.growth = self.growth.max(peer.process.peak()?.saturating_sub(resident));
        }
        Ok(())
    }
}

/// Measures uploads and downloads.
pub(crate) async fn bodies(home: &Home, upstreams: &Upstreams, extent: Extent, report: &mut Report) -> Result<()> {
    let (ours, nginx) = (Peer::ours(home, upstreams, 1).await?, Peer::nginx(home, upstreams).await?);
    for (way, name) in [(Way::Up, "upload"), (Way::Down, "download")] {
        let candidates = [(&ours, "/"), (&nginx, "/"), (&nginx, "/large-buffers/")];
        let mut all = [(); 3].map(|()| Transfers::default());
        for round in 0..=extent.rounds {
            for ((peer, path), transfers) in candidates.iter().zip(&mut all) {
                tokio::task::block_in_place(|| transfers.once(round > 0, peer, way, path))?;
            }
        }
        let [ours, others @ ..] = &all;
        for (other, other_name) in others.iter().zip(["nginx's", "nginx's with buffers of 64 kB"]) {
            let rates = [ours, other].map(|all| median(&all.gigabytes_per_second));
            let figures = rates.map(|rate| format!("{rate:.2} GB/s"));
            let what = format!("{name} of 1 GiB / {other_name}");
            report.quotient(&what, [&figures[0], &figures[1]], rates[0] / rates[1], Limit::AtLeast(1.0));
            let times = [ours, other].map(|all| median(&all.processor_seconds));
            let figures = times.map(|time| format!("{:.0} ms", time * 1000.0));
            report.quotient("  CPU a GB", [&figures[0], &figures[1]], times[0] / times[1], Limit::None);
        }
        #[expect(clippy::cast_precision_loss, reason = "it is shown with one decimal")]
        report.figure("  by how much memory grew", ours.growth as f64 / 1e6, "MB", Limit::AtMost(2.0));
    }
    Ok(())
}
