//! One end of a connection, that writes exact bytes and reads exact ones.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wire::{self, Framing, Kind, Message};
use super::within;

/// A connection, and what came over it but was not asked for yet.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// All that ever came, where somebody wants to know.
    seen: Option<Arc<Mutex<Vec<u8>>>>,
    /// How it ended: none if it has not, `true` for an orderly end.
    end: Option<bool>,
    /// Whether it waits for as long as it takes.
    patient: bool,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), seen: None, end: None, patient: false }
    }

    /// Waits for bytes without a deadline: for servers, whose connections may be idle.
    pub(crate) fn patient(mut self) -> Self {
        self.patient = true;
        self
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::new(within("connecting", TcpStream::connect(address)).await.unwrap())
    }

    /// Writes, and fails if the other end has closed.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("sending", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Writes what the other end may not want to hear: it may have answered and closed already.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within("sending", self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Says that nothing more is sent; the other direction stays open.
    pub(crate) async fn shut_down_writing(&mut self) {
        // Where the other end has reset the connection, it is shut down anyway.
        let _ = self.stream.shutdown().await;
    }

    /// Resets the connection, as a program does that crashes with unread bytes.
    pub(crate) fn abort(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Has everything written down that comes from now on.
    pub(crate) fn write_down(&mut self) -> Arc<Mutex<Vec<u8>>> {
        Arc::clone(self.seen.get_or_insert_default())
    }

    /// Gives the bare connection up; nothing may have been left unread.
    pub(crate) fn into_stream(self) -> TcpStream {
        assert!(self.buffer.is_empty(), "{:?}", String::from_utf8_lossy(&self.buffer));
        self.stream
    }

    /// Waits for more bytes. Returns whether some came.
    async fn fill(&mut self, what: &str) -> bool {
        if self.end.is_some() {
            return false;
        }
        let mut bytes = vec![0; 64 << 10];
        let read = self.stream.read(&mut bytes);
        let read = if self.patient { read.await } else { within(what, read).await };
        match read {
            Ok(0) => self.end = Some(true),
            Ok(length) => {
                self.keep(&bytes[..length]);
                return true;
            }
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => self.end = Some(false),
            Err(e) => panic!("{what}: {e}"),
        }
        false
    }

    /// Reads what has come already, without waiting.
    pub(crate) fn so_far(&mut self) -> &[u8] {
        let mut bytes = [0; 16 << 10];
        while let Ok(length) = self.stream.try_read(&mut bytes) {
            if length == 0 {
                break;
            }
            self.keep(&bytes[..length]);
        }
        &self.buffer
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if let Some(seen) = &self.seen {
            seen.lock().unwrap().extend_from_slice(bytes);
        }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(2000)]).into_owned()
    }

    /// Reads the head of a message, and nothing of its body.
    pub(crate) async fn head(&mut self, kind: Kind) -> Message {
        self.try_head(kind).await.unwrap()
    }

    /// As [`Self::head`], with why there is none.
    pub(crate) async fn try_head(&mut self, kind: Kind) -> Result<Message, String> {
        loop {
            match wire::head(&self.buffer, kind) {
                Ok(Some((head, length))) => {
                    self.buffer.drain(..length);
                    return Ok(head);
                }
                Ok(None) if self.fill("the head of a message").await => {}
                Ok(None) => return Err(format!("closed instead of a head: {:?}", self.shown())),
                Err(why) => return Err(format!("{why}: {:?}", self.shown())),
            }
        }
    }

    /// Reads a whole message. One that is cut off fails, and one that ends with the connection must end orderly.
    async fn message(&mut self, kind: Kind) -> Result<Message, String> {
        let mut message = self.try_head(kind).await?;
        match message.framing(kind)? {
            Framing::Length(length) => {
                while self.buffer.len() < length {
                    if !self.fill("a body").await {
                        return Err(format!("cut off after {} of {length} bytes", self.buffer.len()));
                    }
                }
                message.body = self.buffer.drain(..length).collect();
            }
            Framing::Chunked => loop {
                if let Some((body, trailers, length)) = wire::chunked(&self.buffer)? {
                    self.buffer.drain(..length);
                    (message.body, message.trailers) = (body, trailers);
                    break;
                }
                if !self.fill("a chunk").await {
                    return Err(format!("cut off within a chunked body: {:?}", self.shown()));
                }
            },
            Framing::UntilClose => {
                while self.fill("a body that ends with the connection").await {}
                message.body = std::mem::take(&mut self.buffer);
                if self.end != Some(true) {
                    return Err("reset within a body that ends with the connection".into());
                }
            }
        }
        Ok(message)
    }

    /// Reads a whole request.
    pub(crate) async fn request(&mut self) -> Message {
        self.message(Kind::Request).await.unwrap()
    }

    /// Reads the next request, with what is wrong with it; none if the connection ends instead.
    pub(crate) async fn try_next_request(&mut self) -> Result<Option<Message>, String> {
        if self.buffer.is_empty() && !self.fill("another request").await {
            return Ok(None);
        }
        self.message(Kind::Request).await.map(Some)
    }

    /// Reads a whole answer to a request that was not HEAD.
    pub(crate) async fn answer(&mut self) -> Message {
        self.try_answer().await.unwrap()
    }

    /// As [`Self::answer`], with why there is none.
    pub(crate) async fn try_answer(&mut self) -> Result<Message, String> {
        self.message(Kind::Answer { to_head: false }).await
    }

    /// Reads a whole answer; none if the connection ends instead.
    pub(crate) async fn rest_or_answer(&mut self) -> Option<Message> {
        if self.buffer.is_empty() && !self.fill("an answer or the end").await {
            return None;
        }
        Some(self.answer().await)
    }

    /// Reads an answer to HEAD.
    pub(crate) async fn answer_to_head(&mut self) -> Message {
        self.message(Kind::Answer { to_head: true }).await.unwrap()
    }

    /// Reads the head of an answer.
    pub(crate) async fn answer_head(&mut self) -> Message {
        self.head(Kind::Answer { to_head: false }).await
    }

    /// Reads this many bytes.
    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.fill("some bytes").await, "closed after {:?}", self.shown());
        }
        self.buffer.drain(..length).collect()
    }

    /// Reads up to and including these bytes.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            let found = self.buffer.windows(end.len()).position(|window| window == end.as_bytes());
            if let Some(at) = found {
                return String::from_utf8(self.buffer.drain(..at + end.len()).collect()).unwrap();
            }
            assert!(self.fill(end).await, "closed before {end:?}, after {:?}", self.shown());
        }
    }

    /// Reads until these are the last bytes that came, keeps none of them, and returns how many there were.
    pub(crate) async fn count_to(&mut self, end: &str) -> usize {
        let mut count = 0;
        loop {
            if self.buffer.ends_with(end.as_bytes()) {
                return count + std::mem::take(&mut self.buffer).len();
            }
            // What may be the beginning of the end is kept.
            let done = self.buffer.len().saturating_sub(end.len());
            self.buffer.drain(..done);
            count += done;
            assert!(self.fill("a long body").await, "closed after {count} bytes");
        }
    }

    /// Reads to the end of the connection, however it ends.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill("the end of the connection").await {}
        std::mem::take(&mut self.buffer)
    }

    /// Waits for the end of the connection, with nothing more before it.
    pub(crate) async fn closed(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }

    /// Waits for the other end to say, in an orderly way, that it sends nothing more; with nothing more before it.
    pub(crate) async fn closed_orderly(&mut self) {
        self.closed().await;
        assert_eq!(self.end, Some(true), "the connection was reset");
    }

    /// Waits for the connection to be reset, with nothing more before that.
    pub(crate) async fn closed_by_reset(&mut self) {
        self.closed().await;
        assert_eq!(self.end, Some(false), "the connection ended in an orderly way");
    }
}
