//! The head of a request as the upstream gets it.

use std::net::IpAddr;

use super::body::Framing;
use super::request::{Kind, Request};
use super::trailers;

/// Whom a connection is with.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    pub(crate) secure: bool,
    /// The fields that are the same for all its requests.
    fields: Vec<u8>,
    /// The client, as `Forwarded` names it.
    node: String,
}

/// How heads are forwarded.
#[derive(Debug)]
pub(crate) struct Forwarding {
    /// The name by which this proxy knows its own requests.
    pub(crate) via: String,
    /// Whether what clients say about whom they forward for is kept.
    pub(crate) trust: bool,
}

impl Peer {
    pub(crate) fn new(ip: IpAddr, secure: bool) -> Self {
        let ip = ip.to_canonical();
        let proto = if secure { "https" } else { "http" };
        let fields = format!("X-Forwarded-For: {ip}\r\nX-Forwarded-Proto: {proto}\r\n").into_bytes();
        let node = match ip {
            IpAddr::V4(ip) => format!("for={ip};proto={proto}"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto={proto}"),
        };
        Self { ip, secure, fields, node }
    }

    /// Returns the fields that say for whom a request is forwarded, as `(name, value)`.
    pub(crate) fn values(&self) -> [(&'static str, String); 2] {
        let proto = if self.secure { "https" } else { "http" };
        [("x-forwarded-for", self.ip.to_string()), ("x-forwarded-proto", proto.into())]
    }

    /// Returns the element that `Forwarded` gets.
    pub(crate) fn forwarded(&self, authority: &[u8]) -> Vec<u8> {
        let mut element = self.node.clone().into_bytes();
        // What a host may be has no character that would end a quoted string.
        element.extend_from_slice(b";host=\"");
        element.extend_from_slice(authority);
        element.push(b'"');
        element
    }
}

/// Tells whether a request went through this proxy before.
pub(crate) fn is_looped(request: &Request<'_, '_>, forwarding: &Forwarding) -> bool {
    let mut vias = request.fields().filter(|(_, kind)| *kind == Kind::Via);
    vias.any(|(field, _)| memchr::memmem::find(field.value, forwarding.via.as_bytes()).is_some())
}

/// Writes the head for an upstream.
pub(crate) fn write(out: &mut Vec<u8>, head: &[u8], request: &Request<'_, '_>, peer: &Peer, forwarding: &Forwarding) {
    out.reserve(head.len() + 256);
    out.extend_from_slice(request.method.as_bytes());
    out.push(b' ');
    if request.rootless {
        out.push(b'/');
    }
    out.extend_from_slice(request.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let trusted = |kind: Kind| forwarding.trust && kind == Kind::ForwardedOther;
    let passes = |field: &httparse::Header<'_>, kind| match kind {
        Kind::Other => !request.is_named_by_connection(field.name) || field.name.eq_ignore_ascii_case("content-length"),
        // An absolute target counts instead of it.
        Kind::Host => field.value == request.authority,
        Kind::Trailer => trailers::announced(field.value).is_none(),
        Kind::Via => true,
        kind => trusted(kind),
    };
    copy_fields(out, head, request.fields().map(|(field, kind)| (field, passes(field, kind))));
    let announced = request.fields().filter(|(_, kind)| *kind == Kind::Trailer);
    for names in announced.filter_map(|(field, _)| trailers::announced(field.value)).filter(|names| !names.is_empty()) {
        field(out, b"Trailer", &names);
    }
    let host_passed = request.fields().any(|(field, kind)| kind == Kind::Host && field.value == request.authority);
    if !host_passed {
        field(out, b"Host", request.authority);
    }
    if request.framing == Framing::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    match request.upgrade {
        Some(upgrade) => {
            out.extend_from_slice(b"Connection: Upgrade\r\n");
            field(out, b"Upgrade", upgrade);
        }
        None if request.wants_trailers => out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n"),
        None => (),
    }
    for_whom(out, request, peer, forwarding);
    out.extend_from_slice(b"Via: 1.1 ");
    out.extend_from_slice(forwarding.via.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
}

/// Writes the fields that say for whom the request is forwarded (RFC 7239, and what everyone used before it).
fn for_whom(out: &mut Vec<u8>, request: &Request<'_, '_>, peer: &Peer, forwarding: &Forwarding) {
    let earlier =
        |wanted: Kind| request.fields().filter(move |(_, kind)| *kind == wanted).map(|(field, _)| field.value);
    let has = |name: &str| request.fields.iter().any(|field| field.name.eq_ignore_ascii_case(name));
    if forwarding.trust {
        list(out, b"X-Forwarded-For: ", earlier(Kind::ForwardedFor), peer.ip.to_string().as_bytes());
        let [_, (_, proto)] = peer.values();
        if !has("x-forwarded-proto") {
            field(out, b"X-Forwarded-Proto", proto.as_bytes());
        }
        if !has("x-forwarded-host") {
            field(out, b"X-Forwarded-Host", request.authority);
        }
        return list(out, b"Forwarded: ", earlier(Kind::Forwarded), &peer.forwarded(request.authority));
    }
    out.extend_from_slice(&peer.fields);
    field(out, b"X-Forwarded-Host", request.authority);
    out.extend_from_slice(b"Forwarded: ");
    out.extend_from_slice(peer.node.as_bytes());
    out.extend_from_slice(b";host=\"");
    out.extend_from_slice(request.authority);
    out.extend_from_slice(b"\"\r\n");
}

fn list<'a>(out: &mut Vec<u8>, name: &[u8], earlier: impl Iterator<Item = &'a [u8]>, last: &[u8]) {
    out.extend_from_slice(name);
    for value in earlier.filter(|value| !value.is_empty()) {
        out.extend_from_slice(value);
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(last);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Copies the fields of a head that are passed on. They mostly lie in rows, which are copied as they are. Spaces before a colon, which only answers may
/// have, are left out (RFC 9112, section 5.1).
pub(super) fn copy_fields<'b>(
    out: &mut Vec<u8>,
    head: &[u8],
    fields: impl Iterator<Item = (&'b httparse::Header<'b>, bool)>,
) {
    let mut row = None;
    for (each, passes) in fields {
        let start = each.name.as_ptr() as usize - head.as_ptr() as usize;
        let spaced = passes && head.get(start + each.name.len()) != Some(&b':');
        match (passes && !spaced, row) {
            (true, None) => row = Some(start),
            (false, Some(from)) => {
                out.extend_from_slice(&head[from..start]);
                row = None;
            }
            _ => (),
        }
        if spaced {
            field(out, each.name.as_bytes(), each.value);
        }
    }
    if let Some(from) = row {
        // Without the empty line.
        out.extend_from_slice(&head[from..head.len() - 2]);
    }
}
