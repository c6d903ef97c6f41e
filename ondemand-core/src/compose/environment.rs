//! Environment variables of a service, from the document and from files beside it.

use std::collections::BTreeMap;

use super::field::Field;
use super::interpolate::Interpolator;
use super::problem::{Problem, Read};
use super::{Document, files};

/// Reads `environment`: a name with no value takes the document's variable, and is left out where there is none.
pub(super) fn environment(field: &Field<'_>, document: &Document) -> Read<BTreeMap<String, String>> {
    let pairs = field.optional_pairs()?;
    if let Some((name, _)) = pairs.iter().find(|(name, _)| name.contains(['=', '\0'])) {
        return Err(field.problem(format!("{name:?} is not the name of a variable")));
    }
    Ok(resolve(pairs, document))
}

fn resolve(pairs: Vec<(String, Option<String>)>, document: &Document) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .filter_map(|(name, value)| {
            let value = value.or_else(|| document.variables.get(&name).cloned())?;
            Some((name, value))
        })
        .collect()
}

/// Reads `env_file`: of files that set the same variable, the last wins.
pub(super) fn env_file(field: &Field<'_>, document: &Document) -> Read<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let items = if field.is_list() { field.items()? } else { vec![field.clone()] };
    for item in items {
        let (mut path, mut required) = (None, true);
        if item.is_mapping() {
            for field in item.entries()? {
                match field.name() {
                    "path" => path = Some(field.word()?),
                    "required" => required = field.boolean()?,
                    _ => return Err(field.unsupported()),
                }
            }
        } else {
            path = Some(item.word()?);
        }
        let path = path.ok_or_else(|| item.problem("it has no path"))?;
        match files::read(document, &path, &item)? {
            Some(text) => all.extend(resolve(parse(&text, &path, &item, document)?, document)),
            None if required => return Err(item.problem(format!("there is no file {path:?}"))),
            None => {}
        }
    }
    Ok(all)
}

type Pairs = Vec<(String, Option<String>)>;

fn parse(text: &str, path: &str, item: &Field<'_>, document: &Document) -> Read<Pairs> {
    let mut known = document.variables.clone();
    let mut pairs = Vec::new();
    for (index, line) in text.lines().enumerate() {
        // The line itself may be a secret.
        let problem = |reason: &str| -> Problem { item.problem(format!("{path}, line {}: {reason}", index + 1)) };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
            None => (line, None),
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if name.is_empty() || !name.chars().all(valid) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(problem("it must be NAME=VALUE"));
        }
        let value = match value {
            Some(value) => {
                let (text, expand) = unquote(value).map_err(problem)?;
                let text =
                    if expand { Interpolator::new(&known).expand(&text).map_err(|e| problem(&e))? } else { text };
                known.insert(name.to_owned(), text.clone());
                Some(text)
            }
            None => None,
        };
        pairs.push((name.to_owned(), value));
    }
    Ok(pairs)
}

/// Returns the value, and whether variables in it are put in: not in single quotes.
fn unquote(value: &str) -> Result<(String, bool), &'static str> {
    let after = |rest: &str| match rest.trim_start() {
        "" => Ok(()),
        rest if rest.starts_with('#') => Ok(()),
        _ => Err("something follows the closing quote"),
    };
    if let Some(inner) = value.strip_prefix('\'') {
        let (text, rest) = inner.split_once('\'').ok_or("a quote is not closed on its line")?;
        after(rest)?;
        return Ok((text.to_owned(), false));
    }
    if let Some(inner) = value.strip_prefix('"') {
        let mut text = String::new();
        let mut chars = inner.chars();
        loop {
            match chars.next().ok_or("a quote is not closed on its line")? {
                '"' => break,
                '\\' => match chars.next().ok_or("a quote is not closed on its line")? {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    // It stays one when variables are put in.
                    '$' => text.push_str("$$"),
                    c @ ('"' | '\\') => text.push(c),
                    c => text.extend(['\\', c]),
                },
                c => text.push(c),
            }
        }
        after(chars.as_str())?;
        return Ok((text, true));
    }
    let end = if value.starts_with('#') { 0 } else { value.find(" #").unwrap_or(value.len()) };
    Ok((value[..end].trim_end().to_owned(), true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_files_may_be_quoted_and_commented() {
        for (text, value, expand) in [
            ("", "", true),
            ("a b", "a b", true),
            ("a # b", "a", true),
            ("a#b", "a#b", true),
            ("'a # $b' # c", "a # $b", false),
            (r#""a\n\"b\" $c""#, "a\n\"b\" $c", true),
            (r#""\$c""#, "$$c", true),
        ] {
            assert_eq!(unquote(text), Ok((value.to_owned(), expand)), "{text}");
        }
        for text in ["'a", "\"a", "'a' b", "\"a\" b", "\"a\\"] {
            assert!(unquote(text).is_err(), "{text}");
        }
    }
}
