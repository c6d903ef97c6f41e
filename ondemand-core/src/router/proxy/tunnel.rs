//! Connections that went on with something other than HTTP, such as WebSockets.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::buffer::Inbox;
use super::http2::Transport;
use super::stats::InFlight;
use super::timer::Timer;

/// How long a client may be silent to whom the upstream has nothing more to say. Clients close their side then; one that does not would
/// hold the connection for nothing.
const FAREWELL: Duration = Duration::from_secs(5);

/// Two connections whose bytes go to each other. While nothing goes through, it holds no memory for it.
#[derive(Debug)]
pub(super) struct Tunnel<S> {
    pub(super) client: S,
    pub(super) upstream: Transport,
    pub(super) up: Direction,
    pub(super) down: Direction,
    /// How long it may be silent.
    pub(super) idle_timeout: Option<Duration>,
    /// How long it may be silent once the client has nothing more to say.
    pub(super) half_closed_timeout: Duration,
    pub(super) in_flight: InFlight,
}

/// What goes one way.
#[derive(Debug, Default)]
pub(super) struct Direction {
    inbox: Inbox,
    moved: u64,
    ended: bool,
    done: bool,
}

impl Direction {
    /// Begins with what was read already.
    pub(super) fn beginning_with(inbox: Inbox) -> Self {
        Self { inbox, ..Self::default() }
    }

    /// Moves what can be moved. Ready once the source has ended and the sink was told.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while !self.done {
            if !self.inbox.is_empty() {
                match ready!(Pin::new(&mut *sink).poll_write(cx, self.inbox.data()))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => {
                        self.inbox.consume(count);
                        self.moved += count as u64;
                    }
                }
            } else if self.ended {
                ready!(Pin::new(&mut *sink).poll_shutdown(cx))?;
                self.done = true;
            } else {
                match self.inbox.poll_fill(cx, source)? {
                    Poll::Ready(0) => self.ended = true,
                    Poll::Ready(_) => (),
                    Poll::Pending => {
                        ready!(Pin::new(&mut *sink).poll_flush(cx))?;
                        return Poll::Pending;
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tunnel<S> {
    /// Moves bytes until both sides have ended, one fails, or both have been silent for too long.
    pub(super) async fn run(mut self) {
        let (mut timer, mut moved, mut since) = (Timer::default(), 0, Instant::now());
        poll_fn(|cx| {
            let up = self.up.poll(cx, &mut self.client, &mut self.upstream);
            let down = self.down.poll(cx, &mut self.upstream, &mut self.client);
            match (up, down) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) | (Poll::Ready(_), Poll::Ready(_)) => {
                    return Poll::Ready(());
                }
                _ => (),
            }
            let patience = match (self.up.done, self.down.done) {
                (_, true) => Some(FAREWELL),
                (true, false) => Some(self.half_closed_timeout),
                (false, false) => self.idle_timeout,
            };
            let Some(patience) = patience else { return Poll::Pending };
            if moved != self.up.moved + self.down.moved {
                moved = self.up.moved + self.down.moved;
                since = Instant::now();
            }
            timer.poll(cx, since + patience)
        })
        .await;
        drop(self.in_flight);
    }
}
