//! Connections with clients, of whatever kind.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::buffer::Inbox;

/// A connection with a client.
pub(super) trait Client: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Sees to it that closing looks like a failure to the client: to one that reads until the connection ends, what it got
    /// would look whole otherwise.
    fn spoil(&self);
}

impl Client for TcpStream {
    fn spoil(&self) {
        // If it fails, the connection is gone already.
        let _ = self.set_zero_linger();
    }
}

impl Client for TlsStream<TcpStream> {
    fn spoil(&self) {
        self.get_ref().0.spoil();
    }
}

impl Client for DuplexStream {
    fn spoil(&self) {}
}

/// A connection of which something was read already.
#[derive(Debug)]
pub(super) struct Prefixed<S> {
    pub(super) inbox: Inbox,
    pub(super) io: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.inbox.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, room);
        }
        let count = this.inbox.data().len().min(room.remaining());
        room.put_slice(&this.inbox.data()[..count]);
        this.inbox.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
