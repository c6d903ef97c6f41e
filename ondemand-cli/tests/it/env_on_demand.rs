//! `env-on-demand`: the transcript that users and their scripts know, to the letter.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use axum::http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::envs::{Envs, TOKEN, problem};
use crate::{empty_directory, outcome, run, stderr, stdout};

const HELP: &str = "\
Usage:
  env-on-demand [create|delete|details|list|logs]

Options:
  --help:            prints this help
  create:            create a new environment
  list:              list environments
  delete:            delete an environment
  logs:              get logs of your environment
  details:           get info of your environment
";

const CREATE_HELP: &str = "\
Usage:
  env-on-demand create OPTIONS

Options:
  --help:                prints this help
  --github-token:        some github token ( please see https://github.com/settings/tokens )
  --with-fixtures        use fixtures instead of dump data
  --keep-days            number of days the environment should be up for
  --name                 personnalize the name of your environment

  --github-back:         github back repo you want to deploy
  --github-back-branch:  github branch you want to deploy

  --github-front:        github front repo you want to deploy
  --github-front-branch: github branch you want to deploy
";

const CREATED: &str = "\
{
  \"status\": \"done\",
  \"urls\": [
    \"demoapi.env.dev.internal\",
    \"demoadmin.env.dev.internal\"
  ]
}
";

fn env_on_demand(directory: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_env-on-demand"));
    command.env_clear().current_dir(directory).stdin(Stdio::null());
    command
}

/// Makes the command as users have it, who say no URL: what they ask goes to the server through a proxy.
fn as_users_have_it(directory: &TempDir, server: &Envs) -> Command {
    let mut command = env_on_demand(directory);
    command.env("http_proxy", server.url());
    command
}

/// A server whose environment is that of the transcript.
fn server() -> Envs {
    let server = Envs::start();
    let created = json!({"status": "done", "urls": ["demoapi.env.dev.internal", "demoadmin.env.dev.internal"]});
    server.answer("POST /envs", StatusCode::OK, &created.to_string());
    server.answer("GET /envs", StatusCode::OK, r#"["demo"]"#);
    server
}

#[test]
fn help_is_as_users_know_it() {
    let directory = empty_directory();
    for (words, expected) in [
        (&["--help"][..], HELP),
        (&["-h"], HELP),
        (&["create", "--help"], CREATE_HELP),
        (&["create", "--name", "demo", "--help"], CREATE_HELP),
    ] {
        let output = run(env_on_demand(&directory).env("GITHUB_TOKEN", TOKEN).args(words));
        assert_eq!(outcome(&output), format!("status 0\n--- stdout\n{expected}--- stderr\n"), "{words:?}");
    }
    for command in ["list", "delete", "details", "logs"] {
        let output = run(env_on_demand(&directory).args([command, "--help"]));
        let told = stdout(&output);
        assert!(output.status.success() && output.stderr.is_empty(), "{}", outcome(&output));
        assert!(told.starts_with(&format!("Usage:\n  env-on-demand {command}")), "{told}");
    }
}

#[test]
fn create_is_the_transcript() {
    let (server, directory) = (server(), empty_directory());
    let words = ["create", "--name", "demo", "--github-token", TOKEN, "--keep-days", "1"];
    let output = run(as_users_have_it(&directory, &server).args(words));
    assert_eq!(
        stderr(&output),
        "Sending POST {\"name\"=>\"demo\", \"github-token\"=>\"****\"} to http://envondemand.dev.internal:8080/envs\n"
    );
    assert_eq!((output.status.code(), &*stdout(&output)), (Some(0), CREATED));
    let asked = server.last("POST /envs");
    assert_eq!(asked.header("host"), Some("envondemand.dev.internal:8080"));
    assert_eq!(asked.body(), json!({ "name": "demo", "github-token": TOKEN, "keep-days": 1 }));
    assert_eq!(asked.header("authorization"), None);
}

#[test]
fn the_typical_calls_send_what_they_say() {
    let (server, directory) = (server(), empty_directory());
    let fixtures = json!({"github-token": TOKEN, "with-fixtures": true, "keep-days": 5, "name": "myenv"});
    let back = json!({"github-back": "nclavaud/back-web", "github-back-branch": "master"});
    let mut both = back.clone();
    both["github-front"] = "sinewyk/front-web".into();
    both["github-front-branch"] = "master".into();
    for (words, shown, body) in [
        (
            format!("--github-token {TOKEN} --with-fixtures --keep-days 5 --name myenv"),
            r#"{"name"=>"myenv", "github-token"=>"****", "with-fixtures"=>true}"#,
            fixtures,
        ),
        (
            "--github-back nclavaud/back-web --github-back-branch master".to_owned(),
            r#"{"github-back"=>"nclavaud/back-web", "github-back-branch"=>"master"}"#,
            back,
        ),
        (
            "--github-back nclavaud/back-web --github-back-branch master --github-front sinewyk/front-web --github-front-branch master"
                .to_owned(),
            r#"{"github-back"=>"nclavaud/back-web", "github-back-branch"=>"master", "github-front"=>"sinewyk/front-web", "github-front-branch"=>"master"}"#,
            both,
        ),
        // The colons of the help are no part of the names, and do no harm; what has no options has an empty body.
        (format!("--github-token: {TOKEN}"), r#"{"github-token"=>"****"}"#, json!({ "github-token": TOKEN })),
        (format!("--github-token={TOKEN}"), r#"{"github-token"=>"****"}"#, json!({ "github-token": TOKEN })),
        (String::new(), "{}", json!({})),
    ] {
        let output = run(as_users_have_it(&directory, &server).arg("create").args(words.split_whitespace()));
        let sending = format!("Sending POST {shown} to http://envondemand.dev.internal:8080/envs\n");
        assert_eq!((stderr(&output), &*stdout(&output)), (sending, CREATED), "{words}");
        assert_eq!(server.last("POST /envs").body(), body, "{words}");
    }
}

#[test]
fn list_is_the_transcript() {
    let (server, directory) = (server(), empty_directory());
    let output = run(as_users_have_it(&directory, &server).arg("list"));
    let expected = "status 0\n--- stdout\n[\n  \"demo\"\n]\n\
                    --- stderr\nSending GET to http://envondemand.dev.internal:8080/envs\n";
    assert_eq!(outcome(&output), expected);
    assert_eq!(server.last("GET /envs").header("authorization"), None);
    server.answer("GET /envs", StatusCode::OK, "[]");
    assert_eq!(stdout(&run(as_users_have_it(&directory, &server).arg("list"))), "[]\n");
}

#[test]
fn the_other_words_print_json_alone() {
    let (server, directory) = (server(), empty_directory());
    let ask = |words: &[&str]| {
        let output = run(as_users_have_it(&directory, &server).args(words).args(["--github-token", TOKEN]));
        assert!(output.status.success() && !outcome(&output).contains(TOKEN), "{}", outcome(&output));
        let asked = server.asked().pop().expect("it asked");
        assert_eq!(asked.header("authorization"), Some(format!("Bearer {TOKEN}")).as_deref(), "{words:?}");
        (stdout(&output), stderr(&output))
    };
    let (details, sending) = ask(&["details", "--name", "demo"]);
    assert_eq!(sending, "Sending GET to http://envondemand.dev.internal:8080/envs/demo\n");
    let details: Value = serde_json::from_str(&details).expect("JSON");
    assert_eq!((&details["name"], &details["owner"]["login"]), (&json!("demo"), &json!("anna")));
    let (deleted, sending) = ask(&["delete", "--name", "demo"]);
    assert_eq!(sending, "Sending DELETE to http://envondemand.dev.internal:8080/envs/demo\n");
    assert_eq!(serde_json::from_str::<Value>(&deleted).expect("JSON")["status"], "done");
    let (logs, sending) = ask(&["logs", "--name", "demo", "--service", "back", "--tail", "2", "--follow"]);
    assert_eq!(sending, "Sending GET to http://envondemand.dev.internal:8080/envs/demo/logs\n");
    assert_eq!(logs, "back: one\nback: two\n");
    assert_eq!(server.asked().pop().expect("it asked").what, "GET /envs/demo/logs?service=back&tail=2&follow=true");
}

#[test]
fn variables_say_the_token_and_the_server() {
    let (server, other, directory) = (server(), server(), empty_directory());
    let mut command = env_on_demand(&directory);
    command
        .env("ENV_ON_DEMAND_URL", format!("{}/", server.url()))
        .env("ONDEMAND_URL", other.url())
        .env("GITHUB_TOKEN", TOKEN);
    let output = run(command.args(["create", "--name", "demo"]));
    let sending = format!("Sending POST {{\"name\"=>\"demo\", \"github-token\"=>\"****\"}} to {}/envs\n", server.url());
    assert_eq!((stderr(&output), &*stdout(&output)), (sending, CREATED));
    assert_eq!(server.last("POST /envs").body(), json!({ "name": "demo", "github-token": TOKEN }));
    let output = run(command.args(["--github-token", "ghp_flag"]));
    assert!(output.status.success() && !outcome(&output).contains("ghp_"), "{}", outcome(&output));
    assert_eq!(server.last("POST /envs").body()["github-token"], "ghp_flag");
    assert!(other.asked().is_empty());
    let output = run(command.args(["--github-token", "ghp_copied \n"]));
    assert!(output.status.success(), "{}", outcome(&output));
    assert_eq!(server.last("POST /envs").body()["github-token"], "ghp_copied");
    let output =
        run(command.env("ENV_ON_DEMAND_URL", "").env("GITHUB_TOKEN", "").args(["--name", "x", "--github-token", ""]));
    assert!(output.status.success(), "{}", outcome(&output));
    assert_eq!(other.last("POST /envs").body(), json!({ "name": "x" }));
}

#[test]
fn the_token_of_the_server_is_not_sent() {
    let (server, directory) = (server(), empty_directory());
    let mut command = as_users_have_it(&directory, &server);
    let output = run(command.env("ONDEMAND_TOKEN", "s3same").arg("list"));
    assert!(output.status.success(), "{}", outcome(&output));
    assert_eq!(server.last("GET /envs").header("authorization"), None);
    server.refuse(401, &problem("unauthenticated", 401, "this server wants a token"));
    for words in [&["list"][..], &["create"], &["list", "--github-token", TOKEN]] {
        let output = run(as_users_have_it(&directory, &server).args(words));
        let hint = "\nhint: only `ondemand env` sends the server's own token: give it that with ONDEMAND_TOKEN\n";
        assert!(output.status.code() == Some(10) && stderr(&output).ends_with(hint), "{}", outcome(&output));
    }
}

#[test]
fn a_password_in_the_url_is_sent_and_not_shown() {
    let (server, directory) = (server(), empty_directory());
    let host = server.url().replace("http://", "");
    for (url, shown) in [
        (format!("http://anna:hunter2@{host}"), format!("http://anna:****@{host}")),
        (format!("http://:hunter2@{host}/"), format!("http://:****@{host}")),
        // A name alone may be a token.
        (format!("http://hunter2@{host}"), format!("http://****@{host}")),
    ] {
        let output = run(env_on_demand(&directory).env("ENV_ON_DEMAND_URL", url).arg("list"));
        assert_eq!(stderr(&output), format!("Sending GET to {shown}/envs\n"));
        let sent = server.last("GET /envs");
        assert!(sent.header("authorization").is_some_and(|sent| sent.starts_with("Basic ")), "{sent:?}");
    }
}

#[test]
fn a_refusal_leaves_standard_output_empty() {
    let (server, directory) = (server(), empty_directory());
    for (code, status, exit) in [("unauthenticated", 401, 10), ("already_exists", 409, 4), ("service_failed", 422, 19)]
    {
        server.refuse(status, &problem(code, status, "no, says GitHub"));
        for words in [&["create"][..], &["list"], &["details"], &["delete"], &["logs"]] {
            let name: &[&str] = if words == ["list"] { &[] } else { &["--name", "demo"] };
            let output = run(as_users_have_it(&directory, &server).args(words).args(name));
            assert_eq!((output.status.code(), stdout(&output)), (Some(exit), String::new()), "{}", outcome(&output));
            let told = stderr(&output);
            assert!(told.contains("\nerror: no, says GitHub\nhint: "), "{told}");
        }
    }
}

#[test]
fn wrong_usage_is_status_2_and_asks_nothing() {
    let (server, directory) = (server(), empty_directory());
    for (words, part) in [
        (&[][..], "env-on-demand [create|delete|details|list|logs]"),
        (&["crate"], "\"crate\" is none of create, delete, details, list, logs"),
        (&["create", "demo"], "\"demo\" is no option"),
        (&["create", "--nam", "demo"], "--nam is no option"),
        (&["create", "--name"], "--name needs a value"),
        (&["create", "--keep-days", "many"], "--keep-days needs a number, not \"many\""),
        (&["create", "--with-fixtures=yes"], "--with-fixtures takes no value"),
        (&["list", "--name", "demo"], "--name is no option"),
        (&["delete"], "say which environment, with --name"),
        (&["details", "--github-token", "x"], "say which environment, with --name"),
        (&["logs", "--tail", "all"], "--tail needs a number"),
    ] {
        let output = run(as_users_have_it(&directory, &server).args(words));
        assert_eq!(
            (output.status.code(), stdout(&output)),
            (Some(2), String::new()),
            "{words:?}: {}",
            outcome(&output)
        );
        assert!(stderr(&output).contains(part), "{words:?}: {}", outcome(&output));
    }
    for name in ["", ".", ".."] {
        let output = run(as_users_have_it(&directory, &server).args(["delete", "--name", name]));
        assert_eq!(output.status.code(), Some(3), "{name:?}: {}", outcome(&output));
    }
    // What is no text is wrong usage as well.
    let output = run(as_users_have_it(&directory, &server).arg("create").arg(OsStr::from_bytes(b"--name=\xff")));
    assert_eq!(output.status.code(), Some(2), "{}", outcome(&output));
    assert!(server.asked().is_empty(), "{:?}", server.asked());
}

#[test]
fn no_server_is_said_with_what_to_do() {
    let directory = empty_directory();
    // Port 1 of loopback: nothing listens there.
    let output = run(env_on_demand(&directory).env("ENV_ON_DEMAND_URL", "http://127.0.0.1:1").arg("list"));
    assert_eq!((output.status.code(), stdout(&output)), (Some(17), String::new()), "{}", outcome(&output));
    assert!(stderr(&output).contains("\nerror: no server answers at http://127.0.0.1:1\n"), "{}", outcome(&output));
}
