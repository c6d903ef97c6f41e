//! What psql and pg_restore complain of, and what that leads to: it ends the restore, or is kept in a list.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::OnError;
use super::diagnose::readable;
use crate::postgres::program::mask_passwords;

/// How many failures are kept with a version; of the others there is the number.
const KEPT: usize = 20;
/// How much of each, in characters.
const KEPT_OF_EACH: usize = 300;

/// How many lines with a `COPY` are kept. They are more bytes than are on their way to psql.
const KEPT_COPIES: usize = 1 << 16;

/// What went wrong with the statements of a dump, as the program that restores it says so.
#[derive(Debug, Clone)]
pub(super) struct Faults {
    on_error: OnError,
    /// Set by the first failure that ends the restore.
    stop: CancellationToken,
    list: Arc<Mutex<List>>,
}

#[derive(Debug, Default)]
struct List {
    /// The lines in which a `COPY` ends whose rows follow: the last ones, as psql is never far behind.
    copies: VecDeque<u64>,
    /// The error of one that the server refused.
    refused_copy: Option<String>,
    /// Whether pg_restore has gone on to the end of the archive after errors.
    went_on: bool,
    failures: Failures,
}

/// The statements of a dump that failed, where the restore went on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Failures {
    /// The first ones, each in a line.
    pub(super) first: Vec<String>,
    /// How many there were.
    pub(super) count: u64,
}

impl Faults {
    pub(super) fn new(on_error: OnError) -> Self {
        Self { on_error, stop: CancellationToken::new(), list: Arc::default() }
    }

    /// Returns what is set once the restore is to end.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Says that rows follow the statement that ends in a line: where the server refuses it, psql takes them for statements.
    pub(super) fn rows_follow(&self, line: u64) {
        let copies = &mut self.lock().copies;
        if copies.len() == KEPT_COPIES {
            copies.pop_front();
        }
        copies.push_back(line);
    }

    /// Takes a line of psql's, and tells whether it is of no interest.
    pub(super) fn hear_psql(&self, line: &str) -> bool {
        let Some(at) = psql_error(line) else {
            // Notices are not what went wrong, and there may be one for every table.
            return line.contains("NOTICE:");
        };
        let mut list = self.lock();
        if let At::Line(number) = at
            && list.copies.contains(&number)
        {
            list.refused_copy.get_or_insert_with(|| line.to_owned());
            self.stop.cancel();
            return false;
        }
        drop(list);
        self.fail(line);
        false
    }

    /// Takes a line of pg_restore's, and tells whether it is of no interest.
    pub(super) fn hear_pg_restore(&self, line: &str) -> bool {
        if line.starts_with("pg_restore: warning: errors ignored on restore: ") {
            self.lock().went_on = true;
        }
        if line.starts_with("pg_restore: error: ") {
            self.fail(line);
        }
        false
    }

    /// Takes a failure.
    pub(super) fn fail(&self, line: &str) {
        match self.on_error {
            OnError::Stop => self.stop.cancel(),
            OnError::Continue => {
                let failures = &mut self.lock().failures;
                failures.count += 1;
                if failures.first.len() < KEPT {
                    let text = mask_passwords(&readable(line)).replace(char::is_control, " ");
                    failures.first.push(text.chars().take(KEPT_OF_EACH).collect());
                }
            }
        }
    }

    /// Returns the error that has ended a restore which was to go on.
    pub(super) fn refused_copy(&self) -> Option<String> {
        self.lock().refused_copy.clone().filter(|_| self.on_error == OnError::Continue)
    }

    /// Returns what failed, once the program has ended.
    pub(super) fn failures(&self) -> Failures {
        self.lock().failures.clone()
    }

    /// Tells whether pg_restore has gone on to the end of the archive after errors.
    pub(super) fn went_on(&self) -> bool {
        self.lock().went_on
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where in the dump something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// At a statement that ends in this line.
    Line(u64),
    /// In another file, or nobody knows where.
    Elsewhere,
}

/// Returns where the error is that a line of psql's tells of, if it does. What is not known to be none is one, as a dump may have the server speak another
/// language.
fn psql_error(line: &str) -> Option<At> {
    const ERRORS: [&str; 4] = ["ERROR: ", "FATAL: ", "PANIC: ", "error: "];
    const OTHERS: [&str; 10] = [
        "NOTICE: ",
        "WARNING: ",
        "INFO: ",
        "LOG: ",
        "DEBUG: ",
        "DETAIL: ",
        "HINT: ",
        "warning: ",
        "hint: ",
        "detail: ",
    ];
    let rest = line.strip_prefix("psql:")?;
    let numbered = rest.strip_prefix("<stdin>:").and_then(|rest| rest.split_once(": "));
    if let Some((number, message)) = numbered
        && let Ok(number) = number.parse()
    {
        return (!OTHERS.iter().any(|word| message.starts_with(word))).then_some(At::Line(number));
    }
    let first = |words: &[&str]| words.iter().filter_map(|word| rest.find(word)).min();
    match (first(&ERRORS), first(&OTHERS)) {
        (Some(at), Some(other)) => (at < other).then_some(At::Elsewhere),
        (None, Some(_)) => None,
        (_, None) => Some(At::Elsewhere),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_wherever_it_comes_from() {
        for (line, expected) in [
            ("psql:<stdin>:12: ERROR:  x", Some(At::Line(12))),
            ("psql:<stdin>:12: FEHLER:  x", Some(At::Line(12))),
            ("psql:<stdin>:3: error: \\connect: FATAL:  x", Some(At::Line(3))),
            ("psql:/tmp/other.sql:12: ERROR:  x", Some(At::Elsewhere)),
            ("psql:/tmp/other.sql:12: FEHLER:  x", Some(At::Elsewhere)),
            ("psql:/tmp/other.sql:12: NOTICE:  an ERROR: x", None),
            ("psql: error: x", Some(At::Elsewhere)),
            ("psql:<stdin>:1: NOTICE:  an ERROR: x", None),
            ("psql:<stdin>:1: WARNING:  x", None),
            ("LINE 1: SELECT 'psql:<stdin>:1: ERROR:  x'", None),
            ("DETAIL:  ERROR: x", None),
        ] {
            assert_eq!(psql_error(line), expected, "{line}");
        }
    }

    #[test]
    fn what_a_refused_copy_would_have_read_ends_the_restore() {
        let faults = Faults::new(OnError::Continue);
        faults.rows_follow(2);
        faults.hear_psql("psql:<stdin>:1: ERROR:  type \"x\" does not exist");
        assert!(!faults.stop().is_cancelled());
        faults.hear_psql("psql:<stdin>:2: ERROR:  relation \"t\" does not exist");
        assert!(faults.stop().is_cancelled());
        assert_eq!(faults.failures().count, 1);
    }
}
