//! What a URL makes of its files, and what is said of servers that are not trusted. Handshakes that succeed need certificates: they
//! are in `tests/db/tls.rs`.

use std::path::PathBuf;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;
use crate::url::ConnectionUrl;

/// Of an authority that many trust (ISRG Root X2). Whether it is still valid plays no part.
const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIICGzCCAaGgAwIBAgIQQdKd0XLq7qeAwSxs6S+HUjAKBggqhkjOPQQDAzBPMQsw
CQYDVQQGEwJVUzEpMCcGA1UEChMgSW50ZXJuZXQgU2VjdXJpdHkgUmVzZWFyY2gg
R3JvdXAxFTATBgNVBAMTDElTUkcgUm9vdCBYMjAeFw0yMDA5MDQwMDAwMDBaFw00
MDA5MTcxNjAwMDBaME8xCzAJBgNVBAYTAlVTMSkwJwYDVQQKEyBJbnRlcm5ldCBT
ZWN1cml0eSBSZXNlYXJjaCBHcm91cDEVMBMGA1UEAxMMSVNSRyBSb290IFgyMHYw
EAYHKoZIzj0CAQYFK4EEACIDYgAEzZvVn4CDCuwJSvMWSj5cz3es3mcFDR0HttwW
+1qLFNvicWDEukWVEYmO6gbf9yoWHKS5xcUy4APgHoIYOIvXRdgKam7mAHf7AlF9
ItgKbppbd9/w+kHsOdx1ymgHDB/qo0IwQDAOBgNVHQ8BAf8EBAMCAQYwDwYDVR0T
AQH/BAUwAwEB/zAdBgNVHQ4EFgQUfEKWrt5LSDv6kviejM9ti6lyN5UwCgYIKoZI
zj0EAwMDaAAwZQIwe3lORlCEwkSHRhtFcP9Ymd70/aTSVaYgLXTWNLxBo1BfASdW
tL4ndQavEi51mI38AjEAi/V3bNTIZargCyzuFJ0nN6T5U6VR5CmD1/iQMVtCnwr1
/q4AaOeMSQ+2b1tbFfLn
-----END CERTIFICATE-----
";

/// A file that goes with it.
struct Written(PathBuf);

impl Written {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("paystrata-tls-{}", uuid::Uuid::new_v4().simple()));
        fs::write(&path, text).expect("write a file");
        Self(path)
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _removed = fs::remove_file(&self.0);
    }
}

fn parsed(words: &str) -> Result<ConnectionUrl, UrlError> {
    format!("postgres://pay:s3cret@db1/x?{words}").parse()
}

fn refusal(words: &str) -> UrlError {
    parsed(words).expect_err(words)
}

#[test]
fn url_that_demands_tls_has_it_in_every_copy() {
    let roots = Written::new(AUTHORITY);
    for mode in ["require", "verify-ca", "verify-full"] {
        let url = parsed(&format!("sslmode={mode}&sslrootcert={}", roots.path())).expect(mode);
        assert!(url.demands_tls() && url.to_database("other").demands_tls(), "{mode}");
        assert!(!url.prefers_tls_over_a_network(), "{mode}");
        assert_eq!(url.settings().get_ssl_mode(), tokio_postgres::config::SslMode::Require, "{mode}");
        assert_eq!(url.to_string(), "postgres://pay:***@db1:5432/x");
    }
    for mode in ["disable", "prefer"] {
        assert!(!parsed(&format!("sslmode={mode}")).expect(mode).demands_tls(), "{mode}");
    }
    let quoted = format!("host=::1 sslmode='verify-full' sslrootcert='{}'", roots.path());
    assert!(quoted.parse::<ConnectionUrl>().expect("an address has a name").demands_tls());
}

#[test]
fn file_that_cannot_be_used_is_told_by_its_parameter_and_by_nothing_else() {
    let (roots, text) = (Written::new(AUTHORITY), Written::new("no certificate: s3cret"));
    let broken = Written::new("-----BEGIN CERTIFICATE-----\ns3cret!\n-----END CERTIFICATE-----\n");
    let no_certificate = Written::new("-----BEGIN CERTIFICATE-----\nczNjcmV0\n-----END CERTIFICATE-----\n");
    let mut refused = vec![
        ("sslrootcert", "sslrootcert=/s3cret/is/not/there".to_owned()),
        ("sslrootcert", format!("sslrootcert={}", std::env::temp_dir().display())),
    ];
    for file in [&text, &broken, &no_certificate] {
        refused.push(("sslrootcert", format!("sslrootcert={}", file.path())));
    }
    let trusting = format!("sslrootcert={}", roots.path());
    refused.extend([
        ("sslcert", format!("{trusting}&sslcert=/s3cret/is/not/there&sslkey=/s3cret")),
        ("sslcert", format!("{trusting}&sslcert={}&sslkey=/s3cret", text.path())),
        ("sslkey", format!("{trusting}&sslcert={}&sslkey=/s3cret", roots.path())),
        ("sslkey", format!("{trusting}&sslcert={0}&sslkey={0}", roots.path())),
        ("sslkey", format!("{trusting}&sslcert={}", roots.path())),
        ("sslcert", format!("{trusting}&sslkey={}", roots.path())),
    ]);
    for (parameter, words) in refused {
        let error = refusal(&format!("{words}&sslmode=verify-full"));
        assert_eq!(error.parameter(), Some(parameter), "{words}: {error}");
        let said = format!("{error} {error:?}");
        assert!(said.contains(parameter) && !said.contains("s3cret"), "{said}");
        assert!(!said.contains(&roots.path()) && !said.contains(&text.path()), "{said}");
    }
}

#[test]
fn host_that_no_certificate_can_name_is_refused() {
    let roots = Written::new(AUTHORITY);
    let text = format!("host='db 1' sslmode=verify-ca sslrootcert={}", roots.path());
    assert!(matches!(text.parse::<ConnectionUrl>(), Err(UrlError::TlsHost)));
}

#[test]
fn whom_the_system_trusts_is_not_asked_where_no_name_counts() {
    for words in ["sslmode=verify-ca", "sslmode=verify-ca&sslrootcert=system"] {
        let error = refusal(words);
        assert!(matches!(error, UrlError::InvalidCertificate { parameter: "sslrootcert", .. }), "{error}");
    }
}

#[test]
fn system_that_trusts_nobody_is_refused_when_the_url_is_parsed() {
    let refused = |found| matches!(those_of_system(found), Err(UrlError::NoSystemCertificates));
    assert!(refused(CertificateResult::default()));
    let mut found = CertificateResult::default();
    found.certs.push(CertificateDer::from_slice(b"no certificate"));
    assert!(refused(found));
}

#[test]
fn cause_of_distrust_is_said_and_no_name_with_it() {
    let check = |error: Error, expected: &str| assert_eq!(said_of(&error), expected);
    let certificate = Error::InvalidCertificate;
    check(certificate(CertificateError::Expired), "its certificate has expired");
    check(certificate(CertificateError::NotValidYet), "its certificate is not valid yet");
    check(certificate(CertificateError::NotValidForName), "its certificate is for another name");
    check(certificate(CertificateError::UnknownIssuer), "its certificate is by no authority that is trusted");
    check(certificate(CertificateError::BadSignature), "its certificate cannot be used");
    let alert = Error::AlertReceived;
    check(alert(AlertDescription::CertificateRequired), "it demands a certificate of the client");
    check(alert(AlertDescription::UnknownCA), "it refuses the certificate of the client");
    check(alert(AlertDescription::HandshakeFailure), "no TLS could be agreed on");
    let not_chosen = "it does not choose the protocol of PostgreSQL (ALPN)";
    check(Error::NoApplicationProtocol, not_chosen);
    check(alert(AlertDescription::NoApplicationProtocol), not_chosen);
}

/// What a server answers to the question for TLS, and the bytes that it is sent then.
async fn answered(url: &ConnectionUrl, answer: &[u8]) -> (tokio_postgres::Error, Vec<u8>) {
    let (mut server, client) = tokio::io::duplex(64 * 1024);
    let asking = url.settings().connect_raw(client, url.tls().expect("it demands TLS").straight());
    let answering = async {
        let mut question = [0; 8];
        server.read_exact(&mut question).await.expect("a question");
        assert_eq!(question, [0, 0, 0, 8, 4, 210, 22, 47]);
        server.write_all(answer).await.expect("answer");
        server.shutdown().await.expect("end");
        let mut sent = Vec::new();
        server.read_to_end(&mut sent).await.expect("the end");
        sent
    };
    let (asked, sent) = futures_util::future::join(asking, answering).await;
    (asked.err().expect("it is no server"), sent)
}

fn trusting(roots: &Written) -> ConnectionUrl {
    parsed(&format!("sslmode=verify-full&sslrootcert={}", roots.path())).expect("a URL")
}

#[tokio::test]
async fn server_without_tls_is_told_no_more() {
    let roots = Written::new(AUTHORITY);
    let (error, sent) = answered(&trusting(&roots), b"N").await;
    assert_eq!(distrust(&error), Some("it speaks no TLS, or refused to begin"));
    assert_eq!(sent, b"");
}

#[tokio::test]
async fn what_is_no_tls_is_distrusted_and_what_ends_early_is_only_gone() {
    let roots = Written::new(AUTHORITY);
    let url = trusting(&roots);
    let (error, sent) = answered(&url, b"Sthis is no handshake").await;
    assert_eq!(distrust(&error), Some("no TLS could be agreed on"));
    assert!(!sent.windows(6).any(|window| window == b"s3cret"));
    let (error, _) = answered(&url, b"S").await;
    assert_eq!(distrust(&error), None, "{error}");
}

/// Keeps what is logged here, by text.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().ends_with("::tls") && *metadata.level() == tracing::Level::ERROR
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().expect("nobody panics here").push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn cause_is_logged_once_until_it_is_another_one_or_the_server_was_trusted() {
    let roots = Written::new(AUTHORITY);
    let url = trusting(&roots);
    let (plain, _) = answered(&url, b"N").await;
    let (other, _) = answered(&url, b"Sthis is no handshake").await;
    let node = NodeId::new("db1:5432");
    // Of another part of the program that has the same URL.
    let copy = url.clone();
    let tell = |error| copy.tls().and_then(|tls| tls.distrust(&node, error));
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || {
        for error in [&plain, &plain, &other, &other, &plain] {
            assert!(tell(error).is_some());
        }
        url.tls().expect("it demands TLS").note_trust();
        assert!(tell(&plain).is_some());
    });
    let lines = lines.0.lock().expect("nobody panics here").clone();
    let spoken = "it speaks no TLS, or refused to begin";
    let causes = [spoken, "no TLS could be agreed on", spoken, spoken];
    assert_eq!(lines.len(), causes.len(), "{lines:?}");
    for (line, cause) in lines.iter().zip(causes) {
        assert!(line.contains("node=db1:5432") && line.contains(cause), "{line}");
    }
}
