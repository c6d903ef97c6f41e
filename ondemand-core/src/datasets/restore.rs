//! Loading a dump into a server: SQL through psql, archives through pg_restore.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::ImportOptions;
use super::diagnose::failed_restore;
use super::input::{Bytes, truncated};
use super::meter::Meter;
use crate::error::{Error, Result};
use crate::orchestrator::Mount;
use crate::postgres::ADMIN_ROLE;
use crate::postgres::cluster::{Server, quote_name, quote_text};
use crate::postgres::program::{self, Said};

/// How many bytes go to psql at a time.
const CHUNK: usize = 256 * 1024;
/// How much of the end of a dump is searched for the line that ends it.
const TAIL: usize = 8 * 1024;
/// How much of the beginning is searched for the end of the roles.
const GLOBALS: usize = 4 << 20;

const DUMP: &str = "-- PostgreSQL database dump\n";
const DUMP_END: &str = "-- PostgreSQL database dump complete";
const CLUSTER_DUMP: &str = "-- PostgreSQL database cluster dump\n";
const CLUSTER_DUMP_END: &str = "-- PostgreSQL database cluster dump complete";

/// Makes the roles and the database that a dump expects to be there.
///
/// # Errors
/// [`Error::InvalidInput`] for a name that PostgreSQL does not allow.
pub(super) async fn prepare(server: &Server, options: &ImportOptions, head: &[u8]) -> Result<String> {
    let session = server.connect("postgres").await?;
    // Dumps of one database want `postgres` to be there, and dumps of clusters make it.
    let head = String::from_utf8_lossy(head);
    let brings = |role: &str| {
        head.lines().any(|line| {
            let rest = line.strip_prefix("CREATE ROLE ").or_else(|| line.strip_prefix("CREATE USER "));
            rest.is_some_and(|rest| rest.split([' ', ';']).next().is_some_and(|name| name.trim_matches('"') == role))
        })
    };
    if !brings("postgres") && !head.contains(CLUSTER_DUMP) {
        session.run("making role postgres", "CREATE ROLE postgres SUPERUSER LOGIN").await?;
    }
    for role in &options.roles {
        if !brings(role) {
            make(&session, "role", role, &format!("CREATE ROLE {}", quote_name(role))).await?;
        }
    }
    let Some(dbname) = &options.dbname else { return Ok("postgres".into()) };
    let existing = format!("SELECT 1 FROM pg_database WHERE datname = {}", quote_text(dbname));
    if session.column("listing databases", &existing).await?.is_empty() {
        make(&session, "dbname", dbname, &format!("CREATE DATABASE {} TEMPLATE template0", quote_name(dbname))).await?;
    }
    Ok(dbname.clone())
}

/// Makes what the user has named.
async fn make(session: &crate::postgres::cluster::Session, what: &str, name: &str, sql: &str) -> Result<()> {
    if name.is_empty() || name.len() > 63 || name.contains('\0') {
        return Err(Error::invalid(what, format!("{:?} is not 1 to 63 bytes long", crate::error::shorten(name))));
    }
    match session.attempt(sql).await {
        // Asking for a role that is there already is no mistake.
        Err(e) if e.code() == Some(&tokio_postgres::error::SqlState::DUPLICATE_OBJECT) => Ok(()),
        Err(e) => match e.as_db_error() {
            Some(db) if !db.code().code().starts_with('5') => Err(Error::invalid(what, db.message())),
            _ => Err(session.error(sql, e)),
        },
        Ok(()) => Ok(()),
    }
}

/// Makes a command of a client that comes in over the private socket.
///
/// It runs as the server's user, for a dump may tell psql to run programs.
fn client(server: &Server, name: &str, dbname: &str, archive: Option<&Path>) -> (std::path::PathBuf, Command) {
    let cluster = server.cluster();
    let path = cluster.install.program(name);
    let mut mounts = cluster.client_mounts();
    mounts.extend(archive.map(|archive| Mount::same(archive, true)));
    let mut command = cluster.processes.command(&path, &mounts);
    command.arg("-h").arg(&cluster.private).args(["-p", "5432", "-U", ADMIN_ROLE, "-d", &connection_name(dbname)]);
    command.env("PGAPPNAME", "ondemand import").env("HOME", "/nonexistent").kill_on_drop(true);
    (path, command)
}

/// Keeps a database's name from being understood as a connection string.
fn connection_name(dbname: &str) -> String {
    format!("dbname='{}'", dbname.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Streams SQL into psql.
///
/// # Errors
/// [`Error::InvalidDump`] with psql's first error, or if the dump ends too early.
pub(super) async fn sql(server: &Server, dbname: &str, mut bytes: Bytes) -> Result<()> {
    let (path, mut command) = client(server, "psql", dbname, None);
    command.args(["-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-f", "-"]).stdin(Stdio::piped());
    let mut child = server.cluster().processes.spawn(&path, &mut command)?;
    let said = Said::default();
    // Notices are not what went wrong, and there may be one for every table.
    let listening = child.stderr.take().map(|stderr| said.listen(stderr, |line| line.contains("NOTICE:")));
    let listening = listening.unwrap_or_else(|| tokio::spawn(async {}));
    let stdin = child.stdin.take();

    let mut ending = Ending::default();
    let mut fed = Ok(());
    if let Some(mut stdin) = stdin {
        fed = feed(&mut bytes, &mut stdin, &mut ending).await;
        // Closed, it is the end of the dump. That of a broken dump is not to look like one.
        if fed.is_err() {
            let _ = child.start_kill();
        }
    }
    let status = program::finish(child, listening).await;
    fed?;
    let status = status.map_err(|e| Error::io("postgres", "waiting for psql", e))?;
    if !status.success() {
        return Err(failed_restore(&said, server.said(), server.cluster().install.major));
    }
    ending.check(&bytes.head)
}

/// Copies the dump into psql. That psql ends early is no error here: its status says why.
async fn feed(bytes: &mut Bytes, stdin: &mut tokio::process::ChildStdin, ending: &mut Ending) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = 0_usize;
    loop {
        let read = bytes.reader.read(&mut buffer).await.map_err(|e| bytes.outcome.explain(&e))?;
        if read == 0 {
            return Ok(());
        }
        let chunk = &mut buffer[..read];
        ending.see(chunk);
        if at < bytes.head.len() {
            hide_admin_role(chunk);
        }
        at = at.saturating_add(read);
        if chunk.contains(&0) {
            return Err(Error::InvalidDump {
                message: "it holds bytes that are not text".into(),
                log: Vec::new(),
                hint: "check that the file was copied whole, and not as text from one system to another".into(),
            });
        }
        if stdin.write_all(chunk).await.is_err() {
            return Ok(());
        }
    }
}

/// Turns the statement that makes this library's own role into a comment: a dump of a clone has it, and the role is there.
fn hide_admin_role(chunk: &mut [u8]) {
    let statement = format!("\nCREATE ROLE {ADMIN_ROLE};");
    if let Some(at) = chunk.windows(statement.len()).position(|window| window == statement.as_bytes()) {
        chunk[at + 1..at + 3].copy_from_slice(b"--");
    }
}

/// What pg_dump and pg_dumpall write at the end.
#[derive(Default)]
struct Ending {
    tail: Vec<u8>,
    seen: usize,
    globals_end: bool,
}

impl Ending {
    fn see(&mut self, chunk: &[u8]) {
        // The line may have begun in what was seen before, and not earlier.
        let unseen = self.tail.len().saturating_sub(CLUSTER_DUMP_END.len() - 1);
        self.tail.extend_from_slice(chunk);
        if self.seen < GLOBALS && !self.globals_end {
            self.globals_end = contains(&self.tail[unseen..], CLUSTER_DUMP_END);
        }
        self.seen = self.seen.saturating_add(chunk.len());
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
    }

    /// Checks that a dump which began as one of pg_dump's also ends as one.
    fn check(&self, head: &[u8]) -> Result<()> {
        let head = &head[..head.len().min(TAIL)];
        let cluster = contains(head, CLUSTER_DUMP);
        if !cluster && !contains(head, DUMP) {
            return Ok(());
        }
        let cluster_end = contains(&self.tail, CLUSTER_DUMP_END);
        let end = contains(&self.tail, DUMP_END);
        // A dump of roles may be followed by dumps of databases.
        if cluster_end || end && (!cluster || self.globals_end) {
            return Ok(());
        }
        Err(truncated("the line that pg_dump writes at the end is missing"))
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Restores an archive with pg_restore.
///
/// # Errors
/// [`Error::InvalidDump`] with pg_restore's first error.
pub(super) async fn archive(
    server: &Server,
    dbname: &str,
    archive: &Path,
    options: &ImportOptions,
    jobs: usize,
    meter: &Meter,
) -> Result<()> {
    let (path, mut command) = client(server, "pg_restore", dbname, Some(archive));
    command.args(["--exit-on-error", "--no-tablespaces", "--verbose", "-w", "-j", &jobs.max(1).to_string()]);
    if options.no_owner {
        command.args(["--no-owner", "--no-privileges"]);
    }
    command.arg("--").arg(archive);
    let mut child = server.cluster().processes.spawn(&path, &mut command)?;
    let said = Said::default();
    let meter = meter.clone();
    let listening = child.stderr.take().map(|stderr| {
        // What it does is progress; what goes wrong is kept.
        said.listen(stderr, move |line| {
            let Some(rest) = line.strip_prefix("pg_restore: ") else { return false };
            let progress =
                !["error", "warning", "detail", "hint", "from TOC"].iter().any(|word| rest.starts_with(word));
            if progress {
                meter.detail(rest.trim_end());
            }
            progress
        })
    });
    let status = program::finish(child, listening.unwrap_or_else(|| tokio::spawn(async {}))).await;
    let status = status.map_err(|e| Error::io("postgres", "waiting for pg_restore", e))?;
    if status.success() { Ok(()) } else { Err(failed_restore(&said, server.said(), server.cluster().install.major)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dump: &str) -> Result<()> {
        let mut ending = Ending::default();
        for chunk in dump.as_bytes().chunks(7) {
            ending.see(chunk);
        }
        ending.check(dump.as_bytes())
    }

    #[test]
    fn a_dump_ends_as_it_began() {
        let body = "SELECT 1;\n".repeat(5000);
        let dump = format!("--\n{DUMP}--\n\n{body}\n--\n{DUMP_END}\n--\n\n");
        let cluster = format!("--\n{CLUSTER_DUMP}--\n\n{body}{dump}\n--\n{CLUSTER_DUMP_END}\n--\n\n");
        let globals = format!("--\n{CLUSTER_DUMP}--\n\nCREATE ROLE a;\n--\n{CLUSTER_DUMP_END}\n--\n\n");
        assert!(check(&body).is_ok(), "SQL that pg_dump did not write ends as it likes");
        assert!(check(&dump).is_ok());
        assert!(check(&format!("{dump}\n\\unrestrict x\n")).is_ok());
        assert!(check(&cluster).is_ok());
        assert!(check(&globals).is_ok());
        assert!(check(&format!("{globals}{dump}")).is_ok());
        assert!(check(&dump[..dump.len() - 60]).is_err());
        assert!(check(&cluster[..cluster.len() - 60]).is_err(), "the end of an inner dump is not the end");
        assert!(check(&format!("{globals}{}", &dump[..dump.len() - 60])).is_err());
    }

    #[test]
    fn the_role_of_this_library_is_not_made_twice() {
        let mut text = b"--\nCREATE ROLE a;\nCREATE ROLE ondemand_admin;\nALTER ROLE ondemand_admin;".to_vec();
        hide_admin_role(&mut text);
        assert_eq!(text, b"--\nCREATE ROLE a;\n--EATE ROLE ondemand_admin;\nALTER ROLE ondemand_admin;");
    }

    #[test]
    fn a_name_is_no_connection_string() {
        assert_eq!(connection_name("host=evil"), "dbname='host=evil'");
        assert_eq!(connection_name("a'b\\c"), "dbname='a\\'b\\\\c'");
    }
}
