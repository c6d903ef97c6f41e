//! `/envs`: environments of a shop in Git repositories, made as processes and reached through a real proxy.
//!
//! Slow: a test imports a dataset, and has services that clone, build and start.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use ondemand_core::config::{Accounts, ProxyConfig, StoreKind};
use ondemand_core::environments::FoundAt;
use ondemand_core::router::Proxy;
use ondemand_core::{Config, Ondemand, Secret};
use ondemand_http::{AppState, Routing, app, openapi};
use ondemand_tests::shop::DATASET;
use ondemand_tests::{Forge, Home, Shop, free_range};
use serde_json::{Value, json};

use crate::{Answer, Service};

/// The server's own token.
const ADMIN: &str = "s3same";

/// Every route, with a body that it takes.
const ROUTES: [(&str, &str, &str); 7] = [
    ("GET", "/envs", ""),
    ("POST", "/envs", r#"{"name":"demo"}"#),
    ("GET", "/envs/demo", ""),
    ("PATCH", "/envs/demo", r#"{"keep-days":1}"#),
    ("DELETE", "/envs/demo", ""),
    ("POST", "/envs/demo/redeploy", ""),
    ("GET", "/envs/demo/logs", ""),
];

/// Opens a service that makes environments of a shop; without accounts, unless that is changed.
async fn open(change: impl FnOnce(&mut Config)) -> (Service, Shop) {
    let home = Home::new().expect("a home");
    let shop = Shop::new(&home).await.expect("a shop");
    let mut config = Config { data_dir: home.path().join("data"), store: StoreKind::Copy, ..Config::default() };
    (config.databases.first_port, config.databases.last_port) = free_range(10);
    config.environments.templates = Some(shop.templates());
    config.github.accounts = Accounts::None;
    config.github.url = shop.url();
    change(&mut config);
    let proxy = ProxyConfig { listen: ([127, 0, 0, 1], 0).into(), workers: Some(1), ..ProxyConfig::default() };
    let proxy = Proxy::start(&proxy).await.expect("a proxy");
    let found = FoundAt { here: format!("http://{}", proxy.address()), by_people: "http://{host}:8000".into() };
    let router = Arc::new(proxy.clone());
    let ondemand = Ondemand::open(&config).await.expect("it opens");
    let ondemand = ondemand.with_environments(&config, router.clone(), &found).expect("environments");
    let state = AppState::new(ondemand.clone(), Routing::new(router).with_proxy(proxy), &config);
    ondemand.janitor.run_once().await.expect("a round");
    state.set_ready();
    (Service { router: app(state.clone()), state, ondemand, home }, shop)
}

/// As [`open`], with the dataset that the shop wants.
async fn open_with_data(change: impl FnOnce(&mut Config)) -> (Service, Shop) {
    let (service, shop) = open(change).await;
    let request = Request::post("/datasets/shop").header(header::AUTHORIZATION, format!("Bearer {ADMIN}"));
    let imported = service.send(request.body(Body::from(DATASET)).expect("a request")).await;
    assert_eq!(imported.status, StatusCode::CREATED, "{imported:?}");
    (service, shop)
}

impl Service {
    /// Asks with headers.
    async fn ask_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).expect("a request")).await
    }

    /// Asks with a token.
    async fn ask_as(&self, token: &str, (method, path, body): (&str, &str, &str)) -> Answer {
        self.ask_with(method, path, &[("authorization", &format!("Bearer {token}"))], body.to_owned()).await
    }

    /// Asks what creating an environment would do.
    async fn plan(&self, body: &str) -> Answer {
        self.ask("POST", "/envs?plan=true", body.to_owned()).await
    }
}

#[tokio::test]
async fn a_server_without_templates_says_what_to_do_for_environments() {
    let service = Service::ready().await;
    for (method, path, body) in ROUTES {
        let answer = service.ask(method, path, body).await;
        let detail = answer.problem(501, "unsupported");
        assert!(detail.contains("no environments"), "{method} {path}: {detail}");
        assert!(answer.field("hint").contains("environments.templates"), "{method} {path}: {answer:?}");
    }
}

#[tokio::test]
async fn the_contract_of_environments() {
    let (service, shop) = open_with_data(|_| ()).await;
    // The template's own limit holds, from the beginning and for those who ask for more later.
    let file = shop.templates().join("demo.yml");
    let template = std::fs::read_to_string(&file).expect("a template");
    std::fs::write(&file, template.replace("keep-days: 1,", "keep-days: 1, max-keep-days: 7,")).expect("a template");
    assert!(service.plan(r#"{"keep-days":8}"#).await.problem(400, "invalid_input").contains("maximum of 7"));
    // As curl sends it, and as old clients write switches and numbers.
    let created = service.ask("POST", "/envs", r#"{"name":"demo","with-fixtures":"false","keep-days":"2"}"#).await;
    let done = "{\"status\":\"done\",\"urls\":[\"demo.localhost\",\"demoapi.localhost\"]}\n";
    assert_eq!((created.status, &*created.text), (StatusCode::OK, done));
    assert_eq!(created.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(service.get("/envs").await.text, "[\"demo\"]\n");

    let details = service.get("/envs/demo").await.json();
    let links = json!(["http://demo.localhost:8000", "http://demoapi.localhost:8000"]);
    assert_eq!((&details["status"], &details["links"]), (&json!("ready"), &links));
    assert_eq!(details["main"], "http://demo.localhost:8000");
    assert_eq!((&details["with-fixtures"], &details["owner"]), (&json!(false), &json!({"id": 0, "login": "local"})));
    let states: Vec<_> = details["services"].as_array().expect("services").iter().map(|s| s["state"].clone()).collect();
    assert_eq!(states, ["running", "running"], "{details}");
    assert_eq!(days(&details), 2);
    let patched = service.ask("PATCH", "/envs/demo", r#"{"keep-days":" 7 "}"#).await;
    assert_eq!((patched.status, days(&patched.json())), (StatusCode::OK, 7));
    for (body, part) in [
        ("", "keep-days"),
        ("{}", "keep-days"),
        (r#"{"keep-days":null}"#, "keep-days"),
        (r#"{"keep-days":0}"#, "at least 1"),
        (r#"{"keep-days":8}"#, "maximum of 7"),
        (r#"{"keep-days":1,"name":"x"}"#, "`name`"),
    ] {
        let detail = service.ask("PATCH", "/envs/demo", body).await.problem(400, "invalid_input");
        assert!(detail.contains(part), "{body}: {detail}");
    }

    let logs = service.get("/envs/demo/logs").await;
    assert_eq!(logs.headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    let services = ["back: [ondemand] cloning shop/back at ", "front: [ondemand] cloning shop/front at "];
    assert!(services.iter().all(|line| logs.text.lines().any(|l| l.starts_with(line))), "{logs:?}");
    let back = service.get("/envs/demo/logs?service=back").await.text;
    assert!(back.starts_with("[ondemand] cloning shop/back at "), "{back}");
    assert_eq!(service.get("/envs/demo/logs?service=back&tail=1").await.text.lines().count(), 1);
    // Processes write no times.
    service.get("/envs/demo/logs?since=2026-11-22T19:23:00Z").await.problem(501, "unsupported");
    for query in ["tail=many", "since=yesterday", "follow=maybe", "lines=5", "tail=1&tail=2"] {
        service.get(&format!("/envs/demo/logs?{query}")).await.problem(400, "invalid_input");
    }
    let again = service.ask("POST", "/envs/demo/redeploy", Body::empty()).await;
    assert_eq!((again.status, &*again.text), (StatusCode::OK, done));
    let followed = Request::get("/envs/demo/logs?follow").body(Body::empty()).expect("a request");
    let (followed, gone) = tokio::join!(service.send(followed), service.ask("DELETE", "/envs/demo", Body::empty()));
    assert_eq!((gone.status, &*gone.text), (StatusCode::OK, "{\"status\":\"done\",\"urls\":[]}\n"));
    // What is followed ends with the environment, and so does all else about it.
    assert!([StatusCode::OK, StatusCode::NOT_FOUND].contains(&followed.status), "{followed:?}");
    for (method, path, body) in ROUTES.iter().filter(|(_, path, _)| path.starts_with("/envs/")) {
        service.ask(method, path, *body).await.problem(404, "not_found");
    }
    assert_eq!(service.get("/envs").await.text, "[]\n");
}

/// Returns how many days from now something expires.
fn days(described: &Value) -> u64 {
    let expires = described["expires"].as_str().expect("a time");
    let expires = humantime::parse_rfc3339(expires).expect("RFC 3339");
    let left = expires.duration_since(std::time::SystemTime::now()).expect("the future").as_secs();
    (left + 3600) / 86_400
}

#[tokio::test]
async fn bodies_are_read_as_clients_write_them() {
    let (service, _shop) = open_with_data(|_| ()).await;
    for (body, expected) in [
        ("", 1),
        ("{}", 1),
        (r#"{"keep-days":null}"#, 1),
        (r#"{"keep-days":2}"#, 2),
        (r#"{"keep-days":"3"}"#, 3),
        (r#"{"keep-days":" 4 "}"#, 4),
        (r#"{"keep-days":30}"#, 30),
    ] {
        let plan = service.plan(body).await;
        assert_eq!((plan.status, days(&plan.json())), (StatusCode::OK, expected), "{body}: {plan:?}");
    }
    // Text with nothing in it is as good as none.
    let empty = r#"{"name":"","github-token":"","github-back":"","github-back-branch":"","github-front":"","github-front-branch":"","template":""}"#;
    let plan = service.plan(empty).await.json();
    assert_eq!(plan["back"]["repository"], "shop/back", "{plan}");
    assert!(plan["name"].as_str().is_some_and(|name| !name.is_empty()), "{plan}");

    // This shop has no fixtures: who wants some is told so.
    for off in ["false", "null", r#""false""#, r#""0""#] {
        let plan = service.plan(&format!(r#"{{"with-fixtures":{off}}}"#)).await;
        assert_eq!(plan.status, StatusCode::OK, "{off}: {plan:?}");
    }
    for on in ["true", r#""true""#, r#""1""#, r#""""#] {
        let plan = service.plan(&format!(r#"{{"with-fixtures":{on}}}"#)).await;
        let detail = plan.problem(400, "invalid_input");
        assert!(detail.contains("no fixtures"), "{on}: {detail}");
    }
    for (body, code, part) in [
        (r#"{"with-fixtures":"maybe"}"#, "invalid_input", "with-fixtures"),
        (r#"{"with-fixtures":2}"#, "invalid_input", "with-fixtures"),
        (r#"{"with-fixtures":[]}"#, "invalid_input", "with-fixtures"),
        (r#"{"keep-days":"many"}"#, "invalid_input", "keep-days"),
        (r#"{"keep-days":1.5}"#, "invalid_input", "keep-days"),
        (r#"{"keep-days":-1}"#, "invalid_input", "keep-days"),
        (r#"{"keep-days":4294967297}"#, "invalid_input", "keep-days"),
        (r#"{"keep-days":0}"#, "invalid_input", "keep-days"),
        (r#"{"keep-days":31}"#, "invalid_input", "keep-days"),
        (r#"{"keep_days":1}"#, "invalid_input", "`keep_days`"),
        (r#"{"Name":"demo"}"#, "invalid_input", "`Name`"),
        (r#"{"name":1}"#, "invalid_input", "string"),
        (r#"{"name":"a","name":"b"}"#, "invalid_input", "duplicate"),
        (r#"["demo"]"#, "invalid_input", "array"),
        (r#""demo""#, "invalid_input", "string"),
        ("name=demo", "invalid_input", "line 1"),
        (r#"{"name":"No"}"#, "invalid_name", "No"),
        (r#"{"github-back":"back"}"#, "invalid_name", "back"),
        (r#"{"github-front-branch":"-x"}"#, "invalid_name", "-x"),
    ] {
        for path in ["/envs?plan=true", "/envs"] {
            let detail = service.ask("POST", path, body).await.problem(400, code);
            assert!(detail.contains(part), "{body}: {detail}");
        }
    }
    // What is no name of a template leads to no file either.
    for template in ["other", "../demo", "demo.yml", "/etc/passwd"] {
        let detail = service.plan(&json!({ "template": template }).to_string()).await.problem(404, "not_found");
        assert!(detail.contains(template), "{detail}");
    }
    for query in ["plan=maybe", "plam=true", "plan=true&plan=false"] {
        service.ask("POST", &format!("/envs?{query}"), "{}").await.problem(400, "invalid_input");
    }
    for name in ["No", "a.b", "%2e%2e", "a%20b"] {
        service.get(&format!("/envs/{name}")).await.problem(400, "invalid_name");
    }
    assert_eq!(service.get("/envs").await.text, "[]\n");
}

#[tokio::test]
async fn how_it_is_answered_is_for_the_client_to_say() {
    let (service, shop) = open_with_data(|_| ()).await;
    // It is never ready, so that only who does not wait gets an answer in time.
    shop.write("back", "build.sh", "sleep 600\n").expect("a file");
    shop.push("back", "main", "Take one's time").await.expect("a push");
    for prefer in ["respond-async", "Respond-Async", "wait=5, respond-async", "respond-async; foo=bar"] {
        let begun = service.ask_with("POST", "/envs", &[("prefer", prefer)], "{}").await;
        assert_eq!(begun.status, StatusCode::ACCEPTED, "{prefer}: {begun:?}");
        let (body, name) = (begun.json(), begun.field("name"));
        assert_eq!((&body["status"], &body["urls"][0]), (&json!("creating"), &json!(format!("{name}.localhost"))));
        assert_eq!(begun.headers[header::LOCATION], format!("/envs/{name}"));
        assert_eq!(begun.headers["preference-applied"], "respond-async");
        assert_eq!(service.get(&format!("/envs/{name}")).await.field("status"), "creating");
        let gone = service.ask("DELETE", &format!("/envs/{name}"), Body::empty()).await;
        assert_eq!(gone.status, StatusCode::OK, "{gone:?}");
    }

    shop.write("back", "build.sh", "exit 3\n").expect("a file");
    shop.push("back", "main", "Break it").await.expect("a push");
    for prefer in ["respond-asynchronously", "wait=5", "x=respond-async"] {
        let waited = service.ask_with("POST", "/envs", &[("prefer", prefer)], r#"{"name":"demo"}"#).await;
        waited.problem(422, "service_failed");
    }
    for accept in ["text/event-stream", "application/json;q=0.5, text/event-stream"] {
        let events = service.ask_with("POST", "/envs", &[("accept", accept)], r#"{"name":"demo"}"#).await;
        assert_eq!(
            (events.status, &events.headers[header::CONTENT_TYPE]),
            (StatusCode::OK, &"text/event-stream".parse().expect("a value"))
        );
        assert!(
            events.text.starts_with("event: progress\ndata: {\"phase\":\"resolving\",\"elapsed-ms\":"),
            "{events:?}"
        );
        let (_, last) = events.text.trim_end().rsplit_once("event: error\ndata: ").expect("an error");
        let problem: Value = serde_json::from_str(last).expect("JSON");
        assert_eq!((&problem["code"], &problem["status"]), (&json!("service_failed"), &json!(422)), "{problem}");
    }
    let failed = service.get("/envs/demo").await;
    assert_eq!(failed.field("status"), "failed");
    assert!(failed.field("failure").contains("back"), "{failed:?}");
    // What is known before anything is made is a status, whatever was to come.
    let headers = [("accept", "text/event-stream"), ("prefer", "respond-async")];
    let unknown = r#"{"name":"demo","github-back-branch":"nowhere"}"#;
    service.ask_with("POST", "/envs", &headers, unknown).await.problem(404, "not_found");
    assert_eq!((service.get("/envs").await.text, service.get("/servers").await.text), ("[]\n".into(), "[]\n".into()));
}

#[tokio::test]
async fn without_accounts_the_servers_own_token_decides() {
    let (open_to_all, _shop) = open(|_| ()).await;
    for route in ROUTES.iter().filter(|route| **route != ROUTES[1]) {
        // Whatever is sent besides: there is nobody who could say whose it is.
        let answers = [open_to_all.ask(route.0, route.1, route.2).await, open_to_all.ask_as("any", *route).await];
        for answer in answers {
            assert!([StatusCode::OK, StatusCode::NOT_FOUND].contains(&answer.status), "{route:?}: {answer:?}");
        }
    }
    let (closed, _shop) = open(|config| config.http.token = Some(Secret::new(ADMIN))).await;
    for route in ROUTES {
        for answer in [closed.ask(route.0, route.1, route.2).await, closed.ask_as("another", route).await] {
            answer.problem(401, "unauthenticated");
        }
        let answer = closed.ask_as(ADMIN, route).await;
        assert!(![StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&answer.status), "{route:?}: {answer:?}");
    }
    // A token in the body is what code is cloned with; it proves nothing here.
    let body = r#"{"name":"demo","github-token":"another"}"#;
    closed.ask("POST", "/envs", body).await.problem(401, "unauthenticated");
    closed.ask("POST", "/envs?plan=true", body).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn web_pages_from_elsewhere_are_refused() {
    let (service, _shop) = open(|_| ()).await;
    let forge = Forge::start().await.expect("a forge");
    let (of_github, _shop) = open(|config| with_accounts(config, &forge)).await;
    for (method, path, body) in ROUTES {
        for service in [&service, &of_github] {
            for headers in [("origin", "http://evil.example"), ("host", "evil.example:8080")] {
                let refused = service.ask_with(method, path, &[headers], body).await;
                refused.problem(403, "forbidden");
            }
        }
    }
    let ours = service.ask_with("GET", "/envs", &[("origin", "http://localhost:3000")], "").await;
    assert_eq!(ours.status, StatusCode::OK, "{ours:?}");
}

fn with_accounts(config: &mut Config, forge: &Forge) {
    config.github.accounts = Accounts::Github;
    config.github.api = forge.api();
}

#[tokio::test]
async fn with_accounts_who_asks_is_whose_the_token_is() {
    let forge = Forge::start().await.expect("a forge");
    let anna = forge.token("anna", &[]);
    let (open_to_all, _shop) = open_with_data(|config| with_accounts(config, &forge)).await;
    let with_token = |config: &mut Config| {
        with_accounts(config, &forge);
        config.http.token = Some(Secret::new(ADMIN));
    };
    let (closed, _shop) = open_with_data(with_token).await;
    let body = json!({ "github-token": anna.expose() }).to_string();
    for (service, anyone_looks) in [(&open_to_all, true), (&closed, false)] {
        // Who says nothing may look where there is no token of the server's, and do no more anywhere.
        for (method, path, body) in ROUTES {
            let answer = service.ask(method, path, body).await;
            let looks = method == "GET" && !path.ends_with("/logs");
            if looks && anyone_looks {
                assert!(
                    [StatusCode::OK, StatusCode::NOT_FOUND].contains(&answer.status),
                    "{method} {path}: {answer:?}"
                );
            } else {
                answer.problem(401, "unauthenticated");
                assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"ondemand\"");
            }
            // A token that is none is refused, whatever would be allowed without.
            service.ask_as("ghp_nonsense", (method, path, body)).await.problem(401, "unauthenticated");
        }
        // In the body or as a bearer, it is the same; that of the body counts.
        let plans = [
            service.plan(&body).await,
            service.ask_as(anna.expose(), ("POST", "/envs?plan=true", "{}")).await,
            service.ask_as("ghp_nonsense", ("POST", "/envs?plan=true", &body)).await,
            service.ask_as(ADMIN, ("POST", "/envs?plan=true", &body)).await,
        ];
        for plan in plans {
            assert_eq!(plan.status, StatusCode::OK, "{plan:?}");
            assert_eq!(plan.json()["owner"], json!({"id": forge.account_id("anna"), "login": "anna"}));
        }
    }
    assert_eq!(closed.ask_as(ADMIN, ("GET", "/envs", "")).await.text, "[]\n");
    // Whoever runs the server is nobody of GitHub's, and owns nothing.
    let refused = closed.ask_as(ADMIN, ("POST", "/envs", "{}")).await;
    assert!(refused.problem(401, "unauthenticated").contains("GitHub"), "{refused:?}");
}

#[test]
fn environments_are_described() {
    let document = serde_json::to_value(openapi()).expect("JSON");
    let schema = |name: &str| {
        let schema = &document["components"]["schemas"][name];
        let mut properties: Vec<_> = schema["properties"].as_object().expect("an object").keys().cloned().collect();
        properties.sort();
        (properties, schema["required"].clone())
    };
    let (properties, required) = schema("PostEnvironment");
    let wire = [
        "github-back",
        "github-back-branch",
        "github-front",
        "github-front-branch",
        "github-token",
        "keep-days",
        "name",
        "template",
        "with-fixtures",
    ];
    assert_eq!(properties, wire);
    assert_eq!(required, Value::Null, "all of it can be left out");
    assert_eq!(
        schema("EnvironmentDone"),
        (vec!["name".into(), "status".into(), "urls".into()], json!(["status", "urls"]))
    );
    assert_eq!(schema("PatchEnvironment"), (vec!["keep-days".into()], json!(["keep-days"])));
    let statuses = &document["components"]["schemas"]["Environment"]["properties"]["status"]["enum"];
    assert_eq!(statuses, &json!(["creating", "ready", "degraded", "redeploying", "deleting", "failed"]));
    for (method, path, _) in ROUTES {
        let operation = &document["paths"][path.replace("demo", "{name}")][method.to_lowercase()];
        assert_eq!(operation["tags"], json!(["environments"]), "{method} {path}");
        assert!(
            operation["responses"]["200"].is_object() && operation["responses"]["default"].is_object(),
            "{operation}"
        );
        // With a token or, where none is wanted, without.
        assert_eq!(operation["security"], json!([{"bearer": []}, {}]), "{method} {path}");
    }
    let created = &document["paths"]["/envs"]["post"];
    assert!(created["responses"]["202"].is_object(), "{created}");
    assert_eq!(created["parameters"][0]["name"], "plan");
}
