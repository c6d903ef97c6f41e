//! Names in Git: repositories, branches, commits.

use std::fmt;
use std::str::FromStr;

use super::text_newtype;
use crate::error::{Error, Kind, Result, shorten};

/// Names a repository on its server: `shop/back-web`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(String);

/// Names a branch of a repository: `feature/checkout`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Branch(String);

/// Names a commit: 40 hex digits, or 64 where the repository uses SHA-256.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Commit(String);

impl Repository {
    /// Parses `owner/repository`; a `.git` at its end is left out.
    ///
    /// # Errors
    /// [`Error::InvalidName`], with the rule it breaks.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        /// The longest parts that GitHub allows.
        const LONGEST: usize = 100;
        let mut text = text.into();
        let invalid = |reason: &str| {
            let name = if text.contains('@') { "…".into() } else { shorten(&text) };
            Err(Error::InvalidName { kind: Kind::Repository, name, reason: reason.into() })
        };
        let Some((owner, name)) = text.split_once('/') else { return invalid("write it as OWNER/REPOSITORY") };
        for part in [owner, name.strip_suffix(".git").unwrap_or(name)] {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if part.is_empty() || !part.chars().all(allowed) {
                return invalid("write it as OWNER/REPOSITORY, of letters, digits, '-', '_' and '.'");
            }
            if part.starts_with(['-', '.']) || part.contains("..") || part.strip_suffix(".git").is_some() {
                return invalid("no part may begin with '-' or '.', hold '..' or end in '.git'");
            }
            if part.len() > LONGEST {
                return invalid("no part may be longer than 100 characters");
            }
        }
        if let Some(length) = text.strip_suffix(".git").map(str::len) {
            text.truncate(length);
        }
        Ok(Self(text))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Branch {
    /// Parses the name of a branch, by the rules of `git check-ref-format --branch`, and without `{{`: a Swarm takes that for a placeholder of its own,
    /// wherever a template puts the name.
    ///
    /// # Errors
    /// [`Error::InvalidName`], with the rule it breaks.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        const LONGEST: usize = 255;
        let text = text.into();
        let invalid =
            |reason: &str| Err(Error::InvalidName { kind: Kind::Branch, name: shorten(&text), reason: reason.into() });
        if text.is_empty() {
            return invalid("it is empty");
        }
        if text.len() > LONGEST {
            return invalid("it is longer than 255 bytes");
        }
        if text.contains(|c: char| c.is_control() || " ~^:?*[\\".contains(c)) {
            return invalid("spaces, control characters and ~ ^ : ? * [ \\ are not allowed");
        }
        if text.contains("..") || text.contains("@{") || text == "@" || text == "HEAD" {
            return invalid("'..', '@{', '@' and 'HEAD' mean something else to Git");
        }
        if text.contains("{{") {
            return invalid("'{{' means something else to a Swarm");
        }
        if text.starts_with('-') || text.ends_with('.') {
            return invalid("it may not begin with '-' or end with '.'");
        }
        if text.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.strip_suffix(".lock").is_some())
        {
            return invalid("no part between slashes may be empty, begin with '.' or end in '.lock'");
        }
        Ok(Self(text))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Commit {
    /// Parses the full id of a commit.
    ///
    /// # Errors
    /// [`Error::InvalidInput`], with the rule it breaks.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !hex || !matches!(text.len(), 40 | 64) {
            return Err(Error::invalid("commit", "it has 40 or 64 hex digits, in lower case"));
        }
        Ok(Self(text))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

text_newtype!(Repository);
text_newtype!(Branch);
text_newtype!(Commit);
