//! Options as `env-on-demand` has always taken them: `--name VALUE`, also `--name=VALUE`, also with the colon of its help.

use serde_json::{Map, Value};

use crate::failure::Failure;

/// An option.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Value,
    /// A number.
    Number,
    /// Nothing.
    Switch,
}

impl Word {
    pub(super) const fn value(name: &'static str) -> Self {
        Self { name, kind: Kind::Value }
    }

    pub(super) const fn number(name: &'static str) -> Self {
        Self { name, kind: Kind::Number }
    }

    pub(super) const fn switch(name: &'static str) -> Self {
        Self { name, kind: Kind::Switch }
    }
}

/// Reads options. The last of several of one name counts.
pub(super) fn parse(options: &[Word], words: &[String]) -> Result<Map<String, Value>, Failure> {
    let wrong = |message: String| Failure::new(message).with_hint("--help lists the options").with_exit(2);
    let mut found = Map::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(given) = word.strip_prefix("--") else {
            return Err(wrong(format!("{word:?} is no option")));
        };
        let (name, attached) = match given.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (given.trim_end_matches(':'), None),
        };
        let Some(option) = options.iter().find(|option| option.name == name) else {
            return Err(wrong(format!("--{name} is no option here")));
        };
        let value = match option.kind {
            Kind::Switch if attached.is_some() => return Err(wrong(format!("--{name} takes no value"))),
            Kind::Switch => Value::Bool(true),
            Kind::Value | Kind::Number => {
                let value = attached.or_else(|| words.next().cloned());
                let value = value.ok_or_else(|| wrong(format!("--{name} needs a value")))?;
                match option.kind {
                    Kind::Number => Value::from(
                        value.parse::<u64>().map_err(|_| wrong(format!("--{name} needs a number, not {value:?}")))?,
                    ),
                    _ => Value::String(value),
                }
            }
        };
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[Word] = &[Word::value("name"), Word::number("days"), Word::switch("fixtures")];

    fn read(words: &[&str]) -> Result<Map<String, Value>, Failure> {
        parse(OPTIONS, &words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_as_they_are_written() {
        let expected = serde_json::json!({ "name": "a=b", "days": 5, "fixtures": true });
        for words in [
            &["--name", "a=b", "--days", "5", "--fixtures"][..],
            &["--fixtures", "--name=a=b", "--days=5"],
            &["--name:", "x", "--name", "a=b", "--fixtures", "--days", "5"],
        ] {
            assert_eq!(Value::Object(read(words).expect("options")), expected, "{words:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (words, part) in [
            (&["--name"][..], "--name needs a value"),
            (&["--days", "many"], "needs a number"),
            (&["--fixtures=yes"], "takes no value"),
            (&["--nam", "x"], "--nam is no option"),
            (&["demo"], "\"demo\" is no option"),
        ] {
            let failure = read(words).expect_err("a failure");
            assert!(failure.message.contains(part) && failure.exit == 2, "{failure:?}");
        }
    }
}
