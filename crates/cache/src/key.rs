//! What a type must do to be a key: be hashed in process, and be spelled as bytes for other nodes.
//! Refuses nothing itself; a key that cannot be read back from a message is taken for every key: the cache drops all it has.
//! Implemented by callers for their own id types.

use std::{hash::Hash, panic::catch_unwind};

use bytes::Bytes;

use crate::wire::{Reader, put_bytes};

/// A cache key.
///
/// `encode` must be injective (two different keys never give the same bytes) and stable between
/// releases, because the bytes name the entry in the remote tier and in messages between nodes.
pub trait CacheKey: Clone + Eq + Hash + Send + Sync + 'static {
    /// The key as bytes. At most a few hundred bytes is wise: they travel in every invalidation.
    fn encode(&self) -> Bytes;

    /// Appends what [`encode`](Self::encode) gives. Worth to be written too where that spares an allocation: a read of many keys
    /// spells them into one buffer.
    fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.encode());
    }

    /// The key that [`encode`](Self::encode) spelled so, or `None` if no key is spelled so.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// The key that is spelled so. Bytes of another release, or of a stranger, must not end the task that reads them: a `decode` that
/// panics knows no such key.
pub(crate) fn decoded<K: CacheKey>(bytes: &[u8]) -> Option<K> {
    catch_unwind(|| K::decode(bytes)).ok().flatten()
}

impl CacheKey for String {
    fn encode(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Self::from_utf8(bytes.to_vec()).ok()
    }
}

impl CacheKey for Bytes {
    fn encode(&self) -> Bytes {
        self.clone()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self::copy_from_slice(bytes))
    }
}

impl<const LENGTH: usize> CacheKey for [u8; LENGTH] {
    fn encode(&self) -> Bytes {
        Bytes::copy_from_slice(self)
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok()
    }
}

impl CacheKey for std::sync::Arc<str> {
    fn encode(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok().map(Self::from)
    }
}

impl CacheKey for Vec<u8> {
    fn encode(&self) -> Bytes {
        Bytes::copy_from_slice(self)
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(bytes.to_vec())
    }
}

impl CacheKey for bool {
    fn encode(&self) -> Bytes {
        Bytes::from_static(if *self { &[1] } else { &[0] })
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

impl CacheKey for char {
    fn encode(&self) -> Bytes {
        u32::from(*self).encode()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        u32::decode(bytes).and_then(Self::from_u32)
    }
}

/// For functions without arguments: there is one key.
impl CacheKey for () {
    fn encode(&self) -> Bytes {
        Bytes::new()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.is_empty().then_some(())
    }
}

/// Nothing is no bytes, and something is a byte and its own.
impl<A: CacheKey> CacheKey for Option<A> {
    fn encode(&self) -> Bytes {
        match self {
            None => Bytes::new(),
            Some(key) => [&[1], &*key.encode()].concat().into(),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [] => Some(None),
            [1, key @ ..] => A::decode(key).map(Some),
            _ => None,
        }
    }
}

macro_rules! integer_keys {
    ($($integer:ty),*) => {$(
        impl CacheKey for $integer {
            fn encode(&self) -> Bytes {
                Bytes::copy_from_slice(&self.to_be_bytes())
            }

            fn encode_into(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn decode(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self::from_be_bytes)
            }
        }
    )*};
}

integer_keys!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);

/// Spelled alike on every machine.
impl CacheKey for usize {
    fn encode(&self) -> Bytes {
        u64::try_from(*self).unwrap_or(u64::MAX).encode()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        u64::decode(bytes).and_then(|number| Self::try_from(number).ok())
    }
}

/// Makes a struct a key, of fields that are keys: spelled as the tuple of them, so that a prefix of whole fields is the prefix
/// of the whole. At most six fields. The struct must be `Clone`, `Eq` and `Hash`.
///
/// ```
/// use paystrata_cache::{Cache, cache_key};
///
/// #[derive(Clone, Debug, PartialEq, Eq, Hash)]
/// struct Rate {
///     from: String,
///     to: String,
/// }
/// cache_key!(Rate { from, to });
///
/// let rates: Cache<Rate, u64> = Cache::builder("rates").build();
/// # drop(rates);
/// ```
#[macro_export]
macro_rules! cache_key {
    ($name:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::CacheKey for $name {
            fn encode(&self) -> $crate::Bytes {
                let Self { $($field),+ } = self.clone();
                $crate::CacheKey::encode(&($($field,)+))
            }

            fn decode(bytes: &[u8]) -> ::core::option::Option<Self> {
                let ($($field,)+) = $crate::CacheKey::decode(bytes)?;
                ::core::option::Option::Some(Self { $($field),+ })
            }
        }
    };
}

impl<A: CacheKey> CacheKey for (A,) {
    fn encode(&self) -> Bytes {
        self.0.encode()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        A::decode(bytes).map(|part| (part,))
    }
}

/// Every part but the last with its length, so that no two tuples are spelled alike, and a prefix of whole parts is the
/// prefix of the whole.
macro_rules! tuple_keys {
    ($($first:ident)*; $last:ident) => {
        impl<$($first: CacheKey,)* $last: CacheKey> CacheKey for ($($first,)* $last,) {
            fn encode(&self) -> Bytes {
                #[expect(non_snake_case, reason = "each part is named as its type")]
                let ($($first,)* $last,) = self;
                let mut out = Vec::new();
                $(put_bytes(&mut out, &$first.encode());)*
                out.extend($last.encode());
                out.into()
            }

            fn decode(bytes: &[u8]) -> Option<Self> {
                let mut reader = Reader(bytes);
                Some(($($first::decode(reader.bytes().ok()?)?,)* $last::decode(reader.0)?,))
            }
        }
    };
}

tuple_keys!(A; B);
tuple_keys!(A B; C);
tuple_keys!(A B C; D);
tuple_keys!(A B C D; E);
tuple_keys!(A B C D E; F);

#[cfg(test)]
mod tests {
    use super::CacheKey;

    fn check<K: CacheKey + std::fmt::Debug>(key: K) {
        let mut spelled = b"before".to_vec();
        key.encode_into(&mut spelled);
        assert_eq!(spelled.strip_prefix(b"before"), Some(&key.encode()[..]));
        assert_eq!(K::decode(&key.encode()), Some(key));
    }

    #[test]
    fn every_key_is_read_back_from_its_bytes() {
        check(String::from("a b\n*{x}\u{e9}"));
        check(String::new());
        check(u64::MAX);
        check(-1_i64);
        check([7_u8; 16]);
        check((String::from("a"), 7_u64));
        check((7_u32, String::new(), String::from("b")));
        check((true, 'x', 7_u8, Some(7_i16), None::<String>, std::sync::Arc::<str>::from("b")));
        check(((), Some(String::new()), vec![0_u8, 255], Some(None::<u64>)));
        check(bytes::Bytes::from_static(&[0, 255]));
        check((usize::MAX, (String::from("a"),)));
    }

    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct Rate {
        from: String,
        on: Option<u32>,
    }

    crate::cache_key!(Rate { from, on });

    #[test]
    fn a_struct_is_spelled_as_the_tuple_of_its_fields() {
        let rate = Rate { from: "EUR".into(), on: Some(7) };
        assert_eq!(rate.encode(), (String::from("EUR"), Some(7_u32)).encode());
        check(rate);
        assert_eq!(Rate::decode(&[9]), None);
    }

    #[test]
    fn bytes_of_another_shape_are_no_key() {
        assert_eq!(u64::decode(&[1, 2]), None);
        assert_eq!(<[u8; 16]>::decode(&[0; 15]), None);
        assert_eq!(String::decode(&[0xff]), None);
        assert_eq!(
            (bool::decode(&[2]), char::decode(&[0, 0, 0xd8, 0]), <()>::decode(&[0])),
            (None, None, None)
        );
        assert_eq!(Option::<u8>::decode(&[0, 1]), None);
    }
}
