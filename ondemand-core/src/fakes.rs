//! In-memory implementations of the traits, and wrappers that fail on purpose.
