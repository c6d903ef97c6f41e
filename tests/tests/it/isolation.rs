//! Databases are private: from each other, and from what the dataset brought along.

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use ondemand_tests::{Database, Home, Server, ServerOptions, processes_with, query, run, without_password};
use serde_json::json;

const PEOPLE: &str = "CREATE TABLE people AS SELECT n AS id, 'person ' || n AS name FROM generate_series(1, 1000) n;";

/// Returns the database's URL with another user and password.
fn url_of(database: &Database, user: &str, password: &str) -> String {
    format!("postgresql://{user}:{password}@{}:{}/{}", database.host, database.port, database.dbname)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_databases_do_not_see_each_others_writes() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.import("production", PEOPLE).await?;
    let databases = try_join_all((0..5).map(|_| server.create(json!({})))).await?;
    try_join_all(databases.iter().enumerate().map(async |(number, database)| {
        query(&database.url, &format!("UPDATE people SET name = 'of {number}' WHERE id <= {}", number + 1)).await?;
        query(&database.url, &format!("CREATE TABLE only_{number} ()")).await
    }))
    .await?;
    for (number, database) in databases.iter().enumerate() {
        let names =
            query(&database.url, "SELECT string_agg(DISTINCT name, ',') FROM people WHERE name LIKE 'of %'").await?;
        ensure!(names == format!("of {number}"), "database {number} sees {names:?}");
        let changed = query(&database.url, "SELECT count(*) FROM people WHERE name LIKE 'of %'").await?;
        ensure!(changed == (number + 1).to_string(), "database {number} has {changed} changed rows");
        let tables =
            query(&database.url, "SELECT string_agg(tablename, ',') FROM pg_tables WHERE tablename LIKE 'only%'")
                .await?;
        ensure!(tables == format!("only_{number}"), "database {number} sees {tables:?}");
    }
    // A sixth is as the dataset was.
    let fresh = server.create(json!({})).await?;
    ensure!(query(&fresh.url, "SELECT count(*) FROM people WHERE name LIKE 'person %'").await? == "1000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_gives_the_snapshot_back_at_the_same_address() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.import("production", PEOPLE).await?;
    let database = server.create(json!({})).await?;
    let other = server.create(json!({})).await?;
    query(&other.url, "DELETE FROM people").await?;
    for _ in 0..2 {
        query(&database.url, "DROP TABLE people; CREATE TABLE mine (); ALTER ROLE postgres PASSWORD 'forgotten'")
            .await?;
        let reset = server.reset(&database.id).await?;
        ensure!(reset.url == database.url && reset.password == database.password, "{reset:?}");
        ensure!(reset.id == database.id && reset.name == database.name && reset.expires_at == database.expires_at);
        ensure!(query(&database.url, "SELECT count(*) FROM people").await? == "1000");
        ensure!(query(&database.url, "SELECT count(*) FROM pg_tables WHERE tablename = 'mine'").await? == "0");
    }
    ensure!(query(&other.url, "SELECT count(*) FROM people").await? == "0", "another database was reset too");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_an_old_version_live_on() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    let first = server.import("production", "CREATE TABLE t AS SELECT 'old' AS word;").await?;
    let old = server.create(json!({})).await?;
    let second = server.import("production", "CREATE TABLE t AS SELECT 'new' AS word;").await?;
    ensure!(first["Version"].as_str() < second["Version"].as_str(), "{first} {second}");
    let new = server.create(json!({})).await?;
    let pinned = server.create(json!({ "Dataset": first["Name"] })).await?;
    for (database, word) in [(&old, "old"), (&new, "new"), (&pinned, "old")] {
        ensure!(query(&database.url, "SELECT word FROM t").await? == word, "{database:?}");
        query(&database.url, "UPDATE t SET word = 'written'").await?;
    }
    server.reset(&old.id).await?;
    ensure!(query(&old.url, "SELECT word FROM t").await? == "old", "a reset changed the version");

    // What is in use is kept, and what is not may go: the version, then the dataset.
    let path = |of: &serde_json::Value| format!("/datasets/{}", of["Name"].as_str().unwrap_or_default());
    server.refused(("DELETE", &path(&first)), "", (409, "conflict")).await?;
    let problem = server.refused(("DELETE", "/datasets/production"), "", (409, "conflict")).await?;
    ensure!(problem["detail"].as_str().is_some_and(|d| d.contains('3')) && problem["hint"].is_string(), "{problem}");
    server.delete(&new.id).await?;
    server.succeed("DELETE", &path(&second), "").await?;
    ensure!(query(&old.url, "SELECT word FROM t").await? == "old");
    server.delete(&old.id).await?;
    server.delete(&pinned.id).await?;
    server.succeed("DELETE", "/datasets/production", "").await?;
    ensure!(server.succeed("GET", "/datasets", "").await? == json!([]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn durability_and_settings_apply_and_stay() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.import("production", PEOPLE).await?;
    let settings = json!({ "work_mem": "77MB", "max_connections": 33, "jit": false });
    let durable = server.create(json!({ "Durable": true, "Settings": settings })).await?;
    let throw_away = server.create(json!({})).await?;
    for round in ["created", "reset"] {
        for (database, name, value) in [
            (&durable, "fsync", "on"),
            (&durable, "synchronous_commit", "on"),
            (&durable, "full_page_writes", "on"),
            (&durable, "work_mem", "77MB"),
            (&durable, "max_connections", "33"),
            (&durable, "jit", "off"),
            (&throw_away, "fsync", "off"),
            (&throw_away, "work_mem", "4MB"),
        ] {
            let shown = query(&database.url, &format!("SHOW {name}")).await?;
            ensure!(shown == value, "{round}: {name} is {shown}, not {value}");
        }
        server.reset(&durable.id).await?;
    }
    let (_, shown) = server.send("GET", &format!("/servers/{}", durable.id), "").await?;
    ensure!(shown["Durable"] == true && shown["Settings"]["max_connections"] == "33", "{shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_opens_another_database() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    // What a dump of a whole production server has: roles that log in, with their passwords, and a superuser.
    let dump =
        "CREATE ROLE app LOGIN PASSWORD 'production-app'; CREATE ROLE boss LOGIN SUPERUSER PASSWORD 'production-boss';
                ALTER ROLE postgres PASSWORD 'production-postgres'; CREATE TABLE t (); ALTER TABLE t OWNER TO app;";
    server.import("production", dump).await?;
    let databases = try_join_all((0..3).map(|_| server.create(json!({})))).await?;
    for (number, database) in databases.iter().enumerate() {
        let (_, password) = without_password(&database.url)?;
        ensure!(password == database.password && password.len() >= 24, "the URL has the password");
        for other in databases.iter().skip(number + 1) {
            ensure!(other.password != password, "two databases have the same password");
            ensure!(
                query(&url_of(other, "postgres", &password), "SELECT 1").await.is_err(),
                "it opens another database"
            );
        }
        for (user, password) in [
            ("postgres", "production-postgres"),
            ("postgres", ""),
            ("app", "production-app"),
            ("boss", "production-boss"),
            ("app", &database.password),
            ("ondemand_admin", &database.password),
            ("ondemand_admin", ""),
        ] {
            let error = query(&url_of(database, user, password), "SELECT 1").await;
            ensure!(error.is_err(), "{user} gets in with {password:?}");
        }
        // The role is there, and owns what it owned.
        ensure!(query(&database.url, "SELECT tableowner FROM pg_tables WHERE tablename = 't'").await? == "app");
        // Passwords are never asked for in the clear.
        ensure!(query(&database.url, "SHOW password_encryption").await? == "scram-sha-256");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_prints_a_url_that_psql_takes() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    let dump = home.file("dump.sql", PEOPLE)?;
    let ondemand = |words: &[&str]| {
        let mut command = ondemand_tests::server::program();
        command.args(["--url", server.url()]).args(words);
        command
    };
    let path = dump.to_str().context("a path")?;
    run(&mut ondemand(&["dataset", "import", "production", "--dump", path])).await?;
    let url = run(&mut ondemand(&["pg", "create", "--name", "mine", "--ttl", "1h"])).await?;
    let mut psql = std::process::Command::new("psql");
    ensure!(run(psql.args([url.trim(), "-Atc", "SELECT count(*) FROM people"])).await?.trim() == "1000", "{url}");
    let listed = run(&mut ondemand(&["pg", "list"])).await?;
    ensure!(listed.contains("mine") && listed.contains("production"), "{listed}");
    run(&mut ondemand(&["pg", "reset", "mine"])).await?;
    run(&mut ondemand(&["pg", "delete", "mine"])).await?;
    ensure!(server.list().await?.is_empty());
    Ok(())
}

/// A superuser of one database runs programs: they see no other database, nothing of the host's, and no API.
#[tokio::test(flavor = "multi_thread")]
async fn a_superusers_programs_see_that_database_alone() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    server.import("production", PEOPLE).await?;
    let own = server.create(json!({})).await?;
    let other = server.create(json!({})).await?;
    let directory = async |database: &Database| query(&database.url, "SHOW data_directory").await;
    let (own_files, other_files) = (directory(&own).await?, directory(&other).await?);
    // What a program says, and what it complains of.
    let say = async |program: &str| -> Result<String> {
        let table = "DROP TABLE IF EXISTS said; CREATE TABLE said(line text)";
        query(&own.url, &format!("{table}; COPY said FROM PROGRAM $said${{ {program}; }} 2>&1 || true$said$")).await?;
        query(&own.url, "SELECT string_agg(line, E'\\n') FROM said").await
    };
    ensure!(say(&format!("cat {own_files}/PG_VERSION")).await?.parse::<u32>().is_ok(), "its own files are there");
    let missing = [
        format!("cat {other_files}/PG_VERSION"),
        format!("ls {}", home.data().display()),
        "cat /etc/shadow".to_owned(),
        "ls /root".to_owned(),
        "ls /home".to_owned(),
        "ls /run/docker.sock".to_owned(),
    ];
    for program in missing {
        let said = say(&program).await?;
        // The way to its own volume is there, and nothing beside it.
        let data = home.data();
        let beside = std::path::Path::new(&own_files).strip_prefix(&data).ok().and_then(|path| path.iter().next());
        let only_the_way = program.starts_with("ls ")
            && beside.is_some_and(|beside| {
                !said.contains("No such") && {
                    let mut names = said.lines();
                    names.all(|name| beside == name || name == "postgres")
                }
            });
        ensure!(said.contains("No such file or directory") || only_the_way, "{program}: {said}");
    }
    let read = query(&own.url, &format!("SELECT pg_read_file('{other_files}/PG_VERSION')")).await;
    ensure!(read.is_err_and(|error| format!("{error:#}").contains("No such file")), "Postgres itself reads it");
    let processes = say("cat /proc/[0-9]*/cmdline | xargs -0 echo").await?;
    ensure!(processes.contains(&own_files) && !processes.contains(&other_files), "{processes}");
    ensure!(!processes.contains("serve"), "the server is to be seen: {processes}");
    for path in ["/healthz", "/servers", "/metrics"] {
        let said = say(&format!("curl -sS -o - -w \"%{{http_code}}\" {}{path}", server.url())).await?;
        ensure!(said.ends_with("403") && said.contains("may not use this API"), "{path}: {said}");
    }
    // What it leaves behind goes with it.
    let word = format!("7654{}", std::process::id());
    let hidden = format!(
        "prlimit --pid $$ --locks=5; prlimit --pid 1 --locks=5; env -i setsid /bin/sh -c \"/usr/bin/sleep {word} &\" >/dev/null 2>&1"
    );
    say(&hidden).await?;
    let running = || processes_with(&["/usr/bin/sleep", &word]).map(|found| found.len());
    ensure!(running()? == 1, "it does not run");
    server.delete(&own.id).await?;
    ensure!(running()? == 0, "it outlives its database");
    ensure!(query(&other.url, "SELECT count(*) FROM people").await? == "1000");
    Ok(())
}

/// What one database takes is not the others'.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_takes_no_more_than_its_limits() -> Result<()> {
    let home = Home::new()?;
    let config = home.path().join("ondemand.toml");
    std::fs::write(&config, "[databases.limits]\nprocesses = 60\nmemory = \"256M\"\n")?;
    let options = ServerOptions::default().with(["--config", &config.display().to_string()]);
    let server = Server::start(&home.data(), &options).await?;
    server.import("production", PEOPLE).await?;
    let greedy = server.create(json!({})).await?;
    let other = server.create(json!({})).await?;
    let run = async |database: &Database, program: &str| {
        let table = "DROP TABLE IF EXISTS said; CREATE TABLE said(line text)";
        query(&database.url, &format!("{table}; COPY said FROM PROGRAM $said${program}$said$")).await?;
        query(&database.url, "SELECT string_agg(line, E'\\n') FROM said").await
    };
    let many = "(for i in $(seq 100); do sleep 1000 </dev/null >/dev/null 2>/dev/null & done) 2>&1 || true";
    let said = run(&greedy, many).await?;
    ensure!(said.contains("annot fork"), "{said}");
    ensure!(query(&other.url, "SELECT count(*) FROM people").await? == "1000");
    let said = run(&other, "head -c 400M /dev/zero | tail | wc -c").await?;
    ensure!(said == "0", "{said}");
    server.reset(&greedy.id).await?;
    ensure!(query(&greedy.url, "SELECT count(*) FROM people").await? == "1000");
    server.delete(&greedy.id).await?;
    server.delete(&other.id).await
}

/// The superuser of a database in a container runs programs there, and is nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_a_database_in_a_container_may_do_little() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::docker()).await?;
    server.import("production", PEOPLE).await?;
    let database = server.create(json!({})).await?;
    let look = "grep -E '^(CapPrm|CapEff|CapBnd|NoNewPrivs):' /proc/self/status | tr -d '\\t'; \
        for file in /usr/made /etc/made /made; do touch $file 2>/dev/null && echo $file; done; \
        ls -d /var/run/docker.sock /run/docker.sock 2>/dev/null; touch /tmp/made && echo /tmp/made";
    let sql = format!("CREATE TABLE seen (line text); COPY seen FROM PROGRAM '{}'", look.replace('\'', "''"));
    query(&database.url, &sql).await?;
    let seen = query(&database.url, "SELECT string_agg(line, ' ') FROM seen").await?;
    let none = "0000000000000000";
    ensure!(seen == format!("CapPrm:{none} CapEff:{none} CapBnd:{none} NoNewPrivs:1 /tmp/made"), "{seen}");
    let [container] = &home.containers()?[..] else { anyhow::bail!("{:?}", home.containers()?) };
    let docker = std::env::var("ONDEMAND_TEST_DOCKER_HOST")?;
    let format = "{{.HostConfig.PidsLimit}} {{.HostConfig.Privileged}}";
    let mut inspect = std::process::Command::new("docker");
    let limits = run(inspect.args(["--host", &docker, "inspect", "--format", format, container])).await?;
    ensure!(limits.trim() == "4096 false", "{limits}");
    server.delete(&database.id).await
}
