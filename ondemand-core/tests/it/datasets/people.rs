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
        BEGIN;\nDROP TABLE public.t;\nCOMMIT;\nDROP TABLE public.t;\nDROP SCHEMA s;\nDROP TYPE public.e;\nDROP EXTENSION hstore;\nDROP ROLE nobody_here;
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
        // Not what one statement of a line may do, nor what only looks like it.
        (
            "DROP VIEW IF EXISTS v; CREATE VIEW v AS SELECT * FROM missing;\n",
            "relation \"missing\" does not exist (line 1)",
        ),
        ("CREATE TABLE w AS SELECT * FROM missing; DROP VIEW x;\n", "relation \"missing\" does not exist (line 1)"),
        ("CREATE TABLE t (a int);\nALTER TABLE t DROP COLUMN b, ALTER COLUMN a TYPE numeric;\n", "column \"b\""),
        (
            "CREATE TABLE language (i int);\nCREATE TABLE public.language (i text);\n",
            "relation \"language\" already exists",
        ),
        (
            "CREATE FUNCTION uuid_nil() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid';\nCREATE EXTENSION \"uuid-ossp\";\n",
            "function \"uuid_nil\" already exists",
        ),
        ("CREATE SCHEMA public CREATE TABLE t (i int);\n", "schema \"public\" already exists"),
        ("\\set AUTOCOMMIT off\nCREATE TABLE t (i int);\n", "transaction open that begins in line 2"),
        ("\\connect nowhere\nCREATE TABLE t (i int);\n", "database \"nowhere\" does not exist"),
    ] {
        let error = refused(&setup, sql, ImportOptions::default()).await;
        assert_eq!(error.code(), Code::InvalidDump, "{sql}: {error:?}");
        assert!(error.to_string().contains(words), "{sql}: {error}");
    }
    // Nor does it end a transaction, where one begins by itself.
    let late = "\\set AUTOCOMMIT off\nCREATE TABLE t (i int);\nDROP -- if it is there\nTABLE /* ; */ old;\nINSERT INTO t VALUES (1);\nCOMMIT;\n";
    let (_, found) = find(&setup, "late", late, ImportOptions::default(), "SELECT count(*) FROM t").await;
    assert_eq!(found, "1");
    // The rows of psql's own copy are none of the dump's statements, and a statement may be cut anywhere.
    let rows = format!(
        "CREATE TABLE t (i int, name text);\nBEGIN;\n\\copy t from stdin\n1\tO'Brien\n\\.\nCOMMIT;\n{}",
        "DROP TABLE absent; DROP TABLE gone; INSERT INTO t VALUES (2, ';'';');\n".repeat(5000)
    );
    let (_, found) = find(&setup, "rows", &rows, ImportOptions::default(), "SELECT count(*) FROM t").await;
    assert_eq!(found, "5001");
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

    // One that a transaction of the dump is just making keeps nobody waiting.
    let sql = format!(
        "BEGIN;\nDO $$BEGIN CREATE ROLE late; END$$;\nCREATE TABLE t (i int);\n{}GRANT SELECT ON t TO late;\nCOMMIT;\n",
        "INSERT INTO t VALUES (1);\n".repeat(12_000)
    );
    let (_, found) = find(&setup, "late", &sql, create.clone(), "SELECT count(*) FROM t").await;
    assert_eq!(found, "12000");

    // An archive says it before anything is restored.
    let dir = setup.postgres_dir("source");
    let server = TestServer::create(&dir);
    server.sql("postgres", "CREATE ROLE a; CREATE ROLE \"b c\"; CREATE DATABASE shop OWNER a");
    server.sql("postgres", "ALTER DATABASE shop SET timezone = 'Asia/Tokyo'; ALTER DATABASE shop SET role = a");
    server.sql("postgres", "CREATE ROLE monitor; GRANT CONNECT ON DATABASE shop TO monitor");
    server.sql("postgres", "ALTER ROLE monitor IN DATABASE shop SET work_mem = '5MB'");
    server.sql("postgres", "COMMENT ON DATABASE shop IS 'of shoes'");
    server.sql("shop", "CREATE SCHEMA more; CREATE TABLE more.item (id int); GRANT SELECT ON more.item TO \"b c\"");
    for format in ["-Fc", "-Ft"] {
        let archive = server.dump("pg_dump", &[format, "shop"]);
        let error = setup.import("bad", stream(archive.clone()), ImportOptions::default()).await.unwrap_err();
        assert!(error.to_string().contains("the roles \"a\", \"b c\", \"monitor\""), "{error}");
        let name = format!("shop{}", format.to_lowercase());
        let snapshot = setup.import(&name, stream(archive.clone()), create.clone()).await.unwrap();
        assert_eq!(snapshot.dbname, "shop", "an archive's own name");
        let query = "SHOW timezone; SELECT count(*) FROM more.item; SELECT shobj_description(oid, 'pg_database') FROM pg_database \
             WHERE datname = 'shop'; SELECT count(*) FROM pg_db_role_setting WHERE setrole <> 0";
        assert_eq!(setup.look(&snapshot).await.sql("shop", query), "Asia/Tokyo\n0\nof shoes\n1");
        let named = ImportOptions { dbname: Some("copy".into()), ..create.clone() };
        let snapshot = setup.import(&format!("{name}-copy"), stream(archive), named).await.unwrap();
        assert_eq!(snapshot.dbname, "copy");
        assert_eq!(setup.look(&snapshot).await.sql("copy", "SHOW timezone"), "Asia/Tokyo");
    }
    // Without owners, nobody is needed; and for another database, nobody of its own.
    let archive = server.dump("pg_dump", &["-Fc", "shop"]);
    let nobody = ImportOptions { no_owner: true, ..ImportOptions::default() };
    let snapshot = setup.import("nobody", stream(archive.clone()), nobody).await.unwrap();
    assert_eq!(setup.look(&snapshot).await.sql("shop", "SHOW timezone"), "Asia/Tokyo");
    let named = ImportOptions {
        dbname: Some("copy".into()),
        roles: vec!["a".into(), "b c".into()],
        ..ImportOptions::default()
    };
    setup.import("named", stream(archive), named).await.unwrap();
    // The schema `public` is there, and its comment is the archive's.
    server.sql("shop", "COMMENT ON SCHEMA public IS 'mine'");
    let archive = server.dump("pg_dump", &["-Fc", "-n", "public", "shop"]);
    let snapshot = setup.import("public", stream(archive), create).await.unwrap();
    let comment = "SELECT obj_description('public'::regnamespace)";
    assert_eq!(setup.look(&snapshot).await.sql("shop", comment), "mine");
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
    let snapshot = setup.import("archive", Source::Path(archive), go_on.clone()).await.unwrap();
    assert!(
        snapshot.failures > 0 && snapshot.failed.iter().any(|failed| failed == "role \"a\" does not exist"),
        "{:?}",
        snapshot.failed
    );
    assert_eq!(setup.look(&snapshot).await.sql("postgres", "SELECT count(*) FROM t, u"), "0");
    // Also after rows that a constraint refuses.
    server.sql(
        "postgres",
        "CREATE SCHEMA x; CREATE FUNCTION public.low(int) RETURNS bool LANGUAGE sql AS 'SELECT $1 < 9'",
    );
    server
        .sql("postgres", "CREATE FUNCTION public.ok(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN low($1); END'");
    server.sql("postgres", "CREATE TABLE v (i int CHECK (public.ok(i))); INSERT INTO v VALUES (1)");
    let options = ImportOptions { roles: vec!["a".into(), "boss".into()], ..go_on.clone() };
    let dump = server.dump("pg_dump", &["-Fc", "postgres"]);
    let snapshot = setup.import("rows", stream(dump), options).await.unwrap();
    assert!(snapshot.failed.iter().any(|failed| failed.contains("low(integer)")), "{:?}", snapshot.failed);
    // Rows that the server refuses would be run as statements.
    let rows = "CREATE TABLE t (g no_such_type);\nCOPY t FROM stdin;\n1; CREATE TABLE evil ();\n\\.\n";
    let error = refused(&setup, rows, go_on.clone()).await;
    assert!(error.to_string().contains("relation \"t\" does not exist (line 2)"), "{error}");
    assert!(error.hint().unwrap().contains("pg_dump -Fc"), "{error:?}");
    // What is not about a statement still fails.
    let go_on = ImportOptions { on_error: OnError::Continue, ..ImportOptions::default() };
    assert_eq!(
        refused(&setup, "SELECT 1;\n-- PostgreSQL database dump\n", go_on.clone()).await.code(),
        Code::InvalidDump
    );
    assert_eq!(refused(&setup, "PGDMP", go_on).await.code(), Code::InvalidDump);
    setup.assert_clean().await;
}
