//! A database's volume on its way to becoming a version of a dataset.

use std::sync::Arc;

use super::import::{Claim, Work, labels, run, version_of};
use super::{DatasetSnapshot, ImportOptions, Inner};
use crate::databases::PublishOptions;
use crate::error::{Error, Result};
use crate::name::DatasetName;
use crate::postgres::tablespaces;
use crate::progress::Reporter;
use crate::snapshot::Volume;

/// The right to publish a volume that was a database's. Dropped before anything was marked, it changes nothing.
pub(crate) struct Handover {
    inner: Arc<Inner>,
    dataset: DatasetName,
    claim: Claim,
}

impl Handover {
    pub(super) fn begin(inner: &Arc<Inner>, dataset: &DatasetName, postgres: u32) -> Result<Self> {
        inner.options.installs.get(postgres)?;
        Ok(Self { inner: Arc::clone(inner), dataset: dataset.clone(), claim: Claim::take(inner, dataset)? })
    }

    /// Looks whether a volume holds what can be published, as far as that is seen from outside while its server runs.
    ///
    /// # Errors
    /// [`Error::InvalidDump`](crate::Error::InvalidDump); [`Error::Unsupported`](crate::Error::Unsupported) if it has tablespaces.
    pub(crate) async fn check(&self, volume: &Volume) -> Result<()> {
        let dir = volume.path.clone();
        let check = move || version_of(&dir).and_then(|_| tablespaces::refuse(&dir));
        let checked = tokio::task::spawn_blocking(check).await;
        checked.map_err(|e| Error::backend("import", "looking at a data directory", e))?
    }

    /// Makes the volume this import's: whatever happens from now on, it is deleted as an import's volume is.
    pub(crate) async fn mark(&self, volume: &Volume) -> Result<()> {
        let labels = labels(&self.inner.options, self.claim.attempt(), &self.dataset)?;
        self.inner.store.set_volume_labels(&volume.name, &labels).await
    }

    /// Cleans what is in the volume, publishes it, and deletes the volume.
    pub(crate) async fn publish(
        self,
        volume: Volume,
        dbname: String,
        options: PublishOptions,
        reporter: Reporter,
    ) -> Result<DatasetSnapshot> {
        let options = ImportOptions { dbname: Some(dbname), derived: options.derived, ..ImportOptions::default() };
        run(&self.inner, &self.dataset, self.claim, Work::Volume(volume), options, reporter).await
    }
}
