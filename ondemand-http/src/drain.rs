//! Makes early answers arrive.
//!
//! An answer may be there before the request was read: a wrong token, a bad dump. If the connection were closed with bytes
//! unread, the system would reset it, and the client would see a broken connection instead of the answer. So what is left of a
//! body is read and thrown away for a while.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

/// How long a client may go on sending after it was answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// Arms the body of a request: dropped before its end, it is drained.
pub(crate) async fn arm(request: Request) -> Request {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return Request::from_parts(parts, body);
    }
    // A client that waits to be asked for the body sends none after another answer; reading would ask for it.
    let invited = !parts.headers.contains_key(header::EXPECT);
    Request::from_parts(parts, Body::new(Draining { body: Some(body), invited, ended: false }))
}

/// A body that is drained when it is dropped.
#[derive(Debug)]
struct Draining {
    body: Option<Body>,
    /// Whether the client sends without being asked, or was asked.
    invited: bool,
    /// Whether there is nothing more to read.
    ended: bool,
}

impl HttpBody for Draining {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.invited = true;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.ended = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        if self.ended || !self.invited || body.is_end_stream() {
            return;
        }
        // Without a runtime there is no connection to keep either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let drained = async { while let Some(Ok(_)) = body.frame().await {} };
                // Past its time the connection is closed as it is.
                let _ = tokio::time::timeout(PATIENCE, drained).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tokio::sync::mpsc;

    use super::*;

    /// Makes a request whose body's chunks come from the sender.
    fn request(expect: bool) -> (Request, mpsc::Sender<Bytes>) {
        let (sender, receiver) = mpsc::channel(1);
        let chunks = futures_util::stream::unfold(receiver, |mut receiver: mpsc::Receiver<Bytes>| async {
            receiver.recv().await.map(|chunk| (Ok::<_, std::io::Error>(chunk), receiver))
        });
        let mut request = Request::new(Body::from_stream(chunks));
        if expect {
            request.headers_mut().insert(header::EXPECT, header::HeaderValue::from_static("100-continue"));
        }
        (request, sender)
    }

    #[tokio::test]
    async fn a_dropped_body_is_read_to_its_end() {
        let (request, sender) = request(false);
        drop(arm(request).await);
        for _ in 0..10 {
            sender.send(Bytes::from_static(b"x")).await.expect("someone reads");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn draining_has_an_end() {
        let (request, sender) = request(false);
        drop(arm(request).await);
        // The paused clock jumps when nothing else happens, so this ends when the drain gives up.
        sender.closed().await;
    }

    #[tokio::test]
    async fn a_body_that_was_not_asked_for_is_not_read() {
        let (request, sender) = request(true);
        drop(arm(request).await);
        assert!(sender.is_closed());
        let (request, sender) = self::request(true);
        sender.send(Bytes::from_static(b"x")).await.expect("a place");
        let mut body = arm(request).await.into_body().into_data_stream();
        assert_eq!(body.next().await.expect("a chunk").expect("bytes"), "x");
        drop(body);
        // Once it was asked for, it is on its way.
        assert!(!sender.is_closed());
    }

    #[tokio::test]
    async fn a_body_keeps_its_length() {
        let request = arm(Request::new(Body::from("12345"))).await;
        assert_eq!(request.body().size_hint().exact(), Some(5));
    }
}
