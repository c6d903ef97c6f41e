//! Talking to a server that has just been started.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::NoTls;

use super::{ADMIN_ROLE, Notify, USER};
use crate::error::{Error, Result};

/// Where a server can be reached by this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The directory of its Unix socket.
    pub run_dir: PathBuf,
    /// The port in the name of its Unix socket.
    pub port: u16,
    /// A Postgres database that exists on it.
    pub dbname: String,
}

/// What databases need of a Postgres server besides that it runs. [`Wire`] is the real one.
#[async_trait]
pub trait Engine: Debug + Send + Sync + 'static {
    /// Returns once the server answers.
    ///
    /// # Errors
    /// [`Error::Backend`] if it cannot be asked. Time limits, and noticing that it has ended, are the caller's.
    async fn wait_ready(&self, server: &Endpoint, notify: &Notify) -> Result<()>;

    /// Gives the user that is handed out a password, as a SCRAM-SHA-256 verifier, and makes sure it may log in.
    ///
    /// # Errors
    /// [`Error::Backend`].
    async fn set_password(&self, server: &Endpoint, verifier: &str) -> Result<()>;

    /// Tells whether nobody listens on an address.
    fn is_free(&self, address: SocketAddr) -> bool;
}

/// Speaks Postgres's protocol over its Unix socket.
#[derive(Debug, Default)]
pub struct Wire {
    /// Whether a server has ever said `READY=1`. While none has, it is asked by handshake as well.
    notifies: AtomicBool,
}

/// How long to rely on `READY=1` alone, once a server has been seen to say it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often to try a handshake.
const HANDSHAKE_INTERVAL: Duration = Duration::from_millis(10);

impl Wire {
    async fn connect(server: &Endpoint) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(&server.run_dir)
            .port(server.port)
            .user(ADMIN_ROLE)
            .dbname(&server.dbname)
            .application_name("ondemand")
            .connect(NoTls)
            .await?;
        // It ends when the client is dropped; its errors reach the client's calls.
        tokio::spawn(connection);
        Ok(client)
    }

    /// Returns once a handshake succeeds. A server that is starting refuses, or says so with its own SQLSTATE.
    async fn handshake(server: &Endpoint) {
        while Self::connect(server).await.is_err() {
            tokio::time::sleep(HANDSHAKE_INTERVAL).await;
        }
    }
}

#[async_trait]
impl Engine for Wire {
    async fn wait_ready(&self, server: &Endpoint, notify: &Notify) -> Result<()> {
        let notifies = self.notifies.load(Ordering::Relaxed);
        let fallback = async {
            if notifies {
                tokio::time::sleep(PATIENCE).await;
            }
            Self::handshake(server).await;
        };
        tokio::select! {
            biased;
            ready = notify.ready() => {
                self.notifies.store(true, Ordering::Relaxed);
                ready
            }
            () = fallback => Ok(()),
        }
    }

    async fn set_password(&self, server: &Endpoint, verifier: &str) -> Result<()> {
        let failed = |e| Error::backend("postgres", "setting the password", e);
        let client = Self::connect(server).await.map_err(failed)?;
        // A verifier holds nothing that needs escaping; the check keeps it so.
        if verifier.contains(['\'', '\\']) {
            return Err(Error::backend("postgres", "setting the password", "the verifier needs escaping"));
        }
        // Written at once, also where commits need not be: a server that crashes the next moment must not have forgotten it.
        let set = format!("SET synchronous_commit = on; ALTER ROLE {USER} LOGIN PASSWORD '{verifier}'");
        client.batch_execute(&set).await.map_err(failed)
    }

    fn is_free(&self, address: SocketAddr) -> bool {
        std::net::TcpListener::bind(address).is_ok()
    }
}
