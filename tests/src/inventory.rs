//! Everything that a server has made, so that what is there before and after can be compared.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

use crate::home::Home;

/// What is there: volumes, snapshots, records, logs, sockets, processes, containers; each a line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Takes it, of a home and a data directory in it.
    ///
    /// # Errors
    /// If something cannot be listed.
    pub fn take(home: &Home, data: &Path) -> Result<Self> {
        let mut found = Self::files(home, data)?;
        found.extend(home.servers()?.into_iter().map(|(pid, data)| format!("process {pid} of {}", data.display())));
        let works = data.join("environments");
        let working = home
            .processes()?
            .into_iter()
            .filter(|(pid, _)| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&works)));
        found.extend(working.map(|(pid, command)| format!("process {pid} of an environment: {command}")));
        found.extend(home.containers()?.into_iter().map(|id| format!("container {id}")));
        Ok(Self(found))
    }

    /// Lists what has a file or a directory: what stays the same when processes are started again.
    ///
    /// # Errors
    /// If something cannot be listed.
    pub fn files(home: &Home, data: &Path) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        let environments = data.join("environments");
        let directories = ["stacks", "logs", "containers", "pool", "store", "routes"].map(|name| data.join(name));
        if let Ok(entries) = std::fs::read_dir(&environments) {
            for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
                list(&entry.path(), &mut found)?;
            }
        }
        for directory in directories.into_iter().chain(home.runtime_dirs()) {
            list(&directory, &mut found)?;
        }
        for directory in ["volumes", "snapshots"] {
            list(&data.join("pool").join(directory), &mut found)?;
            list(&data.join("store").join(directory), &mut found)?;
        }
        // A database that is made and removed leaves an index of BTRFS, a lock of its records; neither is a thing.
        found.retain(|line| !line.ends_with("/.lock"));
        Ok(found)
    }

    /// Waits until a volume, a record or a directory of sockets is there besides: until something has begun to be made.
    ///
    /// # Errors
    /// If there is none within a minute.
    pub async fn grows(&self, home: &Home, data: &Path) -> Result<()> {
        crate::eventually(async || {
            anyhow::ensure!(!Self::files(home, data)?.is_subset(&self.0), "nothing has begun");
            Ok(())
        })
        .await
    }

    /// Waits until what is there is just this again.
    ///
    /// # Errors
    /// If it is not within a minute, with what is there besides, or not any more.
    pub async fn returns(&self, home: &Home, data: &Path) -> Result<()> {
        crate::eventually(async || {
            let now = Self::take(home, data)?;
            let more: Vec<_> = now.0.difference(&self.0).collect();
            let less: Vec<_> = self.0.difference(&now.0).collect();
            anyhow::ensure!(more.is_empty() && less.is_empty(), "there is also {more:?}, and missing is {less:?}");
            Ok(())
        })
        .await
    }
}

fn list(directory: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries {
                found.insert(entry?.path().display().to_string());
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}
