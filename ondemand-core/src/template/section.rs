//! The `x-ondemand` section as text, before anything is rendered.
//!
//! What is in it decides what placeholders can name (repositories, hosts), so it must be known before there are values. It
//! is cut out by its lines: from the one that begins with its key to the next that begins with anything but a space or a
//! comment. Rendering the file with made-up values instead would show a section that depends on them, and fail where
//! values are compared or counted; the YAML that surrounds it cannot be read at all before it is rendered.

use crate::error::{Error, Result};

const KEY: &str = "x-ondemand:";

/// Returns the text of the section, with as many empty lines before it as make its lines count from the top of the file.
pub(super) fn cut(file: &str, text: &str) -> Result<String> {
    let invalid = |line: usize, reason: String| Error::InvalidTemplate { file: file.to_owned(), line, reason };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let begins =
        |line: &str| line.strip_prefix(KEY).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']));
    let lines: Vec<&str> = text.lines().collect();
    let Some(first) = lines.iter().position(|line| begins(line)) else {
        return Err(invalid(0, format!("it has no section `{KEY}` at the beginning of a line")));
    };
    if let Some(again) = lines.iter().skip(first + 1).position(|line| begins(line)) {
        return Err(invalid(first + again + 2, format!("there is a second section `{KEY}`")));
    }
    let mut section = "\n".repeat(first);
    for (index, line) in lines.iter().enumerate().skip(first) {
        if index > first && line.starts_with(|c: char| !c.is_whitespace() && c != '#') {
            break;
        }
        let comment = line.trim_start().starts_with('#');
        if !comment && let Some(sign) = ["{{", "{%", "{#", "$"].iter().find(|sign| line.contains(**sign)) {
            let reason = format!("the section x-ondemand is read before there are values, so it may not hold `{sign}`");
            return Err(invalid(index + 1, reason));
        }
        section.push_str(if comment { "" } else { line });
        section.push('\n');
    }
    Ok(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_where_the_next_key_begins() {
        let text = "# {{ x }}\n{% if a %}\na: 1\n{% endif %}\nx-ondemand:\n  a: 1\n# {{ comment }}\n\n  b: 2\n{% if c %}\nc: 3\n";
        assert_eq!(cut("f", text).ok().as_deref(), Some("\n\n\n\nx-ondemand:\n  a: 1\n\n\n  b: 2\n"));
        assert_eq!(cut("f", "x-ondemand: {a: 1}").ok().as_deref(), Some("x-ondemand: {a: 1}\n"));
    }

    #[test]
    fn a_section_without_values_is_needed() {
        let place = |text: &str| match cut("f", text) {
            Err(Error::InvalidTemplate { line, .. }) => Some(line),
            _ => None,
        };
        assert_eq!(place(""), Some(0));
        assert_eq!(place("  x-ondemand:\n"), Some(0));
        assert_eq!(place("x-ondemand:x\n"), Some(0));
        assert_eq!(place("x-ondemand:\n  a: {{ b }}\n"), Some(2));
        assert_eq!(place("x-ondemand:\n  {% if b %}\n"), Some(2));
        assert_eq!(place("x-ondemand:\n  a: ${B}\n"), Some(2));
        assert_eq!(place("x-ondemand:\na: 1\nx-ondemand:\n"), Some(3));
    }
}
