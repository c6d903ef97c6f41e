//! The floor: the system calls and the Postgres that a database cannot do without, and nothing else.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::net::UnixDatagram;

use ondemand_tests::Server;

use crate::{Times, first_query};

/// A snapshot that knows a password, and the command line of a server that this project started.
pub(crate) struct Floor {
    pool: PathBuf,
    snapshot: PathBuf,
    /// The arguments of the real thing, with what differs for each replaced later.
    command: Vec<String>,
    data: String,
    run_dir: String,
    port: String,
    password: String,
    pub(crate) user: (u32, u32),
    number: AtomicU16,
}

/// One bare server.
struct Bare {
    child: Child,
    volume: PathBuf,
    run_dir: tempfile::TempDir,
}

impl Drop for Bare {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.child.wait();
        let _ = libbtrfsutil::delete_subvolume(&self.volume);
        let _ = &self.run_dir;
    }
}

impl Floor {
    /// Makes a database, reads how its Postgres was started, ends it cleanly, and keeps a snapshot of it.
    pub(crate) async fn prepare(server: &Server, home: &Path, dataset: &str) -> Result<Self> {
        let database = crate::create(server, dataset).await?;
        let volume = newest_volume(&home.join("pool").join("volumes"))?;
        let pid_file = std::fs::read_to_string(volume.join("postmaster.pid"))?;
        // In a container the pid is the container's, so the command line is looked for by its data directory.
        let (pid, command) = find_postgres(&volume).with_context(|| format!("no Postgres runs on {pid_file}"))?;
        let option = |name: &str| {
            command
                .iter()
                .find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
                .map(ToOwned::to_owned)
                .with_context(|| format!("it was started without {name}"))
        };
        let (run_dir, port) = (option("unix_socket_directories")?, option("port")?);
        let metadata = std::fs::metadata(&volume)?;
        let user = (std::os::unix::fs::MetadataExt::uid(&metadata), std::os::unix::fs::MetadataExt::gid(&metadata));
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while volume.join("postmaster.pid").exists() {
            ensure!(Instant::now() < deadline, "Postgres did not shut down");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let snapshot = home.join("pool").join("floor");
        libbtrfsutil::CreateSnapshotOptions::new().readonly(true).create(&volume, &snapshot)?;
        server.delete(&database.id).await?;
        Ok(Self {
            pool: home.join("pool"),
            snapshot,
            command,
            data: volume.to_string_lossy().into_owned(),
            run_dir,
            port,
            password: database.password,
            user,
            number: AtomicU16::new(0),
        })
    }

    /// Clones the snapshot under a new name.
    pub(crate) fn clone_volume(&self) -> Result<(PathBuf, u16)> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let volume = self.pool.join(format!("bare-{number}"));
        libbtrfsutil::CreateSnapshotOptions::new().create(&self.snapshot, &volume)?;
        Ok((volume, 22_000 + number % 8000))
    }

    /// Returns the command line for another volume, port and socket directory.
    pub(crate) fn command(&self, volume: &Path, port: u16, run_dir: &Path) -> Vec<String> {
        let (volume, run_dir) = (volume.to_string_lossy(), run_dir.to_string_lossy());
        let port_option = format!("port={}", self.port);
        self.command
            .iter()
            .map(|argument| {
                if *argument == port_option {
                    return format!("port={port}");
                }
                argument.replace(&self.data, &volume).replace(&self.run_dir, &run_dir)
            })
            .collect()
    }

    /// Returns the URL of a bare server.
    pub(crate) fn url(&self, port: u16) -> String {
        format!("postgresql://postgres:{}@127.0.0.1:{port}/postgres", self.password)
    }

    /// Returns the time from nothing to the first answer.
    pub(crate) async fn once(&self) -> Result<Times> {
        let begun = Instant::now();
        let (bare, port) = self.start().await?;
        let ready = begun.elapsed();
        first_query(&self.url(port)).await?;
        let whole = begun.elapsed();
        drop(bare);
        Ok(Times { ready, whole })
    }

    /// Returns the time until the last of many at once has answered.
    pub(crate) async fn many(&self, count: usize) -> Result<Duration> {
        let begun = Instant::now();
        let all = futures_util::future::try_join_all((0..count).map(|_| async {
            let (bare, port) = self.start().await?;
            first_query(&self.url(port)).await?;
            anyhow::Ok(bare)
        }))
        .await?;
        let took = begun.elapsed();
        drop(all);
        Ok(took)
    }

    /// Starts one, and returns it with its port once it says that it is ready.
    async fn start(&self) -> Result<(Bare, u16)> {
        let (volume, port) = tokio::task::block_in_place(|| self.clone_volume())?;
        let run_dir = tempfile::Builder::new().prefix("odf").tempdir_in("/tmp")?;
        std::os::unix::fs::chown(run_dir.path(), Some(self.user.0), Some(self.user.1))?;
        let notify_path = run_dir.path().join("notify");
        let notify = UnixDatagram::bind(&notify_path)?;
        std::os::unix::fs::chown(&notify_path, Some(self.user.0), Some(self.user.1))?;
        let command = self.command(&volume, port, run_dir.path());
        let child = Command::new(&command[0])
            .args(&command[1..])
            .env_clear()
            .env("NOTIFY_SOCKET", &notify_path)
            .uid(self.user.0)
            .gid(self.user.1)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let bare = Bare { child, volume, run_dir };
        let mut message = [0; 512];
        loop {
            let length = tokio::time::timeout(Duration::from_secs(30), notify.recv(&mut message)).await??;
            if message[..length].starts_with(b"READY=1") {
                break;
            }
        }
        Ok((bare, port))
    }
}

fn newest_volume(volumes: &Path) -> Result<PathBuf> {
    std::fs::read_dir(volumes)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("postmaster.pid").exists())
        .max_by_key(|path| path.join("postmaster.pid").metadata().and_then(|m| m.modified()).ok())
        .context("there is no running volume")
}

fn find_postgres(volume: &Path) -> Result<(rustix::process::Pid, Vec<String>)> {
    let volume = volume.to_string_lossy();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else { continue };
        let Ok(command) = std::fs::read(path.join("cmdline")) else { continue };
        let command: Vec<String> = command
            .split(|&b| b == 0)
            .filter(|a| !a.is_empty())
            .map(|a| String::from_utf8_lossy(a).into_owned())
            .collect();
        let is_postgres = command.first().is_some_and(|program| program.ends_with("/postgres"));
        if is_postgres && command.iter().any(|argument| *argument == volume) {
            return Ok((rustix::process::Pid::from_raw(pid).context("a pid")?, command));
        }
    }
    anyhow::bail!("no process has {volume} as its data directory")
}
