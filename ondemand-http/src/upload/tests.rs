use std::time::Duration;

use axum::body::Bytes;
use axum::http::{StatusCode, header};
use futures_util::stream;
use ondemand_core::Result;
use ondemand_core::progress::{self, Phase};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};

use super::*;

fn headers(accept: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(header::ACCEPT, header::HeaderValue::from_static(accept))])
}

fn snapshot(dump_bytes: u64) -> Snapshot {
    Snapshot {
        name: "shop@20261122-192300".into(),
        dataset: "shop".into(),
        version: "20261122-192300".into(),
        created_at: "0".into(),
        postgres: 15,
        dbname: "shop".into(),
        data_bytes: 1,
        dump_bytes,
        derived: false,
        servers: 0,
        failures: None,
        failed: Vec::new(),
        warning: None,
    }
}

fn event(phase: Phase, bytes: u64) -> progress::Event {
    progress::Event { phase, bytes, total: None, rate: None, elapsed: Duration::ZERO, detail: None }
}

/// Stands in for an import: reads all, reporting each read.
async fn import(source: Source, reporter: Reporter) -> Result<Snapshot> {
    let Source::Stream { mut reader, .. } = source else { panic!("an upload is a stream") };
    let (mut bytes, mut buffer) = (0, vec![0; 1024]);
    loop {
        let read = reader.read(&mut buffer).await.map_err(|e| Error::io("import", "reading the dump", e))?;
        if read == 0 {
            return Ok(snapshot(bytes));
        }
        bytes += read as u64;
        reporter(event(Phase::Restoring, bytes));
    }
}

/// Makes a body whose chunks come from the sender.
fn body() -> (mpsc::Sender<io::Result<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let next = |mut receiver: mpsc::Receiver<io::Result<Bytes>>| async { receiver.recv().await.map(|c| (c, receiver)) };
    (sender, Body::from_stream(stream::unfold(receiver, next)))
}

async fn text(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    String::from_utf8(bytes.into()).expect("text")
}

#[tokio::test]
async fn without_events_the_result_is_the_answer() {
    let upload = Upload::new(Body::from("12345"), None).expect("an upload");
    let response = upload.answer(&headers("*/*"), import).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::CREATED);
    let answer: Snapshot = serde_json::from_str(&text(response).await).expect("a snapshot");
    assert_eq!(answer, snapshot(5));
}

#[tokio::test]
async fn the_total_is_known_where_it_is_announced() {
    for (body, expected) in [(Body::from("12345"), Some(5)), (body().1, None)] {
        let Source::Stream { total, .. } = source(body, None, Arc::default()) else { panic!("a stream") };
        assert_eq!(total, expected);
    }
}

#[tokio::test]
async fn events_come_while_the_body_is_still_sent() {
    let (sender, body) = body();
    let upload = Upload::new(body, None).expect("an upload");
    let response = upload.answer(&headers("text/event-stream"), import).await.expect("an answer");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut answer = response.into_body().into_data_stream();
    for bytes in [3, 6] {
        sender.send(Ok(Bytes::from_static(b"abc"))).await.expect("someone reads");
        let event = answer.next().await.expect("an event").expect("bytes");
        let event = std::str::from_utf8(&event).expect("text");
        assert!(event.starts_with("event: progress\ndata: {\"phase\":\"restoring\""), "{event}");
        assert!(event.contains(&format!("\"bytes\":{bytes}")), "{event}");
    }
    drop(sender);
    let last = answer.next().await.expect("an event").expect("bytes");
    let last = std::str::from_utf8(&last).expect("text");
    assert!(last.starts_with("event: done\ndata: {\"Name\":\"shop@20261122-192300\""), "{last}");
    assert!(answer.next().await.is_none());
}

#[tokio::test]
async fn a_failure_is_the_last_event() {
    let (sender, body) = body();
    let upload = Upload::new(body, None).expect("an upload");
    let response = upload.answer(&headers("text/event-stream"), import).await.expect("an answer");
    sender.send(Err(io::Error::other("gone"))).await.expect("someone reads");
    let events = text(response).await;
    let (_, data) = events.trim_end().rsplit_once("data: ").expect("an event");
    let problem: crate::wire::Problem = serde_json::from_str(data).expect("a problem");
    assert_eq!(problem.code, ondemand_core::Code::Backend);
    assert!(events.contains("event: error\n"), "{events}");
}

#[tokio::test]
async fn a_panic_is_told_without_its_message() {
    let upload = Upload::new(Body::from("x"), None).expect("an upload");
    let failing = |_, _| async { panic!("secret") };
    let events = text(upload.answer(&headers("text/event-stream"), failing).await.expect("an answer")).await;
    assert!(events.contains("event: error\n") && !events.contains("secret"), "{events}");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_import() {
    struct Tell(Option<oneshot::Sender<()>>);
    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.take().map(|sender| sender.send(()));
        }
    }
    let (ended, wait) = oneshot::channel();
    let tell = Tell(Some(ended));
    let forever = move |_, _| async move {
        let _tell = tell;
        std::future::pending().await
    };
    let upload = Upload::new(Body::from("x"), None).expect("an upload");
    let response = upload.answer(&headers("text/event-stream"), forever).await.expect("an answer");
    drop(response);
    wait.await.expect("the import was dropped");
}

#[tokio::test]
async fn a_large_upload_is_refused_before_or_while_it_is_sent() {
    let Err(problem) = Upload::new(Body::from("123456"), Some(5)) else { panic!("too large") };
    assert_eq!(problem.into_body().status, 413);
    let (sender, body) = body();
    let upload = Upload::new(body, Some(5)).expect("its length is unknown");
    let sending = async {
        for _ in 0..3 {
            // The import stops reading when it has failed.
            let _ = sender.send(Ok(Bytes::from_static(b"abc"))).await;
        }
        drop(sender);
    };
    let answer_headers = headers("*/*");
    let (answer, ()) = tokio::join!(upload.answer(&answer_headers, import), sending);
    let problem = answer.expect_err("too large").into_body();
    assert_eq!(problem.status, 413);
    assert!(problem.hint.is_some_and(|hint| hint.contains("http.max-upload")));
}

#[tokio::test]
async fn many_events_do_not_stop_the_import() {
    let upload = Upload::new(Body::from("x"), None).expect("an upload");
    let chatty = |_, reporter: Reporter| async move {
        (0..10_000).for_each(|bytes| reporter(event(Phase::Restoring, bytes)));
        Ok(snapshot(1))
    };
    let events = text(upload.answer(&headers("text/event-stream"), chatty).await.expect("an answer")).await;
    assert!(events.matches("event: progress").count() <= events::BACKLOG, "{events}");
    assert!(events.contains("event: done"), "{events}");
}
