//! Which names can be had, by how many, and who wins.

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn of_creates_that_race_for_a_name_one_wins() {
    let world = World::new().await;
    let created = join_all((0..6).map(|_| world.create("demo"))).await;
    let errors: Vec<_> = created.iter().filter_map(|created| created.as_ref().err()).collect();
    assert_eq!(errors.len(), 5, "{errors:?}");
    assert!(errors.iter().all(|error| error.code() == Code::AlreadyExists), "{errors:?}");
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn of_creates_that_race_for_a_host_name_one_wins() {
    let world = World::new().await;
    let (short, long) = tokio::join!(world.create("foo"), world.create("fooapi"));
    let (winner, loser) = match (short, long) {
        (Ok(winner), Err(loser)) | (Err(loser), Ok(winner)) => (winner, loser),
        both => panic!("one of two wins: {both:?}"),
    };
    assert_eq!(loser.code(), Code::Conflict);
    assert!(loser.to_string().contains("fooapi.env.dev.internal"), "{loser}");
    world.check(&[winner.name.as_str()]).await;
}

#[tokio::test]
async fn no_two_environments_have_one_host_name() {
    let world = World::new().await;
    for (first, second) in [("foo", "fooapi"), ("fooapi", "foo")] {
        world.create(first).await.unwrap();
        assert_eq!(world.create(second).await.unwrap_err().code(), Code::Conflict, "{second} beside {first}");
        world.check(&[first]).await;
        world.delete(first).await.unwrap();
    }
    // Without a route of that suffix, nothing is in the way.
    world.create("foo").await.unwrap();
    let page = CreateEnvironment { template: Some("page".into()), ..wanted("fooapi-x") };
    world.environments.create(None, page, silent()).await.unwrap();
    world.delete("fooapi-x").await.unwrap();
    world.check(&["foo"]).await;
}

#[tokio::test]
async fn a_name_that_is_taken_reserved_or_a_route_already_is_refused() {
    let world = World::new().await;
    for (name, code) in [
        (BYSTANDER, Code::AlreadyExists),
        ("admin", Code::InvalidName),
        // Its back end would be `wwwapi`.
        ("www", Code::InvalidName),
        ("wwwapi", Code::InvalidName),
        ("manual", Code::AlreadyExists),
        // Nothing is what a browser takes for an encoded name of another script.
        ("xn--demo", Code::InvalidName),
        ("xn--p1ai", Code::InvalidName),
    ] {
        let error = world.create(name).await.unwrap_err();
        assert_eq!(error.code(), code, "{name}: {error}");
        assert_eq!(world.environments.plan(None, wanted(name)).await.unwrap_err().code(), code, "plan of {name}");
    }
    world.check(&[]).await;
}

#[tokio::test]
async fn a_name_and_a_suffix_are_one_label_of_63_characters_at_most() {
    let world = World::new().await;
    let longest = "x".repeat(40);
    for (length, fits) in [(23, true), (24, false)] {
        let suffix = "y".repeat(length);
        let template = format!(
            "x-ondemand: {{ routes: [ {{ suffix: {suffix}, service: page, port: 80, path: /, status: 200 }} ] }}\n\
             services: {{ page: {{ image: page, entrypoint: [page] }} }}\n"
        );
        std::fs::write(world.options.templates.join("long.yml"), template).unwrap();
        let wanted = CreateEnvironment { template: Some("long".into()), ..wanted(&longest) };
        match world.environments.create(None, wanted, silent()).await {
            Ok(made) => {
                assert!(fits && made.urls[0].as_str() == format!("{longest}{suffix}.env.dev.internal"));
                world.delete(&longest).await.unwrap();
            }
            Err(error) => assert!(!fits && error.code() == Code::InvalidName, "{error}"),
        }
    }
    world.check(&[]).await;
}

#[tokio::test]
async fn the_name_of_a_deleted_environment_is_at_once_free() {
    let world = World::new().await;
    for _ in 0..5 {
        world.create("demo").await.unwrap();
        world.delete("demo").await.unwrap();
    }
    world.check(&[]).await;
}

#[tokio::test]
async fn a_create_that_ends_while_another_looks_keeps_its_name() {
    let world = World::new().await;
    // The second looks when the first has not deployed anything, and takes its time.
    let first = world.environments.begin(None, wanted("demo"), silent()).await.unwrap();
    let at = world.data.plan.count("list") + 1;
    world.data.plan.on("list", at, Fault::Delay(Duration::from_millis(100)));
    let second = world.create("demo");
    let (first, second) = tokio::join!(first.finish(), second);
    first.unwrap();
    assert_eq!(second.unwrap_err().code(), Code::AlreadyExists);
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn without_a_name_it_gets_a_readable_one() {
    let world = World::new().await;
    let made = world.environments.create(None, CreateEnvironment::default(), silent()).await.unwrap();
    assert_eq!(made.name.as_str().split('-').count(), 2, "{}", made.name);
    world.check(&[made.name.as_str()]).await;
}

#[tokio::test]
async fn quotas_hold_for_those_too_that_are_being_made() {
    let mut world = World::new().await;
    world.options.max_per_user = 3;
    world.reopen();
    let created = join_all(["a", "b", "c", "d"].map(|name| world.create(name))).await;
    let errors: Vec<_> = created.iter().filter_map(|created| created.as_ref().err()).collect();
    assert_eq!(errors.len(), 2, "one was there, and two were free: {errors:?}");
    assert!(errors.iter().all(|error| error.code() == Code::QuotaExceeded), "{errors:?}");
    world.options.max_per_user = 10;
    world.options.max = 3;
    world.reopen();
    assert_eq!(world.create("e").await.unwrap_err().code(), Code::QuotaExceeded);
    let made: Vec<_> = created.into_iter().flatten().map(|made| made.name).collect();
    world.delete(made[0].as_str()).await.unwrap();
    world.create("e").await.expect("one less, one more");
    world.check(&["e", made[1].as_str()]).await;
}

#[tokio::test]
async fn as_many_days_as_are_allowed() {
    let world = World::new().await;
    for days in [0, 8] {
        let long = CreateEnvironment { keep_days: Some(days), ..wanted("demo") };
        let error = world.environments.create(None, long, silent()).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidInput, "{days}");
    }
    world.create("demo").await.unwrap();
    let name = "demo".parse().unwrap();
    for days in [0, 8] {
        let error = world.environments.extend(&name, &Caller::admin(), days).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidInput, "{days}");
    }
    let extended = world.environments.extend(&name, &Caller::admin(), 7).await.unwrap();
    assert_eq!((extended.expires - extended.created).whole_days(), 7);
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn a_template_that_is_wrong_is_in_the_way_of_its_own_environments_only() {
    let world = World::new().await;
    std::fs::write(world.options.templates.join("draft.yml"), "services: [").unwrap();
    world.create("demo").await.expect("it is not of that template");
    let draft = CreateEnvironment { template: Some("draft".into()), ..wanted("draft") };
    let error = world.environments.create(None, draft, silent()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidTemplate, "{error}");
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn a_template_of_fixtures_only_says_that_they_are_to_be_asked_for() {
    let world = World::new().await;
    let shop = std::fs::read_to_string(world.options.templates.join("shop.yml")).unwrap();
    let fixtures = shop.replace("{ dump: production }", "{ fixtures: production }");
    assert_ne!(fixtures, shop);
    std::fs::write(world.options.templates.join("fixtures.yml"), fixtures).unwrap();
    let wanted = CreateEnvironment { template: Some("fixtures".into()), ..wanted("demo") };
    let error = world.environments.create(None, wanted.clone(), silent()).await.unwrap_err();
    assert!(error.to_string().contains("fixtures only: ask for them"), "{error}");
    let wanted = CreateEnvironment { fixtures: true, ..wanted };
    world.environments.create(None, wanted, silent()).await.expect("they were asked for");
    world.check(&["demo"]).await;
}

#[tokio::test]
async fn the_plain_name_is_what_people_type_whichever_route_it_reaches() {
    let world = World::new().await;
    let page = CreateEnvironment { template: Some("page".into()), ..wanted("plain") };
    let made = world.environments.create(None, page, silent()).await.unwrap();
    assert_eq!(made.links, ["https://plain-page.env.dev.internal"]);
    assert_eq!(made.main.as_deref(), Some("https://plain.env.dev.internal"), "and it is none of those");
    // The shop's main route has no suffix.
    let shop = world.create("demo").await.unwrap();
    assert_eq!((shop.main.as_ref(), shop.links.len()), (shop.links.first(), 2));
}

#[tokio::test]
async fn without_the_services_of_its_main_route_an_environment_has_no_plain_name() {
    let world = World::new().await;
    let template = "x-ondemand:\n  routes: [{suffix: api, service: back, port: 1}, {suffix: web, service: front, port: 2}]\n  \
                    main: web\n  front: {services: [front]}\n\
                    services:\n  back: {image: x, entrypoint: [x]}\n  front: {image: x, entrypoint: [x]}\n";
    std::fs::write(world.options.templates.join("parts.yml"), template).unwrap();
    let parts = CreateEnvironment { template: Some("parts".into()), ..wanted("demo") };
    let made = world.environments.create(None, parts, silent()).await.unwrap();
    assert_eq!((made.links, made.main), (vec!["https://demoapi.env.dev.internal".to_owned()], None));
}
