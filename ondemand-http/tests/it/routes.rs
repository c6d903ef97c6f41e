//! `/routes` and `/metrics`, of a stand-alone proxy whose table serves nobody.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use ondemand_core::config::ProxyConfig;
use ondemand_core::router::{Proxy, Table};
use ondemand_core::{Config, Secret};
use ondemand_http::{ProxyState, Routing, proxy_app, proxy_openapi};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{ask, send};

fn service() -> Router {
    proxy_app(ProxyState::new(Routing::new(Arc::new(Table::new())), &Config::default()))
}

async fn get(service: &Router, path: &str) -> crate::Answer {
    ask(service, "GET", path, Body::empty()).await
}

#[tokio::test]
async fn a_route_is_put_shown_replaced_and_deleted() {
    let service = service();
    assert_eq!(get(&service, "/routes").await.text, "[]\n");
    get(&service, "/routes/shop.localhost").await.problem(404, "not_found");

    let put = ask(&service, "PUT", "/routes/shop.localhost", r#"{"upstream":"10.0.0.5:32768"}"#).await;
    assert_eq!(put.status, StatusCode::OK, "{put:?}");
    let route = r#"{"host":"shop.localhost","upstreams":["10.0.0.5:32768"],"protocol":"http1","pending":false}"#;
    assert_eq!(put.text, format!("{route}\n"));
    assert_eq!(get(&service, "/routes/shop.localhost").await.text, put.text);

    let several = r#"{"upstreams":["10.0.0.6:80","backend:1","[::1]:80"],"protocol":"http2","pending":true}"#;
    let put = ask(&service, "PUT", "/routes/api.localhost", several).await;
    let api = json!({"host": "api.localhost", "upstreams": ["10.0.0.6:80", "backend:1", "[::1]:80"], "protocol": "http2", "pending": true});
    assert_eq!(put.json(), api);
    let replaced = ask(&service, "PUT", "/routes/shop.localhost", r#"{"upstreams":["10.0.0.7:80"]}"#).await;
    assert_eq!(get(&service, "/routes").await.json(), json!([api, replaced.json()]));

    let gone = ask(&service, "DELETE", "/routes/shop.localhost", Body::empty()).await;
    assert_eq!((gone.status, gone.text.as_str()), (StatusCode::NO_CONTENT, ""));
    ask(&service, "DELETE", "/routes/shop.localhost", Body::empty()).await.problem(404, "not_found");
    assert_eq!(get(&service, "/routes").await.json(), json!([api]));
}

#[tokio::test]
async fn what_goes_through_a_proxy_is_shown() {
    let config = ProxyConfig { listen: ([127, 0, 0, 1], 0).into(), workers: Some(1), ..ProxyConfig::default() };
    let proxy = Proxy::start(&config).await.expect("a proxy");
    let routing = Routing::new(Arc::new(proxy.clone())).with_proxy(proxy.clone());
    let service = proxy_app(ProxyState::new(routing, &Config::default()));
    let put = ask(&service, "PUT", "/routes/a.localhost", r#"{"upstream":"127.0.0.1:1"}"#).await;
    let unused = json!({
        "host": "a.localhost", "upstreams": ["127.0.0.1:1"], "protocol": "http1", "pending": false,
        "in-flight": 0, "upgrades": 0, "requests": 0, "last-active": null,
    });
    assert_eq!(put.json(), unused);
    // Nothing listens at port 1: the proxy answers itself, and that is a request too.
    let mut client = tokio::net::TcpStream::connect(proxy.address()).await.expect("a connection");
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n").await.expect("a request");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    for shown in [get(&service, "/routes").await.json()[0].clone(), get(&service, "/routes/a.localhost").await.json()] {
        assert_eq!((&shown["requests"], &shown["in-flight"]), (&json!(1), &json!(0)), "{shown}");
        assert!(shown["last-active"].as_str().is_some_and(|then| then.starts_with("20")), "{shown}");
    }
    let metrics = get(&service, "/metrics").await;
    assert_eq!(metrics.headers[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    assert!(metrics.text.contains("a.localhost"), "{metrics:?}");
    proxy.shutdown().await;
}

#[tokio::test]
async fn a_route_may_be_there_before_what_it_leads_to() {
    let service = service();
    for body in [r#"{"pending":true}"#, r#"{"pending":true,"upstreams":[]}"#] {
        let put = ask(&service, "PUT", "/routes/a", body).await;
        assert_eq!(put.json(), json!({"host": "a", "upstreams": [], "protocol": "http1", "pending": true}), "{body}");
    }
}

#[tokio::test]
async fn a_host_is_the_same_however_it_is_written() {
    let service = service();
    let put = ask(&service, "PUT", "/routes/M%C3%BCnchen.Example.", r#"{"upstream":"10.0.0.5:1"}"#).await;
    assert_eq!(put.field("host"), "xn--mnchen-3ya.example");
    for path in ["/routes/XN--mnchen-3ya.example", "/routes/m%C3%BCnchen.example", "/routes/xn--mnchen-3ya.example."] {
        assert_eq!(get(&service, path).await.text, put.text, "{path}");
    }
    let gone = ask(&service, "DELETE", "/routes/M%C3%9CNCHEN.EXAMPLE", Body::empty()).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert_eq!(get(&service, "/routes").await.text, "[]\n");
}

#[tokio::test]
async fn bad_routes_say_what_is_bad() {
    let service = service();
    let kept = ask(&service, "PUT", "/routes/a.localhost", r#"{"upstream":"10.0.0.5:1"}"#).await;
    let put = async |body: &str| {
        let answer = ask(&service, "PUT", "/routes/a.localhost", body.to_owned()).await;
        answer.problem(400, "invalid_input")
    };
    assert!(put("").await.contains("no upstream"));
    assert!(put(r#"{"upstreams":[]}"#).await.contains("no upstream"));
    assert!(
        put(r#"{"upstream":"10.0.0.5:1","upstreams":["10.0.0.5:1"]}"#).await.contains("either upstream or upstreams")
    );
    assert!(put(r#"{"upstream":"10.0.0.5"}"#).await.contains("no port"));
    assert!(put(r#"{"upstreams":["10.0.0.5:1","http://10.0.0.5:1"]}"#).await.contains("http://10.0.0.5:1"));
    assert!(put(r#"{"upstream":"10.0.0.5:1","protocol":"http3"}"#).await.contains("http3"));
    assert!(put(r#"{"upstream":"10.0.0.5:1","host":"b"}"#).await.contains("`host`"));
    assert!(put(r#"{"upstream":"10.0.0.5:1","in-flight":1}"#).await.contains("`in-flight`"));
    assert!(put(r#"{"upstream":["10.0.0.5:1"]}"#).await.contains("line 1"));
    assert!(put(r#"{"upstream":"10.0.0.5:1","upstream":"10.0.0.6:1"}"#).await.contains("duplicate"));
    assert!(put("[]").await.contains("an object is expected"));
    for host in ["a.localhost:8000", "a_b", "a%2Fb", "%20", "..", "a@b", "[::1]", "xn--%C3%BC%2F"] {
        for (method, body) in [("PUT", r#"{"upstream":"10.0.0.5:1"}"#), ("GET", ""), ("DELETE", "")] {
            let answer = ask(&service, method, &format!("/routes/{host}"), body).await;
            let detail = answer.problem(400, "invalid_name");
            assert!(host != "a.localhost:8000" || detail.contains("leave out the port"), "{detail}");
        }
    }
    ask(&service, "PUT", "/routes", r#"{"upstream":"10.0.0.5:1"}"#).await.problem(405, "unsupported");
    ask(&service, "POST", "/routes/a.localhost", "{}").await.problem(405, "unsupported");
    ask(&service, "PUT", "/routes/a.localhost", vec![b' '; (1 << 20) + 1]).await.problem(413, "quota_exceeded");
    assert_eq!(get(&service, "/routes/a.localhost").await.text, kept.text);
}

#[tokio::test]
async fn a_stand_alone_proxy_has_this_and_no_more() {
    let service = service();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(&service, path).await.json()["Status"], "ok", "{path}");
    }
    let document = serde_json::to_value(proxy_openapi()).expect("JSON");
    assert_eq!(get(&service, "/openapi.json").await.json(), document);
    for path in ["/servers", "/datasets", "/pool"] {
        get(&service, path).await.problem(404, "unsupported");
    }
    // This table sees no traffic.
    get(&service, "/metrics").await.problem(501, "unsupported");
}

/// Every operation of the description is there, and all but those that tell nothing want the token.
#[tokio::test]
async fn every_route_of_a_proxy_is_there_and_guarded() {
    let mut config = Config::default();
    config.http.token = Some(Secret::new("s3same"));
    let service = proxy_app(ProxyState::new(Routing::new(Arc::new(Table::new())), &config));
    let document = serde_json::to_value(proxy_openapi()).expect("JSON");
    let mut open = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("operations").keys() {
            let (method, path) = (method.to_uppercase(), path.replace("{host}", "a.localhost"));
            let answer = ask(&service, &method, &path, Body::empty()).await;
            if answer.status == StatusCode::UNAUTHORIZED {
                answer.problem(401, "unauthenticated");
            } else {
                open.push(format!("{method} {path}"));
            }
            let request = Request::builder().method(&*method).uri(&path).header(header::AUTHORIZATION, "Bearer s3same");
            let answer = send(&service, request.body(Body::empty()).expect("a request")).await;
            let routed = !answer.text.contains("no resource of") && answer.status != StatusCode::METHOD_NOT_ALLOWED;
            assert!(routed && answer.status != StatusCode::UNAUTHORIZED, "{method} {path}: {answer:?}");
        }
    }
    assert_eq!(open, ["GET /healthz", "GET /openapi.json", "GET /readyz"]);
}

#[tokio::test]
async fn a_server_without_a_proxy_says_so() {
    let service = proxy_app(ProxyState::new(Routing::default(), &Config::default()));
    for (method, path, body) in [
        ("GET", "/routes", ""),
        ("GET", "/routes/a", ""),
        ("PUT", "/routes/a", r#"{"pending":true}"#),
        ("DELETE", "/routes/a", ""),
        ("GET", "/metrics", ""),
    ] {
        let answer = ask(&service, method, path, body).await;
        assert!(answer.problem(501, "unsupported").contains("no proxy"), "{answer:?}");
        assert!(answer.field("hint").contains("--no-proxy"), "{answer:?}");
    }
}

#[test]
fn what_goes_through_is_described() {
    let document = serde_json::to_value(proxy_openapi()).expect("JSON");
    let text = document["components"]["schemas"].to_string();
    for field in
        ["host", "upstreams", "protocol", "pending", "owner", "in-flight", "upgrades", "requests", "last-active"]
    {
        assert!(text.contains(&format!("\"{field}\"")), "{field}: {text}");
    }
    let put = &document["components"]["schemas"]["PutRoute"]["properties"];
    assert_eq!(put["protocol"]["enum"], json!(["http1", "http2"]), "{put}");
    assert_ne!(put["upstream"], Value::Null);
}
