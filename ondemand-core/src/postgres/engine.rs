//! Talking to a server that has just been started.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use super::cluster::quote_text;
use super::program::sql_error;
use super::{ADMIN_ROLE, Notify, USER};
use crate::error::Result;
use crate::secret::Secret;

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
    /// [`Backend`](crate::Error::Backend) if it cannot be asked. Time limits, and noticing that it has ended, are the caller's.
    async fn wait_ready(&self, server: &Endpoint, notify: &Notify) -> Result<()>;

    /// Gives the user that is handed out a password, as a SCRAM-SHA-256 verifier, and makes sure it may log in.
    ///
    /// # Errors
    /// [`Backend`](crate::Error::Backend).
    async fn set_password(&self, server: &Endpoint, verifier: &str) -> Result<()>;

    /// Tells whether a password opens the server for the user that is handed out.
    ///
    /// # Errors
    /// [`Backend`](crate::Error::Backend) if the server does not say.
    async fn accepts(&self, server: &Endpoint, password: &Secret) -> Result<bool>;

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
    async fn connect(server: &Endpoint, user: &str, password: &str) -> Result<Session, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&server.run_dir).port(server.port).dbname(&server.dbname).application_name("ondemand");
        let (client, connection) = config.user(user).password(password).connect(NoTls).await?;
        // Its errors reach the client's calls.
        Ok(Session { client, connection: tokio::spawn(connection) })
    }

    /// Returns once a handshake succeeds. A server that is starting refuses, or says so with its own SQLSTATE.
    async fn handshake(server: &Endpoint) {
        loop {
            match Self::connect(server, ADMIN_ROLE, "").await {
                Ok(session) => return session.close().await,
                Err(_) => tokio::time::sleep(HANDSHAKE_INTERVAL).await,
            }
        }
    }
}

/// A connection and the task that serves it.
struct Session {
    client: tokio_postgres::Client,
    connection: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Session {
    /// Says goodbye, and waits until it is said: else the server's log would begin with a complaint.
    async fn close(self) {
        drop(self.client);
        // Whatever it ends with, it has ended.
        let _ = self.connection.await;
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
        let failed = |e| sql_error("setting the password", e);
        let session = Self::connect(server, ADMIN_ROLE, "").await.map_err(failed)?;
        let verifier = quote_text(verifier);
        // Written at once, also where commits need not be: a server that crashes the next moment must not have forgotten it.
        let set = format!("SET synchronous_commit = on; ALTER ROLE {USER} LOGIN PASSWORD {verifier}");
        session.client.batch_execute(&set).await.map_err(failed)?;
        session.close().await;
        Ok(())
    }

    async fn accepts(&self, server: &Endpoint, password: &Secret) -> Result<bool> {
        match Self::connect(server, USER, password.expose()).await {
            Ok(session) => {
                session.close().await;
                Ok(true)
            }
            Err(error) if error.code() == Some(&SqlState::INVALID_PASSWORD) => Ok(false),
            Err(error) => Err(sql_error("trying the password", error)),
        }
    }

    fn is_free(&self, address: SocketAddr) -> bool {
        std::net::TcpListener::bind(address).is_ok()
    }
}
