//! Routes that outlive the process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{Route, Router};
use crate::catalog::Catalog;
use crate::error::{Code, Error, Result};
use crate::listing::Unreadable;
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
    /// What could not be read when the directory was opened, and has not been set or removed since.
    unreadable: std::sync::Mutex<BTreeMap<Stem, Unreadable>>,
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
    unreadable: BTreeMap<Stem, Unreadable>,
    routes: Vec<Route>,
}

impl Read {
    /// Returns the routes.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Keeps the routes of a router, which has been given these.
    pub fn keep(self, router: Arc<dyn Router>) -> Saved {
        let Self { records, unreadable, .. } = self;
        let unreadable = std::sync::Mutex::new(unreadable);
        Saved(Arc::new(Inner { records, unreadable, router, turns: std::array::from_fn(|_| Arc::default()) }))
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
            let read = read(records, &dir)?;
            tracing::debug!(routes = read.routes.len(), "read the routes that were saved");
            Ok(read)
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

/// Reads the routes, and says which cannot be.
fn read(records: Catalog<Route>, dir: &Path) -> Result<Read> {
    let listed = records.list::<Stem>()?;
    let mut routes = Vec::new();
    let mut unreadable: BTreeMap<_, _> =
        listed.unreadable.into_iter().map(|what| (Stem(what.name.clone()), what)).collect();
    for (stem, route) in listed.found {
        let problem = if Stem::of(&route.host) == stem {
            route.validate().err().map(|e| e.to_string())
        } else {
            Some(format!("it is the route of {}", route.host))
        };
        match problem {
            None => routes.push(route),
            Some(reason) => drop(unreadable.insert(stem.clone(), Unreadable { name: stem.0, reason })),
        }
    }
    for unreadable in unreadable.values() {
        tracing::warn!(directory = %dir.display(), "passing over a route: {unreadable}");
    }
    Ok(Read { records, unreadable, routes })
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
        let (inner, stem) = (Arc::clone(self), Stem::of(&route.host));
        blocking(move || {
            inner.records.replace(stem.as_ref(), &route, true)?;
            locked(&inner.unreadable).remove(&stem);
            Ok(())
        })
        .await
    }

    async fn forget(self: &Arc<Self>, host: Hostname) -> Result<()> {
        let (inner, stem) = (Arc::clone(self), Stem::of(&host));
        blocking(move || {
            inner.records.remove(stem.as_ref())?;
            locked(&inner.unreadable).remove(&stem);
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

    fn unreadable(&self) -> Vec<Unreadable> {
        locked(&self.0.unreadable).values().cloned().collect()
    }
}

fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs what waits for the disk where it holds up nothing else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::backend("routes", "working on saved routes", e))?
}

#[cfg(test)]
mod tests;
