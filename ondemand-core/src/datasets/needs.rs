//! What a dump needs that an empty cluster lacks, and which of its statements may fail: found by reading its statements.

use std::collections::BTreeSet;

use super::statements::Statement;

/// Words that stand for a role.
const NO_ROLES: [&str; 5] = ["public", "current_user", "current_role", "session_user", "none"];

/// The first words of the statements that are looked at.
const OF_INTEREST: [&str; 13] = [
    "abort", "alter", "begin", "commit", "create", "drop", "end", "grant", "prepare", "revoke", "rollback", "set",
    "start",
];

/// What the statements of a dump need, and what they make.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// The roles that own something or have a privilege.
    pub(super) roles: BTreeSet<String>,
    /// The roles that it makes itself.
    pub(super) made_roles: BTreeSet<String>,
    pub(super) extensions: BTreeSet<String>,
    pub(super) locales: BTreeSet<String>,
    /// The databases that it makes, in their order.
    pub(super) databases: Vec<String>,
    /// What follows `ALTER DATABASE … SET`, with the database.
    pub(super) settings: Vec<(String, String)>,
    /// The line in which a transaction began that has not ended.
    pub(super) open_since: Option<u64>,
    /// The line in which one began that was still open when the connection was given up.
    pub(super) left_open: Option<u64>,
}

/// What may be wrong with a statement without being a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Harmless {
    /// It makes what is there already.
    Exists,
    /// It drops what is not there.
    Absent,
}

impl Harmless {
    /// Tells whether an error of PostgreSQL's says that.
    pub(super) fn explains(self, error: &str) -> bool {
        match self {
            Self::Exists => error.contains("already exists"),
            Self::Absent => error.contains("does not exist"),
        }
    }
}

impl Needs {
    /// Takes a statement, and returns what may be wrong with it. `made` is a database that is there already because it was made for the dump.
    pub(super) fn take(&mut self, statement: Statement<'_>, made: Option<&str>) -> Option<Harmless> {
        if let Some(command) = statement.text.strip_prefix('\\') {
            if matches!(command.split_whitespace().next(), Some("c" | "connect")) {
                self.left_open = self.left_open.or(self.open_since.take());
            }
            return None;
        }
        // A dump of INSERTs has millions of them.
        let first: String = statement.text.chars().take_while(|&c| is_of_name(c)).collect();
        if !OF_INTEREST.contains(&first.to_lowercase().as_str()) {
            return None;
        }
        let tokens = tokens(statement.text);
        let words: Vec<&str> = tokens.iter().take(6).map(|token| token.word().unwrap_or_default()).collect();
        self.follow_transactions(&words, statement.line);
        let harmless = match words.as_slice() {
            ["drop", ..] => Some(Harmless::Absent),
            ["alter", ..] if drops(&tokens) => Some(Harmless::Absent),
            ["create", "user", "mapping", ..] => None,
            ["create", "schema", "public", ..] | ["create", "extension" | "role" | "user" | "group", ..] => {
                Some(Harmless::Exists)
            }
            ["create", rest @ ..] if rest.iter().take(4).any(|word| *word == "language") => Some(Harmless::Exists),
            ["create", "database", ..] => {
                let name = tokens.get(2).and_then(Token::name);
                (name.is_some() && name.as_deref() == made).then_some(Harmless::Exists)
            }
            _ => None,
        };
        self.collect(&words, &tokens);
        // It would have ended the transaction.
        harmless.filter(|_| self.open_since.is_none())
    }

    /// As [`Needs::take`], where nothing fails.
    pub(super) fn read(&mut self, statement: Statement<'_>) {
        let _ = self.take(statement, None);
    }

    fn follow_transactions(&mut self, words: &[&str], line: u64) {
        match words {
            ["begin", ..] | ["start", "transaction", ..] => {
                self.open_since.get_or_insert(line);
            }
            ["commit" | "rollback", "prepared", ..] => {}
            ["rollback" | "abort", rest @ ..] if rest.contains(&"to") => {}
            ["commit" | "end" | "rollback" | "abort", rest @ ..] => {
                let chained = rest.windows(2).any(|pair| pair == ["and", "chain"]);
                self.open_since = chained.then_some(line).filter(|_| self.open_since.is_some());
            }
            ["prepare", "transaction", ..] => self.open_since = None,
            _ => {}
        }
    }

    fn collect(&mut self, words: &[&str], tokens: &[Token]) {
        let after = |from: usize, word: &str| {
            let at = tokens.iter().skip(from).position(|token| token.word() == Some(word));
            at.map(|at| &tokens[from + at + 1..])
        };
        match words {
            ["create", "user", "mapping", ..] => self.need_roles(after(3, "for")),
            ["create", "role" | "user" | "group", ..] => self.made_roles.extend(tokens.get(2).and_then(Token::name)),
            ["create", "extension", rest @ ..] => {
                let at = if rest.starts_with(&["if", "not", "exists"]) { 5 } else { 2 };
                self.extensions.extend(tokens.get(at).and_then(Token::name));
            }
            ["create", "database", ..] => {
                self.databases.extend(tokens.get(2).and_then(Token::name));
                self.need_roles(after(3, "owner"));
                self.need_locales(tokens);
            }
            ["create", "collation", ..] if !tokens.iter().any(|token| token.word() == Some("icu")) => {
                self.need_locales(tokens);
            }
            ["create", "schema", ..] => self.need_roles(after(2, "authorization")),
            ["create", "policy", ..] => self.need_roles(after(3, "to")),
            ["alter", "database", ..] if tokens.get(3).and_then(Token::word) == Some("set") => {
                if let Some(name) = tokens.get(2).and_then(Token::name) {
                    let setting = tokens[4..].iter().map(Token::sql).collect::<Vec<_>>().join(" ");
                    self.settings.push((name, setting));
                }
            }
            ["alter", "role" | "user" | "group", ..] | ["set", "role", ..] => self.need_roles(tokens.get(2..)),
            ["alter", "default", "privileges", ..] => {
                let by = after(3, "for").and_then(|rest| rest.get(1..));
                self.need_roles(by.filter(|_| tokens.get(3).and_then(Token::word) == Some("for")));
                self.need_roles(after(3, "to"));
            }
            ["alter", ..] => {
                let words: Vec<_> = tokens.iter().map(|token| token.word().unwrap_or_default()).collect();
                let at = words.windows(2).rposition(|pair| pair == ["owner", "to"]);
                self.need_roles(at.and_then(|at| tokens.get(at + 2..)));
            }
            ["grant", ..] => {
                self.need_roles(after(1, "to"));
                // Roles are granted as privileges are, but on nothing.
                if after(1, "on").is_none() {
                    self.need_roles(tokens.get(1..));
                }
            }
            ["revoke", ..] => self.need_roles(after(1, "from")),
            ["set", "session", "authorization", ..] => self.need_roles(tokens.get(3..)),
            _ => {}
        }
    }

    /// Takes the list of roles that these tokens begin with.
    fn need_roles(&mut self, tokens: Option<&[Token]>) {
        let mut rest = tokens.unwrap_or_default();
        while let [token, after @ ..] = rest {
            match token {
                Token::Sign('=') => rest = after,
                Token::Word(word) if matches!(word.as_str(), "group" | "role" | "to" | "for") => rest = after,
                _ => {
                    let Some(name) = token.name() else { return };
                    let stands_for_one = matches!(token, Token::Word(word) if NO_ROLES.contains(&word.as_str()));
                    if !stands_for_one && name != "default" && name != "all" {
                        self.roles.insert(name);
                    }
                    let [Token::Sign(','), after @ ..] = after else { return };
                    rest = after;
                }
            }
        }
    }

    fn need_locales(&mut self, tokens: &[Token]) {
        for triple in tokens.windows(3) {
            if let [Token::Word(word), Token::Sign('='), Token::Text(locale)] = triple
                && matches!(word.as_str(), "locale" | "lc_collate" | "lc_ctype")
            {
                self.locales.insert(locale.clone());
            }
        }
    }
}

/// Tells whether an `ALTER` takes something off, and does nothing else.
fn drops(tokens: &[Token]) -> bool {
    let has = |wanted: &str| tokens.iter().any(|token| token.word() == Some(wanted));
    has("drop") && !has("add") && !has("set")
}

/// A part of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A keyword or a name, in small letters.
    Word(String),
    /// A name in double quotes.
    Name(String),
    /// A text in single quotes.
    Text(String),
    Sign(char),
}

impl Token {
    fn word(&self) -> Option<&str> {
        if let Self::Word(word) = self { Some(word) } else { None }
    }

    fn name(&self) -> Option<String> {
        match self {
            Self::Word(name) | Self::Name(name) | Self::Text(name) => Some(name.clone()),
            Self::Sign(_) => None,
        }
    }

    fn sql(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Name(name) => crate::postgres::cluster::quote_name(name),
            Self::Text(text) => crate::postgres::cluster::quote_text(text),
            Self::Sign(sign) => sign.to_string(),
        }
    }
}

/// Takes a statement apart, as far as it is of interest here: numbers and operators are signs and words.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '"' | '\'' => {
                let (inner, length) = quoted(rest, first);
                (if first == '"' { Token::Name(inner) } else { Token::Text(inner) }, length)
            }
            _ if is_of_name(first) => {
                let length = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
                (Token::Word(rest[..length].to_lowercase()), length)
            }
            _ => (Token::Sign(first), first.len_utf8()),
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    tokens
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Returns what is in the quotes that a text begins with, and how long it is with them.
fn quoted(text: &str, quote: char) -> (String, usize) {
    let mut inner = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            inner.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            inner.push(quote);
        } else {
            return (inner, at + 1);
        }
    }
    (inner, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(needs: &mut Needs, text: &str) -> Option<Harmless> {
        needs.take(Statement { text, line: 1 }, Some("made"))
    }

    #[test]
    fn roles_are_found_wherever_they_are_named() {
        for (text, roles) in [
            ("ALTER TABLE public.t OWNER TO app_owner", &["app_owner"][..]),
            ("ALTER TABLE t OWNER TO CURRENT_USER", &[]),
            ("ALTER TABLE owner RENAME TO x", &[]),
            ("GRANT SELECT ON t TO \"Weird Role\", reporting WITH GRANT OPTION", &["Weird Role", "reporting"]),
            ("GRANT ALL ON SCHEMA public TO PUBLIC", &[]),
            ("GRANT staff, boss TO anna", &["anna", "boss", "staff"]),
            ("REVOKE ALL ON t FROM GROUP g CASCADE", &["g"]),
            ("ALTER DEFAULT PRIVILEGES FOR ROLE a IN SCHEMA s GRANT SELECT ON TABLES TO b", &["a", "b"]),
            ("ALTER DEFAULT PRIVILEGES IN SCHEMA s GRANT SELECT ON TABLES TO b", &["b"]),
            ("SET SESSION AUTHORIZATION 'old'", &["old"]),
            ("SET SESSION AUTHORIZATION DEFAULT", &[]),
            ("SET ROLE NONE", &[]),
            ("CREATE SCHEMA s AUTHORIZATION x", &["x"]),
            ("CREATE POLICY p ON t FOR SELECT TO a, PUBLIC USING (true)", &["a"]),
            ("CREATE USER MAPPING FOR u SERVER s", &["u"]),
            ("CREATE DATABASE d WITH OWNER = o ENCODING = 'UTF8'", &["o"]),
            ("CREATE DATABASE d OWNER o", &["o"]),
            ("ALTER ROLE r SET work_mem TO '1MB'", &["r"]),
            ("CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'GRANT x TO y'", &[]),
            ("COMMENT ON TABLE t IS 'owner to nobody'", &[]),
        ] {
            let mut needs = Needs::default();
            take(&mut needs, text);
            assert_eq!(needs.roles.iter().map(String::as_str).collect::<Vec<_>>(), roles, "{text}");
        }
    }

    #[test]
    fn what_it_makes_and_needs_besides_is_found() {
        let mut needs = Needs::default();
        for text in [
            "CREATE ROLE \"A b\"",
            "CREATE USER u WITH LOGIN",
            "CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public",
            "CREATE EXTENSION \"uuid-ossp\"",
            "CREATE DATABASE \"Shop\" WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'xx_XX.UTF-8'",
            "ALTER DATABASE \"Shop\" SET \"TimeZone\" TO 'Europe/Paris'",
            "ALTER DATABASE \"Shop\" OWNER TO u",
            "CREATE COLLATION c (provider = icu, locale = 'de')",
        ] {
            take(&mut needs, text);
        }
        assert_eq!(needs.made_roles.iter().collect::<Vec<_>>(), ["A b", "u"]);
        assert_eq!(needs.extensions.iter().collect::<Vec<_>>(), ["hstore", "uuid-ossp"]);
        assert_eq!(needs.databases, ["Shop"]);
        assert_eq!(needs.locales.iter().collect::<Vec<_>>(), ["xx_XX.UTF-8"]);
        assert_eq!(needs.settings, [("Shop".into(), "\"TimeZone\" to 'Europe/Paris'".into())]);
    }

    #[test]
    fn what_is_there_or_absent_is_no_fault() {
        for (text, harmless) in [
            ("CREATE SCHEMA public", Some(Harmless::Exists)),
            ("CREATE SCHEMA other", None),
            ("CREATE TABLE t (i int)", None),
            ("CREATE ROLE r", Some(Harmless::Exists)),
            ("CREATE USER MAPPING FOR r SERVER s", None),
            ("CREATE OR REPLACE PROCEDURAL LANGUAGE plpgsql", Some(Harmless::Exists)),
            ("CREATE DATABASE made", Some(Harmless::Exists)),
            ("CREATE DATABASE other", None),
            ("DROP TABLE public.t", Some(Harmless::Absent)),
            ("ALTER TABLE ONLY public.t DROP CONSTRAINT t_pkey", Some(Harmless::Absent)),
            ("ALTER TABLE t ALTER COLUMN id DROP DEFAULT", Some(Harmless::Absent)),
            ("ALTER TABLE t DROP COLUMN a, ADD COLUMN b int", None),
            ("ALTER TABLE t ADD COLUMN b int", None),
            ("INSERT INTO t VALUES ('DROP')", None),
        ] {
            assert_eq!(take(&mut Needs::default(), text), harmless, "{text}");
        }
        let mut needs = Needs::default();
        take(&mut needs, "BEGIN");
        assert_eq!(take(&mut needs, "DROP TABLE t"), None, "it ends the transaction");
        assert!(
            Harmless::Absent.explains("table \"t\" does not exist") && !Harmless::Absent.explains("permission denied")
        );
    }

    #[test]
    fn a_transaction_that_is_left_open_is_noticed() {
        let open = |texts: &[&str]| {
            let mut needs = Needs::default();
            for (line, text) in (1..).zip(texts) {
                needs.take(Statement { text, line }, None);
            }
            needs.left_open.or(needs.open_since)
        };
        assert_eq!(open(&["BEGIN", "COMMIT"]), None);
        assert_eq!(open(&["SELECT 1", "start transaction isolation level serializable", "SELECT 2"]), Some(2));
        assert_eq!(open(&["BEGIN", "SAVEPOINT a", "ROLLBACK TO a"]), Some(1));
        assert_eq!(open(&["BEGIN", "ROLLBACK TO SAVEPOINT a", "END"]), None);
        assert_eq!(open(&["BEGIN", "COMMIT AND CHAIN"]), Some(2));
        assert_eq!(open(&["BEGIN", "PREPARE TRANSACTION 'x'"]), None);
        assert_eq!(open(&["COMMIT PREPARED 'x'"]), None);
        assert_eq!(open(&["BEGIN", "\\connect other", "SELECT 1"]), Some(1));
        assert_eq!(open(&["BEGIN", "\\c", "COMMIT"]), Some(1));
        assert_eq!(open(&["BEGIN", "\\copyright"]), Some(1), "as it never ended");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            take(&mut Needs::default(), &text);
        }
    }
}
