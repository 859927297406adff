//! Bounds on requests: how many are in flight, how long one may take, how large its body may be. Over a bound the
//! caller is refused at once, before any effect.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::{StatusCode, header};

use super::problem::Problem;
use crate::app::App;

/// A whole request body within the bound of its route.
#[derive(Clone, Debug)]
pub struct Body(pub Bytes);

impl FromRequest<Arc<App>> for Body {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let is_batch = request.uri().path().ends_with("/batch");
        let http = &app.config.http;
        let bytes_max = if is_batch { http.batch_body_bytes_max } else { http.body_bytes_max };
        read(request, bytes_max).await.map(Self)
    }
}

async fn read(request: Request, bytes_max: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("The body may have at most {bytes_max} bytes.");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    };
    let announced =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes > bytes_max) {
        return Err(too_large());
    }
    to_bytes(request.into_body(), bytes_max).await.map_err(|error| {
        // The limiter's error is the only one that is not a broken connection.
        let over =
            std::error::Error::source(&error).is_some_and(|cause| cause.to_string().contains("length limit"));
        if over {
            return too_large();
        }
        Problem::new(
            StatusCode::BAD_REQUEST,
            "incomplete_body",
            "The body ended before its announced length.",
        )
    })
}

/// The layer that bounds requests in flight, refuses them while draining, and cuts those that take too long.
pub async fn bound(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, Problem> {
    if app.draining.is_cancelled() {
        return Err(Problem::unavailable("The service is shutting down. Nothing was done."));
    }
    let Ok(_permit) = Arc::clone(&app.in_flight).try_acquire_owned() else {
        return Err(Problem::unavailable("Too many requests are in flight. Nothing was done."));
    };
    let limit = app.config.http.request_timeout;
    tokio::time::timeout(limit, next.run(request)).await.map_err(|_| {
        // What was committed stays committed: the same key gets its answer.
        let detail = "The request took too long. Its outcome is not known here: ask again with the same Idempotency-Key.";
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail).retryable()
    })
}
