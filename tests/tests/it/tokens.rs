//! Whose token may do what, and where a token may be: environments of private repositories at a forge that has accounts.
//!
//! Slow: a test has a server with an imported dataset, and services that clone, build and start.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use ondemand_core::Secret;
use ondemand_tests::forge::{Fault, Part};
use ondemand_tests::shop::{DATASET, visit};
use ondemand_tests::{Forge, Home, Inventory, Server, ServerOptions, Shop, Steps, eventually};
use reqwest::Method;
use serde_json::{Value, json};

const SHOP: [&str; 2] = ["shop/back", "shop/front"];
/// The server's own token.
const ADMIN: &str = "the-one-who-runs-it";

/// A server that makes environments of what is at a forge.
struct Place {
    forge: Forge,
    home: Home,
    shop: Shop,
    server: Server,
    options: ServerOptions,
    before: Inventory,
    http: reqwest::Client,
}

/// What a user was answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    text: String,
}

impl Answer {
    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| self.text.clone())
    }

    /// Checks that it is a refusal with this status and code, and returns it.
    fn refused(&self, status: u16, code: &str) -> Result<Value> {
        let problem = self.json()?;
        ensure!(self.status == status && problem["code"] == code, "not {status} {code}: {self:?}");
        Ok(problem)
    }
}

impl Place {
    async fn new() -> Result<Self> {
        Self::with("", |options| options).await
    }

    /// Makes one whose server is configured and started otherwise. It has a token of its own, which [`Server`] sends.
    async fn with(config: &str, change: impl FnOnce(ServerOptions) -> ServerOptions) -> Result<Self> {
        let (home, forge) = (Home::new()?, Forge::start().await?);
        let shop = Shop::at(&home, &forge).await?;
        let config = home.file("ondemand.toml", config)?.display().to_string();
        let options = ServerOptions { store: "copy", arguments: vec!["--config".into(), config], ..Default::default() };
        let mut options = change(shop.options(options));
        options.environment.insert("ONDEMAND_TOKEN".into(), ADMIN.into());
        let server = Server::start(&home.data(), &options).await?;
        server.import("shop", DATASET).await?;
        let before = Inventory::take(&home, &home.data())?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { forge, home, shop, server, options, before, http })
    }

    /// Returns a token that may read the shop.
    fn customer(&self, login: &str) -> Secret {
        self.forge.token(login, &SHOP)
    }

    /// Asks as the owner of a token. Whatever is answered, the token is not in it.
    async fn ask(&self, token: Option<&Secret>, method: &str, path: &str, body: impl ToString) -> Result<Answer> {
        let mut request = self.http.request(method.parse::<Method>()?, format!("{}{path}", self.server.url()));
        if let Some(token) = token {
            request = request.bearer_auth(token.expose());
        }
        let answer = request.body(body.to_string()).send().await?;
        let answer = Answer { status: answer.status().as_u16(), text: answer.text().await? };
        if let Some(token) = token {
            ensure!(!answer.text.contains(token.expose()), "{method} {path} repeats the token: {answer:?}");
        }
        Ok(answer)
    }

    /// Creates an environment, as `env-on-demand` does: with the token in the body.
    async fn create(&self, token: &Secret, mut body: Value) -> Result<Answer> {
        body["github-token"] = token.expose().into();
        let answer = self.ask(None, "POST", "/envs", body).await?;
        ensure!(!answer.text.contains(token.expose()), "the token is repeated: {answer:?}");
        Ok(answer)
    }

    async fn created(&self, token: &Secret, body: Value) -> Result<Value> {
        let answer = self.create(token, body).await?;
        ensure!(answer.status == 200, "{answer:?}\n{}", self.server.log());
        answer.json()
    }

    async fn deleted(&self, token: &Secret, name: &str) -> Result<()> {
        let answer = self.ask(Some(token), "DELETE", &format!("/envs/{name}"), "").await?;
        ensure!(answer.status == 200, "{answer:?}");
        self.nothing_is_left().await
    }

    async fn nothing_is_left(&self) -> Result<()> {
        for what in ["/envs", "/servers", "/routes"] {
            assert_eq!(self.server.succeed("GET", what, "").await?, json!([]), "{what}");
        }
        self.before.returns(&self.home, &self.home.data()).await
    }

    /// Returns how often GitHub was asked.
    fn asked_github(&self) -> usize {
        self.forge.asked().iter().filter(|asked| asked.path.starts_with("/api/")).count()
    }
}

fn detail(problem: &Value) -> &str {
    problem["detail"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn private_repositories_are_cloned_with_the_users_token() -> Result<()> {
    let place = Place::new().await?;
    let anna = place.customer("anna");
    let done = place.created(&anna, json!({ "name": "demo" })).await?;
    assert_eq!(done, json!({ "status": "done", "urls": ["demo.localhost", "demoapi.localhost"] }));
    assert_eq!(visit(&place.server, "demoapi.localhost", "/health").await?.0, 200);
    let details = place.ask(Some(&anna), "GET", "/envs/demo", "").await?.json()?;
    assert_eq!(details["owner"], json!({ "id": place.forge.account_id("anna"), "login": "anna" }));
    place.deleted(&anna, "demo").await?;

    // Who may read only one of them is told which is missing, and that it may be for lack of rights.
    let half = place.forge.token("anna", &["shop/back"]);
    let refused = place.create(&half, json!({ "name": "demo" })).await?.refused(404, "not_found")?;
    assert!(detail(&refused).contains("shop/front") && !detail(&refused).contains("shop/back"), "{refused}");
    assert!(refused["hint"].to_string().contains("token"), "{refused}");
    place.nothing_is_left().await
}

#[tokio::test]
async fn services_are_started_again_after_a_restart_and_a_move_with_what_they_were_given() -> Result<()> {
    let mut place = Place::new().await?;
    let anna = place.customer("anna");
    place.created(&anna, json!({ "name": "demo" })).await?;
    place.server.kill().await?;
    place.server = Server::start(&place.home.data(), &place.options).await?;
    // Its token is of no use any more, and is not needed: what was built is there.
    place.forge.revoke(&anna);
    let processes = place.home.processes()?;
    let services: Vec<_> = processes.into_iter().filter(|(_, command)| command == "perl server.pl").collect();
    assert_eq!(services.len(), 2, "{services:?}");
    for (pid, _) in &services {
        rustix::process::kill_process(*pid, rustix::process::Signal::KILL)?;
    }
    eventually(async || {
        let statuses = [
            visit(&place.server, "demoapi.localhost", "/health").await?.0,
            visit(&place.server, "demo.localhost", "/").await?.0,
        ];
        let there = place.home.processes()?.iter().any(|(pid, _)| services.iter().any(|(old, _)| old == pid));
        ensure!(statuses == [200, 200] && !there, "{statuses:?}");
        Ok(())
    })
    .await?;

    // So are they where the data directory is another one then.
    place.server.kill().await?;
    for (pid, _) in place.home.processes()? {
        match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
            // It has ended with one before it.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    eventually(async || {
        let left = place.home.processes()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    let elsewhere = place.home.path().join("elsewhere");
    std::fs::rename(place.home.data(), &elsewhere)?;
    place.server = Server::start(&elsewhere, &place.options).await?;
    eventually(async || {
        let statuses = [
            visit(&place.server, "demoapi.localhost", "/health").await?.0,
            visit(&place.server, "demo.localhost", "/").await?.0,
        ];
        ensure!(statuses == [200, 200], "{statuses:?}");
        Ok(())
    })
    .await?;
    assert_eq!(files_with(&elsewhere, anna.expose())?.len(), 1);
    let deleted = place.ask(Some(&place.customer("anna")), "DELETE", "/envs/demo", "").await?;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    assert_eq!(files_with(&elsewhere, anna.expose())?, Vec::<PathBuf>::new());
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_not_valid_is_refused_with_what_to_do() -> Result<()> {
    let place = Place::new().await?;
    let never = Secret::new("ghp_nobodyhasthisone");
    let refused = place.create(&never, json!({ "name": "demo" })).await?.refused(401, "unauthenticated")?;
    assert!(detail(&refused).contains("GitHub token is not valid"), "{refused}");
    assert!(refused["hint"].to_string().contains("https://github.com/settings/tokens"), "{refused}");
    // A plan asks for no less, and neither do those who only look.
    let plan = place.ask(Some(&never), "POST", "/envs?plan=true", "{}").await?;
    plan.refused(401, "unauthenticated")?;
    for path in ["/envs", "/envs/demo", "/envs/demo/logs"] {
        place.ask(Some(&never), "GET", path, "").await?.refused(401, "unauthenticated")?;
        place.ask(None, "GET", path, "").await?.refused(401, "unauthenticated")?;
    }
    for (method, path, body) in
        [("POST", "/envs", "{}"), ("PATCH", "/envs/demo", r#"{"keep-days":1}"#), ("DELETE", "/envs/demo", "")]
    {
        let refused = place.ask(None, method, path, body).await?.refused(401, "unauthenticated")?;
        assert!(refused["hint"].to_string().contains("https://github.com/settings/tokens"), "{method}: {refused}");
    }
    // Whoever runs the server has no account: an environment would be nobody's.
    let refused = place.server.refused(("POST", "/envs"), "{}", (401, "unauthenticated")).await?;
    assert!(detail(&refused).contains("GitHub token"), "{refused}");
    place.nothing_is_left().await
}

/// GitHub says of one that has expired what it says of one that was taken back: bad credentials.
#[tokio::test]
async fn a_token_that_expires_ends_with_what_is_remembered_of_it() -> Result<()> {
    let mut place = Place::new().await?;
    let anna = place.customer("anna");
    place.created(&anna, json!({ "name": "demo" })).await?;
    let before = place.ask(Some(&anna), "GET", "/envs/demo", "").await?.json()?;
    place.forge.revoke(&anna);
    // It is not good for code any more, though GitHub said a moment ago whose it is.
    place.shop.push("back", "main", "Change it").await?;
    for refused in [
        place.create(&anna, json!({ "name": "other" })).await?,
        place.ask(Some(&anna), "POST", "/envs/demo/redeploy", "").await?,
    ] {
        let refused = refused.refused(401, "unauthenticated")?;
        assert!(refused["hint"].to_string().contains("https://github.com/settings/tokens"), "{refused}");
    }
    // For the rest that is remembered, and nothing has changed.
    let asked = place.asked_github();
    assert_eq!(place.ask(Some(&anna), "GET", "/envs/demo", "").await?.json()?, before);
    assert_eq!(place.asked_github(), asked, "GitHub was asked, so this shows nothing");

    // What is remembered ends with the server at the latest: from then on the token is good for nothing.
    place.server.stop().await?;
    place.server = Server::start(&place.home.data(), &place.options).await?;
    for (method, path, body) in [
        ("GET", "/envs", ""),
        ("GET", "/envs/demo/logs", ""),
        ("PATCH", "/envs/demo", r#"{"keep-days":1}"#),
        ("POST", "/envs/demo/redeploy", ""),
        ("DELETE", "/envs/demo", ""),
    ] {
        let refused = place.ask(Some(&anna), method, path, body).await?.refused(401, "unauthenticated")?;
        assert!(detail(&refused).contains("GitHub token is not valid (any more)"), "{method} {path}: {refused}");
        assert!(refused["hint"].to_string().contains("https://github.com/settings/tokens"), "{method}: {refused}");
    }
    // What is there is not harmed, and a new token of the same user does.
    assert_eq!(visit(&place.server, "demoapi.localhost", "/health").await?.0, 200);
    let anew = place.customer("anna");
    let after = place.ask(Some(&anew), "GET", "/envs/demo", "").await?.json()?;
    for key in ["status", "back", "front", "database", "expires", "owner"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    place.deleted(&anew, "demo").await
}

#[tokio::test]
async fn while_github_is_down_only_those_it_knew_go_on() -> Result<()> {
    let place = Place::new().await?;
    let (anna, secret) = (place.customer("anna"), "an answer that holds a s3cret");
    place.created(&anna, json!({ "name": "demo" })).await?;
    for (fault, status, part) in [
        (Fault::Status(500), 503, "500"),
        (Fault::Status(502), 503, "502"),
        (Fault::Cut, 503, ""),
        (Fault::Hang, 503, ""),
        (Fault::Garbage(secret.into()), 500, "URL of the GitHub API"),
        (Fault::Garbage("{}".into()), 500, "URL of the GitHub API"),
    ] {
        place.forge.fail_always(Part::Api, fault.clone());
        // One whom it has never seen. A failure is remembered for a few seconds, so each has a token of his own.
        let refused = place.create(&place.customer("bert"), json!({ "name": "other" })).await?;
        let refused = refused.refused(status, "backend").with_context(|| format!("{fault:?}"))?;
        let told = refused.to_string();
        assert!(detail(&refused).contains(&place.forge.api()) && told.contains(part), "{fault:?}: {refused}");
        assert!(!told.contains("s3cret"), "{refused}");
        let asked = place.asked_github();
        assert_eq!(place.ask(Some(&anna), "GET", "/envs", "").await?.json()?, json!(["demo"]), "{fault:?}");
        assert_eq!(place.asked_github(), asked, "it was remembered whose the token is");
    }
    place.ask(Some(&anna), "POST", "/envs/demo/redeploy", "").await?.json()?;
    place.forge.mend();
    let dora = place.customer("dora");
    assert_eq!(place.ask(Some(&dora), "GET", "/envs", "").await?.json()?, json!(["demo"]));
    place.deleted(&anna, "demo").await
}

#[tokio::test]
async fn who_asks_too_often_is_told_until_when() -> Result<()> {
    let place = Place::new().await?;
    for secondary in [false, true] {
        place.forge.fail(Part::Api, &Fault::RateLimit { seconds: 120, secondary }, 1);
        let token = place.customer("anna");
        let before = std::time::SystemTime::now();
        let refused = place.create(&token, json!({ "name": "demo" })).await?.refused(503, "backend")?;
        let told = refused["causes"].to_string();
        let until = told.split("until ").nth(1).and_then(|rest| rest.split('"').next()).context("until when")?;
        let until = humantime::parse_rfc3339(until).with_context(|| told.clone())?;
        let wait = until.duration_since(before)?.as_secs();
        assert!((117..=122).contains(&wait), "{wait} s: {refused}");
        // Until then it is not asked again with this token.
        let asked = place.asked_github();
        place.create(&token, json!({ "name": "demo" })).await?.refused(503, "backend")?;
        assert_eq!(place.asked_github(), asked);
    }
    place.nothing_is_left().await
}

#[tokio::test]
async fn only_members_of_the_organisation_come_in() -> Result<()> {
    let place = Place::with("[github]\norganisations = [\"your-shop\"]\n", |options| options).await?;
    place.forge.member("anna", "your-shop", "active");
    place.forge.member("bert", "your-shop", "pending");
    place.forge.member("carl", "their-shop", "active");
    let anna = place.customer("anna");
    place.created(&anna, json!({ "name": "demo" })).await?;
    for login in ["bert", "carl"] {
        let token = place.customer(login);
        let refused = place.create(&token, json!({ "name": "other" })).await?.refused(403, "forbidden")?;
        assert!(detail(&refused).contains(login) && detail(&refused).contains("your-shop"), "{refused}");
        // Nor may they see what there is.
        for path in ["/envs", "/envs/demo"] {
            place.ask(Some(&token), "GET", path, "").await?.refused(403, "forbidden")?;
        }
    }
    place.deleted(&anna, "demo").await
}

#[tokio::test]
async fn others_may_look_and_only_the_owner_may_touch() -> Result<()> {
    let place = Place::new().await?;
    let (anna, bert) = (place.customer("anna"), place.customer("bert"));
    place.created(&anna, json!({ "name": "demo" })).await?;
    assert_eq!(place.ask(Some(&bert), "GET", "/envs", "").await?.json()?, json!(["demo"]));
    let seen = place.ask(Some(&bert), "GET", "/envs/demo", "").await?.json()?;
    assert_eq!((&seen["status"], &seen["owner"]["login"]), (&json!("ready"), &json!("anna")));
    let touching = [
        ("DELETE", "/envs/demo", ""),
        ("PATCH", "/envs/demo", r#"{"keep-days":2}"#),
        ("POST", "/envs/demo/redeploy", ""),
        ("GET", "/envs/demo/logs", ""),
        ("GET", "/envs/demo/logs?service=back&follow", ""),
    ];
    for (method, path, body) in touching {
        let refused = place.ask(Some(&bert), method, path, body).await?.refused(403, "forbidden")?;
        assert!(detail(&refused).contains("anna's, not bert's"), "{method} {path}: {refused}");
    }
    let after = place.ask(Some(&bert), "GET", "/envs/demo", "").await?.json()?;
    assert_eq!(after, seen, "nothing has changed");

    // Who is called something else by now is the same; who has taken the name is not.
    place.forge.rename("anna", "anne");
    place.forge.rename("bert", "anna");
    let renamed = place.forge.token("anne", &SHOP);
    let thief = place.forge.token("anna", &SHOP);
    place.ask(Some(&thief), "GET", "/envs/demo/logs", "").await?.refused(403, "forbidden")?;
    let logs = place.ask(Some(&renamed), "GET", "/envs/demo/logs", "").await?;
    assert!(logs.status == 200 && logs.text.contains("[ondemand] cloning shop/back"), "{logs:?}");

    // Whoever runs the server may; his token clones nothing, so what he redeploys is what everybody may read.
    place.forge.publish("shop/back");
    place.forge.publish("shop/front");
    let days = place.server.succeed("PATCH", "/envs/demo", r#"{"keep-days":3}"#).await?;
    assert_eq!(days["owner"]["login"], "anna");
    let logs = place.server.request(Method::GET, "/envs/demo/logs?service=front&tail=1").send().await?;
    assert_eq!(logs.status(), 200);
    let commit = place.shop.push("back", "main", "Change it").await?;
    let done = place.server.succeed("POST", "/envs/demo/redeploy", "").await?;
    assert_eq!(done["status"], "done");
    let details = place.server.succeed("GET", "/envs/demo", "").await?;
    assert_eq!((&details["back"]["commit"], &details["owner"]["login"]), (&json!(commit), &json!("anna")));
    place.server.succeed("DELETE", "/envs/demo", "").await?;
    place.nothing_is_left().await
}

#[tokio::test]
async fn what_is_being_made_is_its_owners_already() -> Result<()> {
    let place = Place::new().await?;
    let (anna, bert) = (place.customer("anna"), place.customer("bert"));
    place.shop.write("back", "build.sh", "sleep 600\n")?;
    place.shop.push("back", "main", "Take one's time").await?;
    let request = place.http.post(format!("{}/envs", place.server.url())).bearer_auth(anna.expose());
    let begun = request.header("prefer", "respond-async").body(r#"{"name":"demo"}"#).send().await?;
    assert_eq!(begun.status(), 202);
    place.ask(Some(&bert), "DELETE", "/envs/demo", "").await?.refused(403, "forbidden")?;
    // The name is taken, and what there is of it is nobody else's to read.
    place.create(&bert, json!({ "name": "demo" })).await?.refused(409, "already_exists")?;
    eventually(async || {
        let own = place.ask(Some(&anna), "GET", "/envs/demo/logs", "").await?;
        ensure!(own.status == 200 && own.text.contains("[ondemand]"), "{own:?}");
        Ok(())
    })
    .await?;
    place.ask(Some(&bert), "GET", "/envs/demo/logs", "").await?.refused(403, "forbidden")?;
    let seen = place.ask(Some(&bert), "GET", "/envs/demo", "").await?.json()?;
    assert_eq!((&seen["status"], &seen["owner"]["login"]), (&json!("creating"), &json!("anna")));
    place.deleted(&anna, "demo").await
}

/// Between the resolving of a branch and the cloning of its commit anything may happen; here a service that the others wait for sees to it that it does.
#[tokio::test]
async fn a_branch_that_is_deleted_before_it_is_cloned_is_said() -> Result<()> {
    let place = Place::new().await?;
    let anna = place.customer("anna");
    // Its service sees no other directory of the host.
    let shown = place.home.path().join("shown");
    std::fs::create_dir(&shown)?;
    let gate = shown.join("gate");
    let template = place.shop.templates().join("demo.yml");
    let wait = format!("while ! [ -e {} ]; do sleep 0.05; done", gate.display());
    let shown = format!("{0}:{0}:ro", shown.display());
    let services = format!(
        "services:
  gate:
    image: any
    entrypoint: [/bin/sh, -c, {wait:?}]
    volumes: [{shown:?}]
  back:
    depends_on: {{ gate: {{ condition: service_completed_successfully }} }}
"
    );
    let gated = std::fs::read_to_string(&template)?.replace("services:\n  back:\n", &services);
    ensure!(gated.contains("service_completed_successfully"), "{gated}");
    std::fs::write(&template, gated)?;
    place.shop.push("back", "feature/short-lived", "Begin").await?;

    let body = json!({ "name": "demo", "github-back": "shop/back", "github-back-branch": "feature/short-lived" });
    let request = place.http.post(format!("{}/envs", place.server.url())).bearer_auth(anna.expose());
    let mut steps = Steps::of(request.body(body.to_string())).await?;
    steps.until("deploying").await?;
    place.forge.delete_branch("shop/back", "feature/short-lived").await?;
    std::fs::write(&gate, "")?;
    let text = steps.rest().await?;
    let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
    let problem: Value =
        serde_json::from_str(last.strip_prefix("event: error\ndata: ").with_context(|| text.clone())?)?;
    assert_eq!(problem["code"], "service_failed", "{problem}");
    assert!(detail(&problem).contains("back"), "{problem}");
    let log = problem["log"].to_string();
    assert!(log.contains("no longer in shop/back: feature/short-lived was deleted or rewritten"), "{problem}");
    assert!(!text.contains(anna.expose()), "{text}");
    place.nothing_is_left().await
}

/// Looks at all processes until it is told to stop, and returns those that show one of the tokens, and how many of Git it saw.
fn watch(tokens: &[Secret], stop: &AtomicBool) -> (Vec<String>, usize) {
    let (mut shown, mut gits) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
            let (line, variables) = (read("cmdline"), read("environ"));
            gits += usize::from(line.starts_with(b"git\0"));
            if tokens.iter().any(|token| holds(&line, token) || holds(&variables, token)) {
                shown.push(String::from_utf8_lossy(&line).into_owned());
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    (shown, gits)
}

fn holds(bytes: &[u8], token: &Secret) -> bool {
    let token = token.expose().as_bytes();
    bytes.windows(token.len()).any(|window| window == token)
}

/// Returns the files below a directory that hold a text.
fn files_with(directory: &Path, text: &str) -> Result<Vec<PathBuf>> {
    // Told on standard input: no process shows what is looked for.
    let mut grep = Command::new("grep")
        .args([
            "-r",
            "--devices=skip",
            "--text",
            "--fixed-strings",
            "--files-with-matches",
            "--no-messages",
            "--file=-",
        ])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    grep.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    let output = grep.wait_with_output()?;
    Ok(String::from_utf8(output.stdout)?.lines().map(PathBuf::from).collect())
}

/// Writes all that a build can see of itself, and of others of its user, to a file and to the log.
const TELL_ALL: &str = "env >env.txt; set >set.txt; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline >proc.txt 2>/dev/null
env; cat .git/config; git config --list; git remote -v; cat .git/ondemand/* 2>/dev/null
git log -1 --format='%h %s' >version.txt\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_nowhere_but_in_the_file_of_the_running_services() -> Result<()> {
    let place = Place::with("", |mut options| {
        options.environment.insert("RUST_LOG".into(), "trace".into());
        options
    })
    .await?;
    let (anna, other) = (place.customer("anna"), place.customer("anna"));
    let stop = Arc::new(AtomicBool::new(false));
    let watching = {
        let (stop, tokens) = (stop.clone(), [anna.clone(), other.clone()]);
        std::thread::spawn(move || watch(&tokens, &stop))
    };
    let only_the_secret = |tokens: [(&Secret, usize); 2]| -> Result<()> {
        for (token, expected) in tokens {
            let found = files_with(&place.home.data(), token.expose())?;
            let secrets = found.iter().all(|path| path.ends_with("ondemand_token"));
            ensure!(secrets && found.len() == expected, "{found:?}, and {expected} expected");
        }
        Ok(())
    };
    place.shop.write("back", "build.sh", TELL_ALL)?;
    place.shop.push("back", "main", "Tell all").await?;

    // In the body, and as a bearer; each answer is looked at by who asks.
    place.created(&anna, json!({ "name": "demo" })).await?;
    only_the_secret([(&anna, 1), (&other, 0)])?;
    // What a token would be found in is among what is looked at.
    let seen = files_with(&place.home.data(), "repositoryformatversion")?;
    assert_eq!(seen.iter().filter(|path| path.ends_with(".git/config")).count(), 2, "{seen:?}");
    let seen = files_with(&place.home.data(), "ONDEMAND_COMMIT=")?;
    let names = ["env.txt", "set.txt", "proc.txt"];
    assert!(names.iter().all(|name| seen.iter().any(|path| path.ends_with(name))), "{seen:?}");
    for path in ["/envs", "/envs/demo", "/envs/demo/logs", "/openapi.json"] {
        let answer = place.ask(Some(&anna), "GET", path, "").await?;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let logs = place.ask(Some(&anna), "GET", "/envs/demo/logs?service=back", "").await?.text;
    assert!(logs.contains("ONDEMAND_COMMIT=") && logs.contains("ONDEMAND_TOKEN_FILE="), "it told all: {logs}");
    let plan = place.ask(Some(&anna), "POST", "/envs?plan=true", r#"{"name":"plan"}"#).await?;
    assert!(plan.status == 200 && plan.text.contains("ondemand_token"), "{plan:?}");

    // With another token of the same user: the first is forgotten.
    let done = place.ask(Some(&other), "POST", "/envs/demo/redeploy", "").await?;
    assert_eq!(done.status, 200, "{done:?}");
    only_the_secret([(&anna, 0), (&other, 1)])?;

    place.shop.write("back", "build.sh", &format!("{TELL_ALL}exit 3\n"))?;
    place.shop.push("back", "broken", "Break it").await?;
    let body = json!({ "name": "broken", "github-back": "shop/back", "github-back-branch": "broken" });
    let refused = place.create(&anna, body.clone()).await?.refused(422, "service_failed")?;
    assert!(refused["log"].to_string().contains("ONDEMAND_"), "{refused}");
    let request = place.http.post(format!("{}/envs", place.server.url())).bearer_auth(anna.expose());
    let events = request.header("accept", "text/event-stream").body(body.to_string()).send().await?.text().await?;
    assert!(events.contains("event: error") && !events.contains(anna.expose()), "{events}");
    let failed = place.ask(Some(&anna), "GET", "/envs/broken", "").await?.json()?;
    assert_eq!(failed["status"], "failed", "{failed}");
    place.shop.push("back", "main", "Break it for all").await?;
    place.ask(Some(&anna), "POST", "/envs/demo/redeploy", "").await?.refused(422, "service_failed")?;
    only_the_secret([(&anna, 0), (&other, 1)])?;

    // Bad requests that hold it are not repeated either.
    for body in [
        json!({ "github-token": anna.expose(), "name": 1 }),
        json!({ "github-token": [anna.expose()] }),
        json!({ "github_token": anna.expose() }),
        json!({ "github-token": anna.expose(), "keep-days": anna.expose() }),
        json!({ "github-token": anna.expose(), "github-back": format!("https://{}@github.com/shop/back", anna.expose()) }),
    ] {
        let answer = place.ask(Some(&anna), "POST", "/envs", &body).await?;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
    }
    place.deleted(&other, "demo").await?;
    only_the_secret([(&anna, 0), (&other, 0)])?;
    stop.store(true, Ordering::Relaxed);
    let (shown, gits) = watching.join().expect("it does not panic");
    assert_eq!(shown, [""; 0], "processes that show a token");
    assert!(gits > 0, "no Git was seen, so this shows nothing");
    let log = place.server.log();
    assert!(log.contains("TRACE") && log.contains("DEBUG"), "the log tells too little to show anything");
    for secret in [anna.expose(), other.expose(), ADMIN] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None);
    }
    Ok(())
}
