//! How much of this process is resident.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// Watches how far resident memory rises.
#[derive(Debug)]
pub(crate) struct Watch {
    before: u64,
    highest: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start() -> Self {
        let (before, done) = (resident(), Arc::new(AtomicBool::new(false)));
        let highest = Arc::new(AtomicU64::new(before));
        let (most, stop) = (Arc::clone(&highest), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { before, highest, done, thread: Some(thread) }
    }

    /// Returns by how many bytes it rose at most since the start.
    pub(crate) fn rise(&self) -> u64 {
        self.highest.load(Ordering::Relaxed).max(resident()) - self.before
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
