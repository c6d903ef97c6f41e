//! The native half of the Python package: waiting for a server without holding Python up, and being one.
//!
//! Everything with a meaning is in the package's Python files; here is what Python cannot do well by itself. A `session::Session` asks a server, for callers
//! that block and for callers that await; `keeper` runs the server of those who have none.

use pyo3::prelude::*;

mod answer;
mod keeper;
mod lease;
mod session;
mod stream;
mod wait;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    module.add("CODES", ondemand_core::Code::ALL.map(ondemand_core::Code::as_str).to_vec())?;
    module.add("Unreadable", module.py().get_type::<wait::Unreadable>())?;
    module.add_class::<answer::Taken>()?;
    module.add_class::<session::Session>()?;
    module.add_class::<stream::Stream>()?;
    module.add_function(wrap_pyfunction!(keeper::keep, module)?)
}
