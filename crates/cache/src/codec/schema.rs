//! Fingerprints of types, so that a release never reads another's values as its own. Refuses to say
//! what differs. Called by `Codec`; users call it to name a schema themselves.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::shape::{self, Form};

/// What tells values of one type from those of another, or of the same type in another release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Schema(u32);

impl Schema {
    /// One that you keep yourself: raise the version whenever old bytes no longer mean the same.
    pub fn named(name: &str, version: u32) -> Self {
        Self::folded(xxh3_64_with_seed(name.as_bytes(), u64::from(version)))
    }

    /// The shape of a type as its `Deserialize` tells it: names and order of fields and variants, kinds
    /// of numbers, nested types. Renaming, adding, removing or retyping a field makes another schema.
    ///
    /// Not seen: what stands behind `#[serde(flatten)]`, untagged and internally tagged enums, and what
    /// of a tuple follows an element that takes none of the samples it is tried with. Costs up to some
    /// hundred runs of `Deserialize` on samples, once per codec.
    pub fn of<V: serde::de::DeserializeOwned>() -> Self {
        Self::folded(shape::fingerprint::<V>(Form::Binary))
    }

    /// The same for encodings that people read, where serde spells some types (times, UUIDs) otherwise.
    pub fn of_readable<V: serde::de::DeserializeOwned>() -> Self {
        Self::folded(shape::fingerprint::<V>(Form::Readable))
    }

    /// Another schema of the same shape.
    #[must_use]
    pub fn with_revision(self, revision: u32) -> Self {
        Self::folded(xxh3_64(&[self.0.to_be_bytes(), revision.to_be_bytes()].concat()))
    }

    pub(super) fn from_be_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_be_bytes(bytes))
    }

    pub(super) fn to_be_bytes(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }

    /// 32 bits are enough: what must differ are the few schemas of one cache.
    fn folded(sum: u64) -> Self {
        let [a, b, c, d, ..] = sum.to_be_bytes();
        Self::from_be_bytes([a, b, c, d])
    }
}
