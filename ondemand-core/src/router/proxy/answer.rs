//! What the proxy answers by itself: a small page for browsers, a problem (RFC 9457) for everyone else.

use std::fmt::Write;
use std::time::Duration;

use crate::error::Code;

/// An answer of the proxy's own, and whose fault it is that there is no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: Code,
    /// What is wrong, in one sentence for people.
    pub(super) detail: String,
    /// What can be done about it.
    pub(super) hint: &'static str,
    /// After how many seconds it may be tried again.
    pub(super) retry_after: Option<u64>,
    /// Where else it is.
    pub(super) location: Option<String>,
}

impl Refusal {
    fn new(status: u16, code: Code, detail: impl Into<String>, hint: &'static str) -> Self {
        Self { status, code, detail: detail.into(), hint, retry_after: None, location: None }
    }

    /// The client does not speak HTTP as it should.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(400, Code::InvalidInput, detail, "send a well-formed HTTP/1.1 request")
    }

    pub(super) fn timed_out() -> Self {
        Self::new(408, Code::InvalidInput, "the request did not arrive in time", "send it again, without pauses")
    }

    pub(super) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(431, Code::QuotaExceeded, detail, "send fewer or smaller header fields; cookies are often the reason")
    }

    /// The client asks for what this proxy does not do.
    pub(super) fn unsupported(status: u16, detail: impl Into<String>) -> Self {
        Self::new(status, Code::Unsupported, detail, "send a plain HTTP request to the name of a route")
    }

    pub(super) fn unknown_host(host: &str) -> Self {
        let hint = "check the name; if what it stands for has expired or was deleted, create it again";
        Self::new(404, Code::NotFound, format!("nothing is known by the name {host}"), hint)
    }

    /// The request went through this proxy before.
    pub(super) fn looped(host: &str) -> Self {
        let hint = "the route leads back to the proxy; set it to the address of the service itself";
        Self::new(508, Code::Conflict, format!("requests for {host} go round in a circle"), hint)
    }

    pub(super) fn unreachable(host: &str) -> Self {
        let hint = "what runs there may have crashed or be starting; read its log, or try again in a moment";
        Self::new(502, Code::Backend, format!("nothing accepts connections where {host} leads"), hint)
    }

    pub(super) fn bad_upstream(host: &str, what: &str) -> Self {
        let hint = "what runs there failed, or does not speak HTTP; read its log";
        Self::new(502, Code::Backend, format!("what {host} leads to {what}"), hint)
    }

    pub(super) fn silent(host: &str, waited: Duration) -> Self {
        let hint = "what runs there is overloaded or stuck; read its log, or try again later";
        let detail = format!("what {host} leads to did not answer within {} s", waited.as_secs());
        Self::new(504, Code::NotReady, detail, hint)
    }

    /// The route stayed pending.
    pub(super) fn pending(host: &str, waited: Duration) -> Self {
        let hint = "it is still being made; try again in a moment";
        let detail = format!("{host} was not ready within {} s", waited.as_secs());
        Self { retry_after: Some(5), ..Self::new(503, Code::NotReady, detail, hint) }
    }

    /// Too many wait for the route already.
    pub(super) fn crowded(host: &str) -> Self {
        let hint = "it is still being made; try again in a moment";
        let detail = format!("{host} is not ready, and too many requests wait for it already");
        Self { retry_after: Some(5), ..Self::new(503, Code::QuotaExceeded, detail, hint) }
    }

    /// Too many connections are open.
    pub(super) fn full(detail: &str) -> Self {
        let hint = "close connections that are not used, or try again later";
        Self { retry_after: Some(5), ..Self::new(503, Code::QuotaExceeded, detail, hint) }
    }

    pub(super) fn moved(location: String) -> Self {
        let hint = "use https";
        Self { location: Some(location), ..Self::new(308, Code::Unsupported, "this is served over HTTPS only", hint) }
    }

    /// Returns the content type and the body.
    pub(super) fn body(&self, html: bool) -> (&'static str, String) {
        let title = title(self.status);
        if html {
            let (detail, hint) = (escape(&self.detail), escape(self.hint));
            let body = format!(
                "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status} {title}</title>\
                 <meta name=\"viewport\" content=\"width=device-width\"><style>\
                 body{{font:1.1em/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1em;color:#222;background:#fff}}\
                 h1{{font-size:1.5em}}small{{color:#666}}\
                 @media(prefers-color-scheme:dark){{body{{color:#ddd;background:#181818}}small{{color:#999}}}}\
                 </style></head><body><h1>{title}</h1><p>{detail}.</p><p>{hint}.</p><small>{status} · ondemand</small></body></html>\n",
                status = self.status,
                hint = capitalise(&hint),
                detail = capitalise(&detail),
            );
            return ("text/html; charset=utf-8", body);
        }
        let problem = serde_json::json!({
            "type": format!("urn:ondemand:error:{}", self.code),
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "hint": self.hint,
        });
        ("application/problem+json", format!("{problem}\n"))
    }

    /// Writes the answer as HTTP/1.1.
    pub(super) fn write(&self, out: &mut Vec<u8>, html: bool, head_only: bool, keep_alive: bool) {
        let (kind, body) = self.body(html);
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\n",
            self.status,
            title(self.status),
            body.len()
        );
        // Writing to a string never fails.
        if let Some(seconds) = self.retry_after {
            let _ = write!(head, "Retry-After: {seconds}\r\n");
        }
        if let Some(location) = &self.location {
            let _ = write!(head, "Location: {location}\r\n");
        }
        head.push_str(if keep_alive { "\r\n" } else { "Connection: close\r\n\r\n" });
        out.extend_from_slice(head.as_bytes());
        if !head_only {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

fn title(status: u16) -> &'static str {
    match status {
        308 => "Permanent Redirect",
        400 => "Bad Request",
        404 => "Not Found",
        408 => "Request Timeout",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "Error",
    }
}

fn capitalise(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_safe_and_says_what_to_do() {
        let refusal = Refusal::bad_upstream("<script>&\"", "failed");
        let (kind, page) = refusal.body(true);
        assert!(kind.starts_with("text/html"));
        assert!(page.contains("&lt;script&gt;&amp;&quot;") && !page.contains("<script>"), "{page}");
        assert!(page.contains("read its log"), "{page}");
    }

    #[test]
    fn a_problem_has_a_code_and_a_hint() {
        let (kind, body) = Refusal::unknown_host("a.example").body(false);
        assert_eq!(kind, "application/problem+json");
        let problem: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((problem["status"].as_u64(), problem["code"].as_str()), (Some(404), Some("not_found")));
        assert!(problem["hint"].as_str().is_some_and(|hint| hint.contains("check the name")), "{problem}");
    }

    #[test]
    fn an_answer_to_head_has_a_length_and_no_body() {
        let mut out = Vec::new();
        Refusal::full("x").write(&mut out, false, true, false);
        let text = String::from_utf8(out).expect("text");
        assert!(text.ends_with("\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"), "{text}");
        assert!(text.contains("Content-Length: ") && !text.contains("Content-Length: 0"), "{text}");
    }
}
