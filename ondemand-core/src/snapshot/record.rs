//! What the store knows about a volume or a snapshot: one file beside it. `volumes/NAME.json` describes `volumes/NAME`.

use time::OffsetDateTime;

use crate::label::Labels;
use crate::name::SnapshotName;

/// What is remembered about one volume or snapshot.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Record {
    pub(super) labels: Labels,
    /// What a volume was cloned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) snapshot: Option<SnapshotName>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) created: OffsetDateTime,
    pub(super) complete: bool,
    /// The number the file system gave to the volume a snapshot was made of: the one its data is counted under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<u64>,
}

impl Record {
    /// Makes the record of something that is about to be made.
    pub(super) fn begun(labels: &Labels, snapshot: Option<SnapshotName>) -> Self {
        Self { labels: labels.clone(), snapshot, created: OffsetDateTime::now_utc(), complete: false, origin: None }
    }
}

/// The mode of the directory of volumes: others must get through to the volumes they own, and need not see what else there is.
pub(super) const VOLUMES: u32 = 0o711;

/// The mode of the directory of snapshots. Nobody else gets in: a snapshot belongs to the user it was made as, and on BTRFS an owner may make it
/// writable again.
pub(super) const SNAPSHOTS: u32 = 0o700;

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;
    use std::sync::Barrier;

    use super::*;
    use crate::catalog::Catalog;
    use crate::name::VolumeName;

    fn open(dir: &Path) -> Catalog<Record> {
        Catalog::open(dir.join("volumes"), VOLUMES, "test").expect("a catalogue")
    }

    fn record(value: &str) -> Record {
        Record::begun(&Labels::new().with("who", value).expect("a label"), None)
    }

    fn names(catalog: &Catalog<Record>) -> Vec<String> {
        let listed = catalog.list::<VolumeName>().expect("a list");
        listed.found.into_iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn of_many_racers_one_wins_and_its_record_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let catalog = open(dir.path());
        let barrier = Barrier::new(8);
        let winners = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|i| {
                    let (catalog, barrier) = (&catalog, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        catalog.create("a", &record(&i.to_string())).expect("an answer").then_some(i)
                    })
                })
                .collect();
            racers.into_iter().filter_map(|racer| racer.join().expect("no panic")).collect::<Vec<_>>()
        });
        assert_eq!(winners.len(), 1);
        let kept = catalog.read("a").expect("readable").expect("there");
        assert_eq!(kept.labels.get("who"), Some(winners[0].to_string().as_str()));
        assert_eq!(
            fs::read_dir(dir.path().join("volumes")).expect("a directory").count(),
            1,
            "a temporary file is left"
        );
    }

    #[test]
    fn a_record_survives_being_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let catalog = open(dir.path());
        let mut record = record("é \"quoted\" \\");
        record.snapshot = Some(SnapshotName::new("production@1").expect("a name"));
        assert!(catalog.create("a", &record).expect("created"));
        assert_eq!(catalog.read("a").expect("readable"), Some(record.clone()));
        record.complete = true;
        catalog.replace("a", &record, true).expect("replaced");
        assert_eq!(catalog.read("a").expect("readable"), Some(record));
    }

    #[test]
    fn a_record_that_a_power_cut_left_empty_is_read_from_its_attribute() {
        let dir = tempfile::tempdir().expect("a directory");
        let catalog = open(dir.path());
        let mut record = record("x");
        // Too large for the attribute on many file systems: it is on disk instead, which no test can see.
        record.labels.set("large", "y".repeat(4096)).expect("a label");
        assert!(catalog.create("large", &record).expect("created"));
        record.labels.unset("large");
        assert!(catalog.create("a", &record).expect("created"));
        File::create(dir.path().join("volumes/a.json")).expect("emptied");
        assert_eq!(catalog.read("a").expect("readable"), Some(record));
        assert!(catalog.read("large").expect("readable").is_some());
    }

    #[test]
    fn garbage_is_passed_over_and_temporary_files_are_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = open(dir.path());
        assert!(first.create("good", &record("x")).expect("created"));
        let volumes = dir.path().join("volumes");
        for (name, text) in
            [("bad.json", "{"), ("empty.json", ""), ("old.json", "{\"labels\":{}}"), (".good.7.tmp", "half")]
        {
            fs::write(volumes.join(name), text).expect("written");
        }
        fs::create_dir(volumes.join("dir.json")).expect("a directory");
        fs::create_dir(volumes.join(".theirs.tmp")).expect("a directory");
        assert_eq!(names(&first), ["good"]);
        let again = open(dir.path());
        assert_eq!(names(&again), ["good"]);
        assert!(!volumes.join(".good.7.tmp").exists());
        assert!(volumes.join(".theirs.tmp").exists());
        assert!(again.exists("bad").expect("an answer"));
        assert!(again.read("bad").is_err());
    }
}
