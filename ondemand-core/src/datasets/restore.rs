//! Loading a dump into a server: SQL through psql, archives through pg_restore.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::diagnose::{failed_restore, missing_error};
use super::faults::{Failures, Faults};
use super::input::{Bytes, truncated};
use super::meter::Meter;
use super::needs::Needs;
use super::statements::Statements;
use super::{ImportOptions, MissingRoles, OnError};
use crate::error::{Error, Result};
use crate::orchestrator::Mount;
use crate::postgres::ADMIN_ROLE;
use crate::postgres::cluster::{Server, Session, quote_name, quote_text};
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

/// How long the rest of a dump is read for, once something was missing, to find out what else is.
const SEARCH_LIMIT: Duration = Duration::from_secs(30);

/// What a client brings along, so that nothing that a dump sets for a database or a role has an effect on the rest of its restore.
const CLIENT: &str = "-c role=none -c session_preload_libraries= -c local_preload_libraries= -c default_transaction_read_only=off \
     -c statement_timeout=0 -c lock_timeout=0 -c idle_session_timeout=0 -c idle_in_transaction_session_timeout=0";

/// Where a restore begins.
#[derive(Debug)]
pub(super) struct Start {
    /// The database that the client connects to.
    dbname: String,
    /// The database that was made because the user named it.
    made: Option<String>,
}

/// Makes the roles and the database that a dump expects to be there. `head` is the beginning of SQL text.
///
/// # Errors
/// [`Error::InvalidInput`] for a name that PostgreSQL does not allow.
pub(super) async fn prepare(server: &Server, options: &ImportOptions, head: &[u8]) -> Result<Start> {
    let mut brings = Needs::default();
    Statements::default().push(head, &mut |statement| brings.read(statement));
    let session = server.connect("template1").await?;
    // Dumps of one database want it to be there; where others make it, it is there already.
    session.run("making role postgres", "CREATE ROLE postgres SUPERUSER LOGIN").await?;
    for role in options.roles.iter().filter(|role| !brings.made_roles.contains(*role)) {
        make(&session, "role", role, &format!("CREATE ROLE {}", quote_name(role))).await?;
    }
    // A dump that makes it has its encoding, its locale and its owner.
    let start = if brings.databases.first().is_some_and(|first| first == "postgres") {
        session.run("making way for database postgres", "DROP DATABASE postgres").await?;
        "template1"
    } else {
        "postgres"
    };
    let Some(dbname) = options.dbname.as_ref().filter(|dbname| !brings.databases.contains(dbname)) else {
        return Ok(Start { dbname: start.into(), made: None });
    };
    make_database(&session, dbname).await?;
    Ok(Start { dbname: dbname.clone(), made: Some(dbname.clone()) })
}

/// Makes a database that the user has named, unless it is there.
async fn make_database(session: &Session, dbname: &str) -> Result<()> {
    let existing = format!("SELECT 1 FROM pg_database WHERE datname = {}", quote_text(dbname));
    if session.column("listing databases", &existing).await?.is_empty() {
        make(session, "dbname", dbname, &format!("CREATE DATABASE {} TEMPLATE template0", quote_name(dbname))).await?;
    }
    Ok(())
}

/// Makes what the user has named.
async fn make(session: &Session, what: &str, name: &str, sql: &str) -> Result<()> {
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
fn client(server: &Server, name: &str, dbname: Option<&str>, archive: Option<&Path>) -> (std::path::PathBuf, Command) {
    let cluster = server.cluster();
    let path = cluster.install.program(name);
    let mut mounts = cluster.client_mounts();
    mounts.extend(archive.map(|archive| Mount::same(archive, true)));
    let mut command = cluster.processes.command(&path, &mounts);
    command.env("PGHOST", &cluster.private).env("PGPORT", "5432").env("PGUSER", ADMIN_ROLE).env("PGOPTIONS", CLIENT);
    command.env("PGAPPNAME", "ondemand import").env("HOME", "/nonexistent").kill_on_drop(true);
    if let Some(dbname) = dbname {
        command.args(["-d", &connection_name(dbname)]);
    }
    (path, command)
}

/// Keeps a database's name from being understood as a connection string.
fn connection_name(dbname: &str) -> String {
    format!("dbname='{}'", dbname.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Streams SQL into psql. Returns what failed, where the restore goes on after that.
///
/// # Errors
/// [`Error::InvalidDump`] with psql's first error, or if the dump ends too early.
pub(super) async fn sql(server: &Server, start: &Start, mut bytes: Bytes, options: &ImportOptions) -> Result<Failures> {
    let (path, mut command) = client(server, "psql", Some(&start.dbname), None);
    // That it goes on after an error is decided here, by what the error is.
    command.args(["-X", "-q", "-w", "-v", "ON_ERROR_STOP=0", "-f", "-"]).stdin(Stdio::piped());
    let mut child = server.cluster().processes.spawn(&path, &mut command)?;
    let said = Said::default();
    let faults = Faults::new(options.on_error, said.clone());
    let hearing = faults.clone();
    let listening = child.stderr.take().map(|stderr| said.listen(stderr, move |line| hearing.hear_psql(line)));
    let listening = listening.unwrap_or_else(|| tokio::spawn(async {}));
    let stdin = child.stdin.take();

    let mut on_its_way = Feed {
        statements: Statements::default(),
        needs: Needs::default(),
        ending: Ending::default(),
        faults: &faults,
        made: start.made.as_deref(),
        roles: Roles::new(server, options).await?,
    };
    let mut fed = Ok(());
    if let Some(mut stdin) = stdin {
        fed = on_its_way.all(&mut bytes, &mut stdin).await;
        // Closed, it is the end of the dump. That of a broken dump is not to look like one.
        if fed.is_err() {
            let _ = child.start_kill();
        }
    }
    let status = program::finish_or_kill(child, listening, faults.stop()).await;
    fed?;
    let status = status.map_err(|e| Error::io("postgres", "waiting for psql", e))?;
    let failures = faults.failures();
    let failed = || failed_restore(&said, server.said(), server.cluster().install.major);
    if said.disk_full() || server.said().disk_full() {
        return Err(failed());
    }
    if faults.stop().is_cancelled() {
        if said.first_error().is_some_and(|error| error.contains("role \"") || error.contains("extension \"")) {
            on_its_way.search(&mut bytes).await;
            check_needs(server, &on_its_way.needs, said.tail()).await?;
        }
        return Err(failed());
    }
    if !status.success() {
        return Err(failed());
    }
    if let Some(line) = on_its_way.needs.left_open.or(on_its_way.needs.open_since) {
        return Err(Error::InvalidDump {
            message: format!("it leaves the transaction open that begins in line {line}, so what follows is not kept"),
            log: Vec::new(),
            hint: "end the transaction with COMMIT".into(),
        });
    }
    on_its_way.ending.check(&bytes.head)?;
    Ok(failures)
}

/// Roles that are made as a dump names them.
struct Roles<'a> {
    server: &'a Server,
    /// Those that are there; none if none are to be made.
    there: Option<BTreeSet<String>>,
}

impl<'a> Roles<'a> {
    async fn new(server: &'a Server, options: &ImportOptions) -> Result<Self> {
        if options.missing_roles == MissingRoles::Refuse {
            return Ok(Self { server, there: None });
        }
        let there = server.connect("template1").await?.column("listing roles", ROLES).await?;
        Ok(Self { server, there: Some(there.into_iter().collect()) })
    }

    /// Makes the roles that a dump has named so far, and that neither it nor anybody else has made.
    async fn make(&mut self, needs: &Needs) -> Result<()> {
        let Some(there) = &mut self.there else { return Ok(()) };
        let missing: Vec<&String> =
            needs.roles.difference(&needs.made_roles).filter(|role| !there.contains(*role)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        // No session stays: the dump may make databases, which are copies of this one.
        let session = self.server.connect("template1").await?;
        for role in missing {
            make(&session, "role", role, &format!("CREATE ROLE {}", quote_name(role))).await?;
            there.insert(role.clone());
        }
        Ok(())
    }
}

const ROLES: &str = "SELECT rolname FROM pg_roles";

/// A dump on its way into psql.
struct Feed<'a> {
    statements: Statements,
    needs: Needs,
    ending: Ending,
    faults: &'a Faults,
    made: Option<&'a str>,
    roles: Roles<'a>,
}

impl Feed<'_> {
    /// Copies the dump into psql. That psql ends early is no error here: its status says why.
    async fn all(&mut self, bytes: &mut Bytes, stdin: &mut tokio::process::ChildStdin) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = bytes.reader.read(&mut buffer).await.map_err(|e| bytes.outcome.explain(&e))?;
            if read == 0 {
                self.read_to_end();
                return Ok(());
            }
            let chunk = &buffer[..read];
            if chunk.contains(&0) {
                return Err(Error::InvalidDump {
                    message: "it holds bytes that are not text".into(),
                    log: Vec::new(),
                    hint: "check that the file was copied whole, and not as text from one system to another".into(),
                });
            }
            self.ending.see(chunk);
            self.read(chunk);
            // Before psql comes to the statement that names them.
            self.roles.make(&self.needs).await?;
            let written = tokio::select! {
                () = self.faults.stop().cancelled() => return Ok(()),
                written = stdin.write_all(chunk) => written,
            };
            if written.is_err() {
                return Ok(());
            }
        }
    }

    fn read(&mut self, chunk: &[u8]) {
        let Self { statements, needs, faults, made, .. } = self;
        statements.push(chunk, &mut |statement| {
            if let Some(harmless) = needs.take(statement, *made) {
                faults.allow(statement.line, harmless);
            }
        });
    }

    fn read_to_end(&mut self) {
        let Self { statements, needs, .. } = self;
        statements.finish(&mut |statement| needs.read(statement));
    }

    /// Reads what is left of the dump, for what else it needs.
    async fn search(&mut self, bytes: &mut Bytes) {
        let begun = Instant::now();
        let mut buffer = vec![0; CHUNK];
        while let Ok(Ok(read @ 1..)) =
            tokio::time::timeout(SEARCH_LIMIT.saturating_sub(begun.elapsed()), bytes.reader.read(&mut buffer)).await
        {
            self.read(&buffer[..read]);
        }
        self.read_to_end();
    }
}

/// Fails if roles, extensions or locales are missing, and names them all. `log` is what was said about the first of them.
async fn check_needs(server: &Server, needs: &Needs, log: Vec<String>) -> Result<()> {
    let session = server.connect("template1").await?;
    let lacking = |wanted: &BTreeSet<String>, there: Vec<String>| -> Vec<String> {
        wanted.iter().filter(|name| !there.contains(name)).cloned().collect()
    };
    let mut roles = lacking(&needs.roles, session.column("listing roles", ROLES).await?);
    roles.retain(|role| !needs.made_roles.contains(role));
    let available = session.column("listing extensions", "SELECT name FROM pg_available_extensions").await?;
    let extensions = lacking(&needs.extensions, available);
    let mut locales = Vec::new();
    for locale in &needs.locales {
        let text = quote_text(locale);
        let attempt = format!("BEGIN; CREATE COLLATION pg_temp.attempt (locale = {text}); ROLLBACK");
        if let Err(error) = session.attempt(&attempt).await {
            session.run("looking for a locale", "ROLLBACK").await?;
            // It may also be one of another encoding than this database's, which is no fault.
            if error.as_db_error().is_some_and(|error| error.message().contains("could not create locale")) {
                locales.push(locale.clone());
            }
        }
    }
    missing_error(&roles, &extensions, &locales, server.cluster().install.major, log).map_or(Ok(()), Err)
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

/// Reads the definitions of an archive: what it needs, and the database that it is of.
async fn definitions(server: &Server, archive: &Path) -> Result<Needs> {
    let (path, mut command) = client(server, "pg_restore", None, Some(archive));
    command.args(["--schema-only", "--create", "--file=-", "--"]).arg(archive).stdout(Stdio::piped());
    let mut child = server.cluster().processes.spawn(&path, &mut command)?;
    let said = Said::default();
    let listening = child.stderr.take().map(|stderr| said.listen(stderr, |_| false));
    let (mut statements, mut needs) = (Statements::default(), Needs::default());
    if let Some(mut stdout) = child.stdout.take() {
        let mut buffer = vec![0; CHUNK];
        while let Ok(read @ 1..) = stdout.read(&mut buffer).await {
            statements.push(&buffer[..read], &mut |statement| needs.read(statement));
        }
        statements.finish(&mut |statement| needs.read(statement));
    }
    let status = program::finish(child, listening.unwrap_or_else(|| tokio::spawn(async {}))).await;
    let status = status.map_err(|e| Error::io("postgres", "waiting for pg_restore", e))?;
    if status.success() { Ok(needs) } else { Err(failed_restore(&said, server.said(), server.cluster().install.major)) }
}

/// Restores an archive with pg_restore, into the database that it is of or the one that the user has named. Returns what failed, where the restore
/// goes on after that.
///
/// # Errors
/// [`Error::InvalidDump`] with pg_restore's first error, or with all that is missing here.
pub(super) async fn archive(
    server: &Server,
    archive: &Path,
    options: &ImportOptions,
    jobs: usize,
    meter: &Meter,
) -> Result<Failures> {
    let mut needs = definitions(server, archive).await?;
    if options.no_owner {
        needs.roles.clear();
    }
    let own = needs.databases.first().cloned().filter(|_| options.dbname.is_none());
    if own.is_none() {
        needs.locales.clear();
    }
    Roles::new(server, options).await?.make(&needs).await?;
    if options.on_error == OnError::Stop {
        check_needs(server, &needs, Vec::new()).await?;
    }
    let session = server.connect("template1").await?;
    let dbname = match (&own, &options.dbname) {
        // Made with its encoding, its locale and its settings.
        (Some(own), _) if own == "postgres" => {
            session.run("making way for database postgres", "DROP DATABASE postgres").await?;
            "template1"
        }
        (_, Some(dbname)) => {
            make_database(&session, dbname).await?;
            for (_, setting) in &needs.settings {
                // What cannot be set here is a setting of what is not here.
                let _ = session.attempt(&format!("ALTER DATABASE {} SET {setting}", quote_name(dbname))).await;
            }
            dbname
        }
        _ => "postgres",
    };
    // Nobody may be in it when a database is made from it.
    drop(session);

    let (path, mut command) = client(server, "pg_restore", Some(dbname), Some(archive));
    command.args(["--no-tablespaces", "--verbose", "-w", "-j", &jobs.max(1).to_string()]);
    if own.is_some() {
        command.arg("--create");
    }
    if options.no_owner {
        command.args(["--no-owner", "--no-privileges"]);
    }
    command.arg("--").arg(archive);
    let mut child = server.cluster().processes.spawn(&path, &mut command)?;
    let said = Said::default();
    let meter = meter.clone();
    let faults = Faults::new(options.on_error, said.clone());
    let hearing = faults.clone();
    let listening = child.stderr.take().map(|stderr| {
        // What it does is progress; what goes wrong is kept.
        said.listen(stderr, move |line| {
            if hearing.hear_pg_restore(line) {
                return true;
            }
            let Some(rest) = line.strip_prefix("pg_restore: ") else { return false };
            let progress =
                !["error", "warning", "detail", "hint", "from TOC"].iter().any(|word| rest.starts_with(word));
            if progress {
                meter.detail(rest.trim_end());
            }
            progress
        })
    });
    let listening = listening.unwrap_or_else(|| tokio::spawn(async {}));
    let status = program::finish_or_kill(child, listening, faults.stop()).await;
    let status = status.map_err(|e| Error::io("postgres", "waiting for pg_restore", e))?;
    let failures = faults.failures();
    // It ends with 1 where it went on after an error.
    let went_on = status.code() == Some(1) && faults.went_on();
    let full = said.disk_full() || server.said().disk_full();
    if faults.stop().is_cancelled() || full || !status.success() && !went_on {
        return Err(failed_restore(&said, server.said(), server.cluster().install.major));
    }
    Ok(failures)
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
    fn a_name_is_no_connection_string() {
        assert_eq!(connection_name("host=evil"), "dbname='host=evil'");
        assert_eq!(connection_name("a'b\\c"), "dbname='a\\'b\\\\c'");
    }
}
