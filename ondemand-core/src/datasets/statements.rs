//! Splitting SQL text, as it passes, into the statements that psql sends.
//!
//! Where a statement ends is decided as psql's scanner does (PostgreSQL's `src/fe_utils/psqlscan.l`): at a semicolon outside of quotes, comments,
//! parentheses and the bodies of functions in standard SQL.

use memchr::{memchr, memchr2};

/// How much of a statement's beginning is kept: what is of interest is said there.
const KEPT: usize = 8 << 10;
/// How much of its end is kept, as that of a `COPY` comes after its columns.
const KEPT_OF_END: usize = 128;
/// A name has at most 63 bytes, and a longer word is none that is looked for.
const LONGEST_WORD: usize = 64;
/// The words that say what a statement makes: `CREATE OR REPLACE FUNCTION`.
const WORDS: usize = 4;

/// A statement, or a command to psql, which begins with a backslash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Statement<'a> {
    /// Its beginning, without comments and without its semicolon.
    pub(super) text: &'a str,
    /// The number of the line that it ends in, from 1: psql's errors name that one.
    pub(super) line: u64,
    /// Where its first byte is in the text, and the byte after its semicolon.
    pub(super) place: (u64, u64),
    /// Whether the text is all of it, comments left out.
    pub(super) is_whole: bool,
    /// Whether rows follow it, which are no statements.
    pub(super) is_copy_from_stdin: bool,
}

/// Splits text that comes in pieces.
#[derive(Debug)]
pub(super) struct Statements {
    state: State,
    line: u64,
    /// Where the byte is that is looked at, and the first one of the statement.
    at: u64,
    start: u64,
    /// How many bytes have come of it, without comments.
    length: u64,
    /// The beginning and the end of what has come of the statement.
    text: Vec<u8>,
    end: Vec<u8>,
    /// The word that is being read, in capitals, and the first words.
    word: Vec<u8>,
    words: Vec<Vec<u8>>,
    parentheses: u32,
    /// How many `BEGIN` and `CASE` are open in the body of a function.
    blocks: u32,
    /// Whether a backslash escapes in `'…'`, as it did by default before PostgreSQL 9.1.
    backslashes: bool,
}

/// What the next byte is a part of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Plain,
    /// After `-` or `/`, with which a comment may begin.
    Comment1(u8),
    LineComment,
    /// So deep in comments, after this byte.
    Comment(u32, u8),
    Text {
        escapes: bool,
        escaped: bool,
    },
    Name,
    /// In what may be the beginning of `$tag$`.
    Tag(Vec<u8>),
    /// Between two tags, after so many bytes of the second one.
    Tagged(Vec<u8>, usize),
    /// In a command of psql's.
    Command,
    /// In the rows of a `COPY`.
    Rows(Row),
}

/// How far a row is the line that ends rows: `\.` and perhaps a carriage return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Begins,
    Backslash,
    Dot,
    Return,
    IsData,
}

impl Default for Statements {
    fn default() -> Self {
        Self {
            state: State::Plain,
            line: 1,
            at: 0,
            start: 0,
            length: 0,
            text: Vec::new(),
            end: Vec::new(),
            word: Vec::new(),
            words: Vec::new(),
            parentheses: 0,
            blocks: 0,
            backslashes: false,
        }
    }
}

impl Statements {
    /// Takes the next bytes, and tells of each statement that ends in them.
    pub(super) fn push(&mut self, bytes: &[u8], each: &mut impl FnMut(Statement<'_>)) {
        let mut rest = bytes;
        // psql skips a mark of UTF-8, too.
        if self.at == 0
            && let Some(text) = rest.strip_prefix(b"\xef\xbb\xbf")
        {
            self.at += (rest.len() - text.len()) as u64;
            rest = text;
        }
        while !rest.is_empty() {
            // Texts and rows are most of a dump.
            let length = self.means_nothing(rest);
            let (meaningless, after) = rest.split_at(length);
            self.keep(meaningless);
            self.line += memchr::memchr_iter(b'\n', meaningless).count() as u64;
            self.at += length as u64;
            rest = after;
            if let [byte, after @ ..] = rest {
                self.take(*byte, each);
                self.line += u64::from(*byte == b'\n');
                self.at += 1;
                rest = after;
            }
        }
    }

    /// Returns where the statement begins that has not ended.
    pub(super) fn begun(&self) -> Option<u64> {
        let is_text = matches!(self.state, State::Rows(_));
        (!self.text.is_empty() && !is_text).then_some(self.start)
    }

    /// Tells of what has no semicolon at the end of the text: psql sends it all the same.
    pub(super) fn finish(&mut self, each: &mut impl FnMut(Statement<'_>)) {
        self.end_word();
        if !matches!(self.state, State::Rows(_)) {
            self.end_statement(each);
        }
    }

    /// Returns how many bytes change nothing about what the next one is a part of.
    fn means_nothing(&self, bytes: &[u8]) -> usize {
        let found = match &self.state {
            State::Text { escapes: true, escaped: false } => memchr2(b'\'', b'\\', bytes),
            State::Text { escapes: false, .. } => memchr(b'\'', bytes),
            State::Name => memchr(b'"', bytes),
            State::Tagged(_, 0) => memchr(b'$', bytes),
            State::LineComment | State::Command | State::Rows(Row::IsData) => memchr(b'\n', bytes),
            _ => return 0,
        };
        found.unwrap_or(bytes.len())
    }

    fn keep(&mut self, bytes: &[u8]) {
        if matches!(self.state, State::LineComment | State::Comment(..) | State::Rows(_)) {
            return;
        }
        if self.text.is_empty() {
            (self.start, self.length) = (self.at, 0);
        }
        self.length += bytes.len() as u64;
        let room = KEPT.saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.end.extend_from_slice(&bytes[bytes.len().saturating_sub(KEPT_OF_END)..]);
        if self.end.len() > 8 * KEPT_OF_END {
            self.end.drain(..self.end.len() - KEPT_OF_END);
        }
    }

    fn take(&mut self, byte: u8, each: &mut impl FnMut(Statement<'_>)) {
        self.state = match std::mem::replace(&mut self.state, State::Plain) {
            State::Plain => return self.take_plain(byte, each),
            State::Comment1(b'-') if byte == b'-' => State::LineComment,
            State::Comment1(b'/') if byte == b'*' => State::Comment(1, 0),
            // It was an operator.
            State::Comment1(first) => {
                self.keep(&[first]);
                return self.take_plain(byte, each);
            }
            State::LineComment if byte == b'\n' => return self.take_plain(byte, each),
            State::LineComment => State::LineComment,
            State::Comment(1, b'*') if byte == b'/' => return self.take_plain(b' ', each),
            State::Comment(depth, b'*') if byte == b'/' => State::Comment(depth - 1, 0),
            State::Comment(depth, b'/') if byte == b'*' => State::Comment(depth + 1, 0),
            State::Comment(depth, _) => State::Comment(depth, byte),
            State::Text { escapes, escaped } => {
                self.keep(&[byte]);
                match byte {
                    // Two of them stand for one: the text ends, and begins again.
                    b'\'' if !escaped => State::Plain,
                    _ => State::Text { escapes, escaped: escapes && !escaped && byte == b'\\' },
                }
            }
            State::Name => {
                self.keep(&[byte]);
                if byte == b'"' { State::Plain } else { State::Name }
            }
            State::Tag(mut tag) => {
                let goes_on =
                    is_of_word(byte) && !(tag.len() == 1 && byte.is_ascii_digit()) && tag.len() <= LONGEST_WORD;
                if !goes_on && byte != b'$' {
                    return self.take_plain(byte, each);
                }
                self.keep(&[byte]);
                tag.push(byte);
                if goes_on { State::Tag(tag) } else { State::Tagged(tag, 0) }
            }
            State::Tagged(tag, matching) => {
                self.keep(&[byte]);
                // A tag has dollars at its ends alone.
                let matching = match byte {
                    byte if byte == tag[matching] => matching + 1,
                    b'$' => 1,
                    _ => 0,
                };
                if matching == tag.len() { State::Plain } else { State::Tagged(tag, matching) }
            }
            State::Command if byte == b'\n' => {
                let text = String::from_utf8_lossy(&self.text).to_ascii_lowercase();
                let mut words = text.split_whitespace();
                // Its rows follow as those of COPY do.
                let rows = words.next() == Some("\\copy")
                    && words.any(|word| word == "from")
                    && matches!(words.next(), Some("stdin" | "pstdin"));
                self.tell(each);
                if rows { State::Rows(Row::Begins) } else { State::Plain }
            }
            State::Command => {
                self.keep(&[byte]);
                State::Command
            }
            State::Rows(row) => match (row, byte) {
                (Row::Dot | Row::Return, b'\n') => State::Plain,
                (_, b'\n') => State::Rows(Row::Begins),
                (Row::Begins, b'\\') => State::Rows(Row::Backslash),
                (Row::Backslash, b'.') => State::Rows(Row::Dot),
                (Row::Dot, b'\r') => State::Rows(Row::Return),
                _ => State::Rows(Row::IsData),
            },
        };
    }

    fn take_plain(&mut self, byte: u8, each: &mut impl FnMut(Statement<'_>)) {
        if is_of_word(byte) || byte == b'$' && !self.word.is_empty() {
            if self.word.len() < LONGEST_WORD {
                self.word.push(byte.to_ascii_uppercase());
            }
            return self.keep(&[byte]);
        }
        let escapes = self.backslashes || self.word == b"E";
        self.end_word();
        match byte {
            b'\'' => self.state = State::Text { escapes, escaped: false },
            b'"' => self.state = State::Name,
            b'$' => self.state = State::Tag(vec![b'$']),
            b'-' | b'/' => {
                self.state = State::Comment1(byte);
                return;
            }
            b'(' => self.parentheses += 1,
            b')' => self.parentheses = self.parentheses.saturating_sub(1),
            b';' if self.parentheses == 0 && self.blocks == 0 => return self.end_statement(each),
            // Within a statement, what a command does (`\gexec`) is done to it, and it ends with the line.
            b'\\' => self.state = State::Command,
            _ if byte.is_ascii_whitespace() && self.text.is_empty() => return,
            _ => {}
        }
        self.keep(&[byte]);
    }

    /// Counts the blocks of a function's body, as psql does.
    fn end_word(&mut self) {
        let word = std::mem::take(&mut self.word);
        if word.is_empty() {
            return;
        }
        if self.parentheses == 0 && self.makes_function() {
            match word.as_slice() {
                b"BEGIN" => self.blocks += 1,
                // Only in a block, as a function may have this name.
                b"CASE" if self.blocks > 0 => self.blocks += 1,
                b"END" => self.blocks = self.blocks.saturating_sub(1),
                _ => {}
            }
        }
        if self.words.len() < WORDS {
            self.words.push(word);
        }
    }

    fn makes_function(&self) -> bool {
        let words: Vec<&[u8]> = self.words.iter().map(Vec::as_slice).collect();
        matches!(
            words.as_slice(),
            [b"CREATE", b"FUNCTION" | b"PROCEDURE", ..]
                | [b"CREATE", b"OR", b"REPLACE", b"FUNCTION" | b"PROCEDURE", ..]
        )
    }

    fn end_statement(&mut self, each: &mut impl FnMut(Statement<'_>)) {
        let end = String::from_utf8_lossy(&self.end).to_ascii_uppercase();
        let rows = self.words.first().is_some_and(|word| word == b"COPY") && end.contains("FROM STDIN");
        let set = String::from_utf8_lossy(&self.text[..self.text.len().min(KEPT_OF_END)]).to_ascii_lowercase();
        if let Some(value) = set.strip_prefix("set standard_conforming_strings") {
            self.backslashes = value.contains("off");
        }
        self.tell_of(rows, each);
        if rows {
            // The rows begin with the next line.
            self.state = State::Rows(Row::IsData);
        }
    }

    fn tell(&mut self, each: &mut impl FnMut(Statement<'_>)) {
        self.tell_of(false, each);
    }

    fn tell_of(&mut self, is_copy_from_stdin: bool, each: &mut impl FnMut(Statement<'_>)) {
        let text = String::from_utf8_lossy(&self.text);
        let text = text.trim();
        if !text.is_empty() {
            let place = (self.start, self.at + 1);
            let is_whole = self.length == self.text.len() as u64;
            each(Statement { text, line: self.line, place, is_whole, is_copy_from_stdin });
        }
        self.text.clear();
        self.end.clear();
        self.words.clear();
        self.word.clear();
        (self.parentheses, self.blocks) = (0, 0);
    }
}

/// Tells whether a byte can be in a name or a keyword.
fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the statements with their lines, as they come in pieces of so many bytes.
    fn split(text: &str, size: usize) -> Vec<(String, u64)> {
        let (mut statements, mut found) = (Statements::default(), Vec::new());
        let mut each = |statement: Statement<'_>| found.push((statement.text.to_owned(), statement.line));
        for piece in text.as_bytes().chunks(size) {
            statements.push(piece, &mut each);
        }
        statements.finish(&mut each);
        found
    }

    fn assert_split(text: &str, expected: &[(&str, u64)]) {
        let expected: Vec<_> = expected.iter().map(|(text, line)| ((*text).to_owned(), *line)).collect();
        for size in [1, 2, 3, 7, 4096] {
            assert_eq!(split(text, size), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_statement_ends_where_psql_ends_it() {
        assert_split("SELECT 1;\nSELECT 2; SELECT\n3", &[("SELECT 1", 1), ("SELECT 2", 2), ("SELECT\n3", 3)]);
        assert_split("-- a; b\n/* c; /* d; */ e; */ SELECT 1 - 2 / 3;", &[("SELECT 1 - 2 / 3", 2)]);
        assert_split("SELECT 'a;''b';SELECT \"c;\"\"d\";", &[("SELECT 'a;''b'", 1), ("SELECT \"c;\"\"d\"", 1)]);
        assert_split("SELECT 'a\\';SELECT e'b\\';\\\\';", &[("SELECT 'a\\'", 1), ("SELECT e'b\\';\\\\'", 1)]);
        assert_split("SELECT $$a;$b$;$$, $x$;$$;$x$, $1;", &[("SELECT $$a;$b$;$$, $x$;$$;$x$, $1", 1)]);
        assert_split("SELECT a$b$c; SELECT $d$e;$d$;", &[("SELECT a$b$c", 1), ("SELECT $d$e;$d$", 1)]);
        assert_split(
            "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);",
            &[("CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)", 1)],
        );
    }

    #[test]
    fn the_body_of_a_function_is_a_part_of_it() {
        let function = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END";
        assert_split(&format!("{function};SELECT 3;"), &[(function, 1), ("SELECT 3", 1)]);
        let procedure = "create or replace procedure p() begin atomic select 1; end";
        assert_split(&format!("{procedure}; BEGIN; END;"), &[(procedure, 1), ("BEGIN", 1), ("END", 1)]);
    }

    #[test]
    fn rows_and_commands_are_no_statements() {
        assert_split(
            "\\connect shop\nCOPY t (a, \"b;\") FROM stdin;\n1\t';\n\\.x\n\\.\nSELECT 1;\n\\restrict x;y\nSELECT 2;",
            &[
                ("\\connect shop", 1),
                ("COPY t (a, \"b;\") FROM stdin", 2),
                ("SELECT 1", 6),
                ("\\restrict x;y", 7),
                ("SELECT 2", 8),
            ],
        );
        assert_split(
            "COPY t FROM STDIN WITH (FORMAT csv);\r\n;';\r\n\\.\r\nSELECT 1;",
            &[("COPY t FROM STDIN WITH (FORMAT csv)", 1), ("SELECT 1", 4)],
        );
        assert_split("COPY t TO stdout;\nSELECT 'FROM stdin';", &[("COPY t TO stdout", 1), ("SELECT 'FROM stdin'", 2)]);
    }

    #[test]
    fn old_dumps_escape_with_backslashes() {
        assert_split(
            "SET standard_conforming_strings = off;\nSELECT 'a\\';';SELECT 1;",
            &[("SET standard_conforming_strings = off", 1), ("SELECT 'a\\';'", 2), ("SELECT 1", 2)],
        );
    }

    #[test]
    fn the_rows_of_psqls_own_copy_are_no_statements() {
        assert_split(
            "BEGIN;\n\\copy t (a) FROM stdin\n1\tO'Brien;\n\\.\nCOMMIT;",
            &[("BEGIN", 1), ("\\copy t (a) FROM stdin", 2), ("COMMIT", 5)],
        );
        assert_split("\\copy t to stdout\nSELECT 1;", &[("\\copy t to stdout", 1), ("SELECT 1", 2)]);
    }

    #[test]
    fn a_statement_has_a_place() {
        let text = "\u{feff}-- a\n DROP TABLE t ;SELECT 1; \n";
        for size in [1, 5, 4096] {
            let (mut statements, mut found) = (Statements::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                statements.push(piece, &mut |statement| {
                    let (from, to) = statement.place;
                    found.push(text[usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0)].to_owned());
                });
            }
            // A mark of UTF-8 is skipped where it comes whole.
            if size > 1 {
                assert_eq!(found, ["DROP TABLE t ;", "SELECT 1;"]);
            }
            assert_eq!(statements.begun(), None);
        }
        let mut statements = Statements::default();
        statements.push(b"SELECT 1; DROP", &mut |_| {});
        assert_eq!(statements.begun(), Some(10));
    }

    #[test]
    fn comments_separate_words_and_a_mark_of_utf8_is_none() {
        assert_split("SELECT--\n1/**/2;", &[("SELECT\n1 2", 2)]);
        assert_eq!(split("\u{feff}BEGIN;", 4096), [("BEGIN".to_owned(), 1)]);
    }

    #[test]
    fn of_a_long_statement_the_beginning_is_kept() {
        let text = format!("INSERT INTO t VALUES ('{}');\nSELECT 1;", "x\n".repeat(100_000));
        let found = split(&text, 1000);
        assert_eq!((found.len(), found[0].1, found[1].clone()), (2, 100_001, ("SELECT 1".into(), 100_002)));
        assert_eq!(found[0].0.len(), KEPT);
        let columns = (0..2000).map(|n| format!("column_{n}")).collect::<Vec<_>>().join(", ");
        assert_split(
            &format!("COPY t ({columns}) FROM stdin;\n;\n\\.\n"),
            &[(format!("COPY t ({columns})").get(..KEPT).expect("so many"), 1)],
        );
    }

    proptest::proptest! {
        #[test]
        fn pieces_make_no_difference(text in r#"[-a-zE$'";()*/\\\n. ]{0,60}"#, size in 1_usize..9) {
            proptest::prop_assert_eq!(split(&text, size), split(&text, 4096));
        }
    }
}
