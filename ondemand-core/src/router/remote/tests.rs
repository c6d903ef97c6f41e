use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn host() -> Hostname {
    Hostname::new("a.example").unwrap()
}

fn route() -> Route {
    Route::new(host(), ["10.0.0.1:80".parse().unwrap()])
}

/// Answers one request with these bytes, and returns what was asked.
async fn answering(answer: impl Into<String>) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, answer) = (listener.local_addr().unwrap(), answer.into());
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        let is_whole = |asked: &[u8]| {
            let text = String::from_utf8_lossy(asked).to_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            body.len() >= length.parse::<usize>().unwrap()
        };
        while !is_whole(&asked) {
            assert_ne!(stream.read_buf(&mut asked).await.unwrap(), 0, "half a request");
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(asked).unwrap()
    });
    (address, asked)
}

fn answer(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn problem(error: &Error, status: u16) -> String {
    let detail = error.to_string();
    let causes: Vec<_> = std::error::Error::source(error).iter().map(ToString::to_string).collect();
    let problem = serde_json::json!({
        "type": format!("urn:ondemand:error:{}", error.code()), "title": "t", "status": status, "detail": detail,
        "code": error.code(), "hint": error.hint(), "causes": causes, "log": error.log(),
    });
    answer(status, &problem.to_string())
}

#[tokio::test]
async fn a_route_is_put_with_the_token() {
    let (address, asked) = answering(answer(200, "{}")).await;
    let remote = Remote::new(&format!("http://{address}/api/"), Some(Secret::new("s3same"))).unwrap();
    assert!(!format!("{remote:?}").contains("s3same"), "{remote:?}");
    remote.set(&route().with_protocol(Protocol::Http2)).await.unwrap();
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("PUT /api/routes/a.example HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("\r\nauthorization: Bearer s3same\r\n"), "{asked}");
    assert!(asked.ends_with(r#"{"upstreams":["10.0.0.1:80"],"protocol":"http2","pending":false}"#), "{asked}");
}

#[tokio::test]
async fn what_is_shown_besides_the_route_is_passed_over() {
    let shown =
        r#"{"host":"a.example","upstreams":["10.0.0.1:80"],"protocol":"http1","pending":false,"in-flight":1,"new":{}}"#;
    let (address, asked) = answering(answer(200, shown)).await;
    let remote = Remote::new(&format!("http://{address}"), None).unwrap();
    assert_eq!(remote.get(&host()).await.unwrap(), route());
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("GET /routes/a.example HTTP/1.1\r\n") && !asked.contains("uthorization"), "{asked}");
}

/// Whatever went wrong there is the same error here, with the same words and the same hint.
#[tokio::test]
async fn errors_come_back_as_they_were() {
    let (message, hint) = (String::from("the message"), String::from("the hint"));
    let errors = [
        Error::not_found(Kind::Route, host()),
        Error::already_exists(Kind::Route, host()),
        Error::Conflict { message: message.clone(), hint: hint.clone() },
        Error::InvalidName { kind: Kind::Host, name: "a.example".into(), reason: "no name: of mine".into() },
        Error::invalid("upstream \"x\"", "it is: bad"),
        Error::InvalidDump { message: message.clone(), log: vec!["a line".into()], hint: hint.clone() },
        Error::Forbidden { message: message.clone() },
        Error::Unauthenticated { message: message.clone(), hint: hint.clone() },
        Error::QuotaExceeded { message: message.clone(), hint: hint.clone() },
        Error::OutOfSpace { message: message.clone() },
        Error::NotReady { waited: Duration::ZERO, last: message.clone(), log: vec!["a line".into()] },
        Error::Unsupported { message, hint },
        Error::Cancelled,
    ];
    let mut codes: Vec<_> = errors.iter().map(Error::code).collect();
    for error in errors {
        let (address, _asked) = answering(problem(&error, 400)).await;
        let remote = Remote::new(&format!("http://{address}"), None).unwrap();
        let told = remote.set(&route()).await.unwrap_err();
        let parts = |e: &Error| (e.code(), e.to_string(), e.log().to_vec());
        assert_eq!(parts(&told), parts(&error));
        if !matches!(error, Error::InvalidDump { .. }) {
            assert_eq!(told.hint(), error.hint());
        }
    }
    codes.push(Code::Backend);
    // A proxy knows neither templates nor services.
    let others = [Code::InvalidTemplate, Code::ServiceFailed];
    let told: Vec<_> = Code::ALL.into_iter().filter(|code| !others.contains(code)).collect();
    assert_eq!(codes, told, "a code is missing here");
}

#[tokio::test]
async fn what_failed_there_says_why() {
    for (status, transient) in [(500, false), (503, true)] {
        let there = Error::backend("routes", "writing", "the disk is gone");
        let (address, _asked) = answering(problem(&there, status)).await;
        let remote = Remote::new(&format!("http://{address}"), None).unwrap();
        let told = remote.set(&route()).await.unwrap_err();
        assert_eq!((told.code(), told.is_transient()), (Code::Backend, transient));
        let source = std::error::Error::source(&told).unwrap().to_string();
        assert_eq!(source, "routes: writing failed: the disk is gone");
        assert!(told.to_string().contains(&address.to_string()), "{told}");
    }
}

#[tokio::test]
async fn what_is_gone_is_removed() {
    let gone = problem(&Error::not_found(Kind::Route, host()), 404);
    let (address, asked) = answering(gone).await;
    Remote::new(&format!("http://{address}"), None).unwrap().remove(&host()).await.unwrap();
    assert!(asked.await.unwrap().starts_with("DELETE /routes/a.example "));
    // A place where nothing is known of routes has removed none.
    for other in [answer(404, "<html>not here</html>"), answer(404, r#"{"status":404,"detail":"x","code":"new"}"#)] {
        let (address, _asked) = answering(other).await;
        let error = Remote::new(&format!("http://{address}"), None).unwrap().remove(&host()).await.unwrap_err();
        assert_eq!((error.code(), error.is_transient()), (Code::Backend, false));
    }
}

#[tokio::test]
async fn another_server_is_recognised() {
    let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_owned();
    for (other, transient) in
        [(elsewhere, false), (answer(502, "<html>"), true), (answer(200, "<html>"), false), (answer(200, "{}"), false)]
    {
        let (address, _asked) = answering(other.clone()).await;
        let error = Remote::new(&format!("http://{address}"), None).unwrap().list().await.unwrap_err();
        assert_eq!((error.code(), error.is_transient()), (Code::Backend, transient), "{other}: {error:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_does_not_answer_may_later() {
    // Port 1 of loopback: nothing listens there.
    let remote = Remote::new("http://127.0.0.1:1", None).unwrap();
    let refused = remote.list().await.unwrap_err();
    let (address, _asked) = answering("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[").await;
    let cut_off = Remote::new(&format!("http://{address}"), None).unwrap().list().await.unwrap_err();
    for error in [refused, cut_off] {
        assert!(matches!(error, Error::Backend { transient: true, .. }), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("the proxy runs")));
    }
}

#[test]
fn only_the_url_of_a_server_will_do() {
    for good in ["http://127.0.0.1:8080", "https://proxy.internal/", "http://[::1]:80/api"] {
        assert!(Remote::new(good, None).is_ok(), "{good}");
    }
    for bad in
        ["", "127.0.0.1:8080", "proxy.internal", "ftp://proxy.internal", "mailto:a@b", "http://", "http://u:hunter2@a"]
    {
        let error = Remote::new(bad, None).unwrap_err();
        assert_eq!(error.code(), Code::InvalidInput, "{bad}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
