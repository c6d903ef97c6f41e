//! Environments as processes of this host: branches of real Git repositories become URLs, on databases of their own.
//!
//! Slow: a test has a server with an imported dataset, and services that clone, build and start.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ondemand_tests::shop::{DATASET, visit};
use ondemand_tests::{Home, Inventory, Server, ServerOptions, Shop, Steps, eventually, query};
use reqwest::Method;
use serde_json::{Value, json};

/// A server that makes environments of the shop, and what was there before there was any.
struct Place {
    home: Home,
    shop: Shop,
    server: Server,
    before: Inventory,
}

impl Place {
    async fn new() -> Result<Self> {
        let home = Home::new()?;
        let shop = Shop::new(&home).await?;
        let server = shop.serve(&home.data()).await?;
        let before = Inventory::take(&home, &home.data())?;
        Ok(Self { home, shop, server, before })
    }

    async fn create(&self, body: Value) -> Result<Value> {
        self.server.succeed("POST", "/envs", body.to_string()).await
    }

    async fn details(&self, name: &str) -> Result<Value> {
        self.server.succeed("GET", &format!("/envs/{name}"), "").await
    }

    async fn delete(&self, name: &str) -> Result<Value> {
        self.server.succeed("DELETE", &format!("/envs/{name}"), "").await
    }

    /// Checks that no environment, and nothing of any, is left.
    async fn nothing_is_left(&self) -> Result<()> {
        assert_eq!(self.server.succeed("GET", "/envs", "").await?, json!([]));
        assert_eq!(self.server.succeed("GET", "/servers", "").await?, json!([]));
        assert_eq!(self.server.succeed("GET", "/routes", "").await?, json!([]));
        self.before.returns(&self.home, &self.home.data()).await
    }
}

#[tokio::test]
async fn a_branch_becomes_a_url() -> Result<()> {
    let place = Place::new().await?;
    let commit = place.shop.push("back", "main", "Sell more").await?;
    let done = place.create(json!({ "name": "demo", "keep-days": 1 })).await?;
    assert_eq!(done, json!({ "status": "done", "urls": ["demo.localhost", "demoapi.localhost"] }));

    let (status, page) = visit(&place.server, "demo.localhost", "/").await?;
    assert_eq!(status, 200);
    let api = format!("http://demoapi.localhost:{}", place.server.proxy()?.port());
    assert!(page.contains(&format!("\"{api}\"")) && page.contains("Sell what there is"), "{page}");
    let (status, version) = visit(&place.server, "demoapi.localhost", "/version").await?;
    assert_eq!((status, version), (200, format!("{} Sell more\n", &commit[..7])));
    let (status, products) = visit(&place.server, "demoapi.localhost", "/products").await?;
    let products: Value = serde_json::from_str(&products)?;
    assert_eq!((status, products.as_array().map(Vec::len)), (200, Some(5)));

    assert_eq!(place.server.succeed("GET", "/envs", "").await?, json!(["demo"]));
    let details = place.details("demo").await?;
    assert_eq!(details["status"], "ready", "{details}");
    assert_eq!(details["back"], json!({ "repository": "shop/back", "branch": "main", "commit": commit }));
    assert_eq!(details["links"][1], api);
    let database = details["database"].as_str().context("a database")?;
    let server = place.server.succeed("GET", &format!("/servers/{database}"), "").await?;
    assert_eq!((&server["Name"], &server["Dataset"]), (&json!("/env-demo"), &json!("shop")));

    let gone = place.delete("demo").await?;
    assert_eq!(gone["status"], "done");
    assert_eq!(visit(&place.server, "demo.localhost", "/").await?.0, 404);
    place.server.refused(("GET", "/envs/demo"), "", (404, "not_found")).await?;
    place.server.refused(("DELETE", "/envs/demo"), "", (404, "not_found")).await?;
    place.nothing_is_left().await
}

#[tokio::test]
async fn each_environment_has_its_own_data_and_branch() -> Result<()> {
    let place = Place::new().await?;
    // Built beside one that runs, it looks for what is not its own.
    let look = format!(
        "mkdir public; exec >public/index.html; git log -1 --format=%s; echo other; ls {0}/data/environments/processes-files; \
         cat {0}/data/environments/processes/* || echo no records; ls /proc | grep -c '^[0-9]'\n",
        place.home.path().display()
    );
    place.shop.write("front", "build.sh", &look)?;
    place.shop.push("front", "feature/other", "Look better").await?;
    let one = place.create(json!({ "name": "one" })).await?;
    let two = json!({ "name": "two", "github-front": "shop/front", "github-front-branch": "feature/other" });
    let two = place.create(two).await?;
    assert_eq!((&one["urls"][0], &two["urls"][0]), (&json!("one.localhost"), &json!("two.localhost")));
    let seen = visit(&place.server, "two.localhost", "/").await?.1;
    let seen: Vec<_> = seen.lines().collect();
    assert_eq!(seen[..4], ["Look better", "other", "env-two", "no records"]);
    // Its first process, the runner and what that runs.
    assert!(seen[4].parse::<u32>()? < 10, "it sees processes of others: {seen:?}");
    assert!(!visit(&place.server, "one.localhost", "/").await?.1.contains("other"));

    let database = place.details("one").await?["database"].as_str().context("a database")?.to_owned();
    let url = place.server.succeed("GET", &format!("/servers/{database}"), "").await?;
    query(url["Url"].as_str().context("a URL")?, "DELETE FROM shop.products").await?;
    assert_eq!(visit(&place.server, "oneapi.localhost", "/products").await?.1.trim(), "[]");
    assert!(visit(&place.server, "twoapi.localhost", "/products").await?.1.contains("product 5"));
    tokio::try_join!(place.delete("one"), place.delete("two"))?;
    place.nothing_is_left().await
}

#[tokio::test]
async fn a_redeployment_keeps_urls_and_data() -> Result<()> {
    let place = Place::new().await?;
    place.create(json!({ "name": "demo" })).await?;
    let before = place.details("demo").await?;
    let database = before["database"].as_str().context("a database")?.to_owned();
    let url = place.server.succeed("GET", &format!("/servers/{database}"), "").await?;
    query(url["Url"].as_str().context("a URL")?, "DELETE FROM shop.products WHERE id > 1").await?;

    place.shop.write("back", "build.sh", "echo newer >version.txt\n")?;
    let commit = place.shop.push("back", "main", "Change").await?;
    let asking = async {
        // The old one answers until the new one does.
        let mut versions = Vec::new();
        loop {
            let (status, version) = visit(&place.server, "demoapi.localhost", "/version").await?;
            ensure!(status == 200, "status {status} while it is redeployed");
            if versions.last() != Some(&version) {
                versions.push(version.clone());
            }
            if version == "newer\n" {
                return Ok(versions);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (versions, done) = tokio::try_join!(asking, place.server.succeed("POST", "/envs/demo/redeploy", ""))?;
    assert_eq!(versions.len(), 2, "{versions:?}");
    assert_eq!(done, json!({ "status": "done", "urls": ["demo.localhost", "demoapi.localhost"] }));
    let after = place.details("demo").await?;
    assert_eq!(after["back"]["commit"], commit);
    assert_eq!((&after["database"], &after["expires"]), (&before["database"], &before["expires"]));
    assert_eq!(after["status"], "ready");
    let products = visit(&place.server, "demoapi.localhost", "/products").await?.1;
    assert!(products.contains("product 1") && !products.contains("product 2"), "{products}");

    // What does not build changes nothing.
    place.shop.write("back", "build.sh", "echo this is wrong; exit 3\n")?;
    place.shop.push("back", "main", "Break it").await?;
    let refused = place.server.refused(("POST", "/envs/demo/redeploy"), "", (422, "service_failed")).await?;
    assert!(refused["log"].to_string().contains("this is wrong"), "{refused}");
    assert_eq!(visit(&place.server, "demoapi.localhost", "/version").await?, (200, "newer\n".to_owned()));
    assert_eq!(place.details("demo").await?["back"]["commit"], commit);
    place.delete("demo").await?;
    place.nothing_is_left().await
}

#[tokio::test]
async fn a_build_that_fails_leaves_nothing_and_says_why() -> Result<()> {
    let place = Place::new().await?;
    place.shop.write("front", "build.sh", "echo the cause of it all; exit 7\n")?;
    place.shop.push("front", "broken", "Break it").await?;
    let body = json!({ "name": "demo", "github-front-branch": "broken" }).to_string();
    let refused = place.server.refused(("POST", "/envs"), body, (422, "service_failed")).await?;
    let detail = refused["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("front") && detail.contains('7'), "{refused}");
    assert!(refused["log"].to_string().contains("the cause of it all"), "{refused}");
    let details = place.details("demo").await?;
    assert_eq!(details["status"], "failed");
    assert!(details["failure"].to_string().contains("front"), "{details}");
    place.nothing_is_left().await?;

    // What ends after it was built, and what never answers, fail as well.
    for (contents, code, part) in
        [("exit 4;", (422, "service_failed"), "4"), ("sleep 1 while 1;", (503, "not_ready"), "front")]
    {
        place.shop.write("front", "build.sh", "true\n")?;
        place.shop.write("front", "server.pl", contents)?;
        place.shop.push("front", "broken", "Break it otherwise").await?;
        place.shop_waits("3s")?;
        let body = json!({ "name": "demo", "github-front-branch": "broken" }).to_string();
        let refused = place.server.refused(("POST", "/envs"), body, code).await?;
        assert!(refused["detail"].to_string().contains(part), "{refused}");
        place.nothing_is_left().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_others_wait_for_too_long_is_named_with_its_log() -> Result<()> {
    let place = Place::new().await?;
    place.shop_migrates("echo stuck at row 5; exec sleep 600")?;
    place.shop_waits("3s")?;
    let refused = place.server.refused(("POST", "/envs"), r#"{"name":"demo"}"#, (503, "not_ready")).await?;
    let detail = refused["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("service migrate does not end, and others wait for it"), "{refused}");
    assert_eq!(refused["log"], json!(["stuck at row 5"]));
    place.nothing_is_left().await
}

impl Place {
    /// Puts a service in front of the back end, which does its work first; and another that was started before both.
    fn shop_migrates(&self, script: &str) -> Result<()> {
        let services = format!(
            "services:
  cache:
    image: any
    entrypoint: [/bin/sh, -c, echo warm; exec sleep 600]
  migrate:
    image: any
    entrypoint: [/bin/sh, -c, {script:?}]
  back:
    depends_on: {{ migrate: {{ condition: service_completed_successfully }} }}
"
        );
        let file = self.shop.templates().join("demo.yml");
        let text = std::fs::read_to_string(&file)?;
        ensure!(text.contains("services:\n  back:\n"), "{text}");
        Ok(std::fs::write(file, text.replace("services:\n  back:\n", &services))?)
    }

    /// Changes how long an environment may take.
    fn shop_waits(&self, time: &str) -> Result<()> {
        let file = self.shop.templates().join("demo.yml");
        let text = std::fs::read_to_string(&file)?;
        Ok(std::fs::write(file, text.replace("ready-timeout: 2m", &format!("ready-timeout: {time}")))?)
    }
}

#[tokio::test]
async fn what_cannot_be_resolved_is_named_before_anything_starts() -> Result<()> {
    let place = Place::new().await?;
    for (body, code, part) in [
        (json!({ "github-back": "shop/nothing" }), (404, "not_found"), "shop/nothing"),
        (json!({ "github-back-branch": "no/such" }), (404, "not_found"), "no/such"),
        (json!({ "github-back": "../../etc" }), (400, "invalid_name"), "etc"),
        (json!({ "github-back-branch": "a..b" }), (400, "invalid_name"), "a..b"),
        (json!({ "name": "Demo" }), (400, "invalid_name"), "Demo"),
        (json!({ "name": "a/../b" }), (400, "invalid_name"), "a/../b"),
        (json!({ "name": "x".repeat(41) }), (400, "invalid_name"), "40"),
        (json!({ "name": "www" }), (400, "invalid_name"), "reserved"),
        (json!({ "keep-days": 0 }), (400, "invalid_input"), "keep-days"),
        (json!({ "keep-days": "31" }), (400, "invalid_input"), "30"),
        (json!({ "template": "other" }), (404, "not_found"), "other"),
        (json!({ "with-fixtures": true }), (400, "invalid_input"), "fixtures"),
        (json!({ "with-fixture": true }), (400, "invalid_input"), "with-fixture"),
    ] {
        let refused = place.server.refused(("POST", "/envs"), body.to_string(), code).await;
        let refused = refused.with_context(|| body.to_string())?;
        assert!(refused["detail"].to_string().contains(part), "{body}: {refused}");
    }
    place.nothing_is_left().await
}

#[tokio::test]
async fn no_two_environments_have_a_host_name_in_common() -> Result<()> {
    let place = Place::new().await?;
    place.create(json!({ "name": "foo" })).await?;
    for name in ["foo", "fooapi"] {
        let body = json!({ "name": name }).to_string();
        let (status, refused) = place.server.send("POST", "/envs", body).await?;
        assert_eq!(status, 409, "{refused}");
    }
    // A route that somebody has set by hand is not taken over.
    let route = json!({ "upstream": "127.0.0.1:1" }).to_string();
    place.server.succeed("PUT", "/routes/barapi.localhost", route).await?;
    let body = json!({ "name": "bar" }).to_string();
    place.server.refused(("POST", "/envs"), body, (409, "already_exists")).await?;
    place.server.request(Method::DELETE, "/routes/barapi.localhost").send().await?.error_for_status()?;

    // Deleted, the name is free at once.
    place.delete("foo").await?;
    place.create(json!({ "name": "fooapi" })).await?;
    place.delete("fooapi").await?;
    place.nothing_is_left().await
}

#[tokio::test]
async fn of_two_who_want_one_name_one_gets_it() -> Result<()> {
    let place = Place::new().await?;
    let body = json!({ "name": "demo" }).to_string();
    let both =
        tokio::try_join!(place.server.send("POST", "/envs", body.clone()), place.server.send("POST", "/envs", body))?;
    let mut statuses = [both.0.0, both.1.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "{both:?}");
    assert_eq!(visit(&place.server, "demo.localhost", "/").await?.0, 200);
    place.delete("demo").await?;
    place.nothing_is_left().await
}

#[tokio::test]
async fn a_name_is_made_where_none_is_given() -> Result<()> {
    let place = Place::new().await?;
    let done = place.create(json!({})).await?;
    let name = done["name"].as_str().context("a name")?;
    assert_eq!(done["urls"][0], format!("{name}.localhost"));
    assert_eq!(place.details(name).await?["status"], "ready");
    place.delete(name).await?;
    place.nothing_is_left().await
}

#[tokio::test]
async fn progress_is_told_step_by_step() -> Result<()> {
    let place = Place::new().await?;
    // What the back end writes is told while the front end is up already, which wrote last.
    let go = place.shop.signal("back");
    let build = format!("echo slow >version.txt\nuntil [ -e {} ]; do sleep 0.05; done\n", go.display());
    place.shop.write("back", "build.sh", &build)?;
    place.shop.push("back", "slow", "Take one's time").await?;
    let request = place.server.request(Method::POST, "/envs");
    let mut steps = Steps::of(request.body(r#"{"name":"demo","github-back-branch":"slow"}"#)).await?;
    eventually(async || {
        let log = place.server.request(Method::GET, "/envs/demo/logs").send().await?.text().await?;
        ensure!(log.contains("front: listening on port"), "{log}");
        Ok(())
    })
    .await?;
    steps.until_told(r#""service":"back","detail":"[ondemand] building"#).await?;
    std::fs::write(go, "")?;
    let text = steps.rest().await?;
    let phases: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok()?["phase"].as_str().map(ToOwned::to_owned))
        .collect();
    let mut told = phases.clone();
    told.dedup();
    told.retain(|phase| phase != "waiting");
    assert_eq!(told, ["resolving", "cloning-data", "deploying", "building", "ready"], "{text}");
    let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
    assert_eq!(last, "event: done\ndata: {\"status\":\"done\",\"urls\":[\"demo.localhost\",\"demoapi.localhost\"]}");
    place.delete("demo").await?;
    place.nothing_is_left().await
}

#[tokio::test]
async fn progress_tells_what_a_service_writes_that_others_wait_for() -> Result<()> {
    let place = Place::new().await?;
    let go = place.shop.signal("back");
    place.shop_migrates(&format!("echo migration 7 of 9; until [ -e {} ]; do sleep 0.05; done", go.display()))?;
    let mut steps = Steps::of(place.server.request(Method::POST, "/envs").body(r#"{"name":"demo"}"#)).await?;
    steps.until_told(r#""phase":"building","service":"migrate","detail":"migration 7 of 9""#).await?;
    std::fs::write(go, "")?;
    let text = steps.rest().await?;
    assert!(text.contains("event: done"), "{text}");
    // It is done, and others are waited for.
    let after = text.split_once("migration 7 of 9").context("its line")?.1;
    assert!(!after.contains(r#""service":"migrate""#), "{text}");
    place.delete("demo").await?;
    place.nothing_is_left().await
}

#[tokio::test]
async fn who_does_not_wait_is_told_where_to_look() -> Result<()> {
    let place = Place::new().await?;
    let request = place.server.request(Method::POST, "/envs").header("prefer", "respond-async");
    let answer = request.body(r#"{"name":"demo"}"#).send().await?;
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.headers()["location"], "/envs/demo");
    let status = async || Ok::<_, anyhow::Error>(place.details("demo").await?["status"].clone());
    assert_eq!(status().await?, "creating");
    eventually(async || {
        let now = status().await?;
        ensure!(now == "ready", "{now}");
        Ok(())
    })
    .await?;
    assert_eq!(visit(&place.server, "demo.localhost", "/").await?.0, 200);
    place.delete("demo").await?;
    place.nothing_is_left().await
}

#[tokio::test]
async fn who_goes_away_leaves_nothing() -> Result<()> {
    let place = Place::new().await?;
    place.shop.write("back", "build.sh", "echo building for a while; sleep 600\n")?;
    place.shop.push("back", "slow", "Take one's time").await?;
    let body = r#"{"name":"demo","github-back-branch":"slow"}"#;
    let request = place.server.request(Method::POST, "/envs").header("accept", "text/event-stream");
    let events = request.body(body).send().await?;
    eventually(async || {
        let request = place.server.request(Method::GET, "/envs/demo/logs");
        let log = request.send().await?.text().await?;
        ensure!(log.contains("building for a while"), "{log}");
        Ok(())
    })
    .await?;
    drop(events);
    place.before.returns(&place.home, &place.home.data()).await?;
    place.nothing_is_left().await?;

    // Deleted while it is made, it is given up; and its name is free.
    let request = place.server.request(Method::POST, "/envs").header("prefer", "respond-async");
    assert_eq!(request.body(body).send().await?.status(), 202);
    place.delete("demo").await?;
    place.nothing_is_left().await?;
    // It has not failed: it was not wanted.
    place.server.refused(("GET", "/envs/demo"), "", (404, "not_found")).await?;
    place.create(json!({ "name": "demo" })).await?;
    place.delete("demo").await?;
    place.nothing_is_left().await
}

#[tokio::test]
async fn environments_outlive_the_server_and_what_ends_is_started_again() -> Result<()> {
    let place = Place::new().await?;
    place.create(json!({ "name": "demo" })).await?;
    let Place { home, shop, server, before } = place;
    server.kill().await?;
    let server = Server::start(&home.data(), &shop.options(ServerOptions::default())).await?;
    let place = Place { home, shop, server, before };
    assert_eq!(visit(&place.server, "demoapi.localhost", "/health").await?.0, 200);
    assert_eq!(place.details("demo").await?["status"], "ready");

    // A service that ends is started again, and its name leads to it.
    let (pid, _) = place
        .home
        .processes()?
        .into_iter()
        .find(|(_, command)| command == "perl server.pl")
        .context("a service that runs")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    eventually(async || {
        let statuses = [
            visit(&place.server, "demoapi.localhost", "/health").await?.0,
            visit(&place.server, "demo.localhost", "/").await?.0,
        ];
        let details = place.details("demo").await?;
        let there = place.home.processes()?.iter().any(|(other, _)| *other == pid);
        ensure!(statuses == [200, 200] && !there && details["status"] == "ready", "{statuses:?} {details}");
        Ok(())
    })
    .await?;
    place.delete("demo").await?;
    place.nothing_is_left().await
}

#[tokio::test]
async fn a_server_that_is_killed_while_it_makes_one_leaves_nothing() -> Result<()> {
    let Place { mut home, mut shop, mut server, mut before } = Place::new().await?;
    for phase in ["resolving", "cloning-data", "deploying", "building", "waiting", "ready"] {
        let request = server.request(Method::POST, "/envs").body(r#"{"name":"demo"}"#);
        let mut steps = Steps::of(request).await?;
        steps.until(phase).await?;
        server.kill().await?;
        server = Server::start(&home.data(), &shop.options(ServerOptions::default())).await?;
        // Where it was announced in time, it is there as a whole.
        if server.succeed("GET", "/envs", "").await? == json!(["demo"]) {
            assert_eq!(visit(&server, "demoapi.localhost", "/health").await?.0, 200);
            server.succeed("DELETE", "/envs/demo", "").await?;
        } else {
            assert_ne!(phase, "ready", "it was announced");
        }
        let place = Place { home, shop, server, before };
        place.nothing_is_left().await.with_context(|| format!("killed while {phase}"))?;
        Place { home, shop, server, before } = place;
    }
    Ok(())
}

#[tokio::test]
async fn an_environment_is_extended_with_its_database() -> Result<()> {
    let place = Place::new().await?;
    place.create(json!({ "name": "demo", "keep-days": "1" })).await?;
    let changed = place.server.succeed("PATCH", "/envs/demo", r#"{"keep-days": 5}"#).await?;
    let expires = humantime::parse_rfc3339(changed["expires"].as_str().context("a time")?)?;
    let left = expires.duration_since(std::time::SystemTime::now())?;
    let days = |n: u64| Duration::from_secs(n * 86_400);
    assert!(left + Duration::from_secs(60) > days(5) && left <= days(5), "{left:?}");
    let database = changed["database"].as_str().context("a database")?;
    let server = place.server.succeed("GET", &format!("/servers/{database}"), "").await?;
    let reaped: u64 = server["Expires_at"].as_str().context("a time")?.parse()?;
    let expires = expires.duration_since(std::time::UNIX_EPOCH)?.as_secs();
    assert!(reaped.abs_diff(expires) <= 2, "{reaped} {expires}");
    // It goes with the environment, and not before.
    let at = format!("/servers/{database}");
    let problem = place.server.refused(("DELETE", &at), "", (409, "conflict")).await?;
    ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains("environment \"demo\"")), "{problem}");
    let publish = format!("{at}/publish");
    place.server.refused(("POST", &publish), r#"{"Dataset": "other"}"#, (409, "conflict")).await?;
    place.server.refused(("PATCH", "/envs/demo"), r#"{"keep-days": 0}"#, (400, "invalid_input")).await?;
    place.server.refused(("PATCH", "/envs/demo"), r#"{"keep-days": 31}"#, (400, "invalid_input")).await?;
    place.delete("demo").await?;
    place.nothing_is_left().await
}

#[tokio::test]
async fn a_plan_changes_nothing() -> Result<()> {
    let place = Place::new().await?;
    let plan = place.server.succeed("POST", "/envs?plan=true", r#"{"name":"demo"}"#).await?;
    assert_eq!((&plan["urls"][1], &plan["dataset"]), (&json!("demoapi.localhost"), &json!("shop")));
    let compose = plan["compose"].as_str().context("a compose file")?;
    let commit = plan["back"]["commit"].as_str().context("a commit")?;
    assert!(compose.contains(&format!("\"{commit}\"")), "{compose}");
    place.nothing_is_left().await
}

#[tokio::test]
async fn quotas_hold() -> Result<()> {
    let home = Home::new()?;
    let shop = Shop::new(&home).await?;
    let config = home.file("ondemand.toml", "[environments]\nmax-per-user = 1\n")?;
    let options = shop.options(ServerOptions::default()).with(["--config", &config.display().to_string()]);
    let server = Server::start(&home.data(), &options).await?;
    server.import("shop", DATASET).await?;
    let before = Inventory::take(&home, &home.data())?;
    let place = Place { home, shop, server, before };
    place.create(json!({ "name": "one" })).await?;
    let body = r#"{"name":"two"}"#;
    let refused = place.server.refused(("POST", "/envs"), body, (429, "quota_exceeded")).await?;
    assert!(refused["hint"].to_string().contains("max-per-user"), "{refused}");
    place.delete("one").await?;
    place.create(json!({ "name": "two" })).await?;
    place.delete("two").await?;
    place.nothing_is_left().await
}
