//! What is wrong with a document, and where.

use std::fmt;

use crate::error::Error;

/// A place in one of the files that a document was made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Which file, as its index in the document's list.
    pub(crate) file: usize,
    /// The line, the first being 1; 0 where none is to blame.
    pub(crate) line: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) place: Place,
    pub(crate) reason: String,
}

impl Problem {
    pub(crate) fn new(place: Place, reason: impl fmt::Display) -> Self {
        Self { place, reason: reason.to_string() }
    }

    /// Makes the error that a caller sees.
    pub(crate) fn into_error(self, files: &[String]) -> Error {
        let file = files.get(self.place.file).cloned().unwrap_or_default();
        Error::InvalidTemplate { file, line: self.place.line, reason: self.reason }
    }
}

/// What reading a part of a document gives.
pub(crate) type Read<T> = Result<T, Problem>;

/// All that was found wrong so far: one error tells of everything, so that mending takes one turn.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    /// How many are told at once; more say nothing new.
    const MOST: usize = 20;

    /// Keeps what is wrong, and goes on with nothing in its place.
    pub(crate) fn keep<T: Default>(&mut self, read: Read<T>) -> T {
        read.unwrap_or_else(|problem| {
            self.0.push(problem);
            T::default()
        })
    }

    pub(crate) fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Returns one problem that tells of all, at the place of the first.
    pub(crate) fn finish(mut self) -> Read<()> {
        self.0.sort_by_key(|problem| problem.place);
        let mut problems = self.0.into_iter();
        let Some(mut all) = problems.next() else { return Ok(()) };
        let more = problems.len().saturating_sub(Self::MOST);
        for Problem { place, reason } in problems.take(Self::MOST) {
            let line = if place.file == all.place.file { format!("line {}: ", place.line) } else { String::new() };
            all.reason.extend(["; ", &line, &reason]);
        }
        if more > 0 {
            all.reason.extend(["; and ", &more.to_string(), " more"]);
        }
        Err(all)
    }
}
