//! A real browser, as whoever clicks an environment's URL has one: what a page has open through the proxy outlives changes of other routes.
#![expect(clippy::expect_used, reason = "these are tests")]

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt};
use ondemand_core::config::ProxyConfig;
use ondemand_core::router::{Proxy, Route, Upstream};
use ondemand_core::{Hostname, Router};
use ondemand_tests::Home;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

/// Notes the last number that came each way, and whether either way was ever interrupted.
const PAGE: &str = r"<!doctype html><title>page</title><script>
const seen = { socket: 0, events: 0, interruptions: 0 };
let waiting = [];
const note = () => { waiting = waiting.filter(look => !look()); };
const socket = new WebSocket(`ws://${location.host}/socket`);
socket.onmessage = message => { seen.socket = Number(message.data); note(); };
socket.onclose = () => { seen.interruptions += 1; note(); };
const events = new EventSource('/events');
events.onmessage = message => { seen.events = Number(message.data); note(); };
events.onerror = () => { seen.interruptions += 1; note(); };
const until = number => new Promise(resolve => {
    const look = () => {
        const there = seen.interruptions > 0 || (seen.socket >= number && seen.events >= number);
        if (there) resolve({ ...seen, host: location.host });
        return there;
    };
    if (!look()) waiting.push(look);
});
</script>";

/// Serves the page, and sends the latest number to every WebSocket and stream of events. Counts what it was asked for.
async fn serve(listener: TcpListener, number: watch::Receiver<u32>, asked: watch::Sender<Vec<String>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (number, asked) = (number.clone(), asked.clone());
        connections.spawn(async move { answer(stream, number, asked).await });
    }
}

async fn answer(
    mut stream: TcpStream,
    mut number: watch::Receiver<u32>,
    asked: watch::Sender<Vec<String>>,
) -> Result<()> {
    // A handshake is read by who speaks WebSocket, so it is only looked at here.
    let mut head = vec![0; 16 << 10];
    let length = stream.peek(&mut head).await?;
    let path = String::from_utf8_lossy(&head[..length]).split(' ').nth(1).unwrap_or_default().to_owned();
    asked.send_modify(|asked| asked.push(path.clone()));
    if path == "/socket" {
        let mut socket = tokio_tungstenite::accept_async(stream).await?;
        loop {
            let now = *number.borrow_and_update();
            socket.send(Message::text(now.to_string())).await?;
            tokio::select! {
                changed = number.changed() => changed?,
                ended = socket.next() => return ended.transpose().map(drop).map_err(Into::into),
            }
        }
    }
    let mut end = 0;
    while !head[..end].ends_with(b"\r\n\r\n") {
        end += stream.read(&mut head[end..=end]).await?;
    }
    match &*path {
        "/" => {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                PAGE.len()
            );
            stream.write_all(format!("{head}{PAGE}").as_bytes()).await?;
        }
        "/events" => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await?;
            loop {
                let event = format!("data: {}\n\n", *number.borrow_and_update());
                stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
                number.changed().await?;
            }
        }
        _ => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await?,
    }
    Ok(())
}

/// Chromium, with nothing of the machine's or the user's, driven over WebDriver: a handful of calls with JSON.
struct Browser {
    driver: Child,
    client: reqwest::Client,
    session: String,
    /// Ends what is left of the browser, and removes its files.
    home: Home,
}

impl Browser {
    async fn start() -> Result<Self> {
        let home = Home::new()?;
        let mut driver = Command::new("chromedriver");
        driver.arg("--port=0").env("HOME", home.path()).env("TMPDIR", home.path()).current_dir(home.path());
        driver.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut driver = driver.spawn().context("chromedriver; `make test` installs it")?;
        let mut lines = BufReader::new(driver.stdout.take().context("stdout is piped")?).lines();
        let port: u16 = loop {
            let line = lines.next_line().await?.context("chromedriver ended")?;
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim_end_matches('.').parse()?;
            }
        };
        // It goes on writing for as long as it lives.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let mut browser = Self {
            driver,
            client: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build()?,
            session: format!("http://127.0.0.1:{port}/session"),
            home,
        };
        let profile = browser.home.path().join("profile");
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-proxy-server",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let options = json!({ "binary": "/usr/bin/chromium", "args": arguments });
        let capabilities = json!({ "alwaysMatch": { "browserName": "chrome", "goog:chromeOptions": options } });
        let session = browser.call("", json!({ "capabilities": capabilities })).await?;
        browser.session = format!("{}/{}", browser.session, session["sessionId"].as_str().context("no session")?);
        browser.call("/timeouts", json!({ "script": 30_000, "pageLoad": 30_000 })).await?;
        Ok(browser)
    }

    async fn call(&self, path: &str, body: Value) -> Result<Value> {
        let answer = self.client.post(format!("{}{path}", self.session)).json(&body).send().await?;
        let status = answer.status();
        let answer: Value = answer.json().await?;
        ensure!(status.is_success(), "{path}: {status}: {}", answer["value"]);
        Ok(answer["value"].clone())
    }

    /// Opens a page, and returns once it is loaded.
    async fn open(&self, url: &str) -> Result<()> {
        self.call("/url", json!({ "url": url })).await.map(drop)
    }

    /// Waits for a promise within the page.
    async fn wait(&self, promise: &str) -> Result<Value> {
        let script = format!("{promise}.then(arguments[arguments.length - 1])");
        self.call("/execute/async", json!({ "script": script, "args": [] })).await
    }

    /// Ends the browser, then its driver.
    async fn end(mut self) -> Result<()> {
        self.client.delete(&self.session).send().await?.error_for_status()?;
        self.driver.kill().await?;
        Ok(())
    }
}

fn host(name: &str) -> Hostname {
    Hostname::new(name).expect("a host name")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_page_has_open_survives_a_thousand_changes_of_other_routes() -> Result<()> {
    let proxy = Proxy::start(&ProxyConfig { listen: "127.0.0.1:0".parse()?, ..ProxyConfig::default() }).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (number, asked) = (watch::Sender::new(1), watch::Sender::new(Vec::new()));
    let serving = tokio::spawn(serve(listener, number.subscribe(), asked.clone()));
    proxy.set(&Route::new(host("page.localhost"), [Upstream::from(address)])).await?;

    let browser = Browser::start().await?;
    // A browser takes every name under .localhost for this machine, so nothing has to be set up for it.
    let name = format!("page.localhost:{}", proxy.address().port());
    browser.open(&format!("http://{name}/")).await?;
    let opened = json!({ "socket": 1, "events": 1, "interruptions": 0, "host": name });
    assert_eq!(browser.wait("until(1)").await?, opened);

    for i in 0..1000 {
        let other = host(&format!("other-{}.localhost", i % 50));
        if i % 5 == 4 {
            proxy.remove(&other).await?;
        } else {
            proxy.set(&Route::new(other, [Upstream::from(address)])).await?;
        }
    }
    number.send_replace(2);
    let delivered = json!({ "socket": 2, "events": 2, "interruptions": 0, "host": name });
    assert_eq!(browser.wait("until(2)").await?, delivered);

    // Neither was opened again behind the page's back.
    let count = |path: &str| asked.borrow().iter().filter(|asked| *asked == path).count();
    assert_eq!((count("/socket"), count("/events")), (1, 1));
    let activity = proxy.activity(&host("page.localhost")).context("the route is there")?;
    assert_eq!((activity.upgrades, activity.in_flight), (1, 1));

    browser.end().await?;
    serving.abort();
    proxy.shutdown().await;
    Ok(())
}
