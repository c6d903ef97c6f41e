//! A request and its answer, both on their way at once.

use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use super::body::{Decoder, Framing};
use super::pump::{Broken, Pump};
use super::response::{self, Manner, Response, Unusable};
use super::scan::Scanner;
use crate::router::proxy::buffer::{Inbox, Outbox};
use crate::router::proxy::upstream::Upstream;

/// How many interim answers (1xx) may precede an answer.
const MOST_INTERIM: u32 = 16;

/// What the client asked for, as far as the answer depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// 1 for a client of HTTP/1.1, 0 for one of HTTP/1.0.
    pub(crate) minor: u8,
    pub(crate) keep_alive: bool,
    /// Whether it was HEAD.
    pub(crate) to_head: bool,
    pub(crate) upgrade: bool,
    /// How long the head of the answer may be.
    pub(crate) most: usize,
}

/// A request and its answer.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about one of the two sides")]
pub(crate) struct Exchange {
    pub(crate) request: Pump,
    pub(crate) response: Pump,
    terms: Terms,
    phase: Phase,
    scanner: Scanner,
    interim: u32,
    /// The upstream does not want the rest of the request; it may still answer.
    unwanted: bool,
    /// The status of the answer; 0 before there is one.
    pub(crate) status: u16,
    keeps_upstream: bool,
    /// Whether only the end of the connection tells the client where the answer ends.
    pub(crate) until_close: bool,
    /// The client has closed its side, and may still read.
    half_closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The head of the answer is awaited.
    Head,
    /// The body of the answer is moved.
    Body,
    /// The answer says that the connection goes on with something else.
    Upgrade,
}

/// How an exchange ended that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done {
        /// Whether the upstream takes another request on this connection.
        upstream: bool,
        /// Whether all of the request was read.
        client: bool,
    },
    /// The connections go on with something else.
    Upgraded,
}

/// How it ended otherwise.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The upstream closed the connection and has said nothing.
    Closed,
    /// The upstream did not answer as it must.
    Unusable(Unusable),
    /// The client sent what is no request.
    Malformed(&'static str),
    /// The client went away.
    Gone,
    /// The answer broke off after its head was passed on.
    CutOff(&'static str),
}

/// For whom an exchange waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// For the rest of the request.
    Client,
    /// For the beginning of the answer.
    Answer,
    /// For a body to go on.
    Body,
}

impl Exchange {
    /// Makes an exchange whose request begins with `head`.
    pub(crate) fn new(head: Outbox, framing: Framing, terms: Terms, named: Vec<Vec<u8>>) -> Self {
        let decoder = Decoder::new(framing).without(named);
        Self {
            request: Pump::new(head, decoder, framing == Framing::Chunked),
            response: Pump::new(Outbox::new(), Decoder::new(Framing::None), false),
            terms,
            phase: Phase::Head,
            scanner: Scanner::default(),
            interim: 0,
            unwanted: false,
            status: 0,
            keeps_upstream: false,
            until_close: false,
            half_closed: false,
        }
    }

    /// Makes ready for another try with another connection; false if that cannot be.
    pub(crate) fn rewind(&mut self) -> bool {
        self.scanner = Scanner::default();
        self.unwanted = false;
        self.phase == Phase::Head && self.interim == 0 && self.request.rewind()
    }

    /// Tells whether the head of the answer was passed on.
    pub(crate) fn is_answered(&self) -> bool {
        self.phase != Phase::Head
    }

    /// Counts what was moved so far.
    pub(crate) fn moved(&self) -> u64 {
        self.request.moved + self.response.moved
    }

    pub(crate) fn waiting(&self) -> Waiting {
        match self.phase {
            Phase::Head if self.request.is_done() || self.unwanted => Waiting::Answer,
            Phase::Head if self.request.is_drained() => Waiting::Client,
            Phase::Head => Waiting::Answer,
            Phase::Body | Phase::Upgrade => Waiting::Body,
        }
    }

    /// Moves what can be moved now.
    pub(crate) fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut S,
        inbox: &mut Inbox,
        upstream: &mut Upstream,
    ) -> Poll<Result<End, Fault>> {
        if !self.request.is_done() && !self.unwanted {
            match self.request.poll(cx, inbox, client, &mut upstream.io) {
                Poll::Pending | Poll::Ready(Ok(())) => (),
                // It may have answered before it stopped reading.
                Poll::Ready(Err(Broken::Sink)) => self.unwanted = true,
                Poll::Ready(Err(Broken::Malformed(what))) => return Poll::Ready(Err(Fault::Malformed(what.0))),
                Poll::Ready(Err(Broken::Source)) => return Poll::Ready(Err(Fault::Gone)),
            }
        }
        if self.request.is_done() && self.is_abandoned(cx, client, inbox) {
            return Poll::Ready(Err(Fault::Gone));
        }
        while self.phase == Phase::Head {
            match self.poll_head(cx, client, upstream) {
                Poll::Ready(Ok(())) => (),
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.phase == Phase::Upgrade {
            return match self.response.poll_staged(cx, client) {
                Poll::Ready(Ok(())) => Poll::Ready(Ok(End::Upgraded)),
                Poll::Ready(Err(_)) => Poll::Ready(Err(Fault::Gone)),
                Poll::Pending => Poll::Pending,
            };
        }
        let answered = if self.response.is_done() {
            Poll::Ready(Ok(()))
        } else {
            self.response.poll(cx, &mut upstream.inbox, &mut upstream.io, client)
        };
        match answered {
            // The answer may end first; the upstream hears the rest nevertheless, unless it wants none.
            Poll::Ready(Ok(())) if !self.request.is_done() && !self.unwanted => Poll::Pending,
            Poll::Ready(Ok(())) => {
                // What is left over belongs to no request.
                let whole = self.request.is_done() && upstream.inbox.is_empty();
                Poll::Ready(Ok(End::Done { upstream: whole && self.keeps_upstream, client: self.request.is_done() }))
            }
            Poll::Ready(Err(Broken::Sink)) => Poll::Ready(Err(Fault::Gone)),
            Poll::Ready(Err(Broken::Source)) => Poll::Ready(Err(Fault::CutOff("the answer ended too early"))),
            Poll::Ready(Err(Broken::Malformed(what))) => Poll::Ready(Err(Fault::CutOff(what.0))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Tells whether the client's connection has failed. That it has closed its side does not mean that it does not read.
    fn is_abandoned(&mut self, cx: &mut Context<'_>, client: &mut (impl AsyncRead + Unpin), inbox: &mut Inbox) -> bool {
        // What follows the request, if anything does, is left where it is.
        while inbox.is_empty() && !self.half_closed {
            match inbox.poll_fill(cx, client) {
                Poll::Ready(Ok(0)) => self.half_closed = true,
                Poll::Ready(Ok(_)) => (),
                Poll::Ready(Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
        false
    }

    /// Takes one head, an interim one or the answer's.
    fn poll_head<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut S,
        upstream: &mut Upstream,
    ) -> Poll<Result<(), Fault>> {
        if self.interim > 0 {
            // The client waits for them.
            match self.response.poll_staged(cx, client) {
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::Gone)),
                Poll::Ready(Ok(())) | Poll::Pending => (),
            }
        }
        loop {
            let found = self.scanner.scan(upstream.inbox.data());
            match found {
                Ok(Some(end)) => {
                    response::take_for_1_1(&mut upstream.inbox.data_mut()[..end]);
                    return Poll::Ready(self.take_head(&upstream.inbox.data()[..end]).map_err(Fault::Unusable).map(
                        |()| {
                            upstream.inbox.consume(end);
                            self.scanner = Scanner::default();
                        },
                    ));
                }
                Ok(None) if upstream.inbox.data().len() > self.terms.most => {
                    return Poll::Ready(Err(Fault::Unusable("answered with a head that is too long")));
                }
                Ok(None) => (),
                Err(_) => return Poll::Ready(Err(Fault::Unusable("answered with something that is not HTTP"))),
            }
            match upstream.inbox.poll_fill(cx, &mut upstream.io) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) if count > 0 => self.response.moved += count as u64,
                Poll::Ready(_) if upstream.inbox.is_empty() && self.interim == 0 => {
                    return Poll::Ready(Err(Fault::Closed));
                }
                Poll::Ready(_) => {
                    return Poll::Ready(Err(Fault::Unusable("closed the connection in the middle of an answer")));
                }
            }
        }
    }

    fn take_head(&mut self, head: &[u8]) -> Result<(), Unusable> {
        if head.len() > self.terms.most {
            return Err("answered with a head that is too long");
        }
        let mut room = response::fields();
        let answer = Response::parse(head, &mut room, self.terms.to_head)?;
        let Terms { minor, keep_alive, .. } = self.terms;
        if answer.status == 101 {
            if !self.terms.upgrade || answer.upgrade.is_none() {
                return Err("changed to another protocol without being asked");
            }
            self.status = 101;
            answer.write(self.response.staged(), head, Manner { minor, keep_alive, chunked: false });
            self.phase = Phase::Upgrade;
            return Ok(());
        }
        if answer.status < 200 {
            self.interim += 1;
            if self.interim > MOST_INTERIM {
                return Err("sent interim answers without end");
            }
            if minor == 1 {
                answer.write(self.response.staged(), head, Manner { minor, keep_alive, chunked: false });
            }
            return Ok(());
        }
        let unknown_length = matches!(answer.framing, Framing::Chunked | Framing::UntilClose);
        let chunked = unknown_length && minor == 1;
        if answer.status >= 400 && !self.request.is_done() {
            // It was refused before it was heard to its end; the rest is of no use, and the connection ends with it.
            self.unwanted = true;
            self.terms.keep_alive = false;
        }
        let keep_alive = self.terms.keep_alive;
        self.until_close = unknown_length && !chunked;
        // To a client of HTTP/1.0 the end of the connection tells the end of the body.
        self.terms.keep_alive = keep_alive && (chunked || !unknown_length);
        let manner = Manner { minor, keep_alive: self.terms.keep_alive, chunked };
        answer.write(self.response.staged(), head, manner);
        let decoder = Decoder::new(answer.framing).of_answer().without(answer.named_by_connection());
        self.response.begin(decoder, chunked);
        self.keeps_upstream = answer.keep_alive;
        self.status = answer.status;
        self.phase = Phase::Body;
        Ok(())
    }

    /// Tells whether the client expects the connection to go on after the answer.
    pub(crate) fn keeps_client(&self) -> bool {
        self.terms.keep_alive
    }

    /// Takes back what of the answer was not written yet, so that another may take its place.
    pub(crate) fn into_response(self) -> Pump {
        self.response
    }
}
