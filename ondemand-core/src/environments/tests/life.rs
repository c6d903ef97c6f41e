//! What becomes of environments by themselves: they expire, fall, move, are left half done, and are tampered with.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::record::{Record, State};
use super::*;
use crate::datasets::{Datasets, DatasetsOptions};
use crate::fakes::FakeProgram;
use crate::janitor::Janitor;
use crate::label::{Labels, keys};
use crate::name::StackName;

async fn deployed(world: &World, name: &str) -> Deployed {
    world.inner().ready(&name.parse().unwrap()).await.unwrap()
}

async fn relabel(world: &World, stack: &StackName, labels: &Labels) {
    Orchestrator::set_labels(&world.orchestrator, stack, labels).await.unwrap();
}

/// Looks once where services run.
async fn look(world: &World) {
    let mut fallen = BTreeMap::new();
    follow::look(world.inner(), &mut fallen).await.unwrap();
    // What was to be started again is.
    while fallen.values().any(follow::Fallen::is_starting) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_has_expired_is_reaped_with_all_that_belongs_to_it() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    let Deployed { record, stack } = deployed(&world, "demo").await;
    let past = Record { expires: OffsetDateTime::now_utc() - Duration::from_secs(1), ..record };
    relabel(&world, &stack.name, &past.labels(&world.data.instance.id).unwrap()).await;
    let report = world.reconcile().await;
    assert_eq!(report, Report { reaped: vec!["environment demo".into()], ..Report::default() });
    world.check(&[]).await;
}

#[tokio::test]
async fn a_part_of_the_janitors_round_that_fails_ends_no_other() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    let Deployed { record, stack } = deployed(&world, "demo").await;
    let past = Record { expires: OffsetDateTime::now_utc() - Duration::from_secs(1), ..record };
    relabel(&world, &stack.name, &past.labels(&world.data.instance.id).unwrap()).await;
    let datasets = Datasets::new(Arc::new(world.data.store.clone()), DatasetsOptions::default());
    let janitor = Janitor::new(world.data.databases.clone(), datasets).with_environments(world.environments.clone());
    let base = world.data.plan.count("volumes");
    let broken = || Error::backend("fake", "listing volumes", "on purpose");
    world.data.plan.on("volumes", base + 1, Fault::fail_before(broken));
    assert_eq!(janitor.run_once().await.unwrap_err().code(), Code::Backend);
    assert_eq!(world.get("demo").await.unwrap_err().code(), Code::NotFound);
    world.check(&[]).await;
}

#[tokio::test]
async fn an_environment_whose_record_cannot_be_read_lives_on() {
    let mut world = World::new().await;
    let made = world.create("demo").await.unwrap();
    let stack = deployed(&world, "demo").await.stack;
    world.orchestrator.damage(&stack.name, true);
    for round in 0..3 {
        let report = world.reconcile().await;
        assert!(report.unknown.iter().any(|what| what.contains("env-demo")), "{report:?}");
        assert!(report.removed.is_empty() && report.reaped.is_empty(), "{report:?}");
        let error = world.get("demo").await.unwrap_err();
        assert_eq!(error.code(), Code::Conflict, "it is not told to be absent: {error}");
        assert_eq!(world.create("demo").await.unwrap_err().code(), Code::AlreadyExists);
        // Both who saw it before and who did not.
        if round == 1 {
            world.crash();
        }
    }
    world.orchestrator.damage(&stack.name, false);
    assert_eq!(world.reconcile().await, Report::default());
    assert_eq!(world.get("demo").await.unwrap(), made);
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn variables_of_a_template_come_from_the_configuration_or_are_missed() {
    let mut world = World::new().await;
    let template = "x-ondemand:\n  routes: [{ suffix: '', service: web, port: 80, path: /, status: 200 }]\n\
                    services:\n  web: { image: '${REGISTRY}/web:${TAG:-1}', entrypoint: [web] }\n";
    std::fs::write(world.options.templates.join("variables.yml"), template).unwrap();
    let wanted = || CreateEnvironment { template: Some("variables".into()), ..wanted("demo") };
    let error = world.environments.create(None, wanted(), silent()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidInput);
    let text = error.to_string();
    assert!(text.contains("REGISTRY") && text.contains("environments.variables"), "{text}");
    world.check(&[]).await;
    world.options.variables = BTreeMap::from([("REGISTRY".into(), "registry.dev.internal".into())]);
    world.reopen();
    world.environments.create(None, wanted(), silent()).await.unwrap();
    let spec = world.orchestrator.spec(&"env-demo".parse().unwrap()).unwrap();
    assert_eq!(spec.services[0].image.as_deref(), Some("registry.dev.internal/web:1"));
}

#[tokio::test]
async fn of_two_that_are_ready_the_older_goes() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    let refused = || Error::backend("fake", "removing", "on purpose");
    world.data.plan.on("remove", world.data.plan.count("remove") + 1, Fault::fail_before(refused));
    world.push("Sell more");
    let new = world.redeploy("demo").await.expect("the new one is there, and the old one is the janitor's");
    let report = world.reconcile().await;
    assert_eq!(report, Report { removed: vec!["stack env-demo".into()], ..Report::default() });
    assert_eq!(world.get("demo").await.unwrap().back, new.back);
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn a_deletion_that_was_begun_is_finished() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    let Deployed { record, stack } = deployed(&world, "demo").await;
    let deleting = Record { state: State::Deleting, ..record };
    relabel(&world, &stack.name, &deleting.labels(&world.data.instance.id).unwrap()).await;
    assert_eq!(world.get("demo").await.unwrap().status, Status::Deleting);
    assert_eq!(world.create("demo").await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(world.reconcile().await.removed, ["environment demo"]);
    world.check(&[]).await;
}

#[tokio::test]
async fn a_stack_that_cannot_be_read_is_reported_and_left_alone_with_its_database() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    let Deployed { stack, .. } = deployed(&world, "demo").await;
    let damaged = stack.labels.clone().with(keys::EXPIRES, "some day").unwrap();
    relabel(&world, &stack.name, &damaged).await;
    let (databases, routes) = (world.data.volumes().await, world.table.list().await.unwrap());
    for _ in 0..2 {
        let report = world.reconcile().await;
        assert!(
            report.unknown.len() == 1 && report.unknown[0].starts_with("stack env-demo cannot be read: "),
            "{report:?}"
        );
        assert_eq!(Report { unknown: Vec::new(), ..report }, Report::default(), "nothing else is done");
    }
    look(&world).await;
    assert_eq!(world.data.volumes().await, databases);
    assert_eq!(world.table.list().await.unwrap(), routes);
    for refused in
        [world.delete("demo").await, world.redeploy("demo").await.map(drop), world.get("demo").await.map(drop)]
    {
        let error = refused.unwrap_err();
        assert_eq!(error.code(), Code::Conflict);
        assert!(error.to_string().contains("env-demo"), "{error}");
    }
    world.create("demo").await.unwrap_err();
    assert_eq!(world.table.list().await.unwrap(), routes, "a create under its name has touched its routes");
    // Set right, it is what it was.
    relabel(&world, &stack.name, &stack.labels).await;
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn what_belongs_to_a_stack_that_somebody_removed_goes_with_the_next_round() {
    let mut world = World::new().await;
    for restarted in [false, true] {
        world.create("demo").await.unwrap();
        look(&world).await;
        let id = deployed(&world, "demo").await.stack.id;
        Orchestrator::remove(&world.orchestrator, &id).await.unwrap();
        if restarted {
            world.crash();
        }
        let report = world.reconcile().await;
        let routes: Vec<_> = report.removed.iter().filter(|removed| removed.starts_with("route demo")).collect();
        assert_eq!((report.removed.len(), routes.len()), (3, 2), "{report:?}");
        world.check(&[]).await;
    }
    world.create("demo").await.expect("its name is free");
}

#[tokio::test]
async fn a_name_is_free_at_once_whatever_its_last_environment_left_of_routes() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    let id = deployed(&world, "demo").await.stack.id;
    Orchestrator::remove(&world.orchestrator, &id).await.unwrap();
    world.create("demo").await.expect("its name is free");
    world.reconcile().await;
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn a_route_that_somebody_set_instead_is_left_alone() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    let host = "demoapi.env.dev.internal".parse().unwrap();
    let manual = Route::new(host, ["10.0.0.2:80".parse().unwrap()]);
    world.table.set(&manual).await.unwrap();
    look(&world).await;
    assert_eq!(world.table.get(&manual.host).await.unwrap(), manual);
    // Nor is it asked whether it leads to the new services.
    world.push("Sell more");
    world.redeploy("demo").await.expect("redeployed");
    assert_eq!(world.table.get(&manual.host).await.unwrap(), manual);
    world.delete("demo").await.unwrap();
    assert_eq!(world.table.get(&manual.host).await.unwrap(), manual);
    world.reconcile().await;
    assert_eq!(world.create("demo").await.unwrap_err().code(), Code::AlreadyExists);
    world.table.remove(&manual.host).await.unwrap();
    world.check(&[]).await;
}

#[tokio::test]
async fn a_route_that_somebody_sets_meanwhile_is_in_the_way_and_stays() {
    let world = World::new().await;
    let at = world.data.plan.count("deploy") + 1;
    // The second is the environment's own; the first is its database's.
    world.data.plan.on("deploy", at + 1, Fault::Delay(Duration::from_millis(50)));
    let manual = Route::new("demoapi.env.dev.internal".parse().unwrap(), ["10.0.0.2:80".parse().unwrap()]);
    let set = async {
        world.data.plan.reached("deploy", at + 1).await;
        world.table.set(&manual).await.unwrap();
    };
    let (created, ()) = tokio::join!(world.create("demo"), set);
    assert_eq!(created.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(world.table.get(&manual.host).await.unwrap(), manual);
    world.table.remove(&manual.host).await.unwrap();
    world.check(&[]).await;
}

#[tokio::test]
async fn routes_follow_where_services_run() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    let Deployed { record, stack } = deployed(&world, "demo").await;
    let host = &record.routes[0].host;
    let first = world.table.get(host).await.unwrap();

    world.orchestrator.move_ports(&stack.name);
    look(&world).await;
    let second = world.table.get(host).await.unwrap();
    assert_ne!(second.upstreams, first.upstreams);
    world.check(&["demo"]).await;

    // What has fallen is started again; until it runs, requests wait.
    world.orchestrator.exit(&stack.name, 1);
    assert_eq!(world.get("demo").await.unwrap().status, Status::Degraded);
    let slow = Fault::Delay(Duration::from_millis(20));
    world.data.plan.on("set_running", world.data.plan.count("set_running") + 1, slow);
    look(&world).await;
    assert!(world.table.get(host).await.unwrap().pending);
    look(&world).await;
    assert_eq!(world.table.get(host).await.unwrap(), second);
    world.check(&["demo"]).await;

    // A proxy that has lost its routes is given them again.
    for route in world.table.list().await.unwrap().iter().filter(|route| route.owner.is_some()) {
        world.table.remove(&route.host).await.unwrap();
    }
    look(&world).await;
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn what_is_reached_and_ends_well_is_not_well() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    world.orchestrator.exit(&deployed(&world, "demo").await.stack.name, 0);
    assert_eq!(world.get("demo").await.unwrap().status, Status::Degraded);
    look(&world).await;
    look(&world).await;
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn a_route_that_cannot_be_set_keeps_no_other_from_being_set() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    for name in [BYSTANDER, "demo"] {
        world.orchestrator.move_ports(&deployed(&world, name).await.stack.name);
    }
    let refused = || Error::backend("fake", "setting", "on purpose");
    world.data.plan.on("set", world.data.plan.count("set") + 1, Fault::fail_before(refused));
    look(&world).await;
    let Deployed { record, stack } = deployed(&world, "demo").await;
    let route = world.table.get(&record.routes[0].host).await.unwrap();
    assert_eq!(route.upstreams, routes::upstreams(&stack, &record.routes[0]).unwrap());
    look(&world).await;
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn a_look_that_is_old_news_sets_no_route_of_what_was_deleted() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    world.orchestrator.move_ports(&deployed(&world, "demo").await.stack.name);
    // The list of routes comes late: by then the environment is gone.
    let at = world.data.plan.count("list") + 2;
    world.data.plan.on("list", at, Fault::Delay(Duration::from_millis(50)));
    let delete = async {
        world.data.plan.reached("list", at).await;
        world.delete("demo").await.unwrap();
    };
    tokio::join!(look(&world), delete);
    world.check(&[]).await;
}

#[tokio::test]
async fn what_falls_again_and_again_is_started_ever_more_rarely() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    world.orchestrator.program("back", FakeProgram::Exits(1));
    world.orchestrator.exit(&deployed(&world, "demo").await.stack.name, 1);
    tokio::time::pause();
    let (mut fallen, mut started) = (BTreeMap::new(), Vec::new());
    for second in 0..200 {
        let before = world.data.plan.count("set_running");
        follow::look(world.inner(), &mut fallen).await.unwrap();
        while fallen.values().any(follow::Fallen::is_starting) {
            tokio::task::yield_now().await;
        }
        if world.data.plan.count("set_running") > before {
            started.push(second);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(started, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
    // Mended, it is left in peace, and after a while it is as if it had never fallen.
    world.orchestrator.program("back", FakeProgram::Runs);
    tokio::time::advance(Duration::from_secs(60)).await;
    follow::look(world.inner(), &mut fallen).await.unwrap();
    tokio::time::advance(Duration::from_secs(1000)).await;
    follow::look(world.inner(), &mut fallen).await.unwrap();
    assert!(fallen.is_empty(), "{fallen:?}");
    tokio::time::resume();
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn a_deletion_that_meets_the_janitor_deletes_all_the_same() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    let refused = || Error::backend("fake", "removing", "on purpose");
    let base = world.data.plan.count("remove");
    world.data.plan.on("remove", base + 1, Fault::fail_before(refused));
    world.redeploy("demo").await.unwrap();
    // The janitor removes what is too much, and takes its time.
    world.data.plan.on("remove", base + 2, Fault::Delay(Duration::from_millis(50)));
    let delete = async {
        world.data.plan.reached("remove", base + 2).await;
        assert_eq!(world.get("demo").await.unwrap().status, Status::Ready);
        world.delete("demo").await.unwrap();
    };
    tokio::join!(world.reconcile(), delete);
    world.check(&[]).await;
}

#[tokio::test]
async fn a_deletion_that_waits_for_one_that_fails_is_no_success() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    let base = world.data.plan.count("set_labels");
    world.data.plan.on("set_labels", base + 1, Fault::Delay(Duration::from_millis(50)));
    let refused = || Error::backend("fake", "removing", "on purpose");
    world.data.plan.on_every("remove", Fault::fail_before(refused));
    let second = async {
        world.data.plan.reached("set_labels", base + 1).await;
        world.delete("demo").await
    };
    let (first, second) = tokio::join!(world.delete("demo"), second);
    first.unwrap_err();
    second.unwrap_err();
    world.data.plan.clear();
    world.delete("demo").await.unwrap();
    world.check(&[]).await;
}

#[tokio::test]
async fn a_redeployment_reaches_services_where_the_template_has_them_now() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    let file = world.options.templates.join("shop.yml");
    let template = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, template.replace("port: 3000", "port: 4000")).unwrap();
    world.redeploy("demo").await.unwrap();
    let ports: Vec<_> = deployed(&world, "demo").await.record.routes.iter().map(|route| route.port).collect();
    assert_eq!(ports, [8080, 4000]);
    world.check(&["demo"]).await;
    // A new host name might be another environment's.
    std::fs::write(&file, template.replace("suffix: api", "suffix: other")).unwrap();
    assert_eq!(world.redeploy("demo").await.unwrap_err().code(), Code::Conflict);
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn a_database_whose_stack_goes_while_it_is_redeployed_stays() {
    let world = World::new().await;
    world.create("demo").await.unwrap();
    let at = world.data.plan.count("deploy") + 1;
    world.data.plan.on("deploy", at, Fault::Delay(Duration::from_millis(50)));
    let id = deployed(&world, "demo").await.stack.id;
    let meanwhile = async {
        world.data.plan.reached("deploy", at).await;
        Orchestrator::remove(&world.orchestrator, &id).await.unwrap();
        assert_eq!(world.reconcile().await, Report::default());
    };
    let (redeployed, ()) = tokio::join!(world.redeploy("demo"), meanwhile);
    redeployed.unwrap();
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn why_it_failed_is_told_until_the_name_is_used_again() {
    let world = World::new().await;
    world.orchestrator.program("back", FakeProgram::PrintsAndExits(vec!["no such table".into()], 3));
    let error = world.create("demo").await.unwrap_err();
    assert_eq!(error.code(), Code::ServiceFailed);
    let failed = world.get("demo").await.unwrap();
    assert_eq!((failed.status, failed.failure), (Status::Failed, Some(error.to_string())));
    world.check(&[]).await;
    world.orchestrator.program("back", FakeProgram::Runs);
    world.create("demo").await.unwrap();
    world.check(&["demo"]).await;
    world.delete("demo").await.unwrap();
    assert_eq!(world.get("demo").await.unwrap_err().code(), Code::NotFound);
}
