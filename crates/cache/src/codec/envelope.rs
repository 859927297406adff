//! The envelope around an encoded value, format 1. Numbers are big-endian; `~` is a LEB128 number.
//!
//! ```text
//! 0 'P'   1 format   2 codec   3 flags   4..8 schema   8..16 incarnation
//! ~stamp  ~version  ~grace_ms  [~lifetime_ms]  tags: count (1 byte), each ~length and UTF-8
//! [validator: ~length and UTF-8]   [size before compression: ~]   payload ..   last 8: XXH3-64
//! ```
//! The checksum covers the key as well, so that a value under another key's name is noticed. It is
//! no seal against somebody who writes to the tier on purpose: every length is checked regardless.
//! What is left of a value's life is kept by the tier, by the tier's own clock.
//! Refuses to look into the payload. Called by `Codec`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{CodecError, Poisoned, Schema, compression::Packing};
use crate::Version;

/// The most tags of one value: each costs a lookup when the value is read from a tier.
pub const TAGS_MAX: usize = 64;
/// The most bytes of one tag.
pub const TAG_BYTES_MAX: usize = 256;
/// The most bytes of a validator (an `ETag` or a `Last-Modified`).
pub const VALIDATOR_BYTES_MAX: usize = 1024;

const MAGIC: u8 = b'P';
const FORMAT: u8 = 1;
const FLAGS_AT: usize = 3;
const CHECKSUM_BYTES: usize = 8;
/// Room for what is usual, so that a small value is sealed without growing the buffer.
const USUAL_BYTES: usize = 256;

const VALUE: u8 = 1;
const VALIDATOR: u8 = 1 << 1;
const LZ4: u8 = 1 << 2;
const ZSTD: u8 = 1 << 3;
const LIFETIME: u8 = 1 << 4;

/// What is sealed beside a value.
#[derive(Debug, Clone, Copy)]
pub struct SealedFields<'a> {
    /// The key as it is spelled in the tier. Not in the bytes, but in their checksum.
    pub key: &'a [u8],
    /// The incarnation of the backplane's store under which the load began.
    pub incarnation: u64,
    /// The number of the last announcement that this node had applied when the load began.
    pub stamp: u64,
    /// The version that the value reflects.
    pub version: Version,
    /// How long after its end of life the value may stand in for a load that fails. Whole milliseconds.
    pub grace: Duration,
    /// What the tier is given for it, its grace included: with what is left of it, the tier tells how old the value is. Whole
    /// milliseconds.
    pub lifetime: Option<Duration>,
    /// At most [`TAGS_MAX`], each of at most [`TAG_BYTES_MAX`].
    pub tags: &'a [Arc<str>],
    /// What the store calls this state of the value; at most [`VALIDATOR_BYTES_MAX`].
    pub validator: Option<&'a str>,
}

impl Default for SealedFields<'_> {
    fn default() -> Self {
        Self {
            key: &[],
            incarnation: 0,
            stamp: 0,
            version: Version(0),
            grace: Duration::ZERO,
            lifetime: None,
            tags: &[],
            validator: None,
        }
    }
}

/// What was sealed. The fields are those of [`SealedFields`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened<V> {
    /// `None`: the store had none.
    pub value: Option<V>,
    pub incarnation: u64,
    pub stamp: u64,
    pub version: Version,
    pub grace: Duration,
    pub lifetime: Option<Duration>,
    pub tags: Vec<Arc<str>>,
    pub validator: Option<Arc<str>>,
}

impl Opened<()> {
    pub(super) fn with_value<V>(self, value: Option<V>) -> Opened<V> {
        let Self { value: _, incarnation, stamp, version, grace, lifetime, tags, validator } = self;
        Opened { value, incarnation, stamp, version, grace, lifetime, tags, validator }
    }
}

/// An envelope being written.
pub(super) struct Envelope {
    out: Vec<u8>,
}

impl Envelope {
    pub(super) fn begin(codec: u8, schema: Schema, fields: &SealedFields<'_>) -> Result<Self, CodecError> {
        let tag_count = u8::try_from(fields.tags.len()).map_err(|_| CodecError::TooManyTags)?;
        if usize::from(tag_count) > TAGS_MAX {
            return Err(CodecError::TooManyTags);
        }
        if fields.tags.iter().any(|tag| tag.len() > TAG_BYTES_MAX) {
            return Err(CodecError::TagTooLong);
        }
        if fields.validator.is_some_and(|validator| validator.len() > VALIDATOR_BYTES_MAX) {
            return Err(CodecError::ValidatorTooLong);
        }
        let mut out = Vec::with_capacity(USUAL_BYTES);
        let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
        let flags = flag(VALIDATOR, fields.validator.is_some()) | flag(LIFETIME, fields.lifetime.is_some());
        out.extend([MAGIC, FORMAT, codec, flags]);
        out.extend(schema.to_be_bytes());
        out.extend(fields.incarnation.to_be_bytes());
        let numbers = [fields.stamp, fields.version.0, milliseconds(fields.grace)];
        for number in numbers.into_iter().chain(fields.lifetime.map(milliseconds)) {
            write_number(&mut out, number);
        }
        out.push(tag_count);
        for text in fields.tags.iter().map(|tag| &**tag).chain(fields.validator) {
            write_number(&mut out, size(text.len()));
            out.extend_from_slice(text.as_bytes());
        }
        Ok(Self { out })
    }

    /// Says that there is a value, and where its bytes begin.
    pub(super) fn begin_payload(&mut self) -> usize {
        self.out[FLAGS_AT] |= VALUE;
        self.out.len()
    }

    /// To be appended to.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// What was appended; an encoding that took something away instead gets an error.
    pub(super) fn payload_from(&self, start: usize) -> Result<&[u8], CodecError> {
        self.out
            .get(start..)
            .ok_or_else(|| CodecError::Encoding("encoding truncates what it is given".into()))
    }

    pub(super) fn pack_payload(&mut self, start: usize, packing: Packing, packed: &[u8]) {
        let plain_bytes = size(self.out.len() - start);
        self.out.truncate(start);
        self.out[FLAGS_AT] |= match packing {
            Packing::Lz4 => LZ4,
            Packing::Zstd => ZSTD,
        };
        write_number(&mut self.out, plain_bytes);
        self.out.extend_from_slice(packed);
    }

    pub(super) fn finish(mut self, key: &[u8]) -> Bytes {
        let sum = checksum(key, &self.out);
        self.out.extend(sum);
        // Exactly as long as it is: what is queued for a tier should weigh what it says.
        self.out.shrink_to_fit();
        self.out.into()
    }
}

/// What the envelope says about its payload.
pub(super) struct Head<'a> {
    pub(super) codec: u8,
    pub(super) schema: Schema,
    pub(super) payload: Payload<'a>,
}

pub(super) enum Payload<'a> {
    Nothing,
    Plain(&'a [u8]),
    Packed { packing: Packing, plain_bytes: u64, bytes: &'a [u8] },
}

/// Everything but the value.
pub(super) fn open<'a>(key: &[u8], sealed: &'a [u8]) -> Result<(Head<'a>, Opened<()>), Poisoned> {
    let [MAGIC, FORMAT, ..] = sealed else { return Err(Poisoned::Format) };
    let (covered, sum) = sealed.split_last_chunk::<CHECKSUM_BYTES>().ok_or(Poisoned::Checksum)?;
    if *sum != checksum(key, covered) {
        return Err(Poisoned::Checksum);
    }
    Reader(covered).envelope().ok_or(Poisoned::Fields)
}

pub(super) fn checksum(key: &[u8], covered: &[u8]) -> [u8; CHECKSUM_BYTES] {
    xxh3_64_with_seed(covered, xxh3_64(key)).to_be_bytes()
}

fn size(length: usize) -> u64 {
    u64::try_from(length).expect("lengths of slices fit into 64 bits")
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        let [low, ..] = number.to_le_bytes();
        out.push(low | 0x80);
        number >>= 7;
    }
    let [low, ..] = number.to_le_bytes();
    out.push(low);
}

/// What is left to be read. Every `None` means that the fields are out of bounds.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn envelope(mut self) -> Option<(Head<'a>, Opened<()>)> {
        let [_magic, _format, codec, flags] = self.array()?;
        let schema = Schema::from_be_bytes(self.array()?);
        let incarnation = u64::from_be_bytes(self.array()?);
        let stamp = self.number()?;
        let version = Version(self.number()?);
        let grace = Duration::from_millis(self.number()?);
        let lifetime = match flags & LIFETIME {
            0 => None,
            _ => Some(Duration::from_millis(self.number()?)),
        };
        let [tag_count] = self.array()?;
        let tag_count = Some(usize::from(tag_count)).filter(|count| *count <= TAGS_MAX)?;
        let tags = (0..tag_count).map(|_| self.text(TAG_BYTES_MAX)).collect::<Option<_>>()?;
        let validator = match flags & VALIDATOR {
            0 => None,
            _ => Some(self.text(VALIDATOR_BYTES_MAX)?),
        };
        let payload = self.payload(flags & !(VALIDATOR | LIFETIME))?;
        let opened = Opened { value: None, incarnation, stamp, version, grace, lifetime, tags, validator };
        Some((Head { codec, schema, payload }, opened))
    }

    fn payload(mut self, flags: u8) -> Option<Payload<'a>> {
        const LZ4_VALUE: u8 = VALUE | LZ4;
        const ZSTD_VALUE: u8 = VALUE | ZSTD;
        let packing = match flags {
            0 => return self.0.is_empty().then_some(Payload::Nothing),
            VALUE => return Some(Payload::Plain(self.0)),
            LZ4_VALUE => Packing::Lz4,
            ZSTD_VALUE => Packing::Zstd,
            _ => return None,
        };
        Some(Payload::Packed { packing, plain_bytes: self.number()?, bytes: self.0 })
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Option<[u8; LENGTH]> {
        self.take(LENGTH)?.try_into().ok()
    }

    /// At most ten bytes, and none beyond 64 bits.
    fn number(&mut self) -> Option<u64> {
        if let [byte @ 0..=0x7f, rest @ ..] = self.0 {
            self.0 = rest;
            return Some(u64::from(*byte));
        }
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = self.array()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                return None;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn text(&mut self, bytes_max: usize) -> Option<Arc<str>> {
        let length = usize::try_from(self.number()?).ok().filter(|length| *length <= bytes_max)?;
        std::str::from_utf8(self.take(length)?).ok().map(Arc::from)
    }
}
