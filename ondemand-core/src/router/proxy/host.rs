//! Whom a request is for.

use std::borrow::Cow;

use crate::name::Hostname;

/// Turns what a `Host` field or an `:authority` says into a host name as the table has it: lower case, no port, no trailing dot,
/// international names in their ASCII form. None if it cannot be one.
pub(super) fn normalise(authority: &[u8]) -> Option<Cow<'_, str>> {
    let host = without_port(authority)?;
    let host = match host.strip_suffix(b".") {
        Some(b"") | None => host,
        Some(host) => host,
    };
    if host.len() > 253 {
        return None;
    }
    let text = std::str::from_utf8(host).ok()?;
    if !text.is_ascii() {
        // By the rules that names of routes are read by.
        return Hostname::parse_lenient(text).ok().map(|host| Cow::Owned(host.as_str().to_owned()));
    }
    if host.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(byte)) {
        return Some(Cow::Borrowed(text));
    }
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    if host.iter().all(fits) {
        return Some(Cow::Owned(text.to_ascii_lowercase()));
    }
    // An address; no route has that name, but it is well-formed.
    let inner = host.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let is_address = std::str::from_utf8(inner).ok()?.parse::<std::net::Ipv6Addr>().is_ok();
    is_address.then_some(Cow::Borrowed(text))
}

/// Takes the port away.
fn without_port(authority: &[u8]) -> Option<&[u8]> {
    let Some(colon) = memchr::memrchr(b':', authority) else {
        return Some(authority);
    };
    if authority.starts_with(b"[") && authority.ends_with(b"]") {
        return Some(authority);
    }
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    (port.len() <= 5 && port.iter().all(u8::is_ascii_digit)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_however_it_is_written() {
        for (given, expected) in [
            ("a.example", "a.example"),
            ("a.example:8000", "a.example"),
            ("a.example:", "a.example"),
            ("A.Example:80", "a.example"),
            ("a.example.", "a.example"),
            ("a.example.:80", "a.example"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example:1", "xn--bcher-kva.example"),
            ("bücher.example。", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("my_host", "my_host"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(normalise(given.as_bytes()).as_deref(), Some(expected), "{given}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in [
            "a b", "a:b", "a:123456", "a@b", "a/b", "[::1", "::1]", "[::1]x", "[x]", "a,b", "a\u{0}", "a:80:90", "a%41",
        ] {
            assert_eq!(normalise(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(normalise(b"\xff"), None);
        assert_eq!(normalise(&[b'a'; 254]), None);
    }
}
