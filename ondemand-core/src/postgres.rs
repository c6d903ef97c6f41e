//! PostgreSQL: finding it, starting it, and making a copy forget where it came from.
