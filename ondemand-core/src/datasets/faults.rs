//! What psql and pg_restore complain of: which of it is harmless, which ends the restore, and which is kept in a list.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::OnError;
use super::diagnose::readable;
use super::needs::{Harmless, Needs};
use super::statements::{Statement, Statements};
use crate::postgres::program::{Said, mask_passwords};

/// How many failures are kept with a version; of the others there is the number.
const KEPT: usize = 20;
/// How much of each, in characters.
const KEPT_OF_EACH: usize = 300;

/// What pg_restore writes before each error of a statement, and before the statement.
const NOT_EXECUTED: &str = "pg_restore: error: could not execute query: ";
const STATEMENT: &str = "Command was: ";

/// What went wrong with the statements of a dump, as the program that restores it says so.
#[derive(Debug, Clone)]
pub(super) struct Faults {
    on_error: OnError,
    /// What the program says, for the error of a restore that ends.
    said: Said,
    /// Set by the first failure that ends the restore.
    stop: CancellationToken,
    list: Arc<Mutex<List>>,
}

#[derive(Debug, Default)]
struct List {
    /// What may be wrong with the statements that end in a line of SQL text.
    harmless: HashMap<u64, Vec<Harmless>>,
    /// An error of pg_restore's whose statement has not been told yet.
    pending: Option<String>,
    /// How many errors of pg_restore's were judged, and how many it counted itself.
    judged: u64,
    counted: u64,
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
    pub(super) fn new(on_error: OnError, said: Said) -> Self {
        Self { on_error, said, stop: CancellationToken::new(), list: Arc::default() }
    }

    /// Returns what is set once the restore is to end.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Says what may be wrong with the statements that end in a line, before psql gets them.
    pub(super) fn allow(&self, line: u64, harmless: Harmless) {
        self.lock().harmless.entry(line).or_default().push(harmless);
    }

    /// Takes a line of psql's, and tells whether it is of no interest.
    pub(super) fn hear_psql(&self, line: &str) -> bool {
        let Some((number, error)) = psql_error(line) else {
            // Notices are not what went wrong, and there may be one for every table.
            return line.contains("NOTICE:");
        };
        let list = self.lock();
        let allowed = number.and_then(|number| list.harmless.get(&number));
        let harmless = allowed.is_some_and(|all| all.iter().any(|one| one.explains(error)));
        drop(list);
        if !harmless {
            self.fail(line);
        }
        harmless
    }

    /// Takes a line of pg_restore's, and tells whether it is of no interest.
    pub(super) fn hear_pg_restore(&self, line: &str) -> bool {
        let pending = self.lock().pending.take();
        if let Some(error) = pending {
            if let Some(statement) = line.strip_prefix(STATEMENT) {
                return self.judge(&error, statement);
            }
            // Details come between the two.
            if !line.starts_with("pg_restore: ") {
                self.lock().pending = Some(error);
                return false;
            }
            self.lock().judged += 1;
            self.fail_late(&error);
        }
        if let Some(count) = line.strip_prefix("pg_restore: warning: errors ignored on restore: ") {
            self.lock().counted = count.trim().parse().unwrap_or_default();
        }
        if line.starts_with(NOT_EXECUTED) {
            // It is kept once it is known to be a failure.
            self.lock().pending = Some(line.to_owned());
            return true;
        }
        if line.starts_with("pg_restore: error: ") {
            // Not about a statement: an archive that cannot be read is not restored in part.
            self.stop.cancel();
        }
        false
    }

    /// Takes an error of pg_restore's with the first line of its statement.
    fn judge(&self, error: &str, statement: &str) -> bool {
        self.lock().judged += 1;
        let mut harmless = None;
        let mut take = |statement: Statement<'_>| harmless = harmless.or(Needs::default().take(statement, None));
        let mut statements = Statements::default();
        statements.push(statement.as_bytes(), &mut take);
        statements.finish(&mut take);
        let harmless = harmless.is_some_and(|harmless| harmless.explains(error));
        if !harmless {
            self.fail_late(error);
        }
        harmless
    }

    /// Takes a failure whose line was of no interest until now.
    fn fail_late(&self, error: &str) {
        self.said.push(error);
        self.fail(error);
    }

    fn fail(&self, line: &str) {
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

    /// Returns what failed, once the program has ended.
    pub(super) fn failures(&self) -> Failures {
        let pending = self.lock().pending.take();
        if let Some(error) = pending {
            self.lock().judged += 1;
            self.fail_late(&error);
        }
        self.lock().failures.clone()
    }

    /// Tells whether pg_restore has gone on after errors, be they harmless ones, and each of them was heard of.
    pub(super) fn went_on(&self) -> bool {
        let list = self.lock();
        list.judged > 0 && list.judged == list.counted
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns an error of psql's, and the number of the line that it is about, unless that is one of another file.
fn psql_error(line: &str) -> Option<(Option<u64>, &str)> {
    const ERRORS: [&str; 4] = ["ERROR: ", "FATAL: ", "PANIC: ", "error: "];
    const OTHERS: [&str; 8] =
        ["NOTICE: ", "WARNING: ", "INFO: ", "LOG: ", "DEBUG: ", "warning: ", "hint: ", "detail: "];
    let rest = line.strip_prefix("psql:")?;
    let first = |words: &[&str]| words.iter().filter_map(|word| rest.find(word)).min();
    let at = first(&ERRORS)?;
    if first(&OTHERS).is_some_and(|other| other < at) {
        return None;
    }
    let number =
        rest[..at].trim_end().strip_prefix("<stdin>:").and_then(|number| number.strip_suffix(':')?.parse().ok());
    Some((number, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_wherever_it_comes_from() {
        for (line, expected) in [
            ("psql:<stdin>:12: ERROR:  x", Some((Some(12), "ERROR:  x"))),
            ("psql:<stdin>:3: error: \\connect: FATAL:  x", Some((Some(3), "error: \\connect: FATAL:  x"))),
            ("psql:/tmp/other.sql:12: ERROR:  x", Some((None, "ERROR:  x"))),
            ("psql: error: x", Some((None, "error: x"))),
            ("psql:<stdin>:1: NOTICE:  an ERROR: x", None),
            ("psql:<stdin>:1: WARNING:  x", None),
            ("LINE 1: SELECT 'psql:<stdin>:1: ERROR:  x'", None),
            ("DETAIL:  ERROR: x", None),
        ] {
            assert_eq!(psql_error(line), expected, "{line}");
        }
    }

    /// Several programs write at once, and their lines may get mixed up.
    #[test]
    fn an_error_that_was_not_understood_is_counted() {
        let faults = Faults::new(OnError::Stop, Said::default());
        for line in [
            "pg_restore: error: could not execute query: ERROR:  schema \"public\" already exists",
            "Command was: CREATE SCHEMA public;",
            "pg_restore: pg_restore: error: could not execute query: ERROR:  x",
            "pg_restore: warning: errors ignored on restore: 2",
        ] {
            faults.hear_pg_restore(line);
        }
        assert!(!faults.stop().is_cancelled() && !faults.went_on());
        faults.lock().judged += 1;
        assert!(faults.went_on());
    }
}
