//! Bounds on requests: how many are in flight, how long one may take, how large its body may be and all bodies together.
//! Over a bound the caller is refused at once, before any effect.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::{StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;
use super::request_id::RequestId;
use crate::app::App;

/// A whole request body within the bound of its route. Its bytes count against the bound of all bodies until the last
/// copy is dropped.
#[derive(Clone, Debug)]
pub struct Body(pub Bytes);

/// A body with its share of the bound of all bodies.
struct Held {
    body: Bytes,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl FromRequest<Arc<App>> for Body {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let is_batch = request.uri().path().ends_with("/batch");
        let http = &app.config.http;
        let bytes_max = if is_batch { http.batch_body_bytes_max } else { http.body_bytes_max };
        read(request, bytes_max, &app.bodies).await.map(Self)
    }
}

async fn read(request: Request, bytes_max: usize, bodies: &Arc<Semaphore>) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("The body may have at most {bytes_max} bytes.");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    };
    let announced =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes > bytes_max) {
        return Err(too_large());
    }
    // What announces no length may be as long as its route allows.
    let share = share_of(bodies, announced.unwrap_or(bytes_max))?;
    let read = to_bytes(request.into_body(), bytes_max).await.map_err(|error| {
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
    });
    Ok(Bytes::from_owner(Held { body: read?, _share: share }))
}

/// The permits of `bodies` are bytes. Not waited for: whoever holds some may be as slow as its caller.
fn share_of(bodies: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let bytes = u32::try_from(bytes).expect("no setting lets a body have more than 2^30 bytes");
    Arc::clone(bodies).try_acquire_many_owned(bytes).map_err(|_| {
        Problem::unavailable(
            "The bodies of other requests fill the memory set aside for them. Nothing was done.",
        )
    })
}

/// What a connection over the bound is told, as it goes over the wire: nobody reads its request.
#[must_use]
pub fn too_many_connections() -> Vec<u8> {
    let problem = Problem::unavailable("Too many connections are open. Nothing was done.");
    problem.last_answer(&RequestId::new())
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_connection_over_the_bound_is_told_a_whole_problem() {
        let refusal = String::from_utf8(too_many_connections()).unwrap();
        let (head, body) = refusal.split_once("\r\n\r\n").unwrap();
        let problem: Value = serde_json::from_str(body).unwrap();
        let id = problem["request_id"].as_str().expect("every problem has the id of its request");
        for line in [
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n",
            "\r\nretry-after: 1\r\n",
            "\r\nconnection: close\r\n",
            &format!("\r\nx-request-id: {id}\r\n"),
            &format!("\r\ncontent-length: {}", body.len()),
        ] {
            assert!(head.contains(line), "{line:?} in {head:?}");
        }
        assert_eq!((&problem["code"], &problem["status"]), (&"unavailable".into(), &503.into()));
        assert_eq!((&problem["retryable"], problem.get("param")), (&true.into(), Some(&Value::Null)));
        assert_ne!(too_many_connections(), refusal.into_bytes(), "each has an id of its own");
    }

    #[test]
    fn the_bytes_of_a_body_count_until_its_last_copy_is_dropped() {
        let bodies = Arc::new(Semaphore::new(10));
        let share = share_of(&bodies, 6).unwrap();
        let body = Bytes::from_owner(Held { body: Bytes::from_static(b"sixsix"), _share: share });
        let copy = body.slice(2..4);
        drop(body);
        assert_eq!(share_of(&bodies, 5).unwrap_err().status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(share_of(&bodies, 4).is_ok());
        drop(copy);
        assert!(share_of(&bodies, 10).is_ok());
    }
}
