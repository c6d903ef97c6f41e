//! The `x-ondemand` section.

use super::*;

fn settings(section: &str) -> Result<Settings> {
    let indented = format!("  {}\n", section.replace('\n', "\n  "));
    let text = format!("x-ondemand:\n{indented}services: {{back: {{image: x}}}}\n");
    Template::parse("shop", "shop.yml", text).map(|template| template.settings().clone())
}

#[test]
fn a_section_says_what_a_template_needs() {
    let settings = settings(
        "routes:\n- {suffix: api, service: back, port: 3000, path: /health?full=1, status: [2xx, 401]}\n\
         - {suffix: '', service: front, port: '80', status: 200}\n\
         main: ''\n\
         back: {services: [back, worker], repository: shop/back-web, branch: master}\n\
         front: {services: [front]}\n\
         database: {dump: production, fixtures: fixtures@1}\n\
         limits: {keep-days: 3, max-keep-days: 30, ready-timeout: 10m, max-services: 20}",
    )
    .expect("settings");
    let [api, front] = &settings.routes[..] else { panic!("two routes") };
    assert_eq!((api.suffix.as_str(), api.service.as_str(), api.port), ("api", "back", 3000));
    assert_eq!((api.path.as_str(), api.status.to_string().as_str()), ("/health?full=1", "2xx or 401"));
    assert_eq!((front.suffix.as_str(), front.port, front.path.as_str()), ("", 80, "/"));
    assert!(front.status.accepts(200) && !front.status.accepts(204));
    assert_eq!(settings.main, "");
    let back = settings.back.expect("a back end");
    assert_eq!(back.services.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["back", "worker"]);
    assert_eq!(back.repository.as_ref().map(AsRef::as_ref), Some("shop/back-web"));
    assert_eq!(back.branch.as_ref().map(AsRef::as_ref), Some("master"));
    assert_eq!(settings.front.expect("a front end").repository, None);
    let database = settings.database.expect("a database");
    assert_eq!(database.dump.map(|dataset| dataset.to_string()).as_deref(), Some("production"));
    assert_eq!(database.fixtures.map(|dataset| dataset.to_string()).as_deref(), Some("fixtures@1"));
    let limits = settings.limits;
    assert_eq!((limits.keep_days, limits.max_keep_days, limits.max_services), (Some(3), Some(30), Some(20)));
    assert_eq!(limits.ready_timeout, Some(Duration::from_secs(600)));
}

#[test]
fn most_of_a_section_may_be_left_out() {
    let settings = settings("routes: [{suffix: api, service: back, port: 3000}]").expect("settings");
    assert_eq!((settings.main.as_str(), settings.parts().count()), ("api", 0));
    assert_eq!((settings.database, settings.limits), (None, Limits::default()));
    assert!(settings.routes[0].status.accepts(302));
}

#[test]
fn what_is_wrong_with_a_section_is_named_with_its_line() {
    let route = "routes: [{suffix: api, service: back, port: 3000}]\n";
    for (text, line, said) in [
        ("main: api".to_owned(), 2, "it has no routes"),
        ("routes: []".to_owned(), 2, "it has no routes"),
        (format!("{route}route: x"), 3, "x-ondemand.route: this key is not supported"),
        (format!("{route}main: web"), 3, "x-ondemand.main: no route has the suffix \"web\""),
        ("routes:\n- {suffix: api, service: back, port: 0}".to_owned(), 3, "it has no port"),
        ("routes:\n- {suffix: api, service: back}".to_owned(), 3, "it has no port"),
        ("routes:\n- {service: back, port: 1}".to_owned(), 3, "it has no suffix"),
        ("routes:\n- {suffix: A, service: back, port: 1}".to_owned(), 3, "lower-case letters"),
        ("routes:\n- {suffix: a-, service: back, port: 1}".to_owned(), 3, "the last not a '-'"),
        ("routes:\n- {suffix: a.b, service: back, port: 1}".to_owned(), 3, "lower-case letters"),
        ("routes:\n- {suffix: a, service: B, port: 1}".to_owned(), 3, "is not a service name"),
        ("routes:\n- {suffix: a, service: b, port: 1, path: x}".to_owned(), 3, "begin with a slash"),
        ("routes:\n- {suffix: a, service: b, port: 1, path: '/ HTTP/1.1'}".to_owned(), 3, "as a browser sends it"),
        ("routes:\n- {suffix: a, service: b, port: 1, status: fine}".to_owned(), 3, "neither a status nor a class"),
        ("routes:\n- {suffix: a, service: b, port: 1, foo: 1}".to_owned(), 3, "routes[0].foo: this key"),
        (
            "routes:\n- {suffix: a, service: b, port: 1}\n- {suffix: a, service: b, port: 2}".to_owned(),
            4,
            "another route",
        ),
        (format!("{route}back: {{}}"), 3, "x-ondemand.back: it has no services"),
        (format!("{route}back: {{services: [a], foo: 1}}"), 3, "x-ondemand.back.foo: this key"),
        (
            format!("{route}back: {{services: [a], branch: --upload-pack=x}}"),
            3,
            "back.branch: \"--upload-pack=x\" is not",
        ),
        (format!("{route}back: {{services: [a], branch: feature..x}}"), 3, "back.branch: \"feature..x\" is not"),
        (format!("{route}back:\n  services: [a]\n  repository: web"), 5, "back.repository: \"web\" is not"),
        (
            format!("{route}front: {{services: [a], repository: 'https://git.example/shop/web'}}"),
            3,
            "write it as OWNER/REPOSITORY",
        ),
        (format!("{route}back: {{services: [a], repository: ''}}"), 3, "back.repository: it is empty"),
        (format!("{route}back: {{services: [a]}}\nfront: {{services: [a]}}"), 2, "is of both parts"),
        (format!("{route}database: {{}}"), 3, "it names no dataset"),
        (format!("{route}database: {{dump: ../x}}"), 3, "is not a dataset name"),
        (format!("{route}limits: {{keep-days: 0}}"), 3, "1 to 3650 days"),
        (format!("{route}limits: {{keep-days: 5, max-keep-days: 4}}"), 3, "keep-days is above max-keep-days"),
        (format!("{route}limits: {{ready-timeout: 10}}"), 3, "is not a duration"),
        (format!("{route}limits: {{keep_days: 1}}"), 3, "x-ondemand.limits.keep_days: this key"),
        (format!("{route}main: {{{{ name }}}}"), 3, "may not hold `{{`"),
        ("routes: [".to_owned(), 2, "it is not YAML"),
    ] {
        let (file, at, reason) = refusal(settings(&text));
        assert_eq!((file.as_str(), at), ("shop.yml", line), "{text}: {reason}");
        assert!(reason.contains(said), "{text}: {reason}");
    }
}

#[test]
fn services_that_a_section_names_must_be_there() {
    let text = "x-ondemand:\n  routes:\n  - {suffix: api, service: back, port: 1}\n  - {suffix: www, service: front, port: 1}\n  \
                front: {services: [front, assets]}\n  limits: {max-services: 2}\n\
                services:\n  back: {image: x}\n{% if front.enabled %}\n  front: {image: x}\n{% endif %}\n{% if fixtures %}\n  a: {image: x}\n  b: {image: x}\n{% endif %}\n";
    let template = Template::parse("shop", "shop.yml", text).expect("a template");
    assert!(template.render(&variables()).is_ok(), "the front end is not asked for");
    let front = PartVariables { enabled: true, ..PartVariables::default() };
    let (_, line, reason) = refusal(template.render(&Variables { front, ..variables() }));
    assert_eq!((line, reason.as_str()), (5, "x-ondemand.front.services[1]: there is no service \"assets\""));
    let (_, _, reason) = refusal(template.render(&Variables { fixtures: true, ..variables() }));
    assert!(reason.contains("there are 3 services, and max-services is 2"), "{reason}");
    let (_, _, reason) = refusal(template.check());
    assert!(reason.contains("with the front end, without fixtures"), "{reason}");

    // A part's services that are there and not asked for will not run, and do not count.
    let always = "x-ondemand:\n  routes: [ {suffix: api, service: back, port: 1} ]\n  front: {services: [front]}\n  \
                  limits: {max-services: 1}\nservices:\n  back: {image: x}\n  front: {image: x}\n";
    let template = Template::parse("shop", "shop.yml", always).expect("a template");
    assert!(template.render(&variables()).is_ok());
    let front = PartVariables { enabled: true, ..PartVariables::default() };
    let (_, _, reason) = refusal(template.render(&Variables { front, ..variables() }));
    assert!(reason.contains("there are 2 services, and max-services is 1"), "{reason}");
}

#[test]
fn a_section_within_a_block_is_refused() {
    for text in [
        format!("services: {{back: {{image: x}}}}\n{{% if fixtures %}}\n{SECTION}{{% endif %}}\n"),
        format!("services: {{back: {{image: x, labels: {{a: '\n{SECTION}'}}}}}}\n"),
    ] {
        let (_, _, reason) = refusal(Template::parse("shop", "shop.yml", text).and_then(|t| t.render(&variables())));
        assert!(reason.contains("outside of all blocks") || reason.contains("not YAML"), "{reason}");
    }
}

#[test]
fn names_of_templates_are_words() {
    for bad in ["", "a.b", "a b", "../a", "-a", "é"] {
        assert!(matches!(Template::parse(bad, "x", SECTION), Err(Error::InvalidName { .. })), "{bad}");
    }
}
