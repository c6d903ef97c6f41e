//! In-memory implementations of the traits, and wrappers that fail on purpose.

mod faulty;
mod orchestrator;
mod program;
mod store;

pub use faulty::{ANY, Call, Fault, FaultPlan, Faulty};
pub use orchestrator::FakeOrchestrator;
pub use program::FakeProgram;
pub use store::FakeStore;
