//! Making a dataset's newest version of what a database holds.

use std::sync::Arc;

use super::inner::{Inner, detached};
use super::{DatabaseState, PublishOptions};
use crate::datasets::DatasetSnapshot;
use crate::error::{Error, Kind, Result};
use crate::name::{DatabaseId, DatasetName};
use crate::progress::Reporter;

/// Ends a database's server and hands its volume over to an import, which cleans and publishes it. From then on the volume is the import's:
/// cut off there, it is deleted like that of any other.
pub(super) async fn publish(
    inner: &Arc<Inner>,
    id: &DatabaseId,
    dataset: &DatasetName,
    options: PublishOptions,
    reporter: Reporter,
) -> Result<DatasetSnapshot> {
    inner.record(id)?;
    inner.store.space().await?.check_room()?;
    let (inner, id, dataset) = (Arc::clone(inner), id.clone(), dataset.clone());
    detached(async move {
        let gate = inner.gate_unless_busy(&id).await?;
        gate.show(DatabaseState::Stopped);
        let record = inner.record(&id)?;
        // Refused while the database still runs, if it can be.
        let handover = inner.datasets.expect_volume(&dataset, record.postgres)?;
        let volume = inner.volume(&record).await?.ok_or_else(|| Error::not_found(Kind::Volume, record.volume()))?;
        handover.check(&volume).await?;
        if inner.remove_stack(&record).await? {
            inner.remove_run_dir(&record.id)?;
        }
        handover.mark(&volume).await?;
        let published = handover.publish(volume, record.dbname, options, reporter).await;
        // Until then its name is taken: whoever waits for it to be free finds the dataset, or finds that there is none.
        inner.forget(&id);
        published
    })
    .await
}
