//! `${VARIABLES}`, as the compose specification has them.

use std::collections::{BTreeMap, BTreeSet};

/// How deep defaults may hold variables with defaults.
const DEEPEST: usize = 16;
/// How much text all variables together may bring in.
const MOST_TEXT: usize = 8 << 20;

/// Puts in variables from a map that the caller gives; the process's own environment is never asked.
#[derive(Debug)]
pub(crate) struct Interpolator<'a> {
    variables: &'a BTreeMap<String, String>,
    /// Variables that were asked for, had no value and no default, and became empty.
    pub(crate) missing: BTreeSet<String>,
    brought: usize,
}

/// A variable, and what to do where it is set, empty or unset.
struct Reference<'t> {
    name: &'t str,
    /// The operator: `""`, `-`, `:-`, `?`, `:?`, `+`, `:+`.
    operator: &'t str,
    word: &'t str,
}

impl<'a> Interpolator<'a> {
    pub(crate) fn new(variables: &'a BTreeMap<String, String>) -> Self {
        Self { variables, missing: BTreeSet::new(), brought: 0 }
    }

    /// Returns the text with its variables put in, or the reason why that is not possible.
    pub(crate) fn expand(&mut self, text: &str) -> Result<String, String> {
        self.expand_at(text, 0)
    }

    fn expand_at(&mut self, text: &str, depth: usize) -> Result<String, String> {
        if depth > DEEPEST {
            return Err(format!("its variables are nested more than {DEEPEST} deep"));
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(inner) = rest.strip_prefix('{') {
                let end = closing(inner).ok_or("`${` has no closing `}`; write `$$` for a dollar sign")?;
                let value = self.reference(&parse(&inner[..end])?, depth)?;
                self.bring(value.len())?;
                out.push_str(&value);
                rest = &inner[end + 1..];
            } else {
                let length = name_length(rest);
                if length == 0 {
                    return Err("`$` is followed by no name of a variable; write `$$` for a dollar sign".into());
                }
                let value = self.plain(&rest[..length]);
                self.bring(value.len())?;
                out.push_str(&value);
                rest = &rest[length..];
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    /// Counts what is brought in.
    pub(crate) fn bring(&mut self, bytes: usize) -> Result<(), String> {
        self.brought += bytes;
        if self.brought > MOST_TEXT {
            return Err(format!("its variables and placeholders bring in more than {} MiB", MOST_TEXT >> 20));
        }
        Ok(())
    }

    fn plain(&mut self, name: &str) -> String {
        if let Some(value) = self.variables.get(name) {
            return value.clone();
        }
        self.missing.insert(name.to_owned());
        String::new()
    }

    fn reference(&mut self, reference: &Reference<'_>, depth: usize) -> Result<String, String> {
        let &Reference { name, operator, word } = reference;
        // With a colon, an empty variable is as good as none.
        let value = self.variables.get(name).filter(|value| !(operator.starts_with(':') && value.is_empty())).cloned();
        match (operator.trim_start_matches(':'), value) {
            ("-" | "?", Some(value)) => Ok(value),
            ("-", None) | ("+", Some(_)) => self.expand_at(word, depth + 1),
            ("+", None) => Ok(String::new()),
            ("?", None) => {
                let message = self.expand_at(word, depth + 1)?;
                let state = if self.variables.contains_key(name) { "is empty" } else { "is not set" };
                Err(if message.is_empty() {
                    format!("the variable {name} {state}")
                } else {
                    format!("the variable {name} {state}: {message}")
                })
            }
            _ => Ok(self.plain(name)),
        }
    }
}

fn name_length(text: &str) -> usize {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count()
}

/// Returns where the brace closes that was opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'$' if bytes.get(at + 1) == Some(&b'$') => at += 1,
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                depth += 1;
                at += 1;
            }
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}

fn parse(inner: &str) -> Result<Reference<'_>, String> {
    let (name, rest) = inner.split_at(name_length(inner));
    if name.is_empty() {
        return Err("`${` is followed by no name of a variable; write `$$` for a dollar sign".into());
    }
    let length = rest.len() - rest.strip_prefix(':').unwrap_or(rest).trim_start_matches(['-', '?', '+']).len();
    let operator = match &rest[..length] {
        // The word may begin with any of these signs, as in `${A:--1}`.
        signs if signs.starts_with(':') => &signs[..signs.len().min(2)],
        signs => &signs[..signs.len().min(1)],
    };
    if operator == ":" || (operator.is_empty() && !rest.is_empty()) {
        return Err(format!("`${{{name}` is followed by none of `}}` `:-` `-` `:?` `?` `:+` `+`"));
    }
    Ok(Reference { name, operator, word: &rest[operator.len()..] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<String, String> {
        let variables = [("A", "1"), ("EMPTY", ""), ("DOLLAR", "${A}")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        Interpolator::new(&variables.into()).expand(text)
    }

    #[test]
    fn variables_are_put_in() {
        for (text, expected) in [
            ("none", "none"),
            ("$A", "1"),
            ("${A}", "1"),
            ("a${A}b$A-c", "a1b1-c"),
            ("$$A $${A}", "$A ${A}"),
            ("$NONE.", "."),
            ("${NONE}.", "."),
            ("${NONE:-x}", "x"),
            ("${NONE-x}", "x"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${A:-x}", "1"),
            ("${A:+x}", "x"),
            ("${A+x}", "x"),
            ("${EMPTY:+x}", ""),
            ("${EMPTY+x}", "x"),
            ("${NONE+x}", ""),
            ("${A:?gone}", "1"),
            ("${EMPTY?gone}", ""),
            ("${NONE:-${EMPTY:-${A}}}", "1"),
            ("${NONE:-a}b}", "ab}"),
            ("${NONE:-$$}", "$"),
            ("${NONE:--1}", "-1"),
            ("${NONE:-}", ""),
            ("${NONE:-http://x:80/?q=1}", "http://x:80/?q=1"),
            // What is put in is not read again.
            ("$DOLLAR", "${A}"),
            ("${NONE:-é}", "é"),
        ] {
            assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        for text in
            ["$", "$1", "${", "${}", "${1}", "${A", "${A:}", "${A:x}", "${A!}", "a $ b", "${A b}", "${NONE:-${}"]
        {
            assert!(expand(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_required_variable_says_what_is_missing() {
        assert_eq!(expand("${NONE:?set it to $A}"), Err("the variable NONE is not set: set it to 1".into()));
        assert_eq!(expand("${EMPTY:?}"), Err("the variable EMPTY is empty".into()));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = "${X:-".repeat(1000) + &"}".repeat(1000);
        assert!(expand(&text).is_err());
    }

    #[test]
    fn variables_without_a_value_are_told() {
        let variables = BTreeMap::new();
        let mut interpolator = Interpolator::new(&variables);
        assert_eq!(interpolator.expand("$A ${B} ${C:-x}").as_deref(), Ok("  x"));
        assert_eq!(interpolator.missing, ["A", "B"].map(String::from).into());
    }
}
