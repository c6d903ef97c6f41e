//! Shells that are started before it is known what they are to run. Until it is, they cost nothing but their start, and nobody waits for that.

use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::orchestrator::turns::locked;

/// It runs the script once all of it has arrived. Without a script, it ends with the status of a process that was not released.
const WAIT: &str = ". /proc/self/fd/0; exit 125";

/// The shells that wait for a script on their standard input. One whose input ends without any ends, so none outlives this process.
#[derive(Debug, Default)]
pub(super) struct Spares(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How many deployments are expected.
    expected: usize,
    shells: Vec<JoinHandle<io::Result<Child>>>,
}

/// A deployment that is expected. When it is not any more, there is one shell less if there are too many.
#[derive(Debug)]
pub(super) struct Expectation(Arc<Spares>);

impl Spares {
    /// Starts a shell for a deployment that is expected, in the background. The variable tells whose it is.
    pub(super) fn expect(self: &Arc<Self>, variable: (&'static str, String)) -> Expectation {
        let shell = tokio::task::spawn_blocking(move || spawn(variable));
        let mut state = locked(&self.0);
        state.expected += 1;
        state.shells.push(shell);
        Expectation(Arc::clone(self))
    }

    /// Takes a shell, if there is one that waits. One that is still being started is not waited for.
    pub(super) async fn take(&self) -> Option<Child> {
        let shell = {
            let shells = &mut locked(&self.0).shells;
            let started = shells.iter().position(JoinHandle::is_finished)?;
            shells.remove(started)
        };
        let mut shell = shell.await.ok()?.ok()?;
        matches!(shell.try_wait(), Ok(None)).then_some(shell)
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        let mut state = locked(&self.0.0);
        state.expected -= 1;
        let kept = state.expected;
        state.shells.truncate(kept);
    }
}

fn spawn((name, value): (&'static str, String)) -> io::Result<Child> {
    let mut command = Command::new("/bin/sh");
    // As one of a service, see `Setting::command`.
    command
        .args(["-c", WAIT, "ondemand-shim"])
        .env_clear()
        .env(name, value)
        .envs(std::env::var_os("LANG").map(|lang| ("LANG", lang)))
        .process_group(0)
        .current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Expects a deployment, and waits until there is a shell for it.
    async fn expect(spares: &Arc<Spares>) -> Expectation {
        let expectation = spares.expect(("ONDEMAND_STACK", "test/".to_owned()));
        while !locked(&spares.0).shells.iter().all(JoinHandle::is_finished) {
            tokio::task::yield_now().await;
        }
        expectation
    }

    async fn ended(mut shell: Child) -> Option<i32> {
        drop(shell.stdin.take());
        shell.wait().await.expect("a status").code()
    }

    #[tokio::test]
    async fn there_are_no_more_shells_than_are_expected() {
        let spares = Arc::new(Spares::default());
        assert!(spares.take().await.is_none());
        let (first, second) = (expect(&spares).await, expect(&spares).await);
        let one = spares.take().await.expect("a shell");
        drop(first);
        let two = spares.take().await.expect("the second is still expected");
        assert!(spares.take().await.is_none());
        drop(second);
        // Nothing was said to them.
        assert_eq!((ended(one).await, ended(two).await), (Some(125), Some(125)));
        drop(expect(&spares).await);
        assert!(spares.take().await.is_none(), "nothing is expected any more");
    }

    #[tokio::test]
    async fn half_a_script_is_not_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let spares = Arc::new(Spares::default());
        let ran = dir.path().join("ran");
        for (end, runs) in [("", false), ("; }\n", true)] {
            let _expected = expect(&spares).await;
            let mut shell = spares.take().await.expect("a shell");
            let mut pipe = shell.stdin.take().expect("a pipe");
            pipe.write_all(format!("{{ : >'{}'{end}", ran.display()).as_bytes()).await.expect("written");
            drop(pipe);
            shell.wait().await.expect("a status");
            assert_eq!(ran.try_exists().expect("an answer"), runs);
        }
    }
}
