//! Success answers: stored bytes under a key, fresh documents with ETag and 304, and the read-your-writes token.
//! Bytes go out exactly as they are given.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use paystrata_db::Token;

use super::page::Cursor;
use super::problem::Problem;
use crate::engine::Answer;

/// Carries the token of a write, and brings it back with a read.
pub const TOKEN: HeaderName = HeaderName::from_static("paystrata-token");
/// Marks an answer that was given before.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Bytes handed to the transport at a time when an answer is streamed.
const CHUNK_BYTES: usize = 64 * 1024;

/// Whether the answer is given for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Just decided.
    First,
    /// Kept from before.
    Replay,
}

/// A JSON answer.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// A JSON answer that goes out in pieces when it is large, so that no proxy has to hold it whole.
pub fn json_streamed(body: Bytes, threshold_bytes: usize) -> Response {
    if body.len() < threshold_bytes {
        return json(StatusCode::OK, body);
    }
    let pieces = (0..body.len().div_ceil(CHUNK_BYTES)).map(move |index| {
        let start = index * CHUNK_BYTES;
        Ok::<Bytes, std::convert::Infallible>(body.slice(start..body.len().min(start + CHUNK_BYTES)))
    });
    let mut response = Response::new(Body::from_stream(stream::iter(pieces)));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// The answer of a write, with its token. A refusal that is kept is a problem.
#[must_use]
pub fn written(answer: Answer, delivery: Delivery, token: Token) -> Response {
    let status = StatusCode::from_u16(answer.status_code).unwrap_or(StatusCode::OK);
    let mut response = json(status, answer.body);
    if !status.is_success() {
        response.headers_mut().insert(header::CONTENT_TYPE, PROBLEM);
    }
    put_token(&mut response, token);
    if delivery == Delivery::Replay {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// Adds the token of a write.
pub fn put_token(response: &mut Response, token: Token) {
    if let Ok(value) = HeaderValue::from_str(&token.to_string()) {
        response.headers_mut().insert(TOKEN, value);
    }
}

/// The token that a read brings.
///
/// # Errors
/// 400 when it is not one of ours.
pub fn token_of(headers: &HeaderMap) -> Result<Option<Token>, Problem> {
    let Some(value) = headers.get(TOKEN) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| text.parse().ok());
    token.map(Some).ok_or_else(|| {
        let detail = "Paystrata-Token must be a token that a write of this service answered with.";
        Problem::new(StatusCode::BAD_REQUEST, "invalid_token", detail).at("Paystrata-Token")
    })
}

/// A document with its ETag, or 304 when the caller has it; whole where ETags are switched off. Weak, because compression
/// changes bytes but not meaning.
#[must_use]
pub fn document(headers: &HeaderMap, etag: Option<&str>, body: Bytes) -> Response {
    let etag = etag.map(|etag| format!("W/\"{etag}\""));
    let mut known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let is_known = |etag: &String| {
        known.any(|list| list.split(',').map(str::trim).any(|one| one == "*" || opaque(one) == opaque(etag)))
    };
    let mut response = if etag.as_ref().is_some_and(is_known) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        json(StatusCode::OK, body)
    };
    let headers = response.headers_mut();
    if let Some(value) = etag.and_then(|etag| HeaderValue::from_str(&etag).ok()) {
        headers.insert(header::ETAG, value);
    }
    headers.insert(header::CACHE_CONTROL, PRIVATE);
    response
}

/// What the weak comparison of RFC 9110 compares: what is weak and what is strong may be the same.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// Private to the merchant, and to be checked each time: a balance is stale the moment it is sent.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");

/// `{"data":[..],"has_more":..,"next_cursor":..}` around rows that are JSON already.
#[must_use]
pub fn list_body(rows: &[Bytes], next: Option<Cursor>) -> Bytes {
    let mut body = Vec::with_capacity(64 + rows.iter().map(|row| row.len() + 1).sum::<usize>());
    body.extend_from_slice(b"{\"data\":[");
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(row);
    }
    let tail = match next {
        Some(cursor) => format!("],\"has_more\":true,\"next_cursor\":\"{cursor}\"}}"),
        None => "],\"has_more\":false,\"next_cursor\":null}".to_owned(),
    };
    body.extend_from_slice(tail.as_bytes());
    body.into()
}
