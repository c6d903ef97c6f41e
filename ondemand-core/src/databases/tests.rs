//! Databases over fakes: what they do at once, when calls fail, and when callers go away.

mod deletions;
mod epochs;
mod leases;
mod model;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;

use super::record::{Record, State};
use super::*;
use crate::datasets::DatasetsOptions;
use crate::error::Code;
use crate::fakes::{ANY, FakeOrchestrator, FakeStore, Fault, FaultPlan, Faulty};
use crate::janitor::Report;
use crate::label::{Labels, Selector, keys};
use crate::name::SnapshotName;
use crate::orchestrator::{Resources, ServiceState};
use crate::postgres::{Endpoint, Notify};

/// Answers at once, unless it is told not to.
#[derive(Debug, Default)]
pub(crate) struct FakeEngine {
    silent: std::sync::atomic::AtomicBool,
    passwords: AtomicUsize,
    held: Mutex<BTreeSet<u16>>,
}

#[async_trait]
impl Engine for FakeEngine {
    async fn wait_ready(&self, _: &Endpoint, _: &Notify) -> Result<()> {
        if self.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn set_password(&self, _: &Endpoint, verifier: &str) -> Result<()> {
        assert!(verifier.starts_with("SCRAM-SHA-256$4096:"), "{verifier}");
        self.passwords.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn accepts(&self, _: &Endpoint, _: &Secret) -> Result<bool> {
        panic!("a volume in memory has no place for a password")
    }

    fn is_free(&self, address: SocketAddr) -> bool {
        !self.held.lock().unwrap().contains(&address.port())
    }
}

/// A data directory whose store and orchestrator are in memory.
pub(crate) struct World {
    _home: tempfile::TempDir,
    pub(crate) instance: Instance,
    pub(crate) store: FakeStore,
    pub(crate) orchestrator: FakeOrchestrator,
    engine: Arc<FakeEngine>,
    pub(crate) plan: FaultPlan,
    options: DatabasesOptions,
    pub(crate) databases: Databases,
}

impl Drop for World {
    fn drop(&mut self) {
        // Databases that still live keep their sockets there; here none of them is real.
        let _ = std::fs::remove_dir_all(&self.instance.runtime_dir);
    }
}

/// Publishes a version of a dataset.
async fn add_version(store: &FakeStore, version: &str) {
    let labels = Labels::try_from(BTreeMap::from(
        [
            (keys::KIND, "dataset"),
            (keys::DATASET, "production"),
            (keys::VERSION, version),
            (keys::POSTGRES, "15"),
            (keys::DBNAME, "postgres"),
            (keys::CREATED, "2026-11-22T19:23:00Z"),
            (keys::DATA_BYTES, "1"),
            (keys::DUMP_BYTES, "1"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned())),
    ))
    .unwrap();
    let work = "work".parse().unwrap();
    store.create_volume(&work, &Labels::new()).await.unwrap();
    store.snapshot(&work, &SnapshotName::new(format!("production@{version}")).unwrap(), &labels).await.unwrap();
    store.delete_volume(&work).await.unwrap();
}

impl World {
    pub(crate) async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let instance = Instance::open(home.path()).unwrap();
        let store = FakeStore::new();
        add_version(&store, "20261122-192300").await;
        let options = DatabasesOptions {
            listen: [127, 0, 0, 1].into(),
            host: "pg.dev.internal".into(),
            ports: 5433..=5532,
            max: 50,
            default_ttl: "1d".parse().unwrap(),
            max_ttl: "7d".parse().unwrap(),
            default_dataset: None,
            ready_timeout: Duration::from_millis(200),
            settings: BTreeMap::new(),
            limits: Resources::default(),
            user: RunAs { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() },
            programs: Programs::Image { image: "postgres:{major}".into(), bin_dir: "/bin".into() },
            files: home.path().join("postgres"),
        };
        let (orchestrator, engine, plan) = (FakeOrchestrator::new(), Arc::default(), FaultPlan::new());
        let databases = Self::open(&instance, &store, &orchestrator, &engine, &plan, &options);
        Self { _home: home, instance, store, orchestrator, engine, plan, options, databases }
    }

    fn open(
        instance: &Instance,
        store: &FakeStore,
        orchestrator: &FakeOrchestrator,
        engine: &Arc<FakeEngine>,
        plan: &FaultPlan,
        options: &DatabasesOptions,
    ) -> Databases {
        let store: Arc<dyn SnapshotStore> = Arc::new(store.clone());
        let orchestrator: Arc<dyn Orchestrator> = Arc::new(orchestrator.clone());
        let store: Arc<dyn SnapshotStore> = Arc::new(Faulty::new(store, plan.clone()));
        let orchestrator: Arc<dyn Orchestrator> = Arc::new(Faulty::new(orchestrator, plan.clone()));
        let datasets = Datasets::new(Arc::clone(&store), DatasetsOptions::default());
        let engine: Arc<dyn Engine> = Arc::<FakeEngine>::clone(engine);
        Databases::new(instance.clone(), orchestrator, store, datasets, engine, options.clone())
    }

    /// Ends the process, whatever it was doing, and starts the next one.
    pub(crate) fn crash(&mut self) {
        // Tasks of the process that has ended are still there, and are to do nothing any more.
        self.plan.on_every(ANY, Fault::Stall);
        self.plan = FaultPlan::new();
        self.databases =
            Self::open(&self.instance, &self.store, &self.orchestrator, &self.engine, &self.plan, &self.options);
    }

    async fn reconcile(&self) -> Report {
        let mut report = Report::default();
        self.databases.reconcile(&mut report).await.unwrap();
        report
    }

    async fn create(&self) -> Result<Database> {
        self.databases.create(CreateOptions::default()).await
    }

    fn record(&self, id: &DatabaseId) -> Record {
        self.databases.inner.record(id).unwrap()
    }

    fn is_marked(&self, id: &DatabaseId) -> bool {
        self.store.read(&self.record(id).volume(), "mark").is_some()
    }

    fn mark(&self, id: &DatabaseId) {
        self.store.write(&self.record(id).volume(), "mark", b"x").unwrap();
    }

    pub(crate) async fn volumes(&self) -> usize {
        self.store.volumes(&Selector::all()).await.unwrap().found.len()
    }
}

/// What ought to be: each database's port, and whether it was written to since its snapshot.
type Model = BTreeMap<DatabaseId, (u16, bool)>;

/// Compares everything there is with the model.
async fn compare(world: &World, model: &Model) {
    let databases = world.databases.list().await.unwrap();
    let found: BTreeMap<_, _> = databases.iter().map(|d| (d.id.clone(), (d.port, world.is_marked(&d.id)))).collect();
    assert_eq!(&found, model);
    for database in &databases {
        assert_eq!(database.state, DatabaseState::Running, "{database:?}");
        let spec = world.orchestrator.spec(&world.record(&database.id).stack()).unwrap();
        let volume = world.record(&database.id).volume();
        assert_eq!(spec.labels.get(keys::VOLUME), Some(volume.as_str()), "it runs on its own volume");
    }
    let ports: BTreeSet<_> = databases.iter().map(|d| d.port).collect();
    assert_eq!(ports.len(), databases.len(), "ports are not shared");
    assert_eq!(world.volumes().await, model.len(), "volumes");
    assert_eq!(world.orchestrator.names().len(), model.len(), "stacks");
    let entries = std::fs::read_dir(&world.instance.runtime_dir).unwrap();
    let sockets = entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(sockets, model.len(), "directories of sockets");
    assert_eq!(world.reconcile().await, Report::default(), "a round with nothing to do does nothing");
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing() {
    // At every call of a create the caller is dropped; the create notices, and undoes what it did.
    for number in 1.. {
        let world = World::new().await;
        world.plan.on(ANY, number, Fault::Delay(Duration::from_millis(20)));
        let mut create = Box::pin(world.create());
        let finished = tokio::select! {
            _ = world.plan.reached(ANY, number) => false,
            result = &mut create => { result.unwrap(); true }
        };
        if finished {
            assert!(number > 3, "a create makes more calls than {number}");
            return;
        }
        drop(create);
        let empty = async {
            while world.volumes().await > 0 || !world.orchestrator.names().is_empty() || world.databases.inner.is_busy()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), empty).await.expect("something is left");
        compare(&world, &Model::new()).await;
    }
}

#[tokio::test]
async fn a_database_that_was_sent_and_not_taken_is_deleted() {
    let world = World::new().await;
    let mut create = Box::pin(world.create());
    // Polled once, so that the work begins; then it ends with nobody looking.
    assert!(futures_util::poll!(&mut create).is_pending());
    let sent = async {
        while world.databases.inner.records().is_empty() || world.databases.inner.is_busy() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), sent).await.expect("it was not made");
    drop(create);
    let empty = async {
        while world.volumes().await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), empty).await.expect("it was left");
}

#[tokio::test]
async fn names_are_unique_while_they_live() {
    let world = World::new().await;
    let named = || CreateOptions::default().with_name("mine".parse().unwrap());
    let (first, second) = tokio::join!(world.databases.create(named()), world.databases.create(named()));
    let (winner, loser) = match (first, second) {
        (Ok(winner), Err(loser)) | (Err(loser), Ok(winner)) => (winner, loser),
        other => panic!("one of two wins: {other:?}"),
    };
    assert_eq!(loser.code(), Code::AlreadyExists);
    assert_eq!(world.databases.find("mine").unwrap(), winner.id);
    assert_eq!(world.databases.find("/mine").unwrap(), winner.id);
    assert_eq!(world.databases.find(&winner.id.as_str()[..8]).unwrap(), winner.id);
    assert_eq!(world.databases.find(&winner.id.as_str()[..3]).unwrap_err().code(), Code::NotFound);
    world.databases.delete(&winner.id).await.unwrap();
    world.databases.create(named()).await.unwrap();
}

#[tokio::test]
async fn names_made_from_ports_are_not_to_be_had() {
    let world = World::new().await;
    let options = CreateOptions::default().with_name("pgondemand_5434".parse().unwrap());
    assert_eq!(world.databases.create(options).await.unwrap_err().code(), Code::InvalidName);
}

#[tokio::test]
async fn limits_are_kept() {
    let mut world = World::new().await;
    world.options.max = 2;
    world.crash();
    let long = CreateOptions::default().with_ttl("8d".parse().unwrap());
    assert_eq!(world.databases.create(long).await.unwrap_err().code(), Code::InvalidInput);
    let first = world.create().await.unwrap();
    world.create().await.unwrap();
    assert_eq!(world.create().await.unwrap_err().code(), Code::QuotaExceeded);
    assert_eq!(world.databases.extend(&first.id, "8d".parse().unwrap()).await.unwrap_err().code(), Code::InvalidInput);
    world.databases.delete(&first.id).await.unwrap();
    world.create().await.unwrap();
}

#[tokio::test]
async fn a_server_that_never_answers_is_an_error_that_leaves_nothing() {
    let world = World::new().await;
    world.engine.silent.store(true, Ordering::Relaxed);
    let error = world.create().await.unwrap_err();
    assert_eq!(error.code(), Code::NotReady);
    compare(&world, &Model::new()).await;
}

#[tokio::test]
async fn a_server_that_ends_at_once_is_an_error_that_says_so() {
    let mut world = World::new().await;
    // It ends before it is given up.
    world.options.ready_timeout = Duration::from_secs(20);
    world.crash();
    world.engine.silent.store(true, Ordering::Relaxed);
    let create = tokio::spawn({
        let databases = world.databases.clone();
        async move { databases.create(CreateOptions::default()).await }
    });
    world.plan.performed("deploy", 1).await;
    let name = world.orchestrator.names().remove(0);
    world.orchestrator.exit(&name, 3);
    let error = create.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("status 3"), "{error}");
    compare(&world, &Model::new()).await;
}

#[tokio::test]
async fn strangers_keep_their_ports() {
    let world = World::new().await;
    world.engine.held.lock().unwrap().extend([5433, 5434]);
    assert_eq!(world.create().await.unwrap().port, 5435);
    world.engine.held.lock().unwrap().extend(5433..=5532);
    assert_eq!(world.create().await.unwrap_err().code(), Code::QuotaExceeded);
}

#[tokio::test]
async fn a_volume_that_somebody_removed_is_forgotten_with_its_stack() {
    let world = World::new().await;
    let database = world.create().await.unwrap();
    world.store.delete_volume(&world.record(&database.id).volume()).await.unwrap();
    world.reconcile().await;
    assert!(world.databases.list().await.unwrap().is_empty());
    assert_eq!(world.reconcile().await, Report::default());
    assert!(world.orchestrator.names().is_empty());
}

#[tokio::test]
async fn what_cannot_be_read_is_reported_and_stays() {
    let world = World::new().await;
    let database = world.create().await.unwrap();
    let volume = world.record(&database.id).volume();
    let labels = world.record(&database.id).labels(&world.instance.id).unwrap();
    let damaged = labels.with(keys::PORT, "not a port").unwrap();
    let mut world = world;
    world.store.set_volume_labels(&volume, &damaged).await.unwrap();
    world.crash();
    let report = world.reconcile().await;
    assert_eq!(report.unknown.len(), 1, "{report:?}");
    assert_eq!(world.volumes().await, 1, "its data is not thrown away");
}

#[tokio::test]
async fn a_database_whose_record_cannot_be_read_lives_on() {
    let mut world = World::new().await;
    let (database, other) = (world.create().await.unwrap(), world.create().await.unwrap());
    let (volume, stack) = (world.record(&database.id).volume(), world.record(&database.id).stack());
    let before = world.orchestrator.get(&stack).await.unwrap();
    world.store.damage(&volume, true);
    for _ in 0..2 {
        let report = world.reconcile().await;
        assert!(report.unknown.iter().any(|what| what.contains(volume.as_str())), "{report:?}");
        assert!(report.removed.is_empty() && report.reaped.is_empty() && report.restarted.is_empty(), "{report:?}");
        assert_eq!(world.databases.get(&database.id).await.unwrap().state, DatabaseState::Running);
    }
    // The next process knows of its server, and of no database that it could belong to.
    world.crash();
    for _ in 0..2 {
        let report = world.reconcile().await;
        assert!(report.unknown.iter().any(|what| what.contains(volume.as_str())), "{report:?}");
        assert!(report.removed.is_empty() && report.reaped.is_empty(), "{report:?}");
        let there: Vec<_> = world.databases.list().await.unwrap().into_iter().map(|found| found.id).collect();
        assert_eq!(there, std::slice::from_ref(&other.id));
    }
    assert_eq!(world.orchestrator.get(&stack).await.unwrap(), before, "its server was not touched");
    let deletion = world.databases.inner.datasets.delete(&"production".parse().unwrap()).await;
    assert_eq!(deletion.unwrap_err().code(), Code::Conflict);
    world.databases.delete(&other.id).await.unwrap();
    let deletion = world.databases.inner.datasets.delete(&"production".parse().unwrap()).await;
    assert_eq!(deletion.unwrap_err().code(), Code::Conflict, "it may live on the dataset");
    world.store.damage(&volume, false);
    assert_eq!(world.reconcile().await, Report::default());
    compare(&world, &Model::from([(database.id, (database.port, false))])).await;
}

/// A reset that was cut off after its commit has left the volume from before.
#[tokio::test]
async fn a_database_whose_later_volume_cannot_be_read_is_not_the_earlier_one() {
    let mut world = World::new().await;
    let database = world.create().await.unwrap();
    let earlier = world.record(&database.id);
    let base = world.plan.count("delete_volume");
    world.plan.on("delete_volume", base + 1, Fault::fail_before(|| Error::backend("fake", "deleting", "on purpose")));
    world.databases.reset(&database.id).await.unwrap();
    let (later, stack) = (world.record(&database.id).volume(), earlier.stack());
    let before = world.orchestrator.get(&stack).await.unwrap();
    assert_eq!(world.volumes().await, 2, "both are there");
    world.store.damage(&later, true);
    world.crash();
    for _ in 0..2 {
        let report = world.reconcile().await;
        assert!(report.removed.is_empty() && report.restarted.is_empty(), "{report:?}");
    }
    assert_eq!(world.orchestrator.get(&stack).await.unwrap(), before, "its server was not touched");
    world.store.damage(&later, false);
    assert_eq!(world.reconcile().await.removed, [format!("volume {}", earlier.volume())]);
    compare(&world, &Model::from([(database.id, (database.port, false))])).await;
}

#[tokio::test]
async fn an_expired_database_whose_record_cannot_be_read_stays() {
    let world = World::new().await;
    let database = world.create().await.unwrap();
    let past = Record { expires: OffsetDateTime::now_utc() - Duration::from_secs(1), ..world.record(&database.id) };
    world.databases.inner.update(past.clone());
    world.store.damage(&past.volume(), true);
    let report = world.reconcile().await;
    assert_eq!((report.reaped.len(), report.failed.len()), (0, 1), "{report:?}");
    assert_eq!(world.orchestrator.names(), [past.stack()]);
    // What it says by itself counts again, and that is that its time has not come.
    world.store.damage(&past.volume(), false);
    world.reconcile().await;
    compare(&world, &Model::from([(database.id, (database.port, false))])).await;
}

/// Gives a database a past in which its time was over.
async fn expire(world: &World, id: &DatabaseId) {
    let past = Record { expires: OffsetDateTime::now_utc() - Duration::from_secs(1), ..world.record(id) };
    world.databases.inner.write(&past).await.unwrap();
    world.databases.inner.update(past);
}

#[tokio::test]
async fn what_one_listing_lacks_is_not_gone() {
    let mut world = World::new().await;
    let database = world.create().await.unwrap();
    let (volume, stack) = (world.record(&database.id).volume(), world.record(&database.id).stack());
    let before = world.orchestrator.get(&stack).await.unwrap();
    world.store.overlook(&volume, true);
    assert_eq!(world.reconcile().await, Report::default());
    world.databases.get(&database.id).await.unwrap();
    world.crash();
    assert_eq!(world.reconcile().await, Report::default());
    assert_eq!(world.orchestrator.get(&stack).await.unwrap(), before, "its server was not touched");
    world.store.overlook(&volume, false);
    world.reconcile().await;
    compare(&world, &Model::from([(database.id, (database.port, false))])).await;
}

#[tokio::test]
async fn an_error_while_a_volume_is_asked_for_forgets_nothing() {
    let world = World::new().await;
    let database = world.create().await.unwrap();
    let volume = world.record(&database.id).volume();
    world.store.overlook(&volume, true);
    let base = world.plan.count("volume");
    world.plan.on("volume", base + 1, Fault::fail_before(|| Error::backend("fake", "reading", "too many open files")));
    let report = world.reconcile().await;
    assert!(report.failed.iter().any(|what| what.contains("too many open files")), "{report:?}");
    world.store.overlook(&volume, false);
    world.reconcile().await;
    compare(&world, &Model::from([(database.id, (database.port, false))])).await;
}

#[tokio::test]
async fn only_one_change_at_a_time() {
    let world = World::new().await;
    let database = world.create().await.unwrap();
    let base = world.plan.count("clone_snapshot");
    world.plan.on("clone_snapshot", base + 1, Fault::Delay(Duration::from_secs(1)));
    let reset = tokio::spawn({
        let (databases, id) = (world.databases.clone(), database.id.clone());
        async move { databases.reset(&id).await }
    });
    world.plan.reached("clone_snapshot", base + 1).await;
    assert_eq!(world.databases.get(&database.id).await.unwrap().state, DatabaseState::Resetting);
    assert_eq!(world.databases.reset(&database.id).await.unwrap_err().code(), Code::Conflict);
    assert_eq!(world.databases.extend(&database.id, "1h".parse().unwrap()).await.unwrap_err().code(), Code::Conflict);
    // A delete waits for its turn, and two of them both succeed.
    let (first, second) = tokio::join!(world.databases.delete(&database.id), world.databases.delete(&database.id));
    first.unwrap();
    second.unwrap();
    reset.await.unwrap().unwrap();
    compare(&world, &Model::new()).await;
}

#[tokio::test]
async fn a_reset_keeps_address_password_and_expiry() {
    let world = World::new().await;
    let before = world.create().await.unwrap();
    world.mark(&before.id);
    let after = world.databases.reset(&before.id).await.unwrap();
    assert_eq!(after, before);
    assert!(!world.is_marked(&before.id));
    assert_eq!(world.engine.passwords.load(Ordering::Relaxed), 2, "the new volume was given the password too");
}

#[tokio::test]
async fn a_durable_database_is_synced_when_it_is_announced() {
    let world = World::new().await;
    world.create().await.unwrap();
    assert_eq!(world.store.syncs(), 0);
    world.databases.create(CreateOptions::default().with_durable(true)).await.unwrap();
    assert_eq!(world.store.syncs(), 1);
}

#[tokio::test]
async fn an_ended_server_is_shown_as_stopped() {
    let world = World::new().await;
    let database = world.create().await.unwrap();
    world.orchestrator.exit(&world.record(&database.id).stack(), 1);
    assert_eq!(world.databases.get(&database.id).await.unwrap().state, DatabaseState::Stopped);
    let stack = world.databases.inner.orchestrator.get(&world.record(&database.id).stack()).await.unwrap();
    assert_eq!(stack.services[0].state, ServiceState::Exited { status: Some(1) });
}

#[test]
fn a_url_escapes_what_a_url_must() {
    let database = Database {
        id: DatabaseId::new("a".repeat(64)).unwrap(),
        name: "x".parse().unwrap(),
        dataset: "x".parse().unwrap(),
        version: "1".parse().unwrap(),
        host: "::1".into(),
        port: 5433,
        user: "postgres".into(),
        password: Secret::new("p/w"),
        dbname: "my shop".into(),
        created: OffsetDateTime::UNIX_EPOCH,
        expires: OffsetDateTime::UNIX_EPOCH,
        durable: false,
        settings: BTreeMap::new(),
        environment: None,
        lease: None,
        state: DatabaseState::Running,
    };
    assert_eq!(database.url(), "postgresql://postgres:p%2Fw@[::1]:5433/my%20shop");
    assert!(!format!("{database:?}").contains("p/w"), "Debug shows no password");
}

#[tokio::test]
async fn a_deletion_whose_mark_was_lost_on_the_way_back_is_finished() {
    let world = World::new().await;
    let database = world.create().await.unwrap();
    let base = world.plan.count("set_volume_labels");
    let lost = || Error::backend("fake", "writing labels", "the answer was lost");
    world.plan.on("set_volume_labels", base + 1, Fault::fail_after(lost));
    world.databases.delete(&database.id).await.unwrap_err();
    world.reconcile().await;
    compare(&world, &Model::new()).await;
}

#[tokio::test]
async fn a_stack_that_is_deployed_again_is_a_try_of_its_own() {
    let world = World::new().await;
    let database = world.create().await.unwrap();
    let base = world.plan.count("deploy");
    let refused = || Error::backend("fake", "starting", "on purpose");
    world.plan.on("deploy", base + 1, Fault::fail_before(refused));
    world.databases.reset(&database.id).await.unwrap_err();
    assert_eq!(world.databases.get(&database.id).await.unwrap().state, DatabaseState::Running);
    assert_eq!(world.orchestrator.ever_deployed().len(), 2, "the old volume's server was started again");
    compare(&world, &Model::from([(database.id, (database.port, false))])).await;
}
