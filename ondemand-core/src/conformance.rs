//! The contracts of the traits as tests, for any implementation.
//!
//! Each behaviour is one function that panics when it is not met. The macros expand to one test for each.
#![expect(clippy::unwrap_used, reason = "these are tests: what fails must fail here")]

pub mod orchestrator;
pub mod router;
pub mod store;
