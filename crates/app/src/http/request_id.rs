//! Gives each request an id, or keeps the caller's if it is a decent one; puts it on the answer and into problems.
//! The outermost layer: whatever else fails, the answer has an id.

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue, header};
use uuid::Uuid;

use super::problem::Problem;

/// Header that carries the id both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer one is replaced: ids land in logs.
const LENGTH_MAX: usize = 128;

/// The id of the request in hand.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

impl RequestId {
    /// One that no request had.
    #[expect(clippy::new_without_default, reason = "a default id would hide that each is new")]
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7().as_simple().to_string())
    }
}

/// The layer.
pub async fn assign(mut request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|text| is_decent(text))
        .map_or_else(RequestId::new, |text| RequestId(text.to_owned()));
    request.extensions_mut().insert(id.clone());
    let RequestId(id) = id;
    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let body = problem.body(&id);
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = Body::from(body);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

fn is_decent(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    !text.is_empty() && text.len() <= LENGTH_MAX && text.bytes().all(allowed)
}
