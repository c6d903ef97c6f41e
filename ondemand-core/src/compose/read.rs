//! Text → tree, within bounds: nothing that a file says makes it take long or grow large.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::problem::{Place, Problem, Read};
use super::tree::{Key, Node, Value};

/// The longest document, in bytes.
pub(crate) const LONGEST: usize = 1 << 20;
/// How deep a document may be nested, aliases followed.
const DEEPEST: usize = 64;
/// How many nodes a document may have, aliases followed.
const MOST_NODES: usize = 100_000;
/// How much text a document may have, aliases followed.
const MOST_TEXT: usize = 8 << 20;
/// The longest key, in bytes: YAML's readers take no key above 1024 characters, some of which are escaped.
pub(crate) const LONGEST_KEY: usize = 200;

/// Reads the one document in `text`. `place` tells where a line of the text came from.
pub(crate) fn read(text: &str, place: &dyn Fn(usize) -> Place) -> Read<Node> {
    if text.len() > LONGEST {
        return Err(Problem::new(Place::default(), format!("it has more than {} KiB", LONGEST >> 10)));
    }
    Reader { place, stack: Vec::new(), anchors: HashMap::new(), root: None, nodes: 0, text: 0 }.read(text)
}

struct Reader<'a> {
    place: &'a dyn Fn(usize) -> Place,
    /// What is open, the innermost last.
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    nodes: usize,
    text: usize,
}

/// A sequence or mapping whose end was not seen yet.
struct Open {
    anchor: usize,
    place: Place,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<(Key, Node)>, seen: HashSet<String>, key: Option<Pending>, merged: Vec<Node> },
}

/// A key whose value was not seen yet.
enum Pending {
    Key(Key),
    /// `<<`
    Merge,
}

impl Reader<'_> {
    fn read(mut self, text: &str) -> Read<Node> {
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                // What is not closed is missed after the last line.
                let line = error.marker().line().clamp(1, text.lines().count().max(1));
                Problem::new((self.place)(line), format!("it is not YAML: {}", error.info()))
            })?;
            let start = span.start;
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(self.problem(start, "a second document begins here; there may be only one"));
                    }
                }
                Event::Alias(anchor) => {
                    let Some(node) = self.anchors.get(&anchor).cloned() else {
                        return Err(self.problem(start, "the alias stands inside of what it names"));
                    };
                    let (nodes, text) = node.size();
                    self.count(self.at(start), nodes, text, node.height())?;
                    self.complete(node, 0)?;
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.count(self.at(start), 1, text.len(), 1)?;
                    let plain = style == ScalarStyle::Plain && tag.is_none();
                    let value = self.scalar(start, &text, style, tag.as_deref())?;
                    let node = Node { value, place: self.at(start), plain };
                    // A key keeps what was written: `yes`, `1.0` and `Null` are names there.
                    self.complete_scalar(node, anchor, &text)?;
                }
                Event::SequenceStart(anchor, tag) => {
                    self.check_tag(start, tag.as_deref(), "seq")?;
                    self.open(start, anchor, Content::Sequence(Vec::new()))?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.check_tag(start, tag.as_deref(), "map")?;
                    let content =
                        Content::Mapping { entries: Vec::new(), seen: HashSet::new(), key: None, merged: Vec::new() };
                    self.open(start, anchor, content)?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.close()?,
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        match self.root {
            Some(root) if root.value != Value::Null => Ok(root),
            _ => Err(Problem::new((self.place)(1), "it is empty")),
        }
    }

    fn at(&self, marker: Marker) -> Place {
        (self.place)(marker.line())
    }

    fn problem(&self, marker: Marker, reason: impl std::fmt::Display) -> Problem {
        Problem::new(self.at(marker), reason)
    }

    /// Counts what is added, so that aliases of aliases stay small.
    fn count(&mut self, place: Place, nodes: usize, text: usize, height: usize) -> Read<()> {
        self.nodes += nodes;
        self.text += text;
        if self.nodes > MOST_NODES {
            return Err(Problem::new(
                place,
                format!("it has more than {MOST_NODES} values, with what aliases stand for"),
            ));
        }
        if self.text > MOST_TEXT {
            return Err(Problem::new(
                place,
                format!("it has more than {} MiB of text, with what aliases stand for", MOST_TEXT >> 20),
            ));
        }
        if self.stack.len() + height > DEEPEST {
            return Err(Problem::new(place, format!("it is nested more than {DEEPEST} deep")));
        }
        Ok(())
    }

    fn scalar(&self, marker: Marker, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Read<Value> {
        let Some(tag) = tag else {
            return Ok(if style == ScalarStyle::Plain { Value::plain(text) } else { Value::String(text.to_owned()) });
        };
        let suffix = match tag {
            // The tag `!`: as written.
            Tag { handle, suffix } if handle.is_empty() || suffix.is_empty() => "str",
            tag if tag.is_yaml_core_schema() => tag.suffix.as_str(),
            tag => return Err(self.problem(marker, format!("the tag {tag} is not supported"))),
        };
        let value = Value::plain(text);
        match (suffix, &value) {
            ("str", _) => Ok(Value::String(text.to_owned())),
            ("int" | "float", Value::Number(_)) | ("bool", Value::Bool(_)) | ("null", Value::Null) => Ok(value),
            ("int" | "float" | "bool" | "null", _) => {
                Err(self.problem(marker, format!("{:?} is not of the type of its tag", crate::error::shorten(text))))
            }
            _ => Err(self.problem(marker, format!("the tag {tag} is not supported here"))),
        }
    }

    fn check_tag(&self, marker: Marker, tag: Option<&Tag>, suffix: &str) -> Read<()> {
        match tag {
            Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == suffix) => {
                Err(self.problem(marker, format!("the tag {tag} is not supported here")))
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, marker: Marker, anchor: usize, content: Content) -> Read<()> {
        self.count(self.at(marker), 1, 0, 1)?;
        if let Some(Open { content: Content::Mapping { key: None, .. }, .. }) = self.stack.last() {
            return Err(self.problem(marker, "a key must be text"));
        }
        self.stack.push(Open { anchor, place: self.at(marker), content });
        Ok(())
    }

    fn close(&mut self) -> Read<()> {
        let Some(Open { anchor, place, content }) = self.stack.pop() else { return Ok(()) };
        let value = match content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping { mut entries, mut seen, merged, .. } => {
                for node in merged {
                    merge(node, &mut entries, &mut seen)?;
                }
                Value::Mapping(entries)
            }
        };
        self.complete(Node { value, place, plain: false }, anchor)
    }

    fn complete_scalar(&mut self, node: Node, anchor: usize, text: &str) -> Read<()> {
        if let Some(Open { content: Content::Mapping { seen, key: key @ None, .. }, .. }) = self.stack.last_mut() {
            if node.plain && text == "<<" {
                *key = Some(Pending::Merge);
                return Ok(());
            }
            if text.len() > LONGEST_KEY {
                return Err(Problem::new(node.place, format!("the key has more than {LONGEST_KEY} bytes")));
            }
            if !seen.insert(text.to_owned()) {
                return Err(Problem::new(node.place, format!("the key {text:?} is there twice")));
            }
            *key = Some(Pending::Key(Key { text: text.to_owned(), place: node.place }));
            if anchor != 0 {
                self.anchors.insert(anchor, node);
            }
            return Ok(());
        }
        self.complete(node, anchor)
    }

    /// Puts a whole node where it belongs.
    fn complete(&mut self, node: Node, anchor: usize) -> Read<()> {
        if anchor != 0 {
            // It is kept a second time.
            let (nodes, text) = node.size();
            self.count(node.place, nodes, text, 0)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::Sequence(items)) => items.push(node),
            Some(Content::Mapping { entries, key, merged, .. }) => match key.take() {
                Some(Pending::Key(key)) => entries.push((key, node)),
                Some(Pending::Merge) => merged.push(node),
                // Only an alias comes here: other scalars were taken as keys, and the rest was refused.
                None => {
                    let (Value::String(text) | Value::Number(text)) = &node.value else {
                        return Err(Problem::new(node.place, "a key must be text"));
                    };
                    let text = text.clone();
                    return self.complete_scalar(Node { plain: false, ..node }, 0, &text);
                }
            },
        }
        Ok(())
    }
}

/// Adds what a merge brings: keys that are there already win.
fn merge(node: Node, entries: &mut Vec<(Key, Node)>, seen: &mut HashSet<String>) -> Read<()> {
    match node.value {
        Value::Mapping(other) => {
            entries.extend(other.into_iter().filter(|(key, _)| seen.insert(key.text.clone())));
            Ok(())
        }
        Value::Sequence(items) if items.iter().all(|item| matches!(item.value, Value::Mapping(_))) => {
            items.into_iter().try_for_each(|item| merge(item, entries, seen))
        }
        value => Err(Problem::new(
            node.place,
            format!("`<<` merges a mapping or a list of mappings, and this is {}", value.kind()),
        )),
    }
}
