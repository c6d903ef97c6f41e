//! All that Docker shows of what an installation has in the laboratory.

use std::process::Command;

use anyhow::Result;

use super::Cluster;
use crate::run;

impl Cluster {
    /// Returns the ids of the installation's containers, each with the engine that has it.
    ///
    /// # Errors
    /// If an engine does not answer.
    pub async fn containers(&self) -> Result<Vec<(String, String)>> {
        let filter = format!("label=ondemand.instance={}", self.instance()?);
        let mut found = Vec::new();
        for engine in Self::engines()? {
            let words = ["--host", &engine, "ps", "--quiet", "--no-trunc", "--filter", &filter];
            let ids = run(Command::new("docker").args(words)).await?;
            found.extend(ids.lines().map(|id| (engine.clone(), id.to_owned())));
        }
        Ok(found)
    }

    /// Returns what Docker shows of its services, tasks, secrets, configs, networks and containers, with their logs, and the arguments and variables of
    /// their processes.
    ///
    /// # Errors
    /// If an engine does not answer.
    pub async fn shown(&self) -> Result<String> {
        let filter = format!("label=ondemand.instance={}", self.instance()?);
        let mut seen = String::new();
        for kind in ["service", "secret", "config", "network"] {
            let ids = run(&mut self.docker(&[kind, "ls", "--quiet", "--filter", &filter])?).await?;
            for id in ids.lines() {
                seen += &run(&mut self.docker(&[kind, "inspect", id])?).await?;
                if kind == "service" {
                    seen += &run(&mut self.docker(&["service", "ps", "--no-trunc", id])?).await?;
                    seen += &run(&mut self.docker(&["service", "logs", "--raw", id])?).await?;
                    let tasks = run(&mut self.docker(&["service", "ps", "--quiet", "--no-trunc", id])?).await?;
                    for task in tasks.lines() {
                        seen += &run(&mut self.docker(&["inspect", task])?).await?;
                    }
                }
            }
        }
        for (engine, id) in self.containers().await? {
            for words in [
                &["inspect", &id][..],
                &["top", &id, "-eo", "pid,args"],
                &["exec", &id, "sh", "-c", "cat /proc/1/environ"],
            ] {
                seen += &run(Command::new("docker").args(["--host", &engine]).args(words)).await?;
            }
        }
        Ok(seen)
    }
}
