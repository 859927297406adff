//! Idempotency keys: what a key is stored as, and how two requests under one key are compared field by field.
//! Hashes are keyed with the service's own secret, because a request may hold a card number and a plain hash of
//! one can be searched. Knows no field names: the caller numbers its fields.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::command::{Answer, Refusal};

/// Number of the pseudo-field that holds the route itself.
pub const ROUTE_FIELD: u8 = 255;
/// Number of the pseudo-field that holds the path parameter, such as the payment that is refunded.
pub const PATH_FIELD: u8 = 254;

/// Bytes of hash kept per field: 64 bits, so that an accidental match is out of reach.
const HASH_BYTES: usize = 8;
const FIELD_BYTES: usize = 1 + HASH_BYTES;

/// A key as claimed by one request.
#[derive(Clone, Debug)]
pub struct KeyClaim {
    /// 128 bits of SHA-256 over merchant and key.
    pub digest: Uuid,
    /// What was asked under it.
    pub fingerprint: Fingerprint,
    /// Writes the answer that is kept when the request is refused, so that the same refusal is what every later send
    /// gets; `None` leaves the key free then.
    pub refusals: Option<KeepRefusal>,
}

/// Writes the refusal of one request as it is kept: the engine decides it, whoever owns the wire format words it.
#[derive(Clone)]
pub struct KeepRefusal(Arc<dyn Fn(&Refusal) -> Answer + Send + Sync>);

impl KeepRefusal {
    /// Refusals are written by `write`, inside the commit that keeps them: it must not block.
    pub fn new(write: impl Fn(&Refusal) -> Answer + Send + Sync + 'static) -> Self {
        Self(Arc::new(write))
    }

    pub(super) fn write(&self, refusal: &Refusal) -> Answer {
        (self.0)(refusal)
    }
}

impl fmt::Debug for KeepRefusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeepRefusal")
    }
}

impl KeyClaim {
    /// The claim of `key` by `merchant`, which a refusal leaves free.
    #[must_use]
    pub fn new(merchant: Uuid, key: &str, fingerprint: Fingerprint) -> Self {
        let mut hash = Sha256::new();
        hash.update(merchant.as_bytes());
        hash.update(key.as_bytes());
        let full = hash.finalize();
        let mut digest = [0_u8; 16];
        digest.copy_from_slice(&full[..16]);
        Self { digest: Uuid::from_bytes(digest), fingerprint, refusals: None }
    }

    /// The same claim, under which refusals are kept too.
    #[must_use]
    pub fn keeping(self, refusals: KeepRefusal) -> Self {
        Self { refusals: Some(refusals), ..self }
    }
}

/// One keyed hash per field that the request carried, in order of field number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(Vec<u8>);

impl Fingerprint {
    /// As stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The number of the first field in which this request differs from the stored one.
    #[must_use]
    pub fn first_difference(&self, stored: &[u8]) -> Option<u8> {
        // The route has the highest number, so it stands last; fields of two routes have nothing to do with each other.
        let route =
            |bytes: &[u8]| fields(bytes).last().filter(|row| row[0] == ROUTE_FIELD).map(<[u8]>::to_vec);
        if route(&self.0) != route(stored) {
            return Some(ROUTE_FIELD);
        }
        let (mut mine, mut theirs) = (fields(&self.0), fields(stored));
        loop {
            match (mine.next(), theirs.next()) {
                (None, None) => return None,
                (Some(a), Some(b)) if a == b => {}
                // A field present on one side only: the lower number is the one that the other side lacks.
                (Some(a), Some(b)) => return Some(a[0].min(b[0])),
                (Some(only), None) | (None, Some(only)) => return Some(only[0]),
            }
        }
    }
}

fn fields(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.chunks_exact(FIELD_BYTES)
}

/// Collects field hashes; fields may come in any order.
#[derive(Debug)]
pub struct FingerprintBuilder<'secret> {
    secret: &'secret [u8],
    fields: Vec<[u8; FIELD_BYTES]>,
}

impl<'secret> FingerprintBuilder<'secret> {
    /// Hashes are keyed with `secret`, which must be the same on every node for as long as keys are kept.
    #[must_use]
    pub fn new(secret: &'secret [u8]) -> Self {
        Self { secret, fields: Vec::with_capacity(8) }
    }

    /// Adds the canonical text of one field.
    pub fn field(&mut self, number: u8, canonical: &[u8]) {
        let mut hmac = Hmac::<Sha256>::new_from_slice(self.secret).expect("HMAC takes a key of any length");
        hmac.update(&[number]);
        hmac.update(canonical);
        let full = hmac.finalize().into_bytes();
        let mut row = [0_u8; FIELD_BYTES];
        row[0] = number;
        row[1..].copy_from_slice(&full[..HASH_BYTES]);
        self.fields.push(row);
    }

    /// The fingerprint of what was added.
    #[must_use]
    pub fn finish(mut self) -> Fingerprint {
        self.fields.sort_unstable();
        Fingerprint(self.fields.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(fields: &[(u8, &str)]) -> Fingerprint {
        let mut builder = FingerprintBuilder::new(b"secret");
        for (number, text) in fields {
            builder.field(*number, text.as_bytes());
        }
        builder.finish()
    }

    #[test]
    fn order_of_fields_does_not_matter() {
        let a = fingerprint(&[(1, "x"), (2, "y")]);
        assert_eq!(a.first_difference(fingerprint(&[(2, "y"), (1, "x")]).as_bytes()), None);
    }

    #[test]
    fn the_first_differing_field_is_named() {
        let stored = fingerprint(&[(1, "x"), (3, "100"), (5, "z")]);
        for (now, expected) in [
            (fingerprint(&[(1, "x"), (3, "101"), (5, "z")]), 3),
            (fingerprint(&[(1, "x"), (5, "z")]), 3),
            (fingerprint(&[(1, "x"), (2, "new"), (3, "100"), (5, "z")]), 2),
            (fingerprint(&[(1, "x"), (3, "100")]), 5),
            (fingerprint(&[]), 1),
        ] {
            assert_eq!(now.first_difference(stored.as_bytes()), Some(expected));
        }
    }

    #[test]
    fn keys_of_two_merchants_never_meet() {
        let (a, b) = (Uuid::now_v7(), Uuid::now_v7());
        let none = fingerprint(&[]);
        assert_ne!(KeyClaim::new(a, "k", none.clone()).digest, KeyClaim::new(b, "k", none).digest);
    }
}
