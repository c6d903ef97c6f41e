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
        let harmless = self.lock().harmless.get(&number).is_some_and(|all| all.iter().any(|one| one.explains(error)));
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
            self.fail_late(&error);
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
        self.lock().went_on = true;
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
        self.lock().went_on = true;
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
            self.fail_late(&error);
        }
        self.lock().failures.clone()
    }

    /// Tells whether the program has gone on after an error, be it a harmless one.
    pub(super) fn went_on(&self) -> bool {
        self.lock().went_on
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the number of the line that psql's error is about, and the error.
fn psql_error(line: &str) -> Option<(u64, &str)> {
    let (number, rest) = line.strip_prefix("psql:<stdin>:")?.split_once(": ")?;
    let number = number.parse().ok()?;
    let is_error = ["ERROR:", "FATAL:", "PANIC:", "error:"].iter().any(|word| rest.starts_with(word));
    is_error.then_some((number, rest))
}
