//! Environments on a real Docker Swarm of three nodes, with a real registry and a real Git server.
//!
//! Slow: a test has a server with an imported dataset, and containers that clone, build and start on a swarm.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use ondemand_tests::cluster::push;
use ondemand_tests::shop::visit;
use ondemand_tests::{Cluster, Steps, eventually, run};
use serde_json::{Value, json};

/// Returns the body that asks for an environment.
fn body(name: &str, token: &ondemand_core::Secret, more: Value) -> String {
    let mut body = json!({ "name": name, "github-token": token.expose() });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body.to_string()
}

#[tokio::test]
async fn the_transcript_that_users_know_works() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("sinewyk");
    let url = cluster.server.url().to_owned();
    let env_on_demand = |words: &[&str]| {
        let program = ondemand_tests::server::binary().with_file_name("env-on-demand");
        let mut command = Command::new(program);
        command.args(words).env("ENV_ON_DEMAND_URL", &url).env_remove("GITHUB_TOKEN");
        async move {
            let output = tokio::process::Command::from(command).output().await?;
            let text = |bytes| String::from_utf8(bytes);
            anyhow::Ok((output.status.success(), text(output.stdout)?, text(output.stderr)?))
        }
    };
    let words = ["create", "--name", "demo", "--github-token", token.expose(), "--keep-days", "1"];
    let (done, stdout, stderr) = env_on_demand(&words).await?;
    let sending = format!("Sending POST {{\"name\"=>\"demo\", \"github-token\"=>\"****\"}} to {url}/envs\n");
    ensure!(done && stderr == sending, "{stdout}{stderr}");
    let expected = "{\n  \"status\": \"done\",\n  \"urls\": [\n    \"demoapi.env.dev.internal\",\n    \"demoadmin.env.dev.internal\"\n  ]\n}\n";
    assert_eq!(stdout, expected);
    let listed = env_on_demand(&["list"]).await?;
    assert_eq!(listed, (true, "[\n  \"demo\"\n]\n".into(), format!("Sending GET to {url}/envs\n")));

    for (host, part) in [("demoadmin", "Sell what there is"), ("demo", "Sell what there is")] {
        let (status, page) = visit(&cluster.server, &format!("{host}.env.dev.internal"), "/").await?;
        ensure!(status == 200 && page.contains("<h1>Shop</h1>"), "{host} {part}: {status} {page}");
    }
    let (status, products) = visit(&cluster.server, "demoapi.env.dev.internal", "/products").await?;
    ensure!(status == 200 && products.contains("product 1"), "{status} {products}");

    let (done, details, _) = env_on_demand(&["details", "--name", "demo", "--github-token", token.expose()]).await?;
    let details: Value = serde_json::from_str(&details)?;
    ensure!(done && details["status"] == "ready" && details["owner"]["login"] == "sinewyk", "{details}");
    let (done, log, _) = env_on_demand(&["logs", "--name", "demo", "--github-token", token.expose()]).await?;
    ensure!(done && log.contains("back: [ondemand] cloning shop/back-web at"), "{log}");
    let logs = cluster.server.request(reqwest::Method::GET, "/envs/demo/logs?service=typo");
    let refused = logs.bearer_auth(token.expose()).send().await?;
    ensure!(refused.status() == 404, "{}", refused.status());
    ensure!(refused.text().await?.contains("typo"), "the service is named");
    let (done, stdout, stderr) = env_on_demand(&["delete", "--name", "demo", "--github-token", token.expose()]).await?;
    ensure!(done && stdout.contains("\"done\""), "{stdout}{stderr}");
    cluster.nothing_is_left().await
}

#[tokio::test]
async fn typical_calls_make_what_they_say() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.import_fixtures().await?;
    let token = cluster.token("nclavaud");
    push(&cluster.forge, "nclavaud/back-web", "topic", &[("build.sh", "echo from a fork >version.txt\n")]).await?;
    let token_of_fork = cluster.forge.token("nclavaud", &["nclavaud/back-web", "shop/back-web", "shop/front-web"]);
    let fixtures = cluster.server.succeed("POST", "/envs", body("one", &token, json!({ "with-fixtures": true })));
    let fork = json!({ "github-back": "nclavaud/back-web", "github-back-branch": "topic" });
    let fork = cluster.server.succeed("POST", "/envs", body("two", &token_of_fork, fork));
    tokio::try_join!(fixtures, fork)?;
    ensure!(visit(&cluster.server, "oneapi.env.dev.internal", "/products").await?.1.contains("fixture 1"));
    assert_eq!(visit(&cluster.server, "twoapi.env.dev.internal", "/version").await?, (200, "from a fork\n".into()));
    ensure!(visit(&cluster.server, "twoapi.env.dev.internal", "/products").await?.1.contains("product 1"));
    tokio::try_join!(cluster.delete("one", &token), cluster.delete("two", &token))?;
    cluster.nothing_is_left().await
}

#[tokio::test]
async fn a_redeployment_on_the_swarm_keeps_answering() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    cluster.server.succeed("POST", "/envs", body("demo", &token, json!({}))).await?;
    push(&cluster.forge, "shop/back-web", "master", &[("build.sh", "echo newer >version.txt\n")]).await?;
    let request = cluster.server.request(reqwest::Method::POST, "/envs/demo/redeploy").bearer_auth(token.expose());
    let mut redeploying = std::pin::pin!(request.send());
    loop {
        tokio::select! {
            answer = &mut redeploying => {
                let answer = answer?;
                ensure!(answer.status().is_success(), "{}", answer.text().await?);
                break;
            }
            seen = visit(&cluster.server, "demoapi.env.dev.internal", "/version") => {
                let (status, _) = seen?;
                ensure!(status == 200, "status {status} while it is redeployed");
            }
        }
    }
    assert_eq!(visit(&cluster.server, "demoapi.env.dev.internal", "/version").await?, (200, "newer\n".into()));
    cluster.delete("demo", &token).await?;
    cluster.nothing_is_left().await
}

#[tokio::test]
async fn a_failing_build_on_the_swarm_leaves_nothing_and_says_why() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    push(&cluster.forge, "shop/front-web", "broken", &[("build.sh", "echo the cause of it all; exit 7\n")]).await?;
    let body = body("demo", &token, json!({ "github-front-branch": "broken" }));
    let refused = cluster.server.refused(("POST", "/envs"), body, (422, "service_failed")).await?;
    ensure!(refused["log"].to_string().contains("the cause of it all"), "{refused}");
    ensure!(refused["detail"].to_string().contains("front"), "{refused}");
    cluster.nothing_is_left().await
}

/// What its back end does before it serves: it ends the first time, since then the database knows of one start only.
const ENDS_ONCE: &str = r#"
my @parts = $ENV{DATABASE_URL} =~ m{^postgres(?:ql)?://([^:@/]+):([^@/]*)\@([^\]@/]+?):(\d+)/([^?]+)};
@ENV{qw(PGUSER PGPASSWORD PGHOST PGPORT PGDATABASE)} = @parts;
my $starts = qx(psql -XAtq -c 'CREATE TABLE IF NOT EXISTS starts(n int); INSERT INTO starts VALUES (1); SELECT count(*) FROM starts' 2>/dev/null);
if ($starts < 2) { print STDERR "the first time\n"; exit 4 }
exec 'perl', 'real.pl';
"#;

#[tokio::test]
async fn a_service_that_the_swarm_starts_again_may_end_once_and_not_for_ever() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    let files = [("build.sh", "mv server.pl real.pl; mv first.pl server.pl\n"), ("first.pl", ENDS_ONCE)];
    push(&cluster.forge, "shop/back-web", "slow", &files).await?;
    cluster.start_again("60s")?;
    let once = body("demo", &token, json!({ "github-back-branch": "slow" }));
    cluster.server.succeed("POST", "/envs", once).await?;
    let log = cluster.server.request(reqwest::Method::GET, "/envs/demo/logs").bearer_auth(token.expose());
    ensure!(log.send().await?.error_for_status()?.text().await?.contains("the first time"), "it did not end");
    cluster.delete("demo", &token).await?;

    let crash = [("build.sh", "true\n"), ("server.pl", "print STDERR \"the cause of it all\\n\"; exit 4;\n")];
    push(&cluster.forge, "shop/front-web", "crashes", &crash).await?;
    let crashes = body("demo", &token, json!({ "github-front-branch": "crashes" }));
    let refused = cluster.server.refused(("POST", "/envs"), crashes, (422, "service_failed")).await?;
    ensure!(refused["detail"].to_string().contains("front"), "{refused}");
    ensure!(refused["log"].to_string().contains("the cause of it all"), "{refused}");
    cluster.nothing_is_left().await
}

#[tokio::test]
async fn a_service_that_never_answers_on_the_swarm_leaves_nothing_and_says_why() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    let hangs = [("build.sh", "true\n"), ("server.pl", "print STDERR \"thinking\\n\"; sleep 1 while 1;\n")];
    push(&cluster.forge, "shop/front-web", "hangs", &hangs).await?;
    // Time for the service to start on a busy machine: only then it is known to hang.
    cluster.start_again("40s")?;
    let hangs = body("demo", &token, json!({ "github-front-branch": "hangs" }));
    let refused = cluster.server.refused(("POST", "/envs"), hangs, (503, "not_ready")).await?;
    ensure!(refused["detail"].to_string().contains("front"), "{refused}");
    ensure!(refused["log"].to_string().contains("thinking"), "{refused}");
    cluster.nothing_is_left().await
}

#[tokio::test]
async fn a_server_that_is_killed_on_the_swarm_leaves_nothing() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    for phase in ["cloning-data", "deploying", "building", "waiting"] {
        let request = cluster.server.request(reqwest::Method::POST, "/envs").body(body("demo", &token, json!({})));
        let mut steps = Steps::of(request).await?;
        steps.until(phase).await?;
        if phase == "deploying" {
            // Not before the swarm has something to leave.
            eventually(async || {
                ensure!(cluster.in_swarm().await?.iter().any(|thing| thing.starts_with("service ")), "no service yet");
                Ok(())
            })
            .await?;
        }
        cluster = cluster.again(true).await?;
        if cluster.server.succeed("GET", "/envs", "").await? == json!(["demo"]) {
            assert_eq!(visit(&cluster.server, "demoapi.env.dev.internal", "/health").await?.0, 200);
            cluster.delete("demo", &token).await?;
        }
        cluster.nothing_is_left().await.with_context(|| format!("killed while {phase}"))?;
    }
    Ok(())
}

/// The token is in no label, variable, argument, log, error, event or answer; only in the secret that code is cloned with.
#[tokio::test]
async fn the_token_is_nowhere_to_be_seen() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    let request = cluster.server.request(reqwest::Method::POST, "/envs").header("accept", "text/event-stream");
    let mut seen = request.body(body("demo", &token, json!({}))).send().await?.error_for_status()?.text().await?;
    ensure!(seen.contains("event: done"), "{seen}");
    for path in ["/envs/demo", "/envs/demo/logs", "/servers", "/routes", "/metrics"] {
        let request = cluster.server.request(reqwest::Method::GET, path).bearer_auth(token.expose());
        seen += &request.send().await?.error_for_status()?.text().await?;
    }
    seen += &cluster.shown().await?;
    let containers = cluster.containers().await?;
    for (engine, id) in &containers {
        let exec = ["--host", engine, "exec", id, "sh", "-c"];
        let clone = "find / -xdev -name config -path '*.git/config' -exec cat {} +";
        seen += &run(Command::new("docker").args(exec).arg(clone)).await?;
        let secret = run(Command::new("docker").args(exec).arg("cat /run/secrets/*")).await?;
        ensure!(secret.contains(token.expose()), "the code is cloned with it");
    }
    ensure!(containers.len() == 2, "{containers:?}");
    seen += &cluster.server.log();
    cluster.delete("demo", &token).await?;
    ensure!(!seen.contains(token.expose()), "the token is to be seen");
    ensure!(seen.contains("ONDEMAND_COMMIT") && seen.contains("[ondemand] cloning"), "not everything was looked at");
    cluster.nothing_is_left().await
}

#[tokio::test]
async fn dockers_own_commands_work_on_environments() -> Result<()> {
    let cluster = Cluster::start().await?;
    let token = cluster.token("anna");
    cluster.server.succeed("POST", "/envs", body("demo", &token, json!({}))).await?;
    let stack = format!("{}_env-demo", cluster.instance()?);
    let listed = run(&mut cluster.docker(&["stack", "ls", "--format", "{{.Name}} {{.Services}}"])?).await?;
    ensure!(listed.lines().any(|line| line == format!("{stack} 2")), "{listed}");
    let services = run(&mut cluster.docker(&["stack", "services", "--format", "{{.Name}}", &stack])?).await?;
    ensure!(services.contains(&format!("{stack}_back")), "{services}");
    run(&mut cluster.docker(&["stack", "rm", &stack])?).await?;
    // Whoever removed it so did not ask us: its database and its routes go with the next round of the janitor.
    eventually(async || {
        cluster.server.succeed("POST", "/reap", "").await?;
        let left =
            [cluster.server.succeed("GET", "/envs", "").await?, cluster.server.succeed("GET", "/servers", "").await?];
        ensure!(left == [json!([]), json!([])], "{left:?}");
        Ok(())
    })
    .await?;
    cluster.nothing_is_left().await
}

#[tokio::test]
async fn volumes_of_environments_go_from_all_nodes() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.run_where("node.role == worker")?;
    cluster.share_volume()?;
    let token = cluster.token("anna");
    for name in ["one", "two"] {
        cluster.create(name, &token).await?;
    }
    let volumes = async |part: &str| {
        let found = cluster.in_swarm().await?;
        Ok::<_, anyhow::Error>(found.iter().filter(|n| n.starts_with("volume ") && n.contains(part)).count())
    };
    ensure!(volumes("_env-one_cache_").await? > 0, "it has none: {:?}", cluster.in_swarm().await?);
    let kept = volumes("_env-two_cache_").await?;
    ensure!(kept > 0, "it has none: {:?}", cluster.in_swarm().await?);

    // The old deployment's go with it.
    cluster.server.request(reqwest::Method::POST, "/envs/one/redeploy").bearer_auth(token.expose()).send().await?;
    cluster.delete("one", &token).await?;
    let report = cluster.server.succeed("POST", "/reap", "").await?;
    let log = cluster.server.log();
    // The janitor's own round may have come before.
    for stack in ["env-one", "env2-one"] {
        let gone = format!("volumes of stack {stack}");
        ensure!(report["Removed"].to_string().contains(&gone) || log.contains(&gone), "{report}\n{log}");
    }
    ensure!(volumes("-one_cache_").await? == 0, "{:?}", cluster.in_swarm().await?);
    ensure!(volumes("_env-two_cache_").await? == kept, "the other one's stay: {:?}", cluster.in_swarm().await?);
    cluster.delete("two", &token).await?;
    cluster.server.succeed("POST", "/reap", "").await?;
    cluster.nothing_is_left().await
}
