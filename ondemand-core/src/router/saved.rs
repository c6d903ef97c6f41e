//! Routes that outlive the process.

use std::convert::Infallible;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{Route, Router};
use crate::catalog::Catalog;
use crate::error::{Code, Error, Result};
use crate::listing::Listing;
use crate::name::{Hostname, hex};

/// Only this user reads where routes lead.
const MODE: u32 = 0o700;
/// How many changes may be under way at once.
const TURNS: usize = 64;
/// The longest host that is the name of a file by itself: a file's name has 255 bytes at most.
const LONGEST: usize = 200;

/// Keeps the routes of another router in a directory, one file each, and sets them again when it is opened.
///
/// A change is on disk before it is made, and both before it returns. A change that cannot be saved is not made. One process at a
/// time may have the directory open.
#[derive(Debug)]
pub struct Saved(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    records: Catalog<Route>,
    router: Arc<dyn Router>,
    /// Changes of one host take turns, so that what is saved last is what holds; hosts share turns with few others.
    turns: [Arc<Mutex<()>>; TURNS],
}

/// What the file of a route is called, but for its ending.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Stem(String);

impl Stem {
    fn of(host: &Hostname) -> Self {
        let host = host.as_str();
        // No host has an underscore.
        let long = || format!("_{}", hex(&Sha256::digest(host)));
        Self(if host.len() <= LONGEST { host.to_owned() } else { long() })
    }
}

impl AsRef<str> for Stem {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Stem {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// The routes that are saved in a directory, before there is a router that has them.
#[derive(Debug)]
pub struct Read {
    records: Catalog<Route>,
    routes: Vec<Route>,
}

impl Read {
    /// Returns the routes.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Keeps the routes of a router, which has been given these.
    pub fn keep(self, router: Arc<dyn Router>) -> Saved {
        Saved(Arc::new(Inner { records: self.records, router, turns: std::array::from_fn(|_| Arc::default()) }))
    }
}

impl Saved {
    /// Opens a directory, makes it if need be, and sets the routes that are saved in it. A file that is no route is reported and
    /// left alone.
    ///
    /// # Errors
    /// [`Backend`](Error::Backend) if the directory cannot be made or read, and what the router returns.
    ///
    /// # Cancel safety
    /// Some of the routes may be set. Calling it again sets all.
    pub async fn open(dir: impl Into<PathBuf>, router: Arc<dyn Router>) -> Result<Self> {
        let read = Self::read(dir).await?;
        for route in read.routes() {
            router.set(route).await?;
        }
        Ok(read.keep(router))
    }

    /// Opens a directory as [`Saved::open`] does, for a router that is made with the routes that are saved in it, such as
    /// [`Proxy::start_with`](super::Proxy::start_with).
    ///
    /// # Errors
    /// [`Backend`](Error::Backend) if the directory cannot be made or read.
    ///
    /// # Cancel safety
    /// At most the directory is made.
    pub async fn read(dir: impl Into<PathBuf>) -> Result<Read> {
        let dir = dir.into();
        blocking(move || {
            let records = Catalog::open(dir.clone(), MODE, "routes")?;
            let routes = read(&records, &dir)?;
            tracing::debug!(routes = routes.len(), "read the routes that were saved");
            Ok(Read { records, routes })
        })
        .await
    }

    /// Makes a change in a task of its own: what is saved and what holds agree, though the caller goes away in between.
    async fn change<F>(&self, host: &Hostname, change: impl FnOnce(Arc<Inner>) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let turn = self.0.turn(host).await;
        let change = change(Arc::clone(&self.0));
        let changed = tokio::spawn(async move {
            let _turn = turn;
            change.await
        });
        changed.await.map_err(|e| Error::backend("routes", "changing a route", e))?
    }
}

/// Returns the routes that can be read.
fn read(records: &Catalog<Route>, dir: &Path) -> Result<Vec<Route>> {
    let Listing { found, unreadable } = records.list::<Stem>()?;
    for unreadable in unreadable {
        tracing::warn!(directory = %dir.display(), "passing over a route: {unreadable}");
    }
    let usable = found.into_iter().filter_map(|(stem, route)| {
        let problem = if Stem::of(&route.host) == stem {
            route.validate().err().map(|e| e.to_string())
        } else {
            Some(format!("it is the route of {}", route.host))
        };
        let Some(problem) = problem else { return Some(route) };
        let record = dir.join(format!("{}.json", stem.0));
        tracing::warn!(record = %record.display(), "passing over a route that cannot be set: {problem}");
        None
    });
    Ok(usable.collect())
}

impl Inner {
    async fn turn(&self, host: &Hostname) -> OwnedMutexGuard<()> {
        let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one(host);
        // The remainder is below the number of turns, whatever is cut off.
        #[expect(clippy::cast_possible_truncation, reason = "it only spreads hosts")]
        let turn = hash as usize % TURNS;
        Arc::clone(&self.turns[turn]).lock_owned().await
    }

    async fn save(self: &Arc<Self>, route: Route) -> Result<()> {
        let inner = Arc::clone(self);
        blocking(move || inner.records.replace(Stem::of(&route.host).as_ref(), &route, true)).await
    }

    async fn forget(self: &Arc<Self>, host: Hostname) -> Result<()> {
        let inner = Arc::clone(self);
        blocking(move || {
            inner.records.remove(Stem::of(&host).as_ref())?;
            inner.records.sync()
        })
        .await
    }

    /// Saves what holds, after a change that was saved and then not made.
    async fn take_back(self: &Arc<Self>, host: Hostname) {
        let restored = match self.router.get(&host).await {
            Ok(route) => self.save(route).await,
            Err(error) if error.code() == Code::NotFound => self.forget(host.clone()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = restored {
            tracing::error!(%host, "a change was saved that could not be made, and holds after a restart: {error}");
        }
    }
}

#[async_trait]
impl Router for Saved {
    async fn set(&self, route: &Route) -> Result<()> {
        route.validate()?;
        let route = route.clone();
        let host = route.host.clone();
        let set = |inner: Arc<Inner>| async move {
            inner.save(route.clone()).await?;
            let set = inner.router.set(&route).await;
            if set.is_err() {
                inner.take_back(route.host).await;
            }
            set
        };
        self.change(&host, set).await
    }

    async fn remove(&self, host: &Hostname) -> Result<()> {
        let removed = host.clone();
        let remove = |inner: Arc<Inner>| async move {
            inner.forget(removed.clone()).await?;
            let gone = inner.router.remove(&removed).await;
            if gone.is_err() {
                inner.take_back(removed).await;
            }
            gone
        };
        self.change(host, remove).await
    }

    async fn list(&self) -> Result<Vec<Route>> {
        self.0.router.list().await
    }

    async fn get(&self, host: &Hostname) -> Result<Route> {
        self.0.router.get(host).await
    }
}

/// Runs what waits for the disk where it holds up nothing else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::backend("routes", "working on saved routes", e))?
}

#[cfg(test)]
mod tests;
