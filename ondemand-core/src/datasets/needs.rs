//! What a dump needs that an empty cluster lacks, found by reading its statements; and what they are changed to where they make what is there, or drop
//! what is not.

use std::collections::BTreeSet;

use super::statements::Statement;

/// Words that stand for a role.
const NO_ROLES: [&str; 5] = ["public", "current_user", "current_role", "session_user", "none"];

/// The first words of the statements that are looked at.
const OF_INTEREST: [&str; 14] = [
    "abort", "alter", "begin", "comment", "commit", "create", "drop", "end", "grant", "prepare", "revoke", "rollback",
    "set", "start",
];

/// How many names and statements are remembered: a dump with more has them made up.
const MOST: usize = 10_000;

/// What the statements of a dump need, and what they make.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// The roles that own something or have a privilege.
    pub(super) roles: BTreeSet<String>,
    /// Those that own the database, have a privilege on it or settings in it.
    pub(super) database_roles: BTreeSet<String>,
    /// The roles that are there without the dump.
    pub(super) known_roles: BTreeSet<String>,
    /// The roles that it makes itself.
    pub(super) made_roles: BTreeSet<String>,
    pub(super) extensions: BTreeSet<String>,
    pub(super) locales: BTreeSet<String>,
    /// The databases that it makes, in their order.
    pub(super) databases: Vec<String>,
    /// The statements about databases.
    pub(super) properties: Vec<Property>,
    /// Whether it makes the schema `public`, which is there.
    pub(super) makes_public: bool,
    /// Whether psql commits only where it is told to.
    pub(super) commits_late: bool,
    /// The line in which a transaction began that has not ended.
    pub(super) open_since: Option<u64>,
    /// The line in which one began that was still open when the connection was given up.
    pub(super) left_open: Option<u64>,
}

/// A statement about a database as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Property {
    /// It makes it.
    Create(String),
    /// It sets something for it: what follows `SET`.
    Setting(String),
    /// It is about who may use it: its owner, privileges, settings of roles in it.
    Access(String),
    /// Any other.
    Other(String),
}

/// What psql gets instead of a statement, so that it fails only where it is wrong. Lines stay what they are, as errors name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// This text for that of the statement.
    Text(String),
    /// Nothing: what it makes is there.
    Blank,
}

impl Needs {
    /// Takes a statement, and returns what it is changed to, if at all. `made` is a database that is there already because it was made for the dump.
    pub(super) fn take(&mut self, statement: Statement<'_>, made: Option<&str>) -> Option<Change> {
        if let Some(command) = statement.text.strip_prefix('\\') {
            let words: Vec<&str> = command.split_whitespace().collect();
            match words.as_slice() {
                ["c" | "connect", ..] => self.left_open = self.left_open.or(self.open_since.take()),
                ["set", "AUTOCOMMIT", value, ..] => {
                    self.commits_late = matches!(value.to_lowercase().as_str(), "off" | "false" | "no" | "0" | "of");
                }
                ["unset", "AUTOCOMMIT"] => self.commits_late = true,
                _ => {}
            }
            return None;
        }
        // A dump of INSERTs has millions of them.
        let first: String = statement.text.chars().take_while(|&c| is_of_name(c)).collect();
        if !OF_INTEREST.contains(&first.to_lowercase().as_str()) {
            if self.commits_late {
                self.open_since.get_or_insert(statement.line);
            }
            return None;
        }
        let (tokens, ends) = tokens(statement.text);
        let words: Vec<&str> = tokens.iter().take(6).map(|token| token.word().unwrap_or_default()).collect();
        self.follow_transactions(&words, statement.line);
        let change = self.change(&words, &tokens, &ends, statement.text, made);
        if self.remembered() >= MOST {
            return change;
        }
        self.makes_public |= words.starts_with(&["create", "schema", "public"]);
        match property(&words, &tokens, statement.text) {
            None => self.collect(&words, &tokens),
            Some(property) => {
                self.properties.push(property);
                let others = std::mem::take(&mut self.roles);
                self.collect(&words, &tokens);
                self.database_roles.append(&mut self.roles);
                self.roles = others;
            }
        }
        change
    }

    /// Returns what a statement is changed to.
    fn change(
        &self,
        words: &[&str],
        tokens: &[Token],
        ends: &[usize],
        text: &str,
        made: Option<&str>,
    ) -> Option<Change> {
        let insert = |after: &[usize], what: &str| {
            let mut text = text.to_owned();
            for &token in after.iter().rev() {
                text.insert_str(*ends.get(token)?, what);
            }
            Some(Change::Text(text))
        };
        let is_if = |at: usize| tokens.get(at).and_then(Token::word) == Some("if");
        match words {
            ["drop", ..] => {
                let kind = length_of_kind(words)?;
                if is_if(kind) { None } else { insert(&[kind - 1], " IF EXISTS") }
            }
            ["alter", "table", ..] => {
                let (table, dropped) = drops(tokens)?;
                let places: Vec<usize> =
                    [(!is_if(table + 1)).then_some(table), dropped].into_iter().flatten().collect();
                if places.is_empty() { None } else { insert(&places, " IF EXISTS") }
            }
            ["create", "schema", "public"] | ["create", "schema", "public", "authorization", _] => {
                insert(&[1], " IF NOT EXISTS")
            }
            ["create", "extension", ..] if !is_if(2) => insert(&[1], " IF NOT EXISTS"),
            ["create", "user", "mapping", ..] => None,
            ["create", "role" | "user" | "group", name, ..] => {
                let is_known = tokens
                    .get(2)
                    .and_then(Token::name)
                    .is_some_and(|name| self.known_roles.contains(&name) || self.made_roles.contains(&name));
                // With attributes it would be another; who `postgres` is, is settled here.
                let is_same = tokens.len() == 3 || *name == crate::postgres::USER;
                (is_known && is_same).then_some(Change::Blank)
            }
            ["create", "database", ..] => {
                let name = tokens.get(2).and_then(Token::name);
                (name.is_some() && name.as_deref() == made).then_some(Change::Blank)
            }
            ["create", "language", ..]
            | ["create", "trusted" | "procedural", "language", ..]
            | ["create", "trusted", "procedural", "language", ..] => insert(&[0], " OR REPLACE"),
            _ => None,
        }
    }

    /// As [`Needs::take`], where nothing is changed.
    pub(super) fn read(&mut self, statement: Statement<'_>) {
        let _ = self.take(statement, None);
    }

    fn remembered(&self) -> usize {
        let sets = [&self.roles, &self.database_roles, &self.made_roles, &self.extensions, &self.locales];
        sets.iter().map(|set| set.len()).sum::<usize>() + self.databases.len() + self.properties.len()
    }

    /// Returns the roles that the whole of it needs.
    pub(super) fn all_roles(&self) -> BTreeSet<String> {
        self.roles.union(&self.database_roles).cloned().collect()
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
            // It begins one where the one before has ended.
            _ if self.commits_late => {
                self.open_since.get_or_insert(line);
            }
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

/// Returns how many words a `DROP` has up to the name of what it drops; none if it is of a kind that cannot be dropped where it is absent.
fn length_of_kind(words: &[&str]) -> Option<usize> {
    match words.get(1..)? {
        ["foreign", "data", "wrapper", ..] | ["text", "search", _, ..] => Some(4),
        ["materialized", "view", ..]
        | ["foreign", "table", ..]
        | ["event", "trigger", ..]
        | ["operator", "class" | "family", ..]
        | ["access", "method", ..]
        | ["user", "mapping", ..]
        | ["index", "concurrently", ..]
        | ["procedural", "language", ..] => Some(3),
        [
            "aggregate" | "cast" | "collation" | "conversion" | "database" | "domain" | "extension" | "function"
            | "group" | "index" | "language" | "operator" | "policy" | "procedure" | "publication" | "role" | "routine"
            | "rule" | "schema" | "sequence" | "server" | "statistics" | "subscription" | "table" | "tablespace"
            | "transform" | "trigger" | "type" | "user" | "view",
            ..,
        ] => Some(2),
        _ => None,
    }
}

/// Finds the one thing that an `ALTER TABLE` takes off: `ALTER TABLE [IF EXISTS] [ONLY] t DROP CONSTRAINT c`, as pg_dump writes it, or `… ALTER [COLUMN] c
/// DROP …`. Returns the place of the word `TABLE`, and the one after which `IF EXISTS` goes for what is taken off, if it does.
fn drops(tokens: &[Token]) -> Option<(usize, Option<usize>)> {
    const TABLE: usize = 1;
    if tokens.contains(&Token::Sign(',')) {
        return None;
    }
    let word = |at: usize| tokens.get(at).and_then(Token::word).unwrap_or_default();
    let mut at = TABLE + 1;
    while ["if", "exists", "only"].contains(&word(at)) {
        at += 1;
    }
    at += if tokens.get(at + 1) == Some(&Token::Sign('.')) { 3 } else { 1 };
    match (word(at), word(at + 1), word(at + 2)) {
        ("drop", "constraint" | "column", next) => Some((TABLE, (next != "if").then_some(at + 1))),
        ("alter", "column", _) if word(at + 3) != "drop" => None,
        ("alter", "column", _) | ("alter", _, "drop") => Some((TABLE, None)),
        _ => None,
    }
}

/// Tells what a statement about a database does to it.
fn property(words: &[&str], tokens: &[Token], text: &str) -> Option<Property> {
    let text = || text.to_owned();
    let after = |at: usize| tokens.get(at).and_then(Token::word);
    match words {
        ["create", "database", ..] => Some(Property::Create(text())),
        ["alter", "database", ..] if after(3) == Some("set") && after(4) != Some("tablespace") => {
            let setting = tokens[4..].iter().map(Token::sql).collect::<Vec<_>>().join(" ");
            Some(Property::Setting(setting))
        }
        ["alter", "database", ..] if after(3) == Some("owner") => Some(Property::Access(text())),
        ["alter" | "comment", "database", ..] | ["comment", "on", "database", ..] => Some(Property::Other(text())),
        ["alter", "role" | "user", ..] if after(3) == Some("in") && after(4) == Some("database") => {
            Some(Property::Access(text()))
        }
        ["grant" | "revoke", ..] => {
            let mut pairs = tokens.windows(2);
            let on = pairs.any(|pair| pair[0].word() == Some("on") && pair[1].word() == Some("database"));
            on.then(|| Property::Access(text()))
        }
        _ => None,
    }
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

/// Takes a statement apart, as far as it is of interest here: numbers and operators are signs and words. Returns also where each part ends.
fn tokens(text: &str) -> (Vec<Token>, Vec<usize>) {
    let (mut tokens, mut ends) = (Vec::new(), Vec::new());
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
        ends.push(text.len() - rest.len() + length);
        rest = rest[length..].trim_start();
    }
    (tokens, ends)
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

    fn take(needs: &mut Needs, text: &str) -> Option<Change> {
        needs.take(Statement { text, line: 1, place: (0, 0), is_whole: true, is_copy_from_stdin: false }, Some("made"))
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
            assert_eq!(needs.all_roles().iter().map(String::as_str).collect::<Vec<_>>(), roles, "{text}");
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
        let kinds: Vec<_> = needs.properties.iter().map(std::mem::discriminant).collect();
        let expected =
            [Property::Create(String::new()), Property::Setting(String::new()), Property::Access(String::new())];
        assert_eq!(kinds, expected.each_ref().map(std::mem::discriminant));
        assert_eq!(needs.properties[1], Property::Setting("\"TimeZone\" to 'Europe/Paris'".into()));
        assert_eq!((needs.roles.len(), needs.database_roles.len()), (0, 1), "the owner of the database");
    }

    #[test]
    fn what_is_there_or_absent_is_no_fault() {
        let blank = "";
        let same = "unchanged";
        for (text, expected) in [
            ("CREATE SCHEMA public", "CREATE SCHEMA IF NOT EXISTS public"),
            ("CREATE SCHEMA public AUTHORIZATION boss", "CREATE SCHEMA IF NOT EXISTS public AUTHORIZATION boss"),
            ("CREATE SCHEMA public CREATE TABLE t (i int)", same),
            ("CREATE SCHEMA other", same),
            ("CREATE TABLE public.language (i int)", same),
            ("CREATE TABLE language (i int)", same),
            ("CREATE ROLE known", blank),
            ("CREATE ROLE \"known\"", blank),
            ("CREATE ROLE made_here", blank),
            ("CREATE ROLE another", same),
            ("CREATE ROLE known LOGIN", same),
            ("CREATE USER postgres SUPERUSER", blank),
            ("CREATE USER MAPPING FOR known SERVER s", same),
            ("CREATE PROCEDURAL LANGUAGE plpgsql", "CREATE OR REPLACE PROCEDURAL LANGUAGE plpgsql"),
            ("CREATE OR REPLACE LANGUAGE plpgsql", same),
            ("CREATE EXTENSION hstore WITH SCHEMA public", "CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public"),
            ("CREATE EXTENSION IF NOT EXISTS hstore", same),
            ("CREATE DATABASE made ENCODING 'UTF8'", blank),
            ("CREATE DATABASE other", same),
            ("DROP TABLE public.t", "DROP TABLE IF EXISTS public.t"),
            ("DROP\nTABLE\nt", "DROP\nTABLE IF EXISTS\nt"),
            ("DROP TABLE a, b CASCADE", "DROP TABLE IF EXISTS a, b CASCADE"),
            ("drop table if exists a", same),
            ("DROP TABLE \"if\"", "DROP TABLE IF EXISTS \"if\""),
            ("DROP FOREIGN DATA WRAPPER w", "DROP FOREIGN DATA WRAPPER IF EXISTS w"),
            ("DROP TEXT SEARCH CONFIGURATION c", "DROP TEXT SEARCH CONFIGURATION IF EXISTS c"),
            ("DROP MATERIALIZED VIEW v", "DROP MATERIALIZED VIEW IF EXISTS v"),
            ("DROP USER MAPPING FOR u SERVER s", "DROP USER MAPPING IF EXISTS FOR u SERVER s"),
            ("DROP OPERATOR public.=== (int, int)", "DROP OPERATOR IF EXISTS public.=== (int, int)"),
            ("DROP DATABASE shop", "DROP DATABASE IF EXISTS shop"),
            ("DROP OWNED BY known", same),
            (
                "ALTER TABLE ONLY public.t DROP CONSTRAINT t_pkey",
                "ALTER TABLE IF EXISTS ONLY public.t DROP CONSTRAINT IF EXISTS t_pkey",
            ),
            ("ALTER TABLE IF EXISTS t ALTER id DROP DEFAULT", same),
            ("ALTER TABLE s.t ALTER COLUMN id DROP DEFAULT", "ALTER TABLE IF EXISTS s.t ALTER COLUMN id DROP DEFAULT"),
            ("ALTER TABLE t DROP COLUMN gone, ALTER COLUMN price TYPE numeric", same),
            ("ALTER TABLE drop RENAME TO x", same),
            ("ALTER TABLE t RENAME COLUMN a TO drop", same),
            ("INSERT INTO t VALUES ('DROP')", same),
        ] {
            let mut needs =
                Needs { known_roles: BTreeSet::from(["known".into(), "postgres".into()]), ..Needs::default() };
            take(&mut needs, "CREATE ROLE made_here");
            let changed = match take(&mut needs, text) {
                None => same.to_owned(),
                Some(Change::Blank) => blank.to_owned(),
                Some(Change::Text(text)) => text,
            };
            assert_eq!(changed, expected, "{text}");
        }
    }

    #[test]
    fn a_transaction_that_is_left_open_is_noticed() {
        let open = |texts: &[&str]| {
            let mut needs = Needs::default();
            for (line, text) in (1..).zip(texts) {
                needs.take(Statement { text, line, place: (0, 0), is_whole: true, is_copy_from_stdin: false }, None);
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
        assert_eq!(open(&["\\set AUTOCOMMIT off", "INSERT INTO t VALUES (1)", "DROP TABLE t"]), Some(2));
        assert_eq!(open(&["\\set AUTOCOMMIT off", "CREATE TABLE t ()", "COMMIT"]), None);
        assert_eq!(open(&["\\set AUTOCOMMIT off", "\\set AUTOCOMMIT on", "SELECT 1"]), None);
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
