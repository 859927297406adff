//! TLS to Redis: which certificates a tier trusts and shows, and what is said of a server that is not trusted.
//! Refuses to connect without a check: no way leads around a certificate that does not fit, and none back to plain.
//! Made by `servers`; `failure` asks what was wrong.

use std::{error::Error, io, sync::Arc};

use redis::{Client, ClientTlsConfig, ConnectionInfo, RedisError, RedisResult, TlsCertificates};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, pem::PemObject},
};

use super::{RedisServers, RedisTierError};

/// How the client of Redis holds a cause.
type Shared = Arc<dyn Error + Send + Sync>;

const UNREADABLE_STORE: &str = "the system's own certificates cannot be read";

/// What the servers of one tier are spoken to over.
pub(super) struct Tls {
    /// None: what the system trusts, and nothing to show.
    certificates: Option<TlsCertificates>,
}

impl Tls {
    /// TLS with the certificates of these servers, if they have any. That a field asks for it is all that it takes; a build
    /// without TLS refuses by its name.
    pub(super) fn asked_for(_field: &str, servers: &RedisServers) -> Result<Self, RedisTierError> {
        // The client of Redis takes the provider of the process, and panics if two are built in and none is chosen.
        let _earlier = ring::default_provider().install_default();
        let RedisServers::Tls { root_certificates, client_certificate, client_key, .. } = servers else {
            return Ok(Self { certificates: None });
        };
        if let Some(roots) = root_certificates {
            check_roots(roots)?;
        }
        let client_tls = match (client_certificate, client_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                check_client(certificate, key)?;
                Some(ClientTlsConfig { client_cert: certificate.clone(), client_key: key.clone() })
            }
            (Some(_), None) => return Err(refused_key()),
            (None, Some(_)) => return Err(refused_client()),
        };
        Ok(Self { certificates: Some(TlsCertificates { client_tls, root_cert: root_certificates.clone() }) })
    }

    /// The same place with these certificates.
    pub(super) fn over(&self, info: ConnectionInfo) -> RedisResult<ConnectionInfo> {
        let Some(certificates) = &self.certificates else { return Ok(info) };
        Ok(Client::build_with_tls(info, certificates.clone())?.get_connection_info().clone())
    }
}

/// Text without a certificate in it would trust nobody, and say so at the first connection only.
fn check_roots(pem: &[u8]) -> Result<(), RedisTierError> {
    let refused = || RedisTierError::InvalidCertificate {
        field: "root_certificates",
        expected: "one or more certificates of authorities in PEM",
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_may_repeat_it| refused())?;
        roots.add(certificate).map_err(|_unreadable| refused())?;
    }
    if roots.is_empty() { Err(refused()) } else { Ok(()) }
}

/// Also whether the key is that of the certificate.
fn check_client(certificate: &[u8], key: &[u8]) -> Result<(), RedisTierError> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_may_repeat_it| refused_client())?;
    if chain.is_empty() {
        return Err(refused_client());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_may_repeat_it| refused_key())?;
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
    config.with_client_auth_cert(chain, key).map_err(|_does_not_fit| refused_key())?;
    Ok(())
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
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return error.get_ref()?.downcast_ref::<rustls::Error>().map(said_of);
    }
    if cause.is::<InvalidDnsNameError>() {
        return Some("its host is no name that a certificate can be for");
    }
    // It is read before each connection, and a certificate in it that cannot be read is told as it comes.
    (cause.is::<rustls::Error>() || error.is_io_error()).then_some(UNREADABLE_STORE)
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
        let check =
            |error: RedisError, expected: Option<&str>| assert_eq!(distrust(&error), expected, "{error}");
        check(io::Error::from(io::ErrorKind::ConnectionReset).into(), None);
        check(io::Error::other("something else").into(), None);
        check((redis::ErrorKind::Client, "something else").into(), None);
        check(rustls::Error::DecryptError.into(), Some(UNREADABLE_STORE));
    }
}
