//! What cannot be imported says why, and leaves nothing.

use ondemand_core::{Code, Error, ImportOptions, Source};

use super::formats::SHOP;
use super::server::{TestServer, must};
use super::{Setup, dataset, stream};

/// Imports what must fail, and checks that nothing is left.
async fn refused(setup: &Setup, source: Source, options: ImportOptions) -> Error {
    let error = setup.import("bad", source, options).await.unwrap_err();
    setup.assert_clean().await;
    setup.assert_nothing_published().await;
    error
}

fn hint(error: &Error) -> String {
    error.hint().unwrap_or_default()
}

#[tokio::test]
async fn broken_dumps() {
    let setup = Setup::new().await;
    let cut = SHOP.find("-- PostgreSQL database dump complete").unwrap();
    for (name, bytes, word) in [
        ("empty", Vec::new(), "empty"),
        ("garbage", (0..100_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect(), "neither"),
        ("prose", b"Dear database,\nplease be full.\n".to_vec(), "syntax error"),
        ("truncated", SHOP.as_bytes()[..cut].to_vec(), "truncated"),
        ("in a table", SHOP.as_bytes()[..SHOP.find("thé").unwrap()].to_vec(), ""),
        ("truncated archive", b"PGDMP\x01\x0e\x00\x04\x08\x01\x01\x01".to_vec(), ""),
        ("nul later", [SHOP.as_bytes(), &vec![b'\n'; 70_000], b"SELECT '\0';\n"].concat(), "not text"),
    ] {
        let error = refused(&setup, stream(bytes), ImportOptions::default()).await;
        assert_eq!(error.code(), Code::InvalidDump, "{name}: {error:?}");
        assert!(error.to_string().contains(word), "{name}: {error}");
        assert!(!hint(&error).is_empty(), "{name}");
    }
    let short = Source::Stream { reader: Box::pin(SHOP.as_bytes()), total: Some(1 << 30) };
    let error = refused(&setup, short, ImportOptions::default()).await;
    assert!(error.to_string().contains("truncated"), "{error}");
}

#[tokio::test]
async fn the_first_error_is_told() {
    let setup = Setup::new().await;
    let dump = "CREATE TABLE a (i int);\nINSERT INTO b VALUES (1);\nINSERT INTO c VALUES (1);\nALTER ROLE x PASSWORD 'hunter2';\n";
    let error = refused(&setup, stream(dump), ImportOptions::default()).await;
    assert_eq!(error.to_string(), "the dump could not be restored: relation \"b\" does not exist (line 2)");
    assert!(error.log().iter().any(|line| line.contains("relation \"b\"")), "{:?}", error.log());

    let error = refused(&setup, stream("ALTER ROLE x PASSWORD 'hunter2' OOPS;\n"), ImportOptions::default()).await;
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let setup = Setup::new().await;
    let role = SHOP.replace("OWNER TO postgres", "OWNER TO app");
    let error = refused(&setup, stream(role.clone()), ImportOptions::default()).await;
    assert_eq!(error.code(), Code::InvalidDump);
    assert!(hint(&error).contains("--role app"), "{error:?}");
    let error = refused(&setup, stream("CREATE EXTENSION no_such_thing;\n"), ImportOptions::default()).await;
    assert!(hint(&error).contains("postgresql-15-no-such-thing"), "{error:?}");
    let error = refused(
        &setup,
        stream("CREATE DATABASE x TEMPLATE template0 LOCALE 'xx_XX.UTF-8';\n"),
        ImportOptions::default(),
    )
    .await;
    assert!(hint(&error).contains("locale"), "{error:?}");

    let roles = ImportOptions { roles: vec!["app".into(), "postgres".into()], ..ImportOptions::default() };
    setup.import("good", stream(role), roles).await.unwrap();
    setup.assert_clean().await;
}

#[tokio::test]
async fn a_dump_that_makes_a_tablespace() {
    let setup = Setup::new().await;
    let (own, of_root) = (setup.postgres_dir("tablespace"), setup.dir.path().join("of-root"));
    std::fs::create_dir(&of_root).unwrap();
    for location in [&*own, &*of_root, std::path::Path::new("/no/such/directory")] {
        let dump = format!(
            "CREATE TABLESPACE big LOCATION '{}';\nCREATE TABLE tt (x int) TABLESPACE big;\n",
            location.display()
        );
        let error = refused(&setup, stream(dump), ImportOptions::default()).await;
        assert_eq!(error.code(), Code::InvalidDump, "{error:?}");
        assert!(error.to_string().contains("it makes a tablespace"), "{error:?}");
        assert!(hint(&error).contains("--no-tablespaces"), "{error:?}");
    }
}

#[tokio::test]
async fn bad_options() {
    let setup = Setup::new().await;
    for options in [
        ImportOptions { no_owner: true, ..ImportOptions::default() },
        ImportOptions { dbname: Some(String::new()), ..ImportOptions::default() },
        ImportOptions { dbname: Some("x".repeat(64)), ..ImportOptions::default() },
        ImportOptions { roles: vec!["nul\0".into()], ..ImportOptions::default() },
        ImportOptions { roles: vec!["pg_reserved".into()], ..ImportOptions::default() },
        ImportOptions { roles: vec!["none".into()], ..ImportOptions::default() },
    ] {
        let error = refused(&setup, stream(SHOP), options.clone()).await;
        assert_eq!(error.code(), Code::InvalidInput, "{options:?}: {error:?}");
    }
    let options = ImportOptions { postgres: Some(99), ..ImportOptions::default() };
    let error = refused(&setup, stream(SHOP), options).await;
    assert_eq!(error.code(), Code::Unsupported);
    assert!(error.to_string().contains("PostgreSQL 99"), "{error}");
    let error = refused(&setup, Source::Path(setup.dir.path().join("missing")), ImportOptions::default()).await;
    assert_eq!(error.code(), Code::NotFound);
    let error = refused(&setup, Source::Path(setup.dir.path().to_owned()), ImportOptions::default()).await;
    assert_eq!(error.code(), Code::InvalidDump);
}

#[tokio::test]
async fn data_directories_that_cannot_be_used() {
    let setup = Setup::new().await;
    let dir = setup.postgres_dir("source");
    let mut server = TestServer::create(&dir);
    let data = || Source::Path(dir.join("source"));
    let error = refused(&setup, data(), ImportOptions::default()).await;
    assert!(error.to_string().contains("in production"), "a running one: {error}");
    server.stop("immediate");
    let error = refused(&setup, data(), ImportOptions::default()).await;
    assert_eq!(error.code(), Code::InvalidDump, "one that crashed");
    assert!(hint(&error).contains("pg_ctl stop -m fast"), "{error:?}");
    let tar = dir.join("unclean.tar");
    must("/usr/bin/tar", &["-C", dir.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "source"], "");
    let error = refused(&setup, Source::Path(tar), ImportOptions::default()).await;
    assert_eq!(error.code(), Code::InvalidDump, "in an archive");
    server.start("");
    server.stop("fast");

    std::fs::write(dir.join("source/PG_VERSION"), "14\n").unwrap();
    let error = refused(&setup, data(), ImportOptions::default()).await;
    assert_eq!(error.code(), Code::Unsupported);
    assert!(error.to_string().contains("PostgreSQL 14 is needed") && error.to_string().contains("15."), "{error}");
    std::fs::write(dir.join("source/PG_VERSION"), "15\n").unwrap();

    std::os::unix::fs::symlink("/tmp", dir.join("source/pg_tblspc/16400")).unwrap();
    let error = refused(&setup, data(), ImportOptions::default()).await;
    assert_eq!(error.code(), Code::Unsupported, "tablespaces");
    std::fs::remove_file(dir.join("source/pg_tblspc/16400")).unwrap();

    std::fs::remove_file(dir.join("source/global/pg_control")).unwrap();
    let error = refused(&setup, data(), ImportOptions::default()).await;
    assert_eq!(error.code(), Code::InvalidDump, "without a control file");
}

#[tokio::test]
async fn archives_that_cannot_be_used() {
    let setup = Setup::new().await;
    let dir = setup.postgres_dir("source");
    let server = TestServer::create(&dir);
    server.sql("postgres", "CREATE ROLE app; CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i; ALTER TABLE t OWNER TO app");
    let custom = server.dump("pg_dump", &["-Fc", "postgres"]);
    let error = refused(&setup, stream(custom.clone()), ImportOptions::default()).await;
    assert_eq!(error.code(), Code::InvalidDump);
    assert!(
        error.to_string().contains("the roles \"app\", \"boss\"") && hint(&error).contains("--role app"),
        "{error:?}"
    );
    let nobody = ImportOptions { no_owner: true, ..ImportOptions::default() };
    let error = refused(&setup, stream(&custom[..custom.len() / 2]), nobody.clone()).await;
    assert_eq!(error.code(), Code::InvalidDump, "half an archive: {error:?}");
    let mut newer = custom;
    newer[6] = 99;
    let error = refused(&setup, stream(newer), nobody).await;
    assert!(error.to_string().contains("unsupported version") && hint(&error).contains("newer"), "{error:?}");
}

#[tokio::test]
async fn datasets_that_are_not_there() {
    let setup = Setup::new().await;
    let code = |result: Result<(), Error>| result.unwrap_err().code();
    assert_eq!(code(setup.datasets.resolve(None).await.map(drop)), Code::NotFound);
    assert_eq!(code(setup.datasets.get(&dataset("x")).await.map(drop)), Code::NotFound);
    assert_eq!(code(setup.datasets.resolve(Some(&"x@1".parse().unwrap())).await.map(drop)), Code::NotFound);
    assert_eq!(code(setup.datasets.delete(&"x".parse().unwrap()).await), Code::NotFound);
}
