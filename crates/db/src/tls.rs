//! TLS to the servers: which certificates a URL trusts and shows, and what is said of a server that is not trusted.
//! No way leads around a certificate that does not fit, and none back to plain. Made when a URL is parsed; used by `dial` and `cancel`,
//! one of which logs what was wrong.

mod binding;
mod handshake;

use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use rustls_native_certs::{CertificateResult, load_native_certs};
use tokio_postgres::config::SslNegotiation;
use tracing::{debug, error};

use crate::node::NodeId;
use crate::tap::Tap;
use crate::url::UrlError;
use crate::url::parameters::{CERTIFICATE, KEY, Mode, ROOT_CERTIFICATES, TlsParameters};
use handshake::{Connector, Lid, NoLayer};

/// What stands for the certificates of the system, to libpq too.
const SYSTEM: &str = "system";
/// What the protocol is called in a handshake (RFC 7301). Servers before PostgreSQL 17 pay no heed to it; later ones demand it where
/// TLS begins without a question, and there they must choose it.
const PROTOCOL: &[u8] = b"postgresql";
/// The driver says it only in words, which are its own and in one language.
const NOT_SPOKEN: &str = "server does not support TLS";

/// What the server of one URL is spoken to over. Clones share what was read from files.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    negotiation: SslNegotiation,
    /// Why the server was last not trusted, since it last was.
    told: Arc<Mutex<Option<&'static str>>>,
}

impl Tls {
    /// Reads the files that the parameters name, or the certificates of the system.
    pub(crate) fn asked_for(
        host: &str,
        negotiation: SslNegotiation,
        parameters: &TlsParameters,
    ) -> Result<Self, UrlError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_invalid| UrlError::TlsHost)?;
        let roots = match parameters.root_certificates.as_deref() {
            // Anybody has a certificate by one of those, for some name.
            None | Some(SYSTEM) if parameters.mode == Mode::Authority => return Err(refused_system()),
            None | Some(SYSTEM) => those_of_system(load_native_certs())?,
            Some(path) => given_roots(&read(ROOT_CERTIFICATES, path)?)?,
        };
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .expect("there is an authority, and no list of what it has revoked");
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has what both versions need");
        let config = match parameters.mode {
            Mode::Authority => {
                config.dangerous().with_custom_certificate_verifier(Arc::new(AnyName { verifier }))
            }
            _ => config.with_webpki_verifier(verifier),
        };
        let mut config = match (parameters.certificate.as_deref(), parameters.key.as_deref()) {
            (None, None) => config.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let chain = client_chain(&read(CERTIFICATE, certificate)?)?;
                let key = client_key(&read(KEY, key)?)?;
                config.with_client_auth_cert(chain, key).map_err(|_does_not_fit| refused_key())?
            }
            (Some(_), None) => return Err(refused_key()),
            (None, Some(_)) => return Err(refused_client()),
        };
        // Servers keep no sessions. A pooler that offers them is dialled seldom, and may have another certificate the next time.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self { config: Arc::new(config), name, negotiation, told: Arc::default() })
    }

    /// For a connection that the driver opens.
    pub(crate) fn straight(&self) -> Connector<NoLayer> {
        self.under(NoLayer)
    }

    /// For a connection with a tap on it.
    pub(crate) fn tapped(&self, tap: &Arc<Tap>) -> Connector<Arc<Tap>> {
        self.under(Arc::clone(tap))
    }

    /// For one that the driver is not to end.
    pub(crate) fn kept_open(&self) -> Connector<Lid> {
        self.under(Lid)
    }

    fn under<Laying>(&self, layer: Laying) -> Connector<Laying> {
        let (config, name) = (Arc::clone(&self.config), self.name.clone());
        Connector { config, name, negotiation: self.negotiation, layer }
    }

    /// Why the server is not trusted, or does not trust this one, if that is what failed. Logged when it is not what was logged last.
    pub(crate) fn distrust(&self, node: &NodeId, error: &tokio_postgres::Error) -> Option<&'static str> {
        let cause = distrust(error)?;
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).replace(cause);
        if told != Some(cause) {
            error!(%node, cause, "the server is not trusted: no connection while that is so");
        }
        Some(cause)
    }

    /// The server has let somebody in, and was trusted by then.
    pub(crate) fn note_trust(&self) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn read(parameter: &'static str, path: &str) -> Result<Vec<u8>, UrlError> {
    fs::read(path).map_err(|source| UrlError::FileUnread { parameter, source })
}

/// Text without a certificate in it would trust nobody, and say so at the first connection only.
fn given_roots(pem: &[u8]) -> Result<RootCertStore, UrlError> {
    let refused = || UrlError::InvalidCertificate {
        parameter: ROOT_CERTIFICATES,
        expected: "the path of one or more certificates of authorities in PEM, or system",
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_may_repeat_it| refused())?;
        roots.add(certificate).map_err(|_unreadable| refused())?;
    }
    if roots.is_empty() { Err(refused()) } else { Ok(roots) }
}

/// What can be read of them: one that cannot does not make the others worse.
fn those_of_system(found: CertificateResult) -> Result<RootCertStore, UrlError> {
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    debug!(added, ignored, errors = found.errors.len(), "read the certificates of the system");
    if roots.is_empty() { Err(UrlError::NoSystemCertificates) } else { Ok(roots) }
}

fn refused_system() -> UrlError {
    let expected =
        "the path of certificates of your own authorities where sslmode=verify-ca looks at no name";
    UrlError::InvalidCertificate { parameter: ROOT_CERTIFICATES, expected }
}

/// What is shown to a server that asks who is there.
fn client_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, UrlError> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_may_repeat_it| refused_client())?;
    if chain.is_empty() { Err(refused_client()) } else { Ok(chain) }
}

fn client_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, UrlError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_may_repeat_it| refused_key())
}

fn refused_client() -> UrlError {
    let expected = "the path of a certificate in PEM, beside sslkey";
    UrlError::InvalidCertificate { parameter: CERTIFICATE, expected }
}

fn refused_key() -> UrlError {
    let expected = "the path of the private key of sslcert in PEM, not encrypted";
    UrlError::InvalidCertificate { parameter: KEY, expected }
}

/// Trusts an authority's certificate for whatever name.
#[derive(Debug)]
struct AnyName {
    verifier: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// None if the error speaks of something else.
fn distrust(error: &tokio_postgres::Error) -> Option<&'static str> {
    let source = error.source()?;
    match source.downcast_ref::<io::Error>() {
        Some(failure) => failure.get_ref()?.downcast_ref::<Error>().map(said_of),
        None => (source.to_string() == NOT_SPOKEN).then_some("it speaks no TLS, or refused to begin"),
    }
}

fn said_of(error: &Error) -> &'static str {
    match error {
        Error::InvalidCertificate(error) => match error {
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
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it demands a certificate of the client"
        }
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied,
        ) => "it refuses the certificate of the client",
        Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "it does not choose the protocol of PostgreSQL (ALPN)"
        }
        _ => "no TLS could be agreed on",
    }
}

#[cfg(test)]
mod tests;
