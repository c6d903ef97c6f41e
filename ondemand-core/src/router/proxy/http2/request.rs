//! The head of a request of HTTP/2 in HTTP/1.1.

use http::header::{self, HeaderMap};
use http::request::Parts;
use http::{Method, header::HeaderValue};

use super::body::write_field;
use crate::router::proxy::host;
use crate::router::proxy::http1::body::Framing;
use crate::router::proxy::http1::request::parse_length;

/// Writes the head that means the same in HTTP/1.1, and returns what framing its body has there.
///
/// # Errors
/// What is wrong with the request, where the two versions could be understood differently.
pub(super) fn write(out: &mut Vec<u8>, parts: &Parts, has_body: bool) -> Result<Framing, &'static str> {
    let authority = authority(parts)?;
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    let target = match parts.uri.path_and_query() {
        _ if parts.method == Method::CONNECT => std::str::from_utf8(authority).unwrap_or_default(),
        Some(target) if !target.as_str().is_empty() => target.as_str(),
        _ => "/",
    };
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_field(out, "Host", authority);
    let framing = framing(parts, has_body)?;
    for (name, value) in &parts.headers {
        let written_anew = [header::HOST, header::CONTENT_LENGTH, header::COOKIE];
        // The expectation is met: this end takes the body at once, and HTTP/2 has frames to stop it.
        let dropped = [header::EXPECT, header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];
        if written_anew.contains(name) || dropped.contains(name) || name == "keep-alive" || name == "proxy-connection" {
            continue;
        }
        write_field(out, name.as_str(), value.as_bytes());
    }
    cookies(out, &parts.headers);
    match framing {
        Framing::Length(length) => write_field(out, "Content-Length", length.to_string().as_bytes()),
        Framing::Chunked => write_field(out, "Transfer-Encoding", b"chunked"),
        // Some servers want a length of these, even where there is nothing (RFC 9110, section 8.6).
        _ if matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) => {
            write_field(out, "Content-Length", b"0");
        }
        _ => (),
    }
    out.extend_from_slice(b"\r\n");
    Ok(framing)
}

/// Returns whom the request is for. A `Host` beside `:authority` must say the same (RFC 9113, section 8.3.1), else one program
/// would route by this and another by that.
fn authority(parts: &Parts) -> Result<&[u8], &'static str> {
    let mut hosts = parts.headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err("the request has more than one Host");
    }
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    match (authority, host) {
        (Some(authority), Some(host)) => {
            let same = authority.eq_ignore_ascii_case(host) || host::normalise(authority) == host::normalise(host);
            if same { Ok(authority) } else { Err("the request's Host and :authority differ") }
        }
        (Some(authority), None) => Ok(authority),
        (None, Some(host)) => Ok(host),
        (None, None) => Err("the request has no :authority"),
    }
}

fn framing(parts: &Parts, has_body: bool) -> Result<Framing, &'static str> {
    let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
    let (length, another) = (lengths.next(), lengths.next());
    if another.is_some() {
        return Err("the request has more than one Content-Length");
    }
    let length = match length {
        Some(length) => Some(parse_length(length.as_bytes()).ok_or("the Content-Length is no number")?),
        None => None,
    };
    match (length, has_body) {
        (None, false) | (Some(0), _) => Ok(Framing::None),
        (Some(_), false) => Err("the request has a Content-Length and no body"),
        (Some(length), true) => Ok(Framing::Length(length)),
        (None, true) => Ok(Framing::Chunked),
    }
}

/// Writes the pieces into which HTTP/2 may cut cookies as one field (RFC 9113, section 8.2.3).
fn cookies(out: &mut Vec<u8>, headers: &HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let Some(first) = crumbs.next() else {
        return;
    };
    out.extend_from_slice(b"Cookie: ");
    out.extend_from_slice(first.as_bytes());
    for crumb in crumbs {
        out.extend_from_slice(b"; ");
        out.extend_from_slice(crumb.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn written(request: http::request::Builder, has_body: bool) -> Result<(String, Framing), &'static str> {
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let mut out = Vec::new();
        let framing = write(&mut out, &parts, has_body)?;
        Ok((String::from_utf8(out).expect("text"), framing))
    }

    #[test]
    fn a_request_means_the_same() {
        let request = Request::get("https://a.example/x?y=1").header("accept", "*/*").header("te", "trailers");
        let (head, framing) = written(request, false).expect("a head");
        assert_eq!(head, "GET /x?y=1 HTTP/1.1\r\nHost: a.example\r\naccept: */*\r\nte: trailers\r\n\r\n");
        assert_eq!(framing, Framing::None);

        let (head, framing) = written(Request::post("https://a.example"), true).expect("a head");
        assert_eq!(head, "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(framing, Framing::Chunked);

        let request = Request::put("https://a.example/").header("content-length", "5").header("expect", "100-continue");
        let (head, framing) = written(request, true).expect("a head");
        assert_eq!(head, "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(framing, Framing::Length(5));

        let (head, _) = written(Request::post("https://a.example/"), false).expect("a head");
        assert!(head.ends_with("\r\nContent-Length: 0\r\n\r\n"), "{head}");
        let (head, _) = written(Request::options("*").header("host", "a.example"), false).expect("a head");
        assert!(head.starts_with("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n"), "{head}");
    }

    #[test]
    fn crumbs_make_one_cookie() {
        let request =
            Request::get("https://a.example/").header("cookie", "a=1").header("x", "y").header("cookie", "b=2");
        let (head, _) = written(request, false).expect("a head");
        assert!(head.ends_with("x: y\r\nCookie: a=1; b=2\r\n\r\n"), "{head}");
    }

    #[test]
    fn what_could_be_understood_differently_is_refused() {
        let get = || Request::get("https://a.example/");
        assert!(written(get().header("host", "A.example:443"), false).is_ok());
        for (request, has_body) in [
            (get().header("host", "b.example"), false),
            (get().header("host", "a.example").header("host", "a.example"), false),
            (Request::get("/"), false),
            (get().header("content-length", "1").header("content-length", "1"), true),
            (get().header("content-length", "+1"), true),
            (get().header("content-length", "1"), false),
        ] {
            let shown = format!("{request:?}");
            assert!(written(request, has_body).is_err(), "{shown}");
        }
    }

    #[test]
    fn what_belongs_to_a_connection_is_dropped() {
        let mut request = Request::get("https://a.example/");
        for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
            request = request.header(name, "x");
        }
        let (head, _) = written(request, false).expect("a head");
        assert_eq!(head, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    }
}
