//! A proxy with clients and upstreams around it, all on loopback.

pub(crate) mod log;
pub(crate) mod memory;
pub(crate) mod peer;
pub(crate) mod refusal;
pub(crate) mod upstream;
pub(crate) mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use ondemand_core::config::ProxyConfig;
use ondemand_core::router::{Proxy, Route, Upstream};
use ondemand_core::{Hostname, Router, Size, Ttl};

pub(crate) use peer::Peer;
pub(crate) use upstream::{Server, reply};
pub(crate) use wire::Message;

/// How long what is expected may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for what is to happen, and fails if it does not.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let seconds = DEADLINE.as_secs();
    let result = tokio::time::timeout(DEADLINE, future).await;
    result.unwrap_or_else(|_| panic!("{what}: it did not happen within {seconds} s"))
}

/// Waits until something holds that tells nobody when it does.
pub(crate) async fn eventually<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) => assert!(tokio::time::Instant::now() < deadline, "{what}: {last}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn host(name: &str) -> Hostname {
    Hostname::new(name).unwrap()
}

pub(crate) fn seconds(seconds: u64) -> Ttl {
    Ttl::new(Duration::from_secs(seconds)).unwrap()
}

/// Returns an address of loopback where nothing listens: its port is taken, by a socket that never will.
pub(crate) fn refusing() -> (SocketAddr, tokio::net::TcpSocket) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap(), socket)
}

/// A request without a body.
pub(crate) fn get(host: &str, target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// A request with a body of known length.
pub(crate) fn post(host: &str, target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A request for a WebSocket, or whatever else.
pub(crate) fn upgrade(host: &str, token: &str) -> String {
    format!(
        "GET /up HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: {token}\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A chunk of a body.
pub(crate) fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) proxy: Proxy,
}

/// Starts a proxy.
pub(crate) async fn start() -> Lab {
    start_with(|_| ()).await
}

/// Starts a proxy that is configured otherwise.
pub(crate) async fn start_with(change: impl FnOnce(&mut ProxyConfig)) -> Lab {
    log::capture();
    let mut config = ProxyConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        workers: Some(2),
        access_log: true,
        max_header_size: Size(16 << 10),
        ..ProxyConfig::default()
    };
    change(&mut config);
    Lab { proxy: within("starting the proxy", Proxy::start(&config)).await.unwrap() }
}

/// Whatever a test is about, the proxy does not panic meanwhile.
impl Drop for Lab {
    fn drop(&mut self) {
        let panics = log::panics();
        assert!(panics.is_empty() || std::thread::panicking(), "{panics:#?}");
    }
}

impl Lab {
    pub(crate) async fn set(&self, route: Route) {
        within("setting a route", self.proxy.set(&route)).await.unwrap();
    }

    /// Makes a name reach addresses.
    pub(crate) async fn route(&self, name: &str, addresses: &[SocketAddr]) {
        self.set(Route::new(host(name), addresses.iter().copied().map(Upstream::from))).await;
    }

    pub(crate) async fn pending(&self, name: &str) {
        self.set(Route::pending(host(name))).await;
    }

    pub(crate) async fn remove(&self, name: &str) {
        within("removing a route", self.proxy.remove(&host(name))).await.unwrap();
    }

    /// Makes a name reach an upstream that answers with the method and target of each request.
    pub(crate) async fn serving(&self, name: &str) -> Server {
        let server = Server::start().await;
        self.route(name, &[server.address]).await;
        server
    }

    /// Makes a name reach an upstream that the test speaks for.
    pub(crate) async fn scripted(&self, name: &str) -> upstream::Upstream {
        let upstream = upstream::Upstream::new().await;
        self.route(name, &[upstream.address]).await;
        upstream
    }

    pub(crate) async fn client(&self) -> Peer {
        Peer::connect(self.proxy.address()).await
    }

    /// Returns a client's connection and the upstream's that have had a request to `app.example` and are kept for the next.
    pub(crate) async fn kept(&self, upstream: &upstream::Upstream) -> (Peer, Peer) {
        let mut client = self.client().await;
        client.send(get("app.example", "/first")).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(reply("200 OK", "first")).await;
        client.answer().await;
        (client, connection)
    }

    /// Sends bytes over a connection of their own, and reads one answer.
    pub(crate) async fn ask(&self, bytes: impl AsRef<[u8]>) -> Message {
        let mut client = self.client().await;
        client.send(bytes).await;
        client.answer().await
    }

    /// Gives the proxy every chance to do what it should not: many requests go through each of its threads and back.
    pub(crate) async fn every_chance(&self) {
        let server = self.serving("chance.example").await;
        for _ in 0..8 {
            let mut client = self.client().await;
            for _ in 0..8 {
                client.send(get("chance.example", "/")).await;
                assert_eq!(client.answer().await.status(), 200);
            }
        }
        self.remove("chance.example").await;
        server.stop().await;
    }

    /// Shows that the proxy is alive and well.
    pub(crate) async fn assert_alive(&self) {
        self.every_chance().await;
    }

    pub(crate) fn in_flight(&self, name: &str) -> u64 {
        self.proxy.activity(&host(name)).unwrap_or_default().in_flight
    }

    pub(crate) fn upgrades(&self, name: &str) -> u64 {
        self.proxy.activity(&host(name)).unwrap_or_default().upgrades
    }

    /// Waits until this much goes through a route.
    pub(crate) async fn active(&self, name: &str, in_flight: u64, upgrades: u64) {
        let expected = (in_flight, upgrades);
        eventually("what goes through a route", || {
            let now = (self.in_flight(name), self.upgrades(name));
            if now == expected { Ok(()) } else { Err(format!("{now:?}, not {expected:?}")) }
        })
        .await;
    }
}
