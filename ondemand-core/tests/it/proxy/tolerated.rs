//! Messages that break a rule and can be read in one way only. The proxy corrects them and passes them on.

use super::lab::{self, get, post, reply};

#[tokio::test]
async fn a_later_http_1_is_taken_for_1_1() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    let mut client = lab.client().await;
    for minor in [2, 9] {
        client.send(format!("POST /x HTTP/1.{minor}\r\nHost: app.example\r\nContent-Length: 3\r\n\r\nabc")).await;
        let (mut connection, request) = upstream.request().await;
        assert_eq!((request.start.as_str(), &*request.body), ("POST /x HTTP/1.1", &b"abc"[..]));
        connection.send(format!("HTTP/1.{minor} 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")).await;
        let answer = client.answer().await;
        assert_eq!((answer.start.as_str(), answer.text().as_str()), ("HTTP/1.1 200 OK", "ok"));
    }
}

#[tokio::test]
async fn an_answer_is_passed_on_as_it_should_have_been() {
    let lab = lab::start().await;
    let upstream = lab.scripted("app.example").await;
    for (answer, fields, text) in [
        ("X : a\r\nContent-Length: 2\r\n\r\nok", &[("X", "a"), ("Content-Length", "2")][..], "ok"),
        (
            "A: 1\r\nX\t : a\r\nX : b\r\nContent-Length : 2\r\nZ: 1\r\n\r\nok",
            &[("A", "1"), ("X", "a"), ("X", "b"), ("Content-Length", "2"), ("Z", "1")],
            "ok",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n2   \r\nok\r\n0\t\r\nContent-Length: 5\r\n\r\n",
            &[("Transfer-Encoding", "chunked")],
            "ok",
        ),
        (
            "Transfer-Encoding : chunked\r\n\r\n2\r\nok\r\n0\r\nHost : x\r\n\r\n",
            &[("Transfer-Encoding", "chunked")],
            "ok",
        ),
        (
            "Trailer: X-Sum, Set-Cookie\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSet-Cookie: a=b\r\n\r\n",
            &[("Trailer", "X-Sum"), ("Transfer-Encoding", "chunked")],
            "",
        ),
    ] {
        let mut client = lab.client().await;
        client.send(get("app.example", "/")).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{answer}")).await;
        let passed_on = client.answer().await;
        let found: Vec<_> = passed_on.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!((&found[..], passed_on.text().as_str()), (fields, text), "{answer:?}");
        assert_eq!(passed_on.trailers, [], "{answer:?}");
    }
}

/// A request that meets a connection which is just being closed is sent again, whole, if doing it twice is as good as once.
#[tokio::test]
async fn a_request_with_a_body_is_sent_again_where_that_does_no_harm() {
    let lab = lab::start_with(|config| config.workers = Some(1)).await;
    let upstream = lab.scripted("app.example").await;
    let large = "x".repeat(200 << 10);
    for (i, (method, body, again)) in
        [("PUT", "abc", true), ("DELETE", "abc", true), ("POST", "abc", false), ("PUT", large.as_str(), false)]
            .into_iter()
            .enumerate()
    {
        let mut client = lab.client().await;
        client.send(get("app.example", "/first")).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(reply("200 OK", "first")).await;
        assert_eq!(client.answer().await.text(), "first");
        // It reads the whole request and closes, as a server does whose time for idle connections is over.
        client.send(post("app.example", &format!("/{i}"), body).replacen("POST", method, 1)).await;
        let request = connection.request().await;
        assert_eq!((request.target(), request.body.len()), (&*format!("/{i}"), body.len()));
        drop(connection);
        if !again {
            assert_eq!(client.answer().await.status(), 502, "{method} {}", body.len());
            continue;
        }
        let (mut connection, request) = upstream.request().await;
        assert_eq!((request.start.as_str(), &*request.body), (&*format!("{method} /{i} HTTP/1.1"), body.as_bytes()));
        connection.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ndone").await;
        assert_eq!(client.answer().await.text(), "done", "{method}");
    }
}
