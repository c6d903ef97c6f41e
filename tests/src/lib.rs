//! What the end-to-end tests and the benchmark share: real servers, in homes of their own, that leave nothing.

pub mod home;
pub mod server;

pub use home::Home;
pub use server::{Database, Server, ServerOptions, free_range};

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
    config
}
