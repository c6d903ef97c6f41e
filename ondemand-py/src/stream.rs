//! Answers that come bit by bit.

use std::sync::Arc;

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::sync::Mutex;

use crate::wait::{Answer, NoAnswer, Outcome};

/// An answer that has begun.
#[pyclass(frozen, module = "ondemand._native")]
pub(crate) struct Stream {
    #[pyo3(get)]
    status: u16,
    response: Arc<Mutex<reqwest::Response>>,
}

/// Some of its bytes; none at its end.
pub(crate) struct Chunk(Option<Bytes>);

impl Stream {
    pub(crate) fn new(response: reqwest::Response) -> Self {
        Self { status: response.status().as_u16(), response: Arc::new(Mutex::new(response)) }
    }

    /// Returns what comes next.
    pub(crate) fn next(&self) -> impl Future<Output = Outcome<Chunk>> + Send + 'static + use<> {
        let response = Arc::clone(&self.response);
        async move { response.lock().await.chunk().await.map(Chunk).map_err(|e| NoAnswer::of(&e.without_url())) }
    }
}

impl Answer for Stream {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(Py::new(py, self)?.into_any())
    }
}

impl Answer for Chunk {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.0.map(|bytes| PyBytes::new(py, &bytes).unbind()).into_pyobject(py)?.unbind())
    }
}
