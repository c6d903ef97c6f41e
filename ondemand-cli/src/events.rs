//! Reads server-sent events: progress, and the outcome at the end.

use ondemand_http::wire::Problem;
use reqwest::Response;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::failure::{Failure, UNREACHABLE};

/// Shows the events of an answer until its outcome.
pub(crate) async fn follow<E: DeserializeOwned, T: DeserializeOwned>(
    client: &Client,
    mut response: Response,
    mut show: impl FnMut(&E),
) -> Result<T, Failure> {
    let mut parser = Parser::default();
    let broken = |e: &serde_json::Error| Failure::caused("the server's answer is not understood", e);
    while let Some(chunk) = response.chunk().await.map_err(|e| client.unanswered(e))? {
        for event in parser.feed(&chunk) {
            match event.name.as_str() {
                "progress" => {
                    // A phase that this version does not know is no reason to give up.
                    if let Ok(event) = serde_json::from_str::<E>(&event.data) {
                        show(&event);
                    }
                }
                "done" => return serde_json::from_str(&event.data).map_err(|e| broken(&e)),
                "error" => {
                    let problem: Problem = serde_json::from_str(&event.data).map_err(|e| broken(&e))?;
                    return Err(client.refused(problem));
                }
                _ => (),
            }
        }
    }
    Err(Failure::new("the server ended the work without saying how").with_exit(UNREACHABLE))
}

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    name: String,
    data: String,
}

/// Cuts a stream of bytes, however it arrives, into events.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    event: Event,
}

impl Parser {
    /// Takes bytes, and returns the events that they complete.
    fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            events.extend(self.take_line(String::from_utf8_lossy(&line).trim_end_matches('\r')));
        }
        events
    }

    fn take_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return (event != Event::default()).then_some(event);
        }
        // What has no name is a comment, which keeps the connection alive.
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            _ => (),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_the_bytes_are_cut() {
        let text =
            ":\n\nevent: progress\ndata: {\"a\":1}\n\r\n: keep-alive\n\ndata: é\ndata:2\nid: 3\n\nevent: done\n\n";
        let event = |name: &str, data: &str| Event { name: name.into(), data: data.into() };
        let expected = [event("progress", "{\"a\":1}"), event("", "é\n2"), event("done", "")];
        for size in [1, 2, 3, 7, text.len()] {
            let mut parser = Parser::default();
            let events: Vec<_> = text.as_bytes().chunks(size).flat_map(|chunk| parser.feed(chunk)).collect();
            assert_eq!(events, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_that_was_cut_off_is_none() {
        assert_eq!(Parser::default().feed(b"event: done\ndata: {}\n"), []);
    }
}
