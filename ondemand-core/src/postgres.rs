//! PostgreSQL: finding it, starting it, and making a copy forget where it came from.

mod engine;
mod ready;
mod settings;

pub use engine::{Endpoint, Engine, Wire};
pub use ready::Notify;
pub(crate) use settings::{Launch, check as check_settings};

/// The superuser that this library connects as: over the Unix socket, by the identity of its process, never by password.
pub const ADMIN: &str = "ondemand_admin";

/// The superuser that is handed out with a database.
pub const USER: &str = "postgres";
