//! What `pg_controldata` says about a data directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use super::install::Install;
use super::program;
use crate::error::{Error, Result};
use crate::orchestrator::RunAs;

/// The lines of `pg_controldata`, by their titles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlData(BTreeMap<String, String>);

impl ControlData {
    /// Reads the control file of a data directory.
    ///
    /// # Errors
    /// [`Error::InvalidDump`] if it is missing or damaged.
    pub(crate) async fn read(install: &Install, user: RunAs, pgdata: &Path) -> Result<Self> {
        let mut command = program::command(&install.program("pg_controldata"), user);
        command.arg("-D").arg(pgdata).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = command.output().await.map_err(|e| program::spawn_error(&install.program("pg_controldata"), e))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let damaged = text.contains("WARNING:") || !output.status.success();
        let data = Self::parse(&text);
        if damaged || data.state().is_empty() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(Error::InvalidDump {
                message: "the control file of the data directory is missing or damaged".into(),
                log: stderr.lines().chain(text.lines().take_while(|l| !l.contains(':'))).map(str::to_owned).collect(),
                hint: "copy the whole data directory of a server that was stopped with `pg_ctl stop -m fast`".into(),
            });
        }
        Ok(data)
    }

    fn parse(text: &str) -> Self {
        let pair = |line: &str| line.split_once(':').map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()));
        Self(text.lines().filter_map(pair).collect())
    }

    fn get(&self, title: &str) -> &str {
        self.0.get(title).map_or("", String::as_str)
    }

    /// Returns the state of the cluster: `shut down`, `in production`, …
    pub(crate) fn state(&self) -> &str {
        self.get("Database cluster state")
    }

    /// Tells whether the server was shut down cleanly, so that it starts without recovery.
    pub(crate) fn is_shut_down(&self) -> bool {
        self.state() == "shut down"
    }

    /// Tells whether pages carry checksums, so that none can be changed but by the server.
    pub(crate) fn has_checksums(&self) -> bool {
        self.get("Data page checksum version") != "0"
    }

    /// Returns the names of the WAL segments that a start needs: the one with the last checkpoint, and the next if the record
    /// may reach into it.
    pub(crate) fn needed_wal(&self) -> Option<Vec<String>> {
        /// More than the longest checkpoint record, with the page headers around it.
        const MARGIN: u64 = 32 * 1024;
        let file = self.get("Latest checkpoint's REDO WAL file").to_owned();
        if file.len() != 24 || !file.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let size: u64 = self.get("Bytes per WAL segment").parse().ok().filter(|&size| size > MARGIN)?;
        let (high, low) = self.get("Latest checkpoint location").split_once('/')?;
        let position = (u64::from_str_radix(high, 16).ok()? << 32) | u64::from_str_radix(low, 16).ok()?;
        if position % size < size - MARGIN {
            return Some(vec![file]);
        }
        let next = position / size + 1;
        let per_id = (1_u64 << 32) / size;
        let next = format!("{}{:08X}{:08X}", &file[..8], next / per_id, next % per_id);
        Some(vec![file, next])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "pg_control version number:            1300
Database cluster state:               shut down
Latest checkpoint location:           0/1548570
Latest checkpoint's REDO location:    0/1548570
Latest checkpoint's REDO WAL file:    000000010000000000000001
Bytes per WAL segment:                16777216
";

    #[test]
    fn the_state_and_the_wal_it_needs() {
        let data = ControlData::parse(TEXT);
        assert!(data.is_shut_down());
        assert_eq!(data.needed_wal(), Some(vec!["000000010000000000000001".to_owned()]));
        assert!(!ControlData::parse(&TEXT.replace("shut down", "shut down in recovery")).is_shut_down());
        assert!(!ControlData::parse("").is_shut_down());
        assert_eq!(ControlData::parse("").needed_wal(), None);
    }

    #[test]
    fn a_checkpoint_at_the_end_of_a_segment_needs_the_next() {
        let data = ControlData::parse(
            &TEXT
                .replace("location:           0/1548570", "location:           1/FFFFFF80")
                .replace("000000010000000000000001", "0000000100000001000000FF"),
        );
        let needed = data.needed_wal().expect("segments");
        assert_eq!(needed, ["0000000100000001000000FF", "000000010000000200000000"]);
    }
}
