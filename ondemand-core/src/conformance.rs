//! The contracts of the traits as tests, for any implementation.

pub mod orchestrator;
