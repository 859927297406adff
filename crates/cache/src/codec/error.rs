//! Why a value was not sealed, and why bytes were not opened. Neither repeats a byte of the value.

use super::{EncodingError, TAG_BYTES_MAX, TAGS_MAX, VALIDATOR_BYTES_MAX};

/// The value stays out of the shared tiers; whoever asked for it gets it all the same.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The encoding refuses the value.
    #[error("value cannot be encoded")]
    Encoding(#[source] EncodingError),
    /// The encoding panicked.
    #[error("encoding panicked")]
    Panicked,
    /// The encoded value is over [`Codec::value_bytes_max`](super::Codec::value_bytes_max).
    #[error("value takes {bytes} bytes, over {max}")]
    TooLarge { bytes: usize, max: usize },
    /// More than [`TAGS_MAX`] tags.
    #[error("over {TAGS_MAX} tags")]
    TooManyTags,
    /// A tag of more than [`TAG_BYTES_MAX`].
    #[error("tag over {TAG_BYTES_MAX} bytes")]
    TagTooLong,
    /// A validator of more than [`VALIDATOR_BYTES_MAX`].
    #[error("validator over {VALIDATOR_BYTES_MAX} bytes")]
    ValidatorTooLong,
}

/// Bytes that are not a value of this cache as this release writes them: to be loaded anew and
/// overwritten. No reason to doubt the tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Poisoned {
    /// No envelope, or one of another format.
    #[error("bytes are no envelope of a known format")]
    Format,
    /// Cut, changed, or written under another key.
    #[error("checksum does not match")]
    Checksum,
    /// The fields contradict themselves although the checksum holds.
    #[error("fields of the envelope are out of bounds")]
    Fields,
    /// Another encoding or another type: as a rule, another release wrote it.
    #[error("value of another type or encoding")]
    Schema,
    /// It is, or claims to be, larger than this cache allows.
    #[error("value over the size limit")]
    TooLarge,
    /// The value could not be decompressed or decoded.
    #[error("value cannot be decoded")]
    Undecodable,
}
