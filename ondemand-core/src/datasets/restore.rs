//! Loading a dump into a server: SQL through psql, archives through pg_restore.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio_postgres::error::SqlState;

use super::diagnose::{failed_restore, missing_error, readable};
use super::faults::{Failures, Faults};
use super::input::{Bytes, truncated};
use super::meter::Meter;
use super::needs::{Change, Needs, Property};
use super::statements::Statements;
use super::{ImportOptions, MissingRoles, OnError};
use crate::error::{Error, Result};
use crate::orchestrator::Mount;
use crate::postgres::ADMIN_ROLE;
use crate::postgres::cluster::{Server, Session, quote_name, quote_text};
use crate::postgres::program::{self, Said};

/// How many bytes go to psql at a time.
const CHUNK: usize = 256 * 1024;
/// How long a statement may be that is held back until it is known what it is.
const HELD_BACK: u64 = 64 << 10;
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
const CLIENT: &str = "-c role=none -c lc_messages=C -c session_preload_libraries= -c local_preload_libraries= -c default_transaction_read_only=off \
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
        // Asking for a role that is there already, or is being made, is no mistake.
        Err(e) if matches!(e.code(), Some(&SqlState::DUPLICATE_OBJECT | &SqlState::LOCK_NOT_AVAILABLE)) => Ok(()),
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
    let stops = if options.on_error == OnError::Stop { "ON_ERROR_STOP=on" } else { "ON_ERROR_STOP=off" };
    command.args(["-X", "-q", "-w", "-v", stops, "-f", "-"]).stdin(Stdio::piped());
    let mut child = server.cluster().processes.spawn(&path, &mut command)?;
    let said = Said::default();
    let faults = Faults::new(options.on_error);
    let hearing = faults.clone();
    let listening = child.stderr.take().map(|stderr| said.listen(stderr, move |line| hearing.hear_psql(line)));
    let listening = listening.unwrap_or_else(|| tokio::spawn(async {}));
    let stdin = child.stdin.take();

    let mut on_its_way = Feed {
        statements: Statements::default(),
        needs: Needs { known_roles: roles(server).await?, ..Needs::default() },
        ending: Ending::default(),
        faults: &faults,
        held: Vec::new(),
        held_at: 0,
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
    if let Some(refused) = faults.refused_copy() {
        return Err(Error::InvalidDump {
            message: readable(&refused),
            log: said.tail(),
            hint: "rows whose table is missing cannot be left out of SQL text: dump with pg_dump -Fc, and import that"
                .into(),
        });
    }
    if faults.stop().is_cancelled() || !status.success() {
        if said.first_error().is_some_and(|error| error.contains("role \"") || error.contains("extension \"")) {
            on_its_way.search(&mut bytes).await;
            check_needs(server, &on_its_way.needs, &on_its_way.needs.all_roles(), said.tail()).await?;
        }
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
        Ok(Self { server, there: Some(roles(server).await?) })
    }

    /// Makes the roles that a dump has named so far, and that neither it nor anybody else has made. Returns them.
    async fn make(&mut self, needs: &Needs) -> Result<Vec<String>> {
        self.make_each(needs.all_roles().difference(&needs.made_roles)).await
    }

    async fn make_each(&mut self, roles: impl Iterator<Item = &String>) -> Result<Vec<String>> {
        let Some(there) = &mut self.there else { return Ok(Vec::new()) };
        let missing: Vec<String> = roles.filter(|role| !there.contains(*role)).cloned().collect();
        if missing.is_empty() {
            return Ok(missing);
        }
        // No session stays: the dump may make databases, which are copies of this one.
        let session = self.server.connect("template1").await?;
        // A transaction of the dump may just be making the same role, and psql waits for more of the dump.
        session.run("making roles", "SET lock_timeout = '2s'").await?;
        for role in &missing {
            make(&session, "role", role, &format!("CREATE ROLE {}", quote_name(role))).await?;
            there.insert(role.clone());
        }
        Ok(missing)
    }
}

/// Returns the roles that there are.
async fn roles(server: &Server) -> Result<BTreeSet<String>> {
    let session = server.connect("template1").await?;
    Ok(session.column("listing roles", "SELECT rolname FROM pg_roles").await?.into_iter().collect())
}

/// A dump on its way into psql.
struct Feed<'a> {
    statements: Statements,
    needs: Needs,
    ending: Ending,
    faults: &'a Faults,
    /// The beginning of a statement that is held back until it is known what it is, and where that is in the dump.
    held: Vec<u8>,
    held_at: u64,
    made: Option<&'a str>,
    roles: Roles<'a>,
}

impl Feed<'_> {
    /// Copies the dump into psql. That psql ends early is no error here: its status says why.
    async fn all(&mut self, bytes: &mut Bytes, stdin: &mut tokio::process::ChildStdin) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = bytes.reader.read(&mut buffer).await.map_err(|e| bytes.outcome.explain(&e))?;
            let chunk = &buffer[..read];
            if chunk.contains(&0) {
                return Err(Error::InvalidDump {
                    message: "it holds bytes that are not text".into(),
                    log: Vec::new(),
                    hint: "check that the file was copied whole, and not as text from one system to another".into(),
                });
            }
            self.ending.see(chunk);
            let text = if read == 0 { self.rest() } else { self.pass_on(chunk) };
            // Before psql comes to the statement that names them.
            let made = self.roles.make(&self.needs).await?;
            self.needs.known_roles.extend(made);
            let written = tokio::select! {
                () = self.faults.stop().cancelled() => return Ok(()),
                written = stdin.write_all(&text) => written,
            };
            if read == 0 || written.is_err() {
                return Ok(());
            }
        }
    }

    /// Takes the next bytes of the dump, and returns what psql gets next.
    fn pass_on(&mut self, chunk: &[u8]) -> Vec<u8> {
        let found = self.read(chunk);
        let mut all = std::mem::take(&mut self.held);
        let from = self.held_at;
        all.extend_from_slice(chunk);
        let end = from + all.len() as u64;
        let begun = self.statements.begun().filter(|begin| *begin >= from && end - begin <= HELD_BACK);
        let at = |place: u64| usize::try_from(place.saturating_sub(from)).unwrap_or(usize::MAX).min(all.len());
        let cut = begun.map_or(all.len(), at);
        let mut text = Vec::with_capacity(all.len());
        let mut done = 0;
        for ((begin, end), change) in found {
            let statement = &all[at(begin)..at(end)];
            text.extend_from_slice(&all[done..at(begin)]);
            done = at(end);
            let lines = memchr::memchr_iter(b'\n', statement).count();
            match change {
                // What is so long has been passed on in part.
                _ if begin < from => text.extend_from_slice(statement),
                Change::Text(changed) => {
                    text.extend_from_slice(changed.as_bytes());
                    // Its comments are left out, and what follows stays in its line.
                    let kept = memchr::memchr_iter(b'\n', changed.as_bytes()).count();
                    text.extend(std::iter::repeat_n(b'\n', lines.saturating_sub(kept)));
                    text.push(b';');
                }
                Change::Blank => text.extend(std::iter::repeat_n(b'\n', lines)),
            }
        }
        text.extend_from_slice(&all[done..cut]);
        self.held = all.split_off(cut);
        self.held_at = from + cut as u64;
        text
    }

    /// Takes the end of the dump, and returns what is left for psql.
    fn rest(&mut self) -> Vec<u8> {
        let Self { statements, needs, .. } = self;
        statements.finish(&mut |statement| needs.read(statement));
        std::mem::take(&mut self.held)
    }

    /// Reads statements, and returns what is changed: where they are, and what they become.
    fn read(&mut self, chunk: &[u8]) -> Vec<((u64, u64), Change)> {
        let Self { statements, needs, faults, made, .. } = self;
        let mut changes = Vec::new();
        statements.push(chunk, &mut |statement| {
            if statement.is_copy_from_stdin {
                faults.rows_follow(statement.line);
            }
            if let Some(change) = needs.take(statement, *made).filter(|_| statement.is_whole) {
                changes.push((statement.place, change));
            }
        });
        changes
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
        self.rest();
    }
}

/// Fails if roles, extensions or locales are missing, and names them all. `log` is what was said about the first of them.
async fn check_needs(server: &Server, needs: &Needs, wanted: &BTreeSet<String>, log: Vec<String>) -> Result<()> {
    let there = roles(server).await?;
    let is_missing = |role: &&String| !there.contains(*role) && !needs.made_roles.contains(*role);
    let roles: Vec<String> = wanted.iter().filter(is_missing).cloned().collect();
    let session = server.connect("template1").await?;
    let available = session.column("listing extensions", "SELECT name FROM pg_available_extensions").await?;
    let extensions: Vec<String> =
        needs.extensions.iter().filter(|extension| !available.contains(extension)).cloned().collect();
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
async fn definitions(server: &Server, archive: &Path, options: &ImportOptions) -> Result<Needs> {
    let (path, mut command) = client(server, "pg_restore", None, Some(archive));
    command.args(["--schema-only", "--create", "--no-tablespaces", "--file=-"]);
    if options.no_owner {
        command.args(["--no-owner", "--no-privileges"]);
    }
    command.arg("--").arg(archive).stdout(Stdio::piped());
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
    let mut needs = definitions(server, archive, options).await?;
    let is_template = |name: &str| ["template0", "template1"].contains(&name);
    let own = needs.databases.first().filter(|name| options.dbname.is_none() && !is_template(name)).cloned();
    if own.is_none() {
        needs.locales.clear();
    }
    // Who may use the database is restored with it, unless owners are left out.
    let with_access = own.is_some() && !options.no_owner;
    let roles = if with_access { needs.all_roles() } else { needs.roles.clone() };
    Roles::new(server, options).await?.make_each(roles.difference(&needs.made_roles)).await?;
    if options.on_error == OnError::Stop {
        check_needs(server, &needs, &roles, Vec::new()).await?;
    }
    let said = Said::default();
    let faults = Faults::new(options.on_error);
    let failed = || failed_restore(&said, server.said(), server.cluster().install.major);
    // pg_restore would make it, too, but not without what is there: then no error could be told from a harmless one.
    let dbname = own.as_ref().or(options.dbname.as_ref()).map_or("postgres", String::as_str);
    make_for_archive(server, &needs, own.as_deref(), dbname).await?.map_or(Ok(()), |error| {
        said.push(&error);
        Err(failed())
    })?;

    let (path, mut command) = client(server, "pg_restore", Some(dbname), Some(archive));
    command.args(["--no-tablespaces", "--verbose", "-w", "-j", &jobs.max(1).to_string()]);
    if options.on_error == OnError::Stop {
        command.arg("--exit-on-error");
    }
    if options.no_owner {
        command.args(["--no-owner", "--no-privileges"]);
    }
    command.arg("--").arg(archive);
    let mut child = server.cluster().processes.spawn(&path, &mut command)?;
    let meter = meter.clone();
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
    let full = said.disk_full() || server.said().disk_full();
    let went_on = options.on_error == OnError::Continue && faults.went_on();
    if full || !status.success() && !went_on {
        return Err(failed());
    }
    for error in set_properties(server, &needs, own.is_some(), with_access, dbname).await? {
        said.push(&error);
        faults.fail(&error);
        if options.on_error == OnError::Stop {
            return Err(failed());
        }
    }
    Ok(faults.failures())
}

/// Makes the database that an archive is restored into: its own, as it says, or the one that the user has named. Returns the error of PostgreSQL's where
/// the archive is to blame.
async fn make_for_archive(server: &Server, needs: &Needs, own: Option<&str>, dbname: &str) -> Result<Option<String>> {
    let session = server.connect("template1").await?;
    if own == Some("postgres") {
        session.run("making way for database postgres", "DROP DATABASE postgres").await?;
    }
    let create = needs.properties.iter().find_map(|property| match property {
        Property::Create(text) => Some(text),
        _ => None,
    });
    match create.filter(|_| own.is_some()) {
        Some(create) => {
            if let Err(error) = session.attempt(create).await {
                return refusal(&session, "making the archive's database", error).map(Some);
            }
        }
        None => make_database(&session, dbname).await?,
    }
    drop(session);
    if needs.makes_public {
        let session = server.connect(dbname).await?;
        session.run("making way for schema public", "DROP SCHEMA IF EXISTS public").await?;
    }
    Ok(None)
}

/// Sets for a database what an archive says of its own. Returns the errors of PostgreSQL's.
async fn set_properties(
    server: &Server,
    needs: &Needs,
    is_own: bool,
    with_access: bool,
    dbname: &str,
) -> Result<Vec<String>> {
    let session = server.connect("template1").await?;
    let mut errors = Vec::new();
    for property in &needs.properties {
        let statement = match property {
            Property::Setting(setting) => format!("ALTER DATABASE {} SET {setting}", quote_name(dbname)),
            Property::Access(text) if with_access => text.clone(),
            Property::Other(text) if is_own => text.clone(),
            _ => continue,
        };
        if let Err(error) = session.attempt(&statement).await {
            errors.push(refusal(&session, "setting a property of a database", error)?);
        }
    }
    Ok(errors)
}

/// Returns an error of PostgreSQL's as its programs write it.
fn refusal(session: &Session, what: &str, error: tokio_postgres::Error) -> Result<String> {
    match error.as_db_error() {
        Some(db) => Ok(format!("ERROR:  {}", db.message())),
        None => Err(session.error(what, error)),
    }
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
