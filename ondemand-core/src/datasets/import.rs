//! An import from its beginning to its snapshot, and the undoing of it wherever it stops.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use rustix::fs::FileType;
use tokio_util::io::SyncIoBridge;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::catalog;
use super::faults::Failures;
use super::input::{self, Bytes, Input};
use super::meter::Meter;
use super::reconcile::{end_holders, remove_private};
use super::sniff::Content;
use super::unpack::{self, Writer};
use super::{DatasetSnapshot, DatasetsOptions, ImportOptions, Inner, Source, restore};
use crate::error::{Error, Kind, Result};
use crate::label::{Labels, Selector, keys};
use crate::listing::{Listing, usable_file};
use crate::name::{AttemptId, DatasetName, SnapshotName, VolumeName};
use crate::postgres::cluster::{self, Cluster, Server};
use crate::postgres::controldata::ControlData;
use crate::postgres::program::Processes;
use crate::postgres::{Install, memory, neutralise};
use crate::progress::{Phase, Reporter};
use crate::snapshot::{Volume, room};
use crate::tree::{Tree, kind_of};

mod publish;

/// The value of [`keys::KIND`] for the volumes of imports.
pub(super) const IMPORT: &str = "import";

/// How often an import looks how much room its store has.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Returns where the socket of an attempt's server is.
pub(super) fn private_dir(runtime_dir: &Path, attempt: &AttemptId) -> PathBuf {
    runtime_dir.join(format!("i-{attempt}"))
}

pub(super) async fn import(
    inner: &Arc<Inner>,
    dataset: &DatasetName,
    source: Source,
    options: ImportOptions,
    reporter: Reporter,
) -> Result<DatasetSnapshot> {
    let claim = Claim::take(inner, dataset)?;
    inner.store.space().await?.check_room()?;
    if options.new {
        match catalog::get(&*inner.store, dataset).await {
            Err(Error::NotFound { .. }) => {}
            Ok(_) => return Err(Error::already_exists(Kind::Dataset, dataset)),
            Err(e) => return Err(e),
        }
    }
    run(inner, dataset, claim, Work::Source(source), options, reporter).await
}

/// What is made into a version.
pub(super) enum Work {
    /// A dump.
    Source(Source),
    /// What was a database's data, and carries this import's labels by now. Its server has been ended, however that may have been.
    Volume(Volume),
}

pub(super) async fn run(
    inner: &Arc<Inner>,
    dataset: &DatasetName,
    claim: Claim,
    work: Work,
    options: ImportOptions,
    reporter: Reporter,
) -> Result<DatasetSnapshot> {
    let attempt = claim.attempt.clone();
    let cancelled = CancellationToken::new();
    let import = Import {
        inner: inner.clone(),
        dataset: dataset.clone(),
        options,
        processes: Processes::new(attempt.clone(), inner.options.user, inner.options.sandbox.clone()),
        attempt,
        meter: Meter::new(reporter),
        cancelled: cancelled.clone(),
        blocking: TaskTracker::new(),
        snapshot: Mutex::default(),
    };
    // Whoever waits for this may go away; the work is then undone, by the task that did it.
    let guard = cancelled.drop_guard();
    let task = tokio::spawn(async move {
        let result = import.run(work).await;
        drop(claim);
        result
    });
    let result = task.await.unwrap_or_else(|e| Err(Error::backend("import", "working", e)));
    guard.disarm();
    result
}

/// The right to import into a dataset.
pub(super) struct Claim {
    inner: Arc<Inner>,
    dataset: DatasetName,
    attempt: AttemptId,
}

impl Claim {
    pub(super) fn take(inner: &Arc<Inner>, dataset: &DatasetName) -> Result<Self> {
        let attempt = AttemptId::random()?;
        let mut live = inner.live.lock().unwrap_or_else(PoisonError::into_inner);
        if !live.datasets.insert(dataset.clone()) {
            return Err(Error::Conflict {
                message: format!("another import into dataset {:?} is running", dataset.as_str()),
                hint: "wait until it has ended, or import into another dataset".into(),
            });
        }
        live.attempts.insert(attempt.clone());
        Ok(Self { inner: inner.clone(), dataset: dataset.clone(), attempt })
    }

    /// Returns the try that it is the right of.
    pub(super) fn attempt(&self) -> &AttemptId {
        &self.attempt
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut live = self.inner.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.datasets.remove(&self.dataset);
        live.attempts.remove(&self.attempt);
    }
}

struct Import {
    inner: Arc<Inner>,
    dataset: DatasetName,
    options: ImportOptions,
    attempt: AttemptId,
    meter: Meter,
    cancelled: CancellationToken,
    processes: Processes,
    /// Threads that work for this import.
    blocking: TaskTracker,
    /// The snapshot that may have been made.
    snapshot: Mutex<Option<SnapshotName>>,
}

impl Import {
    async fn run(self, work: Work) -> Result<DatasetSnapshot> {
        let result = tokio::select! {
            biased;
            () = self.cancelled.cancelled() => Err(Error::Cancelled),
            short = self.runs_short() => Err(short),
            // A panic is a mistake of this program; it is to leave as little behind as any other error.
            result = AssertUnwindSafe(self.pipeline(work)).catch_unwind() => {
                result.unwrap_or_else(|_| Err(Error::backend("import", "working", "it panicked")))
            }
        };
        let result = match result {
            Err(error) => Err(room::cause(&*self.inner.store, error).await),
            result => result,
        };
        self.clean_up(result.is_ok()).await;
        if let Err(Error::OutOfSpace { .. }) = result
            && let Err(error) = self.inner.store.sync().await
        {
            // What was deleted is free only once that is on disk, which by itself may take half a minute.
            tracing::warn!(%error, "a full store could not be told to free what was deleted");
        }
        if result.is_ok() {
            self.meter.phase(Phase::Done);
        }
        result
    }

    /// Returns when the store has too little room for this to go on: compressed, an upload may be small, and fill it all the same.
    async fn runs_short(&self) -> Error {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            // What cannot be asked now may be told the next time.
            if let Some(short) = room::shortage(&*self.inner.store).await {
                return short;
            }
        }
    }

    /// Removes all that this attempt made, but the snapshot if it was a success. What cannot be removed now is by
    /// [`reconcile`](super::Datasets::reconcile).
    async fn clean_up(&self, success: bool) {
        let warn = |what: &str, result: Result<()>| {
            if let Err(error) = result {
                tracing::warn!(attempt = %self.attempt, error = &error as &dyn std::error::Error, "{what}");
            }
        };
        // Threads look at this between two reads.
        self.cancelled.cancel();
        self.processes.end_all().await;
        self.blocking.close();
        self.blocking.wait().await;

        let volumes = self.volume_names();
        let ours = Selector::all().with(keys::ATTEMPT, self.attempt.as_str());
        let found = self.inner.store.volumes(&ours).await.unwrap_or_else(|error| {
            warn("listing the volumes of an import", Err(error));
            Listing::default()
        });
        let found = found.found;
        let dirs = found.iter().map(|volume| volume.path.clone()).chain([self.private_dir()]);
        warn("ending the programs of an import", end_holders(dirs.collect()).await);
        for volume in &found {
            memory::free(&volume.path, self.inner.options.user).await;
        }
        warn("removing the socket directory of an import", remove_private(&self.private_dir()));
        let snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(snapshot) = snapshot.filter(|_| !success) {
            warn("deleting the snapshot of a cancelled import", self.inner.store.delete_snapshot(&snapshot).await);
        }
        let found = found.into_iter().map(|volume| volume.name);
        for name in volumes.into_iter().flatten().chain(found) {
            warn("deleting the volume of an import", self.inner.store.delete_volume(&name).await);
        }
    }

    fn private_dir(&self) -> PathBuf {
        private_dir(&self.inner.options.runtime_dir, &self.attempt)
    }

    fn volume_names(&self) -> [Result<VolumeName>; 2] {
        ["import", "spool"].map(|role| VolumeName::new(format!("{role}-{}", self.attempt)))
    }

    /// Makes a volume that PostgreSQL's user owns.
    async fn volume(&self, name: Result<VolumeName>) -> Result<Volume> {
        let volume = self.closed_volume(name).await?;
        self.give(&volume)?;
        Ok(volume)
    }

    /// Makes a volume that only this process gets into, to write to it by paths: whoever runs programs as PostgreSQL's user could swap what is in it.
    async fn closed_volume(&self, name: Result<VolumeName>) -> Result<Volume> {
        let labels = labels(&self.inner.options, &self.attempt, &self.dataset)?;
        self.inner.store.create_volume(&name?, &labels).await
    }

    /// Gives a volume, once all is in it, to PostgreSQL's user.
    fn give(&self, volume: &Volume) -> Result<()> {
        cluster::own(&volume.path, self.inner.options.user)
    }

    /// Runs `work` on a thread that is waited for before anything is removed.
    async fn block<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let task = self.blocking.spawn_blocking(work);
        task.await.unwrap_or_else(|e| Err(Error::backend("import", "working", e)))
    }

    fn writer(&self) -> Writer {
        Writer { user: self.inner.options.user, meter: self.meter.clone(), cancelled: self.cancelled.clone() }
    }

    async fn pipeline(&self, work: Work) -> Result<DatasetSnapshot> {
        self.meter.phase(Phase::Preparing);
        let source = match work {
            Work::Source(source) => source,
            Work::Volume(volume) => {
                let server = self.take_over(&volume).await?;
                return self.publish(server, &volume, &Failures::default()).await;
            }
        };
        // A missing PostgreSQL is noticed before a hundred gigabytes have been received.
        self.install()?;
        let [pgdata, spool] = self.volume_names();
        let nothing = Failures::default();
        let (server, volume, failures) = match input::open(source, &self.meter, &self.cancelled).await? {
            Input::Nothing => {
                let (server, volume) = self.start_empty(pgdata).await?;
                (server, volume, nothing)
            }
            Input::Bytes(bytes) => match bytes.content {
                Content::Sql => self.restore_sql(bytes, pgdata).await?,
                Content::Custom | Content::TarDump => {
                    // Several programs cannot read from one tar archive.
                    let jobs = if bytes.content == Content::TarDump { 1 } else { self.inner.options.jobs };
                    let archive = self.spool_file(bytes, spool).await?;
                    self.restore_archive(&archive, pgdata, jobs).await?
                }
                Content::Tar => {
                    let spool = self.closed_volume(spool).await?;
                    let unpacked = self.unpack(bytes, &spool).await?;
                    self.give(&spool)?;
                    match unpacked {
                        Unpacked::Dump(dir) => self.restore_archive(&dir, pgdata, self.inner.options.jobs).await?,
                        Unpacked::DataDirectory => (self.adopt(&spool).await?, spool, nothing),
                    }
                }
            },
            Input::DumpDirectory(dir) => {
                let dir = self.spool_dir(dir, spool).await?;
                self.restore_archive(&dir, pgdata, self.inner.options.jobs).await?
            }
            Input::DataDirectory(dir) => {
                let volume = self.copy_data(dir, pgdata).await?;
                (self.adopt(&volume).await?, volume, nothing)
            }
        };
        self.publish(server, &volume, &failures).await
    }

    fn install(&self) -> Result<&Install> {
        let installs = &self.inner.options.installs;
        match self.options.postgres {
            Some(major) => installs.get(major),
            None => installs.newest(),
        }
    }

    async fn cluster(&self, install: &Install, volume: &Volume) -> Result<Cluster> {
        let options = &self.inner.options;
        let free = self.inner.store.usage().await?.free;
        Cluster::new(
            install.clone(),
            options.user,
            volume.path.clone(),
            self.private_dir(),
            self.processes.clone(),
            free,
            options.jobs,
        )
    }

    /// Starts a server on an empty cluster, for a dump of so many bytes.
    async fn fresh(&self, name: Result<VolumeName>, dump: Option<u64>) -> Result<(Server, Volume)> {
        let volume = self.volume(name).await?;
        // Compressed, a dump is a small part of what it becomes.
        let data = dump.map(|bytes| bytes.saturating_mul(32));
        let cluster = self.cluster(self.install()?, &volume).await?.for_data(data);
        cluster.initdb().await?;
        Ok((cluster.start().await?, volume))
    }

    /// Starts a server that holds nothing but what a restore would find.
    async fn start_empty(&self, name: Result<VolumeName>) -> Result<(Server, Volume)> {
        let (server, volume) = self.fresh(name, Some(0)).await?;
        restore::prepare(&server, &self.options, &[]).await?;
        Ok((server, volume))
    }

    async fn restore_sql(&self, bytes: Bytes, name: Result<VolumeName>) -> Result<(Server, Volume, Failures)> {
        if self.options.no_owner {
            return Err(Error::invalid(
                "no_owner",
                "owners cannot be left out of SQL text; dump with pg_dump --no-owner --no-privileges, or with -Fc",
            ));
        }
        let (server, volume) = self.fresh(name, self.meter.total()).await?;
        let start = restore::prepare(&server, &self.options, &bytes.head).await?;
        self.meter.phase(Phase::Restoring);
        let failures = restore::sql(&server, &start, bytes, &self.options).await?;
        Ok((server, volume, failures))
    }

    async fn restore_archive(
        &self,
        archive: &Path,
        name: Result<VolumeName>,
        jobs: usize,
    ) -> Result<(Server, Volume, Failures)> {
        let (server, volume) = self.fresh(name, self.meter.total()).await?;
        let options = ImportOptions { dbname: None, ..self.options.clone() };
        restore::prepare(&server, &options, &[]).await?;
        self.meter.phase(Phase::Restoring);
        let failures = restore::archive(&server, archive, &self.options, jobs, &self.meter).await?;
        Ok((server, volume, failures))
    }

    /// Returns a file with the archive that PostgreSQL's user can read.
    async fn spool_file(&self, mut bytes: Bytes, name: Result<VolumeName>) -> Result<PathBuf> {
        let user = self.inner.options.user;
        if let Some(path) = bytes.file.take() {
            let path = path.canonicalize().map_err(|e| Error::io("dump", format!("opening {}", path.display()), e))?;
            if input::readable_by(&path, user) {
                let length = path.metadata().map_or(0, |metadata| metadata.len());
                self.meter.set_bytes(length);
                return Ok(path);
            }
        }
        self.meter.phase(Phase::Receiving);
        let volume = self.closed_volume(name).await?;
        let path = volume.path.join("dump");
        let (writer, target, outcome) = (self.writer(), path.clone(), bytes.outcome.clone());
        let mut reader = SyncIoBridge::new(bytes.reader);
        self.block(move || {
            let writing = |e| Error::io("import", "writing the dump to disk", e);
            let mut file = writer.create(&target).map_err(writing)?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                let read = std::io::Read::read(&mut reader, &mut buffer).map_err(|e| outcome.explain(&e))?;
                if read == 0 {
                    return Ok(());
                }
                std::io::Write::write_all(&mut file, &buffer[..read]).map_err(writing)?;
            }
        })
        .await?;
        self.give(&volume)?;
        Ok(path)
    }

    /// Returns a directory with the dump that PostgreSQL's user can read.
    async fn spool_dir(&self, dir: PathBuf, name: Result<VolumeName>) -> Result<PathBuf> {
        let sized = dir.clone();
        let length = self.block(move || bytes_below(&sized)).await?;
        self.meter.set_total(Some(length));
        if input::readable_by(&dir.join("toc.dat"), self.inner.options.user) {
            self.meter.set_bytes(length);
            return Ok(dir);
        }
        self.meter.phase(Phase::Receiving);
        let volume = self.closed_volume(name).await?;
        let (writer, target) = (self.writer(), volume.path.clone());
        self.block(move || writer.copy_dir(&dir, &target)).await?;
        self.give(&volume)?;
        Ok(volume.path)
    }

    async fn unpack(&self, bytes: Bytes, volume: &Volume) -> Result<Unpacked> {
        self.meter.phase(Phase::Receiving);
        let (writer, root, outcome) = (self.writer(), volume.path.clone(), bytes.outcome.clone());
        let reader = SyncIoBridge::new(bytes.reader);
        self.block(move || {
            // An error of the source itself explains the one that it leads to.
            writer.unpack(reader, &root).map_err(|e| outcome.take().unwrap_or(e))?;
            let top = unpack::single_top(&root)?;
            if usable_file(&top.join("toc.dat")) {
                return Ok(Unpacked::Dump(top));
            }
            if usable_file(&top.join("PG_VERSION")) {
                unpack::raise(&root, &top)?;
                return Ok(Unpacked::DataDirectory);
            }
            Err(Error::InvalidDump {
                message: "the tar archive holds neither a directory dump (toc.dat) nor a data directory (PG_VERSION)"
                    .into(),
                log: Vec::new(),
                hint: "make it with `tar -C DIRECTORY -c .`".into(),
            })
        })
        .await
    }

    /// Copies a data directory into a volume.
    async fn copy_data(&self, dir: PathBuf, name: Result<VolumeName>) -> Result<Volume> {
        // Whoever names it may do so by a link; from there on, none is followed.
        let dir = dir.canonicalize().map_err(|e| Error::io("dump", format!("opening {}", dir.display()), e))?;
        let install = self.data_install(&dir)?;
        let user = nix::unistd::geteuid();
        // As this process, for others may not read it.
        let me = crate::orchestrator::RunAs { uid: user.as_raw(), gid: nix::unistd::getegid().as_raw() };
        let before = ControlData::read(install, me, &dir).await?;
        assert_shut_down(&before)?;
        let sized = dir.clone();
        let length = self.block(move || bytes_below(&sized)).await?;
        self.meter.set_total(Some(length));
        self.meter.phase(Phase::Receiving);
        let volume = self.closed_volume(name).await?;
        let (writer, from, target) = (self.writer(), dir.clone(), volume.path.clone());
        self.block(move || writer.copy_dir(&from, &target)).await?;
        self.give(&volume)?;
        // A server that was started meanwhile has changed files under the copy.
        if ControlData::read(install, me, &dir).await? != before {
            return Err(unclean("a server was started on it while it was copied"));
        }
        Ok(volume)
    }

    /// Returns the programs for a data directory.
    fn data_install(&self, dir: &Path) -> Result<&Install> {
        let major = version_of(dir)?;
        if let Some(wanted) = self.options.postgres.filter(|&wanted| wanted != major) {
            return Err(Error::invalid(
                "postgres",
                format!("the data directory is of PostgreSQL {major}, and cannot be opened by {wanted}"),
            ));
        }
        self.inner.options.installs.get(major)
    }

    /// Starts a server on a copied data directory, after all that belongs to the original was removed.
    async fn adopt(&self, volume: &Volume) -> Result<Server> {
        let install = self.data_install(&volume.path)?;
        let user = self.inner.options.user;
        let control = ControlData::read(install, user, &volume.path).await?;
        assert_shut_down(&control)?;
        let pgdata = volume.path.clone();
        self.block(move || {
            neutralise::clean_files(&pgdata, user)?;
            neutralise::trim_wal(&pgdata, &control)
        })
        .await?;
        self.open(install, volume).await
    }

    /// Starts a server on what was a database's data. Its own server may have been ended at once; what it had written is recovered.
    async fn take_over(&self, volume: &Volume) -> Result<Server> {
        let (pgdata, user) = (volume.path.clone(), self.inner.options.user);
        self.block(move || neutralise::clean_files(&pgdata, user)).await?;
        self.open(self.data_install(&volume.path)?, volume).await
    }

    /// Starts a server on a data directory, as a role that is made for this.
    async fn open(&self, install: &Install, volume: &Volume) -> Result<Server> {
        let cluster = self.cluster(install, volume).await?;
        cluster.single_user(&neutralise::admin_commands()).await?;
        cluster.start().await
    }
}

/// Returns the labels of an import's volume.
pub(super) fn labels(options: &DatasetsOptions, attempt: &AttemptId, dataset: &DatasetName) -> Result<Labels> {
    Labels::new()
        .with(keys::KIND, IMPORT)?
        .with(keys::INSTANCE, options.instance.as_str())?
        .with(keys::ATTEMPT, attempt.as_str())?
        .with(keys::DATASET, dataset.as_str())
}

/// What a tar archive held.
enum Unpacked {
    Dump(PathBuf),
    DataDirectory,
}

fn assert_shut_down(control: &ControlData) -> Result<()> {
    if control.is_shut_down() { Ok(()) } else { Err(unclean(&format!("its state is {:?}", control.state()))) }
}

fn unclean(reason: &str) -> Error {
    Error::InvalidDump {
        message: format!("the data directory was not shut down cleanly: {reason}"),
        log: Vec::new(),
        hint: "stop its server with `pg_ctl stop -m fast` and copy it then; a copy by pg_basebackup must be started and stopped once (a standby: promoted first)".into(),
    }
}

/// Returns the major version of PostgreSQL that a data directory is of. What is in a file that is not what it should be, is told to nobody: the file may be
/// another one, which whoever put it there could not read.
///
/// # Errors
/// [`Error::InvalidDump`] if it is none that can be read; [`Error::Unsupported`] for one before PostgreSQL 10.
pub(super) fn version_of(dir: &Path) -> Result<u32> {
    let invalid = |reason: String| Error::InvalidDump {
        message: format!("the file PG_VERSION of the data directory {reason}"),
        log: Vec::new(),
        hint: "give a whole data directory, as the server that made it left it".into(),
    };
    let read = Tree::open(dir).and_then(|tree| tree.read("PG_VERSION", 64));
    let text =
        read.map_err(|e| invalid(format!("cannot be read: {e}")))?.ok_or_else(|| invalid("is missing".into()))?;
    let text = String::from_utf8(text).unwrap_or_default();
    let version = text.trim();
    let is_old = || version.split_once('.').is_some_and(|(a, b)| a.parse::<u8>().is_ok() && b.parse::<u8>().is_ok());
    match version.parse() {
        Ok(major) => Ok(major),
        Err(_) if is_old() => Err(Error::Unsupported {
            message: format!("the data directory is of PostgreSQL {version}, which is too old"),
            hint: "dump it with pg_dump instead".into(),
        }),
        Err(_) => Err(invalid("does not hold a version".into())),
    }
}

/// Returns the bytes of all files below a directory. Blocking.
fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    let walked = Tree::open(dir).and_then(|tree| {
        tree.walk(|_, stat| {
            if kind_of(stat) == FileType::RegularFile {
                bytes += u64::try_from(stat.st_size).unwrap_or_default();
            }
            Ok(())
        })
    });
    walked.map_err(|e| Error::io("import", format!("measuring {}", dir.display()), e))?;
    Ok(bytes)
}
