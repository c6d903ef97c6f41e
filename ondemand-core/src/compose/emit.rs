//! Tree → text that every reader of YAML takes for the same tree.

use std::fmt::Write;

use super::tree::{Key, Node, Value, is_number};

/// Writes a mapping as a document.
pub(crate) fn emit(root: &Node) -> String {
    let mut out = String::new();
    block(&mut out, root, 0);
    out
}

/// Writes a value after its key or dash, and the end of its line.
fn value(out: &mut String, node: &Node, depth: usize) {
    match &node.value {
        Value::Sequence(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Mapping(entries) if entries.is_empty() => out.push_str(" {}\n"),
        Value::Sequence(_) | Value::Mapping(_) => {
            out.push('\n');
            block(out, node, depth);
        }
        scalar => {
            out.push(' ');
            self::scalar(out, scalar);
            out.push('\n');
        }
    }
}

fn block(out: &mut String, node: &Node, depth: usize) {
    match &node.value {
        Value::Sequence(items) => {
            for item in items {
                indent(out, depth);
                out.push('-');
                match &item.value {
                    // The first key stands beside the dash.
                    Value::Mapping(entries) if !entries.is_empty() => {
                        out.push(' ');
                        mapping(out, entries, depth + 1, true);
                    }
                    _ => value(out, item, depth + 1),
                }
            }
        }
        Value::Mapping(entries) => mapping(out, entries, depth, false),
        scalar => {
            self::scalar(out, scalar);
            out.push('\n');
        }
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

fn mapping(out: &mut String, entries: &[(Key, Node)], depth: usize, begun: bool) {
    for (index, (key, node)) in entries.iter().enumerate() {
        if index > 0 || !begun {
            indent(out, depth);
        }
        if is_bare(&key.text) {
            out.push_str(&key.text);
        } else {
            quote(out, &key.text, false);
        }
        out.push(':');
        value(out, node, depth + 1);
    }
}

fn scalar(out: &mut String, value: &Value) {
    match value {
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(text) => out.push_str(text),
        Value::String(text) => quote(out, text, true),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) => out.push_str("null"),
    }
}

/// Tells whether a key can stand with no quotes and be text for every reader, the old ones too.
fn is_bare(text: &str) -> bool {
    const WORDS: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        && !is_number(text)
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

/// Writes text in double quotes. In values, a dollar sign is doubled: readers would take it for a variable.
fn quote(out: &mut String, text: &str, dollars: bool) {
    out.push('"');
    for c in text.chars() {
        // Writing to a String cannot fail.
        let _ = match c {
            '"' => out.write_str("\\\""),
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\t' => out.write_str("\\t"),
            '\r' => out.write_str("\\r"),
            '$' if dollars => out.write_str("$$"),
            ' '..='~' | '\u{a1}'..='\u{1fff}' | '\u{2070}'..='\u{d7ff}' | '\u{e000}'..='\u{fdff}' => out.write_char(c),
            c if u32::from(c) <= 0xff => write!(out, "\\x{:02x}", u32::from(c)),
            c if u32::from(c) <= 0xffff => write!(out, "\\u{:04x}", u32::from(c)),
            c => write!(out, "\\U{:08x}", u32::from(c)),
        };
    }
    out.push('"');
}
