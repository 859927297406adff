//! The `Idempotency-Key` header, and the fingerprint of what is asked under it. Accepts the raw and the quoted form
//! (a Structured Field string). Knows which fields a route has; the engine only knows their numbers.

use http::{HeaderMap, StatusCode};
use uuid::Uuid;

use super::fields::{Fields, canonical};
use super::problem::Problem;
use crate::engine::{FingerprintBuilder, KeyClaim, PATH_FIELD, ROUTE_FIELD};

const HEADER: &str = "idempotency-key";
const KEY_BYTES_MAX: usize = 255;

/// A route as keys know it: a number that never changes, and its top-level fields in a fixed order. New fields go to
/// the end: stored fingerprints refer to positions.
#[derive(Clone, Copy, Debug)]
pub struct KeyedRoute {
    /// Unique among routes.
    pub name: &'static str,
    /// At most 250.
    pub fields: &'static [&'static str],
}

impl KeyedRoute {
    /// The name of a field by its number.
    #[must_use]
    pub fn field_name(&self, number: u8) -> &'static str {
        match number {
            ROUTE_FIELD => "path",
            PATH_FIELD => "id",
            _ => self.fields.get(usize::from(number)).copied().unwrap_or("body"),
        }
    }
}

/// Reads the key.
///
/// # Errors
/// 400 when it is empty, too long, not printable ASCII, or given twice.
pub fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let invalid = || {
        let detail =
            format!("Idempotency-Key must be 1 to {KEY_BYTES_MAX} printable ASCII characters, given once.");
        Problem::new(StatusCode::BAD_REQUEST, "invalid_idempotency_key", detail).at("Idempotency-Key")
    };
    let text = value.to_str().map_err(|_| invalid())?.trim();
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let text = quoted.unwrap_or(text);
    let printable = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if values.next().is_some() || text.is_empty() || text.len() > KEY_BYTES_MAX || !printable {
        return Err(invalid());
    }
    Ok(Some(text.to_owned()))
}

/// Reads the key where money moves.
///
/// # Errors
/// Also 400 when it is missing.
pub fn required_key_of(headers: &HeaderMap) -> Result<String, Problem> {
    key_of(headers)?.ok_or_else(missing)
}

/// A request that moves money came without a key.
#[must_use]
pub fn missing() -> Problem {
    let detail = "This request moves money and needs an Idempotency-Key header.";
    Problem::new(StatusCode::BAD_REQUEST, "idempotency_key_required", detail).at("Idempotency-Key")
}

/// What is asked, before the body's fields are taken out.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'request> {
    /// Who asks.
    pub merchant_id: Uuid,
    /// Where.
    pub route: KeyedRoute,
    /// The path parameter, when the route has one.
    pub path: Option<Uuid>,
    /// The body, whole.
    pub fields: &'request Fields,
    /// Keys the hashes.
    pub secret: &'request [u8],
}

impl Asked<'_> {
    /// The claim of `key` for this request. Field order and white space of the body make no difference.
    #[must_use]
    pub fn claim(&self, key: &str) -> KeyClaim {
        let mut builder = FingerprintBuilder::new(self.secret);
        builder.field(ROUTE_FIELD, self.route.name.as_bytes());
        if let Some(path) = self.path {
            builder.field(PATH_FIELD, path.as_bytes());
        }
        for (name, value) in self.fields.entries() {
            if value.is_null() {
                continue;
            }
            let number =
                self.route.fields.iter().position(|field| field == name).and_then(|n| u8::try_from(n).ok());
            // An unknown field is refused before anything is stored under the key; its number does not matter.
            builder.field(number.unwrap_or(PATH_FIELD - 1), canonical(value).as_bytes());
        }
        KeyClaim::new(self.merchant_id, key, builder.finish())
    }
}

/// The key was used with another request.
#[must_use]
pub fn reused(route: KeyedRoute, number: u8) -> Problem {
    let field = route.field_name(number);
    let detail = format!("This Idempotency-Key was used with another request: \"{field}\" differs.");
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reuse", detail).at(format!("/{field}"))
}

/// The first request under the key has not ended yet.
#[must_use]
pub fn in_progress() -> Problem {
    let detail = "The first request with this Idempotency-Key is still under way.";
    Problem::new(StatusCode::CONFLICT, "idempotency_key_in_progress", detail).retryable()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn key(value: &[u8]) -> Result<Option<String>, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(value).unwrap());
        key_of(&headers).map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn raw_and_quoted_keys_are_one_key() {
        assert_eq!(key(b"abc"), Ok(Some("abc".into())));
        assert_eq!(key(b"\"abc\""), Ok(Some("abc".into())));
        assert_eq!(key(&[b'x'; 255]), Ok(Some("x".repeat(255))));
    }

    #[test]
    fn bad_keys_are_refused() {
        for bad in [b"".as_slice(), b"\"\"", &[b'x'; 256], "kéy".as_bytes()] {
            assert_eq!(key(bad), Err(400), "{bad:?}");
        }
    }
}
