//! The head of a request: checked strictly, since what two programs read differently is how requests are smuggled.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use super::body::{Framing, LONGEST};
use crate::router::proxy::answer::Refusal;
use crate::router::proxy::host;

/// How many fields a head may have at the most, whatever is configured; with room for those that the proxy itself adds.
pub(crate) const MOST_FIELDS: usize = crate::config::MOST_HEADERS + 16;

/// Room for the fields of a head.
pub(crate) type Fields<'b> = [MaybeUninit<httparse::Header<'b>>; MOST_FIELDS];

/// The head of a request.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is what one field says")]
pub(crate) struct Request<'h, 'b> {
    pub(crate) method: &'b str,
    /// In origin form, or `*`.
    pub(crate) target: &'b str,
    /// Whether a slash goes before the target, which in absolute form need not be written.
    pub(crate) rootless: bool,
    /// 1 for HTTP/1.1, 0 for HTTP/1.0.
    pub(crate) minor: u8,
    pub(crate) fields: &'h [httparse::Header<'b>],
    kinds: [Kind; MOST_FIELDS],
    /// Whom it is for, as it was written.
    pub(crate) authority: &'b [u8],
    /// Whom it is for, as the table has it.
    pub(crate) host: Cow<'b, str>,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    /// What it asks to go on with instead of HTTP.
    pub(crate) upgrade: Option<&'b [u8]>,
    pub(crate) wants_trailers: bool,
    pub(crate) wants_html: bool,
    /// The fields that `Connection` names beside those that are known: they are for this proxy only.
    named: bool,
    /// Whether it says that it came over HTTPS, to a proxy before this one.
    pub(crate) says_secure: bool,
}

/// What is done with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is passed on.
    Other,
    /// It is not passed on, or written anew.
    Drop,
    Host,
    Connection,
    ForwardedFor,
    Forwarded,
    /// The names of trailer fields.
    Trailer,
    /// `X-Forwarded-Host` and `X-Forwarded-Proto`.
    ForwardedOther,
    Via,
}

/// What the fields of a head say about its message.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is what one field says")]
struct Seen<'b> {
    host: Option<&'b [u8]>,
    length: Option<u64>,
    coding: Option<&'b [u8]>,
    upgrade: Option<&'b [u8]>,
    close: bool,
    keep_alive: bool,
    asks_upgrade: bool,
    wants_trailers: bool,
    wants_html: bool,
    named: bool,
    secure: bool,
}

impl<'h, 'b> Request<'h, 'b> {
    /// Parses a head that [`Scanner`](super::scan::Scanner) found, its empty line included.
    pub(crate) fn parse(head: &'b [u8], room: &'h mut Fields<'b>, most_fields: usize) -> Result<Self, Refusal> {
        let mut parsed = httparse::Request::new(&mut []);
        let most_fields = most_fields.min(MOST_FIELDS);
        match parsed.parse_with_uninit_headers(head, &mut room[..most_fields]) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {}
            Ok(_) => return Err(Refusal::malformed("the request's head has no end")),
            Err(error) => return Err(refuse(error, head, most_fields)),
        }
        let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(Refusal::malformed("the request's first line is incomplete"));
        };
        let fields: &'h [httparse::Header<'b>] = parsed.headers;
        let mut kinds = [Kind::Other; MOST_FIELDS];
        let mut seen = Seen::default();
        for (field, kind) in fields.iter().zip(&mut kinds) {
            *kind = seen.take(field)?;
        }
        let (target, authority) = split_target(method, target, seen.host)?;
        let authority = match authority {
            Some(authority) => authority,
            None if minor == 0 => b"",
            None => return Err(Refusal::malformed("the request has no Host")),
        };
        if minor == 1 && seen.host.is_none() {
            return Err(Refusal::malformed("the request has no Host"));
        }
        let host =
            host::normalise(authority).ok_or_else(|| Refusal::malformed("the request's Host is no host name"))?;
        let framing = seen.framing(minor)?;
        // One that has a body goes on as an ordinary request, which is allowed and leaves no doubt where the body ends.
        let may_upgrade = minor == 1 && seen.asks_upgrade && framing == Framing::None;
        let upgrade = seen.upgrade.filter(|token| may_upgrade && !is_http2(token));
        Ok(Self {
            method,
            target,
            rootless: target.starts_with('?'),
            minor,
            fields,
            kinds,
            authority,
            host,
            framing,
            keep_alive: !seen.close && (minor == 1 || seen.keep_alive),
            upgrade,
            wants_trailers: seen.wants_trailers,
            wants_html: seen.wants_html,
            named: seen.named,
            says_secure: seen.secure,
        })
    }

    /// Returns the fields that have a part in forwarding, with what they are.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&httparse::Header<'b>, Kind)> {
        self.fields.iter().zip(self.kinds)
    }

    /// Returns the fields that `Connection` names, where it names any.
    pub(crate) fn named_by_connection(&self) -> Vec<Vec<u8>> {
        if !self.named {
            return Vec::new();
        }
        let fields = self.fields().filter(|(_, kind)| *kind == Kind::Connection);
        fields.flat_map(|(field, _)| tokens(field.value).map(<[u8]>::to_vec)).collect()
    }

    /// Tells whether a field that is otherwise passed on is for this proxy only.
    pub(crate) fn is_named_by_connection(&self, name: &str) -> bool {
        self.named
            && self
                .fields()
                .filter(|(_, kind)| *kind == Kind::Connection)
                .any(|(field, _)| tokens(field.value).any(|token| token.eq_ignore_ascii_case(name.as_bytes())))
    }

    /// Tells whether doing it twice is the same as doing it once (RFC 9110, section 9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }
}

impl<'b> Seen<'b> {
    /// Notes what a field says, and says what is done with it.
    fn take(&mut self, field: &httparse::Header<'b>) -> Result<Kind, Refusal> {
        let (name, value) = (field.name, field.value);
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        Ok(match name.len() {
            2 if is("te") => {
                self.wants_trailers |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers"));
                Kind::Drop
            }
            3 if is("via") => Kind::Via,
            4 if is("host") => {
                if self.host.replace(value).is_some() {
                    return Err(Refusal::malformed("the request has more than one Host"));
                }
                Kind::Host
            }
            // Programs started by CGI would take it for the address of a proxy (CVE-2016-5385).
            5 if is("proxy") => Kind::Drop,
            6 if is("accept") => {
                self.wants_html |= tokens(value).any(takes_html);
                Kind::Other
            }
            7 if is("upgrade") => {
                self.upgrade = Some(value);
                Kind::Drop
            }
            7 if is("trailer") => Kind::Trailer,
            9 if is("x-real-ip") => Kind::ForwardedOther,
            9 if is("forwarded") => Kind::Forwarded,
            10 if is("connection") => {
                self.connection(value);
                Kind::Connection
            }
            10 if is("keep-alive") => Kind::Drop,
            14 if is("content-length") => {
                let length =
                    parse_length(value).ok_or_else(|| Refusal::malformed("the Content-Length is no number"))?;
                if self.length.replace(length).is_some() {
                    return Err(Refusal::malformed("the request has more than one Content-Length"));
                }
                Kind::Other
            }
            15 if is("x-forwarded-for") => Kind::ForwardedFor,
            16 if is("proxy-connection") => Kind::Drop,
            17 if is("transfer-encoding") => {
                if self.coding.replace(value).is_some() {
                    return Err(Refusal::malformed("the request has more than one Transfer-Encoding"));
                }
                Kind::Drop
            }
            19 if is("proxy-authorization") => Kind::Drop,
            12.. if name.as_bytes()[..12].eq_ignore_ascii_case(b"x-forwarded-") => {
                self.secure |= is("x-forwarded-proto") && value.eq_ignore_ascii_case(b"https");
                Kind::ForwardedOther
            }
            _ if is_disguised(name) => Kind::Drop,
            _ => Kind::Other,
        })
    }

    fn connection(&mut self, value: &[u8]) {
        for token in tokens(value) {
            let is = |other: &str| token.eq_ignore_ascii_case(other.as_bytes());
            if is("close") {
                self.close = true;
            } else if is("keep-alive") {
                self.keep_alive = true;
            } else if is("upgrade") {
                self.asks_upgrade = true;
            } else if !is("te") {
                self.named = true;
            }
        }
    }

    fn framing(&self, minor: u8) -> Result<Framing, Refusal> {
        match (self.coding, self.length) {
            (None, None | Some(0)) => Ok(Framing::None),
            (None, Some(length)) => Ok(Framing::Length(length)),
            (Some(_), Some(_)) => Err(Refusal::malformed("the request has a Content-Length and a Transfer-Encoding")),
            (Some(_), None) if minor == 0 => Err(Refusal::malformed("HTTP/1.0 has no Transfer-Encoding")),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            (Some(coding), None) => {
                let codings = tokens(coding).count();
                if codings == 1 && tokens(coding).all(|t| t.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')) {
                    return Err(Refusal::unsupported(501, "the Transfer-Encoding is not known here"));
                }
                Err(Refusal::malformed("the Transfer-Encoding is not just chunked"))
            }
        }
    }
}

/// Has a request of a later HTTP/1 be one of HTTP/1.1, which is how it is understood (RFC 9110, section 2.5).
pub(crate) fn take_for_1_1(head: &mut [u8]) {
    let end = memchr::memchr(b'\n', head).and_then(|feed| head.get_mut(..feed));
    if let Some([.., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'2'..=b'9', b'\r']) = end {
        *minor = b'1';
    }
}

fn refuse(error: httparse::Error, head: &[u8], most_fields: usize) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => {
            Refusal::too_large(format!("the request has more than {most_fields} header fields"))
        }
        httparse::Error::Version if names_version(head) => {
            Refusal::unsupported(505, "the request's first line names no version that is spoken here")
        }
        error => Refusal::malformed(format!("the request's head is malformed: {error}")),
    }
}

/// Tells whether the first line is one of HTTP, if of another version.
fn names_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let parts: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let version = parts.last().and_then(|version| version.strip_prefix(b"HTTP/")).unwrap_or_default();
    parts.len() == 3 && matches!(version, [b'0'..=b'9', b'.', b'0'..=b'9', b'\r'])
}

/// Takes the authority out of a target in absolute form, which then counts instead of the Host (RFC 9112, section 3.2.2).
fn split_target<'b>(
    method: &str,
    target: &'b str,
    host: Option<&'b [u8]>,
) -> Result<(&'b str, Option<&'b [u8]>), Refusal> {
    // What follows it is for the client alone, and programs differ in what they take for the path (RFC 9112, section 3.2).
    if target.contains('#') {
        return Err(Refusal::malformed("the request's target has a fragment"));
    }
    if method == "CONNECT" {
        return Err(Refusal::unsupported(501, "CONNECT is not done here"));
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((target, host));
    }
    let malformed = || Refusal::malformed("the request's target is neither a path nor an address");
    let (scheme, rest) = target.split_once("://").ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(malformed());
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() || authority.contains('@') {
        return Err(malformed());
    }
    let path = match path {
        "" => "/",
        path if path.starts_with('/') => path,
        path if path.starts_with('?') => path,
        _ => return Err(malformed()),
    };
    Ok((path, Some(authority.as_bytes())))
}

/// Parses a length: digits and nothing else.
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok().filter(|length| *length <= LONGEST)
}

/// Tells whether a field has the name of one that is not the client's to say, but for other strokes: many programs take both for the
/// same, as CGI does.
fn is_disguised(name: &str) -> bool {
    const NAMES: [&str; 6] =
        ["content-length", "transfer-encoding", "proxy-authorization", "proxy-connection", "keep-alive", "x-real-ip"];
    name.contains('_') && {
        let name = name.replace('_', "-").to_ascii_lowercase();
        name.starts_with("x-forwarded-") || NAMES.contains(&&*name)
    }
}

/// Tells whether an element of `Accept` asks for HTML; a quality of 0 means that it does not.
fn takes_html(element: &[u8]) -> bool {
    let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let is_html = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/html"));
    let refused = |part: &[u8]| {
        let quality = part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q="));
        quality.is_some_and(|quality| quality.iter().all(|byte| b"0.".contains(byte)))
    };
    is_html && !parts.any(refused)
}

/// Splits a list at its commas.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Tells whether an upgrade is one to HTTP/2. Who could go on with it would speak to an upstream past this proxy, under any
/// host name; the upgrade is dropped by its standard too (RFC 9113, appendix B).
fn is_http2(upgrade: &[u8]) -> bool {
    tokens(upgrade).any(|token| token.len() >= 2 && token[..2].eq_ignore_ascii_case(b"h2"))
}
