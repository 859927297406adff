//! The HTTP client of the exporter and the address it posts to. Follows no redirect: traces go where they were sent.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Url, redirect};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, RootCertStore};

use super::OtlpError;

/// The path that OTLP over HTTP gives to traces.
const TRACES_PATH: &str = "/v1/traces";

/// The full address for a collector's endpoint: one without a path gets the one of the protocol.
pub(super) fn traces_endpoint(endpoint: &str) -> Result<String, OtlpError> {
    let refuse = |reason| OtlpError::Endpoint { reason };
    let mut url = Url::parse(endpoint).map_err(|_| refuse("is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("is neither http nor https"));
    }
    if url.path() == "/" {
        url.set_path(TRACES_PATH);
    }
    Ok(url.into())
}

pub(super) fn build(endpoint: &str, timeout: Duration) -> Result<Client, OtlpError> {
    let builder = Client::builder()
        .timeout(timeout)
        .redirect(redirect::Policy::none())
        // The runtime stands still between batches, so an idle connection would not notice that it was closed.
        .pool_max_idle_per_host(0);
    let builder = if endpoint.starts_with("https:") {
        // reqwest is built without a provider and panics if there is none. An earlier one stays.
        let _earlier = ring::default_provider().install_default();
        builder
    } else {
        builder.tls_backend_preconfigured(no_trust()?)
    };
    builder.build().map_err(OtlpError::Client)
}

/// TLS settings that trust nobody, for a client that will not use them: else it would read the system's certificates,
/// and fail on a machine that has none.
fn no_trust() -> Result<ClientConfig, OtlpError> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(OtlpError::Tls)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_endpoint_without_a_path_gets_the_protocols() {
        let check = |endpoint, expected| assert_eq!(traces_endpoint(endpoint).unwrap(), expected);
        check("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces");
        check("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces");
        check("https://collector/custom", "https://collector/custom");
    }

    #[test]
    fn what_is_no_endpoint_is_refused_without_repeating_it() {
        for endpoint in ["", "127.0.0.1:4318", "grpc://user:secret@collector", "http://user:secret@:99999"] {
            let error = traces_endpoint(endpoint).unwrap_err();
            assert!(matches!(error, OtlpError::Endpoint { .. }), "{endpoint}");
            assert!(!format!("{error} {error:?}").contains("secret"));
        }
    }

    #[test]
    fn a_client_is_built_for_both_schemes_whether_or_not_a_provider_is_installed() {
        for _round in 0..2 {
            build("http://collector/v1/traces", Duration::from_secs(1)).unwrap();
            build("https://collector/v1/traces", Duration::from_secs(1)).unwrap();
        }
    }
}
