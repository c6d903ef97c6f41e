//! Requests that must be refused, and of which nothing may be heard behind the proxy.

use std::fmt::Write;

use super::{Lab, Server, get, start};

/// Sends each of these on a connection of its own, with a request behind it that must never be heard of. Each is to be refused with one of the
/// statuses, and its connection closed; and no upstream may have got a whole request from it.
pub(crate) async fn refused(
    lab: &Lab,
    server: &Server,
    statuses: &[u16],
    requests: impl IntoIterator<Item = (String, Vec<u8>)>,
) {
    let mut wrong = String::new();
    for (name, bytes) in requests {
        let before = server.requests().len();
        let mut client = lab.client().await;
        // It may be refused before all of it was sent.
        let _ = client.try_send(&bytes).await && client.try_send(get("app.example", "/smuggled")).await;
        client.shut_down_writing().await;
        match client.try_answer().await {
            Ok(answer) if statuses.contains(&answer.status()) => {
                let rest = client.rest().await;
                if !rest.is_empty() {
                    let _ = writeln!(wrong, "{name}: answered twice: {:?}", String::from_utf8_lossy(&rest));
                }
            }
            Ok(answer) => {
                let _ = writeln!(wrong, "{name}: {}: {:?}", answer.start, answer.text());
            }
            Err(why) => {
                let _ = writeln!(wrong, "{name}: no answer: {why}");
            }
        }
        server.settled().await;
        let forwarded = server.requests();
        if forwarded.len() != before {
            let _ = writeln!(wrong, "{name}: FORWARDED: {:?}", &forwarded[before..]);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    lab.assert_alive().await;
}

/// Names each request after itself.
pub(crate) fn named<T: AsRef<[u8]>>(requests: impl IntoIterator<Item = T>) -> Vec<(String, Vec<u8>)> {
    let name = |bytes: &[u8]| bytes[..bytes.len().min(300)].escape_ascii().to_string();
    requests.into_iter().map(|bytes| (name(bytes.as_ref()), bytes.as_ref().to_vec())).collect()
}

/// A request with these fields besides its host, and this after its head.
pub(crate) fn with_fields(fields: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: app.example\r\n{fields}\r\n\r\n{body}")
}

pub(crate) fn with_body(body: &str) -> String {
    with_fields("Transfer-Encoding: chunked", body)
}

pub(crate) async fn lab() -> (Lab, Server) {
    let lab = start().await;
    let server = lab.serving("app.example").await;
    (lab, server)
}
