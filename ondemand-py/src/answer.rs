//! Answers, and what becomes of that which was made for somebody who is no longer there.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::session::{Question, Server};
use crate::wait::Answer;

/// A status and a body, on their way to Python.
pub(crate) struct Reply {
    status: u16,
    body: Bytes,
    unclaimed: Option<Unclaimed>,
}

/// How what an answer tells of is deleted.
pub(crate) struct Undo {
    runtime: Handle,
    last: TaskTracker,
    server: Server,
    path: String,
}

/// What was made, and is deleted with this unless it was claimed.
///
/// An answer can be lost at any point of its way to whoever asked: a task of asyncio may be cancelled when the answer is there already, but the task has not run yet.
struct Unclaimed {
    undo: Option<Undo>,
    /// In a process that was forked this is a copy, and the runtime's threads are not there.
    process: u32,
}

impl Undo {
    /// Will delete at a path, in which `{FIELD}` may stand for that field of the answer.
    pub(crate) fn new(runtime: Handle, last: TaskTracker, server: Server, path: String) -> Self {
        Self { runtime, last, server, path }
    }

    /// Puts in what was made; there is none of that where the answer does not say.
    fn of(mut self, body: &[u8]) -> Option<Self> {
        let Some((start, (field, end))) =
            self.path.split_once('{').and_then(|(start, rest)| Some((start, rest.split_once('}')?)))
        else {
            return Some(self);
        };
        let json: serde_json::Value = serde_json::from_slice(body).ok()?;
        let value = json.get(field)?.as_str()?;
        // Ids and names are of these, and one that is not must not lead elsewhere.
        if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return None;
        }
        self.path = format!("{start}{value}{end}");
        Some(self)
    }
}

impl Reply {
    pub(crate) fn new(status: u16, body: Bytes) -> Self {
        Self { status, body, unclaimed: None }
    }

    /// Has undone what it tells of, if that is a success and nobody claims it.
    pub(crate) fn or_undo(self, undo: Option<Undo>) -> Self {
        let made = (200..300).contains(&self.status);
        let undo = undo.filter(|_| made).and_then(|undo| undo.of(&self.body));
        let unclaimed = undo.map(|undo| Unclaimed { undo: Some(undo), process: std::process::id() });
        Self { unclaimed, ..self }
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        let Some(Undo { runtime, last, server, path }) = self.undo.take() else { return };
        if self.process != std::process::id() {
            return;
        }
        let undoing = async move {
            // Where this fails, the lease ends it, or its time.
            if let Ok(question) = Question::new("DELETE", path, None) {
                drop(server.ask(question).await);
            }
        };
        last.spawn_on(undoing, &runtime);
    }
}

/// An answer as Python has it.
#[pyclass(frozen, module = "ondemand._native", name = "Answer")]
pub(crate) struct Taken {
    #[pyo3(get)]
    status: u16,
    #[pyo3(get)]
    body: Py<PyBytes>,
    unclaimed: Mutex<Option<Unclaimed>>,
}

#[pymethods]
impl Taken {
    /// Has what was made undone now: whoever keeps an exception keeps this, too.
    fn undo(&self) {
        drop(self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Takes over what was made: it is the caller's to delete now.
    fn claim(&self) {
        let unclaimed = self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut unclaimed) = unclaimed {
            unclaimed.undo = None;
        }
    }
}

impl Answer for Reply {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let body = PyBytes::new(py, &self.body).unbind();
        let taken = Taken { status: self.status, body, unclaimed: Mutex::new(self.unclaimed) };
        Ok(Py::new(py, taken)?.into_any())
    }
}
