//! Bodies that come out of a pipe.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{DuplexStream, ReadHalf};

use crate::error::BoxError;
use crate::router::proxy::buffer::Inbox;
use crate::router::proxy::http1::body::{Decoder, Framing, Malformed, Piece};
use crate::router::proxy::http1::scan::Scanner;

/// The body of a message of HTTP/1.1 as HTTP/2 sends it: data as it comes, and trailers. It is read as fast as it is sent.
#[derive(Debug)]
pub(super) struct PipedBody<G> {
    reader: ReadHalf<DuplexStream>,
    inbox: Inbox,
    decoder: Decoder,
    ended: bool,
    /// What is told that the body was read to its end, or is dropped before.
    guard: G,
}

/// Learns how a body ended.
pub(super) trait Guard: Unpin {
    /// It was read to its end.
    fn complete(&mut self);
}

impl Guard for () {
    fn complete(&mut self) {}
}

impl<G: Guard> PipedBody<G> {
    /// Makes a body of what follows a head.
    pub(super) fn new(reader: ReadHalf<DuplexStream>, inbox: Inbox, framing: Framing, mut guard: G) -> Self {
        let ended = matches!(framing, Framing::None | Framing::Length(0));
        if ended {
            guard.complete();
        }
        Self { reader, inbox, decoder: Decoder::new(framing), ended, guard }
    }

    fn end(&mut self) -> Option<Result<Frame<Bytes>, io::Error>> {
        self.ended = true;
        self.guard.complete();
        let trailers = self.decoder.trailer_lines();
        if trailers.is_empty() {
            return None;
        }
        Some(parse_trailers(trailers).map(Frame::trailers))
    }
}

impl<G: Guard> Body for PipedBody<G> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        while !this.ended {
            match this.decoder.next(this.inbox.data()).map_err(malformed)? {
                Piece::Data(count) => {
                    let data = Bytes::copy_from_slice(&this.inbox.data()[..count]);
                    this.decoder.took(count);
                    this.inbox.consume(count);
                    // The last bytes and the end of the stream go in one frame.
                    if matches!(this.decoder.next(&[]), Ok(Piece::End)) {
                        this.ended = true;
                        this.guard.complete();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Piece::Skip(count) => this.inbox.consume(count),
                Piece::End => return Poll::Ready(this.end()),
                Piece::More => {
                    if ready!(this.inbox.poll_fill(cx, &mut this.reader))? == 0 {
                        if this.decoder.ends_with_connection() {
                            return Poll::Ready(this.end());
                        }
                        return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
                    }
                }
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        // Lengths are passed on as they were said, and none is made up.
        SizeHint::default()
    }
}

/// Makes an error of what is wrong with a message.
pub(super) fn invalid(what: impl Into<BoxError>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn malformed(malformed: Malformed) -> io::Error {
    invalid(malformed.0)
}

/// Reads a head, and returns where in the inbox it ends.
pub(super) async fn read_head(reader: &mut ReadHalf<DuplexStream>, inbox: &mut Inbox) -> io::Result<usize> {
    let mut scanner = Scanner::default();
    loop {
        match scanner.scan(inbox.data()) {
            Ok(Some(end)) => return Ok(end),
            Ok(None) => (),
            Err(_) => return Err(invalid("a line of the head does not end as it must")),
        }
        if poll_fn(|cx| inbox.poll_fill(cx, reader)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Turns the lines of trailers, which were checked when they were read, into fields.
fn parse_trailers(lines: &[u8]) -> io::Result<HeaderMap> {
    let refused = || invalid("the trailers are no header fields");
    let mut block = lines.to_vec();
    block.extend_from_slice(b"\r\n");
    let mut room = [httparse::EMPTY_HEADER; 64];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&block, &mut room) else {
        return Err(refused());
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| refused())?;
        trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| refused())?);
    }
    Ok(trailers)
}

/// Writes fields as lines, but not those that belong to a connection of HTTP/1.1 or into a head.
pub(super) fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    use http::header as name;
    for (field, value) in trailers {
        let refused = [
            name::CONNECTION,
            name::CONTENT_LENGTH,
            name::HOST,
            name::TE,
            name::TRAILER,
            name::TRANSFER_ENCODING,
            name::UPGRADE,
        ];
        if !refused.contains(field) && field != "keep-alive" && field != "proxy-connection" {
            write_field(out, field.as_str(), value.as_bytes());
        }
    }
}

pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
