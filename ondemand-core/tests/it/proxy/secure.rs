//! TLS, as clients of a running proxy meet it.

use std::path::Path;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use ondemand_core::config::CertificateFiles;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;

use super::lab::{self, Lab, get};

/// Writes a certificate for some names, and returns it.
fn certify(files: &CertificateFiles, names: &[&str]) -> CertificateDer<'static> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    made.cert.der().clone()
}

fn files(dir: &Path, name: &str) -> CertificateFiles {
    CertificateFiles { certificate: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) }
}

async fn start(certificates: Vec<CertificateFiles>, redirect: bool, trust: bool) -> Lab {
    lab::start_with(move |config| {
        config.tls_listen = Some("127.0.0.1:0".parse().unwrap());
        (config.certificates, config.redirect, config.trust_forwarded) = (certificates, redirect, trust);
    })
    .await
}

/// Connects by TLS as a client that trusts this certificate alone.
async fn connect(lab: &Lab, name: &str, trusted: &CertificateDer<'static>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(lab.proxy.tls_address().unwrap()).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    lab::within("a TLS handshake", TlsConnector::from(Arc::new(config)).connect(name, socket)).await
}

#[tokio::test]
async fn a_websocket_works_through_tls() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(dir.path(), "a");
    let trusted = certify(&files, &["app.example"]);
    let lab = start(vec![files], false, false).await;
    let upstream = lab.scripted("app.example").await;
    let serving = tokio::spawn(async move {
        let mut socket = tokio_tungstenite::accept_async(upstream.accept().await.into_stream()).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() {
                break;
            }
            socket.send(message).await.unwrap();
        }
    });
    let stream = connect(&lab, "app.example", &trusted).await.unwrap();
    let opening = tokio_tungstenite::client_async("wss://app.example/ws", stream);
    let (mut socket, answer) = Box::pin(lab::within("the handshake", opening)).await.unwrap();
    assert_eq!(answer.status(), 101);
    for length in [1, 70_000, 3_000_000] {
        let message = Message::binary(vec![7; length]);
        lab::within("sending", socket.send(message.clone())).await.unwrap();
        assert_eq!(lab::within("an echo", socket.next()).await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    lab::within("the end", serving).await.unwrap();
}

/// Who renews a certificate only writes its files; connections that are open stay open.
#[tokio::test]
async fn a_running_proxy_takes_up_files_that_change() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (files(dir.path(), "one"), files(dir.path(), "two"));
    let first = certify(&one, &["*.dev.example"]);
    let other = certify(&two, &["special.dev.example"]);
    let lab = start(vec![one.clone(), two], false, false).await;
    connect(&lab, "app.dev.example", &first).await.unwrap();
    // The name decides, and the more exact one wins.
    connect(&lab, "special.dev.example", &other).await.unwrap();
    connect(&lab, "special.dev.example", &first).await.unwrap_err();

    let second = certify(&one, &["*.dev.example"]);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while connect(&lab, "app.dev.example", &second).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is not taken up");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    connect(&lab, "app.dev.example", &first).await.unwrap_err();
    connect(&lab, "special.dev.example", &other).await.unwrap();
}

#[tokio::test]
async fn plain_requests_for_known_hosts_are_sent_on_to_https() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(dir.path(), "a");
    certify(&files, &["app.example"]);
    let lab = start(vec![files], true, true).await;
    let server = lab.serving("app.example").await;
    let port = lab.proxy.tls_address().unwrap().port();
    for (request, location) in [
        (get("App.Example:8000", "/a?b=c"), "/a?b=c"),
        (get("ignored", "http://app.example?b=c"), "/?b=c"),
        ("OPTIONS * HTTP/1.1\r\nHost: app.example\r\n\r\n".to_owned(), "/"),
    ] {
        let answer = lab.ask(&request).await;
        assert_eq!(answer.status(), 308, "{request:?}");
        assert_eq!(answer.one("location"), format!("https://app.example:{port}{location}"), "{request:?}");
    }
    // Where there is nothing, nobody is sent; and a proxy before this one may have had TLS already.
    assert_eq!(lab.ask(get("other.example", "/")).await.status(), 404);
    assert_eq!(lab.ask("GET / HTTP/1.0\r\n\r\n").await.status(), 404);
    assert_eq!(server.requests().len(), 0);
    let behind = "GET /x HTTP/1.1\r\nHost: app.example\r\nX-Forwarded-Proto: https\r\n\r\n";
    assert_eq!(lab.ask(behind).await.text(), "GET /x");
}
