//! Compose files: read as they are written for a Swarm, and translated to stacks.
//!
//! What a stack cannot be asked for is an error that names the key and its line; nothing is silently dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::label::Labels;
use crate::name::{AttemptId, StackName};
use crate::orchestrator::StackSpec;

mod cast;
mod deploy;
mod emit;
mod environment;
pub(crate) mod field;
mod files;
mod interpolate;
mod mounts;
mod notation;
mod order;
mod parts;
mod ports;
pub(crate) mod problem;
pub(crate) mod read;
mod service;
mod stack;
#[cfg(test)]
mod tests;
pub(crate) mod tree;

pub(crate) use files::within;
use interpolate::Interpolator;
use problem::{Place, Problem, Read};
use tree::{Node, Value};

/// The version that written documents say they have: the last that old engines' clients know. Newer ones ignore it.
const VERSION: &str = "3.9";

/// A compose file that is to be read.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// What errors call it.
    pub file: &'a str,
    /// What is in it.
    pub text: &'a str,
    /// Where the files are that it names; it may name none where there is no directory.
    pub directory: Option<&'a Path>,
    /// What `${…}` stands for. The environment of this process is never asked.
    pub variables: &'a BTreeMap<String, String>,
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Variables may be secrets.
        f.debug_struct("Source").field("file", &self.file).field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// A compose file that was read: a tree in which variables, aliases and merges are resolved.
///
/// Two documents are equal if they say the same, wherever and however it is written.
#[derive(Clone)]
pub struct Document {
    /// The file, and the others that parts of it came from.
    files: Vec<String>,
    root: Node,
    directory: Option<PathBuf>,
    variables: BTreeMap<String, String>,
    missing: Vec<String>,
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.root == other.root
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is in it may be secret.
        f.debug_struct("Document")
            .field("files", &self.files)
            .field("services", &self.services())
            .finish_non_exhaustive()
    }
}

/// What stands in place of values that are put in after the text was read.
pub(crate) trait Substitutes {
    /// Returns the value that a scalar stands for; nothing if it holds no substitute. The error is a reason.
    fn resolve(&self, text: &str, plain: bool) -> Result<Option<Value>, String>;
}

/// Where the lines of a text came from, for texts that were made of files.
pub(crate) struct Origin<'a> {
    pub(crate) files: Vec<String>,
    pub(crate) place: &'a dyn Fn(usize) -> Place,
}

/// Reads a compose file.
///
/// # Errors
/// [`InvalidTemplate`](crate::Error::InvalidTemplate), with the line, if it is not YAML, is too large or too deep, holds a key twice, more than one
/// document, a tag that YAML itself does not have, or a variable that it says must be set and is not.
pub fn parse(source: Source<'_>) -> Result<Document> {
    let origin = Origin { files: vec![source.file.to_owned()], place: &|line| Place { file: 0, line } };
    parse_with(source, origin, None)
}

/// Reads text that was made of files and holds substitutes.
pub(crate) fn parse_with(
    source: Source<'_>,
    origin: Origin<'_>,
    substitutes: Option<&dyn Substitutes>,
) -> Result<Document> {
    let mut interpolator = Interpolator::new(source.variables);
    let root = read::read(source.text, origin.place).and_then(|mut root| {
        fill(&mut root, &mut interpolator, substitutes)?;
        let Value::Mapping(entries) = &mut root.value else {
            return Err(Problem::new(root.place, format!("it must be a mapping, and it is {}", root.value.kind())));
        };
        // It says nothing any more, and is written anew.
        entries.retain(|(key, _)| key.text != "version");
        cast::cast(&mut root);
        Ok(root)
    });
    match root {
        Ok(root) => Ok(Document {
            files: origin.files,
            root,
            directory: source.directory.map(Path::to_owned),
            variables: source.variables.clone(),
            missing: interpolator.missing.into_iter().collect(),
        }),
        Err(problem) => Err(problem.into_error(&origin.files)),
    }
}

/// Puts variables, then substitutes, into all scalars and keys: what is substituted is never read as a variable.
fn fill(node: &mut Node, variables: &mut Interpolator<'_>, substitutes: Option<&dyn Substitutes>) -> Read<()> {
    match &mut node.value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(text) => {
            if let Some(value) = resolve(substitutes, text, node.plain, node.place, variables)? {
                node.value = value;
            }
        }
        Value::String(text) => {
            if text.contains('$') {
                *text = variables.expand(text).map_err(|reason| Problem::new(node.place, reason))?;
            }
            if let Some(value) = resolve(substitutes, text, node.plain, node.place, variables)? {
                node.value = value;
            }
        }
        Value::Sequence(items) => {
            for item in items {
                fill(item, variables, substitutes)?;
            }
        }
        Value::Mapping(entries) => {
            let mut changed = false;
            for (key, node) in entries.iter_mut() {
                fill(node, variables, substitutes)?;
                // A key is text, whatever it is made of.
                if let Some(Value::String(text)) = resolve(substitutes, &key.text, false, key.place, variables)? {
                    key.text = text;
                    changed = true;
                    if key.text.len() > read::LONGEST_KEY {
                        let reason = format!("the key has more than {} bytes", read::LONGEST_KEY);
                        return Err(Problem::new(key.place, reason));
                    }
                }
            }
            let mut seen = std::collections::HashSet::new();
            if changed && let Some((key, _)) = entries.iter().find(|(key, _)| !seen.insert(key.text.as_str())) {
                return Err(Problem::new(key.place, format!("the key {:?} is there twice", key.text)));
            }
        }
    }
    Ok(())
}

/// Returns what a scalar stands for, and counts it with what variables bring in: aliases may bring it many times.
fn resolve(
    substitutes: Option<&dyn Substitutes>,
    text: &str,
    plain: bool,
    place: Place,
    variables: &mut Interpolator<'_>,
) -> Read<Option<Value>> {
    let Some(substitutes) = substitutes else { return Ok(None) };
    let resolved = substitutes.resolve(text, plain).and_then(|value| {
        variables.bring(value.as_ref().map_or(0, Value::text_len))?;
        Ok(value)
    });
    resolved.map_err(|reason| Problem::new(place, reason))
}

impl Document {
    /// Returns the names of its services, in the order they are written.
    pub fn services(&self) -> Vec<&str> {
        match self.root.get("services").map(|node| &node.value) {
            Some(Value::Mapping(entries)) => entries.iter().map(|(key, _)| key.text.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns the variables that were asked for, had no value and no default, and became empty.
    pub fn missing_variables(&self) -> &[String] {
        &self.missing
    }

    /// Translates it to a stack.
    ///
    /// Compose's `entrypoint` and `command` become the service's command; `command` alone becomes the arguments of the image's own entry point.
    /// Services come in the order of their dependencies.
    ///
    /// # Errors
    /// [`InvalidTemplate`](crate::Error::InvalidTemplate), with the line and the full name of the key, for all that is wrong or not supported.
    pub fn to_stack(&self, name: StackName, attempt: AttemptId, labels: Labels) -> Result<StackSpec> {
        stack::translate(self, StackSpec { labels, ..StackSpec::new(name, attempt, Vec::new()) })
            .map_err(|problem| problem.into_error(&self.files))
    }

    /// Returns it without some of its services; names that it does not have are no matter.
    ///
    /// # Errors
    /// [`InvalidTemplate`](crate::Error::InvalidTemplate) if one that remains waits for the health or the end of one that does not.
    pub fn without_services(&self, names: &[&str]) -> Result<Self> {
        let mut document = self.clone();
        if let Some(services) = document.root.get_mut("services") {
            order::remove(services, names).map_err(|problem| problem.into_error(&self.files))?;
        }
        Ok(document)
    }

    /// Writes it as YAML that [`parse`] reads back to an equal document, and `docker stack deploy` to the same one.
    ///
    /// Text stands in double quotes, numbers and booleans without; aliases and merges are written out.
    pub fn to_yaml(&self) -> String {
        format!("version: \"{VERSION}\"\n{}", emit::emit(&self.root))
    }

    /// Returns the value of a key at the top.
    pub(crate) fn section(&self, key: &str) -> Option<&Node> {
        self.root.get(key)
    }

    /// Makes the error that something in it is wrong.
    pub(crate) fn error(&self, problem: Problem) -> crate::Error {
        problem.into_error(&self.files)
    }
}
