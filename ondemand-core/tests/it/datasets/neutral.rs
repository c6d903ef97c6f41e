//! What a copy of a production server must not keep is really gone.

use std::fmt::Write;
use std::path::Path;

use ondemand_core::{ImportOptions, Selector, SnapshotStore, Source};
use tokio::net::TcpListener;

use super::Setup;
use super::server::TestServer;

/// Stands for every secret of the original; also what is looked for in the files.
const SECRET: &str = "hunter2-of-production";

/// Roles and databases may be called anything.
const HOSTILE: [&str; 6] = ["it's", "say \"hi\"", "; DROP TABLE x; --", "ünï cödé ☃", "%I%L$1", "back\\slash 'n \"q"];

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Connects to a database without what is set for it.
fn unimpeded(dbname: &str) -> String {
    format!("dbname='{}' options='-c session_preload_libraries= -c search_path=public'", dbname.replace('\'', "\\'"))
}

/// Makes a server as production has it: with everything that a copy would do harm with.
fn production(server: &mut TestServer, publisher: u16) -> Vec<String> {
    let mut roles = String::new();
    for name in HOSTILE {
        let name = quoted(name);
        writeln!(roles, "CREATE ROLE {name} LOGIN PASSWORD '{SECRET}'; CREATE DATABASE {name} OWNER {name};").unwrap();
        writeln!(roles, "ALTER ROLE {name} IN DATABASE {name} SET session_preload_libraries = 'not_there';").unwrap();
    }
    server.sql("postgres", &roles);
    server.sql(
        "postgres",
        &format!(
            "ALTER ROLE boss PASSWORD '{SECRET}';
             CREATE ROLE postgres NOLOGIN PASSWORD '{SECRET}' VALID UNTIL '2001-01-01' CONNECTION LIMIT 0;
             ANALYZE pg_authid;
             CREATE DATABASE shop CONNECTION LIMIT 0; CREATE DATABASE closed;
             ALTER DATABASE shop SET session_preload_libraries = 'not_there';
             ALTER ROLE ALL SET search_path = evil;
             ALTER ROLE ALL SET default_transaction_read_only = off;
             ALTER SYSTEM SET archive_command = 'scp %p {SECRET}@production:';
             ALTER SYSTEM SET primary_conninfo = 'host=production password={SECRET}';
             SELECT pg_create_physical_replication_slot('standby', true);"
        ),
    );
    let publisher = format!("host=127.0.0.1 port={publisher} password={SECRET} dbname=shop");
    for dbname in ["shop", "closed", HOSTILE[0]] {
        // A session of its own settings: the library that is to be loaded is not there.
        let subscription = quoted(&format!("sub of {dbname}"));
        let slot = format!("slot_{}", dbname.replace(|c: char| !c.is_ascii_alphabetic(), "_"));
        server.sql(
            &unimpeded(dbname),
            &format!(
                "CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item SELECT generate_series(1, 100);
                 CREATE SUBSCRIPTION {subscription} CONNECTION '{publisher}' PUBLICATION p WITH (connect = false, slot_name = '{slot}');
                 INSERT INTO pg_subscription_rel VALUES ((SELECT oid FROM pg_subscription WHERE subname = 'sub of {}'), 'item'::regclass, 'd', NULL);
                 CREATE EXTENSION postgres_fdw;
                 CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'production');
                 CREATE USER MAPPING FOR PUBLIC SERVER other OPTIONS (\"user\" 'app', password '{SECRET}');
                 ANALYZE pg_user_mapping;
                 SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput');",
                dbname.replace('\'', "''")
            ),
        );
        server.sql(
            &unimpeded(dbname),
            "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no %', tg_tag; END$$;
             CREATE EVENT TRIGGER \"no; way\" ON ddl_command_start EXECUTE FUNCTION no();
             ALTER EVENT TRIGGER \"no; way\" ENABLE ALWAYS;",
        );
    }
    // Last, as making a slot waits until all transactions that run have ended.
    for dbname in ["shop", "closed", HOSTILE[0]] {
        let prepare = "BEGIN; LOCK TABLE item; INSERT INTO item VALUES (1000); PREPARE TRANSACTION";
        server.sql(&unimpeded(dbname), &format!("{prepare} 'of {}'", dbname.replace('\'', "''")));
    }
    server.sql("postgres", "ALTER DATABASE closed ALLOW_CONNECTIONS false");
    let verifiers = server.sql("postgres", "SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL");
    server.stop("fast");

    let at = |name: &str| server.pgdata.join(name);
    std::fs::create_dir(at("pg_log")).unwrap();
    for file in
        ["pg_log/today.log", "server.key", "server.crt", "root.p12", "recovery.done", "standby.signal", "my-notes"]
    {
        std::fs::write(at(file), SECRET).unwrap();
    }
    let hba = std::fs::read_to_string(at("pg_hba.conf")).unwrap();
    std::fs::write(at("pg_hba.conf"), format!("{hba}\nhost all all 0.0.0.0/0 trust # {SECRET}\n")).unwrap();
    std::fs::write(at("pg_ident.conf"), format!("# {SECRET}\n")).unwrap();
    std::fs::write(at("postgresql.conf"), format!("cluster_name = '{SECRET}'\nwal_level = logical\n")).unwrap();
    verifiers.lines().map(str::to_owned).collect()
}

/// Lists the files below `dir` that hold one of `texts`.
fn files_with(dir: &Path, texts: &[String]) -> Vec<String> {
    let mut grep = std::process::Command::new("grep");
    grep.args(["--recursive", "--text", "--fixed-strings", "--files-with-matches"]);
    for text in texts {
        grep.args(["-e", text]);
    }
    let output = grep.arg(dir).output().unwrap();
    // One: nothing was found. Two: something went wrong.
    assert!(output.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_copy_of_production_forgets_it() {
    let setup = Setup::new().await;
    let dir = setup.postgres_dir("source");
    let publisher = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut server = TestServer::create(&dir);
    let mut secrets = production(&mut server, publisher.local_addr().unwrap().port());
    assert_eq!(secrets.len(), HOSTILE.len() + 2);
    secrets.push(SECRET.into());

    let options = ImportOptions { dbname: Some("shop".into()), ..ImportOptions::default() };
    let snapshot = setup.import("production", Source::Path(server.pgdata.clone()), options).await.unwrap();
    setup.assert_clean().await;
    assert_eq!(snapshot.dbname, "shop");
    let found = setup.store.snapshots(&Selector::all()).await.unwrap().found;
    let path = &found[0].path;
    for gone in
        ["server.key", "standby.signal", "pg_log", "recovery.done", "my-notes", "postmaster.pid", "postmaster.opts"]
    {
        assert!(!path.join(gone).exists(), "{gone}");
    }
    assert_eq!(std::fs::read_dir(path.join("pg_replslot")).unwrap().count(), 0, "replication slots");
    // Passwords, their verifiers, connection strings: in no table, no log, no statistics, no leftover of a page.
    assert!(!files_with(&server.pgdata, &secrets).is_empty(), "the original has them");
    assert_eq!(files_with(path, &secrets), Vec::<String>::new());

    let contacted = tokio::time::timeout(std::time::Duration::ZERO, publisher.accept()).await;
    assert!(contacted.is_err(), "the publisher was contacted");

    let copy = setup.look(&snapshot).await;
    let none =
        |what: &str, sql: &str| assert_eq!(copy.sql("postgres", &format!("SELECT count(*) FROM {sql}")), "0", "{what}");
    none("passwords", "pg_authid WHERE rolpassword IS NOT NULL AND rolname <> 'postgres'");
    none("subscriptions", "pg_subscription");
    none("slots", "pg_replication_slots");
    none("prepared transactions", "pg_prepared_xacts");
    none("libraries", "pg_db_role_setting WHERE setconfig::text LIKE '%preload%'");
    none("settings", "pg_file_settings WHERE name NOT LIKE 'default_text%'");
    assert_eq!(
        copy.sql(
            "postgres",
            "SELECT rolsuper, rolcanlogin, rolconnlimit, rolvaliduntil FROM pg_authid WHERE rolname = 'postgres'"
        ),
        "t|t|-1|infinity"
    );
    for dbname in ["shop", HOSTILE[0]] {
        let connection = format!("dbname='{}'", dbname.replace('\'', "\\'"));
        assert_eq!(copy.sql(&connection, "SELECT count(*) FROM public.item"), "100", "{dbname}");
        assert_eq!(copy.sql(&connection, "SELECT umoptions FROM pg_user_mapping"), "{user=app}", "{dbname}");
        assert_eq!(copy.sql(&connection, "SELECT evtenabled FROM pg_event_trigger"), "A", "as it was in {dbname}");
    }
    let closed = copy.sql("postgres", "SELECT datallowconn FROM pg_database WHERE datname = 'closed'");
    assert_eq!(closed, "f", "as it was");
    let roles =
        copy.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY rolname COLLATE \"C\"");
    let mut expected: Vec<&str> = HOSTILE.into_iter().chain(["boss", "ondemand_admin", "postgres"]).collect();
    expected.sort_unstable();
    assert_eq!(roles.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_dump_cannot_bring_them_either() {
    let setup = Setup::new().await;
    let dump = format!(
        "CREATE ROLE app LOGIN PASSWORD '{SECRET}';
         ALTER SYSTEM SET archive_command = 'echo {SECRET}';
         CREATE TABLE t (i int);
         CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1 password={SECRET}' PUBLICATION p WITH (connect = false);
         ALTER DATABASE postgres SET session_preload_libraries = 'not_there';
         ALTER ROLE ALL SET session_preload_libraries = 'not_there';
        "
    );
    let snapshot = setup.import("dump", super::stream(dump), ImportOptions::default()).await.unwrap();
    let found = setup.store.snapshots(&Selector::all()).await.unwrap().found;
    assert_eq!(files_with(&found[0].path, &[SECRET.to_owned()]), Vec::<String>::new());
    let copy = setup.look(&snapshot).await;
    // The one verifier there is, is the place of the clones' own: nobody knows its password.
    assert_eq!(copy.sql("postgres", "SELECT rolname FROM pg_authid WHERE rolpassword IS NOT NULL"), "postgres");
    assert_eq!(copy.sql("postgres", "SELECT count(*) FROM pg_subscription"), "0");
    setup.assert_clean().await;
}

/// A dump can run programs as the server's user. What it plants in the data directory leads nowhere: root removes links, and does not follow them.
#[tokio::test]
async fn a_dump_that_plants_links_reaches_nothing_outside() {
    let setup = Setup::new().await;
    let outside = setup.dir.path().join("precious");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "kept").unwrap();
    for part in ["pg_stat_tmp", "pg_logical/snapshots", "pg_dynshmem"] {
        let dump = format!(
            "CREATE TABLE t (i int);
             -- The server's programs start in its data directory.
             COPY (SELECT 1) TO PROGRAM 'rm -rf {part} && ln -s {} {part}';
            ",
            outside.display()
        );
        // It may be refused or repaired; what counts is what is outside.
        let imported = setup.import("hostile", super::stream(dump), ImportOptions::default()).await;
        assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "kept", "{part}: {imported:?}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "{part}");
        assert!(imported.is_err(), "{part}: a data directory with a link in it is not published");
    }
    setup.assert_clean().await;
}
