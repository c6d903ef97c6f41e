//! The program as users and scripts meet it: what it prints, where, and how it ends.

#![expect(clippy::expect_used, reason = "what a test cannot do without fails it")]

mod configuration;
mod env_on_demand;
mod environments;
mod envs;
mod fake;
mod import;
mod servers;
mod words;

use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Makes a command of the program that knows nothing of this machine's configuration, in an empty directory.
fn ondemand(directory: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ondemand"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.current_dir(directory).stdin(Stdio::null());
    command
}

fn empty_directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// Writes an outcome for a snapshot.
fn outcome(output: &Output) -> String {
    let status = output.status.code().map_or("a signal".into(), |code| code.to_string());
    format!("status {status}\n--- stdout\n{}--- stderr\n{}", stdout(output), stderr(output))
}
