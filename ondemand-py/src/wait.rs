//! Waiting for work of the runtime: blocking, or as something that asyncio awaits.

use std::time::Duration;

use pyo3::exceptions::{PyConnectionError, PyOSError};
use pyo3::prelude::*;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

pyo3::create_exception!(ondemand._native, Unreadable, PyOSError, "A file that was to be sent cannot be read.");

/// How long a blocked thread waits until it looks whether there was a signal. Only Python's main thread acts on one.
const LOOK: Duration = Duration::from_millis(20);

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(crate) enum NoAnswer {
    /// Nobody answered, or not to the end.
    Lost(String),
    /// What was to be sent cannot be read.
    NoFile(String),
}

impl NoAnswer {
    /// Says what an error was, with its causes.
    pub(crate) fn of(error: &reqwest::Error) -> Self {
        // The URL may hold a password, and the caller knows whom it asked.
        let mut text = String::new();
        let mut cause: Option<&dyn std::error::Error> = Some(error);
        while let Some(error) = cause {
            let said = error.to_string();
            if !text.contains(&said) {
                text = if text.is_empty() { said } else { format!("{text}: {said}") };
            }
            cause = error.source();
        }
        Self::Lost(text)
    }
}

impl From<NoAnswer> for PyErr {
    fn from(why: NoAnswer) -> Self {
        match why {
            NoAnswer::Lost(text) => PyConnectionError::new_err(text),
            NoAnswer::NoFile(text) => Unreadable::new_err(text),
        }
    }
}

/// What work ends with.
pub(crate) type Outcome<T> = Result<T, NoAnswer>;

/// What Python is given.
pub(crate) trait Answer: Send + 'static {
    /// Makes it Python's.
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>>;
}

impl Answer for () {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(py.None())
    }
}

/// Ends its task with itself.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Does work while other threads of Python run, and returns when it is done or a signal's handler raised, such as Ctrl-C's; then the work
/// is given up.
pub(crate) fn block<T: Answer>(
    py: Python<'_>,
    runtime: &Runtime,
    work: impl Future<Output = Outcome<T>> + Send + 'static,
) -> PyResult<Py<PyAny>> {
    let mut task = Task(runtime.spawn(work));
    loop {
        let done = py.detach(|| runtime.block_on(async { tokio::time::timeout(LOOK, &mut task.0).await }));
        match done {
            Err(_) => py.check_signals()?,
            Ok(outcome) => return outcome.unwrap_or_else(|e| Err(NoAnswer::Lost(e.to_string())))?.into_python(py),
        }
    }
}

/// Begins work, and returns a future of the running event loop that has its outcome. Cancelling that gives the work up.
pub(crate) fn awaitable<'py, T: Answer>(
    py: Python<'py>,
    runtime: &Runtime,
    work: impl Future<Output = Outcome<T>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>> {
    let event_loop = py.import("asyncio")?.call_method0("get_running_loop")?;
    let future = event_loop.call_method0("create_future")?;
    let (to_loop, to_future) = (event_loop.unbind(), future.clone().unbind());
    let task = runtime.spawn(async move {
        let outcome = work.await;
        // A process that is ending has no Python any more.
        Python::try_attach(|py| {
            let told = tell(py, to_loop.bind(py), to_future, outcome);
            // The loop was closed, and nobody waits.
            drop(told);
        });
    });
    let watcher = Py::new(py, Watcher(task.abort_handle()))?;
    future.call_method1("add_done_callback", (watcher,))?;
    Ok(future)
}

fn tell<T: Answer>(
    py: Python<'_>,
    event_loop: &Bound<'_, PyAny>,
    future: Py<PyAny>,
    outcome: Outcome<T>,
) -> PyResult<()> {
    let answer = outcome.map_err(PyErr::from).and_then(|answer| answer.into_python(py));
    let (failed, value) = match answer {
        Ok(value) => (false, value),
        Err(error) => (true, error.into_value(py).into_any()),
    };
    event_loop.call_method1("call_soon_threadsafe", (Teller { failed }, future, value)).map(drop)
}

/// Gives a future its outcome, on the thread of its loop.
#[pyclass(frozen)]
struct Teller {
    failed: bool,
}

#[pymethods]
impl Teller {
    fn __call__(&self, future: &Bound<'_, PyAny>, value: Py<PyAny>) -> PyResult<()> {
        if future.call_method0("done")?.is_truthy()? {
            return Ok(());
        }
        future.call_method1(if self.failed { "set_exception" } else { "set_result" }, (value,)).map(drop)
    }
}

/// Ends the work of a future that was cancelled.
#[pyclass(frozen)]
struct Watcher(tokio::task::AbortHandle);

#[pymethods]
impl Watcher {
    fn __call__(&self, _future: &Bound<'_, PyAny>) {
        // Where it is done, there is nothing to end.
        self.0.abort();
    }
}
