//! The command line of a clone's server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, shorten};

/// Settings that say where a server is and whom it lets in. They are this library's to choose.
const RESERVED: [&str; 10] = [
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "port",
    "unix_socket_directories",
    "unix_socket_group",
    "unix_socket_permissions",
];

/// Checks settings that a user gives.
///
/// # Errors
/// [`Error::InvalidInput`] for a name that could not be a setting's, for one of those this library chooses, and for a value
/// that no command line can carry.
pub(crate) fn check(settings: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in settings {
        let invalid = |reason: &str| Err(Error::invalid(format!("setting {:?}", shorten(name)), reason));
        if name.is_empty()
            || name.len() > 63
            || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.".contains(&b))
        {
            return invalid("a setting's name has lower-case letters, digits, '_' and '.'");
        }
        if RESERVED.contains(&name.as_str()) {
            return invalid("this one is chosen for you and cannot be set");
        }
        if value.len() > 1024 || value.chars().any(char::is_control) {
            return invalid("its value must have at most 1024 bytes and no control characters");
        }
    }
    Ok(())
}

/// What a server is started with.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// The directory of the programs, on the host or in the image.
    pub(crate) bin_dir: &'a Path,
    /// The data directory.
    pub(crate) data: &'a Path,
    /// The directory of the instance's configuration files.
    pub(crate) files: &'a Path,
    /// The directory for the Unix socket.
    pub(crate) run_dir: &'a Path,
    /// The addresses to listen on; all where there is none.
    pub(crate) listen: Option<IpAddr>,
    /// The port to listen on.
    pub(crate) port: u16,
    /// Whether commits survive a power cut.
    pub(crate) durable: bool,
    /// The settings of the instance and of the database, the latter last.
    pub(crate) settings: [&'a BTreeMap<String, String>; 2],
}

impl Launch<'_> {
    /// Returns the program and its arguments.
    pub(crate) fn command(&self) -> Vec<String> {
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut settings = self.defaults();
        for (name, value) in self.settings.iter().copied().flatten() {
            settings.insert(name, value.clone());
        }
        let port = self.port.to_string();
        let listen = self.listen.map_or_else(|| "*".to_owned(), |address| address.to_string());
        // What says where the server is and whom it lets in, comes last, so that nothing before it can win.
        let fixed = [
            ("config_file", path(self.files.join("postgresql.conf"))),
            ("hba_file", path(self.files.join("pg_hba.conf"))),
            ("ident_file", path(self.files.join("pg_ident.conf"))),
            ("listen_addresses", listen),
            ("port", port),
            ("unix_socket_directories", path(self.run_dir.to_owned())),
            ("unix_socket_permissions", "0700".to_owned()),
        ];
        let mut command = vec![path(self.bin_dir.join("postgres")), "-D".to_owned(), path(self.data.to_owned())];
        for (name, value) in settings.into_iter().chain(fixed) {
            command.push("-c".to_owned());
            command.push(format!("{name}={value}"));
        }
        command
    }

    /// Returns the settings that suit a throw-away clone; users may change each.
    fn defaults(&self) -> BTreeMap<&str, String> {
        let mut settings = BTreeMap::from([
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("log_line_prefix", "%m [%p] %q%u@%d "),
            // A recycled or pre-filled WAL segment would be a private copy on a copy-on-write file system.
            ("wal_init_zero", "off"),
            ("wal_recycle", "off"),
        ]);
        let chosen = |name: &str| self.settings.iter().any(|settings| settings.contains_key(name));
        // These two depend on each other: whoever chooses one gets Postgres's own default for the other.
        if !chosen("wal_level") && !chosen("max_wal_senders") {
            settings.extend([("wal_level", "minimal"), ("max_wal_senders", "0")]);
        }
        if !self.durable {
            settings.extend([("fsync", "off"), ("full_page_writes", "off")]);
        }
        settings.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    fn command(durable: bool, own: &BTreeMap<String, String>) -> Vec<String> {
        let launch = Launch {
            bin_dir: Path::new("/bin"),
            data: Path::new("/data"),
            files: Path::new("/files"),
            run_dir: Path::new("/run"),
            listen: Some(IpAddr::from([127, 0, 0, 1])),
            port: 5433,
            durable,
            settings: [&map(&[("work_mem", "8MB"), ("jit", "off")]), own],
        };
        launch.command()
    }

    #[test]
    fn a_database_may_override_what_is_configured_for_all() {
        let command = command(false, &map(&[("work_mem", "64MB"), ("fsync", "on")]));
        let has = |setting: &str| command.iter().any(|argument| argument == setting);
        assert!(has("work_mem=64MB") && has("jit=off") && has("fsync=on"), "{command:?}");
        assert!(!has("work_mem=8MB") && !has("fsync=off"), "{command:?}");
    }

    #[test]
    fn a_durable_database_keeps_the_safe_defaults() {
        let command = command(true, &map(&[]));
        assert!(!command.iter().any(|a| a.starts_with("fsync") || a.starts_with("synchronous_commit")), "{command:?}");
    }

    #[test]
    fn logical_replication_can_be_had() {
        let command = command(false, &map(&[("wal_level", "logical")]));
        assert!(command.contains(&"wal_level=logical".to_owned()));
        assert!(!command.iter().any(|a| a.starts_with("max_wal_senders")), "{command:?}");
    }

    #[test]
    fn who_may_connect_is_not_a_setting() {
        for bad in ["hba_file", "port", "listen_addresses", "", "Work_mem", "a b", "a=b", "--x"] {
            assert!(check(&map(&[(bad, "x")])).is_err(), "{bad}");
        }
        assert!(check(&map(&[("work_mem", "8MB\nhba_file=/x")])).is_err());
        assert!(check(&map(&[("pg_stat_statements.max", "100")])).is_ok());
    }
}
