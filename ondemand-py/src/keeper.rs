//! The server of those who have none: the owner of a data directory, for as long as somebody needs it.

use std::time::Duration;

use ondemand_core::{Config, Error};
use ondemand_http::Moment;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use serde_json::json;

/// Owns a data directory until nobody has needed it for `idle` seconds, or until the process is told to end. Calls `ready` with the address once requests are answered, and
/// returns nothing, or as JSON what went wrong. To be called on the main thread of a process that does nothing else.
///
/// `config` is JSON that says what `ondemand.toml` would.
#[pyfunction]
pub(crate) fn keep(py: Python<'_>, config: &str, idle: f64, ready: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let config: Config = match serde_json::from_str(config) {
        Ok(config) => config,
        Err(error) => return Ok(Some(problem(&Error::invalid("configuration", error)))),
    };
    let idle = Duration::try_from_secs_f64(idle).map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Runtime::new().map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
    let ready = ready.clone().unbind();
    let mut failed = None;
    let kept = py.detach(|| {
        runtime.block_on(async {
            let shutdown = ondemand_http::signalled()?;
            let tell = |moment: Moment<'_>| {
                if let Moment::Ready { address } = moment {
                    let told = Python::attach(|py| ready.call1(py, (address.to_string(),)).map(drop));
                    failed = told.err();
                }
            };
            ondemand_http::keep(&config, idle, shutdown, tell).await
        })
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(kept.err().map(|error| problem(&error))),
    }
}

/// Writes an error as a server answers it.
fn problem(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    let detail = error.to_string();
    json!({ "code": error.code(), "detail": detail, "hint": error.hint(), "causes": causes, "log": error.log() })
        .to_string()
}
