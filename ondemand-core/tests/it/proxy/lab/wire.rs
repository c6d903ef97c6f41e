//! HTTP/1.1 as the standard has it and not a byte more: the judge of what the proxy sends in either direction.

/// One message, as it was on the wire. Bytes of fields are characters of Latin-1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// The request line or status line.
    pub(crate) start: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

/// Whose message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    /// An answer to a request with this method.
    Answer {
        to_head: bool,
    },
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Message {
    pub(crate) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn method(&self) -> &str {
        self.start.split(' ').next().unwrap()
    }

    pub(crate) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap()
    }

    /// Returns the values of all fields of that name, in their order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str()).collect()
    }

    /// Returns the value of the only field of that name.
    pub(crate) fn one(&self, name: &str) -> &str {
        let all = self.all(name);
        assert_eq!(all.len(), 1, "{name} of {self:?}");
        all[0]
    }

    /// Returns the elements of a list that may stand in several fields, in lower case.
    pub(crate) fn tokens(&self, name: &str) -> Vec<String> {
        let all = self.all(name).join(",").to_ascii_lowercase();
        all.split(',').map(str::trim).filter(|token| !token.is_empty()).map(ToOwned::to_owned).collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns how its body ends.
    pub(crate) fn framing(&self, kind: Kind) -> Result<Framing, String> {
        if let Kind::Answer { to_head } = kind {
            let status = self.status();
            if to_head || (100..200).contains(&status) || status == 204 || status == 304 {
                return Ok(Framing::Length(0));
            }
        }
        let (codings, lengths) = (self.all("transfer-encoding"), self.all("content-length"));
        match (&codings[..], &lengths[..]) {
            ([], []) if kind == Kind::Request => Ok(Framing::Length(0)),
            ([], []) => Ok(Framing::UntilClose),
            ([], [length]) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
                length.parse().map(Framing::Length).map_err(|e| format!("content-length {length}: {e}"))
            }
            ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            _ => Err(format!("transfer-encoding {codings:?}, content-length {lengths:?}")),
        }
    }
}

pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Reads the head of a message with its empty line; none if it isn't all there yet. Returns how long it is.
pub(crate) fn head(bytes: &[u8], kind: Kind) -> Result<Option<(Message, usize)>, String> {
    let Some((lines, length)) = lines(bytes)? else { return Ok(None) };
    let (start, fields) = lines.split_first().ok_or("an empty line instead of a head")?;
    match kind {
        Kind::Request => check_request_line(start)?,
        Kind::Answer { .. } => check_status_line(start)?,
    }
    let message =
        Message { start: start.clone(), fields: parse_fields(fields)?, body: Vec::new(), trailers: Vec::new() };
    if kind == Kind::Request && message.all("host").len() != 1 {
        return Err(format!("hosts: {:?}", message.all("host")));
    }
    message.framing(kind)?;
    Ok(Some((message, length)))
}

/// Reads lines up to an empty one, and returns how long all of it is.
fn lines(bytes: &[u8]) -> Result<Option<(Vec<String>, usize)>, String> {
    let (mut lines, mut begin) = (Vec::new(), 0);
    while let Some(length) = bytes[begin..].iter().position(|&b| b == b'\n') {
        let line = &bytes[begin..begin + length];
        let Some(line) = line.strip_suffix(b"\r") else {
            return Err(format!("a bare LF after {:?}", String::from_utf8_lossy(line)));
        };
        begin += length + 1;
        if line.is_empty() {
            return Ok(Some((lines, begin)));
        }
        if line.iter().any(|&b| (b < 0x20 && b != b'\t') || b == 0x7f) {
            return Err(format!("a control character in {:?}", String::from_utf8_lossy(line)));
        }
        lines.push(line.iter().map(|&b| char::from(b)).collect());
    }
    Ok(None)
}

fn check_request_line(line: &str) -> Result<(), String> {
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = parts[..] else { return Err(format!("request line {line:?}")) };
    // What is not ASCII should have been encoded, but is sent by many clients and means the same to everyone.
    let is_good = |b: u8| b.is_ascii_graphic() || !b.is_ascii();
    let target_is_good = target.bytes().all(is_good) && (target.starts_with('/') || target == "*");
    if !is_token(method) || !target_is_good || version != "HTTP/1.1" {
        return Err(format!("request line {line:?}"));
    }
    Ok(())
}

fn check_status_line(line: &str) -> Result<(), String> {
    let mut parts = line.splitn(3, ' ');
    let (version, status) = (parts.next(), parts.next().unwrap_or_default());
    // The reason may be empty, but its space may not be left out.
    let good = version == Some("HTTP/1.1")
        && status.len() == 3
        && status.bytes().all(|b| b.is_ascii_digit())
        && parts.next().is_some();
    if good { Ok(()) } else { Err(format!("status line {line:?}")) }
}

fn parse_fields(lines: &[String]) -> Result<Vec<(String, String)>, String> {
    let field = |line: &String| {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("a line without a colon: {line:?}"))?;
        if !is_token(name) {
            return Err(format!("field name {name:?}"));
        }
        Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
    };
    lines.iter().map(field).collect()
}

/// A body, its trailers, and how many bytes they had on the wire.
pub(crate) type Chunked = (Vec<u8>, Vec<(String, String)>, usize);

/// Reads a chunked body with its trailers; none if it isn't all there yet.
pub(crate) fn chunked(bytes: &[u8]) -> Result<Option<Chunked>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(length) = bytes[at..].iter().position(|&b| b == b'\n') else { return Ok(None) };
        let line = String::from_utf8_lossy(&bytes[at..at + length]).into_owned();
        let Some(line) = line.strip_suffix('\r') else {
            return Err(format!("a bare LF after the chunk size {line:?}"));
        };
        let size = line.split(';').next().unwrap_or_default();
        if line.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f)
            || size.is_empty()
            || size.len() > 16
            || !size.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Err(format!("chunk size {line:?}"));
        }
        let size = usize::from_str_radix(size, 16).map_err(|e| format!("chunk size {line:?}: {e}"))?;
        at += length + 1;
        if size == 0 {
            let Some((trailers, length)) = lines(&bytes[at..])? else { return Ok(None) };
            let trailers = parse_fields(&trailers)?;
            let forbidden = ["content-length", "transfer-encoding", "host", "connection"];
            if let Some(bad) = trailers.iter().find(|(name, _)| forbidden.contains(&&*name.to_ascii_lowercase())) {
                return Err(format!("trailer {bad:?}"));
            }
            return Ok(Some((body, trailers, at + length)));
        }
        let Some(end) = at.checked_add(size).and_then(|end| end.checked_add(2)) else {
            return Err(format!("chunk size {line:?}"));
        };
        let Some(chunk) = bytes.get(at..end) else { return Ok(None) };
        let Some(data) = chunk.strip_suffix(b"\r\n") else { return Err("no CRLF after a chunk".into()) };
        body.extend_from_slice(data);
        at = end;
    }
}

/// Reads one message; none if it isn't all there yet. One that ends with the connection is the rest of the bytes.
pub(crate) fn message(bytes: &[u8], kind: Kind) -> Result<Option<(Message, usize)>, String> {
    let Some((mut message, begin)) = head(bytes, kind)? else { return Ok(None) };
    match message.framing(kind)? {
        Framing::Length(length) => {
            let Some(body) = bytes[begin..].get(..length) else { return Ok(None) };
            message.body = body.to_vec();
            Ok(Some((message, begin + length)))
        }
        Framing::Chunked => {
            let Some((body, trailers, length)) = chunked(&bytes[begin..])? else { return Ok(None) };
            (message.body, message.trailers) = (body, trailers);
            Ok(Some((message, begin + length)))
        }
        Framing::UntilClose => {
            message.body = bytes[begin..].to_vec();
            Ok(Some((message, bytes.len())))
        }
    }
}

/// Reads requests one after the other. Returns them, and whether something incomplete follows the last.
pub(crate) fn requests(mut bytes: &[u8]) -> Result<(Vec<Message>, bool), String> {
    let mut found = Vec::new();
    while let Some((message, length)) = message(bytes, Kind::Request)? {
        found.push(message);
        bytes = &bytes[length..];
    }
    Ok((found, !bytes.is_empty()))
}

#[test]
fn the_judge_is_strict() {
    let good = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nA: \t \r\n\r\n",
    ];
    for text in good {
        let (found, rest) = requests(text.as_bytes()).unwrap();
        assert_eq!((found.len(), rest), (1, false), "{text:?}");
        // Cut short anywhere, it is no request.
        for end in 1..text.len() {
            let (found, rest) = requests(&text.as_bytes()[..end]).unwrap();
            assert_eq!((found.len(), rest), (0, true), "{:?}", &text[..end]);
        }
        assert_eq!(requests(text.repeat(3).as_bytes()).unwrap().0.len(), 3);
    }
    let bad = [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for text in bad {
        assert!(requests(text.as_bytes()).is_err(), "{text:?}");
    }
}
