//! What the proxy says for itself when it cannot pass a request on.

use super::lab::{self, Lab, Message, get};

fn asking(host: &str, accept: Option<&str>) -> String {
    let accept = accept.map(|accept| format!("Accept: {accept}\r\n")).unwrap_or_default();
    format!("GET /some/page HTTP/1.1\r\nHost: {host}\r\n{accept}\r\n")
}

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

/// Checks an answer for programs: RFC 9457, with the code and the hint that all of ours have.
fn assert_problem(answer: &Message, status: u16) {
    assert_eq!(answer.status(), status, "{answer:?}");
    assert_eq!(answer.one("content-type"), "application/problem+json", "{answer:?}");
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["status"], status, "{problem}");
    for member in ["title", "detail", "code", "hint"] {
        let text = problem[member].as_str().unwrap_or_else(|| panic!("no {member}: {problem}"));
        assert!(!text.is_empty(), "{member} is empty: {problem}");
    }
    assert!(answer.one("cache-control").contains("no-store"), "{answer:?}");
}

/// Checks an answer for people.
fn assert_page(answer: &Message, status: u16) {
    assert_eq!(answer.status(), status, "{answer:?}");
    assert_eq!(answer.one("content-type"), "text/html; charset=utf-8");
    let page = answer.text();
    assert!(page.to_ascii_lowercase().starts_with("<!doctype html>"), "{page}");
    assert!(page.contains("<title>") && page.contains("</html>"), "{page}");
    assert!(page.len() < 10_000, "it is a small page");
    // It has to be shown as it is: nothing is loaded from elsewhere, and nothing runs.
    for reference in ["<script", "src=", "<link", "@import", "url("] {
        assert!(!page.contains(reference), "{reference} in {page}");
    }
    assert!(answer.one("cache-control").contains("no-store"), "{answer:?}");
}

async fn both(lab: &Lab, host: &str, status: u16) -> String {
    assert_problem(&lab.ask(asking(host, None)).await, status);
    assert_problem(&lab.ask(asking(host, Some("*/*"))).await, status);
    assert_problem(&lab.ask(asking(host, Some("application/json"))).await, status);
    assert_page(&lab.ask(asking(host, Some("text/html"))).await, status);
    let answer = lab.ask(asking(host, Some(BROWSER))).await;
    assert_page(&answer, status);
    answer.text()
}

#[tokio::test]
async fn an_unknown_host_is_a_404_that_says_which() {
    let lab = lab::start().await;
    assert!(both(&lab, "unknown.example", 404).await.contains("unknown.example"));
    let mut client = lab.client().await;
    // The connection is good for more, also where a body has to be passed over.
    client.send(lab::post("unknown.example", "/", "GET /x HTTP/1.1\r\nHost: unknown.example\r\n\r\n")).await;
    assert_eq!(client.answer().await.status(), 404);
    let _server = lab.serving("app.example").await;
    if client.try_send(get("app.example", "/")).await
        && let Some(answer) = client.rest_or_answer().await
    {
        assert_eq!(answer.text(), "GET /");
    }
}

#[tokio::test]
async fn an_upstream_that_refuses_is_a_502_that_says_what_to_do() {
    let lab = lab::start().await;
    let (address, _kept) = lab::refusing();
    lab.route("refused.example", &[address]).await;
    let page = both(&lab, "refused.example", 502).await;
    assert!(page.contains("refused.example"), "{page}");
    // Where it leads is none of a stranger's business.
    assert!(!page.contains(&address.to_string()), "{page}");
}

#[tokio::test]
async fn an_upstream_that_is_silent_is_a_504() {
    let lab = lab::start_with(|config| config.response_timeout = lab::seconds(1)).await;
    let upstream = lab.scripted("silent.example").await;
    let mut clients = Vec::new();
    for accept in [None, Some(BROWSER)] {
        let mut client = lab.client().await;
        client.send(asking("silent.example", accept)).await;
        clients.push((client, upstream.request().await));
    }
    assert_problem(&clients[0].0.answer().await, 504);
    assert_page(&clients[1].0.answer().await, 504);
}

/// A request that is refused is answered as readably, where its `Accept` could be read.
#[tokio::test]
async fn a_bad_request_is_a_400() {
    let lab = lab::start().await;
    let answer = lab.ask("GET / HTTP/1.1\r\nHost: app.example\r\nX : y\r\n\r\n").await;
    assert_problem(&answer, 400);
    assert!(answer.tokens("connection").contains(&"close".to_owned()));
    let answer = lab.ask(asking("app/example", Some(BROWSER))).await;
    assert_eq!(answer.status(), 400);
}

/// HEAD gets the head of the same answer.
#[tokio::test]
async fn head_gets_no_page() {
    let lab = lab::start().await;
    let mut client = lab.client().await;
    for _ in 0..2 {
        client.send(asking("unknown.example", Some(BROWSER)).replacen("GET", "HEAD", 1)).await;
        let answer = client.answer_to_head().await;
        assert_eq!((answer.status(), answer.one("content-type")), (404, "text/html; charset=utf-8"));
    }
    client.send(asking("unknown.example", None)).await;
    assert_problem(&client.answer().await, 404);
}

/// What a stranger sends comes back as text, if at all.
#[tokio::test]
async fn nothing_that_was_sent_becomes_markup() {
    let lab = lab::start().await;
    for (host, target) in [
        ("unknown.example", "/<script>alert(1)</script>"),
        ("unknown.example", "/?\"onload=alert(1)//'&amp;"),
        ("<script>alert(1)</script>", "/"),
        ("a\"><img/src=x>", "/"),
        ("b&lt;c.example", "/"),
        ("\u{fc}<b>.example", "/"),
    ] {
        for accept in [BROWSER, "*/*"] {
            let answer = lab.ask(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n")).await;
            assert!([400, 404].contains(&answer.status()), "{answer:?}");
            if answer.one("content-type").starts_with("text/html") {
                let page = answer.text();
                for markup in ["<script", "<img", "<b>", "\"onload", "alert(1)</"] {
                    assert!(!page.contains(markup), "{markup} in {page}");
                }
            } else {
                serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_take_html_gets_none() {
    let lab = lab::start().await;
    for accept in ["application/json", "text/plain", "text/*", "application/problem+json"] {
        assert_problem(&lab.ask(asking("unknown.example", Some(accept))).await, 404);
    }
    for accept in ["text/html", "text/html;q=0.1", "application/xhtml+xml, text/html;charset=utf-8"] {
        assert_page(&lab.ask(asking("unknown.example", Some(accept))).await, 404);
    }
}
