//! Taking a database back to its snapshot.

use std::sync::Arc;

use super::inner::{Inner, detached};
use super::record::{Record, State};
use super::{Database, DatabaseState};
use crate::error::Result;
use crate::name::DatabaseId;
use crate::snapshot::room;

/// Swaps a database's volume for a new clone.
///
/// The old volume stays announced until the server on the new one answers, and the new one's labels carry the next generation: at
/// every moment the announced volume of the highest generation is the database, so a crash at any step either keeps the old data
/// or has the new.
pub(super) async fn reset(inner: &Arc<Inner>, id: &DatabaseId) -> Result<Database> {
    inner.record(id)?;
    let (owned, id) = (Arc::clone(inner), id.clone());
    detached(async move { run(&owned, &id).await }).await
}

async fn run(inner: &Arc<Inner>, id: &DatabaseId) -> Result<Database> {
    let gate = inner.gate_unless_busy(id).await?;
    inner.store.space().await?.check_room()?;
    gate.show(DatabaseState::Resetting);
    let old = inner.record(id)?;
    let attempt = inner.begin_change()?;
    let (generation, attempt) = (old.generation + 1, attempt.id.clone());
    // The reset reaches the disk before it is announced. Until then, the old volume is the database.
    let mut new = Record { generation, state: State::Pending, epoch: None, attempt, ..old.clone() };
    match swap(inner, &old, &mut new).await {
        Ok(()) => {
            inner.update(new.clone());
            // The database is the new volume now; the old one is the janitor's if it cannot go at once.
            if let Err(error) = inner.store.delete_volume(&old.volume()).await {
                tracing::warn!(%id, %error, "the volume from before a reset could not be deleted; the janitor will");
            }
            Ok(inner.describe(new, DatabaseState::Running))
        }
        Err(error) => {
            let error = room::cause(&*inner.store, error).await;
            if let Err(undo) = roll_back(inner, &old, &new).await {
                tracing::warn!(%id, error = %undo, "a failed reset could not be undone; the janitor will");
            }
            Err(error)
        }
    }
}

async fn swap(inner: &Inner, old: &Record, new: &mut Record) -> Result<()> {
    let _expected = inner.orchestrator.expect_deploy();
    let hashing = inner.hash_password(new);
    let labels = new.labels(&inner.instance.id)?;
    // Cloned while the old server still answers: it is away only for as long as a start takes.
    let volume = inner.store.clone_snapshot(&new.snapshot(), &new.volume(), &labels).await?;
    let password = inner.place_password(&volume.path, hashing).await?;
    inner.remove_stack(old).await?;
    inner.start(new, &volume.path).await?;
    inner.ensure_password(new, &volume.path, password).await?;
    new.state = State::Announced;
    inner.write(new).await
}

/// Removes what the reset made, and starts the old server again where it was ended.
async fn roll_back(inner: &Inner, old: &Record, new: &Record) -> Result<()> {
    inner.remove_stack(new).await?;
    inner.store.delete_volume(&new.volume()).await?;
    inner.ensure_runs(old).await.map(drop)
}
