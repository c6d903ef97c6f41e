//! An upload goes through the server, and does not stay in it.

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use ondemand_tests::{Home, Server, ServerOptions, query};
use serde_json::json;

const PIECE: usize = 1 << 20;
const PIECES: usize = 300;
/// What the server may have of memory, all told.
const LIMIT: u64 = 60 << 20;

/// Comments are the fastest SQL there is: what is measured is the server, and not Postgres.
fn piece(number: usize) -> Vec<u8> {
    let mut text = format!("INSERT INTO t VALUES ({number});\n").into_bytes();
    while text.len() < PIECE {
        text.extend_from_slice(b"-- ");
        text.resize(text.len() + 1000, b'x');
        text.push(b'\n');
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_megabytes_pass_through_little_memory() -> Result<()> {
    // Slow: three hundred megabytes are made, sent and restored.
    let home = Home::new()?;
    let server = Server::start(&home.data(), &ServerOptions::default()).await?;
    let before = server.resident_bytes()?;
    let pieces = (0..=PIECES).map(|number| {
        Ok::<_, std::io::Error>(match number {
            0 => b"CREATE TABLE t (n int);\n".to_vec(),
            number => piece(number),
        })
    });
    let mut upload = Box::pin(server.import("production", reqwest::Body::wrap_stream(stream::iter(pieces))));
    let mut most = 0;
    let mut samples = 0;
    let mut clock = tokio::time::interval(std::time::Duration::from_millis(20));
    let snapshot = loop {
        tokio::select! {
            done = &mut upload => break done?,
            _ = clock.tick() => {
                most = most.max(server.resident_bytes().context("the server is gone")?);
                samples += 1;
            }
        }
    };
    ensure!(samples >= 10, "only {samples} samples were taken");
    ensure!(most < LIMIT, "{} MB were resident, {} MB before", most >> 20, before >> 20);
    let bytes = snapshot["Dump_bytes"].as_u64().context("Dump_bytes")?;
    ensure!(bytes >= (PIECES * PIECE) as u64, "{snapshot}");
    let database = server.create(json!({})).await?;
    ensure!(query(&database.url, "SELECT count(*) FROM t").await? == PIECES.to_string());
    Ok(())
}
