//! TLS to Redis: which certificates a tier trusts and shows, and what is said of a server that is not trusted.
//! Refuses to connect without a check: no way leads around a certificate that does not fit, and none back to plain.
//! Made by `servers`, used by `dial`; `failure` asks what was wrong.

use std::{error::Error, io, sync::Arc};

use redis::RedisError;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use rustls_native_certs::{CertificateResult, load_native_certs};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{RedisServers, RedisTierError, failure::Failure};

/// How the client of Redis holds a cause.
type Shared = Arc<dyn Error + Send + Sync>;

/// What the servers of one tier are spoken to over.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
}

impl Tls {
    /// TLS with the certificates of these servers, or with those of the system, which are read here and not again. That a field asks
    /// for it is all that it takes; a build without TLS refuses by its name.
    pub(super) fn asked_for(_field: &str, servers: &RedisServers) -> Result<Self, RedisTierError> {
        let (roots, certificate, key) = match servers {
            RedisServers::Tls { root_certificates, client_certificate, client_key, .. } => {
                (root_certificates.as_deref(), client_certificate.as_deref(), client_key.as_deref())
            }
            _ => (None, None, None),
        };
        let roots = roots.map_or_else(|| those_of_system(load_native_certs()), given_roots)?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has what both versions need")
            .with_root_certificates(roots);
        let mut config = match (certificate, key) {
            (None, None) => config.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let (chain, key) = client(certificate, key)?;
                config.with_client_auth_cert(chain, key).map_err(|_does_not_fit| refused_key())?
            }
            (Some(_), None) => return Err(refused_key()),
            (None, Some(_)) => return Err(refused_client()),
        };
        // A Redis that keeps no sessions and asks who is there gives tickets all the same, and refuses who comes with one.
        config.resumption = Resumption::disabled();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Agrees on keys with who is at the other end, if it is the host that it should be.
    pub(super) async fn handshake(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let name = ServerName::try_from(host.to_owned());
        let name =
            name.map_err(|_| Failure::Untrusted("its host is no name that a certificate can be for"))?;
        self.connector.connect(name, stream).await.map_err(|error| RedisError::from(error).into())
    }
}

/// Text without a certificate in it would trust nobody, and say so at the first connection only.
fn given_roots(pem: &[u8]) -> Result<RootCertStore, RedisTierError> {
    let refused = || RedisTierError::InvalidCertificate {
        field: "root_certificates",
        expected: "one or more certificates of authorities in PEM",
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_may_repeat_it| refused())?;
        roots.add(certificate).map_err(|_unreadable| refused())?;
    }
    if roots.is_empty() { Err(refused()) } else { Ok(roots) }
}

/// What can be read of them: one that cannot does not make the others worse.
fn those_of_system(found: CertificateResult) -> Result<RootCertStore, RedisTierError> {
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(added, ignored, errors = found.errors.len(), "read the certificates of the system");
    if roots.is_empty() { Err(RedisTierError::NoSystemCertificates) } else { Ok(roots) }
}

/// What is shown to a server that asks who is there.
fn client(
    certificate: &[u8],
    key: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), RedisTierError> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_may_repeat_it| refused_client())?;
    if chain.is_empty() {
        return Err(refused_client());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_may_repeat_it| refused_key())?;
    Ok((chain, key))
}

fn refused_client() -> RedisTierError {
    let expected = "a certificate in PEM, beside client_key";
    RedisTierError::InvalidCertificate { field: "client_certificate", expected }
}

fn refused_key() -> RedisTierError {
    let expected = "the private key of client_certificate in PEM, not encrypted";
    RedisTierError::InvalidCertificate { field: "client_key", expected }
}

/// Why the other end is not trusted, or does not trust this one; none if the error speaks of something else.
pub(super) fn distrust(error: &RedisError) -> Option<&'static str> {
    let source = error.source()?;
    let cause: &(dyn Error + 'static) = match source.downcast_ref::<Shared>() {
        Some(shared) => &**shared,
        None => source,
    };
    let error = cause.downcast_ref::<io::Error>()?;
    error.get_ref()?.downcast_ref::<rustls::Error>().map(said_of)
}

fn said_of(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another name"
            }
            CertificateError::UnknownIssuer => "its certificate is by no authority that is trusted",
            _ => "its certificate cannot be used",
        },
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it demands a certificate of the client"
        }
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied,
        ) => "it refuses the certificate of the client",
        _ => "no TLS could be agreed on",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::failure::Failure;

    #[test]
    fn cause_of_distrust_is_said_and_no_name_with_it() {
        let check = |error: rustls::Error, expected: &str| {
            let error = RedisError::from(io::Error::new(io::ErrorKind::InvalidData, error));
            assert_eq!(Failure::from(error).to_string(), expected);
        };
        let certificate = rustls::Error::InvalidCertificate;
        check(certificate(CertificateError::Expired), "its certificate has expired");
        check(certificate(CertificateError::NotValidForName), "its certificate is for another name");
        check(
            certificate(CertificateError::UnknownIssuer),
            "its certificate is by no authority that is trusted",
        );
        check(certificate(CertificateError::BadSignature), "its certificate cannot be used");
        let alert = rustls::Error::AlertReceived;
        check(alert(AlertDescription::CertificateRequired), "it demands a certificate of the client");
        check(alert(AlertDescription::UnknownCA), "it refuses the certificate of the client");
        check(alert(AlertDescription::HandshakeFailure), "no TLS could be agreed on");
    }

    #[test]
    fn other_errors_are_no_distrust() {
        let check = |error: RedisError| assert_eq!(distrust(&error), None, "{error}");
        check(io::Error::from(io::ErrorKind::ConnectionReset).into());
        check(io::Error::other("something else").into());
        check((redis::ErrorKind::Client, "something else").into());
    }

    #[test]
    fn system_that_trusts_nobody_is_refused_when_the_tier_is_opened() {
        let refused = |found| matches!(those_of_system(found), Err(RedisTierError::NoSystemCertificates));
        assert!(refused(CertificateResult::default()));
        let mut found = CertificateResult::default();
        found.certs.push(CertificateDer::from_slice(b"no certificate"));
        assert!(refused(found));
    }
}
