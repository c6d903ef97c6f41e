//! In-memory implementations of the traits, and wrappers that fail on purpose.

mod orchestrator;

pub use orchestrator::{FakeOrchestrator, FakeProgram};
