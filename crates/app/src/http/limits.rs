//! Bounds on requests: how many are in flight, how long one may take, how large its body may be and all bodies together.
//! Over a bound the caller is refused at once, before any effect.

use std::sync::Arc;

use axum::extract::{FromRequest, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{StatusCode, header};

use super::problem::Problem;
use super::request_id::RequestId;
use crate::app::App;
use crate::bodies::{Budget, Share};

/// The first room that is made for a body in pieces; it doubles from there, so that no byte is copied more than twice.
const ROOM_BYTES_MIN: usize = 64 * 1024;

/// A whole request body within the bound of its route. Its bytes count against the bound of all bodies until the last
/// copy is dropped.
#[derive(Clone, Debug)]
pub struct Body(pub Bytes);

/// A body with its share of the bound of all bodies.
struct Held<T> {
    body: T,
    _share: Share,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        self.body.as_ref()
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

async fn read(request: Request, bytes_max: usize, bodies: &Budget) -> Result<Bytes, Problem> {
    let announced: Option<usize> =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes| bytes > bytes_max) {
        return Err(too_large(bytes_max));
    }
    // Who would not fit is told before sending; but what is only announced holds no memory, so it is not reserved.
    if announced.is_some_and(|bytes| !bodies.has_room(bytes)) {
        return Err(full());
    }
    let mut share = bodies.share();
    let mut pieces = request.into_body().into_data_stream();
    let mut first = Bytes::new();
    let mut body = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| {
            let detail = "The body ended before its announced length.";
            Problem::new(StatusCode::BAD_REQUEST, "incomplete_body", detail)
        })?;
        let bytes = first.len().max(body.len()) + piece.len();
        if bytes > bytes_max {
            return Err(too_large(bytes_max));
        }
        if first.is_empty() {
            // Most bodies are one piece and are never copied.
            share.grow_to(bytes).map_err(|_| full())?;
            first = piece;
            continue;
        }
        if bytes > body.capacity() {
            let room = bytes.next_power_of_two().max(ROOM_BYTES_MIN).min(announced.unwrap_or(bytes_max));
            share.grow_to(room.max(bytes)).map_err(|_| full())?;
            body.reserve_exact(room.max(bytes) - body.len());
        }
        if body.is_empty() {
            body.extend_from_slice(&first);
        }
        body.extend_from_slice(&piece);
    }
    if body.is_empty() {
        return Ok(Bytes::from_owner(Held { body: first, _share: share }));
    }
    Ok(Bytes::from_owner(Held { body, _share: share }))
}

fn too_large(bytes_max: usize) -> Problem {
    let detail = format!("The body may have at most {bytes_max} bytes.");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

fn full() -> Problem {
    Problem::unavailable("The bodies of other requests fill the memory set aside for them. Nothing was done.")
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

    fn post(framing: Option<usize>, pieces: &[&'static [u8]]) -> Request {
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece))).collect();
        let body = axum::body::Body::from_stream(futures_util::stream::iter(pieces));
        let mut request = Request::new(body);
        if let Some(bytes) = framing {
            request.headers_mut().insert(header::CONTENT_LENGTH, bytes.into());
        }
        request
    }

    #[tokio::test]
    async fn the_bytes_of_a_body_count_until_its_last_copy_is_dropped() {
        let bodies = Budget::new(10, 10);
        let body = read(post(None, &[b"sixsix"]), 10, &bodies).await.unwrap();
        let copy = body.slice(2..4);
        drop(body);
        let refused = read(post(Some(5), &[b"fives"]), 10, &bodies).await.unwrap_err();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(read(post(Some(4), &[b"four"]), 10, &bodies).await.is_ok());
        drop(copy);
        assert_eq!(bodies.left(), 10);
    }

    #[tokio::test]
    async fn pieces_are_put_together_in_order_whatever_was_announced() {
        let bodies = Budget::new(1 << 20, 1 << 20);
        let whole: Vec<u8> = [[b'a'; 40_000], [b'b'; 40_000], [b'c'; 40_000]].concat();
        let pieces: [&[u8]; 5] = [b"", &[b'a'; 40_000], &[b'b'; 40_000], b"", &[b'c'; 40_000]];
        for announced in [None, Some(120_000)] {
            let body = read(post(announced, &pieces), 200_000, &bodies).await.unwrap();
            assert!(body == whole, "{announced:?}");
        }
        for bytes_max in [119_999, 50_000, 39_999] {
            let refused = read(post(None, &pieces), bytes_max, &bodies).await.unwrap_err();
            assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
        }
        assert!(read(post(None, &[]), 10, &bodies).await.unwrap().is_empty());
        assert_eq!(bodies.left(), 1 << 20);
    }
}
