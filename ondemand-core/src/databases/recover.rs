//! Bringing databases back whose store went read-only.

use std::sync::Arc;

use super::inner::Inner;
use crate::error::{Error, Result};
use crate::snapshot::Beneath;

/// Ends every server and mounts the store again, if it is read-only and there is room to write. Their databases are then started as after a reboot.
///
/// # Errors
/// [`ReadOnly`](Error::ReadOnly) while the disk beneath is short, and where this process cannot mount the store; [`Conflict`](Error::Conflict) while something else uses the store.
pub(super) async fn recover(inner: &Arc<Inner>) -> Result<()> {
    // Another round may have started servers by now.
    let _turn = inner.recovering.lock().await;
    match inner.store.space().await {
        Ok(usage) if !usage.read_only => return Ok(()),
        Ok(usage) if usage.beneath.as_ref().is_some_and(Beneath::is_short) => return usage.check_room(),
        // What runs can still be read: nothing is ended that could not be started again.
        Ok(usage) if !usage.revivable => return usage.check_room(),
        // It is not mounted, as an earlier try ended half way.
        Ok(_) | Err(Error::ReadOnly { .. }) => {}
        Err(error) => return Err(error),
    }
    tracing::warn!("the store is read-only: its databases are ended, and it is mounted again");
    // They can write nothing any more, and keep it from being unmounted.
    for stack in inner.orchestrator.list(&inner.selector()).await?.found {
        inner.orchestrator.remove(&stack.id).await?;
    }
    inner.store.revive().await?;
    tracing::warn!("the store can be written again; its databases are started");
    Ok(())
}
