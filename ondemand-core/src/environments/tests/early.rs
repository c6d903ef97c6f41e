//! What is wrong with a template is said before anything is made.

use super::*;

/// Services that are a compose file, and no stack, or none of this template's; and what is said of them.
const WRONG: [(&str, &str); 4] = [
    ("{ image: x, build: . }", "services.back.build"),
    ("{ image: x, depends_on: [other] }", "other"),
    ("{ image: x, volumes: ['data:/data'] }", "\"data\" is not declared"),
    ("{ image: x, deploy: { replicas: many } }", "services.back.deploy.replicas"),
];

fn write(world: &World, database: &str, service: &str) -> CreateEnvironment {
    let section = "x-ondemand:\n  routes: [{suffix: api, service: back, port: 1}]\n";
    let text = format!("{section}{database}services:\n  back: {service}\n");
    std::fs::write(world.options.templates.join("wrong.yml"), text).unwrap();
    CreateEnvironment { template: Some("wrong".into()), ..wanted("demo") }
}

#[tokio::test]
async fn what_is_no_stack_is_refused_before_anything_is_cloned() {
    let world = World::new().await;
    let (cloned, told) = (world.data.plan.count("clone_snapshot"), world.data.plan.count("set_labels"));
    for (service, said) in WRONG {
        let wanted = write(&world, "  database: {dump: production}\n", service);
        let planned = world.environments.plan(None, wanted.clone()).await.map(drop);
        let begun = world.environments.begin(None, wanted, silent()).await.map(drop);
        for refused in [planned, begun] {
            let error = refused.expect_err(service);
            assert_eq!(error.code(), Code::InvalidTemplate, "{error}");
            assert!(error.to_string().contains(said) && error.to_string().contains("wrong.yml"), "{error}");
        }
    }
    assert_eq!(world.data.plan.count("clone_snapshot"), cloned);
    assert_eq!(world.data.plan.count("set_labels"), told);
    world.rests().await;
    world.check(&[]).await;
    world.create("demo").await.expect("its name is free");
}

#[tokio::test]
async fn what_depends_on_where_the_database_will_be_is_no_reason_to_refuse() {
    let world = World::new().await;
    let service =
        "{ image: '{{ database.host }}', entrypoint: ['{{ database.user }}'], expose: ['{{ database.port }}'] }";
    let wanted = write(&world, "  database: {dump: production}\n", service);
    let made = world.environments.create(None, wanted, silent()).await.expect("it can be deployed");
    assert!(made.database.is_some());
}

#[tokio::test]
async fn a_secret_of_a_database_that_there_is_not_is_refused_before_anything_is_made() {
    let world = World::new().await;
    let service = "{ image: x, environment: { URL_FILE: \"{{ secrets.database_url }}\" } }";
    let wanted = write(&world, "", service);
    let planned = world.environments.plan(None, wanted.clone()).await.map(drop);
    let begun = world.environments.begin(None, wanted, silent()).await.map(drop);
    for refused in [planned, begun] {
        let error = refused.expect_err("no such secret");
        assert_eq!(error.code(), Code::InvalidTemplate, "{error}");
        assert!(error.to_string().contains("secrets.database_url"), "{error}");
    }
    world.rests().await;
    world.check(&[]).await;
}
