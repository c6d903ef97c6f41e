//! Help and errors: what people read.

use std::io::Read;
use std::process::Stdio;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use ondemand_core::Code;
use serde_json::json;

use crate::fake::Fake;
use crate::{empty_directory, ondemand, outcome, run, stderr, stdout};

#[test]
fn help() {
    let directory = empty_directory();
    for words in [
        &["--help"][..],
        &["serve", "-h"],
        &["proxy", "-h"],
        &["route", "-h"],
        &["route", "set", "-h"],
        &["pool", "create", "-h"],
        &["pool", "grow", "-h"],
        &["pool", "status", "-h"],
        &["dataset", "import", "-h"],
        &["pg", "-h"],
        &["pg", "create", "-h"],
        &["pg", "psql", "-h"],
        &["reap", "-h"],
        &["env", "-h"],
        &["env", "create", "-h"],
        &["env", "logs", "-h"],
        &["template", "check", "-h"],
    ] {
        let output = run(ondemand(&directory).args(words));
        assert!(output.status.success() && output.stderr.is_empty(), "{}", outcome(&output));
        let name = words.iter().map(|word| word.trim_start_matches('-')).collect::<Vec<_>>().join("_");
        insta::assert_snapshot!(name, stdout(&output));
    }
}

#[test]
fn wrong_usage_is_status_2() {
    let directory = empty_directory();
    for words in [
        &[][..],
        &["pg", "create", "--ttl", "soon"],
        &["pg", "create", "--ttl", "3600"],
        &["pg", "extend", "shop", "2"],
        &["env", "extend", "demo", "36h"],
        &["pg", "create", "--set", "x"],
        &["pg", "create", "--name", "No"],
        &["pg", "show"],
        &["dataset", "import", "shop"],
        &["dataset", "import", "shop", "--dump", "a", "--data-dir", "b"],
        &["serve", "--ports", "9-1"],
        &["serve", "--store", "zfs"],
        &["serve", "--tls-key", "k.pem"],
        &["proxy", "--no-proxy"],
        &["proxy", "--ports", "1-2"],
        &["route", "set", "a.localhost"],
        &["route", "set", "a.localhost:8000", "10.0.0.5:1"],
        &["route", "set", "a.localhost", "10.0.0.5"],
        &["route", "delete"],
        &["--url", "nonsense", "pg", "list"],
    ] {
        let output = run(ondemand(&directory).args(words));
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", outcome(&output));
        assert!(output.stdout.is_empty(), "{words:?}: {}", outcome(&output));
    }
}

#[test]
fn with_json_errors_are_json_too() {
    let directory = empty_directory();
    for (words, status, expected) in [
        (
            &["--json", "--url", "http://127.0.0.1:1", "pg", "list"][..],
            17,
            json!({
                "code": "unreachable", "exit": 17, "detail": "no server answers at http://127.0.0.1:1",
                "causes": ["Connection refused (os error 111)"],
                "hint": "start one with `ondemand serve`, or say where it is with --url or ONDEMAND_URL",
            }),
        ),
        (
            &["pg", "show", "a", "--json", "--config", "nowhere.toml", "--nonsense"],
            2,
            json!({ "code": "usage", "exit": 2 }),
        ),
        (&["dataset", "import", "shop", "--dump", "nowhere.sql", "--json"], 1, json!({ "code": "error", "exit": 1 })),
    ] {
        let output = run(ondemand(&directory).args(words));
        assert_eq!(output.status.code(), Some(status), "{words:?}: {}", outcome(&output));
        assert!(output.stdout.is_empty(), "{words:?}: {}", outcome(&output));
        let said: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON");
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(said[name], *value, "{words:?}: {said}");
        }
        assert!(said["detail"].is_string(), "{said}");
    }
    // Asked for, help is no error.
    let output = run(ondemand(&directory).args(["--json", "pg", "--help"]));
    assert!(output.status.success() && stdout(&output).contains("Usage:"), "{}", outcome(&output));
}

#[test]
fn no_server_is_said_with_what_to_do() {
    let directory = empty_directory();
    // Port 1 of loopback: nothing listens there.
    let output = run(ondemand(&directory).args(["--url", "http://u:secret@127.0.0.1:1", "pg", "list"]));
    insta::assert_snapshot!(outcome(&output), @r"
    status 17
    --- stdout
    --- stderr
    error: no server answers at http://127.0.0.1:1
      caused by: Connection refused (os error 111)
    hint: start one with `ondemand serve`, or say where it is with --url or ONDEMAND_URL
    ");
}

#[test]
fn every_code_of_the_server_is_an_exit_status_of_its_own() {
    let app = Router::new().route(
        "/servers/{id}",
        get(|axum::extract::Path(code): axum::extract::Path<String>| async move {
            let problem = json!({
                "type": format!("urn:ondemand:error:{code}"), "title": "A title", "status": 400, "code": code,
                "detail": format!("this is {code}"), "hint": "do this", "causes": ["this"], "log": ["line"],
            });
            (StatusCode::BAD_REQUEST, Json(problem))
        }),
    );
    let (server, directory) = (Fake::start(app), empty_directory());
    let mut seen = std::collections::BTreeMap::new();
    for code in Code::ALL {
        let output = run(ondemand(&directory).args(["--url", &server.url(), "pg", "show", code.as_str()]));
        let status = output.status.code().expect("a status");
        assert!(status > 2 && status != 17, "{code}: {}", outcome(&output));
        assert_eq!(seen.insert(status, code), None, "{code}");
        assert!(output.stdout.is_empty(), "{}", outcome(&output));
        let hint =
            if code == Code::Unauthenticated { "give the token with ONDEMAND_TOKEN or --token" } else { "do this" };
        let expected =
            format!("error: this is {code}\n  caused by: this\n  the end of the log:\n    line\nhint: {hint}\n");
        assert_eq!(stderr(&output), expected);
    }
    // Scripts rely on these.
    insta::assert_debug_snapshot!(seen);
}

#[test]
fn another_server_is_recognised() {
    let app = Router::new()
        .route("/servers", get(|| async { (StatusCode::NOT_FOUND, "<html>not here</html>") }))
        .route("/datasets", get(|| async { "<html>hello</html>" }));
    let (server, directory) = (Fake::start(app), empty_directory());
    for (what, expected) in [("pg", "answers 404 Not Found"), ("dataset", "is not understood")] {
        let output = run(ondemand(&directory).args(["--url", &server.url(), what, "list"]));
        assert_eq!(output.status.code(), Some(1), "{}", outcome(&output));
        let text = stderr(&output);
        assert!(text.contains(expected) && text.contains("hint: check that --url"), "{text}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let directory = empty_directory();
    let mut child = ondemand(&directory)
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // The pipe breaks before anything can be read.
    drop(child.stdout.take());
    let mut words = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut words).expect("text");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(words, "");
}

#[test]
fn completions_are_made_for_every_shell() {
    let directory = empty_directory();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(ondemand(&directory).args(["completions", shell]));
        assert!(output.status.success() && stdout(&output).contains("ondemand"), "{shell}: {}", outcome(&output));
    }
}
