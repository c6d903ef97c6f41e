//! Handshakes over sockets, and files that change beneath them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PKCS_RSA_SHA256, date_time_ymd};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, ProtocolVersion, SignatureScheme};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::pair::Pair;
use super::watch::Watcher;
use super::{Certificates, LOOK_EVERY};
use crate::config::CertificateFiles;

/// A certificate that is signed by its own key.
struct Made {
    der: CertificateDer<'static>,
    certificate: String,
    key: String,
}

fn make(names: &[&str]) -> Made {
    make_with(names, &KeyPair::generate().expect("a key"), |_| {})
}

fn make_with(names: &[&str], key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Made {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("names");
    change(&mut params);
    let certificate = params.self_signed(key).expect("a certificate");
    Made { der: certificate.der().clone(), certificate: certificate.pem(), key: key.serialize_pem() }
}

impl Made {
    /// Writes both files into a directory, as one that writes in place does.
    fn write(&self, dir: &Path) -> CertificateFiles {
        fs::create_dir_all(dir).expect("a directory");
        let files = CertificateFiles { certificate: dir.join("tls.crt"), key: dir.join("tls.key") };
        fs::write(&files.certificate, &self.certificate).expect("written");
        fs::write(&files.key, &self.key).expect("written");
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).expect("its owner's");
        files
    }
}

/// Answers each byte with the same, behind TLS.
struct Server {
    address: SocketAddr,
    task: AbortHandle,
}

impl Server {
    async fn start(certificates: &Arc<Certificates>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let acceptor = TlsAcceptor::from(certificates.server_config());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let accept = acceptor.accept(socket);
                connections.spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(accept.await?);
                    tokio::io::copy(&mut reader, &mut writer).await?;
                    writer.shutdown().await
                });
            }
        });
        Self { address, task: task.abort_handle() }
    }

    async fn connect(&self, config: &Arc<ClientConfig>, name: &str) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.address).await.expect("a connection");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, socket).await.expect("a handshake");
        // In TLS 1.3 the server may yet refuse; and tickets come with the first bytes.
        echo(&mut stream).await;
        stream
    }

    /// Returns the certificate that a new client is shown, who says no name where it asks for an address.
    async fn shows(&self, name: &str) -> CertificateDer<'static> {
        shown(&self.connect(&client(&[]), name).await)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(b"x").await.expect("written");
    let mut byte = [0];
    stream.read_exact(&mut byte).await.expect("read");
    assert_eq!(&byte, b"x");
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("certificates")[0].clone()
}

fn client(alpn: &[&str]) -> Arc<ClientConfig> {
    client_of(alpn, rustls::DEFAULT_VERSIONS)
}

fn client_of(alpn: &[&str], versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Checks that the server has the certificate's key, and not whose it is.
#[derive(Debug)]
struct AnyCertificate;

static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
    LazyLock::new(|| aws_lc_rs::default_provider().signature_verification_algorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &ALGORITHMS)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

#[tokio::test]
async fn the_name_asked_for_chooses_the_certificate() {
    let dir = directory();
    let first = make(&["first.example"]);
    let wildcard = make(&["*.env.dev.internal", "env.dev.internal"]);
    let exact = make(&["Api.Env.Dev.Internal"]);
    let again = make(&["*.env.dev.internal"]);
    let files = [("1", &first), ("2", &wildcard), ("3", &exact), ("4", &again)];
    let files = files.map(|(name, made)| made.write(&dir.path().join(name)));
    let server = Server::start(&Certificates::load(&files).expect("loaded")).await;

    assert!(server.shows("demo.env.dev.internal").await == wildcard.der, "one label in the wildcard's place");
    assert!(server.shows("env.dev.internal").await == wildcard.der, "another name of the same certificate");
    assert!(server.shows("api.env.dev.internal").await == exact.der, "the exact name before the wildcard");
    assert!(server.shows("API.env.dev.INTERNAL").await == exact.der, "in whatever case");
    assert!(server.shows("a.demo.env.dev.internal").await == first.der, "two labels are not the wildcard's");
    assert!(server.shows("unknown.example").await == first.der, "a name that no certificate is for");
    assert!(server.shows("127.0.0.1").await == first.der, "no name, as addresses are not sent");
}

#[tokio::test]
async fn kinds_of_keys_versions_and_protocols_are_agreed_on() {
    let dir = directory();
    let ed25519 = make_with(&["ed.example"], &KeyPair::generate_for(&PKCS_ED25519).expect("a key"), |_| {});
    let rsa = make_with(&["rsa.example"], &KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key"), |_| {});
    let files = [("1", &ed25519), ("2", &rsa)].map(|(name, made)| made.write(&dir.path().join(name)));
    let server = Server::start(&Certificates::load(&files).expect("loaded")).await;

    assert!(server.shows("ed.example").await == ed25519.der);
    assert!(server.shows("rsa.example").await == rsa.der);
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let stream = server.connect(&client(offered), "rsa.example").await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed.map(str::as_bytes), "{offered:?}");
    }
    for (offered, agreed) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let config = client_of(&[], &[offered]);
        let stream = server.connect(&config, "rsa.example").await;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(agreed));
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        drop(stream);
        let again = server.connect(&config, "rsa.example").await;
        assert_eq!(again.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed), "{agreed:?}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections() {
    let dir = directory();
    let (old, new, other) = (make(&["a.example"]), make(&["a.example"]), make(&["b.example"]));
    let files = [old.write(&dir.path().join("a")), other.write(&dir.path().join("b"))];
    let certificates = Certificates::load(&files).expect("loaded");
    let server = Server::start(&certificates).await;
    let watching = tokio::spawn(Arc::clone(&certificates).watch());
    let mut open = server.connect(&client(&[]), "a.example").await;
    assert!(shown(&open) == old.der);

    new.write(&dir.path().join("a"));
    let replaced = async {
        while server.shows("a.example").await != new.der {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LOOK_EVERY * 20, replaced).await.expect("the new certificate is shown");
    echo(&mut open).await;
    assert!(server.shows("b.example").await == other.der, "others stay what they were");
    watching.abort();
}

#[tokio::test]
async fn a_pair_that_does_not_fit_keeps_the_old_one() {
    let dir = directory();
    let (old, new) = (make(&["a.example"]), make(&["a.example"]));
    let files = old.write(dir.path());
    let certificates = Certificates::load(std::slice::from_ref(&files)).expect("loaded");
    let server = Server::start(&certificates).await;
    let mut watcher = Watcher::new(&certificates);
    watcher.look();

    let broken: [&dyn Fn(); 4] = [
        // The certificate is new, and the key is yet to come.
        &|| fs::write(&files.certificate, &new.certificate).expect("written"),
        &|| fs::write(&files.certificate, &new.certificate[..200]).expect("written"),
        &|| fs::write(&files.certificate, "").expect("written"),
        &|| fs::remove_file(&files.certificate).expect("removed"),
    ];
    for (index, change) in broken.into_iter().enumerate() {
        change();
        for look in 0..3 {
            watcher.look();
            assert!(server.shows("a.example").await == old.der, "change {index}, look {look}");
        }
    }
    new.write(dir.path());
    watcher.look();
    assert!(server.shows("a.example").await == new.der, "both are there");
}

#[test]
fn what_is_written_within_one_tick_of_the_clock_is_read() {
    let dir = directory();
    let key = KeyPair::generate().expect("a key");
    let made = [1, 2].map(|serial| make_with(&["a.example"], &key, |p| p.serial_number = Some(vec![serial].into())));
    // Certificates of one length: their signatures are of one now and then.
    let (old, mut new) = made.into();
    while new.certificate.len() != old.certificate.len() {
        new = make_with(&["a.example"], &key, |p| p.serial_number = Some(vec![2].into()));
    }
    let files = old.write(dir.path());
    let certificates = Certificates::load(std::slice::from_ref(&files)).expect("loaded");
    let shown = || certificates.resolver.shown().choose(None).expect("a certificate").cert[0].clone();
    let mut watcher = Watcher::new(&certificates);
    watcher.look();
    fs::write(&files.certificate, &new.certificate).expect("written");
    // As a clock would have it that has not moved on since the first look.
    watcher.pretend_unchanged();
    watcher.look();
    assert!(shown() == new.der);
}

#[test]
fn links_that_are_swapped_are_followed() {
    let dir = directory();
    let (old, new) = (make(&["a.example"]), make(&["a.example"]));
    old.write(&dir.path().join("..1"));
    new.write(&dir.path().join("..2"));
    // As Kubernetes lays secrets out: files are links into a directory that is itself a link, which is replaced by renaming.
    symlink("..1", dir.path().join("..data")).expect("a link");
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), dir.path().join(name)).expect("a link");
    }
    let files = CertificateFiles { certificate: dir.path().join("tls.crt"), key: dir.path().join("tls.key") };
    let certificates = Certificates::load(&[files]).expect("loaded");
    let shown = || certificates.resolver.shown().choose(None).expect("a certificate").cert[0].clone();
    let mut watcher = Watcher::new(&certificates);
    for _ in 0..3 {
        watcher.look();
        assert!(shown() == old.der);
    }
    symlink("..2", dir.path().join("..data_tmp")).expect("a link");
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).expect("swapped");
    watcher.look();
    assert!(shown() == new.der);

    // As certbot does: each file's own link is replaced, one after the other.
    for (name, expected) in [("tls.crt", &new), ("tls.key", &old)] {
        symlink(Path::new("..1").join(name), dir.path().join("link")).expect("a link");
        fs::rename(dir.path().join("link"), dir.path().join(name)).expect("swapped");
        watcher.look();
        assert!(shown() == expected.der, "after {name}");
    }
}

#[test]
fn a_broken_pair_is_spoken_of_once() {
    let dir = directory();
    let files = make(&["a.example"]).write(dir.path());
    let certificates = Certificates::load(std::slice::from_ref(&files)).expect("loaded");
    let mut watcher = Watcher::new(&certificates);
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        watcher.look();
        watcher.look();
        assert_eq!(warnings.count(), 0, "nothing changed");
        fs::write(&files.key, make(&["a.example"]).key).expect("written");
        watcher.look();
        assert_eq!(warnings.count(), 0, "the certificate may yet come");
        for _ in 0..5 {
            watcher.look();
            assert_eq!(warnings.count(), 1);
        }
        fs::write(&files.key, "and now it is no key at all").expect("written");
        for _ in 0..5 {
            watcher.look();
        }
        assert_eq!(warnings.count(), 2, "another change, another failure");
        make(&["a.example"]).write(dir.path());
        watcher.look();
        watcher.look();
        assert_eq!(warnings.count(), 2, "mended");
    });
}

/// Counts what is logged as a warning.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl Warnings {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        if *event.metadata().level() == tracing::Level::WARN {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn what_is_questionable_is_used_and_warned_of() {
    let dir = directory();
    let key = KeyPair::generate().expect("a key");
    let warnings_of = |made: &Made, mode: u32| {
        let files = made.write(dir.path());
        fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).expect("a mode");
        let warnings = Warnings::default();
        tracing::subscriber::with_default(warnings.clone(), || Certificates::load(&[files]).map(drop)).expect("loaded");
        warnings.count()
    };
    let good = make_with(&["a.example"], &key, |_| {});
    assert_eq!(warnings_of(&good, 0o600), 0);
    assert_eq!(warnings_of(&good, 0o640), 0, "a group that is to read it");
    assert_eq!(warnings_of(&good, 0o644), 1, "everybody reads it");
    let expired = make_with(&["a.example"], &key, |p| p.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(warnings_of(&expired, 0o600), 1);
    let early = make_with(&["a.example"], &key, |p| p.not_before = date_time_ymd(4000, 1, 1));
    assert_eq!(warnings_of(&early, 0o600), 1);
    assert_eq!(warnings_of(&make(&[]), 0o600), 1, "it has no name");
}

#[test]
fn errors_name_the_file_and_what_is_wrong_with_it() {
    let dir = directory();
    let made = make(&["a.example"]);
    let other = make(&["a.example"]);
    let base64: String = made.key.lines().filter(|line| !line.starts_with('-')).collect();
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let encrypted = made.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let one_line = format!("-----BEGIN PRIVATE KEY-----{base64}-----END PRIVATE KEY-----\n");
    let large = vec![b'-'; (1 << 20) + 1];
    let (crt, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let cases: &[(&Path, Option<&[u8]>, &str)] = &[
        (&crt, None, "does not exist"),
        (&crt, Some(b""), "is empty"),
        (&crt, Some(&made.der), "is not PEM"),
        (&crt, Some(made.key.as_bytes()), "holds no certificate"),
        (&crt, Some(&made.certificate.as_bytes()[..300]), "is cut off: an END line is missing"),
        (
            &crt,
            Some(b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n"),
            "is not PEM: a section is malformed",
        ),
        (
            &crt,
            Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "does not hold a certificate of a server",
        ),
        (&crt, Some(&large), "is too large to be one"),
        (&key, None, "does not exist"),
        (&key, Some(made.certificate.as_bytes()), "holds no private key"),
        (&key, Some(encrypted.as_bytes()), "is encrypted; store it without a passphrase"),
        (&key, Some(legacy.as_bytes()), "is encrypted; store it without a passphrase"),
        (&key, Some(one_line.as_bytes()), "is cut off: an END line is missing"),
        (
            &key,
            Some(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
            "holds a private key of a kind that is not known",
        ),
        (&key, Some(other.key.as_bytes()), "does not belong to"),
    ];
    for (path, bytes, expected) in cases {
        let files = made.write(dir.path());
        match bytes {
            Some(bytes) => fs::write(path, bytes).expect("written"),
            None => fs::remove_file(path).expect("removed"),
        }
        let error = Certificates::load(&[files]).expect_err(expected);
        assert!(matches!(error, crate::Error::InvalidInput { .. }), "{error:?}");
        let text = error.to_string();
        let expected = format!("{} {expected}", path.display());
        assert!(text.contains(&expected), "{text:?} says {expected:?}");
        assert!(!text.contains(&base64[..16]), "{text}");
    }
    assert!(Certificates::load(&[]).expect_err("none").to_string().contains("proxy.certificates"));
}

#[test]
fn a_key_is_never_printed() {
    let dir = directory();
    let made = make(&["a.example"]);
    let certificates = Certificates::load(&[made.write(dir.path())]).expect("loaded");
    let printed = format!("{certificates:?} {:?}", certificates.resolver);
    assert!(printed.contains("tls.key"), "{printed}");
    let line = made.key.lines().nth(1).expect("a line");
    assert!(!printed.contains(line), "{printed}");
    assert!(printed.len() < 1000, "{printed}");
}

#[test]
fn a_chain_and_a_file_for_both_are_read() {
    let dir = directory();
    let (made, issuer) = (make(&["a.example"]), make(&["issuer"]));
    let path: PathBuf = dir.path().join("all.pem");
    fs::write(&path, format!("# a comment\n{}\n{}{}", made.key, made.certificate, issuer.certificate))
        .expect("written");
    let pair = Pair::read(&CertificateFiles { certificate: path.clone(), key: path }).expect("read");
    assert_eq!(pair.certified.cert, [made.der, issuer.der]);
    assert_eq!(pair.names, ["a.example"]);
}
