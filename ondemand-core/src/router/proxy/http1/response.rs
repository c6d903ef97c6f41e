//! The head of an answer: what an upstream says, and what the client gets of it.

use std::mem::MaybeUninit;

use super::body::Framing;
use super::forward::{self, copy_fields};
use super::request::{Fields, MOST_FIELDS, parse_length, tokens};
use super::trailers;

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Response<'h, 'b> {
    pub(crate) status: u16,
    reason: &'b str,
    minor: u8,
    pub(crate) fields: &'h [httparse::Header<'b>],
    pub(crate) framing: Framing,
    /// Whether the upstream takes another request on this connection after it.
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: Option<&'b [u8]>,
    /// The fields that `Connection` names: they are for this proxy only.
    named: Vec<&'b [u8]>,
}

/// How the client is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// 1 for a client of HTTP/1.1, 0 for one of HTTP/1.0.
    pub(crate) minor: u8,
    /// Whether the connection with the client goes on.
    pub(crate) keep_alive: bool,
    /// Whether the body is sent in chunks.
    pub(crate) chunked: bool,
}

/// An answer that cannot be passed on, with what is wrong with it.
pub(crate) type Unusable = &'static str;

impl<'h, 'b> Response<'h, 'b> {
    /// Parses a head that [`Scanner`](super::scan::Scanner) found, its empty line included.
    pub(crate) fn parse(head: &'b [u8], room: &'h mut Fields<'b>, to_head: bool) -> Result<Self, Unusable> {
        let mut parsed = httparse::Response::new(&mut []);
        let mut config = httparse::ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(true);
        match config.parse_response_with_uninit_headers(&mut parsed, head, &mut room[..]) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err("answered with too many header fields"),
            _ => return Err("answered with something that is not HTTP"),
        }
        let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
            return Err("answered with something that is not HTTP");
        };
        if !(100..=999).contains(&status) {
            return Err("answered with something that is not HTTP");
        }
        let mut this = Self {
            status,
            reason: parsed.reason.unwrap_or_default(),
            minor,
            fields: parsed.headers,
            framing: Framing::UntilClose,
            keep_alive: minor == 1,
            upgrade: None,
            named: Vec::new(),
        };
        this.read_fields(to_head)?;
        Ok(this)
    }

    fn read_fields(&mut self, to_head: bool) -> Result<(), Unusable> {
        let (mut length, mut coding) = (None, None);
        for field in self.fields {
            let is = |other: &str| field.name.eq_ignore_ascii_case(other);
            match field.name.len() {
                7 if is("upgrade") => self.upgrade = Some(field.value),
                10 if is("connection") => {
                    for token in tokens(field.value) {
                        if token.eq_ignore_ascii_case(b"close") {
                            self.keep_alive = false;
                        } else if token.eq_ignore_ascii_case(b"keep-alive") {
                            self.keep_alive = true;
                        } else if !token.eq_ignore_ascii_case(b"upgrade") {
                            self.named.push(token);
                        }
                    }
                }
                14 if is("content-length") => {
                    let parsed = parse_length(field.value).ok_or("answered with a Content-Length that is no number")?;
                    if length.replace(parsed).is_some() {
                        return Err("answered with more than one Content-Length");
                    }
                }
                17 if is("transfer-encoding") && coding.replace(field.value).is_some() => {
                    return Err("answered with more than one Transfer-Encoding");
                }
                _ => (),
            }
        }
        self.framing = match (coding, length) {
            (Some(_), Some(_)) => return Err("answered with a Content-Length and a Transfer-Encoding"),
            (Some(_), None) if self.minor == 0 => return Err("answered with a Transfer-Encoding in HTTP/1.0"),
            (Some(coding), None) if !coding.eq_ignore_ascii_case(b"chunked") => {
                return Err("answered with a Transfer-Encoding that is not just chunked");
            }
            // These have no body, whatever their fields say (RFC 9112, section 6.3).
            _ if to_head || self.status < 200 || matches!(self.status, 204 | 304) => Framing::None,
            (Some(_), None) => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::UntilClose,
        };
        self.keep_alive &= self.framing != Framing::UntilClose;
        Ok(())
    }

    /// Returns the fields that `Connection` names.
    pub(crate) fn named_by_connection(&self) -> Vec<Vec<u8>> {
        self.named.iter().map(|name| name.to_vec()).collect()
    }

    /// Tells whether a field is for the client.
    pub(crate) fn passes(&self, field: &httparse::Header<'_>) -> bool {
        let is = |other: &str| field.name.eq_ignore_ascii_case(other);
        let dropped = match field.name.len() {
            2 => is("te"),
            7 => is("upgrade") || is("trailer") && trailers::announced(field.value).is_some(),
            10 => is("connection") || is("keep-alive"),
            14 => is("content-length") && (self.status < 200 || self.status == 204),
            16 => is("proxy-connection"),
            17 => is("transfer-encoding"),
            _ => false,
        };
        !dropped
            && (self.named.is_empty()
                || is("content-length")
                || !self.named.iter().any(|token| token.eq_ignore_ascii_case(field.name.as_bytes())))
    }

    /// Writes the head for a client.
    pub(crate) fn write(&self, out: &mut Vec<u8>, head: &[u8], manner: Manner) {
        out.reserve(head.len() + 64);
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(&[digit(self.status / 100), digit(self.status / 10), digit(self.status), b' ']);
        out.extend_from_slice(self.reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        copy_fields(out, head, self.fields.iter().map(|field| (field, self.passes(field))));
        let announced = self.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("trailer"));
        for names in announced.filter_map(|field| trailers::announced(field.value)).filter(|names| !names.is_empty()) {
            forward::field(out, b"Trailer", &names);
        }
        if manner.chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        let upgrade = self.upgrade.filter(|_| matches!(self.status, 101 | 426));
        if let Some(upgrade) = upgrade {
            out.extend_from_slice(b"Upgrade: ");
            out.extend_from_slice(upgrade);
            out.extend_from_slice(b"\r\n");
        }
        let close = self.status >= 200 && !manner.keep_alive;
        let keep = self.status >= 200 && manner.keep_alive && manner.minor == 0;
        let connection: &[u8] = match (upgrade.is_some(), close) {
            (true, true) => b"Connection: Upgrade, close\r\n",
            (true, false) => b"Connection: Upgrade\r\n",
            (false, true) => b"Connection: close\r\n",
            (false, false) if keep => b"Connection: keep-alive\r\n",
            (false, false) => b"",
        };
        out.extend_from_slice(connection);
        out.extend_from_slice(b"\r\n");
    }
}

/// Has an answer of a later HTTP/1 be one of HTTP/1.1.
pub(crate) fn take_for_1_1(head: &mut [u8]) {
    if let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'2'..=b'9', b' ', ..] = head {
        *minor = b'1';
    }
}

/// Returns the last digit of a number.
fn digit(number: u16) -> u8 {
    b'0' + u8::try_from(number % 10).unwrap_or(0)
}

/// Makes room for the fields of a head.
pub(crate) fn fields<'b>() -> Fields<'b> {
    [const { MaybeUninit::uninit() }; MOST_FIELDS]
}
