//! Keys as memcached takes them: at most 250 bytes, none of them a space or a control byte.
//! Two different keys, caches or namespaces never become one: names are escaped where they meet, what
//! does not fit is replaced by its SHA-256, and the two forms begin differently.
//! Called by `share` for every key of every call.

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

/// What the protocol allows.
const KEY_BYTES_MAX: usize = 250;

/// What goes before the keys of one cache.
#[derive(Debug, Clone)]
pub(super) struct Prefix {
    /// `p`, and both names behind it, each closed by a colon.
    plain: Bytes,
}

impl Prefix {
    pub(super) fn new(namespace: &str, cache: &str) -> Self {
        Self { plain: format!("p{}:{}:", escaped(namespace), escaped(cache)).into() }
    }

    /// The key under which the server knows `key`. Costs an allocation; a hash where the key does not fit.
    pub(super) fn key(&self, key: &[u8]) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.plain.len() + key.len());
        whole.put_slice(&self.plain);
        whole.put_slice(key);
        if whole.len() <= KEY_BYTES_MAX && whole.iter().all(u8::is_ascii_graphic) {
            return whole.freeze();
        }
        let digest = Sha256::digest(&whole);
        let mut hashed = BytesMut::with_capacity(1 + 2 * digest.len());
        hashed.put_u8(b'h');
        for byte in digest {
            hashed.put_u8(HEX[usize::from(byte >> 4)]);
            hashed.put_u8(HEX[usize::from(byte & 15)]);
        }
        hashed.freeze()
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A name such that no two can run into one another at the colons.
fn escaped(name: &str) -> String {
    name.replace('%', "%25").replace(':', "%3A")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_keys_meet_and_all_are_fit_for_the_protocol() {
        let long = "x".repeat(300);
        let longer = "x".repeat(301);
        let keys =
            ["", "a", "a b", "a\nb", "a\0b", "*", "{a}", "ä", &long, &longer, "h", "p", ":", "%", "%3A"];
        let names =
            [("", ""), ("n", "c"), ("n:", "c"), ("n", ":c"), ("n:c", ""), ("n", "ä c"), ("n%3A", "c")];
        let mut seen = HashSet::new();
        for (namespace, cache) in names {
            let prefix = Prefix::new(namespace, cache);
            for key in keys {
                let made = prefix.key(key.as_bytes());
                assert!(made.len() <= KEY_BYTES_MAX && made.iter().all(u8::is_ascii_graphic), "{made:?}");
                assert!(seen.insert(made), "{namespace} {cache} {key}");
            }
        }
        // A key that looks like the hashed form of another is not that form.
        let hashed = Prefix::new("n", "c").key(b"a b");
        assert!(seen.insert(Prefix::new("n", "c").key(&hashed)));
    }
}
