//! A document as a tree, in which every node knows where it stands.

use super::problem::Place;

/// A value and where it stands. Two nodes are equal if their values are, wherever they stand.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
    /// Whether it is a scalar that was written with no quotes and no tag.
    pub(crate) plain: bool,
}

/// A key of a mapping and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) place: Place,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// A number as it was written.
    Number(String),
    String(String),
    Sequence(Vec<Node>),
    Mapping(Vec<(Key, Node)>),
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Node {
    /// Returns the value at a key, where this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// Returns the value at a key, to be changed.
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.value {
            Value::Mapping(entries) => entries.iter_mut().find(|(k, _)| k.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// Returns how deep it is nested: 1 for a scalar.
    pub(crate) fn height(&self) -> usize {
        1 + match &self.value {
            Value::Sequence(items) => items.iter().map(Node::height).max().unwrap_or(0),
            Value::Mapping(entries) => entries.iter().map(|(_, node)| node.height()).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Returns how many nodes it has, itself among them, and how many bytes of text.
    pub(crate) fn size(&self) -> (usize, usize) {
        let add = |(nodes, bytes): (usize, usize), (n, b): (usize, usize)| (nodes + n, bytes + b);
        match &self.value {
            Value::Sequence(items) => items.iter().map(Node::size).fold((1, 0), add),
            Value::Mapping(entries) => {
                entries.iter().map(|(key, node)| add(node.size(), (0, key.text.len()))).fold((1, 0), add)
            }
            scalar => (1, scalar.text_len()),
        }
    }
}

impl Value {
    /// Reads a scalar that was written with no quotes and no tag.
    pub(crate) fn plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Self::Null,
            "true" | "True" | "TRUE" => Self::Bool(true),
            "false" | "False" | "FALSE" => Self::Bool(false),
            text if is_number(text) => Self::Number(text.to_owned()),
            text => Self::String(text.to_owned()),
        }
    }

    /// Returns how many bytes of text a scalar has.
    pub(crate) fn text_len(&self) -> usize {
        match self {
            Self::Number(text) | Self::String(text) => text.len(),
            _ => 0,
        }
    }

    /// Says what kind of value it is.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "text",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "a mapping",
        }
    }
}

/// Tells whether a plain scalar is a number, in the notations that YAML's readers agree on.
pub(crate) fn is_number(text: &str) -> bool {
    if let Some(digits) = text.strip_prefix("0x") {
        return !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mantissa = match mantissa.split_once('.') {
        Some((whole, part)) => {
            (digits(whole) && (part.is_empty() || digits(part))) || (whole.is_empty() && digits(part))
        }
        None => digits(mantissa),
    };
    mantissa && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_what_yaml_says() {
        for text in ["0", "-1", "+2", "0444", "0o444", "0x1F", "1.5", "1.", ".5", "1e3", "1.5E-3"] {
            assert_eq!(Value::plain(text), Value::Number(text.into()));
        }
        for text in ["0o8", "0x", ".", "-", "e3", "1e", "1.2.3", "12:30", "1_000", "yes", "no", "2026-01-01", "0.5s"] {
            assert_eq!(Value::plain(text), Value::String(text.into()));
        }
        assert_eq!(Value::plain("~"), Value::Null);
        assert_eq!(Value::plain("True"), Value::Bool(true));
    }
}
