//! Leases: a database that lives on one goes when nobody holds it any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;

use super::inner::{Inner, detached};
use crate::error::{Error, Result};
use crate::name::{DatabaseId, LeaseId};

/// How long a lease outlives its last holder, whose connection may have broken and who is then back at once.
const GRACE: Duration = Duration::from_secs(1);
/// How long those who held a lease of an earlier process have to come back.
const RETURN: Duration = Duration::from_secs(5);
/// How many databases of a lease are deleted at a time.
const DELETIONS_AT_A_TIME: usize = 4;

/// Holds a lease until it is dropped. The lease's databases are deleted in the background soon after its last holder was.
///
/// A lease ends with the process that holds it, however that ends: what ends a connection, or a runtime, drops its holder.
#[derive(Debug)]
pub struct Lease {
    id: LeaseId,
    inner: Arc<Inner>,
}

impl Lease {
    pub(super) fn new(inner: &Arc<Inner>, id: LeaseId) -> Self {
        inner.leases.lock().entry(id.clone()).or_default().holders += 1;
        Self { id, inner: Arc::clone(inner) }
    }

    /// Returns which lease it is.
    pub fn id(&self) -> &LeaseId {
        &self.id
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let moment = {
            let mut leases = self.inner.leases.lock();
            let Some(held) = leases.get_mut(&self.id) else { return };
            held.holders -= 1;
            if held.holders > 0 {
                return;
            }
            held.moment += 1;
            held.moment
        };
        end_later(&self.inner, self.id.clone(), moment, GRACE);
    }
}

/// The leases that are alive: held, or in the time that their holders have to come back.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<BTreeMap<LeaseId, Held>>);

#[derive(Debug, Default)]
struct Held {
    holders: usize,
    /// How often the last holder has gone: whoever waits for one to come back knows by it that nobody came meanwhile.
    moment: u64,
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Held>> {
        // Numbers only: none can be half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether a lease is alive.
    pub(super) fn is_alive(&self, id: &LeaseId) -> bool {
        self.lock().contains_key(id)
    }

    /// Tells whether none is alive.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Fails unless a lease is alive.
    pub(super) fn check(&self, id: &LeaseId) -> Result<()> {
        if self.is_alive(id) {
            return Ok(());
        }
        Err(Error::Conflict {
            message: "nobody holds the lease".into(),
            hint: "hold it first, with POST /leases, for as long as its databases are to live".into(),
        })
    }

    /// Ends a lease that nobody has held since `moment`. Tells whether it did.
    fn end(&self, id: &LeaseId, moment: u64) -> bool {
        let mut leases = self.lock();
        let over = leases.get(id).is_some_and(|held| held.holders == 0 && held.moment == moment);
        if over {
            leases.remove(id);
        }
        over
    }
}

/// Gives the holders of an earlier process's lease time to come back.
pub(super) fn expect(inner: &Arc<Inner>, id: &LeaseId) {
    {
        let mut leases = inner.leases.lock();
        if leases.contains_key(id) {
            return;
        }
        leases.insert(id.clone(), Held::default());
    }
    end_later(inner, id.clone(), 0, RETURN);
}

fn end_later(inner: &Arc<Inner>, id: LeaseId, moment: u64, patience: Duration) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        // The process is ending; what is left is found by the next one.
        inner.leases.end(&id, moment);
        return;
    };
    let inner = Arc::clone(inner);
    runtime.spawn(async move {
        tokio::time::sleep(patience).await;
        // From here on nothing new comes to live on it: a create looks after it has announced its database.
        if inner.leases.end(&id, moment) {
            delete_all(&inner, &id).await;
        }
    });
}

/// Deletes what lives on a lease that has ended.
async fn delete_all(inner: &Arc<Inner>, lease: &LeaseId) {
    let doomed = inner.records().into_iter().filter(|record| record.lease.as_ref() == Some(lease));
    let deletions = doomed.map(|record| {
        let (inner, lease, id) = (Arc::clone(inner), lease.clone(), record.id);
        async move {
            if let Err(error) = delete_leased(&inner, &lease, &id).await {
                tracing::warn!(%id, %error, "a database whose lease has ended could not be deleted; the janitor will");
            }
        }
    });
    futures_util::stream::iter(deletions).buffer_unordered(DELETIONS_AT_A_TIME).collect::<()>().await;
}

/// Deletes a database, unless it was released meanwhile.
async fn delete_leased(inner: &Arc<Inner>, lease: &LeaseId, id: &DatabaseId) -> Result<()> {
    let (inner, lease, id) = (Arc::clone(inner), lease.clone(), id.clone());
    detached(async move {
        let _gate = match inner.gate(&id).await {
            Ok(gate) => gate,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        if inner.record(&id)?.lease.as_ref() == Some(&lease) { inner.delete_held(&id).await } else { Ok(()) }
    })
    .await
}
