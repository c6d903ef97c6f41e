//! Fields that come after a body.

use super::body::Malformed;
use super::request::tokens;

/// How many there may be.
const MOST: usize = 64;

/// Names that belong into the head: they say how a message is framed, for whom it is, who sends it, or what is to be done with it, and come too late for
/// that (RFC 9110, section 6.5.1). Those that are not for an upstream or a client to say are the same as in heads.
const IN_HEADS_ONLY: [&str; 43] = [
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-accel-redirect",
    "x-real-ip",
];

/// Tells whether a field may come after a body. Underscores count as hyphens, as many programs take them for the same.
pub(super) fn may_trail(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase().replace('_', "-");
    !IN_HEADS_ONLY.contains(&name.as_str()) && !name.starts_with("x-forwarded-")
}

/// Returns those of the names in a field `Trailer` that may come, or none if all may.
pub(super) fn announced(value: &[u8]) -> Option<Vec<u8>> {
    let all = tokens(value).count();
    let kept: Vec<&[u8]> = tokens(value).filter(|name| may_trail(name)).collect();
    (kept.len() < all).then(|| kept.join(&b", "[..]))
}

/// Takes a block of trailer fields, its empty line included, and returns the lines that are passed on. `named` are those that `Connection` names in the
/// head; in an answer, spaces before a colon are removed (RFC 9112, section 5.1).
pub(super) fn passed_on(block: &[u8], named: &[Vec<u8>], of_answer: bool) -> Result<Vec<u8>, Malformed> {
    let wrong = Malformed("the trailers are no header fields");
    let mut room = [httparse::EMPTY_HEADER; MOST];
    // Only a whole head is read with spaces before a colon.
    let head = if of_answer { [&b"HTTP/1.1 200 OK\r\n"[..], block].concat() } else { block.to_vec() };
    let mut answer = httparse::Response::new(&mut room);
    let fields = if of_answer {
        let mut config = httparse::ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(true);
        match config.parse_response(&mut answer, &head) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => &*answer.headers,
            _ => return Err(wrong),
        }
    } else {
        match httparse::parse_headers(&head, answer.headers) {
            Ok(httparse::Status::Complete((length, fields))) if length == head.len() => fields,
            _ => return Err(wrong),
        }
    };
    let mut lines = Vec::with_capacity(block.len());
    for field in fields {
        let name = field.name.as_bytes();
        if may_trail(name) && !named.iter().any(|named| named.eq_ignore_ascii_case(name)) {
            lines.extend_from_slice(name);
            lines.extend_from_slice(b": ");
            lines.extend_from_slice(field.value);
            lines.extend_from_slice(b"\r\n");
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_in_heads_is_dropped_in_trailers() {
        let block = b"X-Real-IP: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nContent_Length: 5\r\nProxy: evil\r\nProxy-Authorization: x\r\n\
            HOST: b\r\nTransfer-Encoding: chunked\r\nX-Hop: 1\r\nX-Checksum: good\r\ngrpc-status:0\r\n\r\n";
        for of_answer in [false, true] {
            let lines = passed_on(block, &[b"x-hop".to_vec()], of_answer).expect("fields");
            assert_eq!(String::from_utf8_lossy(&lines), "X-Checksum: good\r\ngrpc-status: 0\r\n");
            assert_eq!(passed_on(b"\r\n", &[], of_answer), Ok(Vec::new()));
        }
        assert_eq!(passed_on(b"X : a\r\n\r\n", &[], true), Ok(b"X: a\r\n".to_vec()));
        assert!(passed_on(b"X : a\r\n\r\n", &[], false).is_err());
    }

    #[test]
    fn what_is_not_passed_on_is_not_announced() {
        assert_eq!(announced(b"X-Checksum, grpc-status"), None);
        assert_eq!(announced(b"X-Real-IP"), Some(Vec::new()));
        assert_eq!(announced(b"X-Checksum,Host , A"), Some(b"X-Checksum, A".to_vec()));
    }
}
