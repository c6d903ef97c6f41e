//! The only way out: data to standard output, words for people to standard error.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

use reqwest::Response;
use serde::Serialize;

use crate::client::Client;
use crate::failure::Failure;

/// Writes a line of data.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::caused("writing JSON", &e))?;
    line(text)
}

/// Writes data as it is. A reader that has had enough, such as `head`, ends the program quietly.
pub(crate) fn bytes(data: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(data).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::silent()),
        Err(error) => Err(Failure::caused("writing to standard output", &error)),
    }
}

/// Writes an answer's body as it arrives.
pub(crate) async fn copy(client: &Client, mut response: Response) -> Result<(), Failure> {
    while let Some(chunk) = response.chunk().await.map_err(|e| client.unanswered(e))? {
        bytes(&chunk)?;
    }
    Ok(())
}

/// Writes a line for people. There is nobody to tell if that fails.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Tells whether a person reads along.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}
