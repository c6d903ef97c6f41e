//! What the end-to-end tests and the benchmark share: real servers, in homes of their own, that leave nothing.
#![expect(
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "this is for tests: what fails must fail here, and be seen"
)]

pub mod cluster;
pub mod embedded;
pub mod engine;
pub mod events;
pub mod forge;
pub mod home;
pub mod inventory;
pub mod ports;
pub mod registry;
pub mod report;
pub mod server;
pub mod shop;

use std::time::{Duration, Instant};

pub use cluster::Cluster;
pub use events::Steps;
pub use forge::Forge;
pub use home::{Home, processes_with};
pub use inventory::Inventory;
pub use ports::free_range;
pub use registry::Registry;
pub use server::{Database, ProxyOptions, Server, ServerOptions};
pub use shop::Shop;

/// Waits until something holds, looking every few milliseconds: for what tells nobody when it happens.
///
/// # Errors
/// If it does not hold within a minute, with what was seen last.
pub async fn eventually<T, E: std::fmt::Debug>(mut look: impl AsyncFnMut() -> Result<T, E>) -> anyhow::Result<T> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(last) => anyhow::ensure!(Instant::now() < deadline, "it did not happen within a minute: {last:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs a program to its end, and returns its output.
///
/// # Errors
/// If it fails, with what it said.
pub async fn run(command: &mut std::process::Command) -> anyhow::Result<String> {
    use anyhow::Context;
    let mut command = tokio::process::Command::from(std::mem::replace(command, std::process::Command::new("true")));
    let output = command.stdin(std::process::Stdio::null()).kill_on_drop(true).output().await.context("starting it")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "{}: {}: {said}", command.as_std().get_program().display(), output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Connects as a user would, asks for something, and returns it as text.
///
/// # Errors
/// Whatever keeps the answer from coming.
pub async fn query(url: &str, sql: &str) -> anyhow::Result<String> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let rows = client.simple_query(sql).await;
    drop(client);
    connection.await??;
    let value = rows?.into_iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    Ok(value.unwrap_or_default())
}

/// Returns the URL without its password, and the password.
///
/// # Errors
/// If it is not a connection URL with a password.
pub fn without_password(url: &str) -> anyhow::Result<(String, String)> {
    use anyhow::Context;
    let (user, rest) = url.split_once('@').context("the URL names no user")?;
    let (user, password) = user.rsplit_once(':').context("the URL has no password")?;
    Ok((format!("{user}@{rest}"), password.to_owned()))
}

/// Returns the configuration of the crash tests: child processes on a small pool.
///
/// # Panics
/// Never: its literals are valid.
pub fn crash_config(data_dir: std::path::PathBuf, first_port: u16) -> ondemand_core::Config {
    let mut config = ondemand_core::Config { data_dir, ..ondemand_core::Config::default() };
    config.databases.first_port = first_port;
    config.databases.last_port = first_port + 99;
    config.databases.default_dataset = Some("production".parse().expect("a dataset"));
    config.pool.size = Some(ondemand_core::Size(2 << 30));
    config.postgres.bin_dir = std::env::var_os("ONDEMAND_TEST_POSTGRES").map(Into::into);
    config
}
