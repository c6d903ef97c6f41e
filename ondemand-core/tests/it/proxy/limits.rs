//! What a client may use up: time, connections, patience.

use std::time::Duration;

use super::lab::{self, Peer, chunk, get};

fn is_timeout_or_nothing(rest: &[u8]) -> bool {
    rest.is_empty() || rest.starts_with(b"HTTP/1.1 408 ")
}

/// A head must come within its time, however steadily its bytes trickle.
#[tokio::test]
async fn a_head_that_trickles_is_cut_off() {
    // Slow: the limit is two seconds, and is waited for in real time, twice.
    let lab = lab::start_with(|config| config.header_timeout = lab::seconds(2)).await;
    let server = lab.serving("app.example").await;
    let mut client = lab.client().await;
    let mut beat = tokio::time::interval(Duration::from_millis(100));
    let mut sent = 0;
    for byte in format!("GET / HTTP/1.1\r\nHost: app.example\r\nX: {}", "y".repeat(500)).bytes() {
        beat.tick().await;
        if !client.try_send([byte]).await || !client.so_far().is_empty() {
            break;
        }
        sent += 1;
    }
    assert!((2..100).contains(&sent), "{sent} tenths of a second");
    let rest = client.rest().await;
    assert!(is_timeout_or_nothing(&rest), "{:?}", String::from_utf8_lossy(&rest));
    assert_eq!(server.requests(), []);
    // The same for a second request on a connection.
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    client.answer().await;
    client.send("GET / HTTP/1.1\r\nHost: ap").await;
    let rest = client.rest().await;
    assert!(is_timeout_or_nothing(&rest), "{:?}", String::from_utf8_lossy(&rest));
    // And for empty lines that no request follows.
    let mut client = lab.client().await;
    client.send("\r\n").await;
    assert!(is_timeout_or_nothing(&client.rest().await));
}

/// As fast as it may come, what is no head is none.
#[tokio::test]
async fn empty_lines_are_not_read_for_ever() {
    let lab = lab::start_with(|config| config.header_timeout = lab::seconds(1)).await;
    let client = lab.client().await;
    let (mut reader, mut writer) = client.into_stream().into_split();
    let flood = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let block = b"\r\n".repeat(1 << 15);
        while writer.write_all(&block).await.is_ok() {}
    });
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ =
        lab::within("the end of the connection", tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut rest)).await;
    assert!(is_timeout_or_nothing(&rest) || rest.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&rest));
    lab::within("the end of the flood", flood).await.unwrap();
    lab.assert_alive().await;
}

/// What the configuration allows is possible.
#[tokio::test]
async fn a_head_may_be_as_long_as_it_is_configured() {
    let lab = lab::start_with(|config| config.max_header_size = ondemand_core::Size(64 << 10)).await;
    let server = lab.serving("app.example").await;
    let long = |length: usize| {
        let without = "GET /long HTTP/1.1\r\nHost: app.example\r\nX: \r\n\r\n".len();
        format!("GET /long HTTP/1.1\r\nHost: app.example\r\nX: {}\r\n\r\n", "y".repeat(length - without))
    };
    for length in [40_000, 65_535, 65_536] {
        assert_eq!(lab.ask(long(length)).await.text(), "GET /long", "{length}");
    }
    assert_eq!(lab.ask(long(65_537)).await.status(), 431);
    assert_eq!(server.requests().len(), 3);
    // A second one finds the first one's bytes before it.
    let mut client = lab.client().await;
    client.send([get("app.example", "/first"), long(65_536), get("app.example", "/last")].concat()).await;
    for expected in ["GET /first", "GET /long", "GET /last"] {
        assert_eq!(client.answer().await.text(), expected);
    }

    let lab = lab::start_with(|config| config.max_headers = 256).await;
    let server = lab.serving("app.example").await;
    let many =
        |count: usize| format!("GET /many HTTP/1.1\r\nHost: app.example\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    assert_eq!(lab.ask(many(256)).await.text(), "GET /many");
    assert_eq!(server.requests().pop().unwrap().all("x").len(), 255);
    assert_eq!(lab.ask(many(257)).await.status(), 431);
}

/// A limit that cannot be kept is not accepted.
#[tokio::test]
async fn a_limit_beyond_what_there_is_room_for_is_refused() {
    for spoil in [
        |config: &mut ondemand_core::config::ProxyConfig| config.max_headers = 257,
        |config: &mut ondemand_core::config::ProxyConfig| config.max_header_size = ondemand_core::Size((64 << 10) + 1),
    ] {
        let mut config =
            ondemand_core::config::ProxyConfig { listen: "127.0.0.1:0".parse().unwrap(), ..Default::default() };
        spoil(&mut config);
        let error = ondemand_core::router::Proxy::start(&config).await.unwrap_err();
        assert_eq!(error.code(), ondemand_core::Code::InvalidInput);
        assert!(error.to_string().contains("must be"), "{error}");
    }
}

/// A thousand of them at once keep nobody out.
#[tokio::test]
async fn slow_clients_do_not_keep_others_out() {
    let lab = lab::start().await;
    let _server = lab.serving("app.example").await;
    let mut slow = Vec::new();
    for i in 0..1000 {
        let mut client = lab.client().await;
        client
            .send(
                ["G", "GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 5\r\n\r\nh"]
                    [i % 3],
            )
            .await;
        slow.push(client);
    }
    lab.active("app.example", 333, 0).await;
    for _ in 0..20 {
        assert_eq!(lab.ask(get("app.example", "/")).await.text(), "GET /");
    }
    drop(slow);
    lab.active("app.example", 0, 0).await;
}

/// An idle connection is closed, in an orderly way and without a word: that would be taken for the answer to what comes next.
#[tokio::test]
async fn an_idle_connection_is_closed() {
    // Slow: the limit is two seconds, and is waited for in real time.
    let lab = lab::start_with(|config| config.keep_alive_timeout = lab::seconds(2)).await;
    let _server = lab.serving("app.example").await;
    let mut fresh = lab.client().await;
    let mut used = lab.client().await;
    used.send(get("app.example", "/")).await;
    used.answer().await;
    used.closed_orderly().await;
    let rest = fresh.rest().await;
    assert!(is_timeout_or_nothing(&rest), "{:?}", String::from_utf8_lossy(&rest));
    // One that is used now and then is not.
    let mut busy = lab.client().await;
    let mut beat = tokio::time::interval(Duration::from_millis(400));
    for _ in 0..6 {
        beat.tick().await;
        busy.send(get("app.example", "/")).await;
        assert_eq!(busy.answer().await.status(), 200);
    }
}

/// A body that stops coming is given up; one that comes slowly is not.
#[tokio::test]
async fn a_body_may_take_as_long_as_it_moves() {
    // Slow: the limit is two seconds, and is waited for in real time.
    let lab = lab::start_with(|config| config.idle_timeout = lab::seconds(2)).await;
    let upstream = lab.scripted("app.example").await;
    let begin = "POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut slow = lab.client().await;
    slow.send(begin).await;
    let mut connection = upstream.accept().await;
    connection.head(lab::wire::Kind::Request).await;
    let mut stopped = lab.client().await;
    stopped.send(format!("{begin}{}", chunk("hello"))).await;
    let mut other = upstream.accept().await;
    other.head(lab::wire::Kind::Request).await;
    let mut beat = tokio::time::interval(Duration::from_millis(350));
    for _ in 0..8 {
        beat.tick().await;
        slow.send(chunk("x")).await;
        connection.until("x").await;
    }
    // By now the other one's time is over.
    let rest = stopped.rest().await;
    assert!(is_timeout_or_nothing(&rest), "{:?}", String::from_utf8_lossy(&rest));
    let rest = other.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    slow.send("0\r\n\r\n").await;
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n").await;
    slow.answer_head().await;
    for i in 0..8 {
        beat.tick().await;
        connection.send(i.to_string()).await;
        assert_eq!(slow.exactly(1).await, i.to_string().as_bytes());
    }
    lab.active("app.example", 0, 0).await;
}

/// A client that does not take its answer holds a connection to the upstream; not for ever.
#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let lab = lab::start_with(|config| config.idle_timeout = lab::seconds(1)).await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let (mut connection, _) = upstream.request().await;
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
    let block = vec![7; 1 << 16];
    let mut sent = 0_u64;
    while connection.try_send(&block).await {
        sent += block.len() as u64;
        assert!(sent < 200 << 20, "it all goes somewhere");
    }
    lab.active("app.example", 0, 0).await;
    drop(client);
}

/// What is beyond a limit on connections is refused in words or closed, and there is room again when one has gone.
async fn assert_limited(lab: &lab::Lab, limit: usize) {
    let mut open = Vec::new();
    for _ in 0..limit {
        let mut client = lab.client().await;
        client.send(get("app.example", "/")).await;
        assert_eq!(client.answer().await.status(), 200);
        open.push(client);
    }
    for _ in 0..5 {
        let mut client = lab.client().await;
        client.try_send(get("app.example", "/")).await;
        let rest = client.rest().await;
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 503 "), "{:?}", String::from_utf8_lossy(&rest));
    }
    for client in &mut open {
        client.send(get("app.example", "/")).await;
        assert_eq!(client.answer().await.status(), 200, "those inside are served");
    }
    for client in open {
        drop(client);
        // When it has noticed, another one fits.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let mut client = lab.client().await;
            client.try_send(get("app.example", "/")).await;
            if client.try_answer().await.is_ok_and(|answer| answer.status() == 200) {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "there is no room again");
        }
    }
}

#[tokio::test]
async fn a_client_has_only_so_many_connections() {
    let lab = lab::start_with(|config| config.max_connections_per_client = 10).await;
    let _server = lab.serving("app.example").await;
    assert_limited(&lab, 10).await;
}

/// Another address is another client.
#[tokio::test]
async fn a_limit_on_one_client_is_not_one_on_another() {
    let lab = lab::start_with(|config| config.max_connections_per_client = 3).await;
    let _server = lab.serving("app.example").await;
    let from = async |last: u8| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        let mut client = Peer::new(socket.connect(lab.proxy.address()).await.unwrap());
        client.try_send(get("app.example", "/")).await;
        let served = client.try_answer().await.is_ok_and(|answer| answer.status() == 200);
        (client, served)
    };
    let mut open = Vec::new();
    for client in [2, 3, 4] {
        for _ in 0..3 {
            let (connection, served) = from(client).await;
            assert!(served);
            open.push(connection);
        }
    }
    for client in [2, 3, 4] {
        assert!(!from(client).await.1);
    }
    assert!(from(5).await.1);
}

#[tokio::test]
async fn there_are_only_so_many_connections_in_all() {
    let lab = lab::start_with(|config| config.max_connections = 10).await;
    let _server = lab.serving("app.example").await;
    assert_limited(&lab, 10).await;
}

/// A connection that became a tunnel is a connection still, until it ends.
#[tokio::test]
async fn tunnels_count_as_connections() {
    let lab = lab::start_with(|config| config.max_connections_per_client = 2).await;
    let upstream = lab.scripted("app.example").await;
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        let mut client = lab.client().await;
        client.send(lab::upgrade("app.example", "echo/1")).await;
        let (mut connection, _) = upstream.request().await;
        connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n").await;
        client.answer().await;
        tunnels.push((client, connection));
    }
    let mut client = lab.client().await;
    client.try_send(get("app.example", "/")).await;
    let rest = client.rest().await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 503 "), "{:?}", String::from_utf8_lossy(&rest));
    drop(tunnels);
    lab.active("app.example", 0, 0).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let mut client = lab.client().await;
        if client.try_send(get("unknown.example", "/")).await
            && client.try_answer().await.is_ok_and(|answer| answer.status() == 404)
        {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "there is no room again");
    }
}

/// An upstream that cannot be reached at all takes no longer than it may.
#[tokio::test]
async fn connecting_does_not_take_for_ever() {
    let lab = lab::start_with(|config| config.connect_timeout = lab::seconds(1)).await;
    // A socket that listens, whose queue is full, answers nobody.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) =
        tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(address)).await
    {
        queued.push(stream.unwrap());
        assert!(queued.len() < 100);
    }
    lab.route("full.example", &[address]).await;
    let begin = tokio::time::Instant::now();
    let answer = lab.ask(get("full.example", "/")).await;
    assert!([502, 504].contains(&answer.status()), "{answer:?}");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

/// Opening and closing connections, with or without a word, leaves nothing behind.
#[tokio::test]
async fn connections_that_come_and_go_leave_nothing() {
    let lab = lab::start().await;
    let _server = lab.serving("app.example").await;
    lab.ask(get("app.example", "/")).await;
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = files();
    for i in 0..500 {
        let mut client = lab.client().await;
        match i % 5 {
            0 => {}
            1 => client.send("GET / HT").await,
            2 => {
                client.send(get("app.example", "/")).await;
                client.answer().await;
            }
            3 => client.send(get("app.example", "/")).await,
            _ => client.send("nonsense\r\n\r\n").await,
        }
        if i % 2 == 0 {
            client.abort();
        }
    }
    lab.active("app.example", 0, 0).await;
    lab::eventually("the proxy's files to be closed", || {
        let now = files();
        // Some connections to the upstream are kept.
        if now <= before + 40 { Ok(()) } else { Err(format!("{now} files, {before} before")) }
    })
    .await;
}

/// The kernel makes clients try again, after a second, that find the queue full.
#[tokio::test]
async fn as_many_may_wait_as_the_system_lets() {
    let lab = lab::start().await;
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let port = lab.proxy.address().port();
    let shown = std::process::Command::new("ss").args(["-Hltn", &format!("sport = :{port}")]).output();
    let shown = String::from_utf8(shown.expect("ss, of iproute2").stdout).unwrap();
    // Its state, how many wait, and how many may; a line for each worker.
    assert!(shown.lines().count() > 0, "nobody listens on {port}");
    for line in shown.lines() {
        assert_eq!(line.split_ascii_whitespace().nth(2), Some(most.trim()), "{shown}");
    }
}
