//! PostgreSQL: finding it, starting it, and making a copy forget where it came from.

pub(crate) mod cluster;
pub(crate) mod controldata;
pub mod files;
mod install;
pub(crate) mod neutralise;
pub(crate) mod program;
pub(crate) mod vacuum;

pub use install::{Install, Installs, os_user};

/// The superuser role that every imported cluster has for this library's own use. It has no password, and comes in
/// over the unix socket only.
pub const ADMIN_ROLE: &str = "ondemand_admin";
