//! Templates: compose files with placeholders and an `x-ondemand` section, that environments are rendered from.
//!
//! Placeholders are minijinja's: `{{ … }}`, `{% if … %}`, `{% for … %}`, `{% include … %}`. Whatever `{{ … }}` puts in is a scalar of
//! its own or a part of one, so no name, branch or token can change what else the document says. Text that was captured by
//! `{% set %}…{% endset %}` or a macro may be put in, joined and filtered; to compare, take the variable it was made of.
//! What engines put in themselves, such as `{{.Node.Hostname}}`, stands between `{% raw %}` and `{% endraw %}`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::compose::Document;
use crate::error::{Error, Kind, Result, shorten};
use crate::listing::{usable, usable_file};
use crate::own;

mod check;
mod origin;
mod render;
mod section;
mod settings;
mod status;
mod substitute;
#[cfg(test)]
mod tests;
mod validate;
mod variables;

pub use settings::{DatabaseSetting, Limits, Part, RouteSetting, Settings};
pub use status::ExpectedStatus;
pub use variables::{DatabaseVariables, OwnerVariables, PartVariables, Variables};

/// The largest template, in bytes.
const LARGEST: u64 = 1 << 20;

/// A compose file with placeholders, and what its `x-ondemand` section says.
#[derive(Debug, Clone)]
pub struct Template {
    name: String,
    path: PathBuf,
    text: String,
    settings: Settings,
}

impl Template {
    /// Reads a template from a file; the file's name without its ending is the template's.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) if there is no such file; [`InvalidName`](Error::InvalidName) if its name could not be a template's;
    /// [`InvalidTemplate`](Error::InvalidTemplate), with the line, if a placeholder is not closed or the `x-ondemand` section is missing
    /// or wrong.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        check_name(&name)?;
        Self::parse(&name, path, read(path)?)
    }

    /// Makes a template of text, as if it had been read from `path`.
    ///
    /// # Errors
    /// As [`Template::load`].
    pub fn parse(name: &str, path: impl Into<PathBuf>, text: impl Into<String>) -> Result<Self> {
        let (path, text) = (path.into(), text.into());
        check_name(name)?;
        let settings = settings::read(&path.display().to_string(), &text)?;
        let template = Self { name: name.to_owned(), path, text, settings };
        render::compile(&template)?;
        Ok(template)
    }

    /// Returns the templates of a directory: its files `NAME.yml` and `NAME.yaml`, by their names. None is read.
    ///
    /// Files whose names begin with `_` or `.` are not templates, but may be included by those that are.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) for the directory; [`Conflict`](Error::Conflict) if two files have the same name but for their endings.
    pub fn files(dir: impl AsRef<Path>) -> Result<BTreeMap<String, PathBuf>> {
        let dir = dir.as_ref();
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => Error::not_found(Kind::File, dir.display()),
            _ => Error::io("templates", format!("reading {}", dir.display()), e),
        };
        let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
        for entry in own::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(name) = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()) else { continue };
            let is_template = path.extension().is_some_and(|ending| ending == "yml" || ending == "yaml");
            if name.starts_with(['_', '.']) || !is_template {
                continue;
            }
            match path.metadata() {
                Ok(metadata) if !metadata.is_file() => continue,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                // One that cannot be looked at is listed: reading it fails with the reason.
                _ => {}
            }
            if let Some(other) = files.insert(name, path.clone()) {
                let (one, two) = if other < path { (&other, &path) } else { (&path, &other) };
                return Err(Error::Conflict {
                    message: format!("{} and {} are templates of the same name", one.display(), two.display()),
                    hint: "rename one of them, or move it away".into(),
                });
            }
        }
        Ok(files)
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what its `x-ondemand` section says.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Puts values in place of its placeholders.
    ///
    /// Services of a part that is not enabled are still there: see [`Document::without_services`].
    ///
    /// # Errors
    /// [`InvalidTemplate`](Error::InvalidTemplate), with the file and the line, for a placeholder that is not defined, for what is no compose file
    /// once it is rendered, and for services that the `x-ondemand` section names and that are not there.
    pub fn render(&self, variables: &Variables) -> Result<Document> {
        let document = render::render(self, variables)?;
        validate::validate(self, &document, variables)?;
        Ok(document)
    }

    /// Renders it with values made up, in all ways that matter, and translates the results to stacks.
    ///
    /// Returns what there is to know about it, for people: its routes, its parts, and what deserves a second look.
    ///
    /// # Errors
    /// [`InvalidTemplate`](Error::InvalidTemplate) for the first thing that is wrong.
    pub fn check(&self) -> Result<Vec<String>> {
        check::check(self)
    }

    /// Returns the directory that it may include files from.
    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Makes the error that something in its file is wrong.
    fn invalid(&self, line: usize, reason: impl std::fmt::Display) -> Error {
        Error::InvalidTemplate { file: self.path.display().to_string(), line, reason: reason.to_string() }
    }
}

/// Checks that a name is letters, digits, `-` and `_`.
fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let reason = if name.is_empty() || name.len() > 63 {
        "it must have 1 to 63 characters"
    } else if !name.chars().all(allowed) {
        "use letters, digits, '-' and '_'"
    } else if name.starts_with('-') {
        "it must not begin with '-'"
    } else {
        return Ok(());
    };
    Err(Error::InvalidName { kind: Kind::Template, name: shorten(name), reason: reason.into() })
}

/// Reads a file of a template's size.
fn read(path: &Path) -> Result<String> {
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(Kind::File, path.display()),
        _ => Error::io("templates", format!("reading {}", path.display()), e),
    };
    let invalid = |reason: String| Error::InvalidTemplate { file: path.display().to_string(), line: 0, reason };
    // Opening a pipe would wait for someone to write to it.
    if usable(path) && !usable_file(path) {
        return Err(invalid("it is not a file".into()));
    }
    let mut bytes = Vec::new();
    own::open(path).map_err(failed)?.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(invalid(format!("it has more than {} KiB", LARGEST >> 10)));
    }
    String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8".into()))
}
