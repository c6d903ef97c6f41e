//! Dumps as people have them: what is there already, what is absent, roles that are missing, and several databases.

use ondemand_core::{Code, Error, ImportOptions, MissingRoles, OnError, Source};

use super::server::{TestServer, must};
use super::{Setup, stream};

/// Imports SQL text, and returns what a query of the database that its URLs lead to finds, with the name of the database.
async fn find(setup: &Setup, name: &str, sql: &str, options: ImportOptions, query: &str) -> (String, String) {
    let snapshot = setup.import(name, stream(sql), options).await.unwrap_or_else(|e| panic!("{name}: {e:?}"));
    assert_eq!((snapshot.failures, snapshot.failed.len()), (0, 0), "{name}");
    let found = setup.look(&snapshot).await.sql(&snapshot.dbname, query);
    (snapshot.dbname, found)
}

async fn refused(setup: &Setup, sql: &str, options: ImportOptions) -> Error {
    setup.import("bad", stream(sql), options).await.map_or_else(|error| error, |_| panic!("imported: {sql}"))
}

#[tokio::test]
async fn what_is_there_already_and_what_is_absent_is_no_fault() {
    let setup = Setup::new().await;
    let public = "CREATE SCHEMA public;\nALTER SCHEMA public OWNER TO postgres;\nCOMMENT ON SCHEMA public IS 'mine';
        CREATE EXTENSION plpgsql;\nCREATE ROLE postgres;\nCREATE ROLE app;\nCREATE USER app;\n
        ALTER TABLE ONLY public.t DROP CONSTRAINT t_pkey;\nDROP INDEX public.i;\nDROP FUNCTION public.f(integer);
        DROP TABLE public.t;\nDROP SCHEMA s;\nDROP TYPE public.e;\nDROP EXTENSION hstore;\nDROP ROLE nobody_here;
        CREATE TABLE public.t (i int NOT NULL);\nALTER TABLE ONLY public.t ADD CONSTRAINT t_pkey PRIMARY KEY (i);\n";
    let (dbname, found) = find(&setup, "public", public, ImportOptions::default(), "SELECT count(*) FROM t").await;
    assert_eq!((dbname.as_str(), found.as_str()), ("postgres", "0"));

    // As pg_dump -C writes it of a database called postgres: with an encoding and a locale of its own.
    let own = "DROP DATABASE postgres;\nCREATE DATABASE postgres WITH TEMPLATE = template0 ENCODING = 'SQL_ASCII' LOCALE = 'C';
        \\connect postgres\nCREATE TABLE t (i int);\n";
    let query = "SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database WHERE datname = current_database()";
    assert_eq!(
        find(&setup, "own", own, ImportOptions::default(), query).await,
        ("postgres".into(), "SQL_ASCII|C".into())
    );

    // Nothing else is ignored.
    for (sql, words) in [
        ("CREATE TABLE t (i int);\nCREATE TABLE t (i int);\n", "relation \"t\" already exists (line 2)"),
        ("CREATE SCHEMA s;\nCREATE SCHEMA s;\n", "schema \"s\" already exists (line 2)"),
        ("DROP ROLE ondemand_admin;\n", "cannot be dropped"),
        ("SELECT 1; SELECT * FROM t;\nDROP TABLE u;\n", "relation \"t\" does not exist (line 1)"),
        // It ends the transaction, and the rest would be lost with it.
        ("BEGIN;\nDROP TABLE t;\nCREATE TABLE u (i int);\nCOMMIT;\n", "table \"t\" does not exist (line 2)"),
        ("\\connect nowhere\nCREATE TABLE t (i int);\n", "database \"nowhere\" does not exist"),
    ] {
        let error = refused(&setup, sql, ImportOptions::default()).await;
        assert_eq!(error.code(), Code::InvalidDump, "{sql}: {error:?}");
        assert!(error.to_string().contains(words), "{sql}: {error}");
    }
    setup.assert_clean().await;
}

#[tokio::test]
async fn settings_that_belong_to_the_data_stay() {
    let setup = Setup::new().await;
    let sql = "CREATE ROLE o;\nCREATE DATABASE app;\n\\c app\nCREATE TABLE t (i int);\nALTER DATABASE app SET role = o;
        ALTER DATABASE app SET timezone = 'Europe/Paris';\nALTER DATABASE app SET search_path = t, public;
        ALTER DATABASE app SET default_transaction_read_only = on;\nALTER ROLE o SET role = 'pg_monitor';
        ALTER ROLE o SET work_mem = '5MB';\n\\c app\nINSERT INTO t VALUES (1);\n";
    let query = "SELECT string_agg(c, ' ' ORDER BY c) FROM pg_db_role_setting, unnest(setconfig) c";
    let (dbname, found) = find(&setup, "settings", sql, ImportOptions::default(), query).await;
    assert_eq!((dbname.as_str(), found.as_str()), ("app", "TimeZone=Europe/Paris search_path=t, public work_mem=5MB"));
    setup.assert_clean().await;
}

#[tokio::test]
async fn all_that_is_missing_is_named_at_once() {
    let setup = Setup::new().await;
    let sql = format!(
        "CREATE TABLE t (i int);\nALTER TABLE t OWNER TO app_owner;\n{}CREATE EXTENSION no_such_thing;
        GRANT SELECT ON t TO \"Weird Role\";\nGRANT SELECT ON t TO reporting;\nCREATE ROLE made;\nGRANT SELECT ON t TO made;\n",
        "INSERT INTO t VALUES (1);\n".repeat(12_000)
    );
    let error = refused(&setup, &sql, ImportOptions::default()).await;
    assert_eq!(error.code(), Code::InvalidDump, "{error:?}");
    let said = error.to_string();
    assert!(
        said.contains("the roles \"Weird Role\", \"app_owner\", \"reporting\"; the extension \"no_such_thing\""),
        "{said}"
    );
    let hint = error.hint().unwrap();
    for words in
        ["--role 'Weird Role' --role app_owner --role reporting", "--create-roles", "postgresql-15-no-such-thing"]
    {
        assert!(hint.contains(words), "{words}: {hint}");
    }

    let create = ImportOptions { missing_roles: MissingRoles::Create, ..ImportOptions::default() };
    let sql = sql.replace("CREATE EXTENSION no_such_thing;", "");
    let query =
        "SELECT string_agg(rolname, ', ' ORDER BY rolname) FROM pg_roles WHERE rolname !~ '^pg_' AND NOT rolsuper";
    // A database that is made is a copy of one that nobody may be connected to.
    let sql = format!("{sql}CREATE DATABASE more;\n");
    let (_, found) = find(&setup, "created", &sql, create.clone(), query).await;
    assert_eq!(found, "Weird Role, app_owner, made, reporting");

    // An archive says it before anything is restored.
    let dir = setup.postgres_dir("source");
    let server = TestServer::create(&dir);
    server.sql("postgres", "CREATE ROLE a; CREATE ROLE \"b c\"; CREATE DATABASE shop OWNER a");
    server.sql("postgres", "ALTER DATABASE shop SET timezone = 'Asia/Tokyo'; ALTER DATABASE shop SET role = a");
    server.sql("shop", "CREATE SCHEMA more; CREATE TABLE more.item (id int); GRANT SELECT ON more.item TO \"b c\"");
    for format in ["-Fc", "-Ft"] {
        let archive = server.dump("pg_dump", &[format, "shop"]);
        let error = setup.import("bad", stream(archive.clone()), ImportOptions::default()).await.unwrap_err();
        assert!(error.to_string().contains("the roles \"a\", \"b c\""), "{error}");
        let name = format!("shop{}", format.to_lowercase());
        let snapshot = setup.import(&name, stream(archive.clone()), create.clone()).await.unwrap();
        assert_eq!(snapshot.dbname, "shop", "an archive's own name");
        let found = setup.look(&snapshot).await.sql("shop", "SHOW timezone; SELECT count(*) FROM more.item");
        assert_eq!(found, "Asia/Tokyo\n0");
        let named = ImportOptions { dbname: Some("copy".into()), ..create.clone() };
        let snapshot = setup.import(&format!("{name}-copy"), stream(archive), named).await.unwrap();
        assert_eq!(snapshot.dbname, "copy");
        assert_eq!(setup.look(&snapshot).await.sql("copy", "SHOW timezone"), "Asia/Tokyo");
    }
    setup.assert_clean().await;
}

#[tokio::test]
async fn of_several_databases_one_is_chosen() {
    let setup = Setup::new().await;
    let sql = "CREATE DATABASE first;\nCREATE DATABASE appdb;\n\\connect first\nCREATE TABLE a (i int);\n\\connect appdb\nCREATE TABLE b (i int);\n";
    let snapshot = setup.import("several", stream(sql), ImportOptions::default()).await.unwrap();
    assert_eq!(snapshot.dbname, "postgres");
    let warning = snapshot.warning.unwrap();
    for words in ["postgres, which has no tables", "appdb, first", "--dbname"] {
        assert!(warning.contains(words), "{warning}");
    }
    let appdb = ImportOptions { dbname: Some("appdb".into()), ..ImportOptions::default() };
    let (dbname, found) = find(&setup, "chosen", sql, appdb, "SELECT count(*) FROM b").await;
    assert_eq!((dbname.as_str(), found.as_str()), ("appdb", "0"));
    let none = ImportOptions { dbname: Some("third".into()), ..ImportOptions::default() };
    let (dbname, _) = find(&setup, "made", "CREATE TABLE c (i int);\n", none, "SELECT count(*) FROM c").await;
    assert_eq!(dbname, "third");
    setup.assert_clean().await;
}

#[tokio::test]
async fn an_open_transaction_is_an_error() {
    let setup = Setup::new().await;
    for (sql, line) in [
        ("BEGIN;\nCREATE TABLE one (i int);\n", 1),
        ("SELECT 1;\nSTART TRANSACTION;\nCREATE TABLE one (i int)", 2),
        ("CREATE DATABASE d;\nBEGIN;\nCREATE TABLE one (i int);\n\\connect d\nSELECT 1;\n", 2),
    ] {
        let error = refused(&setup, sql, ImportOptions::default()).await;
        assert_eq!(error.code(), Code::InvalidDump, "{sql}: {error:?}");
        assert!(error.to_string().contains(&format!("transaction open that begins in line {line}")), "{sql}: {error}");
    }
    let bom = "\u{feff}BEGIN;\nCREATE TABLE three (i int);\nCOMMIT";
    let (_, found) = find(&setup, "bom", bom, ImportOptions::default(), "SELECT count(*) FROM three").await;
    assert_eq!(found, "0");
    setup.assert_clean().await;
}

#[tokio::test]
async fn an_import_can_go_on_after_what_fails() {
    let setup = Setup::new().await;
    // An index on a function that relies on search_path, which pg_dump empties.
    let sql = "SELECT pg_catalog.set_config('search_path', '', false);\nCREATE TABLE public.words (w text);
        INSERT INTO public.words VALUES ('a');
        CREATE FUNCTION public.inner_f(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)';
        CREATE FUNCTION public.outer_f(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN inner_f($1); END';
        CREATE INDEX ON public.words (public.outer_f(w));\nCREATE TABLE public.last (i int);\n";
    let error = refused(&setup, sql, ImportOptions::default()).await;
    let hint = error.hint().unwrap();
    assert!(hint.contains("search_path") && hint.contains("--on-error=continue"), "{hint}");

    let go_on = ImportOptions { on_error: OnError::Continue, ..ImportOptions::default() };
    let snapshot = setup.import("incomplete", stream(sql), go_on.clone()).await.unwrap();
    assert_eq!(snapshot.failures, 1);
    assert!(snapshot.failed[0].contains("function inner_f(text) does not exist (line 6)"), "{:?}", snapshot.failed);
    assert_eq!(setup.look(&snapshot).await.sql("postgres", "SELECT count(*) FROM words, last"), "0");
    assert_eq!(setup.datasets.get(&super::dataset("incomplete")).await.unwrap().versions, [snapshot]);

    let dir = setup.postgres_dir("source");
    let server = TestServer::create(&dir);
    server.sql("postgres", "CREATE ROLE a; CREATE TABLE t (i int); ALTER TABLE t OWNER TO a; CREATE TABLE u (i int)");
    let archive = dir.join("dump");
    must(
        "pg_dump",
        &["-h", dir.to_str().unwrap(), "-U", "boss", "-Fd", "-f", archive.to_str().unwrap(), "postgres"],
        "",
    );
    let snapshot = setup.import("archive", Source::Path(archive), go_on).await.unwrap();
    assert!(
        snapshot.failures > 0 && snapshot.failed.iter().any(|failed| failed == "role \"a\" does not exist"),
        "{:?}",
        snapshot.failed
    );
    assert_eq!(setup.look(&snapshot).await.sql("postgres", "SELECT count(*) FROM t, u"), "0");
    // What is not about a statement still fails.
    let go_on = ImportOptions { on_error: OnError::Continue, ..ImportOptions::default() };
    assert_eq!(
        refused(&setup, "SELECT 1;\n-- PostgreSQL database dump\n", go_on.clone()).await.code(),
        Code::InvalidDump
    );
    assert_eq!(refused(&setup, "PGDMP", go_on).await.code(), Code::InvalidDump);
    setup.assert_clean().await;
}
