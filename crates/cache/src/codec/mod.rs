//! How a value becomes the bytes that shared tiers keep, and a value again. Bytes that cannot be
//! read are [`Poisoned`]: a counted miss that is overwritten, never an error of the caller, never a
//! panic, and never more memory than [`Codec::value_bytes_max`] allows.
//! Refuses to judge whether a value may be served: it hands on marks, tags and versions as they were
//! sealed. Called by `consult` (reads) and `write_back` (writes); users choose a [`Codec`].
//!
//! ```
//! use paystrata_cache::codec::{Codec, SealedFields};
//!
//! let codec = Codec::<String>::messagepack();
//! let sealed = codec.seal(&SealedFields { key: b"user:7", ..SealedFields::default() }, Some(&"Ada".to_owned()))?;
//! assert_eq!(codec.open(b"user:7", &sealed).unwrap().value.as_deref(), Some("Ada"));
//! assert!(codec.open(b"user:8", &sealed).is_err(), "bytes under another key's name are poison");
//! # Ok::<_, paystrata_cache::codec::CodecError>(())
//! ```

mod compression;
mod encoding;
mod envelope;
mod error;
mod schema;
mod shape;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;

pub use compression::Compression;
pub use encoding::{Encoding, EncodingError, RawBytes};
pub use envelope::{Opened, SealedFields, TAG_BYTES_MAX, TAGS_MAX, VALIDATOR_BYTES_MAX};
pub use error::{CodecError, Poisoned};
pub use schema::Schema;

use compression::Packing;
use envelope::{Envelope, Payload};

/// What [`Codec::value_bytes_max`] is when nothing is said: 16 MiB. A value of that size takes a tier
/// some 100 ms over a 1 Gbit/s line, during which everything else on the connection waits.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

/// How values of one type become bytes and back: an encoding, the fingerprint of the type, bounds, and
/// what is compressed. Cheap to clone.
///
/// A cache without shared tiers needs none, so its values need not be serializable.
pub struct Codec<V> {
    /// Names the encoding in the envelope.
    id: u8,
    schema: Schema,
    encoding: Arc<dyn Encoding<V>>,
    /// What other releases wrote and this one can still read.
    older: Arc<[Older<V>]>,
    compression: Compression,
    compress_above_bytes: usize,
    value_bytes_max: usize,
}

type Decode<V> = dyn Fn(&[u8]) -> Option<V> + Send + Sync;

struct Older<V> {
    id: u8,
    schema: Schema,
    decode: Arc<Decode<V>>,
}

impl<V> Codec<V> {
    fn new(id: u8, schema: Schema, encoding: Arc<dyn Encoding<V>>) -> Self {
        Self {
            id,
            schema,
            encoding,
            older: Arc::new([]),
            compression: Compression::None,
            compress_above_bytes: 0,
            value_bytes_max: VALUE_BYTES_MAX,
        }
    }

    /// An encoding of your own. What it writes is told from what others write by the schema alone, so
    /// name it well and raise its version whenever old bytes no longer mean the same.
    pub fn custom(schema: Schema, encoding: impl Encoding<V> + 'static) -> Self {
        Self::new(encoding::CUSTOM, schema, Arc::new(encoding))
    }

    /// Bytes as they are. No type is checked beyond what [`RawBytes::from_raw`] checks.
    pub fn raw() -> Self
    where
        V: RawBytes + 'static,
    {
        Self::new(encoding::RAW, Schema::named("raw", 1), Arc::new(encoding::Raw))
    }

    /// Another fingerprint than that of the type's shape. With it, values written before the shape
    /// changed are read as they are: see that serde can (`#[serde(default)]` for a new field).
    #[must_use]
    pub fn schema(self, schema: Schema) -> Self {
        Self { schema, ..self }
    }

    /// Tells values apart whose shape is the same and whose meaning is not (cents before, mills now).
    /// Mixed into the schema there is: call it after [`schema`](Self::schema).
    #[must_use]
    pub fn revision(self, revision: u32) -> Self {
        Self { schema: self.schema.with_revision(revision), ..self }
    }

    /// Reads what `older` wrote as well, so that a new release does not begin with a cold tier.
    /// `convert` gives `None` for what has no counterpart. Old releases do not read what this one
    /// writes: while both run they overwrite each other's values, at the cost of loads.
    #[must_use]
    pub fn reads_also<O: 'static>(
        mut self,
        older: Codec<O>,
        convert: impl Fn(O) -> Option<V> + Send + Sync + 'static,
    ) -> Self
    where
        V: 'static,
    {
        let (id, schema) = (older.id, older.schema);
        let decode: Arc<Decode<V>> = Arc::new(move |bytes| convert(older.encoding.decode(bytes)?));
        let more = std::iter::once(Older { id, schema, decode });
        self.older = self.older.iter().map(Older::share).chain(more).collect();
        self
    }

    /// Compresses encoded values of more than `above_bytes`, and keeps that only if it is smaller.
    /// Nothing is compressed by default; 1,024 is a good bound for text. What another release
    /// compressed is read whatever is set here.
    #[must_use]
    pub fn compress(self, compression: Compression, above_bytes: usize) -> Self {
        Self { compression, compress_above_bytes: above_bytes, ..self }
    }

    /// The most bytes that an encoded value may have, before compression ([`VALUE_BYTES_MAX`]). More is
    /// not sealed, and not opened either, whatever the bytes claim.
    #[must_use]
    pub fn value_bytes_max(self, bytes: usize) -> Self {
        Self { value_bytes_max: bytes, ..self }
    }

    /// The bytes for a shared tier; without a value they say that the store has none.
    ///
    /// Costs the encoding, two allocations and a checksum. A panic of the encoding is an error.
    pub fn seal(&self, fields: &SealedFields<'_>, value: Option<&V>) -> Result<Bytes, CodecError> {
        let mut envelope = Envelope::begin(self.id, self.schema, fields)?;
        let Some(value) = value else {
            return Ok(envelope.finish(fields.key));
        };
        let start = envelope.begin_payload();
        let encoded = catch_unwind(AssertUnwindSafe(|| self.encoding.encode(value, envelope.out())));
        encoded.map_err(|_| CodecError::Panicked)?.map_err(CodecError::Encoding)?;
        let payload = envelope.payload_from(start)?;
        if payload.len() > self.value_bytes_max {
            return Err(CodecError::TooLarge { bytes: payload.len(), max: self.value_bytes_max });
        }
        if payload.len() > self.compress_above_bytes
            && let Some((packing, packed)) = self.compression.pack(payload)
        {
            envelope.pack_payload(start, packing, &packed);
        }
        Ok(envelope.finish(fields.key))
    }

    /// What was sealed under `key`. Costs the decoding, a checksum, and an allocation for each tag.
    pub fn open(&self, key: &[u8], bytes: &[u8]) -> Result<Opened<V>, Poisoned> {
        let (head, opened) = envelope::open(key, bytes)?;
        let decode = self.decoding_of(head.codec, head.schema).ok_or(Poisoned::Schema)?;
        let value = match head.payload {
            Payload::Nothing => None,
            Payload::Plain(bytes) => Some(self.decode(&decode, bytes)?),
            Payload::Packed { packing, plain_bytes, bytes } => {
                let plain = self.unpack(packing, plain_bytes, bytes)?;
                Some(self.decode(&decode, &plain)?)
            }
        };
        Ok(opened.with_value(value))
    }

    fn decoding_of(&self, id: u8, schema: Schema) -> Option<Decoding<'_, V>> {
        if (id, schema) == (self.id, self.schema) {
            return Some(Decoding::Current(&*self.encoding));
        }
        let older = self.older.iter().find(|older| (older.id, older.schema) == (id, schema))?;
        Some(Decoding::Older(&*older.decode))
    }

    fn decode(&self, decode: &Decoding<'_, V>, payload: &[u8]) -> Result<V, Poisoned> {
        if payload.len() > self.value_bytes_max {
            return Err(Poisoned::TooLarge);
        }
        // A `Deserialize` that panics would otherwise panic at each read of this key.
        let decoded = catch_unwind(AssertUnwindSafe(|| match decode {
            Decoding::Current(encoding) => encoding.decode(payload),
            Decoding::Older(decode) => decode(payload),
        }));
        decoded.ok().flatten().ok_or(Poisoned::Undecodable)
    }

    fn unpack(&self, packing: Packing, plain_bytes: u64, packed: &[u8]) -> Result<Vec<u8>, Poisoned> {
        let plain_bytes = usize::try_from(plain_bytes).map_err(|_| Poisoned::TooLarge)?;
        if plain_bytes > self.value_bytes_max {
            return Err(Poisoned::TooLarge);
        }
        packing.unpack(packed, plain_bytes).ok_or(Poisoned::Undecodable)
    }
}

/// Which of the ways to read applies.
enum Decoding<'a, V> {
    Current(&'a dyn Encoding<V>),
    Older(&'a Decode<V>),
}

#[cfg(feature = "messagepack")]
impl<V: serde::Serialize + serde::de::DeserializeOwned + 'static> Codec<V> {
    /// MessagePack, fields by name. The fingerprint is that of the shape serde sees: see [`Schema::of`].
    pub fn messagepack() -> Self {
        Self::new(encoding::MESSAGEPACK, Schema::of::<V>(), Arc::new(encoding::MessagePack))
    }
}

#[cfg(feature = "json")]
impl<V: serde::Serialize + serde::de::DeserializeOwned + 'static> Codec<V> {
    /// JSON: larger and slower than MessagePack, but readable with the tier's own tools.
    pub fn json() -> Self {
        Self::new(encoding::JSON, Schema::of_readable::<V>(), Arc::new(encoding::Json))
    }
}

impl<V> Older<V> {
    fn share(&self) -> Self {
        Self { id: self.id, schema: self.schema, decode: Arc::clone(&self.decode) }
    }
}

impl<V> Clone for Codec<V> {
    fn clone(&self) -> Self {
        Self { encoding: Arc::clone(&self.encoding), older: Arc::clone(&self.older), ..*self }
    }
}

impl<V> fmt::Debug for Codec<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Codec")
            .field("id", &self.id)
            .field("schema", &self.schema)
            .field("older", &self.older.len())
            .field("compression", &self.compression)
            .field("compress_above_bytes", &self.compress_above_bytes)
            .field("value_bytes_max", &self.value_bytes_max)
            .finish()
    }
}
