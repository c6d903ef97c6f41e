//! How much a pool's loop device writes at once.
//!
//! Where a disk fills during a write, a loop device has written a part of it, and reports all of it as written: the driver goes on with a short read, and not with a
//! short write (`lo_complete_rq` in `drivers/block/loop.c`). BTRFS then refers to blocks that do not exist, and cannot be mounted any more. A page is
//! written or it isn't. So a device asks for one page at a time as long as its disk could fill, which costs up to half of its speed.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::own;
use crate::snapshot::Beneath;

/// How often the disk is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// What may be written between two looks. With less room a device writes single pages.
const NEARLY_FULL: u64 = 4 << 30;
/// What a device writes at once otherwise: the kernel's default, in KiB.
const DEFAULT: u64 = 1280;

/// Has a loop device write single pages, or as much at once as the kernel lets it.
///
/// `block` is its directory below `/sys`.
pub(in crate::snapshot) fn limit(block: &Path, single_pages: bool) -> io::Result<()> {
    let queue = block.join("queue");
    let wanted = if single_pages { page() } else { number(&queue.join("max_hw_sectors_kb"))?.min(DEFAULT) };
    let file = queue.join("max_sectors_kb");
    if number(&file)? == wanted { Ok(()) } else { own::write(file, wanted.to_string()) }
}

/// Returns the size of a page in KiB.
fn page() -> u64 {
    u64::try_from(rustix::param::page_size()).unwrap_or(4096) / 1024
}

fn number(file: &Path) -> io::Result<u64> {
    own::read_to_string(file)?.trim().parse().map_err(|_| ErrorKind::InvalidData.into())
}

/// Tells whether the disk may fill before it is looked at again. Others write to it, too.
fn may_fill(disk: &Beneath) -> bool {
    disk.growth > 0 && disk.free < NEARLY_FULL
}

/// Looks at the disk beneath a pool as long as this exists. Afterwards its device writes single pages, as nobody looks any more.
pub(in crate::snapshot) struct Watch {
    find: Arc<dyn Fn() -> Option<PathBuf> + Send + Sync>,
    /// Whether the watch has ended. Locked while the device's limit is written.
    ended: Arc<Mutex<bool>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// Starts one. `find` returns the directory of the device below `/sys`: a pool that is mounted again has another. `disk` returns the disk of such
    /// a device.
    pub(in crate::snapshot) fn start(
        find: impl Fn() -> Option<PathBuf> + Send + Sync + 'static,
        disk: impl Fn(&Path) -> Option<Beneath> + Clone + Send + 'static,
    ) -> Self {
        let find: Arc<dyn Fn() -> Option<PathBuf> + Send + Sync> = Arc::new(find);
        let ended = Arc::<Mutex<bool>>::default();
        let (finding, ending) = (Arc::clone(&find), Arc::clone(&ended));
        let task = tokio::spawn(async move {
            let mut told = false;
            loop {
                let (find, disk, ended) = (Arc::clone(&finding), disk.clone(), Arc::clone(&ending));
                let looked = tokio::task::spawn_blocking(move || {
                    let Some(block) = find() else { return Ok(()) };
                    let single_pages = disk(&block).as_ref().is_none_or(may_fill);
                    let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                    if *ended {
                        return Ok(());
                    }
                    // Whether it could be limited is known before it has to be.
                    let limited = limit(&block, single_pages).and_then(|()| can_be_limited(&block));
                    limited.or_else(|e| tolerate(&block, e))
                });
                // A task that was cancelled says nothing.
                if let Ok(Err(error)) = looked.await
                    && !std::mem::replace(&mut told, true)
                {
                    tracing::warn!(%error, "what a pool's device writes at once cannot be limited: the pool is damaged if its disk fills");
                }
                tokio::time::sleep(INTERVAL).await;
            }
        });
        Self { find, ended, task }
    }
}

fn can_be_limited(block: &Path) -> io::Result<()> {
    own::open_with(fs::OpenOptions::new().write(true), block.join("queue/max_sectors_kb")).map(drop)
}

/// Lets an error pass where the device writes single pages anyhow, or is gone: it was unmounted meanwhile.
fn tolerate(block: &Path, error: io::Error) -> io::Result<()> {
    match number(&block.join("queue/max_sectors_kb")) {
        Ok(now) if now <= page() => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended = true;
        if let Some(Err(error)) = (self.find)().map(|block| limit(&block, true)) {
            tracing::debug!(%error, "limiting what a pool's device writes at once");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_may_fill_where_the_file_takes_more_of_it() {
        let disk = |free, growth| Beneath { path: "/data".into(), total: 100 << 30, free, growth };
        assert!(!may_fill(&disk(NEARLY_FULL, u64::MAX)));
        assert!(may_fill(&disk(NEARLY_FULL - 1, 1)));
        assert!(!may_fill(&disk(0, 0)));
    }

    #[test]
    fn a_device_is_told_what_it_does_not_do_yet() {
        let block = tempfile::tempdir().expect("directory");
        let queue = block.path().join("queue");
        assert_eq!(limit(block.path(), true).expect_err("no device").kind(), ErrorKind::NotFound);
        fs::create_dir(&queue).expect("queue");
        let (now, most) = (queue.join("max_sectors_kb"), queue.join("max_hw_sectors_kb"));
        let says = || fs::read_to_string(&now).expect("says");
        fs::write(&now, "1280\n").expect("now");
        fs::write(&most, "512\n").expect("most");
        limit(block.path(), true).expect("pages");
        assert_eq!(says(), (rustix::param::page_size() / 1024).to_string());
        limit(block.path(), false).expect("all");
        assert_eq!(says(), "512");
        fs::write(&most, "2560\n").expect("most");
        limit(block.path(), false).expect("all");
        assert_eq!(says(), "1280");
        fs::write(&now, "much\n").expect("now");
        assert_eq!(limit(block.path(), true).expect_err("no number").kind(), ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_watch_that_ends_leaves_single_pages() {
        let block = tempfile::tempdir().expect("directory");
        let queue = block.path().join("queue");
        fs::create_dir(&queue).expect("queue");
        let now = queue.join("max_sectors_kb");
        fs::write(&now, "4").expect("now");
        fs::write(queue.join("max_hw_sectors_kb"), "2560").expect("most");
        let says = || fs::read_to_string(&now).expect("says");
        let found = block.path().to_owned();
        let roomy = |_: &Path| Some(Beneath { path: "/data".into(), total: u64::MAX, free: NEARLY_FULL, growth: 1 });
        let watch = Watch::start(move || Some(found.clone()), roomy);
        let raised = async {
            while says() != "1280" {
                // A file tells nobody that it was written.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), raised).await.expect("it has room");
        drop(watch);
        assert_eq!(says(), page().to_string());
    }
}
