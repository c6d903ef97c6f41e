//! PostgreSQL: finding it, starting it, and making a copy forget where it came from.

pub(crate) mod cluster;
pub(crate) mod controldata;
mod engine;
pub mod files;
pub(crate) mod install;
pub(crate) mod memory;
pub(crate) mod neutralise;
pub(crate) mod program;
mod ready;
mod settings;
pub(crate) mod slot;
pub(crate) mod tablespaces;
pub(crate) mod vacuum;

pub use engine::{Endpoint, Engine, Wire};
pub use files::StaticFiles;
pub use install::{Install, Installs, os_user};
pub use ready::Notify;
pub(crate) use settings::{Launch, check as check_settings};

/// The superuser role that every imported cluster has for this library's own use. It has no password, and comes in
/// over the Unix socket only, as the user that this library runs as.
pub const ADMIN_ROLE: &str = "ondemand_admin";

/// The superuser that is handed out with a database.
pub const USER: &str = "postgres";
