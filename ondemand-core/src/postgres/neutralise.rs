//! Making a copy forget where it came from, so that it neither acts on the original nor gives its secrets away.
//!
//! The files go before any server runs on the data directory; what the catalogs hold goes before the snapshot is made.

use std::path::Path;

use rustix::fs::FileType;

use super::cluster::{Server, Session, quote_name, quote_text};
use super::controldata::ControlData;
use super::{ADMIN_ROLE, USER};
use crate::error::{Error, Result};
use crate::name::{hex, random};
use crate::orchestrator::RunAs;
use crate::tree::Tree;

/// What a data directory consists of. All else at its top belongs to the server it came from: keys, logs, configuration.
const PARTS: [&str; 18] = [
    "PG_VERSION",
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_multixact",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_xact",
];

/// Directories whose contents a clean start does without: slots would keep the log from being deleted, and statistics and
/// snapshots hold texts of queries.
const EMPTIED: [&str; 8] = [
    "pg_replslot",
    "pg_logical/snapshots",
    "pg_logical/mappings",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_dynshmem",
    "pg_wal/archive_status",
];

/// Removes from a data directory, with no server on it, every file that is the original server's own. Blocking.
///
/// # Errors
/// [`Error::Backend`] if a file cannot be removed.
pub(crate) fn clean_files(pgdata: &Path, user: RunAs) -> Result<()> {
    let clean = || -> std::io::Result<()> {
        let top = Tree::open(pgdata)?;
        for name in top.names()? {
            if !name.to_str().is_some_and(|name| PARTS.contains(&name)) {
                top.remove(&name)?;
            }
        }
        for part in EMPTIED {
            if let Some(directory) = top.below(part)? {
                directory.empty()?;
            }
        }
        // Archives may leave empty directories out, and a server does not start without them.
        for part in PARTS.into_iter().filter(|part| part.starts_with("pg_")) {
            top.make_dir(part, user)?;
        }
        for (above, part) in EMPTIED.into_iter().filter_map(|part| part.split_once('/')) {
            top.below(above)?.ok_or(std::io::ErrorKind::NotFound)?.make_dir(part, user)?;
        }
        // What followed a subscription's publisher is gone with it; the server makes an empty one.
        if let Some(directory) = top.below("pg_logical")? {
            directory.remove("replorigin_checkpoint")?;
        }
        let placeholder = "# Not used: see the files beside the data directories.\n";
        for name in ["postgresql.conf", "postgresql.auto.conf", "pg_ident.conf"] {
            top.write(name, placeholder, user)?;
        }
        // Should a server be started on this directory by hand, it lets nobody in but its own user.
        let hba = format!("{placeholder}local all all peer\nhost all all all scram-sha-256\n");
        top.write("pg_hba.conf", &hba, user)
    };
    clean().map_err(|e| Error::io("postgres", format!("cleaning {}", pgdata.display()), e))
}

/// Deletes the segments of the write-ahead log that a start does not need. Segments kept for later use hold old records, and
/// with them old passwords. Blocking.
///
/// # Errors
/// [`Error::Backend`] if a file cannot be removed.
pub(crate) fn trim_wal(pgdata: &Path, control: &ControlData) -> Result<()> {
    let Some(needed) = control.needed_wal() else { return Ok(()) };
    let trim = || -> std::io::Result<()> {
        let Some(directory) = Tree::open(pgdata)?.below("pg_wal")? else { return Ok(()) };
        for name in directory.names()? {
            let is_needed = needed.iter().any(|needed| name == needed.as_str());
            if !is_needed && directory.kind(&name)? != Some(FileType::Directory) {
                directory.remove(&name)?;
            }
        }
        Ok(())
    };
    trim().map_err(|e| Error::io("postgres", "deleting old segments of the write-ahead log", e))
}

/// What single-user mode is told, to make the role that this library comes in as, whatever the cluster's first superuser is called.
pub(crate) fn admin_commands() -> String {
    // Each ends with its line. The first fails where the role exists, and that is noticed by nobody.
    format!("CREATE ROLE {ADMIN_ROLE}\nALTER ROLE {ADMIN_ROLE} {ADMIN_ATTRIBUTES}\n")
}

const ADMIN_ATTRIBUTES: &str = "SUPERUSER LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS CONNECTION LIMIT -1 PASSWORD NULL VALID UNTIL 'infinity'";

/// Makes the catalogs of all databases forget passwords, subscriptions and libraries, and sees to it that a superuser `postgres` can
/// log in. Returns the databases.
///
/// # Errors
/// [`Error::Backend`] with PostgreSQL's error, [`Error::OutOfSpace`].
pub(crate) async fn clean_catalogs(server: &Server, report: &(dyn Fn(&str) + Sync)) -> Result<Vec<String>> {
    let template = server.connect("template1").await?;
    let existing = "SELECT 1 FROM pg_database WHERE datname = 'postgres'";
    if template.column("listing databases", existing).await?.is_empty() {
        template.run("making database postgres", "CREATE DATABASE postgres TEMPLATE template0").await?;
    }
    // Nobody may be in it when another is made from it.
    drop(template);
    let main = server.connect("postgres").await?;
    clean_shared(&main).await?;

    // One that was being dropped is of no use, and nobody can connect to it.
    main.run_each("dropping", "SELECT format('DROP DATABASE %I', datname) FROM pg_database WHERE datconnlimit = -2")
        .await?;
    let rows = main
        .rows(
            "listing databases",
            "SELECT datname, datallowconn FROM pg_database WHERE datname <> 'template0' ORDER BY datname",
        )
        .await?;
    let databases: Vec<(String, bool)> = rows
        .into_iter()
        .filter_map(|row| match row.as_slice() {
            [Some(name), Some(open)] => Some((name.clone(), open == "t")),
            _ => None,
        })
        .collect();
    let allow = async |name: &str, allow: bool| {
        let sql = format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {allow}", quote_name(name));
        main.run("opening and closing databases", &sql).await
    };
    // Transactions prepared on the original hold locks that nobody here would release. They also keep what is deleted in any
    // database from being forgotten, so all of them go first.
    for (name, open) in &databases {
        if !open {
            allow(name, true).await?;
        }
        let prepared =
            "SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts WHERE database = current_database()";
        server.connect(name).await?.run_each("rolling prepared transactions back", prepared).await?;
    }
    for (name, open) in &databases {
        report(name);
        clean_database(&server.connect(name).await?).await?;
        if !open {
            allow(name, false).await?;
        }
    }
    // Rewritten, they hold no longer what was deleted from them.
    for catalog in ["pg_authid", "pg_subscription", "pg_db_role_setting"] {
        main.run("rewriting a catalog", &format!("VACUUM FULL pg_catalog.{catalog}")).await?;
    }
    Ok(databases.into_iter().filter(|(_, open)| *open).map(|(name, _)| name).collect())
}

/// Settings of databases and roles that do not belong to the data.
const GONE: [&str; 9] = [
    "session_preload_libraries",
    "local_preload_libraries",
    "role",
    "default_tablespace",
    "temp_tablespaces",
    "default_transaction_read_only",
    "idle_session_timeout",
    "idle_in_transaction_session_timeout",
    "tcp_user_timeout",
];

/// Cleans what all databases share.
async fn clean_shared(session: &Session) -> Result<()> {
    let what = "cleaning roles";
    let admin = ADMIN_ROLE;
    session
        .run_each(
            what,
            "SELECT format('ALTER ROLE %I PASSWORD NULL', rolname) FROM pg_authid WHERE rolpassword IS NOT NULL",
        )
        .await?;
    session
        .run_each(
            what,
            "SELECT 'CREATE ROLE postgres' WHERE NOT EXISTS (SELECT FROM pg_authid WHERE rolname = 'postgres')",
        )
        .await?;
    session
        .run(what, &format!("ALTER ROLE postgres {ADMIN_ATTRIBUTES}; ALTER ROLE {admin} {ADMIN_ATTRIBUTES}"))
        .await?;
    session.run(what, &format!("ALTER ROLE {admin} RESET ALL")).await?;
    // Libraries that sessions load may not be installed here, or talk to somebody. Another role than the one that comes in may do less, or be gone; and
    // what bounds a connection or a disk of the original's is nothing here.
    let gone = GONE.map(quote_text).join(", ");
    session
        .run_each(
            "cleaning settings",
            &format!(
                "SELECT format('ALTER %s RESET %I',
                    CASE WHEN setrole = 0 THEN format('DATABASE %I', d.datname)
                         WHEN setdatabase = 0 THEN format('ROLE %I', r.rolname)
                         ELSE format('ROLE %I IN DATABASE %I', r.rolname, d.datname) END,
                    split_part(setting, '=', 1))
             FROM pg_db_role_setting s
             CROSS JOIN unnest(s.setconfig) AS setting
             LEFT JOIN pg_database d ON d.oid = s.setdatabase
             LEFT JOIN pg_authid r ON r.oid = s.setrole
             WHERE (s.setdatabase <> 0 OR s.setrole <> 0)
               AND lower(split_part(setting, '=', 1)) IN ({gone})"
            ),
        )
        .await?;
    for name in GONE {
        session.run("cleaning settings", &format!("ALTER ROLE ALL RESET {name}")).await?;
    }
    Ok(())
}

/// Cleans one database, in one transaction.
///
/// The catalogs are changed directly where a command would call a foreign-data wrapper (whose library may not be here) or contact a publisher:
/// `DROP SUBSCRIPTION` does even without a slot, as long as a table is being synchronised.
async fn clean_database(session: &Session) -> Result<()> {
    const SECRET: &str = "'pass|pwd|secret|token|credential|sslkey|private_key'";
    let what = "cleaning a database";
    session.run(what, "BEGIN").await?;
    // Commands on event triggers fire none themselves.
    let triggers = session
        .rows(what, "SELECT quote_ident(evtname), evtenabled FROM pg_event_trigger WHERE evtenabled <> 'D'")
        .await?;
    for row in &triggers {
        if let [Some(name), _] = row.as_slice() {
            session.run(what, &format!("ALTER EVENT TRIGGER {name} DISABLE")).await?;
        }
    }
    let here = "(SELECT oid FROM pg_database WHERE datname = current_database())";
    session
        .run(
            what,
            &format!(
                "DELETE FROM pg_subscription_rel WHERE srsubid IN (SELECT oid FROM pg_subscription WHERE subdbid = {here})"
            ),
        )
        .await?;
    for action in
        ["ALTER SUBSCRIPTION %I DISABLE", "ALTER SUBSCRIPTION %I SET (slot_name = NONE)", "DROP SUBSCRIPTION %I"]
    {
        let query = format!("SELECT format('{action}', subname) FROM pg_subscription WHERE subdbid = {here}");
        session.run_each(what, &query).await?;
    }
    for (catalog, column) in [("pg_user_mapping", "umoptions"), ("pg_foreign_server", "srvoptions")] {
        session
            .run(
                what,
                &format!(
                    "UPDATE {catalog} SET {column} =
                         (SELECT array_agg(o) FROM unnest({column}) o WHERE split_part(o, '=', 1) !~* {SECRET})
                     WHERE EXISTS (SELECT FROM unnest({column}) o WHERE split_part(o, '=', 1) ~* {SECRET})"
                ),
            )
            .await?;
    }
    // Jobs run only where the library is loaded; should somebody load it, they wait to be switched on.
    let cron = "SELECT format('UPDATE %s SET active = false', c.oid::regclass)
                FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'active' AND NOT a.attisdropped
                WHERE n.nspname = 'cron' AND c.relname = 'job' AND c.relkind = 'r' AND a.atttypid = 'bool'::regtype";
    session.run_each(what, cron).await?;
    // Samples of what these tables held.
    session
        .run(
            what,
            "DELETE FROM pg_statistic WHERE starelid IN ('pg_authid'::regclass, 'pg_subscription'::regclass,
                 'pg_user_mapping'::regclass, 'pg_foreign_server'::regclass, 'pg_db_role_setting'::regclass)",
        )
        .await?;
    for row in &triggers {
        let [Some(name), Some(enabled)] = row.as_slice() else { continue };
        let state = match enabled.as_str() {
            "R" => "ENABLE REPLICA",
            "A" => "ENABLE ALWAYS",
            _ => "ENABLE",
        };
        session.run(what, &format!("ALTER EVENT TRIGGER {name} {state}")).await?;
    }
    session.run(what, "COMMIT").await?;
    // This cannot be in a transaction. Rewritten, they hold no longer what was deleted from them.
    for catalog in ["pg_user_mapping", "pg_foreign_server", "pg_statistic"] {
        session.run(what, &format!("VACUUM FULL pg_catalog.{catalog}")).await?;
    }
    Ok(())
}

/// Gets the server ready to be shut down for good: what the log still holds of the past goes with its old segments. Returns the verifier of the
/// password that the user `postgres` has now. Nobody knows the password; a clone's takes its place, see [`slot`](super::slot).
///
/// # Errors
/// [`Error::Backend`] with PostgreSQL's error, [`Error::OutOfSpace`].
pub(crate) async fn finish(server: &Server, dbname: &str) -> Result<String> {
    let session = server.connect(dbname).await?;
    let what = "finishing";
    // A limit of the original's would keep its developers out of a copy.
    session.run(what, &format!("ALTER DATABASE {} WITH CONNECTION LIMIT -1", quote_name(dbname))).await?;
    let mut password = [0; 32];
    random(&mut password)?;
    let verifier = postgres_protocol::password::scram_sha_256(hex(&password).as_bytes());
    session.run(what, &format!("ALTER ROLE {USER} PASSWORD {}", quote_text(&verifier))).await?;
    for statement in ["CHECKPOINT", "SELECT pg_catalog.pg_switch_wal()", "CHECKPOINT"] {
        session.run(what, statement).await?;
    }
    Ok(verifier)
}

/// Tells whether a database has tables, views with rows or foreign tables of its own.
///
/// # Errors
/// [`Error::Backend`] with PostgreSQL's error.
pub(crate) async fn has_tables(server: &Server, dbname: &str) -> Result<bool> {
    let session = server.connect(dbname).await?;
    let tables = session
        .column(
            "looking for tables",
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'm', 'f') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
               AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
             LIMIT 1",
        )
        .await?;
    Ok(!tables.is_empty())
}

/// Returns the database that holds the data: `postgres`, unless nothing is in it and exactly one other has been made.
///
/// # Errors
/// [`Error::Backend`] with PostgreSQL's error.
pub(crate) async fn main_database(server: &Server) -> Result<String> {
    if has_tables(server, "postgres").await? {
        return Ok("postgres".into());
    }
    let session = server.connect("postgres").await?;
    let others = session
        .column(
            "listing databases",
            "SELECT datname FROM pg_database WHERE NOT datistemplate AND datallowconn AND datname <> 'postgres' LIMIT 2",
        )
        .await?;
    Ok(match others.as_slice() {
        // A name with control characters cannot be a label.
        [only] if !only.chars().any(char::is_control) => only.clone(),
        _ => "postgres".into(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_a_data_directory_consists_of_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for part in ["base", "global", "pg_wal/archive_status", "pg_replslot/prod", "log", "pg_stat"] {
            fs::create_dir_all(at(part)).expect("a directory");
        }
        for file in [
            "PG_VERSION",
            "server.key",
            "standby.signal",
            "recovery.conf",
            "postgresql.auto.conf",
            "pg_hba.conf",
            "log/today.log",
            "pg_replslot/prod/state",
            "pg_stat/pgss_query_texts.stat",
            "pg_wal/archive_status/000000010000000000000001.ready",
            "base/kept",
        ] {
            fs::write(at(file), "secret").expect("a file");
        }
        std::os::unix::fs::symlink("/etc/passwd", at("server.crt")).expect("a link");
        let user = RunAs { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        clean_files(dir.path(), user).expect("clean");
        let configuration = ["pg_hba.conf", "pg_ident.conf", "postgresql.auto.conf", "postgresql.conf"];
        for entry in fs::read_dir(dir.path()).expect("a listing").flatten() {
            let name = entry.file_name().into_string().expect("text");
            assert!(PARTS.contains(&name.as_str()) || configuration.contains(&name.as_str()), "{name} is left");
        }
        assert!(!fs::read_to_string(at("postgresql.auto.conf")).expect("text").contains("secret"));
        assert!(!fs::read_to_string(at("pg_hba.conf")).expect("text").contains("secret"));
        for emptied in ["pg_replslot", "pg_stat", "pg_wal/archive_status"] {
            assert_eq!(fs::read_dir(at(emptied)).expect("a listing").count(), 0, "{emptied}");
        }
        assert!(at("base/kept").exists());
    }
}
