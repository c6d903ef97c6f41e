//! Tokens that stand in place of values until the text around them was read.
//!
//! A token is a letter, 32 random digits and a number: no value can hold one of this rendering but by luck that does not
//! happen, and to YAML it is a word like any other.

use std::sync::{Mutex, PoisonError};

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind};

use crate::compose::Substitutes;
use crate::compose::tree::Value;
use crate::error::Result;
use crate::name::{hex, random};

/// The values of one rendering.
#[derive(Debug)]
pub(super) struct Tokens {
    prefix: String,
    values: Mutex<Vec<Value>>,
}

const CUT: &str = "text that was captured may be put in whole, and not cut";

/// What ends a token, so that digits may follow it.
const END: char = 'z';

impl Tokens {
    pub(super) fn new() -> Result<Self> {
        let mut bytes = [0; 16];
        random(&mut bytes)?;
        Ok(Self { prefix: format!("q{}n", hex(&bytes)), values: Mutex::new(Vec::new()) })
    }

    /// Returns a token for a value, and the size of what it stands for.
    pub(super) fn token(&self, value: &minijinja::Value) -> Result<(String, usize), Error> {
        let value = match value.kind() {
            ValueKind::Bool => Value::Bool(value.is_true()),
            ValueKind::Number if crate::compose::tree::is_number(&value.to_string()) => {
                Value::Number(value.to_string())
            }
            ValueKind::Number => Value::String(value.to_string()),
            // Text that was captured holds tokens itself.
            ValueKind::String => {
                let text = self.replace(value.as_str().unwrap_or_default());
                if self.holds_piece(&text) {
                    return Err(Error::new(ErrorKind::InvalidOperation, CUT));
                }
                Value::String(text)
            }
            ValueKind::Undefined => return Err(ErrorKind::UndefinedError.into()),
            ValueKind::None => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    "the value is none; give it with `|default(…, true)`",
                ));
            }
            kind => {
                let detail = format!("a {kind} cannot be put in; loop over it, or use `|join`");
                return Err(Error::new(ErrorKind::InvalidOperation, detail));
            }
        };
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let size = value.text_len();
        values.push(value);
        Ok((format!("{}{}{END}", self.prefix, values.len() - 1), size))
    }

    /// Returns text with values in place of its tokens.
    pub(super) fn replace(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(&self.prefix) {
            out.push_str(&rest[..at]);
            let after = &rest[at + self.prefix.len()..];
            let Some((value, end)) = self.leading(after) else {
                out.push_str(&self.prefix);
                rest = after;
                continue;
            };
            match value {
                Value::String(text) | Value::Number(text) => out.push_str(&text),
                Value::Bool(value) => out.push_str(if value { "true" } else { "false" }),
                Value::Null | Value::Sequence(_) | Value::Mapping(_) => {}
            }
            rest = &after[end..];
        }
        out.push_str(rest);
        out
    }

    /// Tells whether text holds a token or a piece of one.
    fn holds_piece(&self, text: &str) -> bool {
        text.contains(&self.prefix[..12])
    }

    /// Returns the value whose number begins the text, and where the token ends.
    fn leading(&self, text: &str) -> Option<(Value, usize)> {
        let end = text.find(END)?;
        let index: usize = text[..end].parse().ok()?;
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        Some((values.get(index)?.clone(), end + END.len_utf8()))
    }
}

impl Substitutes for Tokens {
    fn resolve(&self, text: &str, plain: bool) -> Result<Option<Value>, String> {
        if !self.holds_piece(text) {
            return Ok(None);
        }
        if plain
            && let Some(rest) = text.strip_prefix(&self.prefix)
            && let Some((value, end)) = self.leading(rest)
            && end == rest.len()
        {
            return Ok(Some(value));
        }
        let text = self.replace(text);
        if self.holds_piece(&text) {
            return Err(CUT.into());
        }
        Ok(Some(Value::String(text)))
    }
}
