//! One HTTP exchange: pooled keep-alive connections, no redirects, no proxy from the environment, a body cap.
//! Knows whether a request was ever handed to a connection; retries nothing and reads no body's meaning.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
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
        let custody = Arc::new(Custody::default());
        let sent = tokio::time::timeout(timeout, self.exchange(exchange, &custody)).await;
        let reason = match sent {
            Ok(Ok(reply)) => return Ok(reply),
            Ok(Err(reason)) => reason,
            Err(_) => UnknownReason::Timeout,
        };
        if custody.take_back() {
            Err(AttemptFailure::unwritten(reason))
        } else {
            Err(AttemptFailure::uncertain(reason, None))
        }
    }

    async fn exchange(&self, exchange: &Exchange, custody: &Arc<Custody>) -> Result<Reply, UnknownReason> {
        let body = TracedBody { bytes: Some(exchange.body.clone()), custody: Arc::clone(custody) };
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

/// Who has the say over a request: we, until the HTTP layer takes it or we take it back, whichever comes first. A
/// connection's task may be about to write just as the time is up.
#[derive(Debug, Default)]
struct Custody(AtomicU8);

const OURS: u8 = 0;
const HANDED_OVER: u8 = 1;
const TAKEN_BACK: u8 = 2;

impl Custody {
    /// Hands the request over; `false` when it was taken back before.
    fn hand_over(&self) -> bool {
        let was = self.0.compare_exchange(OURS, HANDED_OVER, Ordering::AcqRel, Ordering::Acquire);
        was != Err(TAKEN_BACK)
    }

    /// Takes the request back for good; `false` when it was handed over before.
    fn take_back(&self) -> bool {
        let was = self.0.compare_exchange(OURS, TAKEN_BACK, Ordering::AcqRel, Ordering::Acquire);
        was != Err(HANDED_OVER)
    }
}

/// The request was taken back: its caller was told that it was not sent.
#[derive(Debug, Error)]
#[error("the request was taken back before it was sent")]
struct TakenBack;

/// A request body that notes when the HTTP layer first looks at it. Both HTTP/1 and HTTP/2 connections ask a body
/// whether it has ended before they encode the request's head; nothing asks while a connection is being made. So a
/// body that was never asked belongs to a request of which no byte was written. One that is asked too late refuses, so that
/// no complete request leaves.
struct TracedBody {
    bytes: Option<Bytes>,
    custody: Arc<Custody>,
}

impl Body for TracedBody {
    type Data = Bytes;
    type Error = TakenBack;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TakenBack>>> {
        if !self.custody.hand_over() {
            return Poll::Ready(Some(Err(TakenBack)));
        }
        let bytes = self.bytes.take().filter(|bytes| !bytes.is_empty());
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.custody.hand_over() && self.bytes.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;
    use hyper::body::Body as _;

    use super::{BuildError, Custody, TracedBody, parse_endpoint};

    #[test]
    fn a_request_that_was_taken_back_never_leaves_and_one_that_was_handed_over_is_never_called_unsent() {
        let custody = Arc::new(Custody::default());
        let mut body = TracedBody { bytes: Some(Bytes::from_static(b"pay")), custody: Arc::clone(&custody) };
        assert!(custody.take_back() && custody.take_back());
        assert!(!body.is_end_stream(), "an empty body would be a complete request");
        let frame = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(frame, Poll::Ready(Some(Err(_)))));
        let custody = Arc::new(Custody::default());
        let body = TracedBody { bytes: Some(Bytes::from_static(b"pay")), custody: Arc::clone(&custody) };
        assert!(!body.is_end_stream() && !custody.take_back());
    }

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
