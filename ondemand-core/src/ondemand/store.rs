//! Choosing what keeps the data.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, StoreKind};
use crate::error::{Error, Result};
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
            Err(error) if config.store == StoreKind::Btrfs || pool_exists(&config.data_dir) => Err(error),
            Err(error @ Error::Unsupported { .. }) => {
                notices.push(format!("not using BTRFS: {error}"));
                copy(&here, notices).await
            }
            Err(error) => Err(error),
        },
    }
}

#[cfg(feature = "btrfs")]
fn pool_exists(data_dir: &Path) -> bool {
    pool::default_image(&data_dir.join("pool")).exists()
}

#[cfg(not(feature = "btrfs"))]
fn pool_exists(_data_dir: &Path) -> bool {
    false
}

/// Opens a store on BTRFS: in the data directory where that is on it, else in a pool, which is made if need be.
#[cfg(feature = "btrfs")]
async fn snapshots(config: &Config, here: &Path, notices: &mut Vec<String>) -> Result<Arc<dyn SnapshotStore>> {
    let mount_point = config.data_dir.join("pool");
    let image = pool::default_image(&mount_point);
    if image.exists() {
        notices.extend(pool::mount(&image, &mount_point).await?.notices);
        return Ok(Arc::new(Btrfs::open(mount_point).await?));
    }
    // A file system of the operator's own, mounted there, is as good as one of ours.
    if mount_point.exists() && kind_of(&mount_point)? == FsKind::Btrfs {
        return Ok(Arc::new(Btrfs::open(mount_point).await?));
    }
    if kind_of(&config.data_dir)? == FsKind::Btrfs {
        return Ok(Arc::new(Btrfs::open(here).await?));
    }
    if config.store == StoreKind::Auto && here.join("snapshots").exists() {
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
    Ok(Arc::new(Btrfs::open(mount_point).await?))
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
