//! Bodies of any length, of which hardly anything is ever in memory.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::lab::{self, get, memory::Watch, reply};

const LENGTH: usize = 256 << 20;
const CHUNK: usize = 1 << 16;
/// What buffers and the allocator may take, whatever the length.
const ALLOWED: u64 = 24 << 20;

/// Returns a chunk with its framing.
fn framed() -> Vec<u8> {
    [format!("{CHUNK:x}\r\n").as_bytes(), &vec![b'x'; CHUNK], b"\r\n"].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_of_unknown_length_takes_no_memory() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send(get("app.example", "/")).await;
    let (connection, _) = upstream.request().await;
    let watch = Watch::start();
    let writing = tokio::spawn(async move {
        let mut stream = connection.into_stream();
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        let chunk = framed();
        for _ in 0..LENGTH / CHUNK {
            stream.write_all(&chunk).await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        stream
    });
    client.answer_head().await;
    let received = client.count_to("0\r\n\r\n").await;
    // However it is cut into chunks, the data is all there.
    assert!((LENGTH..LENGTH + LENGTH / 50).contains(&received), "{received}");
    writing.await.unwrap();
    assert!(watch.rise() < ALLOWED, "{} bytes", watch.rise());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_of_unknown_length_takes_no_memory() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    client.send("POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut connection = upstream.accept().await;
    connection.head(lab::wire::Kind::Request).await;
    let watch = Watch::start();
    let writing = tokio::spawn(async move {
        let chunk = framed();
        for _ in 0..LENGTH / CHUNK {
            client.send(&chunk).await;
        }
        client.send("0\r\n\r\n").await;
        client
    });
    let received = connection.count_to("0\r\n\r\n").await;
    assert!((LENGTH..LENGTH + LENGTH / 50).contains(&received), "{received}");
    connection.send(reply("200 OK", "thanks")).await;
    assert_eq!(writing.await.unwrap().answer().await.text(), "thanks");
    assert!(watch.rise() < ALLOWED, "{} bytes", watch.rise());
}

/// Clients that say that much will come and then send nothing cost nothing but a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promised_length_reserves_nothing() {
    let lab = lab::start().await;
    let server = lab.serving("app.example").await;
    let mut clients = Vec::new();
    let watch = Watch::start();
    for i in 0..100 {
        let mut client = lab.client().await;
        client
            .send(if i % 2 == 0 {
                "POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 1099511627776\r\n\r\nx".to_owned()
            } else {
                "POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\nx".to_owned()
            })
            .await;
        clients.push(client);
    }
    lab.active("app.example", 100, 0).await;
    assert!(watch.rise() < ALLOWED, "{} bytes", watch.rise());
    drop(clients);
    lab.active("app.example", 0, 0).await;
    server.settled().await;
    assert_eq!(server.requests(), []);
}

/// Ten megabytes each way through many connections at once, whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_go_both_ways_at_once_arrive_whole() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let serving = tokio::spawn(async move {
        let mut echoes = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let mut connection = upstream.accept().await;
            echoes.spawn(async move {
                connection.head(lab::wire::Kind::Request).await;
                connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 10 << 20)).await;
                let mut left = 10 << 20;
                while left > 0 {
                    let part = connection.exactly(left.min(1 << 15)).await;
                    connection.send(&part).await;
                    left -= part.len();
                }
            });
        }
        echoes.join_all().await;
    });
    let mut clients = tokio::task::JoinSet::new();
    for seed in 0..8_u8 {
        let client = lab.client().await;
        clients.spawn(async move {
            let (mut reader, mut writer) = client.into_stream().into_split();
            let body: Vec<u8> =
                (0..40_u32 << 10).flat_map(|i| (0..=255).map(move |j| (i % 251).to_le_bytes()[0] ^ j ^ seed)).collect();
            let sent = body.clone();
            let writing = tokio::spawn(async move {
                let head = format!("POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: {}\r\n\r\n", sent.len());
                writer.write_all(head.as_bytes()).await.unwrap();
                writer.write_all(&sent).await.unwrap();
                writer
            });
            let mut answer = vec![0; body.len()];
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(reader.read_u8().await.unwrap());
            }
            lab::within("the echo", reader.read_exact(&mut answer)).await.unwrap();
            assert!(answer == body, "the body was changed");
            writing.await.unwrap();
        });
    }
    clients.join_all().await;
    serving.await.unwrap();
}
