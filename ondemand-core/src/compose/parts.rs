//! What services share: networks, volumes, secrets and configuration files, as the top of the file declares them.

use std::collections::BTreeMap;

use super::field::Field;
use super::problem::{Problems, Read};
use super::{Document, files};
use crate::orchestrator::{ConfigSpec, NetworkSpec, SecretSpec, VolumeSpec};
use crate::secret::Secret;

/// The largest secret or configuration file, in bytes: Swarm's limit.
const LARGEST: usize = 500 << 10;

/// What `external` says: whether it is, and under which name where it says that too.
#[derive(Default)]
struct External {
    is: bool,
    name: Option<String>,
}

impl External {
    fn read(field: &Field<'_>) -> Read<Self> {
        if !field.is_mapping() {
            return Ok(Self { is: field.boolean()?, name: None });
        }
        let mut external = Self { is: true, name: None };
        for field in field.entries()? {
            match field.name() {
                "name" => external.name = Some(field.word()?),
                _ => return Err(field.unsupported()),
            }
        }
        Ok(external)
    }

    /// Returns the name of what exists already.
    fn resolve(self, name: Option<&String>, key: &str) -> Option<String> {
        self.is.then(|| self.name.or_else(|| name.cloned()).unwrap_or_else(|| key.to_owned()))
    }
}

/// Reads each entry of a section, and tells of all that is wrong.
fn each<T>(section: &Field<'_>, read: impl Fn(&Field<'_>) -> Read<T>) -> Read<BTreeMap<String, T>> {
    let mut problems = Problems::default();
    let mut all = BTreeMap::new();
    for entry in section.entries()? {
        if !entry.is_extension() {
            all.extend(problems.keep(read(&entry).map(Some)).map(|value| (entry.name().to_owned(), value)));
        }
    }
    problems.finish()?;
    Ok(all)
}

pub(super) fn networks(section: &Field<'_>) -> Read<BTreeMap<String, NetworkSpec>> {
    each(section, |entry| {
        let mut network = NetworkSpec::default();
        let mut external = External::default();
        for field in entry.entries()? {
            match field.name() {
                "driver" => network.driver = Some(field.word()?),
                "driver_opts" => network.driver_opts = field.pairs()?,
                "attachable" => network.attachable = field.boolean()?,
                "internal" => network.internal = field.boolean()?,
                "external" => external = External::read(&field)?,
                "name" => network.name = Some(field.word()?),
                "labels" => network.labels = field.pairs()?,
                _ if field.is_extension() => {}
                _ => return Err(field.unsupported()),
            }
        }
        network.external = external.resolve(network.name.as_ref(), entry.name());
        if network.external.is_some() {
            only_names(entry)?;
            network.name = None;
        }
        Ok(network)
    })
}

pub(super) fn volumes(section: &Field<'_>) -> Read<BTreeMap<String, VolumeSpec>> {
    each(section, |entry| {
        let mut volume = VolumeSpec::default();
        let mut external = External::default();
        for field in entry.entries()? {
            match field.name() {
                "driver" => volume.driver = Some(field.word()?),
                "driver_opts" => volume.driver_opts = field.pairs()?,
                "external" => external = External::read(&field)?,
                "name" => volume.name = Some(field.word()?),
                "labels" => volume.labels = field.pairs()?,
                _ if field.is_extension() => {}
                _ => return Err(field.unsupported()),
            }
        }
        volume.external = external.resolve(volume.name.as_ref(), entry.name());
        if volume.external.is_some() {
            only_names(entry)?;
            volume.name = None;
        }
        Ok(volume)
    })
}

pub(super) fn secrets(section: &Field<'_>, document: &Document) -> Read<BTreeMap<String, SecretSpec>> {
    each(section, |entry| {
        Ok(match file(entry, document, true)? {
            File::External(name) => SecretSpec::External(name),
            File::Content(content) => SecretSpec::Content(Secret::new(content)),
        })
    })
}

pub(super) fn configs(section: &Field<'_>, document: &Document) -> Read<BTreeMap<String, ConfigSpec>> {
    each(section, |entry| {
        Ok(match file(entry, document, false)? {
            File::External(name) => ConfigSpec::External(name),
            File::Content(content) => ConfigSpec::Content(content),
        })
    })
}

/// Where a secret or configuration file comes from.
enum File {
    External(String),
    Content(String),
}

fn file(entry: &Field<'_>, document: &Document, secret: bool) -> Read<File> {
    let mut external = External::default();
    let mut content = Vec::new();
    let mut name = None;
    for field in entry.entries()? {
        match field.name() {
            "file" => {
                let path = field.word()?;
                let text = files::read(document, &path, &field)?;
                content.push(text.ok_or_else(|| field.problem(format!("there is no file {path:?}")))?);
            }
            "content" => content.push(field.text()?),
            "environment" if secret => {
                let variable = field.word()?;
                let value = document.variables.get(&variable);
                content
                    .push(value.cloned().ok_or_else(|| field.problem(format!("the variable {variable} is not set")))?);
            }
            "external" => external = External::read(&field)?,
            "name" => name = Some((field.word()?, field)),
            _ if field.is_extension() => {}
            _ => return Err(field.unsupported()),
        }
    }
    let sources = if secret { "file, content, environment, external" } else { "file, content, external" };
    if external.is {
        if !content.is_empty() {
            return Err(entry.problem(format!("it may have only one of {sources}")));
        }
        let name = name.map(|(name, _)| name);
        return Ok(File::External(external.resolve(name.as_ref(), entry.name()).unwrap_or_default()));
    }
    if let Some((_, field)) = name {
        return Err(field.unsupported_because("it is for what is external; the others are named after their stack"));
    }
    match (content.pop(), content.is_empty()) {
        (Some(content), true) if content.len() <= LARGEST => Ok(File::Content(content)),
        (Some(_), true) => Err(entry.problem(format!("it has more than {} KiB", LARGEST >> 10))),
        (None, _) => Err(entry.problem(format!("it has none of {sources}"))),
        (Some(_), false) => Err(entry.problem(format!("it may have only one of {sources}"))),
    }
}

/// Checks that what exists already is not described.
fn only_names(entry: &Field<'_>) -> Read<()> {
    match entry.entries()?.iter().find(|field| !matches!(field.name(), "external" | "name") && !field.is_extension()) {
        Some(field) => Err(field.problem("what is external is used as it is; leave this key out")),
        None => Ok(()),
    }
}
