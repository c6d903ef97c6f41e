//! `FakeStore` meets the contract of `SnapshotStore`, and so does one behind a wrapper by which nothing goes wrong.
#![expect(clippy::unwrap_used, reason = "what fails must fail the test")]

use std::sync::Arc;

use async_trait::async_trait;
use ondemand_core::conformance::store::Harness;
use ondemand_core::fakes::{FakeStore, FaultPlan, Faulty};
use ondemand_core::{Code, Labels, SnapshotName, SnapshotStore, VolumeName};

struct Fake {
    store: FakeStore,
    wrap: bool,
}

impl Fake {
    fn wrapped(&self, store: FakeStore) -> Arc<dyn SnapshotStore> {
        if self.wrap { Arc::new(Faulty::new(Arc::new(store), FaultPlan::new())) } else { Arc::new(store) }
    }
}

#[async_trait]
impl Harness for Fake {
    fn store(&self) -> Arc<dyn SnapshotStore> {
        self.wrapped(self.store.clone())
    }
    async fn reopen(&self) -> Arc<dyn SnapshotStore> {
        self.wrapped(self.store.reopen())
    }
    async fn write(&self, volume: &VolumeName, file: &str, content: &[u8]) {
        self.store.write(volume, file, content).unwrap();
    }
    async fn read(&self, volume: &VolumeName, file: &str) -> Option<Vec<u8>> {
        self.store.read(volume, file)
    }
    async fn read_snapshot(&self, snapshot: &SnapshotName, file: &str) -> Option<Vec<u8>> {
        self.store.read_snapshot(snapshot, file)
    }
    async fn interrupt_volume(&self, volume: &VolumeName) {
        assert!(self.store.interrupt_volume(volume));
    }
    async fn interrupt_snapshot(&self, snapshot: &SnapshotName) {
        assert!(self.store.interrupt_snapshot(snapshot));
    }
}

ondemand_core::store_conformance!(fake, Fake { store: FakeStore::new(), wrap: false });
ondemand_core::store_conformance!(wrapped, Fake { store: FakeStore::new(), wrap: true });

#[tokio::test]
async fn a_full_store_is_out_of_space() {
    let store = FakeStore::with_capacity(10);
    let name = VolumeName::new("a").unwrap();
    store.create_volume(&name, &Labels::new()).await.unwrap();
    store.write(&name, "file", b"123456").unwrap();
    assert_eq!(store.write(&name, "more", b"12345").unwrap_err().code(), Code::OutOfSpace);
    store.write(&name, "more", b"1234").unwrap();
    let second = store.create_volume(&VolumeName::new("b").unwrap(), &Labels::new()).await;
    assert_eq!(second.unwrap_err().code(), Code::OutOfSpace);
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.used, usage.free, usage.volumes[&name]), (10, 0, Some(10)));
}
