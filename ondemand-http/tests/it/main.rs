//! The whole service, asked without a socket, over real Postgres.

#![expect(clippy::expect_used, reason = "what a test cannot do without fails it")]

mod environments;
mod keep;
mod remote;
mod routes;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use ondemand_core::config::StoreKind;
use ondemand_core::router::Table;
use ondemand_core::{Config, Ondemand, Secret, Size};
use ondemand_http::{AppState, Routing, app, openapi};
use ondemand_tests::{Home, free_range, query};
use serde_json::{Value, json};
use tower::ServiceExt;

const DUMP: &str = "create table people(name text); insert into people values ('Ada'), ('Grace');";
/// An id that no server has.
const NOBODY: &str = "30c8e143ee0c24aa322d1918ee5dd37f00590ea63bed9c032046ccfaf111f332";

/// A service with a data directory of its own, which is cleaned up with it.
struct Service {
    router: Router,
    state: AppState,
    ondemand: Ondemand,
    home: Home,
}

/// What was answered.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn field(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_else(|| panic!("no text {name}: {self:?}")).to_owned()
    }

    fn seconds(&self, name: &str) -> u64 {
        self.field(name).parse().expect("a number as text")
    }

    /// Checks that it is a problem with this status and code, and returns what it says.
    fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!((self.status.as_u16(), self.field("code").as_str()), (status, code), "{self:?}");
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        self.field("detail")
    }
}

impl Service {
    /// Opens one that is not ready yet.
    async fn open(change: impl FnOnce(&mut Config)) -> Self {
        let home = Home::new().expect("a home");
        let mut config = Config { data_dir: home.path().join("data"), store: StoreKind::Copy, ..Config::default() };
        (config.databases.first_port, config.databases.last_port) = free_range(10);
        // Whose `initdb` is fast.
        config.postgres.bin_dir = std::env::var_os("ONDEMAND_TEST_POSTGRES").map(Into::into);
        change(&mut config);
        let ondemand = Ondemand::open(&config).await.expect("it opens");
        let state = AppState::new(ondemand.clone(), Routing::new(Arc::new(Table::new())), &config);
        Self { router: app(state.clone()), state, ondemand, home }
    }

    /// Opens one that is ready.
    async fn ready() -> Self {
        let service = Self::open(|_| ()).await;
        service.ondemand.janitor.run_once().await.expect("a round");
        service.state.set_ready();
        service
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        send(&self.router, request).await
    }

    async fn ask(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        ask(&self.router, method, path, body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, Body::empty()).await
    }
}

async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.expect("a body");
    Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.into()).expect("text") }
}

async fn ask(router: &Router, method: &str, path: &str, body: impl Into<Body>) -> Answer {
    // What curl says of any body.
    let kind = "application/x-www-form-urlencoded";
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, kind);
    send(router, request.body(body.into()).expect("a request")).await
}

/// The transcript that clients rely on, and what was added to it.
#[tokio::test]
async fn the_contract() {
    let service = Service::ready().await;
    let imported = service.ask("POST", "/datasets/production?dbname=shop", DUMP).await;
    assert_eq!(imported.status, StatusCode::CREATED, "{imported:?}");
    let snapshot = imported.field("Name");
    assert_eq!(imported.field("Dbname"), "shop");

    let created = service.ask("POST", "/servers", "{}").await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    let id = created.field("Id");
    assert!(created.text.starts_with(&format!("{{\"Id\":\"{id}\",\"Name\":\"/pgondemand_")), "{created:?}");
    assert!(id.len() == 64 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{id}");
    assert_eq!(created.headers[header::LOCATION], format!("/servers/{id}"));
    assert_eq!(created.headers[header::CACHE_CONTROL], "no-store");
    assert_eq!((created.field("Dataset"), created.field("Snapshot")), ("production".into(), snapshot));
    assert_eq!(created.field("Name"), format!("/pgondemand_{}", created.field("Port")));
    assert_eq!(created.field("Status"), "Running");
    assert_eq!(created.seconds("Expires_at") - created.seconds("Created_at"), 86_400);
    assert_eq!(query(&created.field("Url"), "select count(*) from people").await.expect("an answer"), "2");

    // Nothing at all asks for the same.
    let second = service.ask("POST", "/servers", Body::empty()).await;
    assert_eq!(second.status, StatusCode::CREATED, "{second:?}");

    let list = service.get("/servers").await;
    let ids: Vec<_> = list.json().as_array().expect("a list").iter().map(|server| server["Id"].clone()).collect();
    assert_eq!(ids, [json!(id), json!(second.field("Id"))]);
    assert!(list.text.starts_with("[{\"Id\":\""), "{list:?}");
    assert!(!list.text.contains(&created.field("Password")) && !list.text.contains("Url"), "{list:?}");

    for name in [&id, &id[..12], created.field("Name").trim_start_matches('/')] {
        let got = service.get(&format!("/servers/{name}")).await;
        assert_eq!((got.status, got.json()), (StatusCode::OK, created.json()), "{name}");
    }
    service.ask("DELETE", "/datasets/production", Body::empty()).await.problem(409, "conflict");

    for id in [&id, &second.field("Id")] {
        let deleted = service.ask("DELETE", &format!("/servers/{id}"), Body::empty()).await;
        assert_eq!((deleted.status, deleted.text.trim_end()), (StatusCode::OK, &*format!("{{\"Id\":\"{id}\"}}")));
        service.get(&format!("/servers/{id}")).await.problem(404, "not_found");
    }
    assert_eq!(service.get("/servers").await.text, "[]\n");
    let gone = service.ask("DELETE", "/datasets/production", Body::empty()).await;
    assert_eq!(gone.text, "{\"Name\":\"production\"}\n");
}

#[tokio::test]
async fn a_server_can_be_shaped_reset_and_extended() {
    let service = Service::ready().await;
    let snapshot = service.ask("POST", "/datasets/production", DUMP).await.field("Name");
    let settings = json!({"work_mem": "5MB"});
    let wanted = json!({"Dataset": snapshot, "Ttl": "2h", "Name": "mine", "Durable": true, "Settings": settings});
    let created = service.ask("POST", "/servers", wanted.to_string()).await;
    assert_eq!((created.status, created.field("Name")), (StatusCode::CREATED, "/mine".into()), "{created:?}");
    assert_eq!((&created.json()["Durable"], &created.json()["Settings"]), (&json!(true), &settings));
    let url = created.field("Url");
    assert_eq!(query(&url, "show work_mem").await.expect("an answer"), "5MB");
    service.ask("POST", "/servers", json!({"Name": "mine"}).to_string()).await.problem(409, "already_exists");

    query(&url, "delete from people").await.expect("deleted");
    let reset = service.ask("POST", "/servers/mine/reset", Body::empty()).await;
    assert_eq!((reset.status, reset.json()), (StatusCode::OK, created.json()));
    assert_eq!(query(&url, "select count(*) from people").await.expect("an answer"), "2");

    let before = created.seconds("Expires_at");
    let extended = service.ask("PATCH", "/servers/mine", r#"{"Ttl":"2d"}"#).await;
    assert!(extended.seconds("Expires_at") > before + 86_400, "{extended:?}");
    let exact = json!({"Expires_at": (before + 60).to_string()});
    let patched = service.ask("PATCH", "/servers/mine", exact.to_string()).await;
    assert!(patched.seconds("Expires_at").abs_diff(before + 60) <= 1, "{patched:?}");
    service.ask("PATCH", "/servers/mine", r#"{"Ttl":"9y"}"#).await.problem(400, "invalid_input");

    let logs = service.get("/servers/mine/logs?tail=1000").await;
    assert_eq!(logs.headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    assert!(logs.text.contains("ready to accept connections\n"), "{logs:?}");
    assert_eq!(service.get("/servers/mine/logs?tail=1").await.text.lines().count(), 1);

    // A log that is followed ends when the service does.
    let request = Request::get("/servers/mine/logs?follow").body(Body::empty()).expect("a request");
    let followed = service.router.clone().oneshot(request).await.expect("an answer");
    let end = tokio::spawn(to_bytes(followed.into_body(), usize::MAX));
    service.state.shut_down();
    let followed = tokio::time::timeout(Duration::from_secs(60), end).await.expect("it ends").expect("a task");
    followed.expect("a whole answer");
    let deleted = service.ask("DELETE", "/servers/mine", Body::empty()).await;
    assert_eq!(deleted.status, StatusCode::OK, "{deleted:?}");
}

#[tokio::test]
async fn bad_requests_say_what_is_bad() {
    let service = Service::ready().await;
    service.get(&format!("/servers/{NOBODY}")).await.problem(404, "not_found");
    service.ask("DELETE", &format!("/servers/{NOBODY}"), Body::empty()).await.problem(404, "not_found");
    service.ask("POST", &format!("/servers/{NOBODY}/reset"), Body::empty()).await.problem(404, "not_found");
    service.get(&format!("/servers/{NOBODY}/logs")).await.problem(404, "not_found");
    service.get("/datasets/nothing").await.problem(404, "not_found");
    service.get("/datasets/nothing@20261122-192300").await.problem(404, "not_found");
    service.get("/datasets/No%20Good").await.problem(400, "invalid_name");
    service.get("/datasets/%FF").await.problem(400, "invalid_input");
    service.ask("POST", "/servers", r#"{"Dataset":"nothing"}"#).await.problem(404, "not_found");
    service.ask("POST", "/servers", r#"{"Dataset":"../etc"}"#).await.problem(400, "invalid_name");
    service.ask("POST", "/servers", r#"{"Name":"No Good"}"#).await.problem(400, "invalid_name");
    service.ask("POST", "/servers", r#"{"Ttl":"soon"}"#).await.problem(400, "invalid_input");
    service.ask("POST", "/servers", "[]").await.problem(400, "invalid_input");
    service.ask("POST", "/servers", "{").await.problem(400, "invalid_input");
    let unknown = service.ask("POST", "/servers", r#"{"Datset":"x"}"#).await.problem(400, "invalid_input");
    assert!(unknown.contains("`Datset`"), "{unknown}");
    let unknown = service.ask("POST", "/datasets/x?dbnam=y", DUMP).await.problem(400, "invalid_input");
    assert!(unknown.contains("\"dbnam\""), "{unknown}");
    service.ask("PATCH", "/servers/x", "{}").await.problem(400, "invalid_input");
    service.ask("PUT", "/servers", "{}").await.problem(405, "unsupported");
    service.get("/server").await.problem(404, "unsupported");
}

#[tokio::test]
async fn a_bad_dump_is_told_and_leaves_nothing() {
    let service = Service::ready().await;
    let broken = "create table a(b int); select nonsense from nowhere;";
    let plain = service.ask("POST", "/datasets/broken", broken).await;
    plain.problem(422, "invalid_dump");
    assert!(plain.text.contains("nowhere"), "{plain:?}");

    let request = Request::post("/datasets/broken").header(header::ACCEPT, "text/event-stream");
    let events = service.send(request.body(Body::from(broken)).expect("a request")).await;
    assert_eq!(events.status, StatusCode::OK);
    assert_eq!(events.headers[header::CONTENT_TYPE], "text/event-stream");
    let (before, last) = events.text.trim_end().rsplit_once("event: error\ndata: ").expect("an error");
    assert!(before.starts_with("event: progress\ndata: {\"phase\":\"preparing\""), "{events:?}");
    let problem: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!((&problem["code"], &problem["status"]), (&json!("invalid_dump"), &json!(422)));

    assert_eq!(service.get("/datasets").await.text, "[]\n");
    let pool = service.get("/pool").await.json();
    assert_eq!((&pool["Volumes"], &pool["Snapshots"]), (&json!({}), &json!({})), "{pool}");
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let limits = |config: &mut Config| (config.http.max_body, config.http.max_upload) = (Size(1000), Some(Size(2000)));
    let service = Service::open(limits).await;
    service.state.set_ready();
    service.ask("POST", "/servers", vec![b' '; 1001]).await.problem(413, "quota_exceeded");
    service.ask("POST", "/datasets/x", vec![b'-'; 2001]).await.problem(413, "quota_exceeded");
    // Where the length is not announced, it shows on the way.
    let chunks = futures_util::stream::iter((0..3).map(|_| Ok::<_, std::io::Error>(vec![b'\n'; 1000])));
    service.ask("POST", "/datasets/x", Body::from_stream(chunks)).await.problem(413, "quota_exceeded");
    assert_eq!(service.get("/datasets").await.text, "[]\n");
}

#[tokio::test]
async fn requests_wait_until_it_is_known_what_runs() {
    let service = Service::open(|_| ()).await;
    assert_eq!(service.get("/healthz").await.status, StatusCode::OK);
    service.get("/readyz").await.problem(503, "not_ready");
    // Names reach addresses whatever runs.
    let put = service.ask("PUT", "/routes/a.localhost", r#"{"upstream":"127.0.0.1:1"}"#).await;
    assert_eq!(put.status, StatusCode::OK, "{put:?}");
    let mut waiting = Box::pin(service.get("/servers"));
    tokio::select! {
        biased;
        answer = &mut waiting => panic!("nobody could know: {answer:?}"),
        () = std::future::ready(()) => (),
    }
    let report = service.ondemand.janitor.run_once().await.expect("a round");
    assert_eq!(report, ondemand_core::Report::default());
    service.state.set_ready();
    assert_eq!(waiting.await.text, "[]\n");
    assert_eq!(service.get("/readyz").await.json()["Status"], "ok");
    let reaped = service.ask("POST", "/reap", Body::empty()).await;
    assert_eq!(reaped.json(), json!({"Reaped": [], "Restarted": [], "Removed": [], "Unknown": [], "Failed": []}));
}

/// What cannot be read is left alone, and said where an operator looks; what it is, only to those who have the token.
#[tokio::test]
async fn what_cannot_be_read_is_told() {
    let service = Service::ready().await;
    assert_eq!(service.get("/readyz").await.json()["Status"], "ok");
    let record = service.home.path().join("data/stacks/damaged.json");
    std::fs::write(&record, "{").expect("written");
    let reaped = service.ask("POST", "/reap", Body::empty()).await.json();
    let told = reaped["Unknown"].as_array().expect("a list");
    assert!(told.len() == 1 && told[0].as_str().is_some_and(|what| what.starts_with("stack damaged ")), "{reaped}");
    let health = service.get("/readyz").await;
    assert_eq!((health.status, &health.json()["Status"]), (StatusCode::OK, &json!("degraded")));
    let trouble = health.json()["Trouble"].clone();
    assert!(trouble["Detail"].as_str().is_some_and(|detail| detail.starts_with("1 ")), "{trouble}");
    assert!(trouble["Hint"].as_str().is_some_and(|hint| hint.contains("ondemand reap")), "{trouble}");
    assert!(!health.text.contains("damaged"), "its name is for those who have the token: {health:?}");
    assert!(service.get("/metrics").await.text.contains("\nondemand_unknown 1\n"));
    std::fs::remove_file(&record).expect("removed");
    service.ask("POST", "/reap", Body::empty()).await;
    assert_eq!(service.get("/readyz").await.json()["Status"], "ok");
    assert!(service.get("/metrics").await.text.contains("\nondemand_unknown 0\n"));
}

/// Every operation of the description is there, and all but those that tell nothing want the token. Those of environments look after themselves, and
/// there are none here.
#[tokio::test]
async fn every_route_is_there_and_guarded() {
    let service = Service::open(|config| config.http.token = Some(Secret::new("s3same"))).await;
    service.state.set_ready();
    let document = serde_json::to_value(openapi()).expect("JSON");
    let mut open = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("operations").keys() {
            let (method, path) = (method.to_uppercase(), path.replace("{id}", NOBODY).replace("{name}", "nothing"));
            let path = path.replace("{host}", "a.localhost");
            let answer = service.ask(&method, &path, Body::empty()).await;
            if answer.status == StatusCode::UNAUTHORIZED {
                answer.problem(401, "unauthenticated");
                assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"ondemand\"", "{method} {path}");
            } else if path.starts_with("/envs") {
                assert!([400, 501].contains(&answer.status.as_u16()), "{method} {path}: {answer:?}");
            } else {
                open.push(format!("{method} {path}"));
            }
            let request = Request::builder().method(&*method).uri(&path).header(header::AUTHORIZATION, "Bearer s3same");
            let answer = service.send(request.body(Body::empty()).expect("a request")).await;
            let routed = !answer.text.contains("no resource of") && answer.status != StatusCode::METHOD_NOT_ALLOWED;
            assert!(routed && answer.status != StatusCode::UNAUTHORIZED, "{method} {path}: {answer:?}");
        }
    }
    assert_eq!(open, ["GET /healthz", "GET /openapi.json", "GET /readyz"]);
    assert_eq!(service.get("/openapi.json").await.json(), document);
}

#[tokio::test]
async fn without_a_token_web_pages_from_elsewhere_are_refused() {
    let service = Service::ready().await;
    let from = |origin: &str| Request::get("/servers").header(header::ORIGIN, origin).body(Body::empty());
    service.send(from("http://evil.example").expect("a request")).await.problem(403, "forbidden");
    assert_eq!(service.send(from("http://localhost:3000").expect("a request")).await.status, StatusCode::OK);
}

/// A page at `http://evil.example:8080` whose name is made to point to this machine is, to the browser, of one origin with
/// this server.
#[tokio::test]
async fn without_a_token_a_name_that_anyone_may_give_is_refused() {
    let service = Service::open(|config| config.http.hosts = vec!["dev.internal".into()]).await;
    service.ondemand.janitor.run_once().await.expect("a round");
    service.state.set_ready();
    let to = |method: &str, path: &str, host: &str| {
        Request::builder().method(method).uri(path).header(header::HOST, host).body(Body::empty()).expect("a request")
    };
    for (method, path) in [
        ("GET", "/servers"),
        ("POST", "/servers"),
        ("DELETE", "/servers/x"),
        ("GET", "/datasets"),
        ("GET", "/routes"),
        ("PUT", "/routes/a.localhost"),
        ("GET", "/metrics"),
    ] {
        let refused = service.send(to(method, path, "evil.example:8080")).await;
        let detail = refused.problem(403, "forbidden");
        assert!(detail.contains("evil.example"), "{detail}");
        let hint = refused.field("hint");
        assert!(hint.contains("http.hosts") && hint.contains("token"), "{hint}");
    }
    for host in ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "dev.internal:8080"] {
        assert_eq!(service.send(to("GET", "/servers", host)).await.status, StatusCode::OK, "{host}");
    }
    for open in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(service.send(to("GET", open, "evil.example")).await.status, StatusCode::OK, "{open}");
    }
    for change in [(|config: &mut Config| config.http.allow_anonymous = true) as fn(&mut Config), |config| {
        config.http.token = Some(ondemand_core::Secret::new("s3same"));
    }] {
        let service = Service::open(change).await;
        service.ondemand.janitor.run_once().await.expect("a round");
        service.state.set_ready();
        let mut request = to("GET", "/servers", "evil.example");
        request.headers_mut().insert(header::AUTHORIZATION, "Bearer s3same".parse().expect("a header"));
        assert_eq!(service.send(request).await.status, StatusCode::OK);
    }
}
