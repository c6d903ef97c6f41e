//! A connection with a client, request after request.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::body::{Decoder, Framing};
use super::exchange::{End, Exchange, Fault, Terms, Waiting};
use super::forward::{self, Peer};
use super::pump::Pump;
use super::request::{self, Request};
use super::response;
use super::scan::Scanner;
use crate::router::proxy::answer::Refusal;
use crate::router::proxy::buffer::{Inbox, Outbox};
use crate::router::proxy::client::Client;
use crate::router::proxy::http2;
use crate::router::proxy::stats::{InFlight, Stats};
use crate::router::proxy::table::{Entry, Held};
use crate::router::proxy::timer::Timer;
use crate::router::proxy::tunnel::{Direction, Tunnel};
use crate::router::proxy::upstream::{Reuse, Unreachable, Upstream};
use crate::router::proxy::worker::{Place, Worker};

/// For how long, and how much, is read of what a client sends that has its last answer: closed before that, the answer could be
/// lost on its way.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 4 << 20;

/// What the log says where a client went away before there was an answer; no client ever sees it.
const GONE: u16 = 499;

/// How many empty lines may precede a request.
const MOST_EMPTY_LINES: u32 = 8;

/// A connection with a client.
#[derive(Debug)]
pub(in crate::router::proxy) struct Connection<S> {
    io: S,
    inbox: Inbox,
    peer: Peer,
    worker: Arc<Worker>,
    place: Arc<Place>,
    timer: Timer,
}

/// How a connection of HTTP/1.1 goes on in the end.
#[derive(Debug)]
pub(in crate::router::proxy) enum Next<S> {
    Closed,
    Tunnel(Tunnel<S>),
    /// It was one of HTTP/2 from the beginning; what was read of it is in the inbox.
    Http2(S, Inbox),
}

/// What becomes of the connection after a request.
#[derive(Debug)]
enum Step {
    /// It takes the next one.
    Next,
    /// It is closed once the client has had time to read what was sent.
    Close,
    /// It is closed at once.
    Drop,
    Upgrade(Upstream, InFlight),
}

/// Why there is no head of a request.
#[derive(Debug)]
enum NoHead {
    Closed,
    Http2,
    Refused(Refusal),
}

/// A request that is ready to be forwarded.
#[derive(Debug)]
struct Plan {
    entry: Arc<Entry>,
    head: Outbox,
    framing: Framing,
    terms: Terms,
    /// The fields that `Connection` names.
    named: Vec<Vec<u8>>,
    idempotent: bool,
    answering: Answering,
}

/// How the client is answered where the proxy answers by itself, and what the log says of it.
#[derive(Debug)]
struct Answering {
    begun: Instant,
    html: bool,
    to_head: bool,
    keep_alive: bool,
    /// What the access log says of the request, where there is one: its host, method and path.
    logged: Option<Box<(String, String, String)>>,
}

impl<S: Client> Connection<S> {
    pub(in crate::router::proxy) fn new(io: S, peer: Peer, worker: Arc<Worker>, place: Arc<Place>) -> Self {
        Self { io, inbox: Inbox::default(), peer, worker, place, timer: Timer::default() }
    }

    /// Serves requests until the connection ends, or is no longer one of HTTP/1.1.
    ///
    /// # Cancel safety
    /// Dropped, it closes the connection.
    pub(in crate::router::proxy) async fn serve(mut self, mut may_be_http2: bool) -> Next<S> {
        let mut first = true;
        loop {
            if !first {
                self.place.idle();
            }
            let step = match self.read_head(first, may_be_http2).await {
                Ok(end) => {
                    self.place.busy();
                    self.handle(end).await
                }
                Err(NoHead::Closed) => Step::Drop,
                Err(NoHead::Http2) => return Next::Http2(self.io, self.inbox),
                Err(NoHead::Refused(refusal)) => {
                    let status = refusal.status;
                    let answering = self.blind();
                    self.log_with(&self.worker.shared.unknown, &answering, status, None);
                    self.refuse(refusal, Outbox::new(), &answering, false).await
                }
            };
            (first, may_be_http2) = (false, false);
            match step {
                Step::Next if !self.worker.ending.is_cancelled() => (),
                Step::Next | Step::Close => {
                    self.linger().await;
                    return Next::Closed;
                }
                Step::Drop => return Next::Closed,
                Step::Upgrade(upstream, in_flight) => {
                    let settings = &self.worker.shared.settings;
                    return Next::Tunnel(Tunnel {
                        client: self.io,
                        upstream: upstream.io,
                        up: Direction::beginning_with(self.inbox),
                        down: Direction::beginning_with(upstream.inbox),
                        idle_timeout: settings.upgrade_idle_timeout,
                        half_closed_timeout: settings.idle_timeout,
                        in_flight: in_flight.upgrade(),
                    });
                }
            }
        }
    }

    /// Waits for the head of a request, and returns where it ends.
    async fn read_head(&mut self, first: bool, may_be_http2: bool) -> Result<usize, NoHead> {
        let Self { io, inbox, timer, worker, .. } = self;
        let settings = &worker.shared.settings;
        let mut scanner = Scanner::default();
        let mut begun = !inbox.is_empty();
        let mut empty_lines = 0;
        let patience = if first || begun { settings.header_timeout } else { settings.keep_alive_timeout };
        let mut deadline = Instant::now() + patience;
        poll_fn(|cx| {
            loop {
                let mut open = false;
                if may_be_http2 && inbox.data().starts_with(b"P") {
                    match http2::is_preface(inbox.data()) {
                        Some(true) => return Poll::Ready(Err(NoHead::Http2)),
                        Some(false) => (),
                        None => open = true,
                    }
                }
                // Empty lines before a request are left over from the one before (RFC 9112, section 2.2).
                while inbox.data().starts_with(b"\r\n") {
                    inbox.consume(2);
                    scanner = Scanner::default();
                    empty_lines += 1;
                    if empty_lines > MOST_EMPTY_LINES {
                        return Poll::Ready(Err(NoHead::Refused(Refusal::malformed("there is no request"))));
                    }
                }
                let most = settings.max_header_size;
                let too_long = || {
                    Err(NoHead::Refused(Refusal::too_large(format!("the request's head is longer than {most} bytes"))))
                };
                if !open {
                    match scanner.scan(inbox.data()) {
                        Ok(Some(end)) if end <= most => return Poll::Ready(Ok(end)),
                        Ok(Some(_)) => return Poll::Ready(too_long()),
                        Ok(None) if inbox.data().len() > most => return Poll::Ready(too_long()),
                        Ok(None) => (),
                        Err(_) => {
                            let refusal = Refusal::malformed("a line of the request's head does not end with CR LF");
                            return Poll::Ready(Err(NoHead::Refused(refusal)));
                        }
                    }
                }
                match inbox.poll_fill(cx, io) {
                    Poll::Ready(Ok(0) | Err(_)) if inbox.data().len() < most => {
                        return Poll::Ready(Err(NoHead::Closed));
                    }
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(too_long()),
                    Poll::Ready(Ok(_)) => {
                        if !begun {
                            begun = true;
                            deadline = Instant::now() + settings.header_timeout;
                        }
                    }
                    Poll::Pending => {
                        ready!(timer.poll(cx, deadline));
                        let refused = if begun { NoHead::Refused(Refusal::timed_out()) } else { NoHead::Closed };
                        return Poll::Ready(Err(refused));
                    }
                }
            }
        })
        .await
    }

    /// Does all that a request asks for.
    async fn handle(&mut self, end: usize) -> Step {
        request::take_for_1_1(&mut self.inbox.data_mut()[..end]);
        let plan = match self.plan(end) {
            Ok(plan) => plan,
            Err(refused) => {
                let (refusal, answering, framing) = *refused;
                // A request whose body was not read yet cannot be followed by another.
                let goes_on = framing == Framing::None && answering.keep_alive;
                if framing == Framing::None {
                    self.inbox.consume(end);
                }
                self.log_with(&self.worker.shared.unknown, &answering, refusal.status, None);
                return self.refuse(refusal, Outbox::new(), &answering, goes_on).await;
            }
        };
        self.inbox.consume(end);
        let Plan { mut entry, head, framing, terms, named, idempotent, answering } = plan;
        let mut in_flight = InFlight::begin(Arc::clone(&entry), self.worker.shared.clock, answering.begun.into_std());
        self.place.works_for(&entry.stats);
        let mut exchange = Exchange::new(head, framing, terms, named);
        if idempotent {
            exchange.request.keep();
        }
        if entry.pending {
            entry = match self.hold(entry).await {
                Ok(entry) => entry,
                Err(None) => {
                    self.log(&answering, GONE, &in_flight, None);
                    return Step::Drop;
                }
                Err(Some(refusal)) => {
                    let goes_on = framing == Framing::None;
                    return self.give_up(refusal, exchange, &in_flight, &answering, goes_on).await;
                }
            };
            if entry.stats.id != in_flight.stats().id {
                // The route was removed and set again meanwhile; it is a request of the new one.
                in_flight = InFlight::begin(Arc::clone(&entry), self.worker.shared.clock, answering.begun.into_std());
                self.place.works_for(&entry.stats);
            }
        }
        let mut reuse = if idempotent { Reuse::Any } else { Reuse::Fresh };
        let mut closed = 0;
        loop {
            let mut upstream = match self.worker.connect(&entry, reuse).await {
                Ok(upstream) => upstream,
                Err(why) => {
                    let host = entry.route.host.as_str();
                    let refusal = match why {
                        Unreachable::Refused(_) => Refusal::unreachable(host),
                        Unreachable::TimedOut => Refusal::silent(host, self.worker.shared.settings.connect_timeout),
                    };
                    return self.give_up(refusal, exchange, &in_flight, &answering, framing == Framing::None).await;
                }
            };
            let ended = self.run(&mut exchange, &mut upstream).await;
            let fault = match ended {
                Ok(End::Upgraded) => {
                    upstream.target.answered();
                    self.log(&answering, 101, &in_flight, Some(&upstream));
                    return Step::Upgrade(upstream, in_flight);
                }
                Ok(End::Done { upstream: keeps, client }) => {
                    upstream.target.answered();
                    self.log(&answering, exchange.status, &in_flight, Some(&upstream));
                    if keeps {
                        self.worker.pool.put(upstream);
                    } else if !upstream.inbox.is_empty() {
                        tracing::warn!(
                            host = %entry.route.host,
                            upstream = &*upstream.target.address,
                            "the upstream answered more than was asked"
                        );
                    }
                    return if client && exchange.keeps_client() { Step::Next } else { Step::Close };
                }
                Err(Stopped::Fault(Fault::Closed))
                    if upstream.reused && (idempotent || exchange.request.is_untouched()) && exchange.rewind() =>
                {
                    // It was closed while it waited: nobody has seen the request, or twice is as good as once (RFC 9110, section 9.2.2).
                    reuse = Reuse::Never;
                    continue;
                }
                Err(stopped) => stopped,
            };
            if matches!(fault, Stopped::Fault(Fault::Closed | Fault::Unusable(_))) {
                upstream.target.failed(self.worker.shared.clock.now());
            }
            closed += 1;
            if matches!(fault, Stopped::Fault(Fault::Closed))
                && idempotent
                && closed < entry.targets.len()
                && exchange.rewind()
            {
                // Doing it twice is as good as once, and there is another upstream to ask.
                reuse = Reuse::Never;
                continue;
            }
            return self.fail(fault, exchange, &in_flight, &answering, &entry, &upstream).await;
        }
    }

    /// Reads the request's head, and decides what is to be done.
    fn plan(&self, end: usize) -> Result<Plan, Box<(Refusal, Answering, Framing)>> {
        let shared = &self.worker.shared;
        let head = &self.inbox.data()[..end];
        let mut room = response::fields();
        let request = match Request::parse(head, &mut room, shared.settings.max_headers) {
            Ok(request) => request,
            // What follows a request that is not understood cannot be understood either.
            Err(refusal) => return Err(Box::new((refusal, self.blind(), Framing::UntilClose))),
        };
        let answering = Answering {
            begun: Instant::now(),
            html: request.wants_html,
            to_head: request.method == "HEAD",
            keep_alive: request.keep_alive,
            logged: shared.settings.access_log.then(|| {
                // A query may hold secrets.
                let path = request.target.split('?').next().unwrap_or_default();
                Box::new((request.host.to_string(), request.method.to_owned(), path.to_owned()))
            }),
        };
        let framing = request.framing;
        let refuse = |refusal| Box::new((refusal, answering_of(&answering), framing));
        let Some(entry) = shared.table.get(&request.host) else {
            return Err(refuse(Refusal::unknown_host(&request.host)));
        };
        let secure = self.peer.secure || (shared.forwarding.trust && request.says_secure);
        if shared.settings.redirect && !secure {
            return Err(refuse(Refusal::moved(self.location(&request))));
        }
        if forward::is_looped(&request, &shared.forwarding) {
            tracing::warn!(host = %entry.route.host, "the route leads back to this proxy");
            return Err(refuse(Refusal::looped(&request.host)));
        }
        let mut out = Outbox::new();
        forward::write(&mut out, head, &request, &self.peer, &shared.forwarding);
        let terms = Terms {
            minor: request.minor,
            keep_alive: request.keep_alive && !self.worker.ending.is_cancelled(),
            to_head: answering.to_head,
            upgrade: request.upgrade.is_some() && framing == Framing::None,
            most: shared.settings.max_header_size.max(crate::router::proxy::buffer::SIZE / 2),
        };
        let named = request.named_by_connection();
        Ok(Plan { entry, head: out, framing, terms, named, idempotent: request.is_idempotent(), answering })
    }

    /// Returns where a request would be served over HTTPS.
    fn location(&self, request: &Request<'_, '_>) -> String {
        let port = self.worker.shared.tls_port.filter(|&port| port != 443);
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        let path = match request.target {
            "*" => "/",
            target => target,
        };
        let root = if request.rootless { "/" } else { "" };
        format!("https://{}{port}{root}{path}", request.host)
    }

    /// Holds a request until its route is no longer pending. Without a refusal, the client has gone.
    async fn hold(&mut self, mut entry: Arc<Entry>) -> Result<Arc<Entry>, Option<Refusal>> {
        let worker = Arc::clone(&self.worker);
        let settings = &worker.shared.settings;
        let host = entry.route.host.clone();
        let deadline = Instant::now() + settings.pending_timeout;
        let Self { io, inbox, .. } = self;
        while entry.pending {
            let Some(held) = Held::take(&entry, settings.max_pending) else {
                return Err(Some(Refusal::crowded(host.as_str())));
            };
            // A client that closes its side has given up waiting, so that its place is free.
            let gone = poll_fn(|cx| {
                loop {
                    match inbox.poll_fill(cx, io) {
                        Poll::Ready(Ok(0)) => return Poll::Ready(()),
                        Poll::Ready(Ok(_)) => (),
                        // There is no room for more; then it is not known.
                        Poll::Ready(Err(error)) if error.kind() == std::io::ErrorKind::StorageFull => {
                            return Poll::Pending;
                        }
                        Poll::Ready(Err(_)) => return Poll::Ready(()),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            });
            tokio::select! {
                () = worker.shared.table.replaced(&entry) => (),
                () = gone => return Err(None),
                () = tokio::time::sleep_until(deadline) => {
                    return Err(Some(Refusal::pending(host.as_str(), settings.pending_timeout)));
                }
            }
            let current = worker.shared.table.get(host.as_str());
            drop(held);
            entry = current.ok_or_else(|| Some(Refusal::unknown_host(host.as_str())))?;
        }
        Ok(entry)
    }

    /// Moves a request and its answer until they have ended, or nothing has moved for too long.
    async fn run(&mut self, exchange: &mut Exchange, upstream: &mut Upstream) -> Result<End, Stopped> {
        let Self { io, inbox, timer, worker, .. } = self;
        let settings = &worker.shared.settings;
        let (mut moved, mut since) = (exchange.moved(), Instant::now());
        poll_fn(|cx| {
            if let Poll::Ready(ended) = exchange.poll(cx, io, inbox, upstream) {
                return Poll::Ready(ended.map_err(Stopped::Fault));
            }
            if exchange.moved() != moved {
                moved = exchange.moved();
                since = Instant::now();
            }
            let patience = match exchange.waiting() {
                Waiting::Answer => settings.response_timeout,
                Waiting::Client | Waiting::Body => settings.idle_timeout,
            };
            ready!(timer.poll(cx, since + patience));
            Poll::Ready(Err(Stopped::Silence(exchange.waiting())))
        })
        .await
    }

    /// Answers for an upstream that did not.
    async fn fail(
        &mut self,
        stopped: Stopped,
        exchange: Exchange,
        in_flight: &InFlight,
        answering: &Answering,
        entry: &Entry,
        upstream: &Upstream,
    ) -> Step {
        let host = entry.route.host.as_str();
        let address = &*upstream.target.address;
        if exchange.is_answered() {
            match stopped {
                Stopped::Fault(Fault::Gone) => (),
                Stopped::Fault(Fault::CutOff(what) | Fault::Malformed(what)) => {
                    tracing::warn!(host, upstream = address, "an answer was cut off: {what}");
                }
                _ => tracing::warn!(host, upstream = address, "an answer was cut off: nothing moved for too long"),
            }
            self.log(answering, exchange.status, in_flight, Some(upstream));
            if exchange.until_close {
                self.io.spoil();
            }
            return Step::Drop;
        }
        let refusal = match stopped {
            Stopped::Fault(Fault::Gone | Fault::CutOff(_)) => {
                self.log(answering, GONE, in_flight, Some(upstream));
                return Step::Drop;
            }
            Stopped::Fault(Fault::Malformed(what)) => Refusal::malformed(what),
            Stopped::Silence(Waiting::Client) => Refusal::timed_out(),
            Stopped::Silence(_) => Refusal::silent(host, self.worker.shared.settings.response_timeout),
            Stopped::Fault(Fault::Closed) => Refusal::bad_upstream(host, "closed the connection without an answer"),
            Stopped::Fault(Fault::Unusable(what)) => Refusal::bad_upstream(host, what),
        };
        if refusal.status >= 500 {
            tracing::warn!(host, upstream = address, status = refusal.status, "{}", refusal.detail);
        }
        let whole = exchange.request.is_done();
        self.give_up(refusal, exchange, in_flight, answering, whole).await
    }

    /// Answers a request for a known route, after whatever interim answers there were.
    async fn give_up(
        &mut self,
        refusal: Refusal,
        exchange: Exchange,
        in_flight: &InFlight,
        answering: &Answering,
        whole: bool,
    ) -> Step {
        self.log(answering, refusal.status, in_flight, None);
        let rest = exchange.into_response().into_unwritten();
        self.refuse(refusal, rest, answering, whole && answering.keep_alive).await
    }

    /// Answers a request.
    async fn refuse(&mut self, refusal: Refusal, mut out: Outbox, answering: &Answering, goes_on: bool) -> Step {
        let goes_on = goes_on && !self.worker.ending.is_cancelled();
        refusal.write(&mut out, answering.html, answering.to_head, goes_on);
        let mut pump = Pump::new(out, Decoder::new(Framing::None), false);
        let deadline = Instant::now() + self.worker.shared.settings.idle_timeout;
        let Self { io, timer, .. } = self;
        let written = poll_fn(|cx| match pump.poll_staged(cx, io) {
            Poll::Ready(result) => Poll::Ready(result.is_ok()),
            Poll::Pending => timer.poll(cx, deadline).map(|()| false),
        });
        match written.await {
            true if goes_on => Step::Next,
            true => Step::Close,
            false => Step::Drop,
        }
    }

    /// Closes the connection so that what was sent arrives: told that there is no more, the client has some time to close its side.
    async fn linger(&mut self) {
        let Self { io, inbox, timer, .. } = self;
        let deadline = Instant::now() + LINGER;
        let (mut told, mut read) = (false, 0);
        poll_fn(|cx| {
            if !told {
                match Pin::new(&mut *io).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => told = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return timer.poll(cx, deadline),
                }
            }
            loop {
                inbox.consume(usize::MAX);
                match inbox.poll_fill(cx, io) {
                    Poll::Ready(Ok(count)) if count > 0 && read < LINGER_BYTES => read += count,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return timer.poll(cx, deadline),
                }
            }
        })
        .await;
    }

    /// Answers a request that could not be read.
    fn blind(&self) -> Answering {
        let logged = self.worker.shared.settings.access_log.then(|| Box::new(("-".into(), "-".into(), "-".into())));
        Answering { begun: Instant::now(), html: false, to_head: false, keep_alive: false, logged }
    }

    /// Counts an answer, and writes it to the access log.
    fn log(&self, answering: &Answering, status: u16, in_flight: &InFlight, upstream: Option<&Upstream>) {
        self.log_with(in_flight.stats(), answering, status, upstream);
    }

    fn log_with(&self, counters: &Stats, answering: &Answering, status: u16, upstream: Option<&Upstream>) {
        let took = answering.begun.elapsed();
        counters.answered(status, took);
        if let Some(logged) = &answering.logged {
            let (host, method, path) = &**logged;
            let upstream = upstream.map_or("-", |upstream| &*upstream.target.address);
            let millis = took.as_secs_f64() * 1e3;
            tracing::info!(target: "ondemand::access", client = %self.peer.ip, %host, %method, path, status, upstream, millis);
        }
    }
}

/// Why an exchange came to no end.
#[derive(Debug)]
enum Stopped {
    Fault(Fault),
    /// Nothing moved for too long.
    Silence(Waiting),
}

/// Copies what is needed to refuse a request that no upstream sees.
fn answering_of(answering: &Answering) -> Answering {
    Answering { logged: answering.logged.clone(), ..*answering }
}
