//! Placeholders → values.

use std::path::Path;
use std::sync::Arc;

use minijinja::value::{Rest, Serde, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, ErrorKind, State, UndefinedBehavior, Value};

use super::origin::Origins;
use super::substitute::Tokens;
use super::{Template, Variables};
use crate::compose::{self, Document, Origin, Source};
use crate::error::{Error, Result};

/// How much a rendering may do: instructions, and 64 bytes of data each. Then it is stopped.
const FUEL: u64 = 400_000;
/// How deep files may include files and macros call macros.
const DEEPEST: usize = 80;
/// Filters that look at text, which may have been captured and hold tokens: they are to see the values.
const TEXT_FILTERS: [&str; 20] = [
    "bool",
    "capitalize",
    "count",
    "first",
    "float",
    "format",
    "indent",
    "int",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "replace",
    "reverse",
    "split",
    "title",
    "trim",
    "upper",
];

/// Checks that a template's own file can be compiled.
pub(super) fn compile(template: &Template) -> Result<()> {
    let tokens = Arc::new(Tokens::new()?);
    let environment = environment(template, &tokens);
    environment
        .template_from_named_str(&template.file_name(), &template.text)
        .map(drop)
        .map_err(|error| failure(template, &error))
}

/// Renders a template, and reads the result.
pub(super) fn render(template: &Template, variables: &Variables) -> Result<Document> {
    let tokens = Arc::new(Tokens::new()?);
    let environment = environment(template, &tokens);
    let name = template.file_name();
    let (text, spans) = environment
        .template_from_named_str(&name, &template.text)
        .and_then(|compiled| compiled.render_with_spans(Value::from(Serde(variables))))
        .map_err(|error| failure(template, &error))?;
    let origins = Origins::new(&name, &text, &spans);
    let files = origins.names.iter().map(|name| template.file(name)).collect();
    let source =
        Source { file: &name, text: &text, directory: Some(template.directory()), variables: &variables.interpolation };
    compose::parse_with(source, Origin { files, place: &|line| origins.place(line) }, Some(&*tokens))
}

fn environment<'a>(template: &Template, tokens: &Arc<Tokens>) -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_debug(true);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEEPEST);
    // It shows everything there is.
    environment.remove_global("debug");
    let directory = template.directory().to_owned();
    environment.set_loader(move |name| include(&directory, name));
    for filter in TEXT_FILTERS {
        let tokens = Arc::clone(tokens);
        let original = environment.clone();
        environment.add_filter(filter, move |state: &mut State, values: Rest<ValueOrKwargs>| {
            let values: Vec<Value> = values.into_values().iter().map(|value| seen(value, &tokens)).collect();
            for value in &values {
                pay(state, value.as_str().map_or(0, str::len))?;
            }
            original.empty_state().apply_filter(filter, &values)
        });
    }
    let tokens = Arc::clone(tokens);
    environment.set_formatter(move |out, state, value| {
        let (token, size) = tokens.token(value)?;
        pay(state, size)?;
        out.write_str(&token).map_err(|_| ErrorKind::WriteFailure.into())
    });
    environment
}

/// Pays for data that the engine does not see.
fn pay(state: &State, bytes: usize) -> Result<(), minijinja::Error> {
    state.consume_fuel(1 + bytes as u64 / 64)
}

/// Returns a value as filters are to see it.
fn seen(value: &Value, tokens: &Tokens) -> Value {
    match value.as_str() {
        Some(text) => Value::from(tokens.replace(text)),
        None => value.clone(),
    }
}

/// Reads a file that a template includes.
fn include(directory: &Path, name: &str) -> Result<Option<String>, minijinja::Error> {
    let refused = |reason: String| minijinja::Error::new(ErrorKind::InvalidOperation, reason);
    match compose::within(Some(directory), name).map_err(refused)? {
        Some(path) => super::read(&path).map(Some).map_err(|error| refused(error.to_string())),
        None => Ok(None),
    }
}

impl Template {
    fn file_name(&self) -> String {
        self.path.file_name().map_or_else(|| self.name.clone(), |name| name.to_string_lossy().into_owned())
    }

    /// Returns what errors call a file that the engine knows by this name.
    fn file(&self, name: &str) -> String {
        if name == self.file_name() {
            return self.path.display().to_string();
        }
        self.path.with_file_name(name).display().to_string()
    }
}

/// Translates what the engine says, at the place where it happened: the innermost of included files.
fn failure(template: &Template, error: &minijinja::Error) -> Error {
    let mut innermost = error;
    while let Some(inner) = std::error::Error::source(innermost).and_then(|e| e.downcast_ref::<minijinja::Error>()) {
        if inner.line().is_none() {
            break;
        }
        innermost = inner;
    }
    let error = innermost;
    let expression = error.template_source().zip(error.range()).and_then(|(source, range)| source.get(range));
    let quoted = expression.map(|text| format!("`{}`: ", crate::error::shorten(text))).unwrap_or_default();
    let reason = match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, _) => format!("{quoted}there is no such value"),
        (ErrorKind::OutOfFuel, _) => "rendering takes too long, or grows too large".into(),
        (ErrorKind::TemplateNotFound, _) => format!("{quoted}there is no such file in the template's directory"),
        (kind @ ErrorKind::SyntaxError, Some(detail)) => format!("{kind}: {detail}"),
        (_, Some(detail)) => format!("{quoted}{detail}"),
        (kind, None) => format!("{quoted}{kind}"),
    };
    let file = error.name().map_or_else(|| template.path.display().to_string(), |name| template.file(name));
    Error::InvalidTemplate { file, line: error.line().unwrap_or(0), reason }
}
