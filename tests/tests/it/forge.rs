//! Branches looked up on a real Git server, and tokens at a stand-in for GitHub: what is found, what is not, and that the token
//! is told to nobody else.
#![expect(clippy::expect_used, reason = "what fails here fails the test")]

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ondemand_core::git::GitOptions;
use ondemand_core::github::GitHubOptions;
use ondemand_core::{Branch, Code, Error, Git, GitHub, Repository, Secret};
use ondemand_tests::Forge;
use ondemand_tests::forge::{Fault, Part};

/// Everything that any library logs, at the finest level.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic holds it").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Begins to keep the log, of the whole process.
fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        // Whatever logs through the `log` crate comes here too.
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).init();
        log
    })
}

/// Fails if an error, any of its causes, or anything that was logged shows the token, as it is or as Basic writes it.
fn shows_nothing(error: Option<&Error>, token: &Secret) {
    use base64::Engine;
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{}", token.expose()));
    let mut said = vec![String::from_utf8_lossy(&log().0.lock().expect("no panic holds it")).into_owned()];
    assert!(said[0].contains("connect"), "nothing was logged, so this shows nothing");
    if let Some(error) = error {
        said.push(format!("{error}\n{error:?}\n{error:#?}\n{:?}\n", error.hint()));
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            said.push(format!("{error}\n{error:?}\n"));
            cause = error.source();
        }
    }
    let said = said.concat();
    for form in [token.expose(), &basic] {
        if let Some(line) = said.lines().find(|line| line.contains(form)) {
            panic!("the token is shown: {}", line.replace(form, "****"));
        }
    }
}

fn git(base: String) -> Git {
    log();
    let options = GitOptions { base, answer: Duration::from_secs(60), ..GitOptions::default() };
    Git::new(&options).expect("a base")
}

fn branch(name: &str) -> Branch {
    Branch::new(name).expect("a branch")
}

#[tokio::test]
async fn a_branch_is_resolved_with_a_token() -> Result<()> {
    let forge = Forge::start().await?;
    let trunk = forge.push("shop/back-web", "trunk", &[("README", "hello")]).await?;
    let feature = forge.push("shop/back-web", "feature/check-out", &[("README", "hello there")]).await?;
    forge.push("shop/back-web", "feature/check", &[("README", "hello you")]).await?;
    let token = forge.token("alice", &["shop/back-web"]);
    let git = git(forge.url());
    let repository = "shop/back-web".parse::<Repository>()?;
    let head = git.resolve(&repository, None, Some(&token)).await?;
    ensure!((head.branch.as_str(), head.commit.as_str()) == ("trunk", &*trunk), "{head:?}");
    ensure!(head.url == format!("{}/shop/back-web.git", forge.url()), "{head:?}");
    let found = git.resolve(&repository, Some(&branch("feature/check-out")), Some(&token)).await?;
    ensure!((found.branch.as_str(), found.commit.as_str()) == ("feature/check-out", &*feature), "{found:?}");
    shows_nothing(None, &token);
    // A branch that moved is found where it is now.
    let moved = forge.amend("shop/back-web", "trunk").await?;
    ensure!(moved != trunk && git.resolve(&repository, None, Some(&token)).await?.commit.as_str() == moved);
    // Old servers tell everything at once.
    forge.grow_old();
    ensure!(git.resolve(&repository, None, Some(&token)).await?.commit.as_str() == moved);
    let found = git.resolve(&repository, Some(&branch("feature/check-out")), Some(&token)).await?;
    ensure!(found.commit.as_str() == feature, "{found:?}");
    // What everyone may read needs no token.
    forge.publish("shop/back-web");
    ensure!(git.resolve(&repository, None, None).await?.commit.as_str() == moved);
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_or_not_readable_is_named() -> Result<()> {
    let forge = Forge::start().await?;
    forge.push("shop/back-web", "main", &[("README", "hello")]).await?;
    forge.push("shop/secret", "main", &[("README", "hello")]).await?;
    let token = forge.token("alice", &["shop/back-web", "shop/gone"]);
    let git = git(forge.url());
    for (name, wanted, said) in [
        ("shop/gone", None, "repository \"shop/gone\" does not exist"),
        ("shop/secret", None, "repository \"shop/secret\" does not exist"),
        ("shop/back-web", Some("feature"), "branch \"shop/back-web@feature\" does not exist"),
        // Neither the beginning of a name nor the name of another kind of reference is one.
        ("shop/back-web", Some("mai"), "branch \"shop/back-web@mai\" does not exist"),
        ("shop/back-web", Some("refs/heads/main"), "branch \"shop/back-web@refs/heads/main\" does not exist"),
    ] {
        let wanted = wanted.map(branch);
        let error = git.resolve(&name.parse()?, wanted.as_ref(), Some(&token)).await.expect_err(said);
        ensure!(error.code() == Code::NotFound && error.to_string() == said, "{error:?}");
        shows_nothing(Some(&error), &token);
    }
    let error = git.resolve(&"shop/back-web".parse()?, None, None).await.expect_err("no token");
    ensure!(error.to_string() == "repository \"shop/back-web\" does not exist", "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_not_taken_says_so() -> Result<()> {
    let forge = Forge::start().await?;
    forge.push("shop/back-web", "main", &[("README", "hello")]).await?;
    let token = forge.token("alice", &["shop/back-web"]);
    let git = git(forge.url());
    let repository = "shop/back-web".parse::<Repository>()?;
    git.resolve(&repository, None, Some(&token)).await?;
    forge.revoke(&token);
    let before = forge.asked().len();
    let error = git.resolve(&repository, None, Some(&token)).await.expect_err("it is revoked");
    ensure!(error.code() == Code::Unauthenticated && !error.is_transient(), "{error:?}");
    ensure!(error.hint().is_some_and(|hint| hint.contains("https://github.com/settings/tokens")), "{error:?}");
    ensure!(forge.asked().len() == before + 1, "a bad token is sent once");
    shows_nothing(Some(&error), &token);
    Ok(())
}

#[tokio::test]
async fn a_server_that_fails_is_told_from_one_that_refuses() -> Result<()> {
    let forge = Forge::start().await?;
    forge.push("shop/back-web", "main", &[("README", "hello")]).await?;
    let token = forge.token("alice", &["shop/back-web"]);
    let git = git(forge.url());
    let repository = "shop/back-web".parse::<Repository>()?;
    let said = token.expose().to_owned();
    let rate_limit = Fault::RateLimit { seconds: 60, secondary: true };
    for (fault, code, transient) in [
        (Fault::Status(500), Code::Backend, true),
        (Fault::Status(503), Code::Backend, true),
        (Fault::Status(429), Code::Backend, true),
        (Fault::Status(403), Code::Forbidden, false),
        (Fault::Status(302), Code::Backend, false),
        (rate_limit, Code::Backend, true),
        (Fault::Cut, Code::Backend, true),
        (Fault::Garbage(format!("<html>{said}</html>")), Code::Backend, false),
    ] {
        forge.fail(Part::Git, &fault, 1);
        let error = git.resolve(&repository, None, Some(&token)).await.expect_err("it fails");
        ensure!((error.code(), error.is_transient()) == (code, transient), "{fault:?}: {error:?}");
        shows_nothing(Some(&error), &token);
        git.resolve(&repository, None, Some(&token)).await.context("it failed only once")?;
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_hangs_or_is_not_there_holds_nobody() -> Result<()> {
    log();
    let forge = Forge::start().await?;
    forge.push("shop/back-web", "main", &[("README", "hello")]).await?;
    let token = forge.token("alice", &["shop/back-web"]);
    forge.fail_always(Part::Git, Fault::Hang);
    let git = Git::new(&GitOptions { base: forge.url(), answer: Duration::from_millis(200), ..GitOptions::default() })?;
    let repository = "shop/back-web".parse::<Repository>()?;
    let began = Instant::now();
    let error = git.resolve(&repository, None, Some(&token)).await.expect_err("it hangs");
    ensure!(error.code() == Code::Backend && error.is_transient(), "{error:?}");
    ensure!(began.elapsed() < Duration::from_secs(30), "it took {:?}", began.elapsed());
    shows_nothing(Some(&error), &token);
    // A port that was free a moment ago: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let git = self::git(format!("http://{free}"));
    let error = git.resolve(&repository, None, Some(&token)).await.expect_err("nobody listens");
    ensure!(error.code() == Code::Backend && error.is_transient(), "{error:?}");
    ensure!(error.hint().is_some_and(|hint| hint.contains("reached")), "{error:?}");
    shows_nothing(Some(&error), &token);
    Ok(())
}

fn github(forge: &Forge, change: impl FnOnce(&mut GitHubOptions)) -> GitHub {
    log();
    let mut options = GitHubOptions::new(Secret::new("a key of this test"));
    options.api = forge.api();
    change(&mut options);
    GitHub::new(options).expect("options")
}

#[tokio::test]
async fn a_tokens_owner_is_asked_for_once() -> Result<()> {
    let forge = Forge::start().await?;
    let token = forge.token("alice", &[]);
    let github = github(&forge, |_| {});
    let answers = futures_util::future::join_all((0..20).map(|_| github.whoami(&token))).await;
    for answer in answers {
        let identity = answer?;
        ensure!((identity.login.as_str(), identity.id) == ("alice", forge.account_id("alice")), "{identity:?}");
    }
    let asked = forge.asked();
    ensure!(asked.len() == 1 && asked[0].path == "/api/v3/user", "{asked:?}");
    let header = |name: &str| asked[0].headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ensure!(header("user-agent").starts_with("ondemand/"), "{}", header("user-agent"));
    ensure!(header("x-github-api-version") == "2022-11-28");
    ensure!(header("authorization") == format!("Bearer {}", token.expose()));
    ensure!(!format!("{github:?}").contains(token.expose()), "the token is kept in memory");
    // Another token is another question.
    let other = forge.token("bob", &[]);
    ensure!(github.whoami(&other).await?.login == "bob" && forge.asked().len() == 2);
    shows_nothing(None, &token);
    Ok(())
}

#[tokio::test]
async fn whoever_waits_for_a_question_that_is_given_up_asks_it() -> Result<()> {
    let forge = Forge::start().await?;
    let token = forge.token("alice", &[]);
    let github = Arc::new(github(&forge, |_| {}));
    forge.fail(Part::Api, &Fault::Hang, 1);
    let asking = |github: &Arc<GitHub>| {
        let (github, token) = (github.clone(), token.clone());
        tokio::spawn(async move { github.whoami(&token).await })
    };
    let first = asking(&github);
    ondemand_tests::eventually(async || if forge.asked().len() == 1 { Ok(()) } else { Err("not asked") }).await?;
    let second = asking(&github);
    first.abort();
    ensure!(second.await??.login == "alice");
    Ok(())
}

#[tokio::test]
async fn a_bad_token_is_unauthenticated_and_not_asked_about_again_and_again() -> Result<()> {
    let forge = Forge::start().await?;
    let token = forge.token("alice", &[]);
    forge.revoke(&token);
    let github = github(&forge, |_| {});
    for _ in 0..3 {
        let error = github.whoami(&token).await.expect_err("it is revoked");
        ensure!(error.code() == Code::Unauthenticated, "{error:?}");
        ensure!(error.to_string() == "the GitHub token is not valid (any more)", "{error}");
        ensure!(error.hint().is_some_and(|hint| hint.contains("https://github.com/settings/tokens")));
        shows_nothing(Some(&error), &token);
    }
    ensure!(forge.asked().len() == 1);
    // What cannot be a token is not even sent.
    for text in ["", "two words", "line\nbreak", "é", &"x".repeat(5000)] {
        let error = github.whoami(&Secret::new(text)).await.expect_err("it is none");
        ensure!(error.code() == Code::Unauthenticated, "{error:?}");
    }
    ensure!(forge.asked().len() == 1);
    Ok(())
}

/// An expired token is answered as one that was taken back: 401, bad credentials.
#[tokio::test]
async fn a_token_that_expires_is_taken_until_what_is_remembered_is_old() -> Result<()> {
    let forge = Forge::start().await?;
    let token = forge.token("alice", &[]);
    let keep = Duration::from_secs(5 * 60);
    let github = github(&forge, |options| options.keep = keep);
    github.whoami(&token).await?;
    forge.revoke(&token);
    let passes = async |time: Duration| {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    };
    passes(keep / 2).await;
    ensure!(github.whoami(&token).await?.login == "alice" && forge.asked().len() == 1);
    passes(keep / 2).await;
    let error = github.whoami(&token).await.expect_err("it has expired");
    ensure!(error.code() == Code::Unauthenticated && forge.asked().len() == 2, "{error:?}");
    ensure!(error.hint().is_some_and(|hint| hint.contains("https://github.com/settings/tokens")));
    shows_nothing(Some(&error), &token);
    Ok(())
}

#[tokio::test]
async fn members_of_any_of_the_organisations_come_in() -> Result<()> {
    let forge = Forge::start().await?;
    forge.member("alice", "Shop", "active");
    forge.member("bob", "shop", "pending");
    forge.member("carol", "elsewhere", "active");
    let github = github(&forge, |options| options.organisations = vec!["other".into(), "shop".into()]);
    ensure!(github.whoami(&forge.token("alice", &[])).await?.login == "alice");
    for login in ["bob", "carol", "dave"] {
        let token = forge.token(login, &[]);
        let error = github.whoami(&token).await.expect_err("no member");
        ensure!(error.code() == Code::Forbidden && error.to_string().contains("other or shop"), "{error:?}");
        ensure!(error.to_string().starts_with(login), "{error}");
        shows_nothing(Some(&error), &token);
    }
    let bad = GitHubOptions { organisations: vec!["../user".into()], ..GitHubOptions::new(Secret::new("k")) };
    ensure!(GitHub::new(bad).is_err_and(|e| e.code() == Code::InvalidInput));
    Ok(())
}

#[tokio::test]
async fn a_limit_is_transient_says_until_when_and_is_kept_to() -> Result<()> {
    let forge = Forge::start().await?;
    for secondary in [false, true] {
        let token = forge.token("alice", &[]);
        let github = github(&forge, |_| {});
        let before = forge.asked().len();
        forge.fail(Part::Api, &Fault::RateLimit { seconds: 600, secondary }, 1);
        for _ in 0..2 {
            let error = github.whoami(&token).await.expect_err("it is limited");
            ensure!(error.code() == Code::Backend && error.is_transient(), "{error:?}");
            let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            ensure!(why.contains("takes no more requests with this token until 20") && why.ends_with('Z'), "{why}");
            shows_nothing(Some(&error), &token);
        }
        ensure!(forge.asked().len() == before + 1, "it was asked while it takes no questions");
    }
    Ok(())
}

#[tokio::test]
async fn a_known_token_outlives_an_outage_of_github_and_an_unknown_one_waits() -> Result<()> {
    let forge = Forge::start().await?;
    let (known, unknown) = (forge.token("alice", &[]), forge.token("bob", &[]));
    let github = github(&forge, |options| {
        options.keep = Duration::ZERO;
        options.keep_refusal = Duration::ZERO;
        options.answer = Duration::from_secs(2);
    });
    github.whoami(&known).await?;
    let limit = Fault::RateLimit { seconds: 0, secondary: true };
    for fault in [Fault::Status(500), Fault::Status(502), Fault::Hang, Fault::Cut, limit] {
        forge.fail_always(Part::Api, fault.clone());
        let before = forge.asked().len();
        ensure!(github.whoami(&known).await.context(format!("{fault:?}"))?.login == "alice");
        ensure!(forge.asked().len() > before, "GitHub was not asked, so this shows nothing");
        let error = github.whoami(&unknown).await.expect_err("it is down");
        ensure!(error.code() == Code::Backend && error.is_transient(), "{fault:?}: {error:?}");
        shows_nothing(Some(&error), &unknown);
    }
    forge.mend();
    // Once GitHub says no, nothing that was known before counts.
    forge.revoke(&known);
    ensure!(github.whoami(&known).await.is_err_and(|e| e.code() == Code::Unauthenticated));
    forge.fail_always(Part::Api, Fault::Status(500));
    ensure!(github.whoami(&known).await.is_err_and(|e| e.code() == Code::Backend));
    ensure!(github.whoami(&unknown).await.is_err());
    forge.mend();
    ensure!(github.whoami(&unknown).await?.login == "bob");
    Ok(())
}

#[tokio::test]
async fn garbage_is_no_identity() -> Result<()> {
    let forge = Forge::start().await?;
    let token = forge.token("alice", &[]);
    let github = github(&forge, |_| {});
    let echo = format!("{{\"id\": \"{}\", \"login\": 1}}", token.expose());
    let long = format!("{{\"id\": 1, \"login\": \"x\", \"bio\": \"{}\"}}", "x".repeat(2 << 20));
    for text in [
        "",
        "null",
        "[]",
        "{}",
        "<html>",
        r#"{"id":0,"login":"x"}"#,
        r#"{"id":1,"login":""}"#,
        r#"{"id":1,"login":"a b"}"#,
    ]
    .into_iter()
    .chain([echo.as_str(), long.as_str()])
    {
        forge.fail(Part::Api, &Fault::Garbage(text.into()), 1);
        let error = github.whoami(&token).await.expect_err("it is no identity");
        ensure!(error.code() == Code::Backend && !error.is_transient(), "{error:?}");
        shows_nothing(Some(&error), &token);
    }
    for status in [302, 418, 404] {
        forge.fail(Part::Api, &Fault::Status(status), 1);
        let error = github.whoami(&token).await.expect_err("it is no answer");
        ensure!(error.code() == Code::Backend && !error.is_transient(), "{error:?}");
    }
    ensure!(github.whoami(&token).await?.login == "alice");
    Ok(())
}
