//! Upstreams: one that a test speaks for, word by word, and one that serves and writes down what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::peer::Peer;
use super::wire::{self, Message};
use super::within;

/// An upstream whose connections the test takes one by one.
#[derive(Debug)]
pub(crate) struct Upstream {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Upstream {
    pub(crate) async fn new() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// Waits for a connection.
    pub(crate) async fn accept(&self) -> Peer {
        Peer::new(within("a connection to the upstream", self.listener.accept()).await.unwrap().0)
    }

    /// Waits for a connection and a request on it. A proxy may open connections ahead.
    pub(crate) async fn request(&self) -> (Peer, Message) {
        let mut connection = self.accept().await;
        let request = connection.request().await;
        (connection, request)
    }

    /// Answers every request from now on.
    pub(crate) fn serve(self, answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Server {
        Server::new(self, Arc::new(answer))
    }
}

/// An answer with a length.
pub(crate) fn reply(status: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// What one connection of a [`Server`] saw.
#[derive(Debug, Clone, Default)]
struct Seen {
    bytes: Arc<Mutex<Vec<u8>>>,
    closed: bool,
}

/// What all connections of a [`Server`] saw.
#[derive(Debug, Default)]
struct All {
    connections: Vec<Seen>,
    /// Those that were whole, in the order in which they came.
    requests: Vec<Message>,
}

/// An upstream that serves by itself. It stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: watch::Sender<All>,
    task: JoinHandle<()>,
}

type Answering = Arc<dyn Fn(&Message) -> Vec<u8> + Send + Sync>;

impl Server {
    fn new(upstream: Upstream, answer: Answering) -> Self {
        let (address, seen) = (upstream.address, watch::Sender::new(All::default()));
        let task = tokio::spawn(accept(upstream, answer, seen.clone()));
        Self { address, seen, task }
    }

    /// Starts one that answers each request with its method and target.
    pub(crate) async fn start() -> Self {
        Upstream::new().await.serve(|request| reply("200 OK", format!("{} {}", request.method(), request.target())))
    }

    /// Starts one that answers each request with these words.
    pub(crate) async fn saying(words: &'static str) -> Self {
        Upstream::new().await.serve(move |_| reply("200 OK", words))
    }

    /// Returns how many connections it was opened.
    pub(crate) fn connections(&self) -> usize {
        self.seen.borrow().connections.len()
    }

    /// Returns all bytes that came, by connection.
    pub(crate) fn bytes(&self) -> Vec<Vec<u8>> {
        self.seen.borrow().connections.iter().map(|seen| seen.bytes.lock().unwrap().clone()).collect()
    }

    /// Returns all requests that came whole, in their order. Fails if anything else came but a last one that was cut off.
    pub(crate) fn requests(&self) -> Vec<Message> {
        for bytes in self.bytes() {
            wire::requests(&bytes).unwrap_or_else(|why| panic!("{why}: {}", shown(&bytes)));
        }
        self.seen.borrow().requests.clone()
    }

    /// Returns the only request that came.
    pub(crate) fn request(&self) -> Message {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// Waits until every connection whose last request is incomplete has been closed.
    pub(crate) async fn settled(&self) {
        let mut seen = self.seen.subscribe();
        let whole = |seen: &All| {
            seen.connections
                .iter()
                .all(|seen| seen.closed || wire::requests(&seen.bytes.lock().unwrap()).is_ok_and(|(_, rest)| !rest))
        };
        let closed = within("the end of requests that were cut off", seen.wait_for(whole)).await;
        closed.unwrap();
    }

    /// Waits until this many of its connections are open.
    pub(crate) async fn open(&self, count: usize) {
        let mut seen = self.seen.subscribe();
        let open = |seen: &All| seen.connections.iter().filter(|seen| !seen.closed).count() == count;
        within("the connections of the upstream to be closed", seen.wait_for(open)).await.unwrap();
    }

    /// Stops: its port is closed, and so are its connections.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn shown(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]))
}

async fn accept(upstream: Upstream, answer: Answering, seen: watch::Sender<All>) {
    // Dropped with this task, it takes the connections with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = upstream.listener.accept().await else { return };
        let (mut peer, answer, all) = (Peer::new(stream), Arc::clone(&answer), seen.clone());
        let index = all.borrow().connections.len();
        all.send_modify(|all| all.connections.push(Seen { bytes: peer.write_down(), closed: false }));
        connections.spawn(async move {
            let asked = |request: &Message| all.send_modify(|all| all.requests.push(request.clone()));
            serve(peer.patient(), answer, asked).await;
            all.send_modify(|all| all.connections[index].closed = true);
        });
    }
}

async fn serve(mut peer: Peer, answer: Answering, asked: impl Fn(&Message)) {
    while let Ok(Some(request)) = peer.try_next_request().await {
        // Before it is answered, so that whoever has the answer finds it.
        asked(&request);
        if !peer.try_send(answer(&request)).await {
            return;
        }
    }
    // What is no request is found by whoever looks at the bytes that came: all of them.
    peer.rest().await;
}
