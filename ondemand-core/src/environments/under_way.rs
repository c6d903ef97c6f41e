//! What is being done to environments in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::record::Record;
use crate::github::Identity;
use crate::name::{AttemptId, EnvironmentName, Hostname};

/// What is done to an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Creating,
    Redeploying,
    Extending,
    Deleting,
    /// It is looked after: what it has too much goes, and its names are made to reach it. It takes a moment, so what wants to be done waits.
    Tending,
}

/// Something that is being done to one environment; nothing else is meanwhile.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) doing: Doing,
    /// Marks what it makes.
    pub(super) attempt: AttemptId,
    /// The attempt that made the environment which it is done to; another of its name has another. What is looked after may be nobody's.
    pub(super) origin: Option<AttemptId>,
    pub(super) owner: Identity,
    /// The host names that it will take.
    pub(super) hosts: Vec<Hostname>,
    /// Completes when it is to be given up.
    pub(super) cancel: CancellationToken,
    /// Completes when it is over.
    pub(super) over: CancellationToken,
    /// What is being made, as far as it is known.
    record: Mutex<Option<Record>>,
}

impl Work {
    pub(super) fn new(doing: Doing, attempt: AttemptId, owner: Identity, hosts: Vec<Hostname>) -> Self {
        let (cancel, over) = (CancellationToken::new(), CancellationToken::new());
        Self { doing, attempt, origin: None, owner, hosts, cancel, over, record: Mutex::default() }
    }

    /// Says to which environment it is done.
    pub(super) fn to(self, origin: &AttemptId) -> Self {
        Self { origin: Some(origin.clone()), ..self }
    }

    /// Shows what is being made to those who look.
    pub(super) fn show(&self, record: Record) {
        *locked(&self.record) = Some(record);
    }

    /// Returns what is being made, as far as it is known.
    pub(super) fn shown(&self) -> Option<Record> {
        locked(&self.record).clone()
    }
}

/// All that is being done, and what was and could not be undone.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    works: Mutex<BTreeMap<EnvironmentName, Arc<Work>>>,
    /// Attempts that have failed and left a stack. Whatever its labels say, nobody was told of it.
    failed: Mutex<BTreeSet<AttemptId>>,
}

/// The right to do something to an environment, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    name: EnvironmentName,
    pub(super) work: Arc<Work>,
    all: Arc<UnderWay>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        locked(&self.all.works).remove(&self.name);
        self.work.over.cancel();
    }
}

impl UnderWay {
    /// Begins something.
    ///
    /// # Errors
    /// What is being done to the environment already.
    pub(super) fn begin(self: &Arc<Self>, name: &EnvironmentName, work: Work) -> Result<Turn, Arc<Work>> {
        let mut all = locked(&self.works);
        if let Some(other) = all.get(name) {
            return Err(Arc::clone(other));
        }
        let work = Arc::new(work);
        all.insert(name.clone(), Arc::clone(&work));
        Ok(Turn { name: name.clone(), work, all: Arc::clone(self) })
    }

    /// Returns what is being done to an environment.
    pub(super) fn get(&self, name: &EnvironmentName) -> Option<Arc<Work>> {
        locked(&self.works).get(name).cloned()
    }

    /// Waits until nobody looks after an environment any more.
    pub(super) async fn untended(&self, name: &EnvironmentName) {
        while let Some(work) = self.get(name).filter(|work| work.doing == Doing::Tending) {
            work.over.cancelled().await;
        }
    }

    /// Remembers that an attempt has failed, and that its stack is still to be removed.
    pub(super) fn fail(&self, attempt: &AttemptId) {
        locked(&self.failed).insert(attempt.clone());
    }

    /// Tells whether a stack was left by an attempt that has failed.
    pub(super) fn has_failed(&self, attempt: &AttemptId) -> bool {
        locked(&self.failed).contains(attempt)
    }

    /// Returns all that is being done.
    pub(super) fn all(&self) -> Vec<(EnvironmentName, Arc<Work>)> {
        locked(&self.works).iter().map(|(name, work)| (name.clone(), Arc::clone(work))).collect()
    }
}

/// Takes a lock. What is behind it is changed in single steps, so a panic of its holder leaves nothing half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
