//! Databases whose record may not have reached the disk when the power failed.

use super::*;

/// What a record says of the end of a create may not be on disk when it is announced: after a boot, one that was begun may be somebody's.
#[tokio::test]
async fn one_that_may_have_been_announced_before_a_boot_is_kept() {
    for (is_noted, boots, is_kept) in [(true, false, false), (true, true, true), (false, true, false)] {
        let mut world = World::new().await;
        let database = world.create().await.unwrap();
        let record = world.record(&database.id);
        assert!(record.epoch.is_some(), "what it was made with");
        let epoch = record.epoch.clone().filter(|_| is_noted);
        let before = Record { state: State::Pending, epoch, ..record };
        world.store.set_volume_labels(&before.volume(), &before.labels(&world.instance.id).unwrap()).await.unwrap();
        world.crash();
        if boots {
            world.store.begin_epoch();
            world.orchestrator.exit(&before.stack(), 255);
        }
        world.reconcile().await;
        let there = world.databases.list().await.unwrap();
        assert_eq!(there.len(), usize::from(is_kept), "{is_noted} {boots}: {there:?}");
        assert!(there.iter().all(|found| found.url() == database.url() && found.state == DatabaseState::Running));
        assert_eq!(world.volumes().await, usize::from(is_kept));
        if is_kept {
            // From now on its record says so itself.
            let volume = world.store.volume(&before.volume()).await.unwrap().unwrap();
            assert_eq!((volume.labels.get(keys::STATE), volume.labels.get(keys::EPOCH)), (Some("announced"), None));
            world.crash();
            assert_eq!(world.reconcile().await.restarted, [""; 0]);
            assert_eq!(world.databases.list().await.unwrap().len(), 1);
        }
    }
}

/// A create whose caller was told that it has failed does not come back with the next boot, although nothing could be removed.
#[tokio::test]
async fn one_that_failed_before_a_boot_is_not_kept() {
    for process_lives in [true, false] {
        let mut world = World::new().await;
        world.plan.on("deploy", 1, Fault::fail_before(|| Error::backend("test", "starting", "broken")));
        world.plan.on("delete_volume", 1, Fault::fail_before(|| Error::backend("test", "deleting", "broken")));
        world.create().await.unwrap_err();
        assert_eq!(world.volumes().await, 1, "what could not be removed");
        if !process_lives {
            world.crash();
        }
        world.store.begin_epoch();
        world.reconcile().await;
        assert!(world.databases.list().await.unwrap().is_empty());
        assert_eq!(world.volumes().await, 0);
    }
}
