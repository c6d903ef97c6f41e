//! A value of the document with its full name, and the ways to read it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::notation;
use super::problem::{Place, Problem, Read};
use super::tree::{Key, Node, Value};
use crate::error::shorten;

/// A value with its full name: `services.back.deploy.replicas`.
#[derive(Debug, Clone)]
pub(crate) struct Field<'a> {
    path: String,
    key: Option<&'a Key>,
    pub(crate) node: &'a Node,
}

impl<'a> Field<'a> {
    /// Takes a value by the name that errors call it.
    pub(crate) fn new(path: impl Into<String>, node: &'a Node) -> Self {
        Self { path: path.into(), key: None, node }
    }

    /// Returns its own key, without those above.
    pub(crate) fn name(&self) -> &'a str {
        self.key.map_or("", |key| &key.text)
    }

    /// Returns where its key stands.
    pub(crate) fn key_place(&self) -> Place {
        self.key.map_or(self.node.place, |key| key.place)
    }

    /// Tells whether its key is one that everyone is to ignore.
    pub(crate) fn is_extension(&self) -> bool {
        self.name().starts_with("x-")
    }

    pub(crate) fn is_null(&self) -> bool {
        self.node.value == Value::Null
    }

    /// Says what is wrong with its value.
    pub(crate) fn problem(&self, reason: impl std::fmt::Display) -> Problem {
        Problem::new(self.node.place, format!("{}: {reason}", self.path))
    }

    /// Says that it may not be there.
    pub(crate) fn unsupported(&self) -> Problem {
        Problem::new(self.key_place(), format!("{}: this key is not supported", self.path))
    }

    /// Says that it may not be there, and what to do instead.
    pub(crate) fn unsupported_because(&self, hint: &str) -> Problem {
        Problem::new(self.key_place(), format!("{}: this key is not supported: {hint}", self.path))
    }

    fn expected(&self, what: &str) -> Problem {
        self.problem(format!("it must be {what}, and it is {}", self.node.value.kind()))
    }

    /// Reads a mapping; nothing is an empty one.
    pub(crate) fn entries(&self) -> Read<Vec<Field<'a>>> {
        match &self.node.value {
            Value::Null => Ok(Vec::new()),
            Value::Mapping(entries) => Ok(entries
                .iter()
                .map(|(key, node)| {
                    let text = &key.text;
                    let path = if self.path.is_empty() { text.clone() } else { format!("{}.{text}", self.path) };
                    Field { path, key: Some(key), node }
                })
                .collect()),
            _ => Err(self.expected("a mapping")),
        }
    }

    /// Reads a list; nothing is an empty one.
    pub(crate) fn items(&self) -> Read<Vec<Field<'a>>> {
        match &self.node.value {
            Value::Null => Ok(Vec::new()),
            Value::Sequence(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(i, node)| Field { path: format!("{}[{i}]", self.path), key: None, node })
                .collect()),
            _ => Err(self.expected("a list")),
        }
    }

    pub(crate) fn is_mapping(&self) -> bool {
        matches!(self.node.value, Value::Mapping(_))
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::Sequence(_))
    }

    /// Reads text; numbers and booleans are text too.
    pub(crate) fn text(&self) -> Read<String> {
        match &self.node.value {
            Value::String(text) | Value::Number(text) => {
                if text.contains('\0') {
                    return Err(self.problem("it holds a NUL character"));
                }
                Ok(text.clone())
            }
            Value::Bool(value) => Ok(value.to_string()),
            _ => Err(self.expected("text")),
        }
    }

    /// Reads text that is not empty.
    pub(crate) fn word(&self) -> Read<String> {
        let text = self.text()?;
        if text.is_empty() {
            return Err(self.problem("it is empty"));
        }
        Ok(text)
    }

    pub(crate) fn boolean(&self) -> Read<bool> {
        match &self.node.value {
            Value::Bool(value) => Ok(*value),
            Value::String(text) => notation::boolean(text).ok_or_else(|| self.expected("true or false")),
            _ => Err(self.expected("true or false")),
        }
    }

    /// Reads a whole number.
    pub(crate) fn whole<T: TryFrom<i64>>(&self) -> Read<T> {
        let (Value::Number(text) | Value::String(text)) = &self.node.value else {
            return Err(self.expected("a whole number"));
        };
        notation::whole(text)
            .ok_or_else(|| self.problem(format!("{:?} is not a whole number", shorten(text))))
            .and_then(|number| T::try_from(number).map_err(|_| self.problem(format!("{number} is out of range"))))
    }

    /// Reads a share, from 0 to 1.
    pub(crate) fn ratio(&self) -> Read<f64> {
        let text = self.text()?;
        text.parse::<f64>()
            .ok()
            .filter(|ratio| (0.0..=1.0).contains(ratio))
            .ok_or_else(|| self.problem("it must be a number from 0 to 1"))
    }

    pub(crate) fn duration(&self) -> Read<Duration> {
        notation::duration(&self.text()?).map_err(|reason| self.problem(reason))
    }

    pub(crate) fn bytes(&self) -> Read<u64> {
        notation::bytes(&self.text()?).map_err(|reason| self.problem(reason))
    }

    /// Reads an absolute path.
    pub(crate) fn absolute(&self) -> Read<std::path::PathBuf> {
        let path = std::path::PathBuf::from(self.text()?);
        if !path.is_absolute() {
            return Err(self.problem(format!("{:?} must be an absolute path", shorten(&path.to_string_lossy()))));
        }
        Ok(path)
    }

    /// Reads a list of texts.
    pub(crate) fn texts(&self) -> Read<Vec<String>> {
        self.items()?.iter().map(Field::text).collect()
    }

    /// Reads text, or a list of texts.
    pub(crate) fn text_or_texts(&self) -> Read<Vec<String>> {
        if self.is_list() || self.is_null() { self.texts() } else { Ok(vec![self.text()?]) }
    }

    /// Reads `{key: value}` or `[key=value]`, where a value may be missing.
    pub(crate) fn optional_pairs(&self) -> Read<Vec<(String, Option<String>)>> {
        if self.is_list() {
            return self
                .items()?
                .iter()
                .map(|item| {
                    let text = item.text()?;
                    let (key, value) = match text.split_once('=') {
                        Some((key, value)) => (key, Some(value.to_owned())),
                        None => (text.as_str(), None),
                    };
                    if key.is_empty() {
                        return Err(item.problem("it has no name before the equals sign"));
                    }
                    Ok((key.to_owned(), value))
                })
                .collect();
        }
        self.entries()?
            .iter()
            .map(|field| Ok((field.name().to_owned(), if field.is_null() { None } else { Some(field.text()?) })))
            .collect()
    }

    /// Reads `{key: value}` or `[key=value]`; a value that is missing is empty.
    pub(crate) fn pairs(&self) -> Read<BTreeMap<String, String>> {
        Ok(self.optional_pairs()?.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
    }

    /// Reads one of a few words.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Read<T> {
        let text = self.text()?;
        choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
            let names = choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            self.problem(format!("{:?} is none of {names}", shorten(&text)))
        })
    }
}
