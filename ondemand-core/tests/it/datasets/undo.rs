//! What stops in the middle leaves nothing, and what is in use stays.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ondemand_core::fakes::{Fault, FaultPlan, Faulty};
use ondemand_core::label::keys;
use ondemand_core::progress::{Event, Phase, silent};
use ondemand_core::{Code, DatasetName, Datasets, Error, ImportOptions, Labels, Selector, SnapshotStore, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::formats::SHOP;
use super::server::{BIN, TestServer};
use super::{Setup, dataset, stream};

/// A dump that never ends by itself, and the end where more of it can be written.
fn endless() -> (Source, tokio::io::DuplexStream) {
    let (reader, writer) = tokio::io::duplex(1 << 16);
    (Source::Stream { reader: Box::pin(reader), total: None }, writer)
}

/// Waits, with an end, until an import that nobody waits for any more has given its dataset back: that is the last it does, after all it
/// made is gone.
async fn until_clean(setup: &Setup, name: &DatasetName) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let error = setup.datasets.import(name, stream(""), ImportOptions::default(), silent()).await.unwrap_err();
        // BTRFS takes a while to free what was deleted.
        if ![Code::Conflict, Code::OutOfSpace].contains(&error.code()) {
            assert_eq!(error.code(), Code::InvalidDump, "{error:?}");
            break;
        }
        assert!(Instant::now() < deadline, "the dataset is still taken after a minute: {error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    setup.assert_clean().await;
}

#[tokio::test]
async fn a_dropped_import_leaves_nothing() {
    let setup = Setup::new().await;
    let dir = setup.postgres_dir("source");
    let mut server = TestServer::create(&dir);
    server.stop("fast");
    for phase in
        [Phase::Preparing, Phase::Receiving, Phase::Restoring, Phase::Neutralising, Phase::Analysing, Phase::Publishing]
    {
        let (seen, mut phases) = watch::channel(None);
        let reporter = Arc::new(move |event: Event| {
            seen.send_replace(Some(event.phase));
        });
        let source = if phase == Phase::Receiving { Source::Path(server.pgdata.clone()) } else { stream(SHOP) };
        let name = dataset(&format!("dropped-{phase}"));
        tokio::select! {
            result = setup.datasets.import(&name, source, ImportOptions::default(), reporter) => panic!("it ended: {result:?}"),
            _ = phases.wait_for(|now| *now >= Some(phase)) => {}
        }
        until_clean(&setup, &name).await;
        setup.assert_nothing_published().await;
    }
}

/// Returns the directory of an import in which something was received.
async fn received(setup: &Setup) -> std::path::PathBuf {
    let ours = Selector::all().with(keys::KIND, "import");
    let found = async {
        loop {
            let volumes = setup.store.volumes(&ours).await.unwrap().found;
            let mut paths = volumes.into_iter().map(|volume| volume.path);
            if let Some(path) = paths.find(|path| std::fs::read_dir(path).unwrap().next().is_some()) {
                return path;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.unwrap()
}

/// Fails if a program that runs as PostgreSQL's user could swap what root writes to.
fn assert_only_root_enters(path: &std::path::Path) {
    use std::os::unix::fs::MetadataExt;
    let metadata = path.symlink_metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (0, 0o700), "{}", path.display());
}

#[tokio::test]
async fn a_stalled_upload_can_be_dropped() {
    let setup = Setup::new().await;
    // SQL that has been begun, an archive that is being written to disk, a tar archive that is being unpacked.
    let mut header = tar::Header::new_ustar();
    header.set_path("base/1/2").unwrap();
    header.set_size(1 << 30);
    header.set_cksum();
    let filler = vec![b'\n'; 100_000];
    for (head, phase) in [
        (&b"CREATE TABLE t (i int);\nSELECT pg_sleep(1000);\n"[..], Phase::Restoring),
        (b"PGDMP\x01\x0e\x00\x04\x08\x01\x01\x01", Phase::Receiving),
        (header.as_bytes(), Phase::Receiving),
    ] {
        let (source, mut writer) = endless();
        let (seen, mut phases) = watch::channel(None);
        let reporter = Arc::new(move |event: Event| {
            seen.send_replace(Some(event.phase));
        });
        let name = dataset(&format!("stalled-{}", head.len()));
        let import = setup.datasets.import(&name, source, ImportOptions::default(), reporter);
        let feed = async {
            writer.write_all(head).await.unwrap();
            writer.write_all(&filler).await.unwrap();
            phases.wait_for(|now| *now >= Some(phase)).await.unwrap();
            if phase == Phase::Receiving {
                assert_only_root_enters(&received(&setup).await);
            }
        };
        tokio::select! {
            result = import => panic!("it ended: {result:?}"),
            () = feed => {}
        }
        until_clean(&setup, &name).await;
        setup.assert_nothing_published().await;
    }
}

#[tokio::test]
async fn two_imports_into_one_dataset() {
    let setup = Setup::new().await;
    let (source, writer) = endless();
    let (first, other) = (dataset("one"), dataset("other"));
    let running = setup.datasets.import(&first, source, ImportOptions::default(), silent());
    let meanwhile = async {
        let error = setup.import("one", stream(SHOP), ImportOptions::default()).await.unwrap_err();
        assert_eq!(error.code(), Code::Conflict, "{error:?}");
        assert!(error.hint().is_some());
        let snapshot = setup.datasets.import(&other, stream(SHOP), ImportOptions::default(), silent()).await.unwrap();
        assert_eq!(snapshot.dataset, other, "another dataset is not held up");
        assert!(setup.datasets.reconcile().await.unwrap().removed.is_empty(), "what runs here is not a dead attempt");
        let mut writer = writer;
        writer.write_all(SHOP.as_bytes()).await.unwrap();
    };
    let (snapshot, ()) = tokio::join!(running, meanwhile);
    assert_eq!(snapshot.unwrap().dataset, first);
    let again = setup.import("one", stream(SHOP), ImportOptions::default()).await.unwrap();
    let versions = setup.datasets.get(&first).await.unwrap().versions;
    assert_eq!(versions.len(), 2);
    assert_eq!(versions.last(), Some(&again), "the newest comes last");
    assert_eq!(setup.datasets.resolve(Some(&first.into())).await.unwrap(), again);
    let several = setup.datasets.resolve(None).await.unwrap_err();
    assert!(several.code() == Code::InvalidInput && several.to_string().contains("one, other"), "{several}");
    setup.assert_clean().await;
}

#[tokio::test]
async fn a_dataset_in_use_is_not_deleted() {
    let setup = Setup::new().await;
    let old = setup.import("shop", stream(SHOP), ImportOptions::default()).await.unwrap();
    let new = setup.import("shop", stream(SHOP), ImportOptions::default()).await.unwrap();
    let labels = |id: &str| {
        let mut labels = Labels::new();
        for (key, value) in
            [(keys::KIND, "database"), (keys::DATASET, "shop"), (keys::VERSION, old.version.as_str()), (keys::ID, id)]
        {
            labels.set(key, value).unwrap();
        }
        labels
    };
    // One database that is being reset, and another.
    for (volume, id) in [("a-1", "a"), ("a-2", "a"), ("b-1", "b")] {
        setup.store.clone_snapshot(&old.name, &volume.parse().unwrap(), &labels(id)).await.unwrap();
    }
    let versions = setup.datasets.get(&dataset("shop")).await.unwrap().versions;
    assert_eq!(versions.iter().map(|v| v.databases).collect::<Vec<_>>(), [2, 0]);
    let reference = |text: String| text.parse().unwrap();
    for used in ["shop".to_owned(), format!("shop@{}", old.version)] {
        let error = setup.datasets.delete(&reference(used)).await.unwrap_err();
        assert_eq!(error.code(), Code::Conflict);
        assert!(error.to_string().contains("2 databases live on shop"), "{error}");
        assert!(error.hint().is_some());
    }
    setup.datasets.delete(&reference(format!("shop@{}", new.version))).await.unwrap();
    assert_eq!(setup.datasets.get(&dataset("shop")).await.unwrap().versions.len(), 1);
    for volume in ["a-1", "a-2", "b-1"] {
        setup.store.delete_volume(&volume.parse().unwrap()).await.unwrap();
    }
    setup.datasets.delete(&reference("shop".into())).await.unwrap();
    setup.assert_nothing_published().await;
}

/// Makes what an import leaves whose process is killed: a volume, with a server on it and a program that works for it.
#[tokio::test]
async fn what_a_killed_process_left_is_removed() {
    let setup = Setup::new().await;
    let attempt = "0123456789abcdef";
    let mut labels = Labels::new();
    let ours = [(keys::KIND, "import"), (keys::INSTANCE, "test"), (keys::ATTEMPT, attempt), (keys::DATASET, "shop")];
    for (key, value) in ours {
        labels.set(key, value).unwrap();
    }
    let made = setup.import("shop", stream(SHOP), ImportOptions::default()).await.unwrap();
    let name = format!("import-{attempt}");
    let volume = setup.store.clone_snapshot(&made.name, &name.parse().unwrap(), &labels).await.unwrap();
    let private = setup.postgres_dir(&format!("run/i-{attempt}"));
    let server = TestServer::on(&volume.path, &private);
    let mut psql = tokio::process::Command::new(format!("{BIN}/psql"))
        .args(["-X", "-h", private.to_str().unwrap(), "-U", "postgres", "-c", "SELECT pg_sleep(1000)"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // What another installation is importing into the same store is its own.
    let theirs =
        labels.clone().with(keys::INSTANCE, "other").and_then(|l| l.with(keys::ATTEMPT, "fedcba9876543210")).unwrap();
    let other = "import-fedcba9876543210".parse().unwrap();
    setup.store.create_volume(&other, &theirs).await.unwrap();
    // A stranger, on a directory of its own.
    let stranger = TestServer::create(&setup.postgres_dir("stranger"));
    // Whether psql has connected yet does not matter: it is known by what it was told.
    assert_eq!(setup.datasets.reconcile().await.unwrap().removed, [format!("volume {name}")]);
    assert_eq!(setup.store.volumes(&Selector::all().with(keys::INSTANCE, "other")).await.unwrap().found.len(), 1);
    setup.store.delete_volume(&other).await.unwrap();
    let status = tokio::time::timeout(Duration::from_secs(60), psql.wait()).await.expect("psql ends").unwrap();
    assert!(!status.success());
    assert!(!volume.path.exists() && !private.exists());
    assert_eq!(stranger.sql("postgres", "SELECT 1"), "1");
    assert_eq!(setup.datasets.get(&dataset("shop")).await.unwrap().versions, [made]);
    setup.assert_clean().await;
    drop(server);
}

#[tokio::test]
async fn a_full_pool_is_said_to_be_full() {
    let pool = Arc::new(crate::fixtures::pool::TestPool::new(256).await);
    let setup = Setup::on(pool).await;
    let noise = "CREATE TABLE noise AS SELECT rpad(i::text, 1500, 'x') FROM generate_series(1, 300000) i;\n";
    let error = setup.import("big", stream(noise), ImportOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfSpace, "{error:?}");
    until_clean(&setup, &dataset("big")).await;
    setup.assert_nothing_published().await;
    // An upload that has to be written to disk first.
    let head = &b"PGDMP\x01\x0e\x00\x04\x08\x01\x01\x01"[..];
    let reader = Box::pin(head.chain(tokio::io::repeat(7).take(400 << 20)));
    let archive = Source::Stream { reader, total: None };
    let error = setup.import("big", archive, ImportOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfSpace, "{error:?}");
    setup.assert_clean().await;
    setup.assert_nothing_published().await;
}

/// An upload of a few kilobytes may be gigabytes when it is unpacked.
#[tokio::test]
async fn an_import_ends_when_the_store_runs_short() {
    let setup = Setup::new().await;
    let plan = FaultPlan::new();
    let store = Arc::new(Faulty::new(setup.store.clone() as Arc<dyn SnapshotStore>, plan.clone()));
    let datasets = Datasets::new(store, Setup::options(setup.dir.path()).await);
    let short = || Fault::fail_before(|| Error::OutOfSpace { message: "nothing is free".into() });
    // The first look is before it begins.
    plan.on("space", 4, short());
    let sql = stream("SELECT pg_sleep(100000);\n");
    let error = datasets.import(&dataset("big"), sql, ImportOptions::default(), silent()).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfSpace, "{error:?}");
    assert_eq!(plan.count("space"), 4);
    setup.assert_clean().await;
    setup.assert_nothing_published().await;
}

/// Postgres does not always say what it lacked: `could not write init file`.
#[tokio::test]
async fn what_fails_while_the_store_is_short_failed_for_that() {
    let setup = Setup::new().await;
    let plan = FaultPlan::new();
    let store = Arc::new(Faulty::new(setup.store.clone() as Arc<dyn SnapshotStore>, plan.clone()));
    let datasets = Datasets::new(store, Setup::options(setup.dir.path()).await);
    let import = async || datasets.import(&dataset("shop"), stream(SHOP), ImportOptions::default(), silent()).await;
    let failed = || Error::backend("postgres", "connecting", "could not write init file");
    plan.on("snapshot", 1, Fault::fail_before(failed));
    assert_eq!(import().await.unwrap_err().code(), Code::Backend);
    let short = || Fault::fail_before(|| Error::OutOfSpace { message: "nothing is free".into() });
    let filling = plan.clone();
    plan.on(
        "snapshot",
        2,
        Fault::fail_before(move || {
            filling.on_every("space", short());
            failed()
        }),
    );
    assert_eq!(import().await.unwrap_err().code(), Code::OutOfSpace);
    setup.assert_clean().await;
    setup.assert_nothing_published().await;
}

/// A dump is a program: what it starts ends with the import.
#[tokio::test]
async fn what_a_dump_starts_ends_with_the_import() {
    what_a_dump_starts_ends(&Setup::new().await, 100_000).await;
}

#[tokio::test]
async fn what_a_dump_starts_ends_with_the_import_where_there_is_no_sandbox() {
    let mut setup = Setup::new().await;
    let mut options = Setup::options(setup.dir.path()).await;
    options.sandbox = None;
    setup.datasets = Datasets::new(setup.store.clone(), options);
    what_a_dump_starts_ends(&setup, 200_000).await;
}

async fn what_a_dump_starts_ends(setup: &Setup, more_than: u32) {
    // No others sleep for so long.
    let seconds = |n: u32| format!("{}.{n}", more_than + std::process::id());
    let start = |n: u32| {
        let (one, two, three) = (seconds(n), seconds(n + 1), seconds(n + 2));
        format!(
            "\\! sleep {one} >/dev/null 2>&1 &\n\\! setsid sleep {two} >/dev/null 2>&1 &\n\\! env -i setsid -f /bin/sleep {three}\n"
        )
    };
    let running = |n: u32| -> Vec<String> {
        let ours: Vec<String> = (n..n + 3).map(seconds).collect();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let commands = processes.map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default());
        let commands = commands.map(|command| String::from_utf8_lossy(&command).replace('\0', " "));
        commands.filter(|command| ours.iter().any(|ours| command.contains(&format!("sleep {ours}")))).collect()
    };
    // One that succeeds, …
    let sql = format!("{}{SHOP}", start(10));
    setup.import("good", stream(sql), ImportOptions::default()).await.unwrap();
    assert_eq!(running(10), [""; 0]);
    // … one that fails, …
    let sql = format!("{}SELECT nonsense;\n", start(20));
    setup.import("bad", stream(sql), ImportOptions::default()).await.unwrap_err();
    assert_eq!(running(20), [""; 0]);
    // … and one that is dropped while all of them run.
    let (source, mut writer) = endless();
    let name = dataset("dropped");
    let feed = async {
        writer.write_all(start(30).as_bytes()).await.unwrap();
        writer.write_all(&vec![b'\n'; 100_000]).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while running(30).len() < 3 {
            assert!(Instant::now() < deadline, "only {:?} run", running(30));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        result = setup.datasets.import(&name, source, ImportOptions::default(), silent()) => panic!("it ended: {result:?}"),
        () = feed => {}
    }
    until_clean(setup, &name).await;
    assert_eq!(running(30), [""; 0]);
}

/// What a dump runs sees its own files alone: no other database's, no process of the host, and no network.
#[tokio::test]
async fn a_dump_sees_nothing_of_the_host() {
    let setup = Setup::new().await;
    let secret = setup.postgres_dir("of-another-database").join("secret");
    std::fs::write(&secret, "secret").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (secret, port, own) = (secret.display(), listener.local_addr().unwrap().port(), std::process::id());
    // Each line is empty where the host is out of reach; the last is what is there: a client's own directory, and a server's.
    let look = |kind: &str| {
        format!(
            "cat {secret}; ls /proc/{own}; cat /proc/net/tcp | grep -v local_address; bash -c \"echo reached >/dev/tcp/127.0.0.1/{port}\"; \
             echo {kind} sees; ls /etc/shadow /root /home /var/lib/postgresql; ls {}/volumes | grep -vc import",
            setup.root.display()
        )
    };
    let out = "/tmp/out";
    let sql = format!(
        "\\! ({}) >{out} 2>/dev/null\n\\set seen `cat {out}`\n\
         CREATE TABLE seen (text text);\nINSERT INTO seen VALUES (:'seen');\n\
         COPY seen FROM PROGRAM '({}) 2>/dev/null; true';\n",
        look("a client"),
        look("a server"),
    );
    let snapshot = setup.import("curious", stream(sql), ImportOptions::default()).await.unwrap();
    let copy = setup.look(&snapshot).await;
    assert_eq!(
        copy.sql(&snapshot.dbname, "SELECT string_agg(text, E'\n') FROM seen"),
        "a client sees\n0\na server sees\n0"
    );
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "a dump reached this process");
    drop(copy);
    setup.assert_clean().await;
}
