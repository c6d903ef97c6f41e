//! `env` and `template` against a server that plays its part.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use ondemand_core::Code;
use serde_json::{Value, json};

use crate::envs::{Envs, TOKEN, environment, events, problem};
use crate::{empty_directory, ondemand, outcome, run, stderr, stdout};

/// Runs the program against a server, with a GitHub token. Whatever happens, the token is in nothing that it writes.
fn ask(server: &Envs, words: &[&str]) -> Output {
    ask_with(server, words, &[("GITHUB_TOKEN", TOKEN)])
}

fn ask_with(server: &Envs, words: &[&str], variables: &[(&str, &str)]) -> Output {
    let directory = empty_directory();
    let mut command = ondemand(&directory);
    command.env("ONDEMAND_URL", server.url()).envs(variables.iter().copied()).arg("env").args(words);
    let output = run(&mut command);
    assert!(!outcome(&output).contains(TOKEN), "{words:?}: {}", outcome(&output));
    output
}

/// As [`ask`], where it is to succeed.
fn done(server: &Envs, words: &[&str]) -> String {
    let output = ask(server, words);
    assert!(output.status.success(), "{words:?}: {}", outcome(&output));
    stdout(&output)
}

#[test]
fn create_shows_progress_to_people_and_prints_urls() {
    let server = Envs::start();
    let words = ["create", "--name", "demo", "--back", "shop/back", "--back-branch", "feature/x", "--keep-days", "5"];
    // A step that this version does not know is passed over; one line is enough for a phase that says much.
    insta::assert_snapshot!(outcome(&ask(&server, &words)), @r"
    status 0
    --- stdout
    http://demoapi.localhost:8000
    http://demoweb.localhost:8000
    --- stderr
    resolving, 0s
    cloning data, 0s: shop
    deploying, 1s: 2 services
    building, 1m 15s: back: compiling
    waiting, 1m 16s: for the proxy
    ready, 1m 16s
    demo is ready
    ");
    let asked = &server.asked()[0];
    assert_eq!((&*asked.what, asked.header("accept")), ("POST /envs", Some("text/event-stream")));
    assert_eq!(asked.header("authorization"), Some(format!("Bearer {TOKEN}")).as_deref());
    let body = json!({"name": "demo", "github-back": "shop/back", "github-back-branch": "feature/x", "keep-days": 5});
    assert_eq!(asked.body(), body, "and no token: it is a header");
}

#[test]
fn create_takes_the_words_of_the_other_command_too() {
    let server = Envs::start();
    let words = [
        "create",
        "--github-back",
        "a/b",
        "--github-back-branch",
        "c",
        "--github-front",
        "d/e",
        "--github-front-branch",
        "f",
        "--with-fixtures",
        "--template",
        "small",
    ];
    done(&server, &words);
    let expected = json!({
        "github-back": "a/b", "github-back-branch": "c", "github-front": "d/e", "github-front-branch": "f",
        "with-fixtures": true, "template": "small",
    });
    assert_eq!(server.asked()[0].body(), expected);
}

#[test]
fn an_empty_name_is_none() {
    let server = Envs::start();
    // As a script has it whose variable is not set: `--name "$NAME"`.
    let output = ask(&server, &["create", "--name", ""]);
    let urls = "http://demoapi.localhost:8000\nhttp://demoweb.localhost:8000\n";
    assert_eq!((output.status.code(), &*stdout(&output)), (Some(0), urls), "{}", outcome(&output));
    assert!(stderr(&output).ends_with("\ndemo is ready\n"), "{}", outcome(&output));
    assert_eq!(server.asked()[0].body(), json!({}));
}

#[test]
fn create_prints_json_for_scripts() {
    let server = Envs::start();
    let printed: Value = serde_json::from_str(&done(&server, &["create", "--name", "demo", "--json"])).expect("JSON");
    let expected = json!({ "status": "done", "urls": ["demo.localhost", "demoapi.localhost"], "name": "demo" });
    assert_eq!(printed, expected);
}

#[test]
fn who_does_not_wait_is_told_where_to_look() {
    let server = Envs::start();
    insta::assert_snapshot!(outcome(&ask(&server, &["create", "--no-wait"])), @r"
    status 0
    --- stdout
    demo.localhost
    demoapi.localhost
    --- stderr
    demo is being made; `ondemand env show demo` tells how it is
    ");
    assert_eq!(server.asked()[0].header("prefer"), Some("respond-async"));
    let printed: Value = serde_json::from_str(&done(&server, &["create", "--no-wait", "--json"])).expect("JSON");
    assert_eq!((&printed["status"], &printed["name"]), (&json!("creating"), &json!("demo")));
    // The last of two words counts.
    done(&server, &["create", "--no-wait", "--wait"]);
    assert_eq!(
        server.asked().iter().rfind(|asked| asked.what == "POST /envs").expect("it asked").header("prefer"),
        None
    );
}

#[test]
fn a_plan_is_the_compose_file_and_words_about_it() {
    let server = Envs::start();
    insta::assert_snapshot!(outcome(&ask(&server, &["create", "--plan"])), @r#"
    status 0
    --- stdout
    services:
      back:
        image: "runner"
    --- stderr
    name:     demo
    owner:    anna
    urls:     demo.localhost demoapi.localhost
    back:     shop/back@main at 0123456789abcdef0123456789abcdef01234567
    front:    left out
    database: shop
    reaped:   2026-11-25T12:00:00Z
    "#);
    assert_eq!(server.asked()[0].what, "POST /envs?plan=true");
    let printed: Value = serde_json::from_str(&done(&server, &["create", "--plan", "--json"])).expect("JSON");
    assert_eq!(printed["dataset"], "shop");
    let output = ask(&server, &["create", "--plan", "--no-wait"]);
    assert_eq!(output.status.code(), Some(2), "{}", outcome(&output));
}

#[test]
fn what_goes_wrong_while_it_is_made_is_shown_with_the_log() {
    let problem = json!({
        "type": "urn:ondemand:error:service_failed", "title": "A service failed", "status": 422, "code": "service_failed",
        "detail": "service back of environment demo ended with status 3", "log": ["npm ERR! missing script"], "hint": "mend it",
    });
    let step = json!({"phase": "building", "elapsed-ms": 900});
    let (text, server) = (events(&[("progress", step), ("error", problem)]), Envs::start());
    server.answer("POST /envs", StatusCode::OK, &text);
    insta::assert_snapshot!(outcome(&ask(&server, &["create"])), @r"
    status 19
    --- stdout
    --- stderr
    building, 0s
    error: service back of environment demo ended with status 3
      the end of the log:
        npm ERR! missing script
    hint: mend it
    ");
    server.answer("POST /envs/demo/redeploy", StatusCode::OK, &text);
    assert_eq!(ask(&server, &["redeploy", "demo"]).status.code(), Some(19));

    // A server that ends in the middle has not said that it is done.
    server.answer("POST /envs", StatusCode::OK, &events(&[("progress", json!({"phase": "ready", "elapsed-ms": 1}))]));
    let output = ask(&server, &["create"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(17), String::new()), "{}", outcome(&output));
    assert!(stderr(&output).contains("without saying how"), "{}", outcome(&output));
}

#[test]
fn refusals_are_exit_statuses_for_every_command() {
    let server = Envs::start();
    for words in [
        &["create"][..],
        &["create", "--plan"],
        &["create", "--no-wait"],
        &["list"],
        &["show", "demo"],
        &["logs", "demo"],
        &["redeploy", "demo"],
        &["extend", "demo", "3"],
        &["open", "demo"],
        &["delete", "demo"],
    ] {
        for (code, status, exit) in [
            (Code::Unauthenticated, 401, 10),
            (Code::Forbidden, 403, 9),
            (Code::InvalidTemplate, 500, 18),
            (Code::NotReady, 503, 13),
            (Code::Unsupported, 501, 14),
        ] {
            server.refuse(status, &problem(code.as_str(), status, "GitHub says no"));
            let output = ask(&server, words);
            assert_eq!(output.status.code(), Some(exit), "{words:?}: {}", outcome(&output));
            assert_eq!(stdout(&output), "", "{words:?}");
            let hint = if code == Code::Unauthenticated { "that of GITHUB_TOKEN was sent" } else { "do this" };
            let told = stderr(&output);
            assert!(told.starts_with("error: GitHub says no\n") && told.contains(hint), "{words:?}: {told}");
        }
    }
}

#[test]
fn a_git_server_that_takes_no_token_is_none_that_wants_the_servers() {
    let server = Envs::start();
    let refusal = json!({
        "type": "urn:ondemand:error:unauthenticated", "title": "Not authenticated", "status": 401, "code": "unauthenticated",
        "detail": "https://git.internal does not take the token (any more)",
        "hint": "make a new token that may read the repositories, at https://github.com/settings/tokens, and send that",
    });
    server.refuse(401, &refusal.to_string());
    insta::assert_snapshot!(outcome(&ask(&server, &["create"])), @r"
    status 10
    --- stdout
    --- stderr
    error: https://git.internal does not take the token (any more)
    hint: that of GITHUB_TOKEN was sent; https://github.com/settings/tokens makes a new one
    ");
}

#[test]
fn what_to_do_about_a_token_names_the_one_that_was_sent() {
    let (github, own) = (("GITHUB_TOKEN", TOKEN), ("ONDEMAND_TOKEN", "s3same"));
    let none = "give a GitHub token with GITHUB_TOKEN or --github-token; https://github.com/settings/tokens makes one";
    let new = |from| format!("that of {from} was sent; https://github.com/settings/tokens makes a new one");
    let other = |from| format!("that of {from} was sent; {none}");
    let left = |from| {
        let which = "which goes before the server's own; leave it out, and give that with ONDEMAND_TOKEN or --token";
        format!("that of {from} was sent, {which}")
    };
    let wrong = |from| format!("that of {from} was sent; see that it is the one of the server's configuration");
    for (detail, variables, flags, hint) in [
        ("a GitHub token is needed", &[][..], &[][..], none.to_owned()),
        ("the GitHub token is not valid", &[github, own], &[], new("GITHUB_TOKEN")),
        ("the GitHub token is not valid", &[github], &["--github-token", "x"], new("--github-token")),
        ("the GitHub token is not valid", &[("GITHUB_TOKEN", ""), own], &[], other("ONDEMAND_TOKEN")),
        ("the GitHub token is not valid", &[own], &["--token", "x"], other("--token")),
        // The server's own is another one.
        ("this server wants a token", &[], &[], "give the token with ONDEMAND_TOKEN or --token".to_owned()),
        ("the token is not the one", &[own], &[], wrong("ONDEMAND_TOKEN")),
        ("the token is not the one", &[], &["--token", "x"], wrong("--token")),
        ("the token is not the one", &[github, own], &[], left("GITHUB_TOKEN")),
        ("the token is not the one", &[own], &["--github-token", "x"], left("--github-token")),
    ] {
        let server = Envs::start();
        server.refuse(401, &problem("unauthenticated", 401, detail));
        for words in [&["list"][..], &["create"], &["redeploy", "demo"]] {
            let output = ask_with(&server, &[words, flags].concat(), variables);
            let expected = format!("error: {detail}\nhint: {hint}\n");
            assert_eq!((output.status.code(), stderr(&output)), (Some(10), expected), "{words:?} {flags:?}");
        }
    }
}

#[test]
fn environments_are_listed_for_people() {
    let server = Envs::start();
    // `gone` was deleted after it was listed.
    insta::assert_snapshot!(done(&server, &["list"]), @r"
    NAME  STATUS  OWNER  BACK  FRONT  EXPIRES    URL
    demo  ready   anna   main  -      in 4d 23h  http://demo.localhost:8000
    ");
    let printed: Value = serde_json::from_str(&done(&server, &["ls", "--json"])).expect("JSON");
    assert_eq!((printed.as_array().map(Vec::len), &printed[0]["name"]), (Some(1), &json!("demo")));
    server.answer("GET /envs", StatusCode::OK, "[]");
    let output = ask(&server, &["list"]);
    insta::assert_snapshot!(outcome(&output), @r"
    status 0
    --- stdout
    --- stderr
    there are no environments; `ondemand env create` makes one
    ");
}

#[test]
fn an_environment_that_cannot_be_described_is_not_passed_over() {
    let server = Envs::start();
    server.answer("GET /envs/demo", StatusCode::SERVICE_UNAVAILABLE, &problem("backend", 503, "no answer"));
    let output = ask(&server, &["list"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(16), String::new()), "{}", outcome(&output));
}

#[test]
fn an_environment_is_shown_with_all_about_it() {
    let server = Envs::start();
    insta::assert_snapshot!(done(&server, &["show", "demo"]), @r"
    name      demo
    status    ready
    url       http://demoapi.localhost:8000
    url       http://demoweb.localhost:8000
    owner     anna
    template  demo
    back      shop/back@main at 0123456789abcdef0123456789abcdef01234567
    front     -
    data      dump
    database  30c8e143ee0c
    created   1h 0m ago
    expires   in 4d 23h
    service   back running, started again 2 times
    service   front exited: ended with status 1
    ");
    let printed: Value = serde_json::from_str(&done(&server, &["details", "demo", "--json"])).expect("JSON");
    assert_eq!((&printed["name"], &printed["owner"]["id"]), (&json!("demo"), &json!(583_231)));
    // What would name another resource names none.
    for name in ["", ".", ".."] {
        assert_eq!(ask(&server, &["show", name]).status.code(), Some(3), "{name:?}");
    }
    done(&server, &["show", "demo"]);
    assert_eq!(ask(&server, &["show", "a/../demo"]).status.code(), Some(3));
    assert_eq!(server.asked().last().expect("it asked").what, "GET /envs/a%2F..%2Fdemo");
}

#[test]
fn logs_are_asked_for_as_was_said() {
    let server = Envs::start();
    assert_eq!(done(&server, &["logs", "demo"]), "back: one\nback: two\n");
    done(&server, &["logs", "demo", "back", "--follow", "-n", "5", "--since", "2026-11-22T19:23:00+01:00"]);
    let asked: Vec<_> = server.asked().into_iter().map(|asked| asked.what).collect();
    let expected = "GET /envs/demo/logs?follow=true&service=back&tail=5&since=2026-11-22T19%3A23%3A00%2B01%3A00";
    assert_eq!(asked, ["GET /envs/demo/logs?follow=false", expected]);
}

#[test]
fn environments_are_redeployed_extended_and_deleted() {
    let server = Envs::start();
    insta::assert_snapshot!(outcome(&ask(&server, &["redeploy", "demo"])), @r"
    status 0
    --- stdout
    http://demoapi.localhost:8000
    http://demoweb.localhost:8000
    --- stderr
    resolving, 0s
    ready, 2s
    demo is ready
    ");
    assert_eq!(done(&server, &["extend", "demo", "10"]), "2026-12-05T12:00:00Z\n");
    assert_eq!(server.last("PATCH /envs/demo").body(), json!({ "keep-days": 10 }));
    assert_eq!(done(&server, &["delete", "demo", "demo"]), "demo\ndemo\n");
    assert_eq!(done(&server, &["rm", "demo", "--json"]), "[\n  \"demo\"\n]\n");
    // The first that is not there ends it; what was deleted before has been said.
    let output = ask(&server, &["delete", "demo", "gone", "demo"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(3), "demo\n".to_owned()), "{}", outcome(&output));
}

#[test]
fn an_environment_is_opened_in_the_browser_of_choice() {
    let (server, directory) = (Envs::start(), empty_directory());
    let browser = directory.path().join("browser");
    fs::write(&browser, "#!/bin/sh\necho noise\nprintf '%s' \"$*\" >\"$0.opened\"\n").expect("a script");
    fs::set_permissions(&browser, fs::Permissions::from_mode(0o755)).expect("its mode");
    let path = browser.to_str().expect("text");
    let open = |browser: &str| ask_with(&server, &["open", "demo"], &[("BROWSER", browser), ("GITHUB_TOKEN", TOKEN)]);
    let output = open(path);
    assert_eq!(outcome(&output), "status 0\n--- stdout\nhttp://demo.localhost:8000\n--- stderr\n");
    let opened = fs::read_to_string(directory.path().join("browser.opened")).expect("it ran");
    assert_eq!(opened, "http://demo.localhost:8000");
    // The URL is there in any case.
    for (browser, part) in [("/bin/false", "/bin/false ended with"), ("/no/such", "set BROWSER to")] {
        let output = open(browser);
        assert_eq!((output.status.code(), &*stdout(&output)), (Some(1), "http://demo.localhost:8000\n"));
        assert!(stderr(&output).contains(part), "{}", outcome(&output));
    }
}

#[test]
fn without_a_main_route_the_first_link_is_opened_and_listed() {
    let server = Envs::start();
    let mut environment = environment();
    // The services of its main route belong to a part that it was made without.
    environment.as_object_mut().expect("an object").remove("main");
    server.answer("GET /envs/demo", StatusCode::OK, &environment.to_string());
    let first = "http://demoapi.localhost:8000\n";
    let opened = ask_with(&server, &["open", "demo"], &[("BROWSER", "true"), ("PATH", "/usr/bin:/bin")]);
    assert_eq!((opened.status.code(), &*stdout(&opened)), (Some(0), first), "{}", outcome(&opened));
    assert!(done(&server, &["list"]).ends_with(&format!("  {first}")));
    environment["links"] = json!([]);
    server.answer("GET /envs/demo", StatusCode::OK, &environment.to_string());
    let none = ask(&server, &["open", "demo"]);
    assert!(none.status.code() == Some(1) && stderr(&none).contains("has no URL"), "{}", outcome(&none));
}

#[test]
fn a_github_token_goes_before_that_of_the_server_and_a_flag_before_a_variable() {
    let (github, admin) = (("GITHUB_TOKEN", "ghp_variable"), ("ONDEMAND_TOKEN", "s3same"));
    for (variables, flags, expected) in [
        (&[][..], &[][..], None),
        (&[admin], &[], Some("s3same")),
        (&[github], &[], Some("ghp_variable")),
        (&[github, admin], &[], Some("ghp_variable")),
        (&[("GITHUB_TOKEN", ""), admin], &[], Some("s3same")),
        (&[("GITHUB_TOKEN", ""), ("ONDEMAND_TOKEN", "")], &[], None),
        (&[github, admin], &["--github-token", "ghp_flag"], Some("ghp_flag")),
        (&[admin], &["--token", "s3flag"], Some("s3flag")),
    ] {
        for words in [&["create"][..], &["list"], &["delete", "demo"], &["logs", "demo"]] {
            let server = Envs::start();
            let words = [words, flags].concat();
            let output = ask_with(&server, &words, variables);
            assert!(output.status.success(), "{words:?}: {}", outcome(&output));
            let told = outcome(&output);
            assert!(!["ghp_", "s3same", "s3flag"].iter().any(|token| told.contains(token)), "{told}");
            for asked in server.asked() {
                let expected = expected.map(|token| format!("Bearer {token}"));
                assert_eq!(asked.header("authorization"), expected.as_deref(), "{words:?} with {variables:?}");
            }
        }
    }
}

#[test]
fn what_was_copied_with_a_token_does_no_harm_and_what_is_in_it_is_said() {
    let server = Envs::start();
    let output = ask_with(&server, &["list"], &[("GITHUB_TOKEN", " ghp_variable\r\n")]);
    assert!(output.status.success(), "{}", outcome(&output));
    assert_eq!(server.asked()[0].header("authorization"), Some("Bearer ghp_variable"));
    let asked = server.asked().len();
    for (name, token) in [("GITHUB_TOKEN", "ghp_two\nlines"), ("ONDEMAND_TOKEN", "ghp_\u{7f}")] {
        let output = ask_with(&server, &["create"], &[(name, token)]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(2), String::new()), "{}", outcome(&output));
        let told = stderr(&output);
        assert!(told.starts_with("error: the token holds") && !told.contains("ghp_"), "{told}");
    }
    assert_eq!(server.asked().len(), asked);
}

#[test]
fn help_shows_no_token() {
    let (server, directory) = (Envs::start(), empty_directory());
    for words in
        [&["env", "create", "--help"][..], &["env", "delete", "-h"], &["env", "--help"], &["env", "extend", "demo"]]
    {
        let mut command = ondemand(&directory);
        command.env("ONDEMAND_URL", server.url()).env("GITHUB_TOKEN", TOKEN).env("ONDEMAND_TOKEN", TOKEN).args(words);
        let told = outcome(&run(&mut command));
        assert!(!told.contains(TOKEN), "{told}");
    }
    assert!(server.asked().is_empty());
}

#[test]
fn templates_are_checked_without_a_server() {
    let directory = empty_directory();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/templates/demo.yml");
    fs::copy(example, directory.path().join("demo.yml")).expect("a copy");
    let check = |files: &[&str]| run(ondemand(&directory).args(["template", "check"]).args(files));
    insta::assert_snapshot!("template_check_good", outcome(&check(&["demo.yml"])));
    let printed = stdout(&run(ondemand(&directory).args(["template", "check", "demo.yml", "--json"])));
    let printed: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(printed[0]["file"], "demo.yml");
    assert!(printed[0]["found"].as_array().is_some_and(|found| !found.is_empty()), "{printed}");

    let good = fs::read_to_string(directory.path().join("demo.yml")).expect("text");
    let bad = [
        ("undefined", good.replace("{{ back.commit }}", "{{ back.comit }}")),
        ("unsupported", good.replace("  front:\n    image", "  front:\n    build: .\n    image")),
        ("no-such-service", good.replace("service: front", "service: frnt")),
        ("repository", good.replace("repository: shop/front,", "repository: front,")),
        ("branch", good.replace("repository: shop/back, branch: main", "repository: shop/back, branch: feature..x")),
        ("syntax", good.replace("{{ urls.api }}", "{{ urls.api }")),
    ];
    for (name, text) in bad {
        assert_ne!(text, good, "{name}");
        fs::write(directory.path().join(format!("{name}.yml")), text).expect("a file");
        let output = check(&["demo.yml", &format!("{name}.yml")]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(18), String::new()), "{}", outcome(&output));
        insta::assert_snapshot!(format!("template_check_{name}"), stderr(&output));
    }
    assert_eq!(check(&["missing.yml"]).status.code(), Some(3));
    assert_eq!(check(&[]).status.code(), Some(2));
}

#[test]
fn wrong_usage_is_status_2_and_asks_nothing() {
    let server = Envs::start();
    for words in [
        &[][..],
        &["create", "demo"],
        &["create", "--keep-days", "soon"],
        &["create", "--keep-days", "-1"],
        &["show"],
        &["extend", "demo"],
        &["extend", "demo", "1.5"],
        &["delete"],
        &["logs", "demo", "-n", "many"],
    ] {
        let output = ask(&server, words);
        assert_eq!(
            (output.status.code(), stdout(&output)),
            (Some(2), String::new()),
            "{words:?}: {}",
            outcome(&output)
        );
    }
    assert!(server.asked().is_empty());
}

/// Returns a moment so far from now.
pub(crate) fn moment(now: SystemTime, seconds: i64) -> String {
    let offset = Duration::from_secs(seconds.unsigned_abs());
    let then = if seconds < 0 { now - offset } else { now + offset };
    humantime::format_rfc3339_millis(then).to_string()
}
