//! What is being done to stacks at the moment, within this process.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, OwnedMutexGuard};

use super::StackId;
use crate::name::StackName;

/// Takes a lock. What is behind it is changed in single steps, so a panic of its holder leaves nothing half done.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serialises what is done to one stack, and tells what is being started.
#[derive(Debug, Default)]
pub(super) struct Turns {
    names: Mutex<HashMap<StackName, Weak<tokio::sync::Mutex<()>>>>,
    /// What is being started, and so has perhaps no process yet.
    starting: Mutex<HashSet<StackId>>,
    /// Told when a stack was started, put to sleep or removed.
    pub(super) changed: Notify,
}

impl Turns {
    /// Waits for one's turn to do something to a stack, which lasts until the guard is dropped.
    pub(super) async fn take(&self, name: &StackName) -> OwnedMutexGuard<()> {
        let turns = {
            let mut names = locked(&self.names);
            if let Some(turns) = names.get(name).and_then(Weak::upgrade) {
                turns
            } else {
                names.retain(|_, turns| turns.strong_count() > 0);
                let turns = Arc::default();
                names.insert(name.clone(), Arc::downgrade(&turns));
                turns
            }
        };
        turns.lock_owned().await
    }

    /// Marks a stack as being started until the mark is dropped.
    pub(super) fn starting(&self, id: &StackId) -> Starting<'_> {
        locked(&self.starting).insert(id.clone());
        Starting { turns: self, id: id.clone() }
    }

    /// Tells whether a stack is being started.
    pub(super) fn is_starting(&self, id: &StackId) -> bool {
        locked(&self.starting).contains(id)
    }
}

/// Marks a stack as being started until it is dropped.
#[derive(Debug)]
pub(super) struct Starting<'a> {
    turns: &'a Turns,
    id: StackId,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        locked(&self.turns.starting).remove(&self.id);
        self.turns.changed.notify_waiters();
    }
}
