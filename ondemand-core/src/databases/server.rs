//! Starting a database's server, and taking it away.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use super::Programs;
use super::inner::Inner;
use super::record::Record;
use crate::error::{Error, Result};
use crate::label::keys;
use crate::name::{AttemptId, DatabaseId, ServiceName};
use crate::orchestrator::{LogOptions, Mount, PublishedPort, ServiceSpec, Stack, StackSpec, StopSignal};
use crate::own;
use crate::postgres::program::says_disk_full;
use crate::postgres::{Endpoint, Launch, Notify, install, memory};

/// The port a server listens on inside a container.
const CONTAINER_PORT: u16 = 5432;

/// How long a server has to end before it is killed. A server told to end at once has nothing to wait for.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// The size of a container's `/dev/shm`; Postgres keeps what parallel queries share there, and 64 MB, the usual size, is soon full.
const SHM_SIZE: u64 = 1 << 30;

/// How many lines of a log an error carries.
const LOG_TAIL: usize = 20;

impl Inner {
    /// Starts the server of a record's volume, which is at `data`, and returns once it answers.
    pub(super) async fn start(&self, record: &Record, data: &Path) -> Result<()> {
        let run_dir = self.make_run_dir(&record.id)?;
        let notify = Notify::bind(self.notify_path(&record.id))?;
        let spec = self.spec(record, data, &run_dir, &notify)?;
        tracing::debug!(id = record.id.short(), "deploying");
        self.orchestrator.deploy(&spec).await?;
        tracing::debug!(id = record.id.short(), "deployed");
        self.wait_ready(record, &notify).await
    }

    /// Starts a server again whose stack is there and has ended.
    pub(super) async fn restart(&self, record: &Record) -> Result<()> {
        self.make_run_dir(&record.id)?;
        let notify = Notify::bind(self.notify_path(&record.id))?;
        self.orchestrator.set_running(&record.stack(), true).await?;
        self.wait_ready(record, &notify).await
    }

    /// Tells whether a stack was made for a volume that is elsewhere now, as its data directory was moved.
    pub(super) async fn has_moved(&self, record: &Record, stack: &Stack) -> Result<bool> {
        let Some(path) = stack.labels.get(keys::PATH) else { return Ok(false) };
        Ok(self.volume(record).await?.is_some_and(|volume| volume.path.to_str() != Some(path)))
    }

    /// Removes a volume, the stack on it, and its sockets. What runs on another volume of the same database stays.
    pub(super) async fn discard(&self, record: &Record) -> Result<()> {
        if self.remove_stack(record).await? {
            self.remove_run_dir(&record.id)?;
        }
        // In a container it has gone with the container.
        if let (Programs::Host(_), Ok(Some(volume))) = (&self.options.programs, self.volume(record).await) {
            memory::free(&volume.path, self.options.user).await;
        }
        self.store.delete_volume(&record.volume()).await
    }

    /// Removes the stack on a record's volume. Tells whether none of its name is left.
    pub(super) async fn remove_stack(&self, record: &Record) -> Result<bool> {
        match self.orchestrator.get(&record.stack()).await {
            Ok(stack) if record.owns(&stack) => {
                self.orchestrator.remove(&stack.id).await?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(Error::NotFound { .. }) => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Returns where a database's server can be reached by this process.
    pub(super) fn endpoint(&self, record: &Record) -> Endpoint {
        Endpoint { run_dir: self.run_dir(&record.id), port: self.inner_port(record), dbname: record.dbname.clone() }
    }

    /// Returns the directory of a database's sockets.
    fn run_dir(&self, id: &DatabaseId) -> PathBuf {
        self.instance.runtime_dir.join(id.short())
    }

    /// Returns where a database's server says that it is ready. Not among its own sockets: that directory is its user's.
    fn notify_path(&self, id: &DatabaseId) -> PathBuf {
        self.instance.runtime_dir.join(format!("{}.ready", id.short()))
    }

    fn make_run_dir(&self, id: &DatabaseId) -> Result<PathBuf> {
        let path = self.run_dir(id);
        let failed = |e| Error::io("runtime directory", format!("making {}", path.display()), e);
        // The mode lets only Postgres's user in; after a reset or a crash the directory is there already.
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
        let user = self.options.user;
        own::chown(&path, Some(user.uid), Some(user.gid)).map_err(failed)?;
        Ok(path)
    }

    pub(super) fn remove_run_dir(&self, id: &DatabaseId) -> Result<()> {
        let (path, notify) = (self.run_dir(id), self.notify_path(id));
        // A process that was killed while it waited has left its end of the line.
        for removed in [own::remove_dir_all(&path), own::remove_file(&notify)] {
            match removed {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("runtime directory", format!("removing {}", path.display()), e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn inner_port(&self, record: &Record) -> u16 {
        match self.options.programs {
            Programs::Host(_) => record.port,
            Programs::Image { .. } => CONTAINER_PORT,
        }
    }

    fn spec(&self, record: &Record, data: &Path, run_dir: &Path, notify: &Notify) -> Result<StackSpec> {
        let major = record.postgres;
        let in_place = |text: &str| text.replace("{major}", &major.to_string());
        let (image, bin_dir) = match &self.options.programs {
            Programs::Host(installed) => {
                let bin_dir = installed.get(&major).ok_or_else(|| Error::Unsupported {
                    message: format!("the dataset needs PostgreSQL {major}, which is not installed"),
                    hint: format!("apt-get install postgresql-{major}, or import the dataset again"),
                })?;
                // A sandbox sees it at its real path.
                (None, bin_dir.canonicalize().unwrap_or_else(|_| bin_dir.clone()))
            }
            Programs::Image { image, bin_dir } => (Some(in_place(image)), PathBuf::from(in_place(bin_dir))),
        };
        let target = self.inner_port(record);
        let launch = Launch {
            bin_dir: &bin_dir,
            data,
            files: &self.options.files,
            run_dir,
            listen: image.is_none().then_some(self.options.listen),
            port: target,
            durable: record.durable,
            settings: [&self.options.settings, &record.settings],
        };
        let mut service = ServiceSpec::new(ServiceName::new("postgres")?, launch.command());
        service.image = image;
        service.env.insert("NOTIFY_SOCKET".to_owned(), notify.path().to_string_lossy().into_owned());
        // Errors in the log are looked for in English.
        service.env.insert("LC_MESSAGES".to_owned(), "C".to_owned());
        // What starts it has a dozen files less to read.
        service.env.insert("LANG".to_owned(), "C".to_owned());
        service.user = Some(self.options.user);
        service.mounts =
            vec![Mount::same(data, false), Mount::same(run_dir, false), Mount::same(&self.options.files, true)];
        if let Programs::Host(_) = self.options.programs {
            // In a sandbox it sees nothing else of the host. A container keeps what it saw first, and would not find the next socket of this name.
            service.mounts.push(Mount::same(notify.path(), false));
            service.mounts.extend(install::mounts(&bin_dir));
        }
        service.sandboxed = true;
        service.placement.limits = self.options.limits;
        let published = (self.options.listen, record.port).into();
        service.ports = vec![PublishedPort { published, target }];
        // Whoever ends a server here throws its data away, or will have it replay its log: a checkpoint would be wasted.
        service.stop_signal = StopSignal::Quit;
        service.stop_grace = STOP_GRACE;
        service.shm_size = Some(SHM_SIZE);
        let mut labels = record.stack_labels(&self.instance.id)?;
        // Where it cannot be a label, a data directory that was moved is not noticed.
        if let Some(path) = data.to_str()
            && let Err(error) = labels.set(keys::PATH, path)
        {
            tracing::debug!(%error, "the place of a volume is not noted");
        }
        Ok(StackSpec { labels, ..StackSpec::new(record.stack(), AttemptId::random()?, vec![service]) })
    }

    /// Waits until the server answers, ends, or has taken too long.
    async fn wait_ready(&self, record: &Record, notify: &Notify) -> Result<()> {
        let (endpoint, name) = (self.endpoint(record), record.stack());
        let begun = Instant::now();
        let last = tokio::select! {
            ready = self.engine.wait_ready(&endpoint, notify) => return ready,
            stopped = self.orchestrator.wait_stopped(&name) => {
                let stack = stopped?;
                stack.services.first().map_or_else(|| "it has no service".to_owned(), |service| format!("Postgres {}", service.state))
            }
            () = tokio::time::sleep(self.options.ready_timeout) => "Postgres runs, but does not answer".to_owned(),
        };
        let log = self.log_tail(record).await;
        if let Some(line) = log.iter().find(|line| says_disk_full(line)) {
            return Err(Error::OutOfSpace { message: format!("Postgres could not start: {line}") });
        }
        if let Some(line) = log.iter().find_map(|line| refused_setting(line, &record.settings)) {
            return Err(Error::invalid("settings", line));
        }
        Err(Error::NotReady { waited: begun.elapsed(), last, log })
    }

    /// Returns the end of a server's log, or as much of it as can be had within a moment.
    async fn log_tail(&self, record: &Record) -> Vec<String> {
        let options = LogOptions { tail: Some(LOG_TAIL), ..LogOptions::default() };
        let mut lines = self.orchestrator.logs(&record.stack(), options);
        let mut tail = Vec::new();
        let read = async {
            while let Some(Ok(line)) = lines.next().await {
                tail.push(line.text);
            }
        };
        // Without it the error says less, and is no less true.
        let _ = tokio::time::timeout(Duration::from_secs(2), read).await;
        tail
    }
}

/// Returns what Postgres says of one of these settings, if it is why it does not start: it names the setting, or the file that is its value.
fn refused_setting<'a>(line: &'a str, settings: &BTreeMap<String, String>) -> Option<&'a str> {
    let (_, said) = line.split_once("FATAL:")?;
    let quotes = |text: &str| said.contains(&format!("\"{}\"", text.trim()));
    let named = |(name, value): (&String, &String)| quotes(name) || value.split(',').any(quotes);
    settings.iter().any(named).then(|| said.trim_start())
}

/// Tells whether a server failed to start because somebody had taken its port meanwhile.
pub(super) fn port_was_taken(error: &Error) -> bool {
    match error {
        Error::NotReady { log, .. } => log.iter().any(|line| line.contains("Address already in use")),
        Error::Conflict { message, .. } => message.contains("port"),
        _ => false,
    }
}
