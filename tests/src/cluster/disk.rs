//! A node of the laboratory whose disk is small, so that it can be filled.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Cluster, variable};
use crate::{eventually, run};

/// The script that starts and stops the laboratory.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/setup/swarm.sh");

/// The disk that a node's engine keeps images and containers on, which holds none at first. When it is dropped, the node is started again with the disk
/// that it had. Nothing else may use the laboratory meanwhile.
#[derive(Debug)]
pub struct SmallDisk {
    node: usize,
    fill: PathBuf,
}

impl SmallDisk {
    /// Starts a worker again with one of that size (`96m`), and returns once the swarm has it back.
    ///
    /// # Errors
    /// If the node does not come back.
    pub async fn of(node: usize, size: &str) -> Result<Self> {
        let directory = PathBuf::from(variable("ONDEMAND_TEST_SWARM_DIR")?);
        let mut disk = Self { node, fill: PathBuf::new() };
        run(Command::new(SCRIPT).args(["small"]).arg(&directory).args([&node.to_string(), size])).await?;
        let pid = std::fs::read_to_string(directory.join(node.to_string()).join("docker.pid"))?;
        disk.fill = format!("/proc/{}/root/run/disk/fill", pid.trim()).into();
        let engine = Cluster::engines()?.into_iter().nth(node - 1).context("a node")?;
        let manager = variable("ONDEMAND_TEST_SWARM_HOST")?;
        eventually(async || {
            let own = ["--host", &engine, "info", "--format", "{{.Swarm.LocalNodeState}}"];
            let own = run(Command::new("docker").args(own)).await?;
            let seen = ["--host", &manager, "node", "ls", "--format", "{{.Hostname}} {{.Status}}"];
            let seen = run(Command::new("docker").args(seen)).await?;
            ensure!(own.trim() == "active" && seen.contains(&format!("node-{node} Ready")), "{own} {seen}");
            Ok(())
        })
        .await?;
        Ok(disk)
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// If it cannot be written for another reason.
    pub fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(&self.fill).with_context(|| self.fill.display().to_string())?;
        let zeros = vec![0; 1 << 16];
        loop {
            match file.write(&zeros) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes back what filled it.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn make_room(&self) -> Result<()> {
        Ok(std::fs::remove_file(&self.fill)?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let script = |directory: String, what: &str| {
            Command::new(SCRIPT).args([what, &directory, &self.node.to_string()]).output().map_err(anyhow::Error::from)
        };
        let again = || {
            for what in ["kill", "revive"] {
                let done = script(variable("ONDEMAND_TEST_SWARM_DIR")?, what)?;
                ensure!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
            }
            Ok(())
        };
        if let Err(error) = again() {
            eprintln!("node {} could not be given its disk again: {error}", self.node);
        }
    }
}
