//! A server of environments that plays its part, and remembers what it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::environments::moment;
use crate::fake::Fake;

/// A token of GitHub's, which nothing may repeat.
pub(crate) const TOKEN: &str = "ghp_AnnasOwn0123456789";

/// A server with the environment `demo`.
pub(crate) struct Envs {
    fake: Fake,
    shared: Arc<Mutex<Shared>>,
}

/// What it was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The method, and the path with its query.
    pub(crate) what: String,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Debug, Default)]
struct Shared {
    asked: Vec<Asked>,
    /// Answers to what is asked, instead of the usual ones.
    answers: BTreeMap<String, (StatusCode, String)>,
    /// The answer to everything.
    refusal: Option<(StatusCode, String)>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    pub(crate) fn body(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

impl Envs {
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let fake = Fake::start(Router::new().fallback(answer).with_state(shared.clone()));
        Self { fake, shared }
    }

    pub(crate) fn url(&self) -> String {
        self.fake.url()
    }

    /// Returns all that was asked, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    /// Returns the last request for this.
    pub(crate) fn last(&self, what: &str) -> Asked {
        self.asked().into_iter().rfind(|asked| asked.what == what).expect("it was asked")
    }

    /// Answers a request otherwise from now on.
    pub(crate) fn answer(&self, what: &str, status: StatusCode, text: &str) {
        self.lock().answers.insert(what.to_owned(), (status, text.to_owned()));
    }

    /// Answers every request so from now on.
    pub(crate) fn refuse(&self, status: u16, text: &str) {
        self.lock().refusal = Some((StatusCode::from_u16(status).expect("a status"), text.to_owned()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a problem.
pub(crate) fn problem(code: &str, status: u16, detail: &str) -> String {
    let kind = format!("urn:ondemand:error:{code}");
    json!({"type": kind, "title": "A title", "status": status, "code": code, "detail": detail, "hint": "do this"})
        .to_string()
}

/// Writes a stream of events.
pub(crate) fn events(events: &[(&str, Value)]) -> String {
    events.iter().map(|(name, data)| format!("event: {name}\ndata: {data}\n\n")).collect::<Vec<_>>().concat()
}

/// Describes the environment `demo`, whose main route is not the first.
pub(crate) fn environment() -> Value {
    let now = SystemTime::now();
    json!({
        "name": "demo", "status": "ready", "urls": ["demoapi.localhost", "demoweb.localhost"],
        "links": ["http://demoapi.localhost:8000", "http://demoweb.localhost:8000"], "main": "http://demo.localhost:8000",
        "owner": {"id": 583_231, "login": "anna"}, "template": "demo",
        "created": moment(now, -3600 - 5), "expires": moment(now, 5 * 86_400 - 60),
        "back": {"repository": "shop/back", "branch": "main", "commit": "0123456789abcdef0123456789abcdef01234567"},
        "front": null, "with-fixtures": false, "database": "30c8e143ee0c", "something-new": 1,
        "services": [
            {"name": "back", "state": "running", "restarts": 2},
            {"name": "front", "state": "exited", "restarts": 0, "error": "ended with status 1"},
        ],
    })
}

fn done() -> Value {
    json!({"status": "done", "urls": ["demo.localhost", "demoapi.localhost"]})
}

fn step(phase: &str, elapsed: u64, detail: Option<&str>) -> (&'static str, Value) {
    ("progress", json!({"phase": phase, "elapsed-ms": elapsed, "detail": detail}))
}

fn steps() -> String {
    let building =
        |detail| ("progress", json!({"phase": "building", "service": "back", "detail": detail, "elapsed-ms": 75_000}));
    let mut done = done();
    done["name"] = "demo".into();
    events(&[
        step("resolving", 0, None),
        step("cloning-data", 20, Some("shop")),
        step("deploying", 1_000, Some("2 services")),
        building("compiling"),
        building("compiled"),
        step("polishing", 75_500, None),
        step("waiting", 76_000, Some("for the proxy")),
        step("ready", 76_500, None),
        ("done", done),
    ])
}

fn plan() -> Value {
    json!({
        "name": "demo", "urls": ["demo.localhost", "demoapi.localhost"], "template": "demo", "dataset": "shop",
        "owner": {"id": 583_231, "login": "anna"}, "back": environment()["back"], "front": null,
        "expires": "2026-11-25T12:00:00Z", "compose": "services:\n  back:\n    image: \"runner\"\n",
    })
}

async fn answer(State(shared): State<Arc<Mutex<Shared>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    let path = parts.uri.path_and_query().expect("a path").as_str();
    let what = format!("{} {path}", parts.method);
    let said = |name: &str| parts.headers.get(name).map(|value| value.to_str().expect("text"));
    let (wants_events, is_async) =
        (said("accept") == Some("text/event-stream"), said("prefer") == Some("respond-async"));
    let known = {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.asked.push(Asked { what: what.clone(), headers: parts.headers.clone(), body });
        shared.refusal.clone().or_else(|| shared.answers.get(&what).cloned())
    };
    let json = |value: Value| (StatusCode::OK, value.to_string());
    let (status, text) = known.unwrap_or_else(|| match what.split('?').next().unwrap_or_default() {
        "POST /envs" if path.contains("plan=true") => json(plan()),
        "POST /envs" if is_async => {
            let begun = json!({"status": "creating", "urls": done()["urls"], "name": "demo"});
            (StatusCode::ACCEPTED, begun.to_string())
        }
        "POST /envs" if wants_events => (StatusCode::OK, steps()),
        "POST /envs/demo/redeploy" => {
            (StatusCode::OK, events(&[step("resolving", 0, None), step("ready", 2_000, None), ("done", done())]))
        }
        "GET /envs" => json(json!(["demo", "gone"])),
        "GET /envs/demo" => json(environment()),
        "PATCH /envs/demo" => {
            let mut changed = environment();
            changed["expires"] = "2026-12-05T12:00:00Z".into();
            json(changed)
        }
        "DELETE /envs/demo" => json(json!({"status": "done", "urls": []})),
        "GET /envs/demo/logs" => (StatusCode::OK, "back: one\nback: two\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, problem("not_found", 404, "there is no such environment")),
    });
    let kind = if text.starts_with("event:") { "text/event-stream" } else { "application/json" };
    (status, [(header::CONTENT_TYPE, kind)], text).into_response()
}
