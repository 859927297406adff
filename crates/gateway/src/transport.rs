//! One HTTP exchange: pooled keep-alive connections, no redirects, no proxy from the environment, a body cap.
//! Knows whether a request was ever handed to a connection; retries nothing and reads no body's meaning.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use reqwest::{
    Method, Url,
    header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use thiserror::Error;

use crate::{outcome::UnknownReason, resilience::failure::AttemptFailure, secret::wipe};

/// Gateways close idle connections after 5 s and more; leaving earlier avoids sending into a closing one.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// As many as calls in flight by default.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// A list page of 1000 transactions is about 400 KiB.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A gateway that asks for a longer pause is not worth waiting for inside one call.
const RETRY_AFTER_MAX_S: u64 = 3600;

/// Why a gateway cannot be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The endpoint is not an http or https URL with a host.
    #[error("the gateway endpoint is not an http or https URL")]
    Endpoint,
    /// Credentials would cross the network in the clear.
    #[error("a gateway endpoint must use https unless its host is a loopback address")]
    PlainHttp,
    /// A credential is empty, too long or not printable.
    #[error("the gateway credential `{0}` is empty, too long or not printable")]
    Credential(&'static str),
    /// The HTTP client could not be set up, for instance for lack of trusted certificates.
    #[error("set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// Whether a gateway can be built on this endpoint: https, or http on loopback. For whoever reads the setting, so that it
/// is refused where it was written.
///
/// # Errors
/// No URL with a host, or one over which card numbers and keys would travel in the clear.
pub fn check_endpoint(text: &str) -> Result<(), BuildError> {
    parse_endpoint(text).map(|_| ())
}

pub(crate) fn parse_endpoint(text: &str) -> Result<Url, BuildError> {
    let url = Url::parse(text).map_err(|_| BuildError::Endpoint)?;
    let host = url.host_str().ok_or(BuildError::Endpoint)?;
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        "http" => Err(BuildError::PlainHttp),
        _ => Err(BuildError::Endpoint),
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Transport {
    client: reqwest::Client,
}

/// One request. The body is wiped when the last copy is dropped.
pub(crate) struct Exchange {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
}

/// A complete reply.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
}

impl Transport {
    pub(crate) fn new(connect_timeout: Duration) -> Result<Self, BuildError> {
        // Another crate of the process may have installed one already; either serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .connect_timeout(connect_timeout)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .user_agent(concat!("paystrata-gateway/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(BuildError::Client)?;
        Ok(Self { client })
    }

    /// Sends and reads the whole reply within `timeout`.
    pub(crate) async fn send(&self, exchange: &Exchange, timeout: Duration) -> Result<Reply, AttemptFailure> {
        let handed_over = Arc::new(AtomicBool::new(false));
        let sent = tokio::time::timeout(timeout, self.exchange(exchange, &handed_over)).await;
        let reason = match sent {
            Ok(Ok(reply)) => return Ok(reply),
            Ok(Err(reason)) => reason,
            Err(_) => UnknownReason::Timeout,
        };
        if handed_over.load(Ordering::Acquire) {
            Err(AttemptFailure::uncertain(reason, None))
        } else {
            Err(AttemptFailure::unwritten(reason))
        }
    }

    async fn exchange(
        &self,
        exchange: &Exchange,
        handed_over: &Arc<AtomicBool>,
    ) -> Result<Reply, UnknownReason> {
        let body = TracedBody { bytes: Some(exchange.body.clone()), handed_over: Arc::clone(handed_over) };
        let mut request = self
            .client
            .request(exchange.method.clone(), exchange.url.clone())
            .body(reqwest::Body::wrap(body));
        for (name, value) in &exchange.headers {
            request = request.header(name, value);
        }
        let mut response = request.send().await.map_err(|_| UnknownReason::ConnectionLost)?;
        let length = response.content_length().unwrap_or(0);
        if usize::try_from(length).map_or(true, |length| length > BODY_BYTES_MAX) {
            return Err(UnknownReason::BodyTooLarge);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| UnknownReason::ConnectionLost)? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(UnknownReason::BodyTooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let retry_after = parse_retry_after(response.headers());
        Ok(Reply { status: response.status().as_u16(), retry_after, body: body.into() })
    }
}

/// Whole seconds only; the date form is rare and depends on the peer's clock.
fn parse_retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(RETRY_AFTER_MAX_S)))
}

/// Bytes that are overwritten when dropped, for request bodies that hold cards and credentials.
pub(crate) fn wiped_bytes(bytes: Vec<u8>) -> Bytes {
    struct Wiped(Vec<u8>);
    impl AsRef<[u8]> for Wiped {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Wiped {
        fn drop(&mut self) {
            wipe(&mut self.0);
        }
    }
    Bytes::from_owner(Wiped(bytes))
}

/// A request body that notes when the HTTP layer first looks at it. Both HTTP/1 and HTTP/2 connections ask a body
/// whether it has ended before they encode the request's head; nothing asks while a connection is being made. So a
/// body that was never asked belongs to a request of which no byte was written.
struct TracedBody {
    bytes: Option<Bytes>,
    handed_over: Arc<AtomicBool>,
}

impl Body for TracedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.handed_over.store(true, Ordering::Release);
        let bytes = self.bytes.take().filter(|bytes| !bytes.is_empty());
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.handed_over.store(true, Ordering::Release);
        self.bytes.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::{BuildError, parse_endpoint};

    #[test]
    fn plain_http_is_for_loopback_only() {
        assert!(parse_endpoint("https://api.authorize.net/xml/v1/request.api").is_ok());
        for text in ["http://127.0.0.1:80/x", "http://localhost/x", "http://[::1]:9/x"] {
            assert!(parse_endpoint(text).is_ok(), "{text}");
        }
        assert!(matches!(parse_endpoint("http://10.0.0.1/x"), Err(BuildError::PlainHttp)));
        assert!(matches!(parse_endpoint("ftp://x/"), Err(BuildError::Endpoint)));
        assert!(matches!(parse_endpoint("nonsense"), Err(BuildError::Endpoint)));
    }
}
