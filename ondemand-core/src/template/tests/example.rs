//! The template that the examples show.

use super::*;
use crate::orchestrator::{Condition, SecretSpec};

fn example() -> Template {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/templates/shop.yml");
    Template::load(path).expect("the example")
}

#[test]
fn the_example_is_a_template() {
    let notes = example().check().expect("it can be rendered in all ways");
    assert_eq!(
        notes,
        [
            "route NAMEapi: back port 3000, ready when /health answers 200",
            "route NAMEwww, and NAME alone: front port 8080, ready when / answers any status below 400",
            "back: migrate, back, worker; from shop/back-web, branch master",
            "front: front; from shop/front-web, branch master",
            "services, in the order they are started: migrate, front, cache, back, worker",
        ]
    );
}

#[test]
fn the_example_builds_both_parts_from_their_branches() {
    let part = |name: &str| PartVariables {
        enabled: true,
        repository: format!("shop/{name}"),
        branch: "feature: ${HOME}\n\"x\"".into(),
        commit: "0123456789abcdef0123456789abcdef01234567".into(),
        url: format!("https://git.example/shop/{name}.git"),
    };
    let variables = Variables {
        back: part("back-web"),
        front: part("front-web"),
        hosts: BTreeMap::from([("api".into(), "demoapi.e".into()), ("www".into(), "demowww.e".into())]),
        urls: BTreeMap::from([("api".into(), "http://demoapi.e".into()), ("www".into(), "http://demowww.e".into())]),
        database: DatabaseVariables {
            enabled: true,
            host: "pg.internal".into(),
            port: 5433,
            user: "postgres".into(),
            name: "shop".into(),
        },
        secrets: ["token", "database_url", "database_password"]
            .map(|name| (name.to_owned(), format!("/run/secrets/{name}")))
            .into(),
        ..variables()
    };
    let document = example().render(&variables).expect("rendered");
    let stack = stack(&document).expect("translated");
    let back = stack.services.iter().find(|service| service.name.as_str() == "back").expect("a back end");
    assert_eq!(back.env["ONDEMAND_BRANCH"], variables.back.branch);
    assert_eq!(back.env["ONDEMAND_COMMIT"], variables.back.commit);
    assert_eq!(back.env["ONDEMAND_REPOSITORY_URL"], variables.back.url);
    assert_eq!(back.env["ONDEMAND_TOKEN_FILE"], "/run/secrets/token");
    assert_eq!(back.env["ONDEMAND_FILE_VARIABLES"], "DATABASE_URL");
    assert_eq!(back.env["DATABASE_URL_FILE"], "/run/secrets/database_url");
    assert_eq!(back.env["PORT"], "3000");
    let migrated = back.depends_on.iter().find(|d| d.service.as_str() == "migrate").expect("it waits for migrations");
    assert_eq!(migrated.condition, Condition::CompletedSuccessfully);
    let front = stack.services.iter().find(|service| service.name.as_str() == "front").expect("a front end");
    assert_eq!(front.env["API_URL"], "http://demoapi.e");
    // The server itself adds what is secret: a template never holds it.
    assert!(!stack.secrets.values().any(|secret| matches!(secret, SecretSpec::Content(_))));

    let back_only = document.without_services(&["front"]).and_then(|document| super::stack(&document));
    assert_eq!(back_only.expect("translated").services.len(), 4);
    let front_only =
        document.without_services(&["back", "worker", "migrate"]).and_then(|document| super::stack(&document));
    assert_eq!(front_only.expect("translated").services.len(), 2);
}
