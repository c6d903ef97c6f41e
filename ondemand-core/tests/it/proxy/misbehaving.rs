//! Upstreams that are not what they should be. A 502 or a 504 and a line in the log, and nobody else notices.

use super::lab::{self, Lab, chunk, get, log, post, reply};

/// More than all buffers on the way hold.
const LENGTH: usize = 64 << 20;

/// Checks that a gateway error came, that somebody who reads the log learns of it, and that all else goes on.
async fn assert_bad_gateway(lab: &Lab, name: &str, answer: &lab::Message, status: u16) {
    assert_eq!(answer.status(), status, "{name}: {answer:?} {:?}", answer.text());
    let lines = log::lines_with(&["WARN", name]);
    assert!(!lines.is_empty(), "{name}: no line in the log: {:?}", log::lines_with(&[name]));
    lab.active(name, 0, 0).await;
}

/// What an upstream says instead of an answer.
fn answers_that_are_none() -> Vec<(&'static str, Vec<u8>)> {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(1_000_000)).into_bytes();
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(20_000)).into_bytes();
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(1_000_000)).into_bytes();
    let mut all: Vec<(&str, Vec<u8>)> = vec![("over-long", long), ("too-many", many), ("endless", endless)];
    let texts = [
        ("ssh", "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
        ("smtp", "220 mail.example ESMTP\r\n"),
        ("redis", "-ERR unknown command\r\n"),
        ("old", "<html>HTTP/0.9</html>\n"),
        ("binary", "\0\u{1}\u{2}\u{3}\r\n\r\n"),
        ("nothing", ""),
        ("an-empty-line", "\r\n"),
        ("half-a-word", "HTT"),
        ("half-a-line", "HTTP/1.1 200 OK"),
        ("half-a-head", "HTTP/1.1 200 OK\r\nContent-Le"),
        ("no-empty-line", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"),
        ("version-2", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("no-status", "HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("status-99", "HTTP/1.1 99 Low\r\nContent-Length: 2\r\n\r\nok"),
        ("status-of-four", "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("status-with-sign", "HTTP/1.1 +20 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("status-0", "HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("folded", "HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 2\r\n\r\nok"),
        ("bare-cr", "HTTP/1.1 200 OK\r\nX: y\rContent-Length: 2\r\n\r\nok"),
        ("nul", "HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 2\r\n\r\nok"),
        ("no-colon", "HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok"),
        ("lengths-that-differ", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokay"),
        ("lengths-in-a-list", "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nokay"),
        ("length-negative", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"),
        ("length-signed", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
        ("length-empty", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok"),
        ("length-hex", "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok"),
        ("length-huge", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551617\r\n\r\nok"),
        (
            "length-and-chunks",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        ("chunked-twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("unknown-coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nok"),
        ("chunked-not-last", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nok"),
        (
            "unasked-101",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        ),
    ];
    all.extend(texts.iter().map(|(name, text)| (*name, text.as_bytes().to_vec())));
    all
}

#[tokio::test]
async fn what_is_no_answer_becomes_a_502() {
    let lab = lab::start().await;
    let server = lab.serving("good.example").await;
    // Another client's connection, that lives through all of it.
    let mut bystander = lab.client().await;
    let mut wrong = Vec::new();
    for (case, bytes) in answers_that_are_none() {
        let name = format!("{case}.example");
        let upstream = lab.scripted(&name).await;
        let mut client = lab.client().await;
        client.send(get(&name, "/")).await;
        let (mut connection, _) = upstream.request().await;
        connection.try_send(&bytes).await;
        connection.shut_down_writing().await;
        match client.try_answer().await {
            Ok(answer) if answer.status() == 502 => {
                if log::lines_with(&["WARN", &name]).is_empty() {
                    wrong.push(format!("{case}: no line in the log"));
                }
                // The client did nothing wrong, so it may go on.
                client.send(get("good.example", "/on")).await;
                match client.try_answer().await {
                    Ok(answer) if answer.text() == "GET /on" => {}
                    other => wrong.push(format!("{case}: the client's connection was of no more use: {other:?}")),
                }
            }
            other => wrong.push(format!("{case}: {other:?}")),
        }
        // Nothing more may go to whoever speaks so.
        lab::within("the connection to be closed", connection.rest()).await;
        lab.active(&name, 0, 0).await;
        bystander.send(post("good.example", &format!("/{case}"), "x")).await;
        assert_eq!(bystander.answer().await.text(), format!("POST /{case}"));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    drop(server);
    lab.assert_alive().await;
}

/// Upstreams that end their lines with LF only are old or simple, and do no harm that way as long as it means the same to everyone.
#[tokio::test]
async fn a_head_with_bare_lf_is_refused_or_understood() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let (mut connection, _) = upstream.request().await;
    connection.send("HTTP/1.1 200 OK\nContent-Length: 2\n\nok").await;
    let answer = client.answer().await;
    // What the judge of this lab let pass has no bare LF in it any more.
    match answer.status() {
        200 => assert_eq!(answer.text(), "ok"),
        status => assert_eq!(status, 502),
    }
}

#[tokio::test]
async fn an_upstream_that_resets_the_connection_is_a_502() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    for part in ["", "HTTP/1.1 200 OK\r\nConte"] {
        let mut client = lab.client().await;
        client.send(post("app.example", "/", "abc")).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(part).await;
        connection.abort();
        assert_bad_gateway(&lab, "app.example", &client.answer().await, 502).await;
    }
}

#[tokio::test]
async fn an_upstream_that_refuses_is_a_502() {
    let lab = lab::start().await;
    let (address, _kept) = lab::refusing();
    lab.route("refused.example", &[address]).await;
    let mut client = lab.client().await;
    client.send(get("refused.example", "/")).await;
    assert_bad_gateway(&lab, "refused.example", &client.answer().await, 502).await;
    // Also for one whose body must be got rid of.
    client.send(post("refused.example", "/", &"x".repeat(1000))).await;
    assert_bad_gateway(&lab, "refused.example", &client.answer().await, 502).await;
    // A name that does not resolve is nothing else. By the standard, none under .invalid does.
    let route = ondemand_core::router::Route::new(
        lab::host("unresolved.example"),
        [ondemand_core::router::Upstream::new("nowhere.invalid:80").unwrap()],
    );
    lab.set(route).await;
    let mut client = lab.client().await;
    client.send(get("unresolved.example", "/")).await;
    let answer = client.answer().await;
    assert!([502, 504].contains(&answer.status()), "{answer:?}");
}

#[tokio::test]
async fn an_upstream_may_be_a_name() {
    let lab = lab::start().await;
    let server = lab::Server::start().await;
    let upstream = ondemand_core::router::Upstream::new(format!("localhost:{}", server.address.port())).unwrap();
    lab.set(ondemand_core::router::Route::new(lab::host("app.example"), [upstream])).await;
    assert_eq!(lab.ask(get("app.example", "/")).await.text(), "GET /");
}

#[tokio::test]
async fn an_upstream_that_says_nothing_is_a_504() {
    let lab = lab::start_with(|config| config.response_timeout = lab::seconds(1)).await;
    let upstream = lab.scripted("app.example").await;
    for request in [get("app.example", "/"), post("app.example", "/", "abc")] {
        let mut client = lab.client().await;
        client.send(request).await;
        let (mut connection, _) = upstream.request().await;
        assert_bad_gateway(&lab, "app.example", &client.answer().await, 504).await;
        // Its late answer must not become the next one's.
        connection.closed().await;
    }
    // Half a head is as little an answer as none; and so are informational ones.
    for part in ["HTTP/1.1 200 OK\r\nX: ", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let mut client = lab.client().await;
        client.send(get("app.example", "/")).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(part).await;
        let mut answer = client.answer().await;
        if answer.status() == 100 {
            answer = client.answer().await;
        }
        assert_bad_gateway(&lab, "app.example", &answer, 504).await;
    }
}

/// Thinking begins when the question has been asked: a slow upload is not a slow upstream.
#[tokio::test]
async fn the_time_to_answer_begins_after_the_request() {
    let lab = lab::start_with(|config| config.response_timeout = lab::seconds(1)).await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send("POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut connection = upstream.accept().await;
    connection.head(lab::wire::Kind::Request).await;
    let mut beat = tokio::time::interval(std::time::Duration::from_millis(300));
    for i in 0..8 {
        beat.tick().await;
        client.send(chunk(&format!("part {i};"))).await;
        connection.until(&format!("part {i};")).await;
    }
    client.send("0\r\n\r\n").await;
    connection.until("0\r\n\r\n").await;
    connection.send(reply("200 OK", "at last")).await;
    assert_eq!(client.answer().await.text(), "at last");
}

/// Numberless informational answers are a way never to answer.
#[tokio::test]
async fn a_storm_of_informational_answers_ends() {
    let lab = lab::start().await;
    for (name, words) in [
        ("storm-100.example", "HTTP/1.1 100 Continue\r\n\r\n"),
        ("storm-103.example", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    ] {
        let upstream = lab.scripted(name).await;
        let mut client = lab.client().await;
        client.send(get(name, "/")).await;
        let (connection, _) = upstream.request().await;
        let mut stream = connection.into_stream();
        let storm = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let block = words.repeat(100);
            while stream.write_all(block.as_bytes()).await.is_ok() {}
        });
        let mut answers = 0;
        let last = loop {
            let answer = client.answer().await;
            if answer.status() >= 200 {
                break answer;
            }
            answers += 1;
            assert!(answers < 10_000, "the storm reaches the client");
        };
        assert_bad_gateway(&lab, name, &last, 502).await;
        lab::within("the storm to end", storm).await.unwrap();
    }
    lab.assert_alive().await;
}

/// What was said to be whole and is not must not look whole: the client's parser has to notice.
#[tokio::test]
async fn a_body_that_is_cut_off_is_cut_off_for_the_client() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    for beginning in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ] {
        for reset in [false, true] {
            let mut client = lab.client().await;
            client.send(get("app.example", "/")).await;
            let (mut connection, _) = upstream.request().await;
            connection.send(beginning).await;
            if reset {
                // The client must have the head, or the proxy may still say 502; where that cannot be told apart, it may be closed.
                if client.try_head(lab::wire::Kind::Answer { to_head: false }).await.is_err() {
                    continue;
                }
                connection.abort();
                let rest = client.rest().await;
                assert!(
                    !rest.ends_with(b"0\r\n\r\n") && rest.len() < 100,
                    "{beginning:?}: {:?}",
                    String::from_utf8_lossy(&rest)
                );
                continue;
            }
            connection.shut_down_writing().await;
            match client.try_answer().await {
                // Where nothing was sent yet, it may say so in words.
                Ok(answer) => assert_eq!(answer.status(), 502, "{beginning:?}: {answer:?}"),
                Err(why) => assert!(
                    why.contains("cut off") || why.contains("reset") || why.contains("closed"),
                    "{beginning:?}: {why}"
                ),
            }
        }
    }
    assert!(!log::lines_with(&["WARN", "app.example"]).is_empty(), "no line in the log");
    lab.active("app.example", 0, 0).await;
    lab.assert_alive().await;
}

/// For a client of HTTP/1.0 a body ends with the connection; so where it was cut off, the connection must end otherwise.
#[tokio::test]
async fn a_body_that_is_cut_off_is_cut_off_for_an_old_client_too() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    for reset in [false, true] {
        let mut client = lab.client().await;
        client.send("GET / HTTP/1.0\r\nHost: app.example\r\n\r\n").await;
        let (mut connection, _) = upstream.request().await;
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
        client.until("hello").await;
        if reset {
            connection.abort();
        } else {
            connection.shut_down_writing().await;
        }
        client.closed_by_reset().await;
    }
    // And a body that ends with the upstream's connection, when that is reset, for every client.
    for version in ["1.0", "1.1"] {
        let mut client = lab.client().await;
        client.send(format!("GET / HTTP/{version}\r\nHost: app.example\r\n\r\n")).await;
        let (mut connection, _) = upstream.request().await;
        connection.send("HTTP/1.1 200 OK\r\n\r\nhello").await;
        let head = client.answer_head().await;
        client.until("hello").await;
        connection.abort();
        if head.all("transfer-encoding").is_empty() {
            client.closed_by_reset().await;
        } else {
            let rest = client.rest().await;
            assert!(!rest.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
        }
    }
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let lab = lab::start_with(|config| config.idle_timeout = lab::seconds(1)).await;
    let upstream = lab.scripted("app.example").await;
    for beginning in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let mut client = lab.client().await;
        client.send(get("app.example", "/")).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(beginning).await;
        let why = client.try_answer().await.unwrap_err();
        assert!(why.contains("cut off") || why.contains("reset"), "{why}");
        connection.closed().await;
        lab.active("app.example", 0, 0).await;
    }
}

/// A pooled connection may be closed by the upstream at any moment; a client must not notice.
#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_no_request() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let upstream = lab.scripted("app.example").await;
    let (mut client, mut connection) = lab.kept(&upstream).await;
    for (i, request) in [get("app.example", "/get"), post("app.example", "/post", "abc"), get("app.example", "/get")]
        .into_iter()
        .cycle()
        .take(12)
        .enumerate()
    {
        // In an orderly way or not, noticed already or not.
        if i % 2 == 0 {
            drop(connection);
        } else {
            connection.abort();
        }
        if i % 4 < 2 {
            lab.every_chance().await;
        }
        client.send(&request).await;
        let (next, asked) = upstream.request().await;
        connection = next;
        assert!(request.starts_with(&format!("{} {}", asked.method(), asked.target())), "{asked:?}");
        connection.send(reply("200 OK", asked.target())).await;
        let answer = client.answer().await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, asked.target()), "{i}");
    }
}

/// It closes when it is asked again, as one does whose own time limit has just passed. To ask anew is safe for a GET.
#[tokio::test]
async fn a_kept_connection_that_closes_when_asked_costs_no_get() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let upstream = lab.scripted("app.example").await;
    let (mut client, mut connection) = lab.kept(&upstream).await;
    client.send(get("app.example", "/second")).await;
    assert_eq!(connection.request().await.target(), "/second");
    drop(connection);
    let (mut connection, request) = upstream.request().await;
    assert_eq!(request.target(), "/second");
    connection.send(reply("200 OK", "second")).await;
    assert_eq!(client.answer().await.text(), "second");

    // A POST that may have been done must not be done twice.
    client.send(post("app.example", "/third", "abc")).await;
    assert_eq!(connection.request().await.target(), "/third");
    drop(connection);
    assert_eq!(client.answer().await.status(), 502);
    // Nor is any request asked for ever.
    client.send(get("app.example", "/fourth")).await;
    let mut times = 0;
    loop {
        tokio::select! {
            answer = client.answer() => break assert_eq!(answer.status(), 502),
            (connection, request) = upstream.request() => {
                assert_eq!(request.target(), "/fourth");
                drop(connection);
            }
        }
        times += 1;
        assert!(times <= 5, "it is asked again and again");
    }
}

/// Slow readers hold writers up, and fill no memory.
#[tokio::test]
async fn an_upstream_that_reads_slowly_slows_the_client() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
    let mut connection = upstream.accept().await;
    connection.head(lab::wire::Kind::Request).await;
    let watch = lab::memory::Watch::start();
    let writing = tokio::spawn(async move {
        let block = vec![7; 1 << 16];
        for _ in 0..LENGTH / block.len() {
            client.send(&block).await;
        }
        client
    });
    lab.every_chance().await;
    assert!(!writing.is_finished(), "64 MiB went to where nobody reads");
    for _ in 0..LENGTH >> 16 {
        connection.exactly(1 << 16).await;
    }
    assert!(watch.rise() < 16 << 20, "{} bytes", watch.rise());
    connection.send(reply("200 OK", "all of it")).await;
    assert_eq!(writing.await.unwrap().answer().await.text(), "all of it");
}

/// And so for a client that does not read its answer.
#[tokio::test]
async fn a_client_that_reads_slowly_slows_the_upstream() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let (mut connection, _) = upstream.request().await;
    let watch = lab::memory::Watch::start();
    let writing = tokio::spawn(async move {
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
        let block = vec![7; 1 << 16];
        for _ in 0..LENGTH / block.len() {
            connection.send(&block).await;
        }
    });
    lab.every_chance().await;
    assert!(!writing.is_finished(), "64 MiB went to where nobody reads");
    client.answer_head().await;
    for _ in 0..LENGTH >> 16 {
        client.exactly(1 << 16).await;
    }
    assert!(watch.rise() < 16 << 20, "{} bytes", watch.rise());
    writing.await.unwrap();
}
