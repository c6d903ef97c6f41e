//! What a Git server says about its references: gitprotocol-pack(5) and gitprotocol-v2(5).

use super::{Branch, Commit};

/// One of the units that everything a Git server says is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// The end of a part.
    Flush,
    /// Something said.
    Data(&'a [u8]),
}

/// Reads units off an answer.
pub(super) struct Packets<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Packet<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        match read(self.0) {
            Ok((packet, rest)) => {
                self.0 = rest;
                Some(Ok(packet))
            }
            Err(e) => {
                self.0 = &[];
                Some(Err(e))
            }
        }
    }
}

fn read(bytes: &[u8]) -> Result<(Packet<'_>, &[u8]), &'static str> {
    const BROKEN: &str = "the answer is cut off or is not one of a Git server";
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(BROKEN)?;
    if !length.iter().all(u8::is_ascii_hexdigit) {
        return Err(BROKEN);
    }
    let length = std::str::from_utf8(length).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok()).ok_or(BROKEN)?;
    match length {
        // A delimiter and the end of a response end a part too.
        0..=2 => Ok((Packet::Flush, rest)),
        3 => Err(BROKEN),
        _ => {
            let (data, rest) = rest.split_at_checked(length - 4).ok_or(BROKEN)?;
            Ok((Packet::Data(data.strip_suffix(b"\n").unwrap_or(data)), rest))
        }
    }
}

/// What the first answer tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// It waits to be asked, about objects of this format.
    Version2 { format: String },
    /// It has told all.
    References(References),
    /// It refuses, in these words.
    Refused(String),
}

/// The references that matter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct References {
    /// Where `HEAD` points.
    head: Option<String>,
    /// References and what they point at.
    all: Vec<(String, String)>,
}

/// Reads the answer to `info/refs`.
pub(super) fn greeting(body: &[u8], wanted: Option<&Branch>) -> Result<Greeting, String> {
    let mut packets = Packets(body).peekable();
    if let Some(Ok(Packet::Data(data))) = packets.peek()
        && data.starts_with(b"# service=")
    {
        packets.next();
        if !matches!(packets.next(), Some(Ok(Packet::Flush))) {
            return Err("the answer is not one of a Git server".into());
        }
    }
    if let Some(Ok(Packet::Data(b"version 2"))) = packets.peek() {
        let mut format = "sha1".to_owned();
        for packet in packets {
            match packet? {
                Packet::Data(data) => {
                    if let Some(said) = data.strip_prefix(b"object-format=") {
                        format = String::from_utf8_lossy(said).into_owned();
                    }
                }
                Packet::Flush => return Ok(Greeting::Version2 { format }),
            }
        }
        return Err("the answer is cut off".into());
    }
    let mut references = References::default();
    for packet in packets {
        let line = match packet? {
            Packet::Flush => return Ok(Greeting::References(references)),
            Packet::Data(line) => line,
        };
        if let Some(said) = line.strip_prefix(b"ERR ") {
            return Ok(Greeting::Refused(String::from_utf8_lossy(said).into_owned()));
        }
        if line == b"version 1" {
            continue;
        }
        let (line, capabilities) = match line.iter().position(|&b| b == 0) {
            Some(end) => (&line[..end], String::from_utf8_lossy(&line[end + 1..]).into_owned()),
            None => (line, String::new()),
        };
        let target = capabilities.split(' ').find_map(|word| word.strip_prefix("symref=HEAD:"));
        references.head = references.head.or_else(|| target.map(ToOwned::to_owned));
        references.take(line, wanted)?;
    }
    Err("the answer is cut off".into())
}

/// Writes the question for a branch, or for `HEAD`.
pub(super) fn question(format: &str, wanted: Option<&Branch>) -> Vec<u8> {
    let mut question = Vec::new();
    let mut say = |line: &str| {
        question.extend_from_slice(format!("{:04x}{line}\n", line.len() + 5).as_bytes());
    };
    say("command=ls-refs");
    say(&format!("object-format={format}"));
    question.extend_from_slice(b"0001");
    let mut say = |line: &str| {
        question.extend_from_slice(format!("{:04x}{line}\n", line.len() + 5).as_bytes());
    };
    say("symrefs");
    match wanted {
        Some(branch) => say(&format!("ref-prefix refs/heads/{branch}")),
        None => say("ref-prefix HEAD"),
    }
    question.extend_from_slice(b"0000");
    question
}

/// Reads the answer to that question.
pub(super) fn references(body: &[u8], wanted: Option<&Branch>) -> Result<References, String> {
    let mut references = References::default();
    for packet in Packets(body) {
        let line = match packet? {
            Packet::Flush => return Ok(references),
            Packet::Data(line) => line,
        };
        if let Some(said) = line.strip_prefix(b"ERR ") {
            return Err(String::from_utf8_lossy(said).into_owned());
        }
        let mut words = line.splitn(3, |&b| b == b' ');
        let (id, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if name == b"HEAD" {
            let attributes = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
            let target = attributes.split(' ').find_map(|word| word.strip_prefix("symref-target:"));
            references.head = references.head.or_else(|| target.map(ToOwned::to_owned));
        }
        references.take(&[id, b" ", name].concat(), wanted)?;
    }
    Err("the answer is cut off".into())
}

impl References {
    /// Keeps a line `ID NAME` if it matters.
    fn take(&mut self, line: &[u8], wanted: Option<&Branch>) -> Result<(), String> {
        let space = line.iter().position(|&b| b == b' ').ok_or("the answer holds a line without a name")?;
        let (id, name) = (&line[..space], &line[space + 1..]);
        let matters = match wanted {
            Some(branch) => name.strip_prefix(b"refs/heads/") == Some(branch.as_str().as_bytes()),
            None => name == b"HEAD",
        };
        if matters {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            self.all.push((text(name), text(id)));
        }
        Ok(())
    }

    /// Returns the branch that was wanted, or the one that `HEAD` points at, and its commit.
    pub(super) fn find(self, wanted: Option<&Branch>) -> Result<Option<(Branch, Commit)>, String> {
        let Some((_, id)) = self.all.into_iter().next() else { return Ok(None) };
        let branch = if let Some(branch) = wanted {
            branch.clone()
        } else {
            let head = self.head.as_deref().and_then(|target| target.strip_prefix("refs/heads/"));
            let Some(head) = head.and_then(|name| Branch::new(name).ok()) else { return Ok(None) };
            head
        };
        let commit = Commit::new(id).map_err(|_| "the answer holds an id that is none")?;
        Ok(Some((branch, commit)))
    }
}
