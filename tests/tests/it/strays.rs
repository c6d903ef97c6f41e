//! Programs that SQL has started, and that hide: they end with what they came from.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use ondemand_tests::{Home, Inventory, Server, ServerOptions, eventually, processes_with, query};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;

/// A program with a word of its own on its command line, so that none of another test is taken for it.
struct Stray {
    /// How long it sleeps, a number that no other has.
    word: String,
}

impl Stray {
    fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        Self { word: format!("1000.{}{:03}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed)) }
    }

    /// The shell's words for starting it where nothing of where it came from is left: no parent, group, session or environment.
    fn hidden(&self) -> String {
        format!("env -i setsid -f /usr/bin/sleep {} </dev/null >/dev/null 2>&1", self.word)
    }

    /// Returns the processes that run it.
    fn running(&self) -> Vec<Pid> {
        processes_with(&["/usr/bin/sleep", &self.word]).unwrap_or_default()
    }

    async fn starts(&self) -> Result<()> {
        eventually(async || if self.running().is_empty() { Err("it does not run") } else { Ok(()) }).await
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        for pid in self.running() {
            // Opened before it is looked at again, so that it cannot be another's by then.
            if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
                && self.running().contains(&pid)
            {
                let _ = pidfd_send_signal(&handle, Signal::KILL);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_database_started_ends_with_it() -> Result<()> {
    let home = Home::new()?;
    let (stray, of_other) = (Stray::new(), Stray::new());
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.import("production", "CREATE TABLE t ();").await?;
    let before = Inventory::take(&home, &home.data())?;
    let database = server.create(json!({})).await?;
    let other = server.create(json!({})).await?;
    let start = |stray: &Stray| format!("COPY (SELECT 1) TO PROGRAM '{}'", stray.hidden());
    query(&other.url, &start(&of_other)).await?;
    of_other.starts().await?;
    query(&database.url, &start(&stray)).await?;
    stray.starts().await?;
    server.reset(&database.id).await?;
    ensure!(stray.running().is_empty(), "it survives a reset");
    // A server that did not start the database knows it too.
    query(&database.url, &start(&stray)).await?;
    stray.starts().await?;
    server.kill().await?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    ensure!(stray.running().len() == 1, "it ended with a server that has nothing to do with it");
    server.delete(&database.id).await?;
    ensure!(stray.running().is_empty(), "it survives a delete");
    ensure!(of_other.running().len() == 1, "another database's was ended");
    server.delete(&other.id).await?;
    ensure!(of_other.running().is_empty());
    before.returns(&home, &home.data()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dump_started_ends_when_its_server_was_killed() -> Result<()> {
    let home = Home::new()?;
    let stray = Stray::new();
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    let before = Inventory::take(&home, &home.data())?;
    let dump = format!("\\! {}\nSELECT pg_sleep(1000);\n", stray.hidden());
    let upload = server.request(reqwest::Method::POST, "/datasets/production").body(dump).send();
    let killed = async {
        stray.starts().await?;
        rustix::process::kill_process(server.pid()?, Signal::KILL)?;
        anyhow::Ok(())
    };
    let (answer, killed) = tokio::join!(upload, killed);
    killed?;
    ensure!(answer.is_err(), "{answer:?}");
    ensure!(stray.running().len() == 1, "nobody has ended it yet");
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    ensure!(stray.running().is_empty(), "it survives: {}", server.log());
    before.returns(&home, &home.data()).await.with_context(|| server.log())
}
