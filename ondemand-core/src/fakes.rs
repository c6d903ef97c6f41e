//! In-memory implementations of the traits, and wrappers that fail on purpose.

mod faulty;
mod orchestrator;
mod store;

pub use faulty::{ANY, Call, Fault, FaultPlan, Faulty};
pub use orchestrator::{FakeOrchestrator, FakeProgram};
pub use store::FakeStore;
