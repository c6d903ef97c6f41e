//! `dataset import`: what is sent, what is shown, and how it fails.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::json;

use crate::fake::Fake;
use crate::{empty_directory, ondemand, outcome, run, stderr, stdout};

/// What the server was sent.
#[derive(Debug, Default, Clone)]
struct Sent {
    query: String,
    length: Option<String>,
    body: Vec<u8>,
    complete: bool,
}

fn events(events: &[(&str, serde_json::Value)]) -> Response {
    let text =
        events.iter().map(|(name, data)| format!("event: {name}\ndata: {data}\n\n")).collect::<Vec<_>>().concat();
    ([(header::CONTENT_TYPE, "text/event-stream")], text).into_response()
}

fn progress(phase: &str, bytes: usize) -> (&'static str, serde_json::Value) {
    let elapsed = json!({"secs": 1, "nanos": 0});
    let event =
        json!({"phase": phase, "bytes": bytes, "total": null, "rate": null, "elapsed": elapsed, "detail": null});
    ("progress", event)
}

/// A server that takes an import whole.
fn fake() -> (Fake, Arc<Mutex<Sent>>) {
    fake_saying(json!({}))
}

/// The same, that says more about the version.
fn fake_saying(more: serde_json::Value) -> (Fake, Arc<Mutex<Sent>>) {
    let sent = Arc::new(Mutex::new(Sent::default()));
    let shared = sent.clone();
    let import = move |request: Request| async move {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let length = request.headers().get(header::CONTENT_LENGTH).map(|l| l.to_str().expect("text").to_owned());
        let body = to_bytes(request.into_body(), usize::MAX).await;
        let complete = body.is_ok();
        let body = body.map(Vec::from).unwrap_or_default();
        let bytes = body.len();
        *shared.lock().expect("a lock") = Sent { query, length, body, complete };
        let mut done = json!({
            "Name": "shop@20261122-192300", "Dataset": "shop", "Version": "20261122-192300", "Created_at": "0",
            "Postgres": 15, "Dbname": "shop", "Data_bytes": 1, "Dump_bytes": bytes, "Servers": 0,
        });
        done.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let phases = [
            progress("restoring", 1),
            progress("restoring", bytes),
            progress("unheard_of", 0),
            progress("analysing", 0),
        ];
        events(&[&phases[..], &[("done", done)]].concat())
    };
    (Fake::start(Router::new().route("/datasets/shop", post(import))), sent)
}

/// Imports a file with these options.
fn import_file(server: &Fake, options: &[&str]) -> std::process::Output {
    let directory = empty_directory();
    fs::write(directory.path().join("shop.sql"), "select 1;\n").expect("a dump");
    let words = ["dataset", "import", "shop", "--dump", "shop.sql"];
    run(ondemand(&directory).env("ONDEMAND_URL", server.url()).args(words).args(options))
}

#[test]
fn a_file_is_sent_with_its_length_and_phases_are_lines() {
    let (server, sent) = fake();
    let output = import_file(&server, &["--role", "a", "--role", "b c", "--no-owner", "--postgres", "15"]);
    insta::assert_snapshot!(outcome(&output), @r"
    status 0
    --- stdout
    shop@20261122-192300
    --- stderr
    restoring, 1s: 1 B
    analysing, 1s
    ");
    let sent = sent.lock().expect("a lock").clone();
    assert_eq!(sent.body, b"select 1;\n");
    assert_eq!(sent.length.as_deref(), Some("10"));
    assert_eq!(sent.query, "role=a&role=b+c&no_owner=true&postgres=15");
}

#[test]
fn what_failed_and_where_urls_lead_is_said() {
    let (server, sent) = fake_saying(json!({
        "Failures": 2,
        "Failed": ["role \"a\" does not exist (line 2)", "function f() does not exist (line 9)"],
        "Warning": "URLs lead to database postgres, which has no tables",
    }));
    let output = import_file(&server, &["--create-roles", "--on-error=continue"]);
    insta::assert_snapshot!(outcome(&output), @r#"
    status 0
    --- stdout
    shop@20261122-192300
    --- stderr
    restoring, 1s: 1 B
    analysing, 1s
    warning: URLs lead to database postgres, which has no tables
    warning: shop@20261122-192300 is incomplete; statements of the dump that failed: 2
      role "a" does not exist (line 2)
      function f() does not exist (line 9)
    "#);
    assert_eq!(sent.lock().expect("a lock").query, "create_roles=true&on_error=continue");
}

#[test]
fn standard_input_is_sent_as_it_comes() {
    let ((server, sent), directory) = (fake(), empty_directory());
    let mut command = ondemand(&directory);
    command.env("ONDEMAND_URL", server.url()).args(["dataset", "import", "shop", "--dump", "-", "--json"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a start");
    child.stdin.take().expect("a pipe").write_all(b"select 2;\n").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", outcome(&output));
    let snapshot: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(snapshot["Dump_bytes"], 10);
    let sent = sent.lock().expect("a lock").clone();
    assert_eq!((sent.body.as_slice(), sent.length), (&b"select 2;\n"[..], None));
}

#[test]
fn a_directory_is_sent_as_an_archive() {
    let ((server, sent), directory) = (fake(), empty_directory());
    fs::create_dir(directory.path().join("dump")).expect("a directory");
    fs::write(directory.path().join("dump/toc.dat"), "toc").expect("a file");
    let words = ["dataset", "import", "shop", "--dump", "dump"];
    let output = run(ondemand(&directory).env("ONDEMAND_URL", server.url()).args(words));
    assert!(output.status.success(), "{}", outcome(&output));
    let sent = sent.lock().expect("a lock").clone();
    let mut archive = tar::Archive::new(&sent.body[..]);
    let names: Vec<_> =
        archive.entries().expect("an archive").map(|e| e.expect("an entry").path_bytes().to_vec()).collect();
    assert_eq!(names, [b"toc.dat"]);
}

#[test]
fn an_archive_that_cannot_be_made_is_no_archive_that_ended() {
    let ((server, sent), directory) = (fake(), empty_directory());
    let data = directory.path().join("data");
    fs::create_dir(&data).expect("a directory");
    fs::write(data.join("PG_VERSION"), "15\n").expect("a file");
    std::os::unix::fs::symlink("nowhere", data.join("pg_wal")).expect("a link");
    let words = ["dataset", "import", "shop", "--data-dir", "data"];
    let output = run(ondemand(&directory).env("ONDEMAND_URL", server.url()).args(words));
    assert_eq!(output.status.code(), Some(1), "{}", outcome(&output));
    assert!(stderr(&output).contains("pg_wal"), "{}", outcome(&output));
    assert!(!sent.lock().expect("a lock").complete);
}

#[test]
fn a_running_server_is_refused_before_anything_is_sent() {
    let directory = empty_directory();
    fs::write(directory.path().join("PG_VERSION"), "15\n").expect("a file");
    fs::write(directory.path().join("postmaster.pid"), "1\n").expect("a file");
    let output = run(ondemand(&directory).args(["dataset", "import", "shop", "--data-dir", "."]));
    assert_eq!(output.status.code(), Some(1), "{}", outcome(&output));
    assert!(stderr(&output).contains("hint: shut it down"), "{}", outcome(&output));
}

/// The server says early that the dump is bad, and reads no further.
#[test]
fn an_early_failure_is_shown_though_there_is_more_to_send() {
    async fn import(body: Body) -> Response {
        // Held for as long as the answer takes: the client still sends.
        tokio::spawn(async move {
            let _body = body;
            std::future::pending::<()>().await;
        });
        let problem = json!({
            "type": "urn:ondemand:error:invalid_dump", "title": "t", "status": 422, "code": "invalid_dump",
            "detail": "the dump could not be restored: syntax error", "log": ["ERROR: syntax error"], "hint": "look at it",
        });
        events(&[progress("restoring", 1), ("error", problem)])
    }
    let (server, directory) = (Fake::start(Router::new().route("/datasets/shop", post(import))), empty_directory());
    // Larger than what the buffers between here and there hold, and sparse.
    let dump = fs::File::create(directory.path().join("big.sql")).expect("a dump");
    dump.set_len(256 << 20).expect("its length");
    let words = ["dataset", "import", "shop", "--dump", "big.sql"];
    let output = run(ondemand(&directory).env("ONDEMAND_URL", server.url()).args(words));
    insta::assert_snapshot!(outcome(&output), @r"
    status 8
    --- stdout
    --- stderr
    restoring, 1s: 1 B
    error: the dump could not be restored: syntax error
      the end of the log:
        ERROR: syntax error
    hint: look at it
    ");
}

#[test]
fn a_refusal_is_shown() {
    let refuse = || async { (StatusCode::INTERNAL_SERVER_ERROR, "broken").into_response() };
    let (server, directory) = (Fake::start(Router::new().route("/datasets/shop", post(refuse))), empty_directory());
    fs::write(directory.path().join("shop.sql"), "").expect("a dump");
    let words = ["dataset", "import", "shop", "--dump", "shop.sql"];
    let output = run(ondemand(&directory).env("ONDEMAND_URL", server.url()).args(words));
    assert_eq!(output.status.code(), Some(1), "{}", outcome(&output));
    assert!(stderr(&output).contains("answers 500"), "{}", outcome(&output));
}
