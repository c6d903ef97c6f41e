//! A cluster while it is being made: `initdb`, and a private server that nobody else can reach.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::ADMIN_ROLE;
use super::files::StaticFiles;
use super::install::{self, Install};
use super::program::{self, Processes, Said, sql_error};
use super::tablespaces;
use crate::error::{Error, Result};
use crate::orchestrator::{Mount, RunAs};
use crate::own;
use crate::tree::Tree;

/// How long the private server may take to answer. Its data directory was shut down cleanly, so there is nothing to recover.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take to shut down: it writes what it has in memory.
const STOP_LIMIT: Duration = Duration::from_secs(1800);

/// What a session of this library brings along, so that nothing that the dataset's owner has set for all sessions, for a
/// database or for a role takes effect in it: no libraries, no functions found by search path, no triggers, no limits.
pub(crate) const SESSION: &str = "-c role=none -c session_preload_libraries= -c local_preload_libraries= \
     -c search_path=pg_catalog -c session_replication_role=replica -c statement_timeout=0 -c lock_timeout=0 \
     -c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off -c row_security=off \
     -c synchronous_commit=off -c standard_conforming_strings=on -c client_min_messages=warning";

/// A data directory that is being made, and where its private server listens.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) install: Install,
    /// The data directory.
    pub(crate) pgdata: PathBuf,
    /// A directory that only the server's user can enter, with the socket and the configuration files.
    pub(crate) private: PathBuf,
    files: StaticFiles,
    pub(crate) processes: Processes,
    /// Bytes that the write-ahead log may take before a checkpoint.
    max_wal: u64,
    /// How many programs work at a time.
    jobs: usize,
    /// Bytes of its data, as far as they can be guessed.
    data: Option<u64>,
}

impl Cluster {
    /// Prepares the private directory.
    pub(crate) fn new(
        mut install: Install,
        user: RunAs,
        pgdata: PathBuf,
        private: PathBuf,
        processes: Processes,
        free: u64,
        jobs: usize,
    ) -> Result<Self> {
        // The path of a unix socket has a limit that PostgreSQL explains badly.
        let longest = private.as_os_str().len() + "/.s.PGSQL.5432".len();
        if longest > 107 {
            return Err(Error::Unsupported {
                message: format!("the path of the socket directory {} is too long", private.display()),
                hint: "choose a runtime directory with a shorter path".into(),
            });
        }
        let make = || {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(private.parent().unwrap_or(&private))?;
            std::fs::DirBuilder::new().mode(0o700).create(&private)
        };
        make().map_err(|e| Error::io("postgres", format!("making {}", private.display()), e))?;
        // Here `psql` and `pg_restore` come in as the user of the server, for what a dump tells them to do, they do themselves.
        let files = StaticFiles::write_for(&private, &[nix::unistd::geteuid().as_raw(), user.uid])?;
        own(&private, user)?;
        // A sandbox sees the programs at their real path.
        install.bin_dir = install.bin_dir.canonicalize().unwrap_or(install.bin_dir);
        // With neither full pages nor flushes, frequent checkpoints cost little: the log needs no more than a part of the pool.
        let max_wal = (free / 20).clamp(256 << 20, 4 << 30);
        Ok(Self { install, pgdata, private, files, processes, max_wal, jobs, data: None })
    }

    /// Has its server prepare for so many bytes of data.
    pub(crate) fn for_data(self, bytes: Option<u64>) -> Self {
        Self { data: bytes, ..self }
    }

    /// Makes an empty cluster, whose only role is [`ADMIN_ROLE`].
    ///
    /// There are no page checksums: every hint bit that a clone sets would become a record in its log, and the pool has
    /// checksums of its own where it is BTRFS.
    pub(crate) async fn initdb(&self) -> Result<()> {
        let path = self.install.program("initdb");
        let mut command = self.processes.command(&path, &self.server_mounts());
        command
            .arg("-D")
            .arg(&self.pgdata)
            .args(["-U", ADMIN_ROLE, "--auth-local=peer", "--auth-host=scram-sha-256", "--encoding=UTF8"])
            .args(["--locale=C.UTF-8", "--no-sync", "--no-instructions"]);
        if self.install.major >= 18 {
            command.arg("--no-data-checksums");
        }
        let said = self.run(&path, &mut command).await?;
        if let Some(said) = said {
            return Err(failure("making an empty cluster", &said));
        }
        tablespaces::close(&self.pgdata)
    }

    /// Runs commands in single-user mode, where no role is needed to come in. That a command fails is not noticed.
    pub(crate) async fn single_user(&self, commands: &str) -> Result<()> {
        let path = self.install.program("postgres");
        let mut command = self.processes.command(&path, &self.server_mounts());
        command.arg("--single").arg("-D").arg(&self.pgdata).args(self.files.arguments());
        for setting in self.settings()? {
            command.arg("-c").arg(setting);
        }
        command.args(["-c", "shared_buffers=16MB"]).arg("template1").stdin(Stdio::piped());
        let mut child = self.processes.spawn_single(&path, &mut command)?;
        let said = Said::default();
        let listening = child.stderr.take().map(|stderr| said.listen(stderr, |_| false));
        if let Some(mut stdin) = child.stdin.take() {
            // If it has ended already, its status says why.
            let _ = stdin.write_all(commands.as_bytes()).await;
        }
        let listening = listening.unwrap_or_else(|| tokio::spawn(async {}));
        let status = program::finish(child, listening).await;
        match status.map_err(|e| Error::io("postgres", "waiting for single-user mode", e))? {
            status if status.success() => Ok(()),
            _ => Err(failure("starting PostgreSQL on the data directory", &said)),
        }
    }

    /// Runs a program to its end; returns what it said if it failed.
    async fn run(&self, path: &Path, command: &mut Command) -> Result<Option<Said>> {
        let mut child = self.processes.spawn(path, command.kill_on_drop(true))?;
        let said = Said::default();
        let listening = child.stderr.take().map_or_else(|| tokio::spawn(async {}), |e| said.listen(e, |_| false));
        let status = program::finish(child, listening).await;
        let status = status.map_err(|e| Error::io("postgres", format!("waiting for {}", path.display()), e))?;
        Ok((!status.success()).then_some(said))
    }

    /// Starts the private server: reachable over its socket only, with settings for loading much at once.
    pub(crate) async fn start(&self) -> Result<Server> {
        let path = self.install.program("postgres");
        let mut command = self.processes.command(&path, &self.server_mounts());
        command.arg("-D").arg(&self.pgdata).args(self.files.arguments());
        for setting in self.settings()? {
            command.arg("-c").arg(setting);
        }
        let mut child = self.processes.spawn_server(&path, &mut command)?;
        let said = Said::default();
        if let Some(stderr) = child.stderr.take() {
            said.listen(stderr, |_| false);
        }
        let mut server = Server { cluster: self.clone(), child, said };
        server.wait_ready().await?;
        Ok(server)
    }

    /// Returns what a server and what makes its files see of the host, where they are in a sandbox.
    fn server_mounts(&self) -> Vec<Mount> {
        let mut mounts = self.client_mounts();
        mounts.push(Mount::same(&self.pgdata, false));
        mounts
    }

    /// Returns what a client of the server sees of the host, where it is in a sandbox.
    pub(crate) fn client_mounts(&self) -> Vec<Mount> {
        let mut mounts = install::mounts(&self.install.bin_dir);
        mounts.push(Mount::same(&self.private, false));
        mounts
    }

    fn settings(&self) -> Result<Vec<String>> {
        let memory = memory();
        let mib = |bytes: u64| format!("{}MB", bytes >> 20);
        let jobs = self.jobs.max(1) as u64;
        let mut settings = vec![
            "listen_addresses=".to_owned(),
            format!("unix_socket_directories={}", self.private.display()),
            "unix_socket_permissions=0700".into(),
            "port=5432".into(),
            format!("max_connections={}", 20 + 2 * jobs),
            format!("max_prepared_transactions={}", prepared_transactions(&self.pgdata)?),
            // What a copy must not do by itself.
            "shared_preload_libraries=".into(),
            "session_preload_libraries=".into(),
            "local_preload_libraries=".into(),
            "archive_mode=off".into(),
            "max_logical_replication_workers=0".into(),
            "synchronous_standby_names=".into(),
            "primary_conninfo=".into(),
            "ssl=off".into(),
            // Nothing here survives a crash: a failed import is thrown away.
            "fsync=off".into(),
            "full_page_writes=off".into(),
            "synchronous_commit=off".into(),
            "wal_level=minimal".into(),
            "max_wal_senders=0".into(),
            // Old segments are deleted, not kept for later: what is left of them would be copied into every clone.
            "wal_recycle=off".into(),
            "wal_init_zero=off".into(),
            format!("max_wal_size={}", mib(self.max_wal)),
            "min_wal_size=32MB".into(),
            "checkpoint_timeout=1d".into(),
            "autovacuum=off".into(),
            format!("shared_buffers={}", mib(shared_buffers(memory, self.data))),
            format!("maintenance_work_mem={}", mib((memory / (8 * jobs)).clamp(64 << 20, 2 << 30))),
            format!("work_mem={}", mib((memory / (64 * jobs)).clamp(8 << 20, 256 << 20))),
            "max_stack_depth=2MB".into(),
            "jit=off".into(),
            // Statements hold data and passwords, and the log ends up in error messages.
            "logging_collector=off".into(),
            "log_destination=stderr".into(),
            "log_min_error_statement=panic".into(),
            "log_statement=none".into(),
            "log_line_prefix=".into(),
            "log_error_verbosity=terse".into(),
        ];
        if self.install.major >= 17 {
            settings.push("event_triggers=off".into());
        }
        Ok(settings)
    }
}

/// The private server of a cluster.
#[derive(Debug)]
pub(crate) struct Server {
    cluster: Cluster,
    child: Child,
    said: Said,
}

impl Server {
    async fn wait_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            let connected = tokio::select! {
                // Whether it has ended is the better news: it explains why nobody answers.
                biased;
                _ = self.child.wait() => return Err(failure("starting PostgreSQL", &self.said)),
                connected = try_connect(&self.cluster.private, "template1") => connected,
            };
            let error = match connected {
                Ok(_) => return Ok(()),
                // It is there, and refuses this database: the caller will see why.
                Err(e) if e.as_db_error().is_some_and(|e| e.code().code() != "57P03") => return Ok(()),
                Err(error) => error,
            };
            if started.elapsed() > START_LIMIT {
                return Err(Error::NotReady {
                    waited: started.elapsed(),
                    last: error.to_string(),
                    log: self.said.tail(),
                });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns what the server writes to its log.
    pub(crate) fn said(&self) -> &Said {
        &self.said
    }

    /// Returns the cluster it serves.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Opens a session as [`ADMIN_ROLE`].
    pub(crate) async fn connect(&self, dbname: &str) -> Result<Session> {
        match try_connect(&self.cluster.private, dbname).await {
            Ok(client) => Ok(Session { client, dbname: dbname.to_owned(), said: self.said.clone() }),
            Err(error) => Err(self.connect_error(dbname, error)),
        }
    }

    fn connect_error(&self, dbname: &str, error: tokio_postgres::Error) -> Error {
        if let Some(db) = error.as_db_error()
            && (db.message().contains("incompatible with operating system") || db.message().contains("locale"))
        {
            return Error::Unsupported {
                message: format!("database {dbname:?}: {}", db.message()),
                hint: "install the locale on this host: apt-get install locales-all".into(),
            };
        }
        query_error(&format!("connecting to database {dbname:?}"), error, &self.said)
    }

    /// Shuts the server down cleanly.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let asked = self.cluster.processes.signal(&self.child, rustix::process::Signal::INT);
        match asked {
            // It has ended already; why, is in what it said.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
            asked => asked.map_err(|e| Error::io("postgres", "asking the server to shut down", e))?,
        }
        let status = tokio::time::timeout(STOP_LIMIT, self.child.wait()).await.map_err(|_| Error::NotReady {
            waited: STOP_LIMIT,
            last: "the server is still shutting down".into(),
            log: self.said.tail(),
        })?;
        let status = status.map_err(|e| Error::io("postgres", "waiting for the server to shut down", e))?;
        if status.success() { Ok(()) } else { Err(failure("shutting the server down", &self.said)) }
    }
}

async fn try_connect(socket_dir: &Path, dbname: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::Config::new()
        .host_path(socket_dir)
        .port(5432)
        .user(ADMIN_ROLE)
        .dbname(dbname)
        .application_name("ondemand")
        .options(SESSION)
        .connect(NoTls)
        .await?;
    // It ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

/// A session of [`ADMIN_ROLE`].
pub(crate) struct Session {
    client: Client,
    dbname: String,
    said: Said,
}

impl Session {
    /// Runs statements; `what` is what they are for.
    pub(crate) async fn run(&self, what: &str, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.map_err(|e| self.error(what, e))
    }

    /// Returns the rows of a query as text.
    pub(crate) async fn rows(&self, what: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let messages = self.client.simple_query(sql).await.map_err(|e| self.error(what, e))?;
        let text = |row: &tokio_postgres::SimpleQueryRow| {
            (0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect::<Vec<_>>()
        };
        Ok(messages
            .iter()
            .filter_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(text(row)) } else { None })
            .collect())
    }

    /// Returns the first column of a query.
    pub(crate) async fn column(&self, what: &str, sql: &str) -> Result<Vec<String>> {
        let rows = self.rows(what, sql).await?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
    }

    /// Runs each statement that a query returns. The server quotes the names in them: they may hold anything.
    pub(crate) async fn run_each(&self, what: &str, query: &str) -> Result<usize> {
        let statements = self.column(what, query).await?;
        for statement in &statements {
            self.run(what, statement).await?;
        }
        Ok(statements.len())
    }

    /// Runs a statement, and returns the database's own error if it has one.
    pub(crate) async fn attempt(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(sql).await
    }

    pub(crate) fn error(&self, what: &str, error: tokio_postgres::Error) -> Error {
        query_error(&format!("{what} (database {:?})", self.dbname), error, &self.said)
    }
}

fn query_error(what: &str, error: tokio_postgres::Error, said: &Said) -> Error {
    if said.disk_full() { Error::OutOfSpace { message: what.to_owned() } } else { sql_error(what, error) }
}

/// Explains why a program failed, by what it said.
pub(crate) fn failure(what: &str, said: &Said) -> Error {
    if said.disk_full() {
        return Error::OutOfSpace { message: what.to_owned() };
    }
    let said = match said.first_error() {
        Some(error) => error,
        None => said.tail().pop().unwrap_or_else(|| "it ended without a word".into()),
    };
    Error::backend("postgres", what, said)
}

/// Quotes a name for SQL.
pub(crate) fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for SQL.
pub(crate) fn quote_text(text: &str) -> String {
    if text.contains('\\') {
        return format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    }
    format!("'{}'", text.replace('\'', "''"))
}

/// Gives a directory to the server's user, and to nobody else.
pub(crate) fn own(dir: &Path, user: RunAs) -> Result<()> {
    let change = || {
        if nix::unistd::geteuid().is_root() {
            own::chown(dir, Some(user.uid), Some(user.gid))?;
        }
        own::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
    };
    change().map_err(|e| Error::io("postgres", format!("giving {} to its user", dir.display()), e))
}

/// Returns how many prepared transactions a data directory has: a server that may not hold as many refuses to start.
fn prepared_transactions(pgdata: &Path) -> Result<usize> {
    let listed =
        Tree::open(pgdata).and_then(|tree| tree.below("pg_twophase")?.map_or(Ok(Vec::new()), |dir| dir.names()));
    listed.map(|names| names.len()).map_err(|e| Error::io("postgres", "looking for prepared transactions", e))
}

/// Returns how much memory a server keeps pages in. It prepares each of them when it starts, and looks at all of them whenever a database is made or
/// deleted: with a gigabyte, starting and stopping takes twice as much time of a processor as with 64 MiB.
fn shared_buffers(memory: u64, data: Option<u64>) -> u64 {
    (memory / 8).min(data.unwrap_or(u64::MAX)).clamp(64 << 20, 1 << 30)
}

/// Returns the memory of this host in bytes.
fn memory() -> u64 {
    let text = own::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    total.map_or(2 << 30, |kib: u64| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_little_data_keeps_few_pages() {
        const MIB: u64 = 1 << 20;
        assert_eq!(shared_buffers(32_768 * MIB, None), 1024 * MIB);
        assert_eq!(shared_buffers(32_768 * MIB, Some(100 * MIB)), 100 * MIB);
        assert_eq!(shared_buffers(32_768 * MIB, Some(0)), 64 * MIB);
        assert_eq!(shared_buffers(2048 * MIB, Some(1 << 40)), 256 * MIB);
    }

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(quote_name("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_text("it's"), "'it''s'");
        assert_eq!(quote_text("a\\'b"), " E'a\\\\''b'");
    }
}
