//! Moving a message from one connection to another, as fast as the slower of them goes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::body::{Decoder, Malformed, Piece, write_chunk};
use crate::router::proxy::buffer::{Inbox, Outbox, SIZE};

/// How much of a request is kept until it is answered, so that it can be sent again.
const KEPT: usize = 64 << 10;
/// Data of at most this length is copied behind what has to be written anyway, so that one call writes both.
const COPIED: usize = 16 << 10;

/// One direction of an exchange: what is to be written, and the body that follows it.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about what was moved")]
pub(crate) struct Pump {
    /// What is written before anything else: the head, and what was encoded of the body.
    staged: Outbox,
    /// How much of it was written.
    written: usize,
    decoder: Decoder,
    chunked: bool,
    state: State,
    /// Whether something of the body was used up.
    begun: bool,
    /// Whether all that was written is still staged, so that it can be sent once more.
    kept: bool,
    /// What is wrong with the rest, if that is to be said only once all before it was written.
    wrong: Option<Malformed>,
    /// Whether what came before something malformed is written all the same.
    lenient: bool,
    /// How many bytes were read or written so far.
    pub(crate) moved: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is more to come.
    Open,
    /// All that there is was staged.
    Ended,
    /// All was written.
    Done,
}

/// Why a message was not moved to its end.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The source failed, or ended before the message did.
    Source,
    /// The source sent what is no message.
    Malformed(Malformed),
    /// The sink failed.
    Sink,
}

impl Pump {
    /// Makes a pump that writes what `staged` holds, and then the body.
    pub(crate) fn new(staged: Outbox, decoder: Decoder, chunked: bool) -> Self {
        Self {
            staged,
            written: 0,
            decoder,
            chunked,
            state: State::Open,
            begun: false,
            kept: false,
            wrong: None,
            lenient: false,
            moved: 0,
        }
    }

    /// Returns where to write what goes before the body.
    pub(crate) fn staged(&mut self) -> &mut Vec<u8> {
        &mut self.staged
    }

    /// Says what body follows.
    pub(crate) fn begin(&mut self, decoder: Decoder, chunked: bool) {
        self.decoder = decoder;
        self.chunked = chunked;
        self.state = State::Open;
        // The head was not written yet; the client shall see it, and that the body is cut off.
        self.lenient = true;
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Tells whether it waits for the source: all that came is written.
    pub(crate) fn is_drained(&self) -> bool {
        self.written == self.staged.len()
    }

    /// Keeps what is written, as long as it is not much, so that it can be sent once more.
    pub(crate) fn keep(&mut self) {
        self.kept = !self.begun;
    }

    /// Tells whether nothing was written yet.
    pub(crate) fn is_untouched(&self) -> bool {
        self.written == 0 && !self.begun
    }

    /// Begins anew, for another sink. False if that cannot be, because something of the body was used up and not kept.
    pub(crate) fn rewind(&mut self) -> bool {
        self.written = 0;
        if self.state == State::Done {
            self.state = State::Ended;
        }
        !self.begun || self.kept
    }

    /// Returns what was staged and not written.
    pub(crate) fn into_unwritten(mut self) -> Outbox {
        self.staged.drain(..self.written);
        self.staged
    }

    /// Writes what is staged.
    pub(crate) fn poll_staged(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Broken>> {
        while self.written < self.staged.len() {
            let polled = Pin::new(&mut *sink).poll_write(cx, &self.staged[self.written..]);
            let count = ready!(polled).and_then(some).map_err(|_| Broken::Sink)?;
            self.written += count;
            self.moved += count as u64;
        }
        Pin::new(sink).poll_flush(cx).map_err(|_| Broken::Sink)
    }

    /// Moves what can be moved now. Ready once all is written.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Broken>> {
        loop {
            let direct = match self.wrong {
                Some(_) => 0,
                None => match self.stage(inbox) {
                    Ok(direct) => direct,
                    Err(wrong) if self.lenient => {
                        self.wrong = Some(wrong);
                        0
                    }
                    Err(wrong) => return Poll::Ready(Err(Broken::Malformed(wrong))),
                },
            };
            if self.written < self.staged.len() || direct > 0 {
                ready!(self.poll_write(cx, inbox, direct, sink)).map_err(|_| Broken::Sink)?;
                continue;
            }
            if let Some(wrong) = self.wrong {
                return Poll::Ready(Err(Broken::Malformed(wrong)));
            }
            if self.state != State::Open {
                ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(|_| Broken::Sink)?;
                self.state = State::Done;
                return Poll::Ready(Ok(()));
            }
            match inbox.poll_fill(cx, source) {
                Poll::Ready(Ok(0)) if self.decoder.ends_with_connection() => self.end(),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Broken::Source)),
                Poll::Ready(Ok(count)) => self.moved += count as u64,
                Poll::Pending => {
                    // The source may be silent for long; what was written must be on its way by then.
                    let _ = Pin::new(&mut *sink).poll_flush(cx).map_err(|_| Broken::Sink)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Stages what came, and returns how much may be written straight from the inbox after that.
    fn stage(&mut self, inbox: &mut Inbox) -> Result<usize, Malformed> {
        if self.begun && self.is_drained() && !self.kept {
            self.staged.clear();
            self.written = 0;
        }
        while self.state == State::Open && self.staged.len() - self.written < SIZE {
            let piece = self.decoder.next(inbox.data())?;
            if let Piece::Data(count) = piece {
                self.kept &= self.staged.len() + count <= KEPT;
            }
            match piece {
                Piece::Skip(count) => inbox.consume(count),
                Piece::Data(count) if self.chunked => {
                    write_chunk(&mut self.staged, &inbox.data()[..count]);
                    self.took(inbox, count);
                }
                Piece::Data(count) if !self.kept && (self.is_drained() || count > COPIED) => return Ok(count),
                Piece::Data(count) => {
                    self.staged.extend_from_slice(&inbox.data()[..count]);
                    self.took(inbox, count);
                }
                Piece::End => self.end(),
                Piece::More => break,
            }
        }
        Ok(0)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
        direct: usize,
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let staged = &self.staged[self.written..];
        let data = &inbox.data()[..direct];
        let sink = Pin::new(sink);
        let polled = match (staged, data) {
            (staged, []) => sink.poll_write(cx, staged),
            ([], data) => sink.poll_write(cx, data),
            (staged, data) => sink.poll_write_vectored(cx, &[io::IoSlice::new(staged), io::IoSlice::new(data)]),
        };
        let count = ready!(polled).and_then(some)?;
        let of_staged = count.min(staged.len());
        self.written += of_staged;
        self.moved += count as u64;
        self.took(inbox, count - of_staged);
        Poll::Ready(Ok(()))
    }

    fn took(&mut self, inbox: &mut Inbox, count: usize) {
        if count > 0 {
            self.begun = true;
            self.decoder.took(count);
            inbox.consume(count);
        }
    }

    fn end(&mut self) {
        self.state = State::Ended;
        if self.chunked {
            self.begun = true;
            self.staged.extend_from_slice(b"0\r\n");
            self.staged.extend_from_slice(self.decoder.trailer_lines());
            self.staged.extend_from_slice(b"\r\n");
        }
    }
}

/// Takes writing nothing for the failure that it is.
fn some(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}
