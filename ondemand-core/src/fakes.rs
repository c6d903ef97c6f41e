//! In-memory implementations of the traits, and wrappers that fail on purpose.

mod faulty;
mod store;

pub use faulty::{ANY, Call, Fault, FaultPlan, Faulty};
pub use store::FakeStore;
