//! `pg`, `dataset` and `pool` against a server that plays its part.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::{empty_directory, ondemand, outcome, run, stdout};

const ID: &str = "30c8e143ee0c24aa322d1918ee5dd37f00590ea63bed9c032046ccfaf111f332";
const URL: &str = "postgresql://postgres:s3cret@pg.dev.internal:5433/shop";

/// Returns a moment so many seconds from now.
fn unix(offset: u64) -> String {
    (SystemTime::now() + Duration::from_secs(offset))
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
        .to_string()
}

fn server() -> Value {
    json!({
        "Id": ID, "Name": "/pgondemand_5433", "Expires_at": unix(86_399), "Host": "pg.dev.internal", "Port": "5433",
        "Status": "Running", "User": "postgres", "Password": "s3cret", "Dbname": "shop", "Url": URL,
        "Dataset": "shop", "Snapshot": "shop@20261122-192300", "Created_at": unix(0), "Durable": false,
        "Settings": {}, "SomethingNew": 1,
    })
}

fn listed() -> Value {
    let mut server = server();
    let fields = server.as_object_mut().expect("an object");
    fields.remove("Password");
    fields.remove("Url");
    server
}

fn routes() -> Value {
    let moment = |ago: u64| {
        let seconds = unix(0).parse::<u64>().expect("a number") - ago;
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
    };
    json!([
        {"host": "api.localhost", "upstreams": ["10.0.0.5:80", "10.0.0.6:80"], "protocol": "http2", "pending": false,
            "in-flight": 1, "upgrades": 20, "requests": 12345, "last-active": moment(3660)},
        {"host": "new.localhost", "upstreams": [], "protocol": "http1", "pending": true,
            "in-flight": 0, "upgrades": 0, "requests": 0, "last-active": null, "something-new": 1},
        {"host": "shop.localhost", "upstreams": ["backend:8000"], "protocol": "http1", "pending": false},
    ])
}

/// Answers with the route as it is put.
async fn put_route(Path(host): Path<String>, Json(asked): Json<Value>) -> Json<Value> {
    Json(
        json!({"host": host, "upstreams": asked["upstreams"], "protocol": asked["protocol"], "pending": asked["pending"]}),
    )
}

/// A server with one database, which wants the token `s3same` and says what it was asked.
fn fake() -> Fake {
    async fn create(headers: HeaderMap, Json(asked): Json<Value>) -> (StatusCode, Json<Value>) {
        assert_eq!(headers["authorization"], "Bearer s3same");
        let mut server = server();
        if asked.get("Settings").is_some() {
            server["Settings"] = asked["Settings"].clone();
        }
        if let Some(name) = asked["Name"].as_str() {
            server["Name"] = format!("/{name}").into();
        }
        (StatusCode::CREATED, Json(server))
    }
    async fn patch(Json(asked): Json<Value>) -> Json<Value> {
        assert_eq!(asked, json!({"Ttl": "2d"}));
        let mut server = server();
        server["Expires_at"] = unix(2 * 86_400 + 60).into();
        Json(server)
    }
    async fn logs(Query(query): Query<Vec<(String, String)>>) -> String {
        format!("{query:?}\n")
    }
    let one = get(|Path(id): Path<String>| async move {
        assert_eq!(id, "30c8");
        Json(server())
    });
    let one = one.patch(patch).delete(|Path(_): Path<String>| async { Json(json!({ "Id": ID })) });
    let snapshot = json!({
        "Name": "shop@20261122-192300", "Dataset": "shop", "Version": "20261122-192300", "Created_at": "0",
        "Postgres": 15, "Dbname": "shop", "Data_bytes": 5_u64 << 30, "Dump_bytes": 1 << 20, "Servers": 2,
    });
    let dataset = json!({"Name": "shop", "Versions": [snapshot]});
    let datasets = Value::Array(vec![dataset.clone()]);
    Fake::start(
        Router::new()
            .route("/servers", post(create).get(|| async { Json(vec![listed()]) }))
            .route("/servers/{id}", one)
            .route("/servers/{id}/reset", post(|| async { Json(server()) }))
            .route("/servers/{id}/logs", get(logs))
            .route("/datasets", get(|| async { Json(datasets) }))
            .route(
                "/datasets/{name}",
                get(|| async { Json(dataset) })
                    .delete(|Path(name): Path<String>| async move { Json(json!({ "Name": name })) }),
            )
            .route("/routes", get(|| async { Json(routes()) }))
            .route("/routes/{host}", put(put_route).delete(|| async { StatusCode::NO_CONTENT }))
            .route(
                "/reap",
                post(|| async {
                    Json(json!({"Reaped": [ID], "Restarted": [], "Removed": ["v-1"], "Unknown": ["x"], "Failed": []}))
                }),
            ),
    )
}

/// Runs the program against the server, and returns its standard output.
fn ask(words: &[&str]) -> String {
    let (server, directory) = (fake(), empty_directory());
    let mut command = ondemand(&directory);
    let output = run(command.env("ONDEMAND_URL", server.url()).env("ONDEMAND_TOKEN", "s3same").args(words));
    assert!(output.status.success(), "{words:?}: {}", outcome(&output));
    stdout(&output)
}

#[test]
fn create_prints_the_url_and_nothing_else() {
    assert_eq!(ask(&["pg", "create"]), format!("{URL}\n"));
    assert_eq!(ask(&["pg", "reset", "30c8"]), format!("{URL}\n"));
}

#[test]
fn create_asks_for_what_was_said() {
    let words = ["pg", "create", "--name", "mine", "--set", "work_mem=64MB", "--set", "jit = off", "--json"];
    let server: Value = serde_json::from_str(&ask(&words)).expect("JSON");
    assert_eq!(server["Name"], "/mine");
    assert_eq!(server["Settings"], json!({"work_mem": "64MB", "jit": "off"}));
    assert_eq!(server["Port"], "5433");
}

#[test]
fn databases_are_listed_for_people() {
    insta::assert_snapshot!(ask(&["pg", "list"]), @r"
    ID            NAME             SNAPSHOT              ADDRESS               STATUS   EXPIRES
    30c8e143ee0c  pgondemand_5433  shop@20261122-192300  pg.dev.internal:5433  running  in 23h 59m
    ");
    let json: Value = serde_json::from_str(&ask(&["pg", "list", "--json"])).expect("JSON");
    assert_eq!(json[0]["Id"], ID);
    assert!(json[0].get("Password").is_none());
}

#[test]
fn a_database_is_shown_with_its_url() {
    let shown = ask(&["pg", "show", "/30c8"]);
    assert!(shown.contains(URL) && shown.contains("in 23h 59m"), "{shown}");
}

#[test]
fn databases_are_extended_and_deleted() {
    assert_eq!(ask(&["pg", "extend", "30c8", "2d"]), "expires in 2d 0h\n");
    assert_eq!(ask(&["pg", "delete", "30c8", "other"]), format!("{ID}\n{ID}\n"));
}

#[test]
fn logs_are_printed_as_they_come() {
    assert_eq!(ask(&["pg", "logs", "30c8", "-f", "-n", "5"]), "[(\"follow\", \"true\"), (\"tail\", \"5\")]\n");
}

#[test]
fn datasets_are_listed_for_people() {
    let list = ask(&["dataset", "list"]);
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(lines.len(), 2, "{list}");
    assert_eq!(lines[0], "NAME  VERSIONS  NEWEST           SIZE     POSTGRES  DATABASES  CREATED");
    // When it was is seen from now, so its end changes from day to day.
    assert!(lines[1].starts_with("shop  1         20261122-192300  5.0 GiB  15        2          "), "{list}");
    assert!(lines[1].ends_with("h ago"), "{list}");
    assert!(ask(&["dataset", "show", "shop"]).contains("shop@20261122-192300"));
    assert_eq!(ask(&["dataset", "delete", "shop@20261122-192300"]), "shop@20261122-192300\n");
}

#[test]
fn routes_are_listed_for_people() {
    insta::assert_snapshot!(ask(&["route", "list"]), @r"
    HOST            UPSTREAMS                PROTOCOL  STATUS   IN FLIGHT  UPGRADES  REQUESTS  LAST ACTIVE
    api.localhost   10.0.0.5:80 10.0.0.6:80  http2     ready    1          20        12345     1h 1m ago
    new.localhost                            http1     pending  0          0         0
    shop.localhost  backend:8000             http1     ready
    ");
    let listed: Value = serde_json::from_str(&ask(&["route", "list", "--json"])).expect("JSON");
    assert_eq!(listed[0]["in-flight"], 1);
    assert_eq!(listed[2].get("in-flight"), None);
}

#[test]
fn routes_are_set_and_deleted() {
    let set = |words: &[&str]| -> Value {
        let words = [&["route", "set", "--json"], words].concat();
        serde_json::from_str(&ask(&words)).expect("JSON")
    };
    assert_eq!(
        set(&["Shop.localhost.", "10.0.0.5:80", "backend:1", "--http2"]),
        json!({"host": "shop.localhost", "upstreams": ["10.0.0.5:80", "backend:1"], "protocol": "http2", "pending": false})
    );
    assert_eq!(
        set(&["münchen.example", "--pending"]),
        json!({"host": "xn--mnchen-3ya.example", "upstreams": [], "protocol": "http1", "pending": true})
    );
    assert_eq!(ask(&["route", "set", "A", "10.0.0.5:80"]), "a\n");
    assert_eq!(ask(&["route", "delete", "A", "b.c."]), "a\nb.c\n");
    assert_eq!(ask(&["route", "delete", "A", "--json"]), "[\n  \"a\"\n]\n");
}

#[test]
fn reaping_says_what_it_did() {
    assert_eq!(ask(&["reap"]), format!("reaped {ID}\nremoved v-1\n"));
}

#[test]
fn psql_gets_the_password_where_nobody_else_sees_it() {
    let (server, directory) = (fake(), empty_directory());
    let psql = directory.path().join("psql");
    let script = "#!/bin/sh\necho \"$PGUSER:$PGPASSWORD@$PGHOST:$PGPORT/$PGDATABASE $PGSSLMODE|$*\"\n";
    fs::write(&psql, script).expect("a script");
    fs::set_permissions(&psql, fs::Permissions::from_mode(0o755)).expect("its mode");
    let psql_with = |arguments: &[&str]| {
        let mut command = ondemand(&directory);
        command.env("PATH", directory.path()).env("PGSSLMODE", "verify-full").env("ONDEMAND_URL", server.url());
        run(command.args(["pg", "psql", "30c8"]).args(arguments))
    };
    for arguments in [&["-c", "select 1"][..], &["--", "-c", "select 1"]] {
        let output = psql_with(arguments);
        let told = "postgres:s3cret@pg.dev.internal:5433/shop |-c select 1\n";
        assert_eq!(stdout(&output), told, "{}", outcome(&output));
    }

    fs::remove_file(&psql).expect("the script");
    let output = psql_with(&["-l"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(outcome(&output).contains("hint: install it"), "{}", outcome(&output));
}
