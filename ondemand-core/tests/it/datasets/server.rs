//! PostgreSQL servers of the tests: where dumps come from, and what snapshots are looked at with.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) const BIN: &str = "/usr/lib/postgresql/15/bin";

/// Runs a program as the user `postgres`, and returns what it wrote.
pub(crate) fn run(program: &str, arguments: &[&str], stdin: &str) -> Output {
    use std::io::Write;
    // A test that waits for a lock for ever is to fail.
    let mut child = Command::new("timeout")
        .args(["120", "setpriv"])
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
        .arg(if program.contains('/') { program.to_owned() } else { format!("{BIN}/{program}") })
        .args(arguments)
        .current_dir("/")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Runs a program that must succeed.
pub(crate) fn must(program: &str, arguments: &[&str], stdin: &str) -> String {
    let output = run(program, arguments, stdin);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// A server that is stopped when it is dropped.
pub(crate) struct TestServer {
    pub(crate) pgdata: PathBuf,
    pub(crate) socket: PathBuf,
    running: bool,
    /// Whom `sql` comes in as.
    pub(crate) user: &'static str,
}

impl TestServer {
    /// Makes a cluster in `dir`, which must exist, and starts a server on it.
    pub(crate) fn create(dir: &Path) -> Self {
        let pgdata = dir.join("source");
        must(
            "initdb",
            &["-D", pgdata.to_str().unwrap(), "-U", "boss", "-A", "trust", "--no-sync", "--locale=C.UTF-8"],
            "",
        );
        let mut server = Self { pgdata, socket: dir.to_owned(), running: false, user: "boss" };
        server.start("");
        server
    }

    /// Starts a server on what a snapshot holds, letting everybody in.
    pub(crate) fn on(pgdata: &Path, socket: &Path) -> Self {
        let hba = socket.join("trust.conf");
        std::fs::write(&hba, "local all all trust\nlocal replication all trust\n").unwrap();
        let mut server =
            Self { pgdata: pgdata.to_owned(), socket: socket.to_owned(), running: false, user: "postgres" };
        server.start(&format!("-c hba_file={}", hba.display()));
        server
    }

    pub(crate) fn start(&mut self, more: &str) {
        let log = self.socket.join("server.log");
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c wal_level=logical \
             -c max_prepared_transactions=5 -c shared_buffers=16MB {more}",
            self.socket.display()
        );
        let arguments =
            ["-D", self.pgdata.to_str().unwrap(), "-l", log.to_str().unwrap(), "-w", "-o", options.as_str(), "start"];
        let status = Command::new("setpriv")
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
            .arg(format!("{BIN}/pg_ctl"))
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{}", std::fs::read_to_string(&log).unwrap_or_default());
        self.running = true;
    }

    pub(crate) fn stop(&mut self, mode: &str) {
        if std::mem::take(&mut self.running) {
            must("pg_ctl", &["-D", self.pgdata.to_str().unwrap(), "-m", mode, "-w", "stop"], "");
        }
    }

    /// Runs SQL, and returns the rows without alignment.
    pub(crate) fn sql(&self, dbname: &str, sql: &str) -> String {
        let socket = self.socket.to_str().unwrap();
        let arguments = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", socket, "-U", self.user, "-d", dbname];
        must("psql", &arguments, sql).trim_end().to_owned()
    }

    /// Runs pg_dump or pg_dumpall.
    pub(crate) fn dump(&self, program: &str, arguments: &[&str]) -> Vec<u8> {
        let socket = self.socket.to_str().unwrap();
        let mut all = vec!["-h", socket, "-U", self.user];
        all.extend_from_slice(arguments);
        let output = run(program, &all, "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if std::mem::take(&mut self.running) {
            let _ = run("pg_ctl", &["-D", self.pgdata.to_str().unwrap(), "-m", "immediate", "-w", "stop"], "");
        }
    }
}
