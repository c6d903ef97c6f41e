//! Everything that can be imported.

use std::sync::{Arc, Mutex};

use ondemand_core::progress::{Event, Phase};
use ondemand_core::{ImportOptions, Source};

use super::server::{TestServer, must};
use super::{Setup, dataset, stream};

/// What `pg_dump` would write of a small shop.
pub(crate) const SHOP: &str = "--
-- PostgreSQL database dump
--

SET client_encoding = 'UTF8';
CREATE TABLE public.item (id bigint PRIMARY KEY, name text NOT NULL);
ALTER TABLE public.item OWNER TO postgres;
COPY public.item (id, name) FROM stdin;
1\tcoffee
2\tthé
\\.
CREATE INDEX ON public.item (name);

--
-- PostgreSQL database dump complete
--
";

/// Puts the same shop into a server's database.
fn fill(server: &TestServer, dbname: &str) {
    server.sql(dbname, "CREATE TABLE item (id bigint PRIMARY KEY, name text NOT NULL); INSERT INTO item VALUES (1, 'coffee'), (2, 'thé')");
}

const ITEMS: &str = "SELECT name FROM item ORDER BY id";

#[tokio::test]
async fn plain_sql() {
    let setup = Setup::new().await;
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let reporter = Arc::new(move |event: Event| seen.lock().unwrap().push(event));
    let name = dataset("shop");
    let snapshot = setup.datasets.import(&name, stream(SHOP), ImportOptions::default(), reporter).await.unwrap();
    setup.assert_clean().await;
    assert_eq!((snapshot.dataset.as_str(), snapshot.dbname.as_str(), snapshot.postgres), ("shop", "postgres", 15));
    assert_eq!(snapshot.dump_bytes, SHOP.len() as u64);
    // One segment of the log, and no more.
    assert!(snapshot.data_bytes > 16 << 20 && snapshot.data_bytes < 48 << 20, "{}", snapshot.data_bytes);
    assert_eq!(setup.datasets.resolve(None).await.unwrap(), snapshot);

    let events = events.lock().unwrap().clone();
    let phases: Vec<Phase> = events.iter().map(|event| event.phase).collect();
    assert!(phases.is_sorted(), "{phases:?}");
    for phase in
        [Phase::Preparing, Phase::Restoring, Phase::Neutralising, Phase::Analysing, Phase::Publishing, Phase::Done]
    {
        assert!(phases.contains(&phase), "{phase} in {phases:?}");
    }
    let last = events.last().unwrap();
    assert_eq!((last.bytes, last.total), (SHOP.len() as u64, Some(SHOP.len() as u64)));

    let server = setup.look(&snapshot).await;
    assert_eq!(server.sql("postgres", ITEMS), "coffee\nthé");
    assert_eq!(server.sql("postgres", "SELECT reltuples FROM pg_class WHERE relname = 'item'"), "2", "it is analysed");
    let supers = server.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolsuper ORDER BY 1");
    assert_eq!(supers, "ondemand_admin\npostgres");
}

#[tokio::test]
async fn compressed_and_piped() {
    let setup = Setup::new().await;
    let path = setup.dir.path().join("shop.sql");
    std::fs::write(&path, SHOP).unwrap();
    for (name, program, arguments) in
        [("gzip", "/usr/bin/gzip", &["-c"][..]), ("zstd", "/usr/bin/zstd", &["-q", "-c", "-T1"][..])]
    {
        let mut arguments = arguments.to_vec();
        arguments.push(path.to_str().unwrap());
        let output = std::process::Command::new(program).args(arguments).output().unwrap();
        let compressed = setup.dir.path().join(name);
        std::fs::write(&compressed, &output.stdout).unwrap();
        let snapshot = setup.import(name, Source::Path(compressed), ImportOptions::default()).await.unwrap();
        assert_eq!(snapshot.dump_bytes, output.stdout.len() as u64, "what was read counts");
        assert_eq!(setup.look(&snapshot).await.sql("postgres", ITEMS), "coffee\nthé");
    }
    setup.assert_clean().await;
}

#[tokio::test]
async fn archives_of_pg_dump() {
    let setup = Setup::new().await;
    let dir = setup.postgres_dir("source");
    let server = TestServer::create(&dir);
    server.sql("postgres", "CREATE ROLE app; CREATE DATABASE shop OWNER app");
    fill(&server, "shop");
    server.sql("shop", "ALTER TABLE item OWNER TO app; CREATE EXTENSION hstore");
    let custom = server.dump("pg_dump", &["-Fc", "shop"]);
    let directory = dir.join("dump");
    server.dump("pg_dump", &["-Fd", "-j", "2", "-f", directory.to_str().unwrap(), "shop"]);
    let unreadable = setup.dir.path().join("unreadable");
    std::fs::create_dir(&unreadable).unwrap();
    std::fs::set_permissions(&unreadable, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(unreadable.join("shop.dump"), &custom).unwrap();
    std::fs::write(dir.join("shop.dump"), &custom).unwrap();
    let copied = std::process::Command::new("cp").arg("-r").arg(&directory).arg(&unreadable).status().unwrap();
    assert!(copied.success());
    // Read where they are: everybody may read them, and only root can put others in their place.
    let public = setup.dir.path().join("public");
    let published = std::process::Command::new("cp").arg("-r").arg(&unreadable).arg(&public).status().unwrap();
    assert!(published.success());
    let opened = std::process::Command::new("chmod").args(["-R", "go+rX"]).arg(&public).status().unwrap();
    assert!(opened.success());
    let tar = must(
        "/usr/bin/tar",
        &["-C", dir.to_str().unwrap(), "-czf", dir.join("dump.tar.gz").to_str().unwrap(), "dump"],
        "",
    );
    assert!(tar.is_empty());

    let roles = ImportOptions { roles: vec!["app".into()], ..ImportOptions::default() };
    let nobody = ImportOptions { no_owner: true, ..ImportOptions::default() };
    let named = ImportOptions { dbname: Some("copy of \"shop\"".into()), ..roles.clone() };
    for (name, source, options, dbname, owner) in [
        ("stream", stream(custom.clone()), &roles, "shop", "app"),
        ("file", Source::Path(public.join("shop.dump")), &nobody, "shop", "ondemand_admin"),
        ("file-of-another", Source::Path(dir.join("shop.dump")), &nobody, "shop", "ondemand_admin"),
        ("spooled-file", Source::Path(unreadable.join("shop.dump")), &named, "copy of \"shop\"", "app"),
        ("directory", Source::Path(public.join("dump")), &roles, "shop", "app"),
        ("directory-of-another", Source::Path(directory), &roles, "shop", "app"),
        ("spooled-directory", Source::Path(unreadable.join("dump")), &roles, "shop", "app"),
        ("tar", Source::Path(dir.join("dump.tar.gz")), &nobody, "shop", "ondemand_admin"),
    ] {
        let snapshot = setup.import(name, source, options.clone()).await.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(snapshot.dbname, dbname, "{name}");
        assert!(snapshot.dump_bytes > 500, "{name}: {}", snapshot.dump_bytes);
        let server = setup.look(&snapshot).await;
        assert_eq!(server.sql(dbname, ITEMS), "coffee\nthé", "{name}");
        let found = server.sql(dbname, "SELECT tableowner FROM pg_tables WHERE tablename = 'item'");
        assert_eq!(found, owner, "{name}");
    }
    setup.assert_clean().await;
}

#[tokio::test]
async fn a_whole_cluster() {
    let setup = Setup::new().await;
    let dir = setup.postgres_dir("source");
    let server = TestServer::create(&dir);
    // A clone of ours has this role, and its dump makes it.
    server.sql(
        "postgres",
        "CREATE ROLE postgres SUPERUSER LOGIN PASSWORD 'hunter2'; CREATE ROLE ondemand_admin SUPERUSER LOGIN",
    );
    server.sql("postgres", "CREATE ROLE \"it's \"\"odd\"\" ü\" LOGIN PASSWORD 'hunter2'; CREATE DATABASE \"a'b\"\"c d ü\" OWNER \"it's \"\"odd\"\" ü\"");
    fill(&server, "a'b\"c d ü");
    let dump = server.dump("pg_dumpall", &[]);
    let snapshot = setup.import("cluster", stream(dump.clone()), ImportOptions::default()).await.unwrap();
    assert_eq!(snapshot.dbname, "a'b\"c d ü", "the only database with something in it");
    let copy = setup.look(&snapshot).await;
    assert_eq!(copy.sql(&snapshot.dbname, ITEMS), "coffee\nthé");
    assert_eq!(
        copy.sql("postgres", "SELECT count(*) FROM pg_authid WHERE rolpassword IS NOT NULL AND rolname <> 'postgres'"),
        "0"
    );

    // The globals may come first, and one database after them.
    let mut both = server.dump("pg_dumpall", &["--globals-only"]);
    both.extend(server.dump("pg_dump", &["a'b\"c d ü"]));
    let snapshot = setup.import("cluster", stream(both), ImportOptions::default()).await.unwrap();
    assert_eq!(snapshot.dbname, "postgres");
    assert_eq!(setup.datasets.get(&dataset("cluster")).await.unwrap().versions.len(), 2);

    let error = setup.import("cluster", stream(&dump[..dump.len() - 50]), ImportOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
    assert_eq!(setup.datasets.get(&dataset("cluster")).await.unwrap().versions.len(), 2);
    setup.assert_clean().await;
}

#[tokio::test]
async fn data_directories() {
    let setup = Setup::new().await;
    let dir = setup.postgres_dir("source");
    let mut server = TestServer::create(&dir);
    server.sql("postgres", "CREATE DATABASE shop");
    fill(&server, "shop");
    server.stop("fast");
    let tar = |output: &str, arguments: &[&str]| {
        let path = dir.join(output);
        let mut all = vec!["-cf", path.to_str().unwrap()];
        all.extend_from_slice(arguments);
        must("/usr/bin/tar", &all, "");
        Source::Path(path)
    };
    let (data, parent) = (server.pgdata.to_str().unwrap(), dir.to_str().unwrap());
    for (name, source) in [
        ("path", Source::Path(server.pgdata.clone())),
        ("tar", tar("a.tar", &["-C", data, "."])),
        ("tar-below", tar("b.tar", &["-C", parent, "--transform=s,^,var/lib/,", "source"])),
    ] {
        let snapshot =
            setup.import(name, source, ImportOptions::default()).await.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(snapshot.dbname, "shop", "{name}");
        let copy = setup.look(&snapshot).await;
        assert_eq!(copy.sql("shop", ITEMS), "coffee\nthé", "{name}");
        let supers = copy.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolsuper ORDER BY 1");
        assert_eq!(supers, "boss\nondemand_admin\npostgres", "{name}");
    }
    setup.assert_clean().await;
    server.start("");
    assert_eq!(server.sql("shop", ITEMS), "coffee\nthé", "the original is as it was");
}
