//! The HTTP client of the generator: keep-alive connections to one service, one merchant's key, bounded waits and bodies.
//! Retries only what the service itself asks to retry, under the same idempotency key.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::Client as Transport;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::arguments::Service;

/// The service cuts requests at 30 s; an answer later than this never comes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No answer to one payment or account is near this.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest pause that a `Retry-After` is granted.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// Without a `Retry-After`, and for a key whose first request is still under way.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Together with the pauses this outlasts a restart of the service.
const TRIES_MAX: u32 = 30;

/// Calls one service as one merchant; clones share connections.
#[derive(Clone)]
pub struct Client {
    transport: Transport<HttpConnector, String>,
    base: String,
    authorization: HeaderValue,
}

impl fmt::Debug for Client {
    /// Without the key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

/// What the service answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Exact body.
    pub body: Bytes,
    /// `Idempotent-Replayed: true`.
    pub replayed: bool,
    /// How long the service asks to wait.
    pub retry_after: Option<Duration>,
    /// `X-Total-Count`: how many a list has in all.
    pub total: Option<u64>,
}

impl Answer {
    /// A plain one, for tests.
    #[cfg(test)]
    pub(super) fn of(status: u16, body: &str) -> Self {
        let status = StatusCode::from_u16(status).expect("a test names a status that there is");
        Self {
            status,
            body: Bytes::copy_from_slice(body.as_bytes()),
            replayed: false,
            retry_after: None,
            total: None,
        }
    }

    /// A text field of the body, at the top level.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<String> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        body.get(field)?.as_str().map(str::to_owned)
    }

    /// The problem's code, or the bare status when the body is no problem.
    #[must_use]
    pub fn code(&self) -> String {
        self.text("code").unwrap_or_else(|| format!("HTTP {}", self.status.as_u16()))
    }

    /// Whether the service says that the same request may succeed later, before or without any new effect.
    #[must_use]
    pub fn asks_to_retry(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
            || self.status == StatusCode::TOO_MANY_REQUESTS
            || (self.status == StatusCode::CONFLICT && self.code() == "idempotency_key_in_progress")
    }

    /// How long to wait before that.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.retry_after.unwrap_or(RETRY_PAUSE).min(RETRY_AFTER_MAX)
    }
}

/// Why there is no answer. Whether the request had an effect is not known.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Not connected, or cut.
    #[error("connection failed")]
    Transport(#[from] hyper_util::client::legacy::Error),
    /// Cut within the body.
    #[error("answer was cut")]
    Cut(#[from] hyper::Error),
    /// Silent.
    #[error("no answer in {ANSWER_TIMEOUT:?}")]
    Timeout,
    /// A body that no answer of this API has.
    #[error("answer is larger than {BODY_BYTES_MAX} bytes")]
    TooLarge,
}

/// A request that moves money or opens an account.
#[derive(Clone, Copy, Debug)]
pub struct Post<'request> {
    /// From `/v1/` on.
    pub path: &'request str,
    /// The idempotency key.
    pub key: &'request str,
    /// JSON.
    pub body: &'request str,
}

/// What a patient request came to.
#[derive(Debug)]
pub struct Patient {
    /// The last answer.
    pub answer: Result<Answer, Unanswered>,
    /// Times the service asked to wait.
    pub retries: u32,
}

impl Client {
    /// # Errors
    /// A base that is no `http://` URL, or a key that no header can hold.
    pub fn new(service: &Service) -> anyhow::Result<Self> {
        let base = service.base.trim_end_matches('/').to_owned();
        let uri: http::Uri = base.parse().context("--base is no URL")?;
        ensure!(uri.scheme_str() == Some("http"), "--base must start with http://");
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", service.key))
            .map_err(|_| anyhow::anyhow!("--key holds characters that no header can"))?;
        authorization.set_sensitive(true);
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let transport = Transport::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .build(connector);
        Ok(Self { transport, base, authorization })
    }

    /// Sends once.
    ///
    /// # Errors
    /// No answer.
    pub async fn post(&self, post: Post<'_>) -> Result<Answer, Unanswered> {
        let request = self
            .request(Method::POST, post.path)
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("idempotency-key", post.key)
            .body(post.body.to_owned());
        self.send(request.expect("paths and keys are made here, of plain characters")).await
    }

    /// Reads once.
    ///
    /// # Errors
    /// No answer.
    pub async fn get(&self, path: &str) -> Result<Answer, Unanswered> {
        let request = self.request(Method::GET, path).body(String::new());
        self.send(request.expect("paths are made here, of plain characters")).await
    }

    /// Sends until the answer is not a request to wait, a bounded number of times.
    pub async fn post_patiently(&self, post: Post<'_>) -> Patient {
        let mut retries = 0;
        loop {
            let answer = self.post(post).await;
            match &answer {
                Ok(asking) if asking.asks_to_retry() && retries + 1 < TRIES_MAX => {
                    retries += 1;
                    sleep(asking.pause()).await;
                }
                _ => return Patient { answer, retries },
            }
        }
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let uri = format!("{}{path}", self.base);
        Request::builder().method(method).uri(uri).header(header::AUTHORIZATION, self.authorization.clone())
    }

    async fn send(&self, request: Request<String>) -> Result<Answer, Unanswered> {
        let exchange = async {
            let response = self.transport.request(request).await?;
            let (head, body) = response.into_parts();
            let number =
                |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()?.parse().ok());
            let retry_after = number(header::RETRY_AFTER.as_str()).map(Duration::from_secs);
            let total = number("x-total-count");
            let replayed = head.headers.get("idempotent-replayed").is_some_and(|value| value == "true");
            let body = read(body).await?;
            Ok(Answer { status: head.status, body, replayed, retry_after, total })
        };
        timeout(ANSWER_TIMEOUT, exchange).await.unwrap_or(Err(Unanswered::Timeout))
    }
}

async fn read(mut body: Incoming) -> Result<Bytes, Unanswered> {
    let mut whole = BytesMut::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Ok(piece) = frame?.into_data() else { continue };
        if whole.len() + piece.len() > BODY_BYTES_MAX {
            return Err(Unanswered::TooLarge);
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(base: &str) -> Service {
        Service { base: base.to_owned(), key: "sk_secret".to_owned() }
    }

    #[test]
    fn only_plain_http_is_taken_and_the_key_is_not_shown() {
        assert!(Client::new(&service("https://host")).is_err());
        assert!(Client::new(&service("nonsense url")).is_err());
        let client = Client::new(&service("http://127.0.0.1:1/")).unwrap();
        assert!(!format!("{client:?}").contains("sk_secret"));
    }

    #[test]
    fn only_what_the_service_asks_to_retry_is_retried() {
        let answer = |status: u16, code: &str| Answer::of(status, &format!("{{\"code\":\"{code}\"}}"));
        for (status, code, expected) in [
            (503, "unavailable", true),
            (429, "too_many_requests", true),
            (409, "idempotency_key_in_progress", true),
            (409, "wrong_state", false),
            (500, "internal", false),
            (201, "", false),
        ] {
            assert_eq!(answer(status, code).asks_to_retry(), expected, "{status} {code}");
        }
    }

    #[test]
    fn granted_pause_is_bounded() {
        let mut answer = Answer::of(503, "");
        assert_eq!((answer.pause(), answer.code()), (RETRY_PAUSE, "HTTP 503".to_owned()));
        answer.retry_after = Some(Duration::from_secs(3_600));
        assert_eq!(answer.pause(), RETRY_AFTER_MAX);
    }
}
