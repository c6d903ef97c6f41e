//! Mounting a pool again that went read-only.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{grow, mounts, supported, system};
use crate::error::{Error, Result};

/// How long what was just ended may take to close its files, and how long before that is looked at again: nothing tells.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Unmounts the pool at `path`, and mounts it: BTRFS that has met an error writes again only then. What was written since the last transaction that reached the
/// disk is gone.
///
/// # Errors
/// [`Unsupported`](Error::Unsupported) for what is not a pool in a file; [`Conflict`](Error::Conflict) while something uses it, or if its file is not where the
/// kernel has it.
pub(in crate::snapshot) fn remount(path: &Path) -> Result<()> {
    supported()?;
    let image = match mounts::at(path)? {
        Some(_) => {
            let (_, device, image) = grow::pool_at(path)?;
            let (_, held) = grow::open_backing(&image, &device)?;
            let deadline = Instant::now() + PATIENCE;
            loop {
                match system::unmount(path) {
                    Err(Error::Conflict { .. }) if Instant::now() < deadline => std::thread::sleep(PAUSE),
                    unmounted => break unmounted?,
                }
            }
            Some((image, held))
        }
        None => None,
    };
    // An earlier call may have ended between the two.
    let Some((image, held)) = image else { return super::mount_now(&super::default_image(path), path).map(drop) };
    system::mount_image(&image, path)?;
    // Whoever owns the directory may have put another file in its place meanwhile.
    let (_, device, _) = grow::pool_at(path)?;
    if system::backing_of(&device)? != held {
        system::unmount(path)?;
        return Err(grow::replaced(&image, &device));
    }
    Ok(())
}
