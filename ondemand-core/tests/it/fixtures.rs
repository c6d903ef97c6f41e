//! What the tests of several modules set up.

pub(crate) mod killed;
pub(crate) mod pool;

/// Returns the name by which this program runs one test alone, from the test's `module_path!()` and its function's name.
pub(crate) fn test_name(module_path: &str, function: &str) -> String {
    let (_, module) = module_path.split_once("::").unwrap_or_else(|| panic!("{module_path} is no module of a crate"));
    format!("{module}::{function}")
}
