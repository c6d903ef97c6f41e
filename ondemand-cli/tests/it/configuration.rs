//! What holds of file, environment and flags.

use std::fs;

use crate::{empty_directory, ondemand, outcome, run, stderr, stdout};

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let directory = empty_directory();
    let holds = |variables: &[(&str, &str)], flags: &[&str]| {
        let output = run(ondemand(&directory).envs(variables.iter().copied()).args(["config", "show"]).args(flags));
        assert!(output.status.success(), "{}", outcome(&output));
        let text = stdout(&output);
        let line = text.lines().find(|line| line.starts_with("data-dir = ")).expect("a line").to_owned();
        line.trim_start_matches("data-dir = ").trim_matches('"').to_owned()
    };
    let variable = [("ONDEMAND_DATA_DIR", "/from/environment")];
    let flag = ["--data-dir", "/from/flag"];
    assert_eq!(holds(&[], &[]), "/var/lib/ondemand");
    assert_eq!(holds(&variable, &[]), "/from/environment");
    fs::write(directory.path().join("ondemand.toml"), "data-dir = \"/from/file\"\n").expect("a file");
    assert_eq!(holds(&[], &[]), "/from/file");
    assert_eq!(holds(&variable, &[]), "/from/environment");
    assert_eq!(holds(&variable, &flag), "/from/flag");
    assert_eq!(holds(&[], &flag), "/from/flag");
}

#[test]
fn the_file_can_be_named() {
    let directory = empty_directory();
    fs::write(directory.path().join("ondemand.toml"), "data-dir = \"/not/this\"\n").expect("a file");
    fs::write(directory.path().join("other.toml"), "data-dir = \"/this\"\n").expect("a file");
    let named = [
        run(ondemand(&directory).args(["config", "show", "--config", "other.toml"])),
        run(ondemand(&directory).args(["config", "show"]).env("ONDEMAND_CONFIG", "other.toml")),
    ];
    for output in named {
        assert!(stdout(&output).contains("data-dir = \"/this\""), "{}", outcome(&output));
    }
    let output = run(ondemand(&directory).args(["config", "show", "--config", "missing.toml"]));
    assert_eq!(output.status.code(), Some(1), "{}", outcome(&output));
    assert!(stderr(&output).contains("missing.toml cannot be read"), "{}", outcome(&output));
}

#[test]
fn secrets_are_masked_wherever_they_come_from() {
    let directory = empty_directory();
    fs::write(directory.path().join("ondemand.toml"), "[http]\ntoken = \"hunter-file\"\n").expect("a file");
    let shown = [
        run(ondemand(&directory).args(["config", "show"])),
        run(ondemand(&directory).args(["config", "show"]).env("ONDEMAND_TOKEN", "hunter-variable")),
        run(ondemand(&directory).args(["config", "show", "--token", "hunter-flag"])),
    ];
    for output in shown {
        let text = outcome(&output);
        assert!(text.contains("token = \"****\"") && !text.contains("hunter"), "{text}");
    }
    let help = run(ondemand(&directory).arg("--help").env("ONDEMAND_TOKEN", "hunter-variable"));
    assert!(!outcome(&help).contains("hunter"), "{}", outcome(&help));
}

#[test]
fn a_bad_file_is_named_with_the_line() {
    let directory = empty_directory();
    fs::write(directory.path().join("ondemand.toml"), "store = \"copy\"\nlisten = 1\n").expect("a file");
    let output = run(ondemand(&directory).args(["config", "show"]));
    assert_eq!(output.status.code(), Some(7), "{}", outcome(&output));
    let text = stderr(&output);
    assert!(text.starts_with("error: ondemand.toml: ") && text.contains("line 2") && text.contains("listen"), "{text}");
}

#[test]
fn what_no_single_field_shows_is_checked_last() {
    let directory = empty_directory();
    let output = run(ondemand(&directory).args(["config", "show", "--default-ttl", "2d", "--max-ttl", "1d"]));
    assert_eq!(output.status.code(), Some(7), "{}", outcome(&output));
    let output = run(ondemand(&directory).args(["config", "show", "--default-ttl", "2h", "--max-ttl", "3h"]));
    assert!(output.status.success(), "{}", outcome(&output));
}

#[test]
fn an_exposed_server_does_not_start() {
    let directory = empty_directory();
    let output = run(ondemand(&directory).args(["serve", "--listen", "0.0.0.0:0", "--data-dir", "data"]));
    assert_eq!(output.status.code(), Some(9), "{}", outcome(&output));
    assert!(stderr(&output).contains("--allow-anonymous"), "{}", outcome(&output));
    assert!(!directory.path().join("data").exists());
}

#[test]
fn environments_live_no_longer_than_their_databases_may() {
    let directory = empty_directory();
    let output = run(ondemand(&directory).args(["config", "show", "--max-ttl", "3d", "--templates", "templates"]));
    assert_eq!(output.status.code(), Some(7), "{}", outcome(&output));
    assert!(stderr(&output).contains("raise databases.max-ttl"), "{}", outcome(&output));
}

#[test]
fn whose_branches_run_is_said_beyond_loopback() {
    let show = |github: &str, arguments: &[&str]| {
        let directory = empty_directory();
        fs::write(directory.path().join("ondemand.toml"), format!("[github]\n{github}\n")).expect("a file");
        run(ondemand(&directory).args(["config", "show"]).args(arguments))
    };
    let beyond = ["--listen", "10.0.0.1:8080", "--templates", "templates"];
    let refused = show("", &beyond);
    assert_eq!(refused.status.code(), Some(7), "{}", outcome(&refused));
    assert!(stderr(&refused).contains("github.any-github-user = true"), "{}", outcome(&refused));
    for said in ["any-github-user = true", "organisations = ['shop']", "accounts = 'none'"] {
        let shown = show(said, &beyond);
        assert!(shown.status.success(), "{said}: {}", outcome(&shown));
    }
    for harmless in [&beyond[..2], &beyond[2..], &["--listen", "[::1]:8080", "--templates", "templates"]] {
        let shown = show("", harmless);
        assert!(shown.status.success(), "{harmless:?}: {}", outcome(&shown));
    }
}
