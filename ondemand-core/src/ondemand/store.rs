//! Choosing what keeps the data.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, StoreKind};
use crate::error::{Error, Result};
#[cfg(feature = "btrfs")]
use crate::listing::what_is_at;
#[cfg(feature = "btrfs")]
use crate::snapshot::{Btrfs, FsKind, kind_of, pool};
use crate::snapshot::{Copy, CopyMethod, SnapshotStore};

/// Opens the store that the configuration asks for. Tells in `notices` what the user should know about the choice.
pub(super) async fn open(config: &Config, notices: &mut Vec<String>) -> Result<Arc<dyn SnapshotStore>> {
    let here = config.data_dir.join("store");
    match config.store {
        StoreKind::Copy => copy(&here, notices).await,
        StoreKind::Btrfs | StoreKind::Auto => match snapshots(config, &here, notices).await {
            Ok(store) => Ok(store),
            // Data that is in a pool must not seem to be gone because the pool cannot be mounted.
            Err(error) if config.store == StoreKind::Btrfs || had_pool(&config.data_dir) => Err(error),
            Err(error @ Error::Unsupported { .. }) => {
                notices.push(format!("not using BTRFS: {error}"));
                copy(&here, notices).await
            }
            Err(error) => Err(error),
        },
    }
}

/// Tells whether there is or was a pool. In doubt, there is one.
#[cfg(feature = "btrfs")]
fn had_pool(data_dir: &Path) -> bool {
    let mount_point = data_dir.join("pool");
    let image = what_is_at(&pool::default_image(&mount_point), "pool");
    image.map_or(true, |image| image.is_some()) || pool::is_remembered(&mount_point).unwrap_or(true)
}

#[cfg(not(feature = "btrfs"))]
fn had_pool(_data_dir: &Path) -> bool {
    false
}

/// Opens a store on BTRFS: in the data directory where that is on it, else in a pool, which is made if need be.
#[cfg(feature = "btrfs")]
async fn snapshots(config: &Config, here: &Path, notices: &mut Vec<String>) -> Result<Arc<dyn SnapshotStore>> {
    let mount_point = config.data_dir.join("pool");
    let image = pool::default_image(&mount_point);
    if what_is_at(&image, "pool")?.is_some() {
        notices.extend(pool::mount(&image, &mount_point).await?.notices);
        return in_pool(mount_point).await;
    }
    // A file system of the operator's own, mounted there, is as good as one of ours.
    let is_there =
        mount_point.try_exists().map_err(|e| Error::io("pool", format!("looking for {}", mount_point.display()), e))?;
    if is_there && kind_of(&mount_point)? == FsKind::Btrfs {
        return in_pool(mount_point).await;
    }
    // An empty one in its place would look as if all data were gone.
    if pool::is_remembered(&mount_point)? {
        return Err(Error::Conflict {
            message: format!(
                "the pool of {} is missing: there is no {}, and no BTRFS is mounted at {}",
                config.data_dir.display(),
                image.display(),
                mount_point.display()
            ),
            hint: format!(
                "restore or mount it; to begin with an empty one instead: ondemand pool delete --path {}",
                mount_point.display()
            ),
        });
    }
    if kind_of(&config.data_dir)? == FsKind::Btrfs {
        return Ok(Arc::new(Btrfs::open(here).await?));
    }
    if config.store == StoreKind::Auto && what_is_at(&here.join("snapshots"), "data directory")?.is_some() {
        return Err(Error::Unsupported {
            message: format!("{} holds data that was copied there before", here.display()),
            hint: "delete its datasets to move to BTRFS".into(),
        });
    }
    let size = match config.pool.size {
        Some(size) => size,
        None => pool::default_size(&config.data_dir)?,
    };
    let made = pool::create(pool::PoolSpec::new(&mount_point, size)).await?;
    notices.push(format!(
        "made a BTRFS pool of up to {size} in {}, mounted at {}",
        made.image.display(),
        made.path.display()
    ));
    notices.extend(made.notices);
    in_pool(mount_point).await
}

/// Opens the store in a pool, and notes that there is one.
#[cfg(feature = "btrfs")]
async fn in_pool(mount_point: std::path::PathBuf) -> Result<Arc<dyn SnapshotStore>> {
    let store = Btrfs::open(&mount_point).await?;
    pool::remember(&mount_point)?;
    Ok(Arc::new(store))
}

#[cfg(not(feature = "btrfs"))]
#[expect(clippy::unused_async, reason = "it stands in for one that waits")]
async fn snapshots(_config: &Config, _here: &Path, _notices: &mut Vec<String>) -> Result<Arc<dyn SnapshotStore>> {
    Err(Error::Unsupported {
        message: "this program was built without BTRFS".into(),
        hint: "build it with the feature `btrfs`".into(),
    })
}

async fn copy(here: &Path, notices: &mut Vec<String>) -> Result<Arc<dyn SnapshotStore>> {
    let store = Copy::open(here).await?;
    notices.push(match store.method() {
        CopyMethod::Reflink => {
            "databases are copies that share their blocks with the dataset: making one takes longer the more files there are".to_owned()
        }
        CopyMethod::Copy => "databases are plain copies: each takes as much time and disk as its dataset is large; \
             `ondemand pool create` (as root) makes a place where they take neither"
            .to_owned(),
    });
    Ok(Arc::new(store))
}
