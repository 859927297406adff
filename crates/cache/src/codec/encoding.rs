//! The encodings there are: MessagePack, JSON, bytes as they are, and the trait behind which users put
//! their own. Refuses to know about envelopes, compression and schemas. Called by `Codec`.

use std::sync::Arc;

use bytes::Bytes;

/// Ids in the envelope; never used again for something else.
#[cfg(feature = "messagepack")]
pub(super) const MESSAGEPACK: u8 = 1;
#[cfg(feature = "json")]
pub(super) const JSON: u8 = 2;
pub(super) const RAW: u8 = 3;
pub(super) const CUSTOM: u8 = 255;

/// Why an encoding refuses a value. It may reach logs, so it must not repeat secrets.
pub type EncodingError = Box<dyn std::error::Error + Send + Sync>;

/// How values become bytes and back.
pub trait Encoding<V>: Send + Sync {
    /// Appends the bytes of `value`; what stands in `out` already must stay.
    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<(), EncodingError>;

    /// The value, or `None` if the bytes are not exactly one. They have passed a checksum, which keeps
    /// accidents out and nobody with access to the tier: trust no length in them.
    fn decode(&self, bytes: &[u8]) -> Option<V>;
}

/// Types that are bytes as they stand, for [`Codec::raw`](super::Codec::raw).
pub trait RawBytes: Sized {
    /// The bytes.
    fn as_raw(&self) -> &[u8];

    /// A copy, so that a small value does not keep the buffer alive that it was read into.
    fn from_raw(bytes: &[u8]) -> Option<Self>;
}

pub(super) struct Raw;

impl<V: RawBytes> Encoding<V> for Raw {
    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<(), EncodingError> {
        out.extend_from_slice(value.as_raw());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Option<V> {
        V::from_raw(bytes)
    }
}

macro_rules! raw_bytes {
    ($($bytes:ty => $copy:expr),* $(,)?) => {$(
        impl RawBytes for $bytes {
            fn as_raw(&self) -> &[u8] {
                self.as_ref()
            }

            fn from_raw(bytes: &[u8]) -> Option<Self> {
                $copy(bytes)
            }
        }
    )*};
}

raw_bytes! {
    Bytes => |bytes| Some(Self::copy_from_slice(bytes)),
    Vec<u8> => |bytes: &[u8]| Some(bytes.to_vec()),
    Box<[u8]> => |bytes: &[u8]| Some(bytes.into()),
    Arc<[u8]> => |bytes: &[u8]| Some(bytes.into()),
    String => |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(Self::from),
}

impl RawBytes for Arc<str> {
    fn as_raw(&self) -> &[u8] {
        self.as_bytes()
    }

    fn from_raw(bytes: &[u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok().map(Self::from)
    }
}

#[cfg(feature = "messagepack")]
pub(super) struct MessagePack;

/// How deep a value may be nested, as in `serde_json`. rmp-serde's 1,024 can overflow the stack of a
/// worker thread in a debug build.
#[cfg(feature = "messagepack")]
const DEPTH_MAX: usize = 128;

#[cfg(feature = "messagepack")]
impl<V: serde::Serialize + serde::de::DeserializeOwned> Encoding<V> for MessagePack {
    // Fields by name and not by place: a field moved must not become another field's value where the
    // user keeps the schema, and places break `skip_serializing_if`.
    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<(), EncodingError> {
        rmp_serde::encode::write_named(out, value).map_err(Into::into)
    }

    fn decode(&self, bytes: &[u8]) -> Option<V> {
        let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
        reader.set_max_depth(DEPTH_MAX);
        let value = V::deserialize(&mut reader).ok()?;
        is_at_end(&mut reader).then_some(value)
    }
}

/// The reader does not tell what is left; at the end there is not even another marker.
#[cfg(feature = "messagepack")]
fn is_at_end<'de, R: rmp_serde::decode::ReadSlice<'de>>(reader: &mut rmp_serde::Deserializer<R>) -> bool {
    use rmp_serde::decode::Error;
    use serde::Deserialize as _;
    match serde::de::IgnoredAny::deserialize(reader) {
        Err(Error::InvalidMarkerRead(error)) => error.kind() == std::io::ErrorKind::UnexpectedEof,
        Ok(_) | Err(_) => false,
    }
}

#[cfg(feature = "json")]
pub(super) struct Json;

#[cfg(feature = "json")]
impl<V: serde::Serialize + serde::de::DeserializeOwned> Encoding<V> for Json {
    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<(), EncodingError> {
        serde_json::to_writer(out, value).map_err(Into::into)
    }

    fn decode(&self, bytes: &[u8]) -> Option<V> {
        serde_json::from_slice(bytes).ok()
    }
}
