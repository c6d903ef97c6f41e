//! A proxy that stands alone: its routes, its data directory, and how it ends.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use ondemand_tests::ports::free_port;
use ondemand_tests::{Home, ProxyOptions, Server, ServerOptions, eventually, run};
use reqwest::Method;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// An ordinary user.
const NOBODY: u32 = 65_534;

async fn put(server: &Server, host: &str, upstream: &str) -> Result<Value> {
    server.succeed("PUT", &format!("/routes/{host}"), json!({ "upstream": upstream }).to_string()).await
}

/// Returns where each host leads.
async fn routes(server: &Server) -> Result<BTreeMap<String, Value>> {
    let routes = server.succeed("GET", "/routes", "").await?;
    let routes = routes.as_array().context("a list")?.iter();
    routes.map(|r| Ok((r["host"].as_str().context("a host")?.to_owned(), r["upstreams"].clone()))).collect()
}

/// Answers every request with some text.
async fn upstream(text: &'static str) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                read_head(&mut stream).await?;
                let length = text.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}");
                stream.write_all(answer.as_bytes()).await?;
                anyhow::Ok(())
            });
        }
    });
    Ok(address)
}

async fn read_head(stream: &mut TcpStream) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut head).await? > 0, "half a request");
    }
    Ok(())
}

/// Asks the proxy for a host, and returns the status and the text of the answer.
async fn ask(server: &Server, host: &str) -> Result<(u16, String)> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build()?;
    let answer = client.get(format!("http://{}/", server.proxy()?)).header("Host", host).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_outlive_a_killed_proxy() -> Result<()> {
    let home = Home::new()?;
    let options = ProxyOptions::default();
    let (one, other) = (upstream("one").await?, upstream("other").await?);
    let server = Server::start_proxy(&home.data(), &options).await?;
    put(&server, "one.localhost", &one).await?;
    put(&server, "other.localhost", &one).await?;
    put(&server, "gone.localhost", &one).await?;
    put(&server, "other.localhost", &other).await?;
    server.request(Method::DELETE, "/routes/gone.localhost").send().await?.error_for_status()?;
    let before = routes(&server).await?;
    ensure!(before.len() == 2, "{before:?}");
    server.kill().await?;

    let server = Server::start_proxy(&home.data(), &options).await?;
    ensure!(routes(&server).await? == before, "{:?}", routes(&server).await?);
    ensure!(ask(&server, "one.localhost").await? == (200, "one".into()));
    ensure!(ask(&server, "Other.localhost:8000").await? == (200, "other".into()));
    ensure!(ask(&server, "gone.localhost").await?.0 == 404);
    let shown = server.succeed("GET", "/routes/one.localhost", "").await?;
    ensure!(shown["requests"] == 1 && shown["in-flight"] == 0 && shown["last-active"].is_string(), "{shown}");
    let metrics = server.request(Method::GET, "/metrics").send().await?;
    let kind = metrics.headers().get("content-type").context("a content type")?.to_str()?.to_owned();
    ensure!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let metrics = metrics.text().await?;
    ensure!(metrics.contains("one.localhost"), "{metrics}");
    server.stop().await?;
    let server = Server::start_proxy(&home.data(), &options).await?;
    ensure!(routes(&server).await? == before);
    server.stop().await.map(drop)
}

/// The server reports a route that it cannot read, until somebody sets the route again.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_cannot_be_read_is_told() -> Result<()> {
    let home = Home::new()?;
    let directory = home.data().join("routes");
    std::fs::create_dir_all(&directory)?;
    // As a later version writes it.
    let later = json!({ "format": 2, "host": "later.localhost", "upstreams": ["127.0.0.1:1"] }).to_string();
    std::fs::write(directory.join("later.localhost.json"), &later)?;
    let server = Server::start_proxy(&home.data(), &ProxyOptions::default()).await?;
    let ready = server.succeed("GET", "/readyz", "").await?;
    ensure!(ready["Status"] == "degraded" && ready.to_string().contains("1 of the volumes"), "{ready}");
    let unknown = async || {
        let metrics = server.request(Method::GET, "/metrics").send().await?.text().await?;
        anyhow::Ok(metrics.lines().find_map(|line| line.strip_prefix("ondemand_unknown ")).map(str::to_owned))
    };
    ensure!(unknown().await?.as_deref() == Some("1"));
    ensure!(std::fs::read_to_string(directory.join("later.localhost.json"))? == later, "it is not left alone");
    put(&server, "later.localhost", "127.0.0.1:1").await?;
    ensure!(server.succeed("GET", "/readyz", "").await?["Status"] == "ok");
    ensure!(unknown().await?.as_deref() == Some("0"));
    server.stop().await.map(drop)
}

/// Every client can cause lines in the log. They do not fill the disk.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_fail_do_not_fill_the_log() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start_proxy(&home.data(), &ProxyOptions::default()).await?;
    put(&server, "nobody.localhost", &format!("127.0.0.1:{}", free_port())).await?;
    let begun = Instant::now();
    for _ in 0..60 {
        ensure!(ask(&server, "nobody.localhost").await?.0 == 502);
    }
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains("cannot connect")).count();
    // Twenty in ten seconds.
    let most = 20 * (1 + begun.elapsed().as_secs() / 10);
    ensure!(lines > 0 && lines as u64 <= most, "{lines} lines, not {most}:\n{log}");
    server.stop().await.map(drop)
}

/// Nobody finds an address missing while a proxy starts: it listens once it knows its routes.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_knows_its_routes() -> Result<()> {
    let home = Home::new()?;
    let one = upstream("one").await?;
    let directory = home.data().join("routes");
    std::fs::create_dir_all(&directory)?;
    for number in 0..2000 {
        let host = format!("h{number}.localhost");
        let route = json!({ "host": host, "upstreams": [one] });
        std::fs::write(directory.join(format!("{host}.json")), route.to_string())?;
    }
    let address = format!("127.0.0.1:{}", free_port());
    let arguments = vec!["--proxy-listen".into(), address.clone()];
    let server = Server::spawn_proxy(&home.data(), &ProxyOptions { arguments, ..ProxyOptions::default() })?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let first =
        eventually(async || client.get(format!("http://{address}/")).header("Host", "h1999.localhost").send().await)
            .await?;
    ensure!(first.status() == 200, "{}", first.text().await?);
    ensure!(routes(&server).await?.len() == 2000);
    server.stop().await.map(drop)
}

/// What a client did last: what was answered, and what it had asked for when the proxy was killed.
#[derive(Debug, Default)]
struct Last {
    answered: Option<String>,
    asked: Option<String>,
    changes: usize,
}

/// Sets and deletes one host again and again, until the proxy is gone. `begun` is told of the first answer.
async fn change(server: &Server, client: usize, begun: mpsc::UnboundedSender<()>) -> Last {
    let mut last = Last::default();
    for number in 1.. {
        let path = format!("/routes/h{client}.localhost");
        let upstream = (number % 5 != 0).then(|| format!("10.0.0.{client}:{number}"));
        last.asked.clone_from(&upstream);
        let request = match &upstream {
            Some(upstream) => server.request(Method::PUT, &path).body(json!({ "upstream": upstream }).to_string()),
            None => server.request(Method::DELETE, &path),
        };
        match request.send().await {
            Ok(answer) if answer.status().is_success() => {
                if last.changes == 0 {
                    // Nobody waits any more where one before it was not answered.
                    let _ = begun.send(());
                }
                (last.answered, last.changes) = (upstream, number);
            }
            _ => return last,
        }
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_killed_amid_changes_forgets_none_that_was_answered() -> Result<()> {
    let home = Home::new()?;
    for round in 0..4 {
        let server = Arc::new(Server::start_proxy(&home.data(), &ProxyOptions::default()).await?);
        let found = routes(&server).await?;
        for host in found.keys() {
            server.request(Method::DELETE, &format!("/routes/{host}")).send().await?.error_for_status()?;
        }
        let (begun, mut answers) = mpsc::unbounded_channel();
        let clients = (0..8).map(|client| {
            let (server, begun) = (Arc::clone(&server), begun.clone());
            async move { change(&server, client, begun).await }
        });
        let clients = tokio::spawn(join_all(clients));
        for _ in 0..8 {
            answers.recv().await.context("each client changes something")?;
        }
        // The moment of the kill is what this test is about.
        tokio::time::sleep(Duration::from_millis(70 * round)).await;
        kill_process(server.pid()?, Signal::KILL)?;
        let all = clients.await?;
        drop(server);

        let server = Server::start_proxy(&home.data(), &ProxyOptions::default()).await?;
        let found = routes(&server).await?;
        for (client, last) in all.iter().enumerate() {
            ensure!(last.changes > 0, "client {client} changed nothing");
            let holds = found.get(&format!("h{client}.localhost")).map(|upstreams| upstreams[0].clone());
            let is = |wanted: &Option<String>| holds == wanted.clone().map(Value::String);
            let right = is(&last.answered) || is(&last.asked);
            ensure!(right, "round {round}: client {client} finds {holds:?}, not {last:?}");
        }
        ensure!(!server.log().contains("passing over"), "{}", server.log());
        server.stop().await?;
        let left = std::fs::read_dir(home.data().join("routes"))?.count();
        ensure!(left == found.len(), "{left} files for {} routes", found.len());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_route_hides_no_other() -> Result<()> {
    let home = Home::new()?;
    let one = upstream("one").await?;
    let server = Server::start_proxy(&home.data(), &ProxyOptions::default()).await?;
    put(&server, "one.localhost", &one).await?;
    put(&server, "damaged.localhost", &one).await?;
    server.kill().await?;
    let file = home.data().join("routes/damaged.localhost.json");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, &text[..text.len() / 2])?;

    let server = Server::start_proxy(&home.data(), &ProxyOptions::default()).await?;
    ensure!(routes(&server).await?.into_keys().eq(["one.localhost"]), "{:?}", routes(&server).await?);
    ensure!(ask(&server, "one.localhost").await? == (200, "one".into()));
    ensure!(server.log().contains("damaged.localhost.json"), "{}", server.log());
    ensure!(std::fs::read_to_string(&file)? == text[..text.len() / 2], "it is not left alone");
    put(&server, "damaged.localhost", &one).await?;
    server.kill().await?;
    let server = Server::start_proxy(&home.data(), &ProxyOptions::default()).await?;
    ensure!(routes(&server).await?.len() == 2, "{:?}", routes(&server).await?);
    server.stop().await.map(drop)
}

/// As an ordinary user, since the mode of a directory keeps nobody out who is root.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_saved_is_not_set() -> Result<()> {
    let home = Home::new()?;
    std::fs::create_dir(home.data())?;
    chown(home.data(), Some(NOBODY), Some(NOBODY))?;
    let options = ProxyOptions { user: Some((NOBODY, NOBODY)), ..ProxyOptions::default() };
    let server = Server::start_proxy(&home.data(), &options).await?;
    put(&server, "one.localhost", "10.0.0.1:80").await?;
    let before = routes(&server).await?;
    let saved = home.data().join("routes");
    std::fs::set_permissions(&saved, PermissionsExt::from_mode(0o500))?;
    let body = json!({ "upstream": "10.0.0.2:80" }).to_string();
    for path in ["/routes/one.localhost", "/routes/other.localhost"] {
        let problem = server.refused(("PUT", path), body.clone(), (500, "backend")).await?;
        ensure!(problem.to_string().contains("Permission denied"), "{problem}");
    }
    server.refused(("DELETE", "/routes/one.localhost"), "", (500, "backend")).await?;
    ensure!(routes(&server).await? == before);
    std::fs::set_permissions(&saved, PermissionsExt::from_mode(0o700))?;
    put(&server, "other.localhost", "10.0.0.2:80").await?;
    server.kill().await?;
    let server = Server::start_proxy(&home.data(), &options).await?;
    ensure!(routes(&server).await?.len() == 2, "{:?}", routes(&server).await?);
    server.stop().await?;

    // Not its own, the directory is no place to keep anything.
    chown(&saved, Some(0), Some(0))?;
    let (status, said) = Server::spawn_proxy(&home.data(), &options)?.wait().await?;
    ensure!(status.is_some_and(|status| status != 0), "it started: {said}");
    ensure!(said.contains(&saved.display().to_string()), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_and_an_address_are_one_proxys() -> Result<()> {
    let home = Home::new()?;
    let server = Server::start_proxy(&home.data(), &ProxyOptions::default()).await?;
    let (status, said) = Server::spawn_proxy(&home.data(), &ProxyOptions::default())?.wait().await?;
    ensure!(status == Some(5) && said.contains("another process has the data directory"), "{status:?}: {said}");

    let taken = ["--proxy-listen".to_owned(), server.proxy()?.to_string()];
    let elsewhere = home.path().join("elsewhere");
    let options = ProxyOptions { arguments: taken.to_vec(), ..ProxyOptions::default() };
    let (status, said) = Server::spawn_proxy(&elsewhere, &options)?.wait().await?;
    ensure!(status == Some(5) && said.contains(&taken[1]), "{status:?}: {said}");
    ensure!(said.contains("--proxy-listen") && !said.contains("--no-proxy"), "{said}");
    let options = ServerOptions { store: "copy", ..ServerOptions::default() }.with(taken.clone());
    let (status, said) = Server::spawn(&elsewhere, &options)?.wait().await?;
    ensure!(status == Some(5) && said.contains(&taken[1]), "{status:?}: {said}");
    ensure!(said.contains("--proxy-listen") && said.contains("--no-proxy"), "{said}");
    server.stop().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exposed_api_needs_a_token() -> Result<()> {
    let home = Home::new()?;
    let mut command = ondemand_tests::server::program();
    command.args(["proxy", "--listen", "0.0.0.0:0", "--proxy-listen", "127.0.0.1:0", "--data-dir"]).arg(home.data());
    let output = command.output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(9) && said.contains("ONDEMAND_TOKEN"), "{}: {said}", output.status);
    ensure!(!home.data().exists(), "it made its data directory before it looked");

    let environment = [("ONDEMAND_TOKEN".to_owned(), "s3same".to_owned())].into();
    let server = Server::start_proxy(&home.data(), &ProxyOptions { environment, ..ProxyOptions::default() }).await?;
    let client = reqwest::Client::new();
    for (method, path) in [("GET", "/routes"), ("GET", "/metrics"), ("PUT", "/routes/a"), ("DELETE", "/routes/a")] {
        let answer = client.request(method.parse()?, format!("{}{path}", server.url())).send().await?;
        ensure!(answer.status() == 401, "{method} {path}: {}", answer.status());
    }
    put(&server, "a", "10.0.0.1:80").await?;
    server.stop().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_sets_lists_and_deletes_routes() -> Result<()> {
    let home = Home::new()?;
    let one = upstream("one").await?;
    let server = Server::start_proxy(&home.data(), &ProxyOptions::default()).await?;
    let ondemand = async |words: &[&str]| {
        let mut command = ondemand_tests::server::program();
        run(command.args(["--url", server.url(), "route"]).args(words)).await
    };
    ensure!(ondemand(&["list"]).await?.is_empty());
    ensure!(ondemand(&["set", "Shop.Localhost", &one]).await?.trim() == "shop.localhost");
    ensure!(ask(&server, "shop.localhost").await? == (200, "one".into()));
    let listed = ondemand(&["list"]).await?;
    let line = listed.lines().nth(1).context("a route")?;
    ensure!(line.starts_with(&format!("shop.localhost  {one}  http1     ready   0          0         1 ")), "{listed}");
    ensure!(ondemand(&["delete", "shop.localhost"]).await?.trim() == "shop.localhost");
    ensure!(ask(&server, "shop.localhost").await?.0 == 404);
    let again = ondemand(&["delete", "shop.localhost"]).await;
    let error = again.err().context("it was deleted twice")?.to_string();
    ensure!(error.contains("ondemand route list"), "{error}");
    server.stop().await.map(drop)
}

/// The server runs a proxy beside its databases, or none.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_has_routes_too() -> Result<()> {
    let home = Home::new()?;
    let options = ServerOptions { store: "copy", ..ServerOptions::default() };
    let one = upstream("one").await?;
    let server = Server::start(&home.data(), &options).await?;
    put(&server, "one.localhost", &one).await?;
    server.kill().await?;
    let server = Server::start(&home.data(), &options).await?;
    ensure!(ask(&server, "one.localhost").await? == (200, "one".into()));
    server.stop().await?;
    let server = Server::start(&home.data(), &options.clone().with(["--no-proxy"])).await?;
    ensure!(server.proxy().is_err(), "{}", server.log());
    server.refused(("GET", "/routes"), "", (501, "unsupported")).await?;
    server.stop().await?;
    let server = Server::start(&home.data(), &options).await?;
    ensure!(routes(&server).await?.into_keys().eq(["one.localhost"]), "going without a proxy loses no route");
    server.stop().await.map(drop)
}

/// An upstream that takes a request, says so, and answers when it is told.
async fn slow() -> Result<(String, oneshot::Receiver<()>, oneshot::Sender<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let ((arrived, began), (go_on, wait)) = (oneshot::channel(), oneshot::channel());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        read_head(&mut stream).await?;
        // The test may be over.
        let _ = arrived.send(());
        wait.await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await?;
        anyhow::Ok(())
    });
    Ok((address, began, go_on))
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_lets_requests_end_first() -> Result<()> {
    let home = Home::new()?;
    let (address, began, go_on) = slow().await?;
    let server = Arc::new(Server::start_proxy(&home.data(), &ProxyOptions::default()).await?);
    put(&server, "slow.localhost", &address).await?;
    let asking = tokio::spawn({
        let server = Arc::clone(&server);
        async move { ask(&server, "slow.localhost").await }
    });
    began.await?;
    kill_process(server.pid()?, Signal::TERM)?;
    // Once nobody is let in any more, it is ending.
    eventually(async || {
        let refused = TcpStream::connect(server.proxy().map_err(|e| e.to_string())?).await.is_err();
        if refused { Ok(()) } else { Err("it still listens".to_owned()) }
    })
    .await?;
    go_on.send(()).ok().context("the upstream waits")?;
    ensure!(asking.await?? == (200, "slow".into()));
    let server = Arc::into_inner(server).context("nobody else has it")?;
    let (status, said) = server.wait().await?;
    ensure!(status == Some(0), "{status:?}: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_waits_no_longer_than_it_is_told() -> Result<()> {
    let home = Home::new()?;
    let (address, began, _go_on) = slow().await?;
    let arguments = vec!["--drain-timeout".into(), "1s".into()];
    let server =
        Arc::new(Server::start_proxy(&home.data(), &ProxyOptions { arguments, ..ProxyOptions::default() }).await?);
    put(&server, "slow.localhost", &address).await?;
    let asking = tokio::spawn({
        let server = Arc::clone(&server);
        async move { ask(&server, "slow.localhost").await }
    });
    began.await?;
    let asked_to_end = Instant::now();
    kill_process(server.pid()?, Signal::TERM)?;
    let broken = asking.await?;
    ensure!(!matches!(&broken, Ok((200, _))), "{broken:?}");
    let server = Arc::into_inner(server).context("nobody else has it")?;
    let (status, said) = server.wait().await?;
    ensure!(status == Some(0), "{status:?}: {said}");
    let took = asked_to_end.elapsed();
    ensure!(took >= Duration::from_millis(900) && took < Duration::from_secs(10), "it took {took:?}");
    Ok(())
}

/// Each connection is two open files, and a shell lets a program have a thousand and some.
#[tokio::test]
async fn it_takes_as_many_open_files_as_it_may_have() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // What this process starts inherits it.
    setrlimit(Resource::Nofile, Rlimit { current: Some(100), maximum: limit.maximum })?;
    let home = Home::new()?;
    let server = Server::start_proxy(&home.path().join("data"), &ProxyOptions::default()).await?;
    setrlimit(Resource::Nofile, limit)?;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid()?.as_raw_nonzero()))?;
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("a limit")?;
    let mut numbers = files.split_whitespace();
    let (current, maximum) = (numbers.next().context("a limit")?, numbers.next().context("a maximum")?);
    ensure!(current == maximum && current != "100", "it has {current} of {maximum}");

    put(&server, "app.localhost", &upstream("hello").await?).await?;
    let address = server.proxy()?;
    let mut kept = Vec::new();
    for _ in 0..150 {
        kept.push(TcpStream::connect(address).await?);
    }
    ensure!(ask(&server, "app.localhost").await? == (200, "hello".to_owned()));
    server.stop().await?;
    Ok(())
}
