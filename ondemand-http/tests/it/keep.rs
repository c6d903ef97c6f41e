//! A server that ends by itself.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ondemand_core::config::StoreKind;
use ondemand_core::{Code, Config, Ondemand, Result};
use ondemand_http::{Moment, keep};
use ondemand_tests::{Home, free_range};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::DUMP;

const LEASE: &str = r#"{"Id":"0123456789abcdef0123456789abcdef"}"#;

fn config(home: &Home) -> Config {
    let mut config = Config { data_dir: home.path().join("data"), store: StoreKind::Copy, ..Config::default() };
    (config.databases.first_port, config.databases.last_port) = free_range(10);
    config.http.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.proxy.enabled = false;
    config
}

/// Starts one, and returns once it is ready.
async fn start(config: Config, idle: Duration) -> (String, JoinHandle<Result<()>>) {
    let (sender, ready) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let running = tokio::spawn(async move {
        keep(&config, idle, std::future::pending(), move |moment| {
            if let Moment::Ready { address } = moment
                && let Some(sender) = sender.lock().expect("nobody panicked").take()
            {
                sender.send(address).expect("somebody waits");
            }
        })
        .await
    });
    (format!("http://{}", ready.await.expect("it is ready")), running)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_lives_for_as_long_as_it_is_needed() {
    // Slow: that it does not end is waited for, three seconds at a time.
    let home = Home::new().expect("a home");
    let idle = Duration::from_secs(1);
    // Before it runs, as making a client takes its time.
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let (url, mut running) = start(config(&home), idle).await;
    let held = client.post(format!("{url}/leases")).body(LEASE).send().await.expect("an answer");
    let post = async |path: &str, body: String| -> Value {
        let answer = client.post(format!("{url}{path}")).body(body).send().await.expect("an answer");
        answer.error_for_status().expect("it is done").json().await.expect("JSON")
    };
    post("/datasets/production", DUMP.to_owned()).await;
    let ended = tokio::time::timeout(3 * idle, &mut running).await;
    assert!(ended.is_err(), "it ended while a lease was held: {ended:?}");
    let created = post("/servers", LEASE.replace("Id", "Lease")).await;
    let id = created["Id"].as_str().expect("an id").to_owned();
    let released = client.patch(format!("{url}/servers/{id}")).body(r#"{"Lease":null}"#).send().await;
    released.and_then(reqwest::Response::error_for_status).expect("it is released");
    drop(held);
    let ended = tokio::time::timeout(Duration::from_secs(1) + 3 * idle, &mut running).await;
    assert!(ended.is_err(), "it ended while there was a database: {ended:?}");
    let began = Instant::now();
    let deleted = client.delete(format!("{url}/servers/{id}")).send().await;
    deleted.and_then(reqwest::Response::error_for_status).expect("it is deleted");
    tokio::time::timeout(Duration::from_secs(60), running)
        .await
        .expect("it ends")
        .expect("no panic")
        .expect("it ends well");
    assert!(began.elapsed() >= idle, "it left no time: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_the_one_before_it_to_let_go() {
    let home = Home::new().expect("a home");
    let config = config(&home);
    let before = Ondemand::open(&config).await.expect("it opens");
    let next = tokio::spawn(start(config.clone(), Duration::from_millis(100)));
    // It is known to wait once somebody else is refused for the same reason.
    assert_eq!(Ondemand::open(&config).await.expect_err("it is open").code(), Code::Conflict);
    drop(before);
    let (_, running) = tokio::time::timeout(Duration::from_secs(60), next).await.expect("it opens").expect("no panic");
    running.await.expect("no panic").expect("it ends well");
}
